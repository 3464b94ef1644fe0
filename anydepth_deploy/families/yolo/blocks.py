"""Blocks of AnyDepth-YOLO: convolutions with two norm sets, C3k, C3k2 and A2C2f.

In every block ``skip`` selects the second norm set, and leaves out the repeats that are the
block's refinement. A refinement has one norm set: it never runs in the skipped mode. A block that
is not ``switchable`` is as YOLOv12 has it without any-depth: one norm set everywhere, and no
refinement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.norms import SwitchableConv
from anydepth_deploy.families.shared.repeats import Repeats
from anydepth_deploy.families.yolo.attention import AreaAttention

__all__ = ["A2C2f", "C3k", "C3k2", "Conv", "residual_ends"]

HEAD_CHANNELS = 32
"""Channels of one attention head."""

GAMMA = 0.01
"""What the scale of a residual block starts with."""


class Conv(SwitchableConv):
    """Convolution, batch norm, SiLU; keys ``conv``, ``bn`` and, where ``switchable``, ``bn_skip``.

    Behind a concatenation that is shorter in the skipped mode, ``skipped_channels`` says of how
    many channels: the convolution is then done with that many leading input channels of its
    weight, or with ``own_skip_weight`` by a weight of its own (key ``conv_skip``).
    """

    norm_names = ("bn", "bn_skip")
    eps = 1e-3
    momentum = 0.03

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: Callable[[Tensor], Tensor] | None = F.silu,
        switchable: bool = False,
        skipped_channels: int | None = None,
        own_skip_weight: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            groups=groups,
            activation=activation,
            switchable=switchable,
        )
        self.skipped_channels = skipped_channels
        self.conv_skip: nn.Conv2d | None = None
        if own_skip_weight and skipped_channels is not None:
            self.conv_skip = nn.Conv2d(
                skipped_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
            )

    def convolve(self, x: Tensor, skip: bool) -> Tensor:
        if not skip or self.skipped_channels is None:
            return super().convolve(x, skip)
        if self.conv_skip is not None:
            output: Tensor = self.conv_skip(x)
            return output
        weight = self.conv.weight[:, : self.skipped_channels]
        return F.conv2d(x, weight, stride=self.conv.stride, padding=self.conv.padding)


class Bottleneck(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int, hidden: int, *, switchable: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, hidden, 3, switchable=switchable)
        self.cv2 = Conv(hidden, channels, 3, switchable=switchable)

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        output: Tensor = x + self.cv2(self.cv1(x, skip), skip)
        return output


class C3k(nn.Module):
    """Cross-stage partial block: two bottlenecks on one half, joined with the other half.

    With ``inner_skip`` the second bottleneck is a refinement.
    """

    def __init__(self, channels: int, *, switchable: bool, inner_skip: bool) -> None:
        super().__init__()
        hidden = channels // 2
        self.cv1 = Conv(channels, hidden, switchable=switchable)
        self.cv2 = Conv(channels, hidden, switchable=switchable)
        self.cv3 = Conv(2 * hidden, channels, switchable=switchable)
        essential = 1 if inner_skip else 2
        self.m = Repeats(
            (
                Bottleneck(hidden, hidden, switchable=switchable and index < essential)
                for index in range(2)
            ),
            essential,
        )

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        main = self.cv1(x, skip)
        for block in self.m.running(skip):
            main = block(main, skip)
        output: Tensor = self.cv3(torch.cat([main, self.cv2(x, skip)], 1), skip)
        return output


class _Aggregation(nn.Module):
    """A convolution ``cv1``, a chain of repeats ``m`` on it, and ``cv2`` on everything together.

    ``cv1`` gives ``first`` parts of ``hidden`` channels, ``repeat(switchable)`` makes one of the
    ``count`` repeats; in the skipped mode ``cv2`` sees only the ``essential`` ones, which are all
    unless the block is ``switchable``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        repeat: Callable[[bool], nn.Module],
        count: int,
        essential: int,
        *,
        first: int,
        hidden: int,
        own_skip_weight: bool,
        switchable: bool,
    ) -> None:
        super().__init__()
        essential = essential if switchable else count
        self.cv1 = Conv(in_channels, first * hidden, switchable=switchable)
        self.cv2 = Conv(
            (first + count) * hidden,
            channels,
            switchable=switchable,
            skipped_channels=(first + essential) * hidden if essential < count else None,
            own_skip_weight=own_skip_weight,
        )
        self.m = Repeats(
            (repeat(switchable and index < essential) for index in range(count)), essential
        )

    def aggregate(self, parts: Sequence[Tensor], skip: bool) -> Tensor:
        """Run the repeats on the last of ``parts`` and join everything."""
        parts = list(parts)
        for block in self.m.running(skip):
            parts.append(block(parts[-1], skip))
        output: Tensor = self.cv2(torch.cat(parts, 1), skip)
        return output


class C3k2(_Aggregation):
    """A convolution split in two, repeats on the second half.

    ``essential`` repeats always run.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        repeats: int,
        essential: int,
        *,
        expansion: float,
        c3k: bool,
        inner_skip: bool = False,
        own_skip_weight: bool = False,
        switchable: bool = True,
    ) -> None:
        hidden = int(channels * expansion)

        def repeat(switches: bool) -> nn.Module:
            if c3k:
                return C3k(hidden, switchable=switches, inner_skip=inner_skip)
            return Bottleneck(hidden, hidden // 2, switchable=switches)

        super().__init__(
            in_channels,
            channels,
            repeat,
            repeats,
            essential,
            first=2,
            hidden=hidden,
            own_skip_weight=own_skip_weight,
            switchable=switchable,
        )

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        return self.aggregate(self.cv1(x, skip).chunk(2, 1), skip)


class ABlock(nn.Module):
    """Area attention and a two-layer perceptron of 1x1 convolutions, each with a shortcut."""

    def __init__(self, channels: int, mlp_ratio: float, area: int, *, switchable: bool) -> None:
        super().__init__()
        self.attn = AreaAttention(channels, channels // HEAD_CHANNELS, area, _linear(switchable))
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.ModuleList(
            [
                Conv(channels, hidden, switchable=switchable),
                Conv(hidden, channels, activation=None, switchable=switchable),
            ]
        )

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        x = x + self.attn(x, skip)
        output: Tensor = x + self.mlp[1](self.mlp[0](x, skip), skip)
        return output


class _Pair(nn.ModuleList):
    """Two attention blocks, which are repeated and skipped as one."""

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        for block in self:
            x = block(x, skip)
        return x


class A2C2f(_Aggregation):
    """Residual efficient layer aggregation: a convolution, and repeats on it.

    A repeat is a pair of attention blocks, or a C3k where ``area`` is 0; the first half of them,
    rounded up, is essential. With ``residual`` the block adds ``gamma`` times its result to its
    input.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        repeats: int,
        *,
        area: int,
        mlp_ratio: float,
        residual: bool = False,
        inner_skip: bool = False,
        own_skip_weight: bool = False,
        switchable: bool = True,
    ) -> None:
        hidden = channels // 2

        def repeat(switches: bool) -> nn.Module:
            if not area:
                return C3k(hidden, switchable=switches, inner_skip=inner_skip)
            return _Pair(ABlock(hidden, mlp_ratio, area, switchable=switches) for _ in range(2))

        super().__init__(
            in_channels,
            channels,
            repeat,
            repeats,
            (repeats + 1) // 2,
            first=1,
            hidden=hidden,
            own_skip_weight=own_skip_weight,
            switchable=switchable,
        )
        self.gamma = nn.Parameter(torch.full((channels,), GAMMA)) if residual else None

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        output = self.aggregate([self.cv1(x, skip)], skip)
        return output if self.gamma is None else x + self.gamma.view(-1, 1, 1) * output


def _linear(switchable: bool) -> Callable[..., Conv]:
    """Convolutions as attention uses them: no activation."""

    def make(in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1) -> Conv:
        return Conv(
            in_channels,
            out_channels,
            kernel,
            groups=groups,
            activation=None,
            switchable=switchable,
        )

    return make


def residual_ends(model: nn.Module) -> Iterator[nn.Module]:
    """The last convolution of every residual branch: small norms there tame a fresh network."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            yield module.cv2
        elif isinstance(module, ABlock):
            yield module.attn.proj
            yield module.mlp[1]

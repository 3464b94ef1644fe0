"""ResNet-50/101 with `variant d` shortcuts, switchable frozen norms and skippable blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.essentials import essential_blocks
from anydepth_deploy.families.shared.norms import FrozenBatchNorm2d
from anydepth_deploy.families.shared.repeats import Repeats

__all__ = ["Backbone", "BackboneStage", "Stem"]

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions around a shortcut.

    A block of the essential path is ``switchable``: it owns a second norm set (``bn*_skip``). The
    shortcut's norm has one set, or a second (``downsample_skip``) where it is ``shortcut`` that
    switches, too.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        *,
        first: bool,
        switchable: bool,
        shortcut: bool,
    ) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(out_channels)
        self.switchable = switchable
        if switchable:
            self.bn1_skip = FrozenBatchNorm2d(width)
            self.bn2_skip = FrozenBatchNorm2d(width)
            self.bn3_skip = FrozenBatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if first:
            project = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            norm = FrozenBatchNorm2d(out_channels)
            # Inputs are multiples of 32, so every side pooled here is even and the authors'
            # ceil_mode never shows; leaving it out keeps the graph within every ONNX runtime.
            pool = [nn.AvgPool2d(2, 2)] if stride == 2 else []
            self.downsample = nn.Sequential(*pool, project, norm)
        self.downsample_skip = FrozenBatchNorm2d(out_channels) if first and shortcut else None

    def _shortcut(self, x: Tensor, skip: bool) -> Tensor:
        if self.downsample is None:
            return x
        *before, norm = self.downsample
        for step in before:
            x = step(x)
        second = self.downsample_skip if skip else None
        output: Tensor = norm(x) if second is None else second(x)
        return output

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        shortcut = self._shortcut(x, skip)
        if skip and self.switchable:
            norms = (self.bn1_skip, self.bn2_skip, self.bn3_skip)
        else:
            norms = (self.bn1, self.bn2, self.bn3)
        x = F.relu(norms[0](self.conv1(x)))
        x = F.relu(norms[1](self.conv2(x)))
        return F.relu(norms[2](self.conv3(x)) + shortcut)


class BackboneStage(Repeats):
    """``layer1`` .. ``layer4``: essential blocks, then refinement blocks."""

    def __init__(
        self, in_channels: int, width: int, blocks: int, stride: int, *, shortcut: bool
    ) -> None:
        essential = essential_blocks(blocks)
        super().__init__(
            (
                Bottleneck(
                    in_channels if index == 0 else width * EXPANSION,
                    width,
                    stride if index == 0 else 1,
                    first=index == 0,
                    switchable=index < essential,
                    shortcut=shortcut,
                )
                for index in range(blocks)
            ),
            essential,
        )

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        for block in self.running(skip):
            x = block(x, skip)
        return x


class Stem(nn.Module):
    """The 7x7 stem and the max pool, over the backbone's own modules (strides 1 to 4)."""

    def __init__(self, conv1: nn.Conv2d, bn1: FrozenBatchNorm2d) -> None:
        super().__init__()
        self.conv1 = conv1
        self.bn1 = bn1

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Backbone(nn.Module):
    """ResNet; ``forward`` gives the maps of strides 8, 16 and 32. ``shortcut``: whether norms of
    shortcuts have two sets, too."""

    def __init__(
        self, blocks: Sequence[int], widths: Sequence[int], *, shortcut: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(widths[0])
        channels = widths[0]
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if index == 0 else 2
            stage = BackboneStage(channels, width, count, stride, shortcut=shortcut)
            self.add_module(f"layer{index + 1}", stage)
            channels = width * EXPANSION
        self.out_channels = tuple(width * EXPANSION for width in widths[1:])

    @property
    def layers(self) -> tuple[BackboneStage, ...]:
        return tuple(self.get_submodule(f"layer{index}") for index in range(1, 5))  # type: ignore[misc]

    def forward(self, images: Tensor, skip: Sequence[bool]) -> list[Tensor]:
        """``images`` [N, 3, H, W], ``skip`` four flags -> maps [N, C, H/s, W/s] for s 8, 16, 32."""
        x = Stem(self.conv1, self.bn1)(images)
        maps = []
        for stage, skipped in zip(self.layers, skip, strict=True):
            x = stage(x, skipped)
            maps.append(x)
        return maps[1:]

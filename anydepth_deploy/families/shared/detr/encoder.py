"""The hybrid encoder of the DETRs: projections, AIFI, top-down, bottom-up; norms may switch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.attention import MultiheadAttention
from anydepth_deploy.families.shared.detr.fine import Fine
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.families.shared.norms import SwitchableConv
from anydepth_deploy.families.shared.repeats import Repeats

__all__ = [
    "ConvNorm",
    "CspBlock",
    "HybridEncoder",
    "position_embedding",
    "silu_conv",
]

TEMPERATURE = 10000.0


def position_embedding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """2-D sine-cosine position embedding, float32 [1, height * width, channels].

    The grid is flattened with the column index outermost while tokens run row by row. That is how
    the published weights were trained, so it stays, on non-square maps too.
    """
    columns, rows = torch.meshgrid(
        torch.arange(width, dtype=torch.float32, device=device),
        torch.arange(height, dtype=torch.float32, device=device),
        indexing="ij",
    )
    quarter = channels // 4
    exponent = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    frequency = torch.exp(exponent * -math.log(TEMPERATURE))
    angles = [grid.reshape(-1, 1) * frequency for grid in (columns, rows)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).unsqueeze(0)


class ConvNorm(SwitchableConv):
    """Convolution and norm; keys ``conv``, ``norm`` and, where switchable, ``norm_skippable``."""

    norm_names = ("norm", "norm_skippable")


def silu_conv(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *, switchable: bool
) -> ConvNorm:
    """Convolution, norm, SiLU."""
    return ConvNorm(
        in_channels, out_channels, kernel, stride, activation=F.silu, switchable=switchable
    )


class RepVggBlock(nn.Module):
    """3x3 and 1x1 convolutions side by side, summed, then SiLU."""

    def __init__(self, channels: int, *, switchable: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3, switchable=switchable)
        self.conv2 = ConvNorm(channels, channels, 1, switchable=switchable)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        return F.silu(self.conv1(x, skip) + self.conv2(x, skip))


class CspBlock(nn.Module):
    """Cross-stage partial block: ``bottlenecks(conv1(x)) + conv2(x)``, between ``channels``.

    Where another number of ``out_channels`` is asked for, ``conv3`` makes it. With ``switchable``
    norms the first ``(n + 1) // 2 - 1`` bottlenecks (one of three) are essential, the rest
    refinement; without, nothing is skipped.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: int,
        out_channels: int | None = None,
        *,
        switchable: bool = True,
    ) -> None:
        super().__init__()
        essential = (blocks + 1) // 2 - 1 if switchable else blocks
        self.conv1 = silu_conv(in_channels, channels, switchable=switchable)
        self.conv2 = silu_conv(in_channels, channels, switchable=switchable)
        self.bottlenecks = Repeats(
            (
                RepVggBlock(channels, switchable=switchable and index < essential)
                for index in range(blocks)
            ),
            essential,
        )
        self.conv3: ConvNorm | None = None
        if out_channels is not None and out_channels != channels:
            self.conv3 = silu_conv(channels, out_channels, switchable=switchable)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        main = self.conv1(x, skip)
        for block in self.bottlenecks.running(skip):
            main = block(main, skip)
        output: Tensor = main + self.conv2(x, skip)
        return output if self.conv3 is None else self.conv3(output, skip)


class AifiLayer(nn.Module):
    """One post-norm transformer layer on the coarsest map; only its two norms switch."""

    def __init__(self, channels: int, heads: int, feedforward: int, *, switchable: bool) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(channels, heads)
        self.linear1 = nn.Linear(channels, feedforward)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.switchable = switchable
        if switchable:
            self.norm1_skippable = nn.LayerNorm(channels)
            self.norm2_skippable = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, position: Tensor, skip: bool) -> Tensor:
        second = skip and self.switchable
        norm1 = self.norm1_skippable if second else self.norm1
        norm2 = self.norm2_skippable if second else self.norm2
        query = tokens + position
        tokens = norm1(tokens + self.self_attn(query, query, tokens))
        output: Tensor = norm2(tokens + self.linear2(F.gelu(self.linear1(tokens))))
        return output


class _Aifi(nn.Module):
    """Holds the layers under the authors' names (``encoder.encoder.0.layers.0``)."""

    def __init__(self, layers: Sequence[AifiLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class HybridEncoder(nn.Module):
    """Maps of rising strides in (8, 16, 32 or the last two), the same strides out, with ``hidden``
    channels.

    ``join`` makes the block behind each concatenation (2 * hidden to hidden channels), ``lateral``
    the convolution before each step up, ``down`` that before each step down; what they make takes
    a map and ``skip``. ``layers``: of AIFI. ``switchable``: whether projections and AIFI have two
    sets of norms. ``fine``: what each step up refines the finer map with; when the encoder is
    skipped, it is as if there were none, down to how maps grow.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden: int,
        *,
        heads: int,
        feedforward: int,
        join: Callable[[], nn.Module],
        lateral: Callable[[], nn.Module],
        down: Callable[[], nn.Module],
        layers: int = 1,
        switchable: bool = False,
        fine: FineConfig | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.fine = fine
        self.input_proj = nn.ModuleList(
            ConvNorm(channels, hidden, 1, switchable=switchable) for channels in in_channels
        )
        aifi = [AifiLayer(hidden, heads, feedforward, switchable=switchable) for _ in range(layers)]
        self.encoder = nn.ModuleList([_Aifi(aifi)])
        joins = range(len(in_channels) - 1)
        self.lateral_convs = nn.ModuleList(lateral() for _ in joins)
        self.fpn_blocks = nn.ModuleList(join() for _ in joins)
        self.downsample_convs = nn.ModuleList(down() for _ in joins)
        self.pan_blocks = nn.ModuleList(join() for _ in joins)
        if fine is not None:  # each pools to the grid of the coarsest map
            self.sa_cross_attn = nn.ModuleList(
                Fine(hidden, fine, (2 << step, 1 << step)) for step in joins
            )

    def forward(
        self, maps: Sequence[Tensor], skip: bool = False, position: Tensor | None = None
    ) -> list[Tensor]:
        """``maps``: from the finest to the coarsest. ``position``: the embedding of the coarsest
        map, computed here when it is not given."""
        projected = [conv(x, skip) for conv, x in zip(self.input_proj, maps, strict=True)]
        height, width = projected[-1].shape[-2:]
        if position is None:
            position = position_embedding(height, width, self.hidden, projected[-1].device)
        tokens = projected[-1].flatten(2).transpose(1, 2)
        for layer in self.encoder[0].layers:  # type: ignore[union-attr]
            tokens = layer(tokens, position, skip)
        projected[-1] = tokens.transpose(1, 2).unflatten(-1, (height, width))

        # Top-down. What the bottom-up path will join is the lateral's output, not its input.
        top = projected[-1]
        joined: list[Tensor] = []
        for index, low in enumerate(reversed(projected[:-1])):
            top = self.lateral_convs[index](top, skip)
            joined.append(top)
            upsampling = "nearest"
            if self.fine is not None and not skip:
                low = self.sa_cross_attn[index](low, top, position)
                upsampling = self.fine.upsampling
            above = F.interpolate(top, scale_factor=2.0, mode=upsampling)
            top = self.fpn_blocks[index](torch.cat([above, low], 1), skip)

        outputs = [top]
        for index, lateral in enumerate(reversed(joined)):
            below = self.downsample_convs[index](outputs[-1], skip)
            outputs.append(self.pan_blocks[index](torch.cat([below, lateral], 1), skip))
        return outputs

"""What D-FINE's encoder has of its own: blocks of aggregated branches, and lean steps down."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.encoder import ConvNorm, CspBlock, silu_conv

__all__ = ["ElanBlock", "LeanDown"]


class ElanBlock(nn.Module):
    """``RepNCSPELAN``: halves of a 1x1, two branches after the second half, all four joined.

    ``channels``: of the branches, each a cross-stage partial block of so many ``blocks``, of which
    ``essential`` always run, and a 3x3. ``switchable``: as in :class:`CspBlock`.
    """

    cv2: nn.Sequential
    cv3: nn.Sequential

    def __init__(
        self, hidden: int, channels: int, blocks: int, *, switchable: bool, essential: int
    ) -> None:
        super().__init__()
        self.cv1 = silu_conv(2 * hidden, 2 * hidden, switchable=switchable)
        for name, before in (("cv2", hidden), ("cv3", channels)):
            block = CspBlock(before, channels, blocks, switchable=switchable, essential=essential)
            conv = silu_conv(channels, channels, 3, switchable=switchable)
            self.add_module(name, nn.Sequential(block, conv))
        self.cv4 = silu_conv(2 * hidden + 2 * channels, hidden, switchable=switchable)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        parts = list(self.cv1(x, skip).chunk(2, dim=1))
        for branch in (self.cv2, self.cv3):
            after = parts[-1]
            for step in branch:
                after = step(after, skip)
            parts.append(after)
        output: Tensor = self.cv4(torch.cat(parts, 1), skip)
        return output


class LeanDown(nn.Sequential):
    """``SCDown``: a 1x1 and a depthwise 3x3 that halves the map, both without activation. Its
    convolutions are under ``0``, as the authors name them."""

    def __init__(self, hidden: int, *, switchable: bool) -> None:
        super().__init__()
        inner = nn.Sequential()
        inner.add_module("cv1", ConvNorm(hidden, hidden, 1, switchable=switchable))
        depthwise = ConvNorm(hidden, hidden, 3, 2, groups=hidden, switchable=switchable)
        inner.add_module("cv2", depthwise)
        self.append(inner)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        first, second = self[0].children()
        output: Tensor = second(first(x, skip), skip)
        return output

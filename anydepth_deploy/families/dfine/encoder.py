"""What D-FINE's encoder has of its own: blocks of aggregated branches, and lean steps down."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.encoder import ConvNorm, CspBlock, silu_conv

__all__ = ["ElanBlock", "LeanDown"]


class ElanBlock(nn.Module):
    """``RepNCSPELAN``: halves of a 1x1, two branches after the second half, all four joined.

    ``channels``: of the branches, each a cross-stage partial block and a 3x3.
    """

    def __init__(self, hidden: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.cv1 = silu_conv(2 * hidden, 2 * hidden, switchable=False)
        self.cv2 = self._branch(hidden, channels, blocks)
        self.cv3 = self._branch(channels, channels, blocks)
        self.cv4 = silu_conv(2 * hidden + 2 * channels, hidden, switchable=False)

    @staticmethod
    def _branch(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(
            CspBlock(in_channels, channels, blocks, switchable=False),
            silu_conv(channels, channels, 3, switchable=False),
        )

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        parts = list(self.cv1(x).chunk(2, dim=1))
        for branch in (self.cv2, self.cv3):
            parts.append(branch(parts[-1]))
        output: Tensor = self.cv4(torch.cat(parts, 1))
        return output


class LeanDown(nn.Sequential):
    """``SCDown``: a 1x1 and a depthwise 3x3 that halves the map, both without activation. Its
    convolutions are under ``0``, as the authors name them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        inner = nn.Sequential()
        inner.add_module("cv1", ConvNorm(hidden, hidden, 1))
        inner.add_module("cv2", ConvNorm(hidden, hidden, 3, 2, groups=hidden))
        self.append(inner)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        output: Tensor = self[0](x)
        return output

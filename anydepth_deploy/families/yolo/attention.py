"""Area attention: self-attention within a few equal runs of the flattened map."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["AreaAttention"]


class AreaAttention(nn.Module):
    """Attention among the cells of each area (YOLOv12, section 3.2).

    The map, flattened row by row, is cut into ``area`` runs of equal length; a cell attends to its
    own run. ``pe``, a depthwise 5x5 convolution of the values over the whole map, stands in for
    position embeddings. Keys: ``qk`` (queries, then keys; heads contiguous), ``v``, ``pe``,
    ``proj``, made by ``convolution(in_channels, out_channels, kernel, groups)``.
    """

    def __init__(
        self, channels: int, heads: int, area: int, convolution: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.heads, self.area = heads, area
        self.qk = convolution(channels, 2 * channels)
        self.v = convolution(channels, channels)
        self.proj = convolution(channels, channels)
        self.pe = convolution(channels, channels, 5, channels)

    def forward(self, x: Tensor, skip: bool) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]; H * W must be a multiple of ``area``."""
        height, width = x.shape[-2:]
        query, key = self.qk(x, skip).chunk(2, 1)
        value = self.v(x, skip)
        position = self.pe(value, skip)
        q, k, v = (self._areas(part) for part in (query, key, value))
        scores = (q * q.shape[-2] ** -0.5).transpose(-1, -2) @ k
        # values @ weights^T rather than weights @ values^T: the result is channels first already.
        attended = v @ scores.softmax(-1).transpose(-1, -2)
        if self.area > 1:
            attended = attended.permute(0, 2, 3, 1, 4)
        attended = attended.reshape(-1, position.shape[1], height, width)
        output: Tensor = self.proj(attended + position, skip)
        return output

    def _areas(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, heads, d, tokens], or [N, area, heads, d, tokens of an area]."""
        channels, tokens = x.shape[1], x.shape[2] * x.shape[3]
        if self.area == 1:
            return x.reshape(-1, self.heads, channels // self.heads, tokens)
        shape = (-1, self.heads, channels // self.heads, self.area, tokens // self.area)
        return x.reshape(shape).permute(0, 3, 1, 2, 4)

"""Attention blocks of RT-DETR: multi-head attention and multi-scale deformable attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DeformableAttention", "MultiheadAttention"]


class MultiheadAttention(nn.Module):
    """Multi-head attention with the parameter names of :class:`torch.nn.MultiheadAttention`.

    Batch first, dropout-free, and written as plain matrix products so that it exports to a
    handful of ONNX nodes. Attention Is All You Need, section 3.2.2.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """``query`` [N, Q, C], ``key`` and ``value`` [N, K, C] -> [N, Q, C].

        ``mask``: bool [Q, K], true where attention is forbidden.
        """
        # Slices, not chunk: a slice of a weight is folded at export, a Split is not.
        rows = [slice(i * query.shape[-1], (i + 1) * query.shape[-1]) for i in range(3)]
        weights = [self.in_proj_weight[row] for row in rows]
        biases = [self.in_proj_bias[row] for row in rows]
        q, k, v = (
            self._heads(F.linear(x, w, b))
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        attended = scores.softmax(-1) @ v
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """[N, Q, C] -> [N, heads, Q, C / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with box references.

    Each head of each query samples ``points`` places per level around its reference box:
    ``centre + offset / points * size / 2``. Deformable DETR, section 4.1.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start as rings of growing radius, one direction per head; weights uniform."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        radius = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = ring[:, None, None] * radius[None, None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(
                offsets.expand(self.heads, self.levels, self.points, 2).reshape(-1)
            )
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """``query`` [N, Q, C], ``reference`` [N, Q, 4] (cx, cy, w, h in 0..1), ``memory``
        [N, S, C] with the levels of ``shapes`` (height, width) one after the other -> [N, Q, C]."""
        heads, levels, points = self.heads, self.levels, self.points
        # [N * heads, d, S]: grid sampling wants channels first, one map per head.
        value = self.value_proj(memory).unflatten(-1, (heads, -1)).permute(0, 2, 3, 1)
        value = value.flatten(0, 1)
        # [N, Q, heads, levels * points, 2] in 0..1, then -1..1 as grid_sample counts.
        offsets = self.sampling_offsets(query).unflatten(-1, (heads, levels * points, 2))
        centre, size = reference[:, :, None, None, :2], reference[:, :, None, None, 2:]
        grid = (centre + offsets * (size * (0.5 / points))) * 2 - 1
        grid = grid.transpose(1, 2).flatten(0, 1).unflatten(2, (levels, points))
        weights = self.attention_weights(query).unflatten(-1, (heads, levels * points))
        weights = weights.softmax(-1).transpose(1, 2).flatten(0, 1).unsqueeze(1)

        maps = value.split([height * width for height, width in shapes], dim=-1)
        sampled = [
            F.grid_sample(
                maps[level].unflatten(-1, shape),
                grid[:, :, level],
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
            for level, shape in enumerate(shapes)
        ]
        # [N * heads, d, Q, levels * points] weighted and summed -> [N, Q, C].
        mixed = (torch.cat(sampled, dim=-1) * weights).sum(-1)
        mixed = mixed.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)
        output: Tensor = self.output_proj(mixed.contiguous())
        return output

"""Attention blocks of the DETRs: multi-head attention and multi-scale deformable attention."""

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

    Each head of each query samples places around its reference box, ``points`` of each level (one
    number for all, or one a level): ``centre + offset / points * size / 2``. Deformable DETR,
    section 4.1; points that differ by level: RT-DETRv2, section 3.

    ``projected``: whether memory and result go through a linear layer; D-FINE's do not, there the
    heads share out the channels of the maps as they are. ``discrete``: take the nearest cell, as
    RT-DETRv2's discrete sampling does, where else four neighbours are weighted.
    """

    scale: Tensor

    def __init__(
        self,
        channels: int,
        heads: int,
        levels: int,
        points: int | Sequence[int],
        *,
        projected: bool = True,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.levels = heads, levels
        self.points = (points,) * levels if isinstance(points, int) else tuple(points)
        self.discrete = discrete
        total = sum(self.points)
        self.sampling_offsets = nn.Linear(channels, heads * total * 2)
        self.attention_weights = nn.Linear(channels, heads * total)
        self.value_proj = nn.Linear(channels, channels) if projected else None
        self.output_proj = nn.Linear(channels, channels) if projected else None
        if not self.is_even:  # half a size, shared out over the points of each level: [points, 1]
            shares = [[0.5 / count] for count in self.points for _ in range(count)]
            self.register_buffer("scale", torch.tensor(shares), persistent=False)
        self.reset_parameters()

    @property
    def is_even(self) -> bool:
        """Whether every level has as many points."""
        return len(set(self.points)) == 1

    def reset_parameters(self) -> None:
        """Offsets start as rings of growing radius, one direction per head; weights uniform."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        radius = torch.cat([torch.arange(1.0, count + 1) for count in self.points])
        offsets = ring[:, None] * radius[None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """``query`` [N, Q, C], ``reference`` [N, Q, 4] (cx, cy, w, h in 0..1) -> [N, Q, C].

        ``memory``: one tensor [N, S, C] with the levels of ``shapes`` (height, width) one after the
        other; where it is not ``projected``, the maps themselves, [N, C, h, w] each.
        """
        heads, total = self.heads, sum(self.points)
        # [N, Q, heads, points of all levels, 2] in 0..1.
        offsets = self.sampling_offsets(query).unflatten(-1, (heads, total, 2))
        centre, size = reference[:, :, None, None, :2], reference[:, :, None, None, 2:]
        scale = 0.5 / self.points[0] if self.is_even else self.scale
        places = centre + offsets * (size * scale)
        if not self.discrete:
            places = places * 2 - 1  # -1..1, as grid_sample counts
        places = places.transpose(1, 2).flatten(0, 1)
        parts: Sequence[Tensor] = ()
        if self.is_even:
            places = places.unflatten(2, (self.levels, self.points[0]))
        else:
            parts = places.split(self.points, dim=2)
        weights = self.attention_weights(query).unflatten(-1, (heads, total))
        weights = weights.softmax(-1).transpose(1, 2).flatten(0, 1).unsqueeze(1)

        sampled = []
        for level, cells in enumerate(self._maps(memory, shapes)):
            place = places[:, :, level] if self.is_even else parts[level]
            sampled.append(_nearest(cells, place) if self.discrete else _between(cells, place))
        # [N * heads, d, Q, points of all levels] weighted and summed -> [N, Q, C].
        mixed = (torch.cat(sampled, dim=-1) * weights).sum(-1)
        mixed = mixed.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2).contiguous()
        output: Tensor = mixed if self.output_proj is None else self.output_proj(mixed)
        return output

    def _maps(
        self, memory: Sequence[Tensor], shapes: Sequence[tuple[int, int]]
    ) -> Sequence[Tensor]:
        """What is sampled, by level: [N * heads, d, h, w], one map per head, since grid sampling
        wants channels first."""
        if self.value_proj is None:  # nothing moves
            width = memory[0].shape[1] // self.heads
            return [level.reshape(-1, width, *level.shape[2:]) for level in memory]
        value = self.value_proj(memory[0])
        value = value.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)
        maps = value.split([height * width for height, width in shapes], dim=-1)
        return [level.unflatten(-1, shape) for level, shape in zip(maps, shapes, strict=True)]


def _between(cells: Tensor, places: Tensor) -> Tensor:
    """Four neighbours of each place, weighted: cells [B, d, h, w], places [B, Q, P, 2] (x, y in
    -1..1) -> [B, d, Q, P]; zero outside the map."""
    return F.grid_sample(cells, places, mode="bilinear", padding_mode="zeros", align_corners=False)


def _nearest(cells: Tensor, places: Tensor) -> Tensor:
    """The cell ``int(place * side + 0.5)`` of each place, which lies in 0..1, clipped to the map:
    cells [B, d, h, w], places [B, Q, P, 2] (x, y) -> [B, d, Q, P].

    Each axis is clipped by itself, as transformers does. The authors clip both to the height, which
    is the same on square maps; agreement with them on others is not promised.
    """
    height, width = cells.shape[-2:]
    column = (places[..., 0] * width + 0.5).to(torch.int64).clamp(0, width - 1)
    row = (places[..., 1] * height + 0.5).to(torch.int64).clamp(0, height - 1)
    index = (row * width + column).flatten(1).unsqueeze(1).expand(-1, cells.shape[1], -1)
    return cells.flatten(2).gather(2, index).reshape(*cells.shape[:2], -1, places.shape[2])

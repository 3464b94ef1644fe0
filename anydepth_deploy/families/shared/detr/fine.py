"""FINE: what a level of the neck takes from the coarser one before the two are joined.

Feature Interaction NEtwork, "Linear cross-level attention with a spatial bottleneck" (OpenReview
pwQcEDph2I), as its authors' code for RT-DETR computes it: both maps are pooled to the grid of
stride 32, where the finer one asks and the coarser one answers in attention that is linear in the
number of cells. What comes of it grows to the finer map again and is multiplied with that. A later
text (arXiv 2606.14005) speaks of a "residual" form, of which no code is known: it is not here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.fine_config import FineConfig

__all__ = ["Fine"]

EPS = 1.1920929e-07
"""Of the norm of attention: that of float32, which torch takes where none is named, in every
precision. What it is added to is as small, so that another would show."""

SMALLEST_SUM = 1e-6
"""Of what queries and keys are divided by."""


class HeadNorm(nn.Module):
    """Holds the one weight of the norm of all heads under the authors' name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Fine(nn.Module):
    """One of them, between maps of ``channels`` channels.

    ``pools``: cells of the finer and of the coarser map that become one, along each side. Keys:
    ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``, ``attn_norm.weight``, ``linear1``,
    ``linear2``, ``norm1``, ``norm2``.
    """

    def __init__(self, channels: int, config: FineConfig, pools: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.pools = config.heads, pools
        self.has_position, self.is_cosformer = config.position, config.cosformer
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        self.attn_norm = HeadNorm(channels // config.heads)
        self.linear1 = nn.Linear(channels, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, low: Tensor, high: Tensor, position: Tensor) -> Tensor:
        """``low`` [N, C, H, W], the finer map; ``high`` [N, C, h, w], the coarser one; ``position``
        [1, L, C], the embedding of the L cells of the pooled grid -> [N, C, H, W].

        The norms are inside the branches: neither before what they are of, nor behind the sum.
        """
        asking, answering = _tokens(low, self.pools[0]), _tokens(high, self.pools[1])
        if self.has_position:  # the value has it too, which that of AIFI has not
            attended = self._attend(asking + position, answering + position)
        else:
            attended = self._attend(asking, answering)
        tokens = asking + self.norm1(attended)
        tokens = tokens + self.norm2(self.linear2(F.gelu(self.linear1(tokens))))
        factor = self.pools[0]
        cells = (low.shape[-2] // factor, low.shape[-1] // factor)
        grid = tokens.transpose(1, 2).reshape(*low.shape[:2], *cells)
        grown = F.interpolate(
            grid, scale_factor=float(factor), mode="bilinear", align_corners=False
        )
        refined: Tensor = grown * low
        return refined

    def _attend(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Linear attention: [N, L, C] and [N, L, C] -> [N, L, C].

        Queries and keys are divided, each channel by itself, by their sum of magnitudes over all
        cells, which leaves a query of about 1 / L, and a square of what attention gives beyond
        FP16. So queries are divided by the mean instead: that is the same L times, and so is the
        norm behind it with L * L times its eps.
        """
        count, channels = asking.shape[1], asking.shape[2]
        query = self.q_proj(asking)
        query = query / query.abs().mean(1, keepdim=True).clamp(min=SMALLEST_SUM / count)
        # They read the same: one product.
        weight = torch.cat([self.k_proj.weight, self.v_proj.weight])
        bias = torch.cat([self.k_proj.bias, self.v_proj.bias])
        both = F.linear(answering, weight, bias)
        key, value = both[..., :channels], both[..., channels:]
        key = key / key.abs().sum(1, keepdim=True).clamp(min=SMALLEST_SUM)

        query, key = self._heads(query), self._heads(key)
        value = value.reshape(*value.shape[:2], self.heads, -1).transpose(1, 2)
        # The bracket first: a matrix of the width of a head, whatever the number of cells.
        attended = query.transpose(1, 2) @ (key.permute(0, 2, 3, 1) @ value)
        # In its powers, which half precision leaves in FP32, unlike a product by itself.
        square = attended.pow(2).mean(-1, keepdim=True)
        attended = attended / (square + EPS * count * count).sqrt() * self.attn_norm.weight
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _heads(self, tokens: Tensor) -> Tensor:
        """[N, L, C] -> [N, L, heads, C / heads]; of cosFormer (ICLR 2022, section 3.2) twice as
        many channels a head, weighted with the sine and the cosine of the place of the cell."""
        if not self.is_cosformer:
            return tokens.reshape(*tokens.shape[:2], self.heads, -1)
        places = _places(tokens.shape[1], tokens.dtype, tokens.device)
        weighted = tokens.reshape(*tokens.shape[:2], self.heads, 1, -1) * places
        return weighted.flatten(-2)


def _tokens(x: Tensor, pool: int) -> Tensor:
    """[N, C, H, W] -> [N, H * W / pool / pool, C], averages of ``pool`` x ``pool`` cells, row by
    row."""
    if pool > 1:
        x = F.avg_pool2d(x, pool)
    return x.flatten(2).transpose(1, 2)


def _places(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sine and cosine of pi / 2 * t / ``count`` for t from 1 to ``count``: [count, 1, 2, 1]."""
    steps = torch.arange(1, count + 1, dtype=torch.float64, device=device)
    angles = steps * (math.pi / 2 / count)
    return torch.stack([angles.sin(), angles.cos()], -1).to(dtype).reshape(count, 1, 2, 1)

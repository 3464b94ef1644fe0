"""FINE once more, written from its formulas: loops over heads and steps, sums spelt out.

The oracle of parity tests: it shares no code with the package, knows a module by its state dict
alone, and computes in the type of the weights, float64 for one. Attention is written as products of
all pairs of cells, in the order that the package does not take; queries are divided by their sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]

EPS = 1.1920929e-07
"""The smallest step of float32 above 1."""


@dataclass(frozen=True)
class Switches:
    """What no weight tells."""

    position: bool = True
    cosformer: bool = True


def fine(
    state: State,
    key: str,
    low: Tensor,
    high: Tensor,
    embedding: Tensor,
    step: int,
    switches: Switches,
) -> Tensor:
    """``low`` [N, C, H, W] refined by ``high``; ``embedding`` [L, C]; ``step`` 0 is that of stride
    16, whose maps are pooled the least."""

    def linear(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"{key}.{name}.weight"], state[f"{key}.{name}.bias"]
        return torch.einsum("nti,oi->nto", x, weight) + bias

    def layer_norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * state[f"{key}.{name}.weight"] + state[f"{key}.{name}.bias"]

    a, b = average(low, 2 ** (step + 1)), average(high, 2**step)
    assert a.shape == b.shape
    height, width = a.shape[-2:]
    a, b = (torch.einsum("nchw->nhwc", x).reshape(len(x), height * width, -1) for x in (a, b))
    place = embedding if switches.position else torch.zeros_like(embedding)
    query, key_, value = (
        linear("q_proj", a + place),
        linear("k_proj", b + place),
        linear("v_proj", b + place),
    )
    query, key_ = (
        x / x.abs().sum(1, keepdim=True).clip(min=torch.tensor(1e-6, dtype=x.dtype))
        for x in (query, key_)
    )
    weight = state[f"{key}.attn_norm.weight"]
    parts = []
    for start in range(0, query.shape[-1], len(weight)):
        head = slice(start, start + len(weight))
        scores = torch.einsum("nte,nse->nts", query[..., head], key_[..., head])
        if switches.cosformer:
            scores = scores * closeness(height * width, scores.dtype)
        attended = torch.einsum("nts,nse->nte", scores, value[..., head])
        size = (attended.square().mean(-1, keepdim=True) + EPS).sqrt()
        parts.append(attended / size * weight)
    x = a + layer_norm("norm1", linear("out_proj", torch.cat(parts, -1)))
    inner = linear("linear1", x)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    x = x + layer_norm("norm2", linear("linear2", inner))
    cells = x.reshape(len(x), height, width, -1)
    return enlarge(torch.einsum("nhwc->nchw", cells), 2 ** (step + 1)) * low


def average(x: Tensor, side: int) -> Tensor:
    """Means of squares of ``side`` cells."""
    total = torch.zeros_like(x[:, :, ::side, ::side])
    for row in range(side):
        for column in range(side):
            total = total + x[:, :, row::side, column::side]
    return total / side**2


def closeness(count: int, dtype: torch.dtype) -> Tensor:
    """cosFormer's weight of every pair of cells, which are counted from 1: the cosine of how far
    they are apart, sin i sin j + cos i cos j."""
    rows = [
        [math.cos(math.pi / 2 * (i - j) / count) for j in range(1, count + 1)]
        for i in range(1, count + 1)
    ]
    return torch.tensor(rows, dtype=dtype)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Bilinear, the edges of both grids on each other."""
    rows, columns = (between(side, factor, x.dtype) for side in x.shape[-2:])
    return torch.einsum("Hh,nchw,Ww->ncHW", rows, x, columns)


def between(side: int, factor: int, dtype: torch.dtype) -> Tensor:
    """What each cell of a line of ``side`` adds to each of one ``factor`` times as long."""
    table = torch.zeros(side * factor, side, dtype=dtype)
    for cell in range(side * factor):
        place = max((cell + 0.5) / factor - 0.5, 0.0)
        first = int(place)
        second = min(first + 1, side - 1)
        table[cell, first] += 1 - (place - first)
        table[cell, second] += place - first
    return table

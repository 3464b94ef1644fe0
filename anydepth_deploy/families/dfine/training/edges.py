"""Distributions over the edges of boxes: what they should be, and how far off they are.

D-FINE: Redefine Regression Task of DETRs as Fine-grained Distribution Refinement (Peng et al.,
2024): fine-grained localisation in section 4.1, self-distillation in section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anydepth_deploy.families.shared.boxes import cxcywh_to_xyxy

__all__ = [
    "TEMPERATURE",
    "Shares",
    "by_edge",
    "carried_over",
    "decoupled_loss",
    "edge_targets",
    "edges_between",
    "fine_grained_loss",
]

TEMPERATURE = 5.0
"""Of distributions that later layers teach earlier ones."""

SMALLEST_SIDE = 1e-16


def by_edge(logits: Tensor) -> Tensor:
    """[..., 4 * bins] as [..., 4, bins]."""
    return logits.reshape(*logits.shape[:-1], 4, logits.shape[-1] // 4)


def edges_between(anchors: Tensor, boxes: Tensor, reach: Tensor) -> Tensor:
    """How far the edges of ``boxes`` [..., 4] lie from those of ``anchors`` [..., 4] (cx, cy, w, h
    both), as left, top, right, bottom, in the anchors' sides divided by ``reach``: the inverse of
    :func:`~anydepth_deploy.families.dfine.decoder.edges_to_boxes`."""
    unit = (anchors[..., 2:] / reach).clamp(min=SMALLEST_SIDE)
    corners, centre = cxcywh_to_xyxy(boxes), anchors[..., :2]
    low, high = (centre - corners[..., :2]) / unit, (corners[..., 2:] - centre) / unit
    return torch.cat([low, high], -1) - 0.5 * reach


def edge_targets(values: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Between which bins ``values`` [...] lie: the left one, int64 [...], and how much of the whole
    belongs to the one after it, 0..1; what lies outside all ``distances`` [bins] is at an end."""
    left = torch.searchsorted(distances, values.contiguous(), right=True) - 1
    left = left.clamp(0, len(distances) - 2)
    near, far = distances[left], distances[left + 1]
    return left, ((values - near) / (far - near)).clamp(0.0, 1.0)


def fine_grained_loss(
    edges: Tensor, wanted: Tensor, overlap: Tensor, distances: Tensor, count: float | Tensor
) -> Tensor:
    """Fine-grained localisation (FGL): the cross-entropy of each distribution and the two bins that
    its edge lies between, weighted by how well the whole box fits already, over ``count``.

    ``edges``: logits [L, M, 4 * bins]; ``wanted`` [M, 4]: from :func:`edges_between`; ``overlap``
    [L, M]: IoU of found and wanted boxes, without history.
    """
    left, share = edge_targets(wanted, distances)
    doubts = -by_edge(edges).log_softmax(-1)
    left = left.expand(doubts.shape[:-1])[..., None]
    near, far = (doubts.gather(-1, bins)[..., 0] for bins in (left, left + 1))
    doubt = (near * (1 - share) + far * share).sum(-1)
    return (doubt * overlap).sum() / count


@dataclass(frozen=True)
class Shares:
    """How queries in a pair and all others weigh in :func:`decoupled_loss`: by the roots of their
    numbers, which :meth:`of` takes."""

    paired: Tensor
    other: Tensor

    @classmethod
    def of(cls, paired: Tensor, other: Tensor) -> Shares:
        roots = paired.sqrt(), other.sqrt()
        both = (roots[0] + roots[1]).clamp(min=1e-9)
        return cls(roots[0] / both, roots[1] / both)


def decoupled_loss(
    edges: Tensor,
    teacher: Tensor,
    weights: Tensor,
    paired: Tensor,
    counts: tuple[Tensor, Tensor],
    shares: Shares,
) -> Tensor:
    """Decoupled distillation focal loss (DDF): earlier layers learn the last one's distributions.

    Divergences at temperature 5, times its square, weighted query by query, are averaged over the
    queries in a pair and over all others, and both means are mixed by ``shares``. The sum over
    layers.

    ``edges``: logits [K, N, Q, 4 * bins] of the earlier layers; ``teacher`` [N, Q, 4 * bins]: of
    the last, which learns nothing here; ``weights`` [K, N, Q]; ``paired`` bool [N, Q]; ``counts``:
    of queries in pairs and of others, at least 1 each.
    """
    found = (by_edge(edges) / TEMPERATURE).log_softmax(-1)
    wanted = (by_edge(teacher.detach()) / TEMPERATURE).softmax(-1)
    divergence = F.kl_div(found, wanted.expand_as(found), reduction="none").sum(-1).mean(-1)
    loss = TEMPERATURE**2 * weights * divergence
    inside = torch.where(paired, loss, 0.0).sum() / counts[0]
    outside = torch.where(paired, 0.0, loss).sum() / counts[1]
    return inside * shares.paired + outside * shares.other


def carried_over(
    shares: Tensor, anchors: Tensor, others: Tensor, distances: Tensor, reach: Tensor
) -> Tensor:
    """Distributions ``shares`` [M, 4, bins] over edges relative to ``anchors`` [M, 4], as
    distributions over the same edges relative to ``others`` [M, 4].

    The place of each bin is expressed by the other box, and what lay there goes to the two bins on
    its sides in proportion, as distributions of returns are carried over in reinforcement learning
    (C51, Bellemare et al., 2017, section 4.1). With equal boxes nothing changes.
    """
    sides = anchors[:, [2, 3, 2, 3]]
    signs = anchors.new_tensor([-1.0, -1.0, 1.0, 1.0])
    outward = signs * (anchors - others)[:, [0, 1, 0, 1]]  # of the centres, along each edge
    places = outward[..., None] + (0.5 * reach + distances) * (sides / reach)[..., None]
    unit = (others[:, [2, 3, 2, 3]] / reach).clamp(min=SMALLEST_SIDE)
    left, share = edge_targets(places / unit[..., None] - 0.5 * reach, distances)
    carried = torch.zeros_like(shares)
    carried.scatter_add_(-1, left, shares * (1 - share))
    return carried.scatter_add_(-1, left + 1, shares * share)

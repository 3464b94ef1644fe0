"""Which query answers for which object: minimum-cost matching per picture.

Costs and weights are those of RT-DETR: focal class cost (alpha 0.25, gamma 2) times 2, L1
distance of the normalised boxes times 5, negative generalised IoU times 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from anydepth_deploy.errors import DivergedError, UsageError
from anydepth_deploy.families.shared.boxes import cxcywh_to_xyxy, generalized_iou
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["Matches", "match", "match_costs", "united"]

CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class Matches:
    """Matched pairs, int64 [M] each, sorted by picture and then by object: matches of two
    networks against the same targets list the same objects in the same order."""

    picture: Tensor
    query: Tensor
    object: Tensor

    def __len__(self) -> int:
        return len(self.picture)

    def repeat(self, times: int, pictures: int) -> Matches:
        """The same pairs in each of so many layers of so many ``pictures``, joined along the first
        axis."""
        first = torch.arange(times, device=self.picture.device)[:, None] * pictures
        return Matches(
            (first + self.picture).flatten(), self.query.repeat(times), self.object.repeat(times)
        )

    def before(self, pictures: int) -> Matches:
        """The pairs of the first ``pictures``."""
        kept = self.picture < pictures
        return Matches(self.picture[kept], self.query[kept], self.object[kept])


@torch.no_grad()
def match_costs(logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    """Cost of answering for each object with each query, float [N, Q, T]; columns without an object
    hold numbers without meaning.

    ``logits``: [N, Q, classes]; ``boxes``: [N, Q, 4] as cx, cy, w, h in 0..1; ``targets``: of the
    same N pictures.
    """
    labels = targets.labels.clamp(min=0)
    index = labels[:, None, :].expand(-1, logits.shape[1], -1)
    probability = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + 1e-8).log()
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -(1 - probability + 1e-8).log()
    class_cost = (positive - negative).gather(2, index)
    found, wanted = boxes[:, :, None], targets.boxes[:, None]
    l1_cost = (found - wanted).abs().sum(-1)
    giou = generalized_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))
    return CLASS_COST * class_cost + L1_COST * l1_cost - GIOU_COST * giou


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Targets) -> Matches:
    """Match every object to a query of its own at least total cost per picture.

    Arguments are those of :func:`match_costs`. To match several layers in one call, join them
    along the first axis and repeat the targets.

    Raises :class:`UsageError` if a picture holds more objects than there are queries, and
    :class:`DivergedError` if a cost is not finite.
    """
    counts = targets.valid.sum(1)
    if int(counts.max()) > logits.shape[1]:
        raise UsageError(
            f"a picture holds {int(counts.max())} objects but the model has only "
            f"{logits.shape[1]} queries; train a model with more queries"
        )
    # One transfer for all pictures; the assignments themselves take microseconds.
    costs = match_costs(logits, boxes, targets).cpu().numpy()
    valid = targets.valid.cpu().numpy()
    pictures, queries, objects = [], [], []
    for picture in range(len(costs)):
        present = np.flatnonzero(valid[picture])
        asked = costs[picture][:, present].T
        if not np.isfinite(asked).all():
            raise DivergedError(
                "logits or boxes of the network, or boxes of the objects, are not finite numbers: "
                "train with a lower learning rate, and look at the annotations of this batch"
            )
        columns, rows = linear_sum_assignment(asked)
        pictures.append(np.full(len(present), picture, dtype=np.int64))
        objects.append(present[columns])
        queries.append(rows.astype(np.int64))
    device = logits.device
    return Matches(
        picture=torch.from_numpy(np.concatenate(pictures)).to(device),
        query=torch.from_numpy(np.concatenate(queries)).to(device),
        object=torch.from_numpy(np.concatenate(objects)).to(device),
    )


@torch.no_grad()
def united(matches: Matches, pictures: int, queries: int, objects: int) -> Matches:
    """What layers agree on: each query that any layer matched, with the object that most layers
    matched it to (D-FINE, section 4.2); of several such objects with the first.

    ``matches``: of layers that were joined along the first axis; ``pictures``: in a layer;
    ``queries`` and ``objects``: how many a picture has at most. An object may have several queries
    in the result, which is sorted by picture and then by query.
    """
    slots = matches.picture % pictures * queries + matches.query
    objects = max(1, objects)
    pairs, votes = (slots * objects + matches.object).unique(  # type: ignore[no-untyped-call]
        return_counts=True
    )
    pairs = pairs[votes.argsort(descending=True, stable=True)]
    pairs = pairs[(pairs // objects).argsort(stable=True)]
    slots = pairs // objects
    first = torch.ones_like(slots, dtype=torch.bool)
    first[1:] = slots[1:] != slots[:-1]
    slots = slots[first]
    return Matches(slots // queries, slots % queries, pairs[first] % objects)

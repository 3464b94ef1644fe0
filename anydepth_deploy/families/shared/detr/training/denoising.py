"""Contrastive denoising queries: disturbed copies of the objects, answered without matching.

Each group holds two copies of every object: a positive one, disturbed by less than half its
side, that should be restored, and a negative one, disturbed by more, that should be rejected
(DINO, Zhang et al., 2022, with the settings of RT-DETR).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from anydepth_deploy.families.shared.detr.training.matcher import Matches
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["Denoising", "attention_mask", "make_denoising"]

LABEL_NOISE = 0.5  # half of these draws change the label to a random one
BOX_NOISE = 1.0  # largest shift of a positive box's corner, in half sides


@dataclass(frozen=True)
class Denoising:
    """Denoising queries of a batch.

    ``content`` [N, D, hidden]; ``references`` [N, D, 4] as cx, cy, w, h in 0..1; ``mask`` bool
    [D + Q, D + Q], true where attention is blocked, the D denoising queries first; ``matches``
    pairs each positive query with its object; ``groups`` counts the copies of each object.
    """

    content: Tensor
    references: Tensor
    mask: Tensor
    matches: Matches
    groups: int

    @property
    def size(self) -> int:
        return self.content.shape[1]


def make_denoising(
    targets: Targets,
    embedding: nn.Embedding,
    *,
    classes: int,
    queries: int,
    wanted: int,
    generator: torch.Generator | None = None,
) -> Denoising | None:
    """Denoising queries for a batch; None if ``wanted`` is 0 or the batch holds no objects.

    ``targets``: the objects. ``embedding``: label to content, ``classes + 1`` rows; the last one
    stands for padding. ``classes`` and ``queries``: how many of each the model has. ``wanted``:
    about how many denoising queries to make; fewer come out when the pictures' objects do not
    divide it, more when one group already needs more. ``generator``: source of the noise.
    """
    longest = int(targets.valid.sum(1).max())
    if wanted <= 0 or longest == 0:
        return None
    device = targets.labels.device
    # Objects come first in each row, so that columns beyond the longest row are all padding.
    order = targets.valid.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    labels = targets.labels.gather(1, order)
    boxes = targets.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    groups = max(1, wanted // (2 * longest))
    # [N, groups, 2, longest]: per group all positives, then all negatives.
    shape = (len(labels), groups, 2, longest)
    noisy_labels = _disturb_labels(labels[:, None, None].expand(shape), classes, generator)
    noisy_boxes = _disturb_boxes(boxes[:, None, None].expand(*shape, 4), generator)
    size = groups * 2 * longest
    first = torch.arange(size, device=device).view(groups, 2, longest)[:, 0]
    present = (labels >= 0)[:, None].expand(-1, groups, -1)
    picture, group, column = present.nonzero(as_tuple=True)
    return Denoising(
        content=embedding(noisy_labels.reshape(len(labels), size)),
        references=noisy_boxes.reshape(len(labels), size, 4),
        mask=attention_mask(groups, 2 * longest, queries, device=device),
        matches=Matches(picture, first[group, column], order[picture, column]),
        groups=groups,
    )


def attention_mask(
    groups: int, group_size: int, queries: int, *, device: torch.device | None = None
) -> Tensor:
    """Who may not attend to whom: bool [D + Q, D + Q], rows attend to columns.

    Matching queries never see denoising queries (these know the answers), and a group never
    sees another one.
    """
    size = groups * group_size
    owner = torch.full((size + queries,), -1, device=device)
    owner[:size] = torch.arange(groups, device=device).repeat_interleave(group_size)
    return (owner[None, :] >= 0) & (owner[None, :] != owner[:, None])


def _disturb_labels(labels: Tensor, classes: int, generator: torch.Generator | None) -> Tensor:
    draws = _uniform(labels.shape, labels.device, generator)
    others = _integers(classes, labels.shape, labels.device, generator)
    noisy = torch.where(draws < LABEL_NOISE / 2, others, labels)
    return torch.where(labels < 0, classes, noisy)


def _disturb_boxes(boxes: Tensor, generator: torch.Generator | None) -> Tensor:
    """Shift every corner coordinate: positives by 0..1, negatives by 1..2 half sides."""
    reach = boxes[..., 2:] * 0.5 * BOX_NOISE
    share = _uniform(boxes.shape, boxes.device, generator)
    share[:, :, 1] += 1.0
    sign = _integers(2, boxes.shape, boxes.device, generator) * 2.0 - 1.0
    shifted = cxcywh_to_xyxy(boxes) + sign * share * torch.cat([reach, reach], dim=-1)
    return xyxy_to_cxcywh(shifted.clamp(0.0, 1.0)).clamp(0.0, 1.0)


def _uniform(shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Float32 in 0..1: drawn where the generator is, so that a GPU sees what the CPU would."""
    draws = torch.rand(shape, generator=generator, device=_home(generator), dtype=torch.float32)
    return draws.to(device)


def _integers(
    below: int, shape: torch.Size, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    draws = torch.randint(0, below, shape, generator=generator, device=_home(generator))
    return draws.to(device)


def _home(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device

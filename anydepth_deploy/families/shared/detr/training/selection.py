"""How every training forward begins: maps, the queries that are selected, and the denoising ones.

The queries' first content and boxes are detached from the encoder, which learns from its own
outputs (DINO, Zhang et al., 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from anydepth_deploy.families.shared.detr.decoder import as_tokens, gather_tokens
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.queries import anchors
from anydepth_deploy.families.shared.detr.training.denoising import Denoising
from anydepth_deploy.families.shared.usual_state import usual_state

__all__ = ["Selection", "in_single", "select_queries"]


@dataclass(frozen=True)
class Selection:
    """What the decoder's layers start from, for N pictures, Q queries and D denoising queries.

    ``projected``: maps with the decoder's channels, [N, C, h, w] each, of ``shapes`` (height,
    width); ``memory`` [N, S, C]: their cells. ``target`` [N, D + Q, C] and ``reference``
    [N, D + Q, 4] (cx, cy, w, h in 0..1): the denoising queries first; ``mask`` bool
    [D + Q, D + Q], None without them. ``logits`` [N, Q, classes] and ``boxes`` [N, Q, 4]: of the
    tokens that became queries. ``backbone_maps``, ``encoder_maps``: one a level.
    """

    projected: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int], ...]
    memory: Tensor
    target: Tensor
    reference: Tensor
    mask: Tensor | None
    denoised: int
    logits: Tensor
    boxes: Tensor
    backbone_maps: tuple[Tensor, ...]
    encoder_maps: tuple[Tensor, ...]


def select_queries(
    model: DetrModel, images: Tensor, *, skip: bool, denoising: Denoising | None = None
) -> Selection:
    """Run super (``skip`` false) or base (``skip`` true) up to the decoder's layers.

    ``images``: float32 [N, 3, H, W] in 0..1; H and W multiples of 32. ``denoising``: queries to
    answer beside the matching ones.
    """
    maps, encoded = model.maps(images, skip=skip)
    decoder = model.decoder
    projected = tuple(decoder.project(encoded, skip))
    shapes = tuple((level.shape[-2], level.shape[-1]) for level in projected)
    memory = as_tokens(projected)
    anchor_logits, valid = _anchors(shapes, images.device)
    features, class_logits = decoder.classify(memory, valid)
    chosen = decoder.select(class_logits.detach())
    proposed, box_logits = decoder.propose(features, anchor_logits, chosen)
    boxes = in_single(box_logits).sigmoid()
    target, reference = proposed.detach(), boxes.detach()
    if denoising is not None:
        target = torch.cat([denoising.content.to(target.dtype), target], dim=1)
        reference = torch.cat([denoising.references.to(reference.dtype), reference], dim=1)
    return Selection(
        projected=projected,
        shapes=shapes,
        memory=memory,
        target=target,
        reference=reference,
        mask=None if denoising is None else denoising.mask,
        denoised=0 if denoising is None else denoising.size,
        logits=in_single(gather_tokens(class_logits, chosen)),
        boxes=boxes,
        backbone_maps=tuple(maps),
        encoder_maps=tuple(encoded),
    )


def in_single(values: Tensor) -> Tensor:
    """``values`` in float32 where autocast made them shorter: what boxes, scores, distributions and
    losses are computed in."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


@lru_cache(maxsize=16)
@usual_state()
def _anchors(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return anchors(shapes, device)

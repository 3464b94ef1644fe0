"""The forward pass of training: all decoder layers, with everything the losses look at.

Super runs every stage in full, base skips every refinement; both run all decoder layers, so
that each can be the exit. As in RT-DETR, a layer starts from detached reference boxes, while
its own box is refined from the undetached box of the layer before ("look forward twice",
DINO).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from anydepth_deploy.families.shared.detr.decoder import Decoder, moved
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.training.denoising import Denoising
from anydepth_deploy.families.shared.detr.training.selection import in_single, select_queries

__all__ = ["Outputs", "training_forward"]

Found = TypeVar("Found", bound="Outputs")


@dataclass(frozen=True)
class Outputs:
    """What one training forward gives, for L decoder layers, N pictures, Q queries.

    ``logits`` [L, N, Q, classes] and ``boxes`` [L, N, Q, 4] (cx, cy, w, h in 0..1) of every
    decoder layer; ``encoder_logits`` [N, Q, classes] and ``encoder_boxes`` [N, Q, 4] of the
    tokens that became queries; ``backbone_maps`` and ``encoder_maps``, one a level, each
    [N, C, h, w]; with denoising, its queries and their ``denoising_logits`` [L, N, D, classes] and
    ``denoising_boxes`` [L, N, D, 4], which are empty otherwise. Logits and boxes are float32, also
    under autocast.
    """

    logits: Tensor
    boxes: Tensor
    encoder_logits: Tensor
    encoder_boxes: Tensor
    backbone_maps: tuple[Tensor, ...]
    encoder_maps: tuple[Tensor, ...]
    denoising: Denoising | None = None
    denoising_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    denoising_boxes: Tensor = field(default_factory=lambda: torch.empty(0))

    def detach(self: Found) -> Found:
        """What a student may look at: last layer and maps, without their history."""
        return replace(
            self,
            logits=self.logits.detach(),
            boxes=self.boxes.detach(),
            encoder_logits=self.encoder_logits.detach(),
            encoder_boxes=self.encoder_boxes.detach(),
            backbone_maps=tuple(level.detach() for level in self.backbone_maps),
            encoder_maps=tuple(level.detach() for level in self.encoder_maps),
            denoising=None,
            denoising_logits=torch.empty(0),
            denoising_boxes=torch.empty(0),
        )


def training_forward(
    model: DetrModel, images: Tensor, *, skip: bool, denoising: Denoising | None = None
) -> Outputs:
    """Run super (``skip`` false) or base (``skip`` true) with all decoder layers.

    ``model`` is in training mode, unless norms should keep their statistics. ``images``: float32
    [N, 3, H, W] in 0..1; H and W multiples of 32. ``skip``: whether every refinement of backbone
    and encoder is skipped. ``denoising``: queries to answer beside the matching ones.
    """
    decoder = model.decoder
    assert isinstance(decoder, Decoder)
    start = select_queries(model, images, skip=skip, denoising=denoising)
    target, reference, memory = start.target, start.reference, start.memory
    all_logits: list[Tensor] = []
    all_boxes: list[Tensor] = []
    before = reference
    for index in range(len(decoder.decoder.layers)):
        target = decoder.layer(index, target, reference, memory, start.shapes, start.mask)
        all_logits.append(in_single(decoder.dec_score_head[index](target)))
        # One change, two starting points: the undetached box of the layer before carries this
        # layer's loss into that layer; the detached one gives the next reference.
        change = in_single(decoder.dec_bbox_head[index](target))
        all_boxes.append(moved(before, change))
        before = moved(reference, change)
        reference = before.detach()
    logits, boxes = torch.stack(all_logits), torch.stack(all_boxes)
    extra = start.denoised
    return Outputs(
        logits=logits[:, :, extra:],
        boxes=boxes[:, :, extra:],
        encoder_logits=start.logits,
        encoder_boxes=start.boxes,
        backbone_maps=start.backbone_maps,
        encoder_maps=start.encoder_maps,
        denoising=denoising,
        denoising_logits=logits[:, :, :extra],
        denoising_boxes=boxes[:, :, :extra],
    )

"""The forward pass of training: all decoder layers, with everything the losses look at.

Super runs every stage in full, base skips every refinement; both run all decoder layers, so
that each can be the exit. As in RT-DETR, a layer starts from detached reference boxes, while
its own box is refined from the undetached box of the layer before ("look forward twice",
DINO), and the queries' first content and boxes are detached from the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from anydepth_deploy.families.shared.detr.decoder import Decoder, as_tokens, inverse_sigmoid
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.queries import anchors
from anydepth_deploy.families.shared.detr.training.denoising import Denoising

__all__ = ["Outputs", "training_forward"]


@dataclass(frozen=True)
class Outputs:
    """What one training forward gives, for L decoder layers, N pictures, Q queries.

    ``logits`` [L, N, Q, classes] and ``boxes`` [L, N, Q, 4] (cx, cy, w, h in 0..1) of every
    decoder layer; ``encoder_logits`` [N, Q, classes] and ``encoder_boxes`` [N, Q, 4] of the
    tokens that became queries; ``backbone_maps`` and ``encoder_maps``, three each [N, C, h, w];
    with denoising, its queries and their ``denoising_logits`` [L, N, D, classes] and
    ``denoising_boxes`` [L, N, D, 4], which are empty otherwise.
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

    def detach(self) -> Outputs:
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
    maps, encoded = model.maps(images, skip=skip)
    decoder = model.decoder
    assert isinstance(decoder, Decoder)
    shapes = tuple((level.shape[-2], level.shape[-1]) for level in encoded)
    memory = as_tokens(decoder.project(encoded, skip))
    anchor_logits, valid = _anchors(shapes, images.device)
    features, class_logits = decoder.classify(memory, valid)
    chosen = decoder.select(class_logits.detach())
    proposed, box_logits = decoder.propose(features, anchor_logits, chosen)
    encoder_boxes = box_logits.sigmoid()
    target = proposed.detach()
    reference = encoder_boxes.detach()
    mask: Tensor | None = None
    extra = 0
    if denoising is not None:
        target = torch.cat([denoising.content, target], dim=1)
        reference = torch.cat([denoising.references, reference], dim=1)
        mask, extra = denoising.mask, denoising.size

    all_logits: list[Tensor] = []
    all_boxes: list[Tensor] = []
    before = reference
    for index in range(len(decoder.decoder.layers)):
        target = decoder.layer(index, target, reference, memory, shapes, mask)
        all_logits.append(decoder.dec_score_head[index](target))
        # One change, two starting points: the undetached box of the layer before carries this
        # layer's loss into that layer; the detached one gives the next reference.
        change = decoder.dec_bbox_head[index](target)
        all_boxes.append((change + inverse_sigmoid(before)).sigmoid())
        before = (change + inverse_sigmoid(reference)).sigmoid()
        reference = before.detach()
    logits, boxes = torch.stack(all_logits), torch.stack(all_boxes)
    return Outputs(
        logits=logits[:, :, extra:],
        boxes=boxes[:, :, extra:],
        encoder_logits=_rows(class_logits, chosen),
        encoder_boxes=encoder_boxes,
        backbone_maps=tuple(maps),
        encoder_maps=tuple(encoded),
        denoising=denoising,
        denoising_logits=logits[:, :, :extra],
        denoising_boxes=boxes[:, :, :extra],
    )


@lru_cache(maxsize=16)
def _anchors(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return anchors(shapes, device)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` [N, Q] of ``values`` [N, S, C]: [N, Q, C]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

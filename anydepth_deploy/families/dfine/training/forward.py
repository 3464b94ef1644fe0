"""D-FINE's forward pass of training: all decoder layers, and the distributions of their edges.

As the authors train it: a layer starts from detached reference boxes and the detached target of the
layer before, edges are relative to detached boxes of the first layer (``pre``), while the logits of
edges add up undetached, so that each layer's loss reaches those before it (D-FINE, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anydepth_deploy.families.dfine.decoder import DFineDecoder, edges_to_boxes
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.training.denoising import Denoising
from anydepth_deploy.families.shared.detr.training.forward import Outputs
from anydepth_deploy.families.shared.detr.training.selection import in_single, select_queries

__all__ = ["EdgeOutputs", "Edges", "training_forward"]


@dataclass(frozen=True)
class Edges:
    """Of K queries: ``logits`` [L, N, K, 4 * bins] of each layer's distributions, the last layer's
    for a teacher; ``pre_logits`` [N, K, classes] and ``pre_boxes`` [N, K, 4] after the first layer:
    what edges are relative to is the latter, detached."""

    logits: Tensor
    pre_logits: Tensor
    pre_boxes: Tensor

    @property
    def anchors(self) -> Tensor:
        """The boxes [N, K, 4] that edges are relative to."""
        return self.pre_boxes.detach()


@dataclass(frozen=True, kw_only=True)
class EdgeOutputs(Outputs):
    """And the ``edges`` of the queries and of denoising ones (None without), in bins that stand for
    ``distances`` [bins] of a side divided by ``reach`` [1]."""

    edges: Edges
    denoising_edges: Edges | None = None
    distances: Tensor
    reach: Tensor

    def detach(self) -> EdgeOutputs:
        edges = self.edges
        last = Edges(
            edges.logits[-1:].detach(), edges.pre_logits.detach(), edges.pre_boxes.detach()
        )
        return replace(super().detach(), edges=last, denoising_edges=None)


def training_forward(
    model: DetrModel, images: Tensor, *, skip: bool, denoising: Denoising | None = None
) -> EdgeOutputs:
    """As RT-DETR's
    :func:`~anydepth_deploy.families.shared.detr.training.forward.training_forward`."""
    decoder = model.decoder
    assert isinstance(decoder, DFineDecoder)
    start = select_queries(model, images, skip=skip, denoising=denoising)
    distances, reach = decoder.distances, decoder.reg_scale.detach().abs()
    target, reference = start.target, start.reference
    all_logits: list[Tensor] = []
    all_boxes: list[Tensor] = []
    all_edges: list[Tensor] = []
    before = pre_logits = pre_boxes = target  # the first layer replaces all three
    for index in range(len(decoder.decoder.layers)):
        target = decoder.layer(index, target, reference, start.projected, start.shapes, start.mask)
        if index == 0:
            pre_boxes = decoder.anchor(target, reference)
            pre_logits = in_single(decoder.dec_score_head[0](target))
            edges = in_single(decoder.dec_bbox_head[0](target))
        else:
            edges = in_single(decoder.dec_bbox_head[index](target + before)) + all_edges[-1]
        shares = decoder.shares(edges)
        moves = (shares * distances).sum(-1)
        all_edges.append(edges)
        all_boxes.append(edges_to_boxes(pre_boxes.detach(), moves, reach))
        all_logits.append(in_single(decoder.score(index, target, shares)))
        reference, before = all_boxes[-1].detach(), target.detach()
    logits, boxes, steps = torch.stack(all_logits), torch.stack(all_boxes), torch.stack(all_edges)
    extra = start.denoised

    def part(rows: slice) -> Edges:
        return Edges(steps[:, :, rows], pre_logits[:, rows], pre_boxes[:, rows])

    return EdgeOutputs(
        logits=logits[:, :, extra:],
        boxes=boxes[:, :, extra:],
        encoder_logits=start.logits,
        encoder_boxes=start.boxes,
        backbone_maps=start.backbone_maps,
        encoder_maps=start.encoder_maps,
        denoising=denoising,
        denoising_logits=logits[:, :, :extra],
        denoising_boxes=boxes[:, :, :extra],
        edges=part(slice(extra, None)),
        denoising_edges=None if denoising is None else part(slice(0, extra)),
        distances=distances,
        reach=reach,
    )

"""D-FINE's training forward: the deployed network at every exit, and what is detached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recipes import generator, objects, pictures
from static_detrs import static_detr

from anydepth_deploy.families.dfine.training.forward import EdgeOutputs, training_forward
from anydepth_deploy.families.shared.detr.training.denoising import Denoising, make_denoising

CASES: dict[str, dict[str, Any]] = {
    "as S": {},
    "as N": {"points": (6, 6), "csp_channels": 11, "csp_blocks": 2, "queries": 20},
    "as X": {"hidden": 96, "csp_channels": 48, "reach": 8.0},
    "as DEIM and RT-DETRv4": {"decoder_activation": "silu"},
}


def noise(model: Any, seed: int) -> Denoising:
    found = make_denoising(
        objects(2, 1),
        model.decoder.denoising_class_embed,
        classes=model.decoder.classes,
        queries=model.decoder.queries,
        wanted=12,
        generator=generator(seed),
    )
    assert found is not None
    return found


@torch.no_grad()
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_every_layer_computes_what_the_network_computes_there(changes: dict[str, Any]) -> None:
    model = static_detr("d-fine", **changes)
    images = pictures()
    outputs = training_forward(model, images, skip=False)
    assert len(outputs.logits) == len(outputs.edges.logits) == model.config.decoder_layers
    for layer in range(model.config.decoder_layers):
        found = model(images, f"L{layer + 1}")
        torch.testing.assert_close(outputs.logits[layer], found["logits"], rtol=0, atol=1e-6)
        torch.testing.assert_close(outputs.boxes[layer], found["boxes"], rtol=0, atol=1e-6)


@torch.no_grad()
def test_denoising_leaks_nothing() -> None:
    model = static_detr("d-fine")
    plain = training_forward(model, pictures(), skip=False)
    found = [
        training_forward(model, pictures(), skip=False, denoising=noise(model, seed))
        for seed in (1, 2)
    ]
    for outputs in found:
        torch.testing.assert_close(outputs.logits, plain.logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(outputs.boxes, plain.boxes, rtol=0, atol=1e-5)
        torch.testing.assert_close(outputs.edges.pre_boxes, plain.edges.pre_boxes)
    assert not torch.allclose(found[0].denoising_boxes, found[1].denoising_boxes)
    assert plain.denoising_edges is None
    edges = found[0].denoising_edges
    assert edges is not None
    size = noise(model, 1).size
    assert edges.logits.shape == (3, 2, size, 4 * 33)
    assert edges.pre_boxes.shape == (2, size, 4)


def test_what_is_detached() -> None:
    """Edges carry later losses to earlier heads; boxes, targets and the anchor box do not."""
    model = static_detr("d-fine")
    outputs = training_forward(model, pictures(), skip=False)
    decoder = model.decoder
    heads = [head.layers[-1].bias for head in decoder.dec_bbox_head]
    pre, encoder = decoder.pre_bbox_head.layers[-1].bias, decoder.enc_bbox_head.layers[-1].bias
    slopes = torch.autograd.grad(
        outputs.boxes[2].sum(), [*heads, pre, encoder], allow_unused=True, retain_graph=True
    )
    assert [slope is None for slope in slopes[3:]] == [True, True]
    assert all(float(slope.abs().sum()) > 0 for slope in slopes[:3])
    assert not outputs.edges.anchors.requires_grad
    # A layer's reference, and what is added to the target that edges are read off, are detached:
    # the second layer's edges know the first head by their sum alone.
    (slope,) = torch.autograd.grad(outputs.edges.logits[1].sum(), heads[0], retain_graph=True)
    torch.testing.assert_close(slope, torch.full_like(slope, 2.0 * model.config.queries))


def test_a_teacher_has_no_history() -> None:
    model = static_detr("d-fine")
    outputs = training_forward(model, pictures(), skip=False, denoising=noise(model, 0))
    teacher = outputs.detach()
    assert isinstance(teacher, EdgeOutputs)
    assert teacher.denoising is None
    assert teacher.denoising_edges is None
    torch.testing.assert_close(teacher.edges.logits[-1], outputs.edges.logits[-1])
    held = [teacher.logits, teacher.boxes, *vars(teacher.edges).values(), *teacher.encoder_maps]
    assert not any(value.requires_grad for value in held)
    assert replace(teacher, denoising=None) == teacher

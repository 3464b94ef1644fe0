"""Denoising queries, the training forward, and the gradients of the two passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.boxes import box_iou, cxcywh_to_xyxy
from anydepth_deploy.families.shared.detr.training.denoising import (
    Denoising,
    attention_mask,
    make_denoising,
)
from anydepth_deploy.families.shared.detr.training.forward import training_forward
from anydepth_deploy.families.shared.detr.training.losses import detection_loss, distillation_loss
from anydepth_deploy.families.shared.recipe import total
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.pictures.shapes import render_many
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.loop import make_recipe
from anydepth_deploy.train.step import accumulate_gradients


@pytest.fixture(scope="module")
def model() -> AnyDepthDETR:
    model = make_recipe(TrainConfig.for_family(input_size=64)).model
    assert isinstance(model, AnyDepthDETR)
    model.eval()
    return model


@pytest.fixture(scope="module")
def pictures() -> TrainingPictures:
    drawn = render_many(4, seed=0, size=64)
    return TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)


def make_targets() -> Targets:
    labels = torch.tensor([[1, -1, 0], [2, 3, -1]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.4, 0.6, 0.3, 0.1], [0.3, 0.3, 0.2, 0.2]])
    return Targets(labels, boxes.repeat(2, 1, 1))


def noise(wanted: int = 16, seed: int = 0) -> Denoising:
    torch.manual_seed(0)
    made = make_denoising(
        make_targets(),
        nn.Embedding(5, 8),
        classes=4,
        queries=10,
        wanted=wanted,
        generator=torch.Generator().manual_seed(seed),
    )
    assert made is not None
    return made


def test_denoising_queries_are_disturbed_copies() -> None:
    denoising, targets = noise(), make_targets()
    # At most two objects a picture: 4 groups of 2 positives and 2 negatives make 16.
    assert denoising.groups == 4
    assert denoising.size == 16
    assert len(denoising.matches) == 4 * 4
    pairs = denoising.matches
    assert (targets.labels[pairs.picture, pairs.object] >= 0).all()
    assert ((pairs.query % 4) < 2).all()
    wanted = cxcywh_to_xyxy(targets.boxes[pairs.picture, pairs.object])
    sides = targets.boxes[pairs.picture, pairs.object][:, [2, 3, 2, 3]]
    positive = cxcywh_to_xyxy(denoising.references[pairs.picture, pairs.query])
    assert ((positive - wanted).abs() <= sides / 2 + 1e-6).all()
    negative = cxcywh_to_xyxy(denoising.references[pairs.picture, pairs.query + 2])
    assert box_iou(positive, wanted).mean() > box_iou(negative, wanted).mean() + 0.1


def test_denoising_depends_on_its_generator_only() -> None:
    torch.testing.assert_close(noise(seed=1).references, noise(seed=1).references)
    assert not torch.equal(noise(seed=1).references, noise(seed=2).references)


@pytest.mark.parametrize(("wanted", "labels"), [(0, [[1]]), (8, [[-1]])])
def test_no_denoising_queries(wanted: int, labels: list[list[int]]) -> None:
    targets = Targets(torch.tensor(labels), torch.zeros(1, 1, 4))
    made = make_denoising(targets, nn.Embedding(5, 8), classes=4, queries=10, wanted=wanted)
    assert made is None


def test_attention_mask_blocks_other_groups_and_answers() -> None:
    mask = attention_mask(groups=2, group_size=2, queries=3).int().tolist()
    assert mask == [
        [0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
    ]


def denoising_for(model: AnyDepthDETR, targets: Targets, seed: int) -> Denoising | None:
    return make_denoising(
        targets,
        model.decoder.denoising_class_embed,
        classes=model.decoder.classes,
        queries=model.decoder.queries,
        wanted=24,
        generator=torch.Generator().manual_seed(seed),
    )


@torch.no_grad()
def test_denoising_leaks_nothing(model: AnyDepthDETR, pictures: TrainingPictures) -> None:
    images, targets = pictures.batch(torch.arange(4))
    plain = training_forward(model, images, skip=False)
    outputs = [
        training_forward(model, images, skip=False, denoising=denoising_for(model, targets, seed))
        for seed in (1, 2)
    ]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[0].boxes, outputs[1].boxes, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[0].logits, plain.logits, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(outputs[0].denoising_boxes, outputs[1].denoising_boxes)


@torch.no_grad()
@pytest.mark.parametrize(("skip", "gates"), [(False, "FFFF-F"), (True, "TTTT-T")])
def test_every_layer_computes_what_the_network_computes_there(
    model: AnyDepthDETR, pictures: TrainingPictures, skip: bool, gates: str
) -> None:
    images, _ = pictures.batch(torch.arange(2))
    outputs = training_forward(model, images, skip=skip)
    for layer in range(3):
        found = model(images, f"{gates}-{layer + 1}")
        torch.testing.assert_close(outputs.logits[layer], found["logits"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs.boxes[layer], found["boxes"], rtol=1e-4, atol=1e-5)


def test_gradients_of_the_two_passes_add_up(pictures: TrainingPictures) -> None:
    recipe = make_recipe(TrainConfig.for_family(input_size=64, denoising=0))
    assert isinstance(recipe.model, AnyDepthDETR)
    model = recipe.model
    model.eval()  # so that the first pass does not move statistics that the second one uses
    images, targets = pictures.batch(torch.arange(4))

    def gradients() -> dict[str, torch.Tensor]:
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        return found

    losses = accumulate_gradients(recipe, images, targets, distill=True)
    both = gradients()
    teacher = training_forward(model, images, skip=False)
    total(detection_loss(teacher, targets)).backward()  # type: ignore[no-untyped-call]
    of_super = gradients()
    student = training_forward(model, images, skip=True)
    base_terms = distillation_loss(student, teacher.detach(), targets)
    total(base_terms).backward()  # type: ignore[no-untyped-call]
    of_base = gradients()

    assert set(both) == set(of_super) | set(of_base)
    for name, gradient in both.items():
        expected = torch.zeros_like(gradient)
        for part in (of_super, of_base):
            expected += part.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
    # Refinement learns in the super pass only, second norm sets in the base pass only.
    assert "backbone.layer1.1.conv1.weight" in of_super
    assert "backbone.layer1.1.conv1.weight" not in of_base
    assert "backbone.layer1.0.bn1_skip.weight" in of_base
    assert "backbone.layer1.0.bn1_skip.weight" not in of_super
    torch.testing.assert_close(losses.base_terms["distill_l1"], base_terms["distill_l1"].detach())


def test_statistics_of_both_norm_sets_are_trained(pictures: TrainingPictures) -> None:
    recipe = make_recipe(TrainConfig.for_family(input_size=64, denoising=0))
    assert isinstance(recipe.model, AnyDepthDETR)
    model = recipe.model
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, targets = pictures.batch(torch.arange(4))
    accumulate_gradients(recipe, images, targets, distill=False)
    after = model.state_dict()
    means = [name for name in before if name.endswith("running_mean")]
    assert any("_skip" in name for name in means)
    assert [name for name in means if torch.equal(before[name], after[name])] == []
    assert int(after["backbone.bn1.num_batches_tracked"]) == 2
    assert int(after["backbone.layer1.0.bn1_skip.num_batches_tracked"]) == 1

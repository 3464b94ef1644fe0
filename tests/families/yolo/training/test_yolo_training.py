"""Training of AnyDepth-YOLO: passes, gradients, norms, whole runs and their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from handmade import InterruptedRunError, stop_after
from trained_networks import FAMILIES

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.recipe import total
from anydepth_deploy.families.yolo.config import CONFIGS
from anydepth_deploy.families.yolo.head import STRIDES, Detect, distances
from anydepth_deploy.families.yolo.model import AnyDepthYOLO
from anydepth_deploy.families.yolo.training.assigner import assign, pixel_boxes
from anydepth_deploy.families.yolo.training.distillation import distillation_loss
from anydepth_deploy.families.yolo.training.forward import training_forward
from anydepth_deploy.families.yolo.training.losses import detection_loss
from anydepth_deploy.families.yolo.training.recipe import YoloRecipe
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.loop import make_recipe, train
from anydepth_deploy.train.step import accumulate_gradients
from anydepth_deploy.train.weights import load_stored_state

TINY = CONFIGS["tiny"].replace(classes=8, input_size=(64, 64))


def tiny_config(folder: Path, **changes: object) -> TrainConfig:
    config = TrainConfig.for_family(
        family="anydepth-yolo",
        output=str(folder / "tiny.pth"),
        steps=4,
        input_size=64,
        pictures=6,
        batch=2,
        warmup=1,
        threads=0,
        processes=1,
        save_every=0,
        ground_truth_share=0.5,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture
def recipe() -> YoloRecipe:
    found = make_recipe(TrainConfig.for_family(family="anydepth-yolo", input_size=64))
    assert isinstance(found, YoloRecipe)
    return found


@pytest.fixture(scope="module")
def pictures() -> TrainingPictures:
    drawn = render_many(4, seed=0, size=64)
    return TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)


def test_defaults_are_those_of_the_family() -> None:
    for family in FAMILIES:
        training = find_family(family).training
        if training is None:
            assert not family.startswith("anydepth-")
            continue
        config = TrainConfig.for_family(family)
        for name in ("learning_rate", "weight_decay", "warmup", "clip"):
            assert getattr(config, name) == getattr(training, name)
        assert config.output == f"checkpoints/{family}-tiny-shapes.pth"
        assert eval(repr(config)) == config
    assert TrainConfig.for_family(family="anydepth-yolo", clip=1.0, learning_rate=0.0).clip == 1.0
    assert TrainConfig.for_family(family="anydepth-yolo", learning_rate=0.0).learning_rate == 0.0
    with pytest.raises(UsageError, match="unknown family 'yolo': choose one of anydepth-detr"):
        TrainConfig.for_family(family="yolo")
    with pytest.raises(UsageError, match="unknown model 'huge': choose one of"):
        make_recipe(TrainConfig.for_family(family="anydepth-yolo", model="huge"))


def test_the_same_seed_gives_the_same_network() -> None:
    settings = [TrainConfig.for_family("anydepth-yolo", seed=seed) for seed in (3, 3, 4)]
    one, two, other = (make_recipe(item).model.state_dict() for item in settings)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["model.0.conv.weight"], other["model.0.conv.weight"])


@torch.no_grad()
def test_first_boxes_are_small_and_first_scores_low(
    recipe: YoloRecipe, pictures: TrainingPictures
) -> None:
    images, _ = pictures.batch(torch.arange(4))
    outputs = training_forward(recipe.model, images, skip=False)
    sides = (outputs.boxes[..., 2:] - outputs.boxes[..., :2]) / outputs.strides
    assert 2 < float(sides.mean()) < 4
    assert float(outputs.class_logits.sigmoid().mean()) < 0.1


@torch.no_grad()
def test_the_head_starts_with_boxes_of_3_strides_and_5_objects() -> None:
    head = Detect((16, 16, 16), classes=8)
    head.reset_parameters((64, 96))
    objects = 0.0
    for box, scores, stride in zip(head.cv2, head.cv3, STRIDES, strict=True):
        sides = distances(box[2].bias.view(1, -1, 1), head.dfl.bins)  # type: ignore[index]
        assert 2.5 < float(sides[0, 0] + sides[0, 2]) < 3.5
        cells = 64 * 96 / stride**2
        objects += float(scores[2].bias.exp().sum()) * cells  # type: ignore[index]
    assert objects == pytest.approx(15, rel=1e-4)  # on each of 3 levels


def test_loading_refuses_other_networks(recipe: YoloRecipe) -> None:
    model, state = recipe.model, recipe.model.state_dict()
    first = "model.0.conv.weight"
    load_stored_state(model, state, recipe.stores)
    without = {name: value for name, value in state.items() if name != first}
    with pytest.raises(CheckpointError, match=r"missing model\.0\.conv\.weight, unexpected no"):
        load_stored_state(model, without, recipe.stores)
    with pytest.raises(CheckpointError, match="missing nothing, unexpected more"):
        load_stored_state(model, {**state, "more": torch.zeros(1)}, recipe.stores)
    with pytest.raises(CheckpointError, match="other shapes"):
        load_stored_state(model, {**state, first: torch.zeros(1, 3, 3, 3)}, recipe.stores)


@torch.no_grad()
@pytest.mark.parametrize("skip", [False, True])
def test_the_forward_is_that_of_the_network(
    recipe: YoloRecipe, pictures: TrainingPictures, skip: bool
) -> None:
    """Boxes and scores are what the deployed network gives before suppression."""
    model = recipe.model.eval()
    model.head.dfl.conv.weight.mul_(1.25)  # the distances that bins stand for are the network's
    images, _ = pictures.batch(torch.arange(2))
    outputs = training_forward(model, images, skip=skip)
    predictions = model.flow(images, "base" if skip else "super")["predictions"]
    centre, sides = predictions[:, :2], predictions[:, 2:4]
    boxes = torch.cat([centre - sides / 2, centre + sides / 2], dim=1).transpose(1, 2)
    torch.testing.assert_close(outputs.boxes, boxes, rtol=1e-4, atol=1e-3)
    scores = predictions[:, 4:].transpose(1, 2)
    torch.testing.assert_close(outputs.class_logits.sigmoid(), scores, rtol=1e-4, atol=1e-6)


def test_gradients_of_the_two_passes_add_up(recipe: YoloRecipe, pictures: TrainingPictures) -> None:
    model = recipe.model.eval()  # no pass moves statistics that the next one uses
    images, targets = pictures.batch(torch.arange(4))
    wanted = pixel_boxes(targets, (64, 64))

    def gradients() -> dict[str, torch.Tensor]:
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        return found

    losses = accumulate_gradients(recipe, images, targets, distill=True)
    both = gradients()

    teacher = training_forward(model, images, skip=False)
    theirs = assign(teacher.class_logits, teacher.boxes, teacher.points, targets, wanted)
    super_terms = detection_loss(teacher, targets, wanted, theirs)
    total(super_terms).backward()  # type: ignore[no-untyped-call]
    of_super = gradients()

    student = training_forward(model, images, skip=True)
    ours = assign(student.class_logits, student.boxes, student.points, targets, wanted)
    truth = total(detection_loss(student, targets, wanted, ours))
    taught = total(distillation_loss(student, teacher.detach(), ours, theirs))
    (0.2 * truth + 0.8 * taught).backward()  # type: ignore[no-untyped-call]
    of_base = gradients()

    assert set(both) == set(of_super) | set(of_base)
    for name, gradient in both.items():
        expected = torch.zeros_like(gradient)
        for part in (of_super, of_base):
            expected += part.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5, msg=name)
    # Refinements only learn from super, weights of the skipped mode only from base.
    assert any(name not in of_base for name in both)
    assert any(name not in of_super for name in both)
    assert set(losses.super_terms) == {"class", "box", "dfl"}
    kinds = {"class", "box", "dfl", "features"}
    assert set(losses.base_terms) == {"class", "box", "dfl"} | {f"distill_{k}" for k in kinds}
    torch.testing.assert_close(total(losses.base_terms), (0.2 * truth + 0.8 * taught).detach())


def test_every_parameter_learns(recipe: YoloRecipe, pictures: TrainingPictures) -> None:
    recipe.model.train()
    images, targets = pictures.batch(torch.arange(4))
    accumulate_gradients(recipe, images, targets, distill=True)
    for name, value in recipe.model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
    assert not any(p.requires_grad for n, p in recipe.model.named_parameters() if "dfl" in n)


def test_statistics_of_both_norm_sets_are_trained(
    recipe: YoloRecipe, pictures: TrainingPictures
) -> None:
    model = recipe.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, targets = pictures.batch(torch.arange(4))
    accumulate_gradients(recipe, images, targets, distill=False)
    after = model.state_dict()
    means = [name for name in before if name.endswith("running_mean")]
    assert any("bn_skip" in name for name in means)
    assert [name for name in means if torch.equal(before[name], after[name])] == []
    assert int(after["model.0.bn.num_batches_tracked"]) == 2
    assert int(after["model.3.bn.num_batches_tracked"]) == 1
    assert int(after["model.3.bn_skip.num_batches_tracked"]) == 1


def test_loss_falls_on_a_few_pictures(tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = tiny_config(tmp_path, steps=40, pictures=4, batch=4, warmup=5, learning_rate=2e-3)
    train(config, progress=seen.append)
    first, last = seen[:5], seen[-5:]
    # 0.65 to 0.75, whatever the seed: digits that training rounds away decide it.
    assert sum(p.super_loss for p in last) < 0.8 * sum(p.super_loss for p in first)
    before, after = (
        sum(p.base_terms[name] for p in part for name in ("class", "box", "dfl"))
        for part in (first, seen[15:20])
    )
    assert after < 0.9 * before
    assert "distill_box" not in seen[19].base_terms
    assert "distill_box" in seen[20].base_terms


def test_checkpoint_is_plain_and_fits_the_model(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=2, save_every=1)
    result = train(config)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]
    assert result.checkpoint.stat().st_size < 12e6
    content = torch.load(result.checkpoint, weights_only=True)
    assert set(content) == {
        "ema", "last_epoch", "class_names", "input_size", "network", "trained_norms", "train",
    }  # fmt: skip
    assert content["class_names"] == list(CLASS_NAMES)
    assert content["input_size"] == [64, 64]
    assert content["ema"]["updates"] == 2
    assert content["train"]["settings"] == dataclasses.asdict(config)
    assert content["train"]["call"] == f"train({config!r})"
    model = AnyDepthYOLO(TINY)
    model.load_state_dict(content["ema"]["module"], strict=True)
    model.eval()
    found = model.detect(torch.zeros(1, 3, 64, 64), "base")
    assert found["boxes"].isfinite().all()


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(tiny_config(tmp_path / "whole"))
    config = tiny_config(tmp_path / "parts", save_every=2)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(2))
    seen: list[Progress] = []
    parts = train(config, resume=True, progress=seen.append)
    assert [report.step for report in seen] == [3, 4]
    assert not config.partial.exists()
    a, b = (torch.load(r.checkpoint, weights_only=True)["ema"] for r in (whole, parts))
    assert a["updates"] == b["updates"] == 4
    for name, value in a["module"].items():
        torch.testing.assert_close(b["module"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_run_does_not_go_on_with_the_other_family(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, save_every=1)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(1))
    with pytest.raises(CheckpointError, match="family"):
        train(dataclasses.replace(config, family="anydepth-detr"), resume=True)


def test_a_second_round_starts_from_the_first(tmp_path: Path) -> None:
    first = train(tiny_config(tmp_path)).checkpoint
    second = tiny_config(
        tmp_path,
        output=str(tmp_path / "second.pth"),
        initial=str(first),
        steps=1,
        learning_rate=0.0,
    )
    before, after = (
        torch.load(path, weights_only=True)["ema"]["module"]
        for path in (first, train(second).checkpoint)
    )
    learned = [name for name, value in before.items() if value.dim() > 1]
    assert len(learned) > 100
    for name in learned:
        assert torch.allclose(before[name], after[name], atol=1e-7), name


def test_a_second_round_needs_no_counters_of_batches(tmp_path: Path, recipe: YoloRecipe) -> None:
    """What can be exported can be trained further, too."""
    weights = {
        name: value
        for name, value in recipe.model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    lean = tmp_path / "lean.pth"
    torch.save(weights, lean)
    load_model(read_checkpoint(lean))
    result = train(tiny_config(tmp_path, initial=str(lean), steps=1, learning_rate=0.0))
    after = torch.load(result.checkpoint, weights_only=True)["ema"]["module"]
    learned = [name for name, value in weights.items() if value.dim() > 1]
    assert all(torch.allclose(weights[name], after[name], atol=1e-7) for name in learned)

"""Norm swapping, schedule, data, whole runs, and the files they leave."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import InterruptedRunError, stop_after
from trained_networks import FAMILIES

from anydepth_deploy import train as train_package
from anydepth_deploy.commands.options import family_names
from anydepth_deploy.errors import CheckpointError, ImageError, UsageError
from anydepth_deploy.families import registry
from anydepth_deploy.families.detr.config import CONFIGS, deepen
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.boxes import cxcywh_to_xyxy
from anydepth_deploy.families.shared.detr.training.norms import unfreeze_norms
from anydepth_deploy.families.shared.norms import FrozenBatchNorm2d
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train import loop
from anydepth_deploy.train.clock import Recent
from anydepth_deploy.train.config import Progress, TrainConfig
from anydepth_deploy.train.data.order import epoch_order, step_generator
from anydepth_deploy.train.data.shapes import TrainingPictures, augment
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.loop import make_recipe, train
from anydepth_deploy.train.processes import ALONE
from anydepth_deploy.train.schedule import learning_rate_factor, parameter_groups
from anydepth_deploy.train.source import ShapesSource
from anydepth_deploy.train.step import StepLosses, Stepper
from anydepth_deploy.train.weights import load_stored_state, stored_state

TINY = deepen(CONFIGS["tiny"]).replace(input_size=(64, 64))


def tiny_config(folder: Path, **changes: object) -> TrainConfig:
    config = TrainConfig.for_family(
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


def randomize_norms(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for value in module.buffers():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)


@torch.no_grad()
def test_swapping_norms_keeps_the_function_and_the_names() -> None:
    torch.manual_seed(0)
    frozen = AnyDepthDETR(TINY)
    randomize_norms(frozen)
    frozen.eval()
    images = torch.rand(2, 3, 64, 64)
    skips = ((False,) * 4, (True,) * 4)
    expected = [frozen.backbone(images, skip) for skip in skips]
    state = {name: value.clone() for name, value in frozen.state_dict().items()}

    replaced = unfreeze_norms(frozen.backbone)
    assert "layer1.0.bn1_skip" in replaced
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    assert isinstance(frozen.backbone.bn1.weight, torch.nn.Parameter)
    for skip, wanted in zip(skips, expected, strict=True):
        for a, b in zip(frozen.backbone(images, skip), wanted, strict=True):
            torch.testing.assert_close(a, b)

    # And back: the converted state is exactly that of the frozen network.
    counters = {f"backbone.{name}.num_batches_tracked" for name in replaced}
    converted = stored_state(frozen.state_dict(), lambda name: name not in counters)
    assert set(converted) == set(state)
    again = AnyDepthDETR(TINY)
    again.load_state_dict(converted, strict=True)
    again.eval()
    for skip, wanted in zip(skips, expected, strict=True):
        for a, b in zip(again.backbone(images, skip), wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_loading_refuses_other_networks() -> None:
    recipe = make_recipe(TrainConfig.for_family(input_size=64))
    model = recipe.model
    state = stored_state(model.state_dict(), recipe.stores)
    load_stored_state(model, state, recipe.stores)
    without = {name: value for name, value in state.items() if name != "backbone.conv1.weight"}
    with pytest.raises(CheckpointError, match=r"missing backbone\.conv1\.weight"):
        load_stored_state(model, without, recipe.stores)
    with pytest.raises(CheckpointError, match="unexpected more"):
        load_stored_state(model, {**state, "more": torch.zeros(1)}, recipe.stores)
    with pytest.raises(CheckpointError, match="other shapes"):
        load_stored_state(
            model, {**state, "backbone.conv1.weight": torch.zeros(1, 3, 7, 7)}, recipe.stores
        )


def test_learning_rate_rises_then_falls() -> None:
    def factor(step: int) -> float:
        return learning_rate_factor(step, step / 1000, warmup=100, final=0.01)

    assert factor(0) == pytest.approx(0.01)
    assert factor(49) == pytest.approx(0.5, rel=0.01)
    assert factor(500) == pytest.approx(0.505)
    assert factor(1000) == pytest.approx(0.01)


def test_norms_and_biases_do_not_decay() -> None:
    model = make_recipe(TrainConfig.for_family(input_size=64)).model
    groups = parameter_groups(model, learning_rate=1.0, backbone_scale=0.1, weight_decay=0.5)
    seen = {
        id(value): (group["base_lr"], group["weight_decay"])
        for group in groups
        for value in group["params"]  # type: ignore[attr-defined]
    }
    named = dict(model.named_parameters())
    assert len(seen) == len(named)
    assert seen[id(named["backbone.conv1.weight"])] == (0.1, 0.5)
    assert seen[id(named["backbone.bn1.weight"])] == (0.1, 0.0)
    assert seen[id(named["decoder.enc_score_head.weight"])] == (1.0, 0.5)
    assert seen[id(named["decoder.enc_score_head.bias"])] == (1.0, 0.0)


def test_average_follows_the_formula() -> None:
    model = torch.nn.BatchNorm1d(1)
    ema = Ema(model, decay=0.9, warmup=2.0)
    expected = 1.0
    for n in range(1, 5):
        torch.nn.init.constant_(model.weight, float(n))
        assert model.num_batches_tracked is not None
        model.num_batches_tracked.add_(1)
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-n / 2.0))
        expected = decay * expected + (1 - decay) * n
    assert float(ema.state["weight"]) == pytest.approx(expected)
    assert int(ema.state["num_batches_tracked"]) == 4
    assert ema.updates == 4


def test_augmentation_moves_boxes_with_the_pixels() -> None:
    size = 16
    image = torch.zeros(64, size, size, 3, dtype=torch.uint8)
    image[:, 2:5, 3:11] = 200  # rows 2..4, columns 3..10
    box = torch.tensor([7.0, 3.5, 8.0, 3.0]) / size
    targets = Targets(torch.zeros(64, 1, dtype=torch.int64), box.repeat(64, 1, 1))
    images, moved = augment(image, targets, torch.Generator().manual_seed(0))
    corners = (cxcywh_to_xyxy(moved.boxes) * size).round().int()
    for picture, (x1, y1, x2, y2) in zip(images, corners[:, 0].tolist(), strict=True):
        expected = torch.zeros(size, size)
        expected[y1:y2, x1:x2] = 200
        torch.testing.assert_close(picture[..., 0].float(), expected)
    assert len(torch.unique(corners, dim=0)) == 8


def test_augmentation_permutes_colours_and_keeps_wide_pictures_wide() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).repeat(50, 4, 8, 1)
    targets = Targets(torch.zeros(50, 1, dtype=torch.int64), torch.full((50, 1, 4), 0.5))
    images, _ = augment(image, targets, torch.Generator().manual_seed(0))
    assert images.shape == image.shape
    assert len({tuple(colour.tolist()) for colour in images[:, 0, 0]}) == 6


def test_order_is_a_permutation_and_randomness_belongs_to_the_step() -> None:
    assert sorted(epoch_order(10, 0, 1).tolist()) == list(range(10))
    assert epoch_order(10, 0, 1).tolist() != epoch_order(10, 0, 2).tolist()
    draws = [torch.rand(1, generator=step_generator(0, step)).item() for step in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_training_pictures() -> None:
    drawn = render_many(3, seed=0, size=64)
    pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    images, targets = pictures.batch(torch.tensor([2, 0]))
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(
        images[0].permute(1, 2, 0).numpy(), drawn.images[2].astype(np.float32) / 255
    )
    count = len(drawn.labels[2])
    assert targets.labels[0, :count].tolist() == drawn.labels[2].tolist()
    found = cxcywh_to_xyxy(targets.boxes[0, :count]) * 64
    np.testing.assert_allclose(found.numpy(), drawn.boxes[2], atol=1e-3)
    with pytest.raises(ImageError, match="empty"):
        TrainingPictures.from_arrays(drawn.images[:0], [], [])
    with pytest.raises(ImageError, match="3 pictures, boxes of 2"):
        TrainingPictures.from_arrays(drawn.images, drawn.boxes[:2], drawn.labels)


def test_loss_falls_on_a_few_pictures(tmp_path: Path) -> None:
    losses: list[Progress] = []
    config = tiny_config(
        tmp_path, steps=24, pictures=2, batch=2, warmup=3, learning_rate=2e-3, denoising=8
    )
    result = train(config, progress=losses.append)
    assert [p.step for p in losses] == list(range(1, 25))
    assert losses[-1].fraction == 1.0
    first, last = losses[:4], losses[-4:]
    assert sum(p.super_loss for p in last) < 0.9 * sum(p.super_loss for p in first)
    for term in ("l1", "giou"):  # the sum of base changes its meaning when distillation starts
        before, after = (sum(p.base_terms[term] for p in part) for part in (first, losses[8:12]))
        assert after < 0.9 * before
    assert "distill_l1" not in losses[11].base_terms
    assert "distill_l1" in losses[12].base_terms
    assert result.steps == 24
    assert result.pictures_per_second > 0


def test_checkpoint_is_plain_and_fits_the_model(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=2, save_every=1)
    result = train(config)
    assert result.checkpoint == tmp_path / "tiny.pth"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]
    assert result.checkpoint.stat().st_size < 12e6
    content = torch.load(result.checkpoint, weights_only=True)
    beside = {"last_epoch", "class_names", "input_size", "network", "trained_norms", "train"}
    assert set(content) == {"ema", *beside}
    assert content["trained_norms"] is True
    assert content["class_names"] == list(CLASS_NAMES)
    assert content["input_size"] == [64, 64]
    assert content["ema"]["updates"] == 2
    assert content["train"]["settings"] == dataclasses.asdict(config)
    assert content["train"]["call"] == f"train({config!r})"
    model = AnyDepthDETR(TINY)
    model.load_state_dict(content["ema"]["module"], strict=True)
    model.eval()
    found = model.detect(torch.zeros(1, 3, 64, 64), "base")
    assert found["boxes"].isfinite().all()


def test_both_sets_of_weights_on_request(tmp_path: Path) -> None:
    result = train(tiny_config(tmp_path, steps=1, ema_only=False))
    content = torch.load(result.checkpoint, weights_only=True)
    AnyDepthDETR(TINY).load_state_dict(content["model"], strict=True)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    every: list[Progress] = []
    whole = train(tiny_config(tmp_path / "whole"), progress=every.append)
    config = tiny_config(tmp_path / "parts", save_every=2)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(2))
    assert not Path(config.output).exists()
    # What is left can be evaluated as it is.
    partial = torch.load(config.partial, weights_only=True)
    AnyDepthDETR(TINY).load_state_dict(partial["ema"]["module"], strict=True)
    seen: list[Progress] = []
    parts = train(config, resume=True, progress=seen.append)
    assert [report.step for report in seen] == [3, 4]
    assert not config.partial.exists()
    a, b = (torch.load(r.checkpoint, weights_only=True)["ema"] for r in (whole, parts))
    assert a["updates"] == b["updates"] == 4
    for name, value in a["module"].items():
        torch.testing.assert_close(b["module"][name], value, rtol=1e-5, atol=1e-6, msg=name)
    # The figures are those of all four steps, not of the two since the interruption.
    assert [report.step for report in every] == [1, 2, 3, 4]
    for result in (whole, parts):
        figures = torch.load(result.checkpoint, weights_only=True)["train"]["figures"]
        for name in ("super_loss", "base_loss"):
            mean = sum(getattr(report, name) for report in every) / 4
            assert figures[name] == pytest.approx(mean, rel=1e-4)
            assert getattr(result, name) == figures[name]
        rate = 4 * config.batch / result.seconds
        assert figures["pictures_per_second"] == pytest.approx(rate, rel=0.1)


def test_a_run_is_resumed_that_kept_no_losses(tmp_path: Path) -> None:
    """As files of earlier versions: the mean is that of the steps since then."""
    config = tiny_config(tmp_path, steps=2, save_every=1)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(1))
    content = torch.load(config.partial, weights_only=True)
    assert len(content.pop("losses")) == 1
    torch.save(content, config.partial)
    seen: list[Progress] = []
    result = train(config, resume=True, progress=seen.append)
    assert [(result.super_loss, result.base_loss)] == [(p.super_loss, p.base_loss) for p in seen]


def test_losses_are_means_of_the_last_hundred_steps_wherever_a_run_is_cut() -> None:
    """Cut at random steps, against the mean of what was reported."""
    draw = np.random.default_rng(3)
    for _ in range(20):
        losses = draw.uniform(0, 50, (int(draw.integers(1, 260)), 2))
        cuts = sorted(draw.integers(0, len(losses), 3).tolist())
        recent = Recent()
        for step, (one, other) in enumerate(losses.tolist()):
            if step in cuts:
                recent = Recent(recent.losses)
            recent.add(progress_of(step, one, other))
        found = (recent.super_loss, recent.base_loss)
        assert found == pytest.approx(tuple(losses[-100:].mean(axis=0)))


def progress_of(step: int, super_loss: float, base_loss: float) -> Progress:
    return Progress(
        step=step,
        steps=None,
        fraction=0.0,
        seconds=0.0,
        learning_rate=0.0,
        super_loss=super_loss,
        base_loss=base_loss,
        super_terms={},
        base_terms={},
        pictures_per_second=0.0,
    )


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, save_every=1)
    with pytest.raises(CheckpointError, match="no unfinished run"):
        train(config, resume=True)
    with pytest.raises(InterruptedRunError):
        train(config, progress=stop_after(1))
    with pytest.raises(CheckpointError, match=r"seed \(0, now 5\)"):
        train(dataclasses.replace(config, seed=5), resume=True)
    config.partial.write_bytes(config.partial.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read as an unfinished run"):
        train(config, resume=True)


def test_minutes_end_a_run(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(tiny_config(tmp_path, minutes=0.5 / 60), progress=seen.append)
    assert seen[-1].fraction == 1.0
    assert seen[-1].steps is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 50}, "multiples of 32, found 50x50"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"output": "a.safetensors"}, "output a.safetensors ends in .safetensors: expected a fold"),
        ({"output": "a.PTH"}, "ends in .PTH: expected a folder, or one file that ends in .pth"),
        ({"minutes": math.inf}, "minutes must be positive"),
        ({"ground_truth_share": 1.5}, "within 0..1"),
        ({"learning_rate": math.inf}, "learning_rate must be a number of at least 0, found inf"),
        ({"clip": math.nan}, "clip must be a number of at least 0, found nan"),
        ({"clip": -1.0}, "clip must be a number of at least 0"),
        ({"weight_decay": math.nan}, "weight_decay must be a number"),
        ({"backbone_scale": math.nan}, "backbone_scale must be a number"),
        ({"epochs": 0}, "epochs must be at least 1, found 0"),
        ({"denoising": -1}, "denoising must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig.for_family(**changes)  # type: ignore[arg-type]


def test_an_epoch_is_of_the_pictures_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of as many as the settings would draw; a batch may be larger than the set."""
    losses = StepLosses({}, {}, 2.0, 1.0)
    monkeypatch.setattr(Stepper, "step", lambda *arguments, **options: losses)
    drawn = render_many(5, seed=0, size=64, processes=1)
    given = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    for batch, steps in ((2, 8), (8, 2)):
        config = tiny_config(tmp_path, epochs=3, pictures=16000, batch=batch)
        result = train(config, pictures=given)
        assert result.steps == steps
    content = torch.load(result.checkpoint, weights_only=True)
    assert content["last_epoch"] == 3


def test_shapes_are_left_as_they_are_on_request() -> None:
    drawn = render_many(4, seed=0, size=64, processes=1)
    given = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    for augmented in (True, False):
        config = TrainConfig.for_family(input_size=64, batch=4, augment=augmented)
        images, targets = next(ShapesSource(config, ALONE, given).steps(0)).batches[0]
        plain, objects = given.batch(epoch_order(4, 0, 0))
        assert torch.equal(images, plain) is not augmented
        assert torch.equal(targets.boxes, objects.boxes) is not augmented


def test_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'huge': choose one of"):
        train(tiny_config(tmp_path, model="huge"))


def test_families_that_can_be_trained() -> None:
    assert set(registry.BUILT_IN) == set(family_names()) > set(FAMILIES)
    assert {"anydepth-detr", "anydepth-yolo"} <= set(FAMILIES)
    with pytest.raises(UsageError, match="family 'yolov12' cannot be trained: choose one of any"):
        TrainConfig.for_family("yolov12")
    for family in FAMILIES:
        model = loop.make_recipe(TrainConfig.for_family(family=family, input_size=64)).model
        assert isinstance(model, AnyDepthModel)
        assert model.family == family


def test_a_family_without_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig.for_family("anydepth-yolo")
    untrained = dataclasses.replace(registry.find_family("anydepth-yolo"), training=None)
    monkeypatch.setattr(registry, "_load", lambda entry: untrained)
    for make in (lambda: make_recipe(config), lambda: TrainConfig.for_family("anydepth-yolo")):
        with pytest.raises(UsageError, match="family 'anydepth-yolo' cannot be trained: choose"):
            make()


def test_public_names() -> None:
    for name in train_package.__all__:
        assert getattr(train_package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        train_package.nothing  # noqa: B018


def test_a_missing_package_names_its_extra() -> None:
    code = (
        "import sys; sys.modules['scipy'] = None; sys.modules['scipy.optimize'] = None\n"
        "from anydepth_deploy.errors import MissingExtraError\n"
        "from anydepth_deploy.train import TrainConfig, train\n"
        "try:\n    train(TrainConfig.for_family('anydepth-detr'))\n"
        "except MissingExtraError as error:\n    print(error)\n"
        "sys.modules['torch'] = None\n"
        "for name in [name for name in sys.modules if name.startswith('anydepth_deploy.train')]:\n"
        "    del sys.modules[name]\n"
        "try:\n    from anydepth_deploy.train import train\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("anydepth-deploy[train]") == 2


def test_a_second_round_starts_from_the_first(tmp_path: Path) -> None:
    first = train(tiny_config(tmp_path)).checkpoint
    second = tiny_config(
        tmp_path,
        output=str(tmp_path / "second.pth"),
        initial=str(first),
        steps=1,
        learning_rate=0.0,
    )
    weights = [
        torch.load(path, weights_only=True)["ema"]["module"]
        for path in (first, train(second).checkpoint)
    ]
    learned = [name for name, value in weights[0].items() if value.dim() > 1]
    assert len(learned) > 100
    for name in learned:
        assert torch.allclose(weights[0][name], weights[1][name], atol=1e-7), name


def test_a_second_round_needs_a_checkpoint_of_the_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        train(tiny_config(tmp_path, initial=str(tmp_path / "none.pth")))

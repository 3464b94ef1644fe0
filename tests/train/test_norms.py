"""Norm statistics measured anew: the numbers themselves, and a checkpoint that gains by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from command_line import Run, fails
from PIL import Image
from torch import Tensor, nn
from trained_networks import CHECKPOINTS, ONE_SET

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.pictures.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.start import open_start
from anydepth_deploy.train.statistics import measure_statistics, norm_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures to measure on, and others with annotations. Read only."""
    folder = tmp_path_factory.mktemp("norms")
    write_coco(folder / "pool", 64, 9, "train")
    write_coco(folder / "val", 16, 9, "val")
    return folder


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.rand(2, 3, 96, 160, generator=generator) for _ in range(count)]


def seen_by(model: nn.Module, path: str, depth: str, images: Sequence[Tensor]) -> Tensor:
    """What arrives at a norm, [pixels, channels]."""
    arrived: list[Tensor] = []
    norm = model.get_submodule(path)
    hook = norm.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[0]))
    with torch.no_grad():
        for one in images:
            model(one, depth)
    hook.remove()
    return torch.cat([x.double().movedim(1, -1).flatten(0, -2) for x in arrived])


def test_statistics_are_those_of_all_pictures_in_each_mode() -> None:
    """Batches of equal size: means within and between them add up to those of everything."""
    config = TrainConfig.for_family(
        "anydepth-detr", initial=str(ONE_SET), denoising=0, train_norms=True
    )
    model = open_start(config, CLASS_NAMES).model.eval()
    added = [name for name, _ in model.named_modules() if name.endswith("downsample_skip")]
    added += [f"decoder.input_proj.{level}.norm_skippable" for level in range(3)]
    assert len(added) == 7
    sets = norm_sets(model, added)
    assert list(sets.second) == [name for name, _ in model.named_modules() if name in added]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = batches(3)
    measure_statistics(model, sets, images)
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    paths = [*sets.first, *sets.second]
    assert changed == {f"{path}.{part}" for path in paths for part in RUNNING}
    assert not any(norm.training for norm in (*sets.first.values(), *sets.second.values()))
    # The first of each mode: nothing that was measured stands before it.
    for path, depth in (
        ("backbone.layer1.0.downsample.1", "super"),
        ("backbone.layer1.0.downsample_skip", "base"),
    ):
        x = seen_by(model, path, depth, images)
        norm = model.get_submodule(path)
        torch.testing.assert_close(norm.running_mean.double(), x.mean(0), rtol=1e-4, atol=1e-5)
        variance = x.var(0, correction=0)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-3, atol=1e-5)


RUNNING = ("running_mean", "running_var")


def test_what_follows_sees_what_it_will_see(folder: Path) -> None:
    """One batch: afterwards every measured norm gives exactly what it promises, mean 0 and
    variance 1 before its own scale, though those before it were measured, too."""
    config = TrainConfig.for_family(
        "anydepth-detr", initial=str(ONE_SET), denoising=0, train_norms=True
    )
    model = open_start(config, CLASS_NAMES).model.eval()
    sets = norm_sets(model, [])
    assert len(sets) > 40
    images = batches(1)
    measure_statistics(model, sets, images)
    for norms, depth in ((sets.first, "super"), (sets.second, "base")):
        path = list(norms)[-1]
        x = seen_by(model, path, depth, images)
        norm = norms[path]
        assert norm.running_mean is not None
        torch.testing.assert_close(norm.running_mean.double(), x.mean(0), rtol=1e-2, atol=1e-3)


def test_the_trained_tiny_detr_gains(run: Run, folder: Path, tmp_path: Path) -> None:
    """Weights untouched, and base better by more than a point: published as +2.7."""
    out = tmp_path / "better.pth"
    checkpoint = ONE_SET
    options = ["--images", folder / "pool", "--count", 32, "--out", out]
    measured = ["--data", folder / "val" / "annotations.json", "--json"]
    found = run("norms", checkpoint, *options, *measured).json
    assert (found["second_sets_added"], found["norms"], found["pictures"]) == (7, 14, 32)
    assert found["measure"] == "AP"
    assert found["helps"]
    base, *_, top = found["depths"]
    assert (base["depth"], top["depth"]) == ("TTTT-T-3", "FFFF-F-3")
    assert base["after"] > base["before"] + 1
    assert any("fewer than 128" in note for note in found["notes"])

    old, new = (read_checkpoint(path) for path in (checkpoint, out))
    load_model(new)
    same = [key for key in old.state if not key.endswith(RUNNING)]
    assert len(same) > 400
    assert all(torch.equal(old.state[key], new.state[key]) for key in same)
    key = "decoder.input_proj.0.norm{}.running_var"
    blend, full, skipped = (
        float(state[key.format(part)].mean())
        for state, part in ((old.state, ""), (new.state, ""), (new.state, "_skippable"))
    )
    assert skipped < blend < full
    assert (new.class_names, new.input_size) == (list(CLASS_NAMES), (160, 160))

    bundle = tmp_path / "bundle"
    assert run("export", out, "--out", bundle, "--json").code == 0
    rows = run("eval", bundle, *measured).json["rows"]
    for row, depth in zip(rows, found["depths"], strict=True):
        assert row["ap"] == pytest.approx(depth["after"], abs=0.3)
    assert run("verify", bundle, "--checkpoint", out, "--json").json["passed"]


def test_without_labels_agreement_with_super_is_measured(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "better.pth"
    options = ["--images", folder / "pool", "--count", 24, "--out", out, "--json"]
    found = run("norms", ONE_SET, *options).json
    assert found["measure"] == "agreement"
    assert [depth["depth"] for depth in found["depths"]] == ["TTTT-T-3", "TTTT-F-3", "FFTT-F-3"]
    assert 50 < found["depths"][0]["before"] < found["depths"][0]["after"] < 100
    assert out.exists()


def test_where_it_does_not_help_nothing_is_written(run: Run, folder: Path, tmp_path: Path) -> None:
    """Measured by the classes that there are pictures of."""
    out = tmp_path / "same.pth"
    annotations = folder / "val" / "annotations.json"
    content = json.loads(annotations.read_text(encoding="utf-8"))
    gone = content["categories"].pop()
    kept = [item for item in content["annotations"] if item["category_id"] != gone["id"]]
    (tmp_path / "fewer.json").write_text(json.dumps({**content, "annotations": kept}))
    options = [
        "--images", folder / "pool", "--count", 32, "--out", out,
        "--data", tmp_path / "fewer.json", "--data-images", annotations.parent,
    ]  # fmt: skip
    shown = run("norms", CHECKPOINTS["anydepth-yolo"], *options)
    assert shown.code == 1
    assert "do not help" in shown.err
    assert "nothing was written" in shown.err
    assert not out.exists()
    forced = run("norms", CHECKPOINTS["anydepth-yolo"], *options, "--force", "--json").json
    assert (forced["checkpoint"], forced["helps"]) == (str(out), False)
    told = f"counts in no figure: {gone['name']}"
    assert any(told in note for note in forced["notes"])
    load_model(read_checkpoint(out))


def test_what_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    detr = ONE_SET
    out = ["--out", tmp_path / "out.pth"]
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(run("norms", detr, "--images", empty, *out), 2, str(empty))
    fails(run("norms", detr, "--images", tmp_path / "none", *out), 2, "none")
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (90, 90, 90)).save(grey / f"{number}.png")
    fails(run("norms", detr, "--images", grey, *out), 2, "super finds nothing in 2 of them")
    state = read_checkpoint(CHECKPOINTS["anydepth-yolo"]).state
    plain = tmp_path / "plain.pth"
    torch.save({key: value for key, value in state.items() if "_skip." not in key}, plain)
    fails(run("norms", plain, "--images", folder / "pool", *out), 2, "skips nothing that has norms")
    assert not (tmp_path / "out.pth").exists()

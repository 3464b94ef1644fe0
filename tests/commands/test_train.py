"""The command ``train`` on pictures in files: from a static network to detections at a depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, fails
from PIL import Image

from anydepth_deploy import train as train_package
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.pictures.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.train.config import TrainConfig, TrainResult
from anydepth_deploy.trained import checkpoint_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in files, and a static network. Read only."""
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder / "train", 8, 3, "train", size=96)
    write_coco(folder / "val", 3, 3, "val", size=96)
    family = find_family("rt-detr")
    torch.manual_seed(0)
    model = family.build(family.sizes["tiny"])
    assert family.training is not None
    family.training.initialise(model)
    torch.save({"ema": {"module": model.state_dict()}}, folder / "static.pth")
    return folder


def words(data: Path, *more: object) -> list[object]:
    return [
        "train", "--data", data / "train" / "annotations.json", "--val-data",
        data / "val" / "annotations.json", "--initial", data / "static.pth", "--batch", 4,
        "--workers", 0, "--threads", 1, "--size", "64x96", *more,
    ]  # fmt: skip


def test_from_a_static_network_to_a_bundle(run: Run, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    found = run(*words(data, "--out", folder, "--epochs", 1, "--json")).json
    assert found["checkpoint"] == str(folder / "best.pth")
    assert (found["steps"], list(found["accuracy"])) == (2, ["T-T-3", "T-F-3", "F-F-3"])
    assert any("got a second set" in note for note in found["notes"])
    kept = read_checkpoint(folder / "best.pth")
    assert (kept.family.name, kept.input_size) == ("rt-detr", (64, 96))
    assert kept.assumed == {}

    bundle = tmp_path / "bundle"
    assert run("export", folder / "best.pth", "--out", bundle, "--json").code == 0
    checked = run("verify", bundle, "--checkpoint", folder / "best.pth", "--every", "--json").json
    assert checked["passed"]
    rows = run(
        "eval", bundle, "--data", data / "val" / "annotations.json", "--json"
    ).json["rows"]  # fmt: skip
    assert {row["depth"]: row["ap"] for row in rows} == pytest.approx(found["accuracy"], abs=0.5)

    # Once more: refused; and with --resume it is finished already, whatever else is named.
    fails(run(*words(data, "--out", folder, "--epochs", 1)), 2, "holds a run already: --resume")
    again = run("train", "--out", folder, "--resume", "--json")
    assert (again.code, again.json["steps"]) == (0, 2)
    shown = run("train", "--out", folder, "--resume", "--seed", 3)
    fails(shown, 2, "was started with other settings: seed (0, now 3)")


def test_what_a_person_sees(run: Run, data: Path, tmp_path: Path) -> None:
    shown = run(*words(data, "--out", tmp_path / "one", "--steps", 2))
    assert shown.code == 0
    assert "average precision of that checkpoint" in shown.out
    assert "step 2: AP T-T-3 " in shown.err
    assert "got a second set, a copy of the first" in shown.err


def test_settings_suit_what_is_given(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainConfig] = []

    def fake(config: TrainConfig, **_: object) -> TrainResult:
        asked.append(config)
        return TrainResult(Path(config.output), 1, 1.5, 8.0, 2.0, 3.0)

    monkeypatch.setattr(train_package, "train", fake, raising=False)

    def settings(*options: object) -> TrainConfig:
        assert run("train", "--out", tmp_path / "run", *options).code == 0
        return asked[-1]

    shapes = settings()
    assert (shapes.family, shapes.steps, shapes.epochs) == ("anydepth-detr", 5000, None)
    assert (shapes.learning_rate, shapes.ground_truth_share, shapes.threads) == (1e-3, 0.1, 1)
    found = settings("--data", data / "a.json", "--initial", data / "static.pth")
    assert (found.family, found.epochs, found.threads) == ("rt-detr", 24, 0)
    assert found.input_size == (160, 160)
    assert (found.learning_rate, found.backbone_scale, found.ground_truth_share) == (1e-4, 0.1, 0)
    yaml = settings("--data", data / "data.yaml", "--model", "s", "--family", "d-fine")
    assert (yaml.val_data, yaml.input_size) == (str(data / "data.yaml"), (640, 640))
    said = settings("--initial", data / "static.pth", "--decoder-activation", "silu")
    assert said.said == {"decoder_activation": "silu"}
    assert settings("--freeze-norms").train_norms is False
    assert settings().train_norms is None
    teacher = settings("--teacher", data, "--semantic-share", 3.5)
    assert (teacher.teacher, teacher.semantic_share) == (str(data), 3.5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--epochs", 1, "--steps", 2), "--epochs and --steps: two lengths of one run"),
        (("--size", "50x64"), "input_size must be two multiples of 32, found 50x64"),
        (("--size", "64,96"), "is not HEIGHTxWIDTH"),
        (("--accumulate", 3), "a batch of 4 cannot be cut into 3 equal parts"),
        (("--device", "tpu"), "unknown device 'tpu': expected cpu, cuda or cuda:N"),
        (("--device", "cpu", "--precision", "fp16"), "fp16 is for GPUs"),
        (("--static", "--initial", "DETR"), "--static: checkpoint"),
        (("--teacher", "nowhere"), "nowhere"),
        (("--data", "none.json"), "annotations none.json do not exist"),
        (("--val-data", "none.json"), "annotations none.json do not exist"),
        (("--images", "nowhere"), "are not there"),
        (("--family", "d-fine"), "is of rt-detr tiny, this run trains d-fine"),
        (("--decoder-activation", "silu", "--initial", "DETR"), "has no such choice"),
    ],
)
def test_what_is_refused(
    run: Run, data: Path, tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    detr = checkpoint_of("anydepth-detr")
    given = [detr if word == "DETR" else word for word in options]
    fails(run(*words(data, "--out", tmp_path / "run"), *given), 2, told)
    assert not (tmp_path / "run").exists()


def test_pictures_that_cannot_be_read_are_counted(run: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "train", 6, 3, "train", size=64)
    (tmp_path / "train" / "000002.png").write_bytes(b"nothing")
    command = [
        "train", "--data", tmp_path / "train" / "annotations.json", "--steps", 3, "--batch", 4,
        "--workers", 0, "--size", "64", "--family", "anydepth-yolo", "--out", tmp_path / "one",
    ]  # fmt: skip
    found = run(*command, "--json").json
    assert [Path(name).name for name in found["skipped"]] == ["000002.png"]
    (tmp_path / "train" / "000003.png").write_bytes(b"")
    fails(run(*command[:-1], tmp_path / "two"), 2, "2 of 6 pictures cannot be used")


def test_a_yolo_data_set_with_classes_of_its_own(run: Run, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "images" / part).mkdir(parents=True)
        (tmp_path / "labels" / part).mkdir(parents=True)
        for number in range(4):
            picture = Image.new("RGB", (80, 64), (40 * number, 90, 120))
            picture.paste((250, 10, 10), (20, 16, 60, 48))
            picture.save(tmp_path / "images" / part / f"{number}.png")
            (tmp_path / "labels" / part / f"{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: [cat, brick]\n"
        'download: python -c \'open("ran", "w")\'\n'
    )
    detr = checkpoint_of("anydepth-detr")
    found = run(
        "train", "--data", tmp_path / "data.yaml", "--initial", detr, "--steps", 2, "--batch", 2,
        "--size", "64", "--workers", 0, "--out", tmp_path / "run.pth", "--json",
    ).json  # fmt: skip
    assert any("made anew for 2 classes; before: 8" in note for note in found["notes"])
    assert list(found["accuracy"]) == ["TTTT-T-3", "TTTT-F-3", "FFTT-F-3", "FFFF-F-3"]
    kept = read_checkpoint(tmp_path / "run.pth")
    assert kept.class_names == ["cat", "brick"]
    assert not list(tmp_path.rglob("ran"))


def test_json_is_all_there_is(run: Run, data: Path, tmp_path: Path) -> None:
    shown = run(*words(data, "--out", tmp_path / "run.pth", "--steps", 1, "--json"))
    content: dict[str, Any] = json.loads(shown.out)
    assert set(content) - {"schema_version"} == {
        "checkpoint", "steps", "seconds", "pictures_per_second", "super_loss", "base_loss",
        "accuracy", "skipped", "notes",
    }  # fmt: skip
    assert read_checkpoint(tmp_path / "run.pth").class_names == list(CLASS_NAMES)

"""Replacing a bundle keeps what it was made with, but for what is named anew.

The oracle is a dictionary: what was named first, overwritten by what was named then.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, fails
from conftest import RUNGS, random_detr
from edited_bundles import contents
from fuzzing import FACTOR
from handmade import FakeGraphs, manifest

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.exporting.kept import Kept, keeping
from anydepth_deploy.families.yolo.config import CONFIGS as YOLO_CONFIGS
from anydepth_deploy.families.yolo.model import AnyDepthYOLO
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.suppression import Suppression

USUAL = {"input_size": (160, 160), "ladder": ",".join(RUNGS), "classes": "class"}
SHORT = f"{RUNGS[0]},{RUNGS[3]}"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """Export without torch's exporter."""
    return FakeGraphs().install(monkeypatch)


def classes_file(folder: Path, word: str) -> Path:
    path = folder / f"{word}.txt"
    path.write_text("".join(f"{word} {index}\n" for index in range(8)))
    return path


def settings(found: Manifest) -> dict[str, Any]:
    """What of an export the options of the test can name."""
    return {
        "input_size": found.preprocess.size,
        "ladder": ",".join(found.ladder),
        "classes": found.classes[3].removesuffix(" 3"),
    }


def names(folder: Path) -> list[str]:
    return [item.name for item in open_bundle(folder).manifest.artifacts]


@pytest.mark.parametrize("seed", range(3 * FACTOR))
def test_what_is_not_named_is_kept(
    tmp_path: Path, checkpoint: Path, fake: FakeGraphs, seed: int
) -> None:
    rng = random.Random(seed)
    out = tmp_path / "b"
    choices: dict[str, list[Any]] = {
        "input_size": [(96, 128), (64, 64), (160, 160)],
        "ladder": [SHORT, ",".join(RUNGS), f"{RUNGS[0]},{RUNGS[2]},{RUNGS[3]}"],
        "classes": ["thing", "kind", "class"],
    }
    wanted = dict(USUAL)
    for _ in range(3):
        named = {what: rng.choice(found) for what, found in choices.items() if rng.random() < 0.4}
        options = dict(named)
        if "classes" in named:
            options["classes"] = classes_file(tmp_path, named["classes"])
        wanted |= named
        found = export_bundle(checkpoint, out, force=True, **options)
        assert settings(found.manifest) == wanted
        assert found.artifacts("gated")


def test_force_and_classes_keep_everything_else(
    run: Run, checkpoint: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    command = ["export", checkpoint, "--out", out]
    run(*command, "--size", "96x128", "--ladder", SHORT, "--layout", "gated,set", "--raw")
    before = contents(out)
    made = list(fake.saved)
    file = classes_file(tmp_path, "thing")
    fails(run(*command, "--classes", file), 2, "holds another export", "--force, which keeps")
    found = run(*command, "--classes", file, "--force", "--json").json
    assert found["classes"] == [f"thing {index}" for index in range(8)]
    assert found["input_size"] == [96, 128]
    assert [row["depth"] for row in found["depths"] if row["level"] is not None] == SHORT.split(",")
    note, size = found["notes"]
    assert "the input of 96x128 (height x width)" in size
    rungs = ", ".join(SHORT.split(","))
    assert note == (f"kept from the bundle that was replaced: input size 96x128; ladder {rungs}")
    # No graph depends on names: all of them stay, byte for byte, raw outputs included.
    assert fake.saved == made
    assert [item["raw"] for item in found["artifacts"]] == [True] * 3
    after = contents(out)
    assert {name: item for name, item in after.items() if name != MANIFEST} == {
        name: item for name, item in before.items() if name != MANIFEST
    }

    shown = run(*command, "--classes", file, "--force")
    assert note in shown.out


def test_results_of_what_stays_are_kept_and_accuracy_is_not(
    tmp_path: Path, checkpoint: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    bundle = export_bundle(checkpoint, out)
    for kind in ("verify", "eval", "bench"):
        bundle.record(kind, {"kind": kind})
    found = export_bundle(checkpoint, out, classes=classes_file(tmp_path, "thing"), force=True)
    assert found.manifest.results == {"verify": [{"kind": "verify"}], "bench": [{"kind": "bench"}]}


def test_another_size_makes_graphs_anew_and_says_what_is_gone(
    run: Run, checkpoint: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    command = ["export", checkpoint, "--out", out]
    run(*command, "--layout", "gated,set", "--depth", "all", "--precision", "fp32,fp16")
    gated = "gated-fp32-shared"
    lost = [name for name in names(out) if name != gated]
    assert len(lost) == 9
    found = run(*command, "--size", "96x128", "--force", "--json").json
    assert [item["name"] for item in found["artifacts"]] == [gated]
    note, size = found["notes"]
    assert "the input of 96x128 (height x width)" in size
    told = "replaced, and to be made again where needed: "
    assert note == f"{told}{', '.join(lost[:6])} and 3 more"


def test_the_same_export_by_force_adds(
    run: Run, checkpoint: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    run("export", checkpoint, "--out", out, "--size", "96x128")
    found = run(
        "export",
        checkpoint,
        "--out",
        out,
        "--force",
        "--layout",
        "set",
        "--depth",
        "base",
        "--json",
    ).json
    assert found["input_size"] == [96, 128]
    assert [item["name"] for item in found["artifacts"]] == [
        "gated-fp32-shared",
        f"static-fp32-{RUNGS[0]}",
    ]


def test_the_usual_is_nothing_to_tell(
    run: Run, checkpoint: Path, tmp_path: Path, fake: FakeGraphs
) -> None:
    for _ in range(2):
        found = run("export", checkpoint, "--out", tmp_path / "b", "--force", "--json").json
        assert found["notes"] == []


def test_how_pictures_are_resized_is_kept(
    tmp_path: Path, checkpoint: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    content = json.loads((out / MANIFEST).read_text())
    content["preprocess"].update(resize="letterbox", antialias=False)
    (out / MANIFEST).write_text(json.dumps(content))
    notes: list[str] = []
    found = export_bundle(checkpoint, out, input_size=(96, 128), force=True, note=notes.append)
    recipe = found.manifest.preprocess
    assert (recipe.resize, recipe.antialias, recipe.size) == ("letterbox", False, (96, 128))
    assert notes[0] == "kept from the bundle that was replaced: resizing letterbox"
    assert "the input of 96x128" in notes[1]


# --- suppression -----------------------------------------------------------------------------

RULES: list[dict[str, Any]] = [
    {},
    {"where": "host"},
    {"score_threshold": 0.25},
    {"iou_threshold": 0.5},
    {"where": "graph", "iou_threshold": 0.6},
    {"where": "host", "score_threshold": 0.1, "iou_threshold": 0.4},
]


@pytest.mark.parametrize("first", RULES)
@pytest.mark.parametrize("then", RULES)
def test_settings_of_suppression_are_kept_one_by_one(
    yolo_model: AnyDepthYOLO, first: dict[str, Any], then: dict[str, Any]
) -> None:
    previous = manifest(
        suppression=Suppression(**first), raw_outputs={"predictions": "head.predictions"}
    )
    rule = Suppression(**then) if then else None
    found = Kept(previous).suppression(yolo_model, rule)
    usual = {"where": "graph", "score_threshold": 0.001, "iou_threshold": 0.7}
    assert found is not None
    assert found.model_dump() == {**usual, **first, **then}


def test_suppression_of_a_bundle_is_kept(
    run: Run, tmp_path: Path, yolo_checkpoint: Path, fake: FakeGraphs
) -> None:
    command = ["export", yolo_checkpoint, "--out", tmp_path / "b", "--force"]
    assert run(*command, "--nms", "host", "--nms-iou", "0.6").code == 0
    found = run(*command, "--nms-score", "0.25", "--json").json["suppression"]
    assert found == {"where": "host", "score_threshold": 0.25, "iou_threshold": 0.6}


def test_a_suppression_that_is_left_out_has_no_thresholds(
    run: Run, tmp_path: Path, yolo_checkpoint: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    command = ["export", yolo_checkpoint, "--out", out, "--force"]
    assert run(*command, "--nms", "none").code == 0
    before = contents(out)
    fails(run(*command, "--nms-score", "0.1"), 2, "leaves suppression out", "--nms graph or host")
    assert contents(out) == before
    assert run(*command, "--json").json["suppression"]["where"] == "none"
    found = run(*command, "--nms", "host", "--nms-score", "0.1", "--json").json["suppression"]
    assert found == {"where": "host", "score_threshold": 0.1, "iou_threshold": 0.7}


# --- other checkpoints -----------------------------------------------------------------------


def test_another_file_of_the_same_network(
    tmp_path: Path, checkpoint: Path, fake: FakeGraphs
) -> None:
    """What it says of itself comes first; else the bundle's settings stay."""
    out = tmp_path / "b"
    state = random_detr(seed=5).state_dict()
    silent, telling = tmp_path / "silent.pth", tmp_path / "telling.pth"
    torch.save({"model": state}, silent)
    own = [f"own {index}" for index in range(8)]
    torch.save({"model": state, "class_names": own, "input_size": [64, 96]}, telling)
    thing = classes_file(tmp_path, "thing")
    export_bundle(checkpoint, out, input_size=(96, 128), ladder=SHORT, classes=thing)

    found = export_bundle(silent, out, force=True)
    assert settings(found.manifest) == {
        "input_size": (96, 128),
        "ladder": SHORT,
        "classes": "thing",
    }
    assert len(found.artifacts()) == 1
    assert fake.saved == ["gated shared"] * 2
    found = export_bundle(telling, out, force=True)
    assert settings(found.manifest) == {"input_size": (64, 96), "ladder": SHORT, "classes": "own"}
    # Named, it is kept for this file too.
    found = export_bundle(telling, out, force=True, input_size=(96, 96), classes=thing)
    found = export_bundle(telling, out, force=True)
    assert settings(found.manifest) == {
        "input_size": (96, 96),
        "ladder": SHORT,
        "classes": "thing",
    }


def test_nothing_is_kept_of_another_network(
    tmp_path: Path, checkpoint: Path, yolo_checkpoint: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    export_bundle(checkpoint, out, input_size=(96, 128), ladder=SHORT)
    found = export_bundle(yolo_checkpoint, out, force=True)
    config = YOLO_CONFIGS["tiny"]
    assert found.manifest.family == "anydepth-yolo"
    assert (found.size, tuple(found.manifest.ladder)) == (config.input_size, config.ladder)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"family": "anydepth-yolo"}, False),
        ({"config": "r50"}, False),
        ({"classes": ["one", "two"]}, False),
    ],
)
def test_the_same_network_is_that_of_family_size_and_classes(
    checkpoint: Path, changes: dict[str, Any], kept: bool
) -> None:
    words = {"family": "anydepth-detr", "config": "tiny", "classes": ["x"] * 8, **changes}
    previous = manifest(**words)
    found = keeping(previous, read_checkpoint(checkpoint), "b" * 64)
    assert found == (Kept(previous, False) if kept else Kept())
    assert keeping(previous, read_checkpoint(checkpoint), "a" * 64).same is kept


def test_without_force_nothing_is_replaced(
    run: Run, tmp_path: Path, checkpoint: Path, fake: FakeGraphs
) -> None:
    out = tmp_path / "b"
    command = ["export", checkpoint, "--out", out]
    run(*command, "--size", "96x128")
    before = contents(out)
    fails(run(*command), 2, "holds another export: input size 96x128 (now 160x160)")
    assert contents(out) == before

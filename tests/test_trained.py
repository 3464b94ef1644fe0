"""The committed checkpoints: they were trained, they deploy, and their ladders are worth having."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from processors import refuses_int8
from trained_networks import COMMITTED, ONE_SET, lowered_bundle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.commands.demo import HELD_OUT_SEED
from anydepth_deploy.evaluation import Accuracy, CocoData, evaluate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.runtimes.registry import runtime_computes
from anydepth_deploy.verifying.graphs import verify

NOISE = 2.5
"""AP points that 200 pictures can be off: the recorded run on 500 is the one to quote."""

SOLVED = 95
"""AP50 from which pictures tell depths and precisions apart no more; an easier set was at 96."""

RECORDS = {"anydepth-detr": "accuracy-tiny", "anydepth-yolo": "accuracy-yolo-tiny"}
DEPTHS = {"anydepth-detr": 96, "anydepth-yolo": 256}


@pytest.fixture(scope="module", params=list(RECORDS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str) -> Path:
    return COMMITTED[family]


@pytest.fixture(scope="module")
def trained(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("trained") / "bundle")


@pytest.fixture(scope="module")
def accuracy(trained: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Accuracy]:
    folder = tmp_path_factory.mktemp("shapes")
    data = CocoData(write_coco(folder, 200, 77, "val"))
    return evaluate(trained, data, trained.table.ladder, record=False, threads=1)


def test_the_file_is_small_and_plain(checkpoint: Path, family: str) -> None:
    assert checkpoint.stat().st_size < 12e6
    content = torch.load(checkpoint, weights_only=True)
    assert content["class_names"] == list(CLASS_NAMES)
    assert "call" in content["train"]
    model = load_model(read_checkpoint(checkpoint))
    assert (model.family, model.config.name) == (family, "tiny")


def test_parity_at_every_depth(trained: Bundle, checkpoint: Path, family: str) -> None:
    """All depths on generated pictures, batch sizes 1 and 3."""
    batches = verification_batches(trained.manifest.preprocess, seed=3)
    assert [len(batch) for batch in batches] == [1, 3]
    report = verify(trained, str(checkpoint), batches, depths=trained.table.rows, record=False)
    assert [row for row in report.rows if not row.passed] == []
    assert len(report.rows) == DEPTHS[family]


def test_accuracy_of_every_rung(accuracy: list[Accuracy]) -> None:
    base, top = accuracy[0], accuracy[-1]
    assert top.ap >= 65 - NOISE
    assert top.ap50 < SOLVED
    assert top.ap - base.ap <= 5 + NOISE
    for row in accuracy:
        assert row.ap >= base.ap - 1 - NOISE


def test_recorded_accuracy_supports_the_default_ladder(trained: Bundle, family: str) -> None:
    """The figures that the ladder was chosen by belong to this checkpoint, and bear it out."""
    record = json.loads((ROOT / f"benchmarks/results/{RECORDS[family]}.json").read_text("utf-8"))
    assert record["checkpoint_sha256"] == trained.manifest.source.sha256
    assert record["pictures"] >= 500
    by_depth = {row["depth"]: row for row in record["rows"]}
    assert set(by_depth) == {str(depth) for depth in trained.table.rows}
    rungs = [by_depth[str(rung)] for rung in trained.table.ladder]
    assert rungs[-1]["ap"] >= 65
    assert rungs[-1]["ap50"] < SOLVED
    assert 1.5 <= rungs[-1]["ap"] - rungs[0]["ap"] <= 5
    for cheaper, dearer in itertools.pairwise(rungs):
        assert dearer["macs"] > cheaper["macs"]
        assert dearer["ap"] >= cheaper["ap"], (cheaper["depth"], dearer["depth"])


def test_the_demo_ends_with_a_picture_and_a_table(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    from anydepth_deploy.commands.demo import run_demo

    result = run_demo(checkpoint, tmp_path / "demo", pictures=20, quiet=True)
    assert result.verified
    assert [row["level"] for row in result.rows] == list(range(len(result.rows)))
    assert all(row["latency_ms"] > 0 for row in result.rows)
    with Image.open(result.picture) as picture:
        assert picture.width > 1200


def test_a_round_with_second_norm_sets(tmp_path: Path) -> None:
    """Base gains two points and super one over what it began with, on the same pictures."""
    data = CocoData(write_coco(tmp_path, 200, HELD_OUT_SEED, "val"))
    scores = []
    both = COMMITTED["anydepth-detr"]
    for file in (ONE_SET, both):
        bundle = export_bundle(file, tmp_path / file.stem)
        table = bundle.table
        ends = [table.find("base"), table.find("super")]
        scores.append([row.ap for row in evaluate(bundle, data, ends, record=False, threads=1)])
    (base, top), (new_base, new_top) = scores
    assert new_base >= base + 2
    assert new_top >= top + 1
    state = read_checkpoint(both).state
    key = "decoder.input_proj.0.norm{}.running_mean"
    assert not torch.allclose(state[key.format("")], state[key.format("_skippable")], atol=0.01)


# --- lower precisions ------------------------------------------------------------------------

LOST = {
    "fp16": 0.2,
    "int8": 1.0,
    "int8 for tensorrt": 1.5,
    "int8 for openvino": 1.0,
    "bf16": 1.0,
}
"""AP points that a precision may lose at any rung, on the same 200 pictures."""

FORMS: dict[str, tuple[str, dict[str, str]]] = {
    f"{name} {layout}{' on openvino' if runtime == 'openvino' else ''}": (
        name,
        {"precision": name.split()[0], "layout": layout, "target": target, "runtime": runtime},
    )
    for name, layout, target, runtime in (
        ("fp16", "gated", "onnxruntime", "onnxruntime"),
        ("fp16", "set", "onnxruntime", "onnxruntime"),
        ("int8", "gated", "onnxruntime", "onnxruntime"),
        ("int8", "set", "onnxruntime", "onnxruntime"),
        ("int8 for tensorrt", "gated", "tensorrt", "onnxruntime"),
        ("bf16", "gated", "onnxruntime", "openvino"),
        ("int8", "gated", "onnxruntime", "openvino"),
        ("int8 for openvino", "gated", "openvino", "openvino"),
    )
}


@pytest.fixture(scope="module")
def lowered(family: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lowered_bundle(family, tmp_path_factory, COMMITTED[family])[0]


@pytest.fixture(scope="module")
def for_openvino(family: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What OpenVINO takes before all else: of the same ranges, in a bundle of its own."""
    table = lowered_bundle(family, tmp_path_factory, COMMITTED[family])[1]
    return export_bundle(
        COMMITTED[family],
        tmp_path_factory.mktemp("openvino") / "bundle",
        precision=["int8"],
        targets=["openvino"],
        ranges=table,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> CocoData:
    """Those that `accuracy` was measured on."""
    return CocoData(write_coco(tmp_path_factory.mktemp("pictures"), 200, 77, "val"))


@pytest.mark.parametrize("form", FORMS)
def test_what_lower_precisions_lose(
    lowered: Bundle,
    accuracy: list[Accuracy],
    pictures: CocoData,
    form: str,
    request: pytest.FixtureRequest,
) -> None:
    name, options = FORMS[form]
    if options["runtime"] == "openvino":
        pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
        if options["precision"] not in (*runtime_computes("openvino"), "int8"):
            pytest.skip("this CPU has no BF16")
    choice: dict[str, Any] = dict(options)
    own = options["target"] == "openvino"
    bundle: Bundle = request.getfixturevalue("for_openvino") if own else lowered

    def run() -> list[Accuracy]:
        ladder = lowered.table.ladder
        return evaluate(bundle, pictures, ladder, **choice, threads=1, record=False, batch=25)

    int8 = (options["runtime"], options["precision"]) == ("openvino", "int8")
    if int8 and refuses_int8(run):
        return
    found = run()
    assert [row.depth for row in found] == [row.depth for row in accuracy]
    for row, whole in zip(found, accuracy, strict=True):
        assert row.precision == options["precision"]
        assert abs(row.ap - whole.ap) <= LOST[name], (row, whole)
    # Exactly equal at every rung would mean that FP32 was measured again.
    if name != "fp16":
        assert [row.ap for row in found] != [row.ap for row in accuracy]

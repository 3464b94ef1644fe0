"""The command: a bundle whose depths are off by known shifts, measured, written, drawn."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_bundle
from command_line import Run, fails
from handmade import LADDER, REST
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST

pytest.importorskip("onnxruntime")

SIDE, PLACES = 64, 5
ROWS = (*LADDER, *REST)
SHIFTS = dict(zip(ROWS, (9, 2, 0, 3, 4, 1, 6, 30), strict=True))
"""Pixels by which the boxes of each depth are off from super's."""


def graph(row: int | None) -> bytes:
    """Finds one object in the same place of every picture; ``row``: of a static graph."""
    info = helper.make_tensor_value_info
    inputs = [info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
    constants: dict[str, Any] = {
        "shifts": np.array([[SHIFTS[depth]] for depth in ROWS], np.float32),
        "box": np.array([[[8, 8, 40, 40]] + [[0, 0, 0, 0]] * (PLACES - 1)], np.float32),
        "label": np.array([[1] + [-1] * (PLACES - 1)], np.int64),
        "score": np.array([[0.9] + [0] * (PLACES - 1)], np.float32),
        "four": np.array([PLACES, 4], np.int64),
        "places": np.array([PLACES], np.int64),
    }
    if row is None:
        inputs.append(info("depth", TensorProto.INT64, []))
    else:
        constants["depth"] = np.array(row, np.int64)
    nodes = [
        helper.make_node("Gather", ["shifts", "depth"], ["shift"], axis=0),
        helper.make_node("Add", ["box", "shift"], ["moved"]),
        helper.make_node("Shape", ["images"], ["batch"], end=1),
        helper.make_node("Concat", ["batch", "four"], ["shape4"], axis=0),
        helper.make_node("Concat", ["batch", "places"], ["shape1"], axis=0),
        helper.make_node("Expand", ["moved", "shape4"], ["boxes"]),
        helper.make_node("Expand", ["label", "shape1"], ["labels"]),
        helper.make_node("Expand", ["score", "shape1"], ["scores"]),
    ]
    outputs = [
        info("labels", TensorProto.INT64, ["N", PLACES]),
        info("boxes", TensorProto.FLOAT, ["N", PLACES, 4]),
        info("scores", TensorProto.FLOAT, ["N", PLACES]),
    ]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "shifted", inputs, outputs, held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def shifted(tmp_path: Path) -> Bundle:
    made: list[tuple[str, bytes, dict[str, Any]]] = [("gated-fp32-shared", graph(None), {})]
    for row, depth in enumerate(LADDER):
        what = {"layout": "set", "depth": depth, "row": row, "level": row}
        made.append((f"static-{row}", graph(row), what))
    return triton_bundle.bundle_of(tmp_path / "bundle", made)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 255, (48, 96, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def agreement(shift: float) -> float:
    """Average precision of one box in each picture that is off by ``shift`` pixels both ways: the
    share of the thresholds that its overlap reaches."""
    side = max(0.0, 32 - shift)
    overlap = side**2 / (2 * 32**2 - side**2)
    return 10.0 * sum(overlap >= 0.5 + 0.05 * step - 1e-9 for step in range(10))


QUICK = ("--threads", 1, "--rounds", 5, "--calls", 30)


def test_a_ladder_is_measured_and_written(shifted: Bundle, pictures: Path, run: Run) -> None:
    before = {path.name: path.read_bytes() for path in shifted.path.iterdir()}
    picture = shifted.path.parent / "ladder.png"
    done = run("ladder", shifted.path, "--images", pictures, "--json", "--plot", picture, *QUICK)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert picture.stat().st_size > 10_000
    depths = {item["depth"]: item for item in found["depths"]}
    assert set(depths) == set(ROWS)
    for depth, item in depths.items():
        if item["score"] is not None:
            assert item["score"] == pytest.approx(agreement(SHIFTS[depth]), abs=0.01)
    rungs = found["ladder"]["rungs"]
    names = [rung["depth"] for rung in rungs]
    assert (names[0], names[-1]) == (LADDER[0], LADDER[-1])
    timed = {
        depth: (item["milliseconds"], item["score"])
        for depth, item in depths.items()
        if item["timed"]
    }
    low, high = timed[names[0]], timed[names[-1]]
    inner = {
        depth
        for depth, (time, score) in timed.items()
        if low[0] < time < high[0]
        and not any(t <= time and s >= score and (t, s) != (time, score) for t, s in timed.values())
    }
    assert set(names[1:-1]) == inner
    for rung in rungs:
        assert (rung["milliseconds"], rung["score"]) == timed[rung["depth"]]
        assert rung["p95"] is None  # of 30 calls
    assert found["ladder"]["data"]["kind"] == "agreement"
    # Only the manifest is another one, and the ladder is in use.
    after = {path.name: path.read_bytes() for path in shifted.path.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {MANIFEST}
    again = open_bundle(shifted.path)
    assert again.manifest.ladder == found["in_use"] == names
    session = again.session(artifact="gated", threads=1)
    assert session.measured_ladder is not None
    assert session.measured_ladder.model_dump(mode="json") == found["ladder"]
    # Kept beside it, a ladder of another batch changes no level.
    done = run("ladder", shifted.path, "--images", pictures, "--beside", "--batch", 2, *QUICK)
    assert done.code == 0, done.err
    assert "kept beside the ladder in use, which stays" in done.out
    again = open_bundle(shifted.path)
    assert again.manifest.ladder == names
    assert [item.batch for item in again.manifest.measured] == [1, 2]


def test_annotated_pictures(shifted: Bundle, pictures: Path, tmp_path: Path, run: Run) -> None:
    """Where base finds the objects and super is far off: both stay, and that is said."""
    x, y = 8 + SHIFTS[LADDER[0]], 8 + SHIFTS[LADDER[0]]
    # The input is 64 x 64, pictures are stretched to it.
    box = [x * 96 / 64, y * 48 / 64, 32 * 96 / 64, 32 * 48 / 64]
    data = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 96, "height": 48} for n in range(4)],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 7, "bbox": box} for n in range(4)
        ],
        "categories": [
            {"id": 5, "name": "circle"},
            {"id": 7, "name": "square"},
            {"id": 9, "name": "star"},
        ],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(data))
    done = run(
        "ladder", shifted.path, "--data", path, "--images", pictures, "--layout", "set", *QUICK
    )
    assert done.code == 0, done.err
    assert "all 3 depths were timed, none predicted" in done.out  # a set has no others
    (ladder,) = open_bundle(shifted.path).manifest.measured
    assert (ladder.data.kind, ladder.data.pictures, ladder.layout) == ("ap", 4, "set")
    base, top = ladder.rungs[0], ladder.rungs[-1]
    assert base.score == 100
    assert top.score == agreement(SHIFTS[LADDER[0]])
    said = f"{LADDER[-1]} is beaten by another depth: it stays" in done.out
    # All take the same time here, but for chance: what took longer and finds less is beaten.
    assert said or base.milliseconds > top.milliseconds
    assert {rung.depth for rung in ladder.rungs} <= set(LADDER)


def test_data_with_nothing_to_find(
    shifted: Bundle, pictures: Path, tmp_path: Path, run: Run
) -> None:
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": 96, "height": 48}],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(shifted.classes)],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(data))
    done = run("ladder", shifted.path, "--data", path, "--images", pictures, *QUICK)
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert not open_bundle(shifted.path).manifest.measured


def test_stages_are_needed_to_look_into(shifted: Bundle, pictures: Path, run: Run) -> None:
    fails(
        run("ladder", shifted.path, "--images", pictures, "--diagnose"),
        2,
        "has no artifact 'stages fp32'",
    )


def test_int8_offers_what_was_calibrated(shifted: Bundle) -> None:
    from manifests import quantised

    from anydepth_deploy.ladders.subject import _runnable
    from anydepth_deploy.manifest import Artifact

    (gated,) = shifted.artifacts("gated")
    scheme: Any = quantised("onnxruntime")
    for depths, expected in (
        (["TT-1", "FF-2", "TF-1"], ["TT-1", "FF-2", "TF-1"]),
        (None, list(LADDER)),  # of before: those of the ladder were asked for
    ):
        scheme["quantisation"]["calibration"]["depths"] = depths
        item = Artifact.model_validate({**gated.model_dump(), **scheme})
        assert sorted(map(str, _runnable(shifted, [item]))) == sorted(expected)


@pytest.mark.parametrize("shift", [0, 1, 3, 9, 30])
def test_the_closed_form_is_that_of_overlaps(shift: int) -> None:
    """Of the oracle itself: by counting pixels."""
    one = {(x, y) for x, y in itertools.product(range(32), repeat=2)}
    other = {(x + shift, y + shift) for x, y in one}
    overlap = len(one & other) / len(one | other)
    share = sum(overlap >= 0.5 + 0.05 * step - 1e-9 for step in range(10))
    assert agreement(shift) == 10 * share

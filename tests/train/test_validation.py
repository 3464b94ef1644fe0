"""Accuracy while training: that of the exported artifact, measured another way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from data_sets import write_yolo_set
from trained_networks import CHECKPOINTS

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.errors import ImageError
from anydepth_deploy.evaluation import CocoData, evaluate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.processes import ALONE
from anydepth_deploy.train.validation import Validation, best_score


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_it_is_the_accuracy_of_the_artifact(tmp_path: Path, name: str) -> None:
    """Exported, run by ONNX Runtime and scored by ``evaluate``: the same at every rung."""
    annotations = write_coco(tmp_path / "val", 10, 5, "val")
    family = find_family(name)
    checkpoint = read_checkpoint(CHECKPOINTS[name])
    model = family.build(checkpoint.config)
    data, _ = read_data_set(annotations, which="val").matched(checkpoint.class_names or ())
    validation = Validation(model, family.build, data, (160, 160), ALONE)
    seen: list[tuple[int, int]] = []
    found = validation.run(checkpoint.state, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 10), (8, 10)]
    # A second time: nothing of other weights is remembered.
    zeros = {key: torch.zeros_like(value) for key, value in checkpoint.state.items()}
    assert set(validation.run(zeros).values()) <= {0.0}
    assert validation.run(checkpoint.state) == found

    bundle = export_bundle(CHECKPOINTS[name], tmp_path / "bundle")
    rows = evaluate(
        open_bundle(bundle.path), CocoData(annotations), bundle.table.ladder, record=False
    )
    assert list(found) == [row.depth for row in rows] == [str(d) for d in bundle.table.ladder]
    for row in rows:
        assert row.ap > 50
        assert found[row.depth] == pytest.approx(row.ap, abs=0.3)
    assert len(validation.examples) == 4
    assert list(validation.examples[0].found) == [rows[-1].depth, rows[0].depth]


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """The figures are those of a set without it; more than one of so few are refused."""
    path = write_coco(tmp_path / "val", 6, 5, "val")
    content = json.loads(path.read_text(encoding="utf-8"))
    gone = content["images"].pop(3)
    kept = [item for item in content["annotations"] if item["image_id"] != gone["id"]]
    rest = path.with_name("rest.json")
    rest.write_text(json.dumps({**content, "annotations": kept}), encoding="utf-8")
    (path.parent / gone["file_name"]).write_bytes(b"nothing")

    family = find_family("anydepth-yolo")
    checkpoint = read_checkpoint(CHECKPOINTS["anydepth-yolo"])
    model = family.build(checkpoint.config)

    def validation(annotations: Path) -> Validation:
        data, _ = read_data_set(annotations, which="val").matched(checkpoint.class_names or ())
        return Validation(model, family.build, data, (160, 160), ALONE)

    found = validation(path)
    expected = validation(rest).run(checkpoint.state)
    assert max(expected.values()) > 50
    assert found.run(checkpoint.state) == expected
    assert found.run(checkpoint.state) == expected
    assert [Path(name).name for name in found.skipped] == [gone["file_name"]]
    (path.parent / content["images"][0]["file_name"]).write_bytes(b"nothing")
    with pytest.raises(ImageError, match="2 of 6 pictures cannot be used, more than 1 %"):
        found.run(checkpoint.state)


def test_sizes_that_cannot_be_read_are_of_pictures_left_out(tmp_path: Path) -> None:
    data = read_data_set(write_yolo_set(tmp_path, 5), which="val")
    Path(data.paths[2]).write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"2\.png"):
        data.content()
    unreadable: dict[str, str] = {}
    images = data.content(unreadable)["images"]
    assert [item["id"] for item in images] == [1, 2, 4, 5]
    assert [*unreadable] == [data.paths[2]]


def test_both_extremes_make_the_score() -> None:
    accuracy = {"T": 40.0, "X": 99.0, "F": 60.0}
    assert best_score(accuracy, 0.5) == 50.0
    assert best_score(accuracy, 0.25) == 55.0
    assert best_score({"full": 33.0}, 0.5) == 33.0

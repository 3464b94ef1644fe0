"""Accuracy while training: that of the exported artifact, measured another way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trained_networks import CHECKPOINTS

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
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
    annotations = write_coco(tmp_path / "val", 24, 5, "val")
    family = find_family(name)
    checkpoint = read_checkpoint(CHECKPOINTS[name])
    model = family.build(checkpoint.config)
    data, _ = read_data_set(annotations, which="val").matched(checkpoint.class_names or ())
    validation = Validation(model, family.build, data, (160, 160), ALONE)
    seen: list[tuple[int, int]] = []
    found = validation.run(checkpoint.state, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 24), (8, 24), (16, 24)]
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


def test_both_extremes_make_the_score() -> None:
    accuracy = {"T": 40.0, "X": 99.0, "F": 60.0}
    assert best_score(accuracy, 0.5) == 50.0
    assert best_score(accuracy, 0.25) == 55.0
    assert best_score({"full": 33.0}, 0.5) == 33.0

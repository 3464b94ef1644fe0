"""The committed checkpoint: it was trained, it deploys, and its ladder is worth having."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TRAINED

from anydepth_deploy.bundle import Bundle
from anydepth_deploy.checkpoint import load_model, read_checkpoint
from anydepth_deploy.evaluate import Accuracy, CocoData, evaluate
from anydepth_deploy.export import export_bundle
from anydepth_deploy.samples import verification_batches
from anydepth_deploy.train.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.verify import verify

NOISE = 2.5
"""AP points that 200 pictures can be off: the recorded run on 500 is the one to quote."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(TRAINED, tmp_path_factory.mktemp("trained") / "bundle")


@pytest.fixture(scope="module")
def accuracy(trained: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Accuracy]:
    folder = tmp_path_factory.mktemp("shapes")
    data = CocoData(write_coco(folder, 200, 77, "val"))
    return evaluate(trained, data, trained.table.ladder, record=False, threads=1)


def test_the_file_is_small_and_plain() -> None:
    assert TRAINED.stat().st_size < 12e6
    content = torch.load(TRAINED, weights_only=True)
    assert content["class_names"] == list(CLASS_NAMES)
    assert "call" in content["train"]
    model = load_model(read_checkpoint(TRAINED))
    assert model.config.name == "tiny"


def test_parity_at_every_depth(trained: Bundle) -> None:
    """All 96 depths on generated pictures, batch sizes 1 and 3."""
    batches = verification_batches(trained.manifest.preprocess, seed=3)
    assert [len(batch) for batch in batches] == [1, 3]
    report = verify(trained, str(TRAINED), batches, depths=trained.table.rows, record=False)
    assert [row for row in report.rows if not row.passed] == []
    assert len(report.rows) == 96


def test_accuracy_of_every_rung(accuracy: list[Accuracy]) -> None:
    base, top = accuracy[0], accuracy[-1]
    assert top.ap >= 65 - NOISE
    assert top.ap50 < 92
    assert top.ap - base.ap <= 5 + NOISE
    for row in accuracy:
        assert row.ap >= base.ap - 1 - NOISE


def test_recorded_accuracy_supports_the_default_ladder(trained: Bundle) -> None:
    """The figures that the ladder was chosen by belong to this checkpoint, and bear it out."""
    record = json.loads((ROOT / "benchmarks/results/accuracy-tiny.json").read_text("utf-8"))
    assert record["checkpoint_sha256"] == trained.manifest.source.sha256
    assert record["pictures"] >= 500
    by_depth = {row["depth"]: row for row in record["rows"]}
    assert set(by_depth) == {str(depth) for depth in trained.table.rows}
    rungs = [by_depth[str(rung)] for rung in trained.table.ladder]
    assert rungs[-1]["ap"] >= 65
    assert rungs[-1]["ap50"] < 92
    assert rungs[-1]["ap"] - rungs[0]["ap"] <= 5
    for cheaper, dearer in itertools.pairwise(rungs):
        assert dearer["macs"] > cheaper["macs"]
        assert dearer["ap"] >= cheaper["ap"], (cheaper["depth"], dearer["depth"])


def test_the_demo_ends_with_a_picture_and_a_table(tmp_path: Path) -> None:
    from PIL import Image

    from anydepth_deploy.demo import run_demo

    result = run_demo(TRAINED, tmp_path / "demo", pictures=20, quiet=True)
    assert result.verified
    assert [row["level"] for row in result.rows] == list(range(len(result.rows)))
    assert all(row["latency_ms"] > 0 for row in result.rows)
    with Image.open(result.picture) as picture:
        assert picture.width > 1200

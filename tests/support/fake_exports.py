"""Exports in milliseconds: no graphs, and ranges of nothing but the images for INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from handmade import FakeGraphs

from anydepth_deploy.calibration.table import RangeTable, write_table
from anydepth_deploy.documents import file_sha256

RUNGS = ("TTTT-T-3", "TTTT-F-3", "FFTT-F-3", "FFFF-F-3")
"""The ladder of the fixture `checkpoint`, written out."""

SUM = "0123456789abcdef" * 4
"""A digest, of whatever."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """Export without torch's exporter; patterns of names have nothing to be compared with."""
    from anydepth_deploy.exporting import export

    monkeypatch.setattr(export, "check_patterns", lambda *_: None)
    return FakeGraphs().install(monkeypatch)


def made_up(checkpoint: Path, **changes: Any) -> RangeTable:
    """A table of one tensor for `checkpoint`."""
    entry = {"low": 0, "high": 1, "minimum": 0, "maximum": 2, "error_own": 0, "error_merged": 0}
    content: dict[str, Any] = {
        "tool_version": "0",
        "created": "then",
        "checkpoint": {"file": checkpoint.name, "sha256": file_sha256(checkpoint)},
        "family": "anydepth-detr",
        "config": "tiny",
        "size": (160, 160),
        "preprocess": {"size": (160, 160)},
        "pictures": {"count": 9, "sha256": SUM, "seed": 0},
        "method": "minmax",
        "ladder": list(RUNGS),
        "depths": list(RUNGS),
        "tensors": {"images": dict.fromkeys(RUNGS, entry)},
    }
    return RangeTable.model_validate({**content, **changes})


@pytest.fixture
def ranges(checkpoint: Path, tmp_path: Path) -> Path:
    """A made-up table for the network with random weights."""
    path = tmp_path / "ranges.json"
    write_table(path, made_up(checkpoint))
    return path

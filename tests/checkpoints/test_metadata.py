"""What a checkpoint says beside its weights: shown where it is plain, else left out in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run
from conftest import random_detr
from fork_checkpoint import write_fork_checkpoint

from anydepth_deploy import describe
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.families.yolo.model import AnyDepthYOLO

HUGE = 2**1500
ODD: dict[str, Any] = {
    "keys that are pairs": [{(1, 2): 3}],
    "beyond float": HUGE,
    "beyond float, in a list": [8, HUGE],
    "beyond 64 bits": -(2**64),
    "not a number": math.nan,
    "infinite": [8.0, math.inf],
    "nested": [[[1]]],
    "long": list(range(1000)),
    "truths": [True],
}


@pytest.mark.parametrize("family", ["model", "yolo_model"])
@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_left_out(
    tmp_path: Path, request: pytest.FixtureRequest, family: str, name: str
) -> None:
    state = request.getfixturevalue(family).state_dict()
    entries = dict.fromkeys(("epoch", "last_epoch", "date", "version", "stride", "nc"), ODD[name])
    torch.save({"model": state, **entries, "names": ODD[name]}, tmp_path / "c.pth")
    about, notes = describe._about(read_checkpoint(tmp_path / "c.pth").extra)
    assert about == {}
    (note,) = notes
    assert note.startswith("left out: what the file says of its version, date, epoch, last_epoch")
    assert note.endswith("; expected a text, a number, or a list of numbers")


def test_plain_values_stay(tmp_path: Path) -> None:
    said = {"epoch": 71, "date": "2025-01-31", "version": "8.3", "stride": [8, 16.0], "nc": 2**40}
    torch.save({"model": random_detr().state_dict(), **said}, tmp_path / "c.pth")
    assert describe._about(read_checkpoint(tmp_path / "c.pth").extra) == (said, [])


def test_inspect_says_what_is_left_out(
    tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.pth"
    odd = {"epoch": [{(1, 2): 3}], "stride": HUGE, "nc": math.nan, "last_epoch": 3}
    torch.save({"model": random_detr().state_dict(), **odd}, path)
    found = run("inspect", path, "--json").json
    assert found["about"] == {"last_epoch": 3}
    (note,) = found["notes"]
    assert "its epoch, stride, nc" in note
    describe.show(found, every=False, as_json=False)
    assert note in capfd.readouterr().out


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        ([8, 16], [8.0, 16.0]),
        (torch.tensor([8.0, 16.0]), [8.0, 16.0]),
        (HUGE, None),
        ([8, HUGE], None),
        ([8, -(2**64)], None),
        ([True], None),
        ({"a": 1}, None),
    ],
    ids=["plain", "tensor", "huge", "one huge", "one beyond 64 bits", "truth", "by name"],
)
def test_strides_of_a_network_object(
    tmp_path: Path, yolo_model: AnyDepthYOLO, stride: Any, expected: Any
) -> None:
    path = write_fork_checkpoint(tmp_path / "c.pth", yolo_model, stride=stride)
    assert read_checkpoint(path).extra.get("stride") == expected

"""Result files: whole, versioned, readable by people, and refused where they are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_bench import FakeClock, FakeSensor, FakeWorkload, steady

from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.results import BenchResult, read_result, write_result
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.errors import ResultError


@pytest.fixture
def result() -> BenchResult:
    clock = FakeClock()
    workload = FakeWorkload(clock, steady)
    options = Options(scenario="poisson", rate=40.0, duration=1.0)
    return run_bench(workload, workload.table.ladder, options, sensors=[FakeSensor()], clock=clock)


def test_a_file_holds_everything(result: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.json"
    write_result(path, result)
    assert read_result(path) == result
    assert [item.name for item in path.parent.iterdir()] == ["a.json"]


def test_samples_are_on_one_line(result: BenchResult, tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", result)
    lines = (tmp_path / "a.json").read_text(encoding="utf-8").splitlines()
    samples = [line for line in lines if line.strip().startswith('"ended_ns"')]
    assert len(samples) == len(result.depths)
    assert len(lines) < 800


def damaged(result: BenchResult, change: Any) -> str:
    content = result.model_dump(mode="json")
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.pop("depths"), "is damaged: depths: Field required"),
        (lambda content: content.update(version=2), "has version 2, this anydepth-deploy reads"),
        (lambda content: content.update(format="other"), "is not a result of 'anydepth-deploy"),
        (lambda content: content.update(depths=[]), "is damaged: depths"),
        (
            lambda content: content["depths"][0]["samples"]["ended_ns"].pop(),
            "columns of the samples differ in length",
        ),
        (lambda content: content.update(more=1), "is damaged: more"),
        (lambda content: content["verdict"].update(word="fine"), "is damaged: verdict.word"),
    ],
)
def test_damaged_files(result: BenchResult, tmp_path: Path, change: Any, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(damaged(result, change), encoding="utf-8")
    with pytest.raises(ResultError, match=told) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"nul", b"[" * 100_000])
def test_what_is_no_result(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"a\.json"):
        read_result(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="does not exist"):
        read_result(tmp_path / "a.json")
    with pytest.raises(ResultError, match="cannot be read"):
        read_result(tmp_path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    result: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match="cannot be written: No space left"):
        write_result(path, result)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]

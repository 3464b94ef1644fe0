"""``make gpu-pack``: everything that was found, in one file, and nothing that is large."""

from __future__ import annotations

import json
import signal
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpu_calls import BARE, MACHINE, Session, fails, passes, session
from gpu import __main__ as entry
from gpu import sending
from gpu.results import RESULTS
from gpu.sending import NothingError, send
from gpu.step import Run

__all__ = ["session"]  # a fixture


@pytest.fixture
def without_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_doctor", lambda: '{"doctor": 1}')


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                found[Path(member.name).name] = file.read().decode()
        return found


@pytest.mark.usefixtures("without_doctor")
def test_all_that_was_found(session: Session, tmp_path: Path) -> None:
    def measures(run: Run) -> None:
        for name in ("runs/r.json", "logs/00.out", "r50/r50.engine"):
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / name).write_text(name)

    session.step("a", measures)
    session.step("b", fails)
    session.step("c", passes)
    session.call("a", "b")
    measured = tmp_path / "measured"
    measured.mkdir()
    (measured / "bench.json").write_text("{}")
    path = send(
        tmp_path / "x.tar.gz",
        MACHINE,
        results=session.results,
        work=session.work,
        measured=measured,
    )
    found = contents(path)
    assert set(found) == {
        *("summary.md", "doctor.json", "a.json", "b.json", "r.json", "00.out", "bench.json")
    }
    assert "| a | passed |" in found["summary.md"]
    assert "| b | failed |" in found["summary.md"]
    assert "| c |" not in found["summary.md"]  # it has not run
    assert found["doctor.json"] == '{"doctor": 1}'
    assert json.loads(found["a.json"])["device"]["name"] == "NVIDIA Tesla T4"
    assert not list(tmp_path.glob("*.partial"))
    # The same after a commit: logs are still there, and the steps' own commit is told.
    later = replace(MACHINE, code="changed", commit="f00")
    places = {"results": session.results, "work": session.work, "measured": measured}
    again = contents(send(tmp_path / "y.tar.gz", later, **places))
    assert set(again) == set(found)
    assert "Commit f00" in again["summary.md"]
    assert "with commit c0ffee |" in again["summary.md"]


@pytest.mark.usefixtures("without_doctor")
def test_a_machine_without_a_gpu_sends_what_bench_found(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"results": session.results, "work": session.work, "measured": tmp_path / "results"}
    with pytest.raises(NothingError, match=r"driver is not installed.*run make gpu first, or"):
        send(None, BARE, **places)
    assert not list(tmp_path.iterdir())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "r.json").write_text("{}")
    path = send(None, BARE, **places)
    assert path == Path("anydepth-gpu-none.tar.gz")
    assert set(contents(path)) == {"summary.md", "doctor.json", "r.json"}


def test_doctor_is_asked() -> None:
    told = json.loads(sending._doctor())
    assert told["schema_version"] >= 1
    assert told["python"]


def test_the_way_in(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked = []

    def sent(path: Path | None, machine: object) -> Path:
        asked.append(path)
        if path is None:
            raise NothingError("there is nothing")
        return path

    monkeypatch.setattr(entry, "find_machine", lambda: BARE)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(entry, "send", sent)
    monkeypatch.setattr(sys, "argv", ["gpu", "--pack", "x.tar.gz"])
    assert entry.main() == 0
    assert capsys.readouterr().out == "x.tar.gz\n"
    monkeypatch.setattr(sys, "argv", ["gpu", "--pack"])
    assert entry.main() == 2
    assert capsys.readouterr().err == "error: there is nothing\n"
    assert asked == [Path("x.tar.gz"), None]
    assert not (RESULTS / "none").exists()


def test_a_disk_that_is_full_leaves_nothing(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    monkeypatch.setattr(sending, "_doctor", lambda: "")
    (tmp_path / "r.json").write_text("{}")
    places = {"results": session.results, "work": session.work, "measured": tmp_path}
    with pytest.raises(OSError, match="No space"):
        send(tmp_path / "x.tar.gz", BARE, **places)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]

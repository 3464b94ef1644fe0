"""Calls of ``make gpu``: which steps run, what is not repeated, what goes wrong, what is left."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpu_calls import BARE, FOLDER, GPU, MACHINE, Session, fails, passes, session
from gpu import runner
from gpu.device import Machine
from gpu.process import TIMED_OUT
from gpu.results import FORMAT, read_all
from gpu.runner import UnknownStepError, select
from gpu.step import LONGEST, OutOfTimeError, Run, StoppedError

__all__ = ["session"]  # a fixture


def names_a_folder(run: Run) -> None:
    run.figure("build", {"note": f"{run.folder}/engine was built from {run.shared}/r50"})


# Choosing.


def test_selection(session: Session) -> None:
    for name in ("torch-a", "trt-a", "trt-b"):
        session.step(name)
    assert [step.name for step in select(session.steps, ())] == ["torch-a", "trt-a", "trt-b"]
    assert [step.name for step in select(session.steps, ["trt-*", "torch-a"])] == [
        *("torch-a", "trt-a", "trt-b"),
    ]
    with pytest.raises(UnknownStepError, match="no step 'rtx': expected some of torch-a, trt-a"):
        select(session.steps, ["trt-a", "rtx"])


# Results, and not repeating what has one.


def test_a_result_says_where_it_is_from(session: Session) -> None:
    session.step("one", passes)
    assert session.call() == 0
    found = session.result("one")
    assert found["format"] == FORMAT
    assert found["rc"] == 0
    assert found["commit"] == "c0ffee"
    assert found["device"]["name"] == "NVIDIA Tesla T4"
    assert found["device"]["driver"] == "580.1"
    assert found["versions"] == {"torch": "2.13"}
    assert found["figures"] == {"answer": 42}
    assert found["checks"] == [{"what": "bench x", "rc": 0, "seconds": 1.5, "message": ""}]
    assert session.told("one") == "  one  passed, 0 s"
    assert session.said[-1] == "steps: 1 passed"


def test_a_result_names_no_folders_of_the_machine(session: Session) -> None:
    session.step("one", names_a_folder)
    assert session.call() == 0
    (found,) = session.result("one")["figures"]["build"]
    assert found == {"note": "STEP/engine was built from SHARED/r50"}


def test_a_step_is_not_repeated(session: Session) -> None:
    session.step("one", passes)
    session.step("two", fails)
    assert session.call() == 1
    assert session.call() == 1  # what failed once still does
    assert session.ran == []
    assert "passed" in session.told("one")
    assert "from an earlier call (FORCE=1 repeats it)" in session.told("two")
    assert "verify x: error: boxes differ (and 1 more)" in session.told("two")
    assert session.call("one") == 0
    assert session.call("one", force=True) == 0
    assert session.ran == ["one"]


@pytest.mark.parametrize(
    "other",
    [
        replace(MACHINE, code="other"),
        replace(MACHINE, versions={"torch": "2.14"}),
        replace(MACHINE, python="3.12.0"),
        replace(MACHINE, gpu=replace(GPU, driver="590")),
        replace(MACHINE, gpu=replace(GPU, name="NVIDIA H200")),
    ],
)
def test_another_code_device_or_version_repeats_it(session: Session, other: Machine) -> None:
    session.step("one", passes)
    assert session.call() == 0
    assert session.call(machine=other) == 0
    assert session.ran == ["one"]
    assert session.call(machine=replace(other, commit="another, same code")) == 0
    assert session.ran == []


def test_a_step_that_gathers_is_always_repeated(session: Session) -> None:
    session.step("one", passes, always=True)
    session.call()
    session.call()
    assert session.ran == ["one"]


def test_force_begins_anew(session: Session) -> None:
    left: list[bool] = []

    def do(run: Run) -> None:
        left.append((run.folder / "engine").exists())
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "engine").touch()

    session.step("one", do)
    session.call()
    session.call(force=True)
    assert left == [False, False]


def test_files_that_are_no_results_are_left_alone(session: Session) -> None:
    session.step("one", passes)
    session.file("one").parent.mkdir(parents=True)
    session.file("one").write_text("{", encoding="utf-8")
    session.file("two").write_text("[]", encoding="utf-8")
    assert session.call() == 0
    assert session.ran == ["one"]
    assert session.file("two").read_text(encoding="utf-8") == "[]"
    assert set(read_all(session.file("one").parent)) == {"one"}


# What goes wrong.


def test_one_failure_does_not_end_the_others(session: Session) -> None:
    def stops(run: Run) -> None:
        raise StoppedError("no engine was built")

    def breaks(run: Run) -> None:
        raise KeyError("speedup")

    for name, do in (("a", stops), ("b", breaks), ("c", fails), ("d", passes)):
        session.step(name, do)
    assert session.call() == 1
    assert session.ran == ["a", "b", "c", "d"]
    assert [session.result(name)["rc"] for name in "abcd"] == [1, 1, 1, 0]
    assert session.told("a").endswith("failed, 0 s: no engine was built")
    assert "the step is wrong: KeyError: 'speedup'" in session.told("b")
    assert session.said[-1] == "steps: 1 passed, 3 failed"


def test_needs(session: Session) -> None:
    session.lacking["tensorrt"] = "the Python module tensorrt is not installed"
    session.step("a", passes, needs=("export", "tensorrt"))
    session.step("b", passes, needs=("export",))
    session.step("c", passes, needs=("tensorrt",))
    assert session.call() == 0
    assert session.ran == ["b"]
    for name in "ac":
        assert session.told(name).endswith("skipped: the Python module tensorrt is not installed")
    assert session.said[-1] == "steps: 1 passed, 2 skipped"
    assert sorted(session.asked) == ["export", "package", "tensorrt"]  # each once


def test_without_a_gpu(session: Session, tmp_path: Path) -> None:
    session.step("a", passes, needs=("export",))
    session.step("b", passes)
    assert session.call(machine=BARE, out=tmp_path / "out") == 0
    assert session.ran == session.asked == []  # nothing else is looked for
    assert session.said[0] == "no NVIDIA GPU: NVIDIA's driver is not installed"
    for name in "ab":
        assert "skipped: no NVIDIA GPU: NVIDIA's driver" in session.told(name)
    assert not session.results.exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.md"]


def test_a_step_that_takes_too_long_fails_and_goes_on_later(session: Session) -> None:
    long = True

    def do(run: Run) -> None:
        (run.folder / "runs").mkdir(parents=True, exist_ok=True)
        passes(run)
        if long:
            session.clock.now += 450
            raise OutOfTimeError

    session.step("one", do)
    session.step("two", passes)
    assert session.call() == 1
    assert session.ran == ["one", "two"]
    assert session.result("one")["rc"] == TIMED_OUT
    assert session.result("one")["figures"] == {"answer": 42}
    assert "out of time, 450 s: not done in 450 s; the next call" in session.told("one")
    assert (session.work / MACHINE.key / "one" / "runs").is_dir()
    long = False
    assert session.call() == 0
    assert session.ran == ["one"]


def test_the_whole_time(session: Session) -> None:
    """A step that the end of the time cuts off has not failed, and is gone on with."""
    deadlines = []

    def do(run: Run) -> None:
        deadlines.append(run.deadline - session.clock())
        session.clock.now += 100
        if session.clock() > run.deadline - 1:
            raise OutOfTimeError

    for name in ("a", "b", "c"):
        session.step(name, do)
    session.step("d", passes, limit=20)
    assert session.call(seconds=200) == 0
    assert deadlines == [200, 100]
    assert "passed" in session.told("a")
    assert "skipped: not enough time was left to end it" in session.told("b")
    assert "skipped: not enough time is left" in session.told("c")
    assert "skipped" in session.told("d")
    assert session.call(seconds=1000) == 0
    assert session.ran == ["b", "c", "d"]
    assert session.said[-1] == "steps: 4 passed"


def test_a_short_step_uses_what_is_left(session: Session) -> None:
    session.step("a", passes, limit=20)
    assert session.call(seconds=30) == 0
    assert session.ran == ["a"]


def test_interrupted(session: Session, tmp_path: Path) -> None:
    def stop(run: Run) -> None:
        raise KeyboardInterrupt

    session.step("a", passes)
    session.step("b", stop)
    with pytest.raises(KeyboardInterrupt):
        session.call(out=tmp_path / "out")
    assert session.said[-1] == "steps: 1 passed"
    assert "| a | passed |" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert not session.file("b").exists()


def test_time_left_for_a_step_is_stated() -> None:
    assert 0 < runner.LEAST < LONGEST


# What comes back.


BENCH = {
    "name": "r50",
    "runtime": "tensorrt",
    "precision": "fp16",
    "layout": "set",
    "mode": "interleaved",
    "batch": 1,
    "transfers": None,
    "verdict": {"word": "valid", "reasons": []},
    "depths": [
        {
            "depth": "TTTT-T-4",
            "median_ms": {"value": 4.25, "low": 4.2, "high": 4.3},
            "speedup": {"value": 1.5, "low": None, "high": None},
            "switch_ms": None,
            "first_ms": 9.0,
        }
    ],
}


def test_the_summary_and_the_archive(session: Session, tmp_path: Path) -> None:
    def measures(run: Run) -> None:
        run.figure("bench", BENCH)
        for name in ("runs/r.json", "logs/00.out", "pictures/curve.png", "r50/r50.engine"):
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (run.folder / name).touch()
        run.shared.mkdir()
        (run.shared / "r50-random.pth").touch()

    session.lacking["tensorrt-rtx"] = "it does not run on sm75 | or so"
    session.step("a", measures)
    session.step("b", fails)
    session.step("c", passes, needs=("tensorrt-rtx",))
    out = tmp_path / "out"
    assert session.call(out=out) == 1
    assert session.call("a", out=out) == 0
    text = (out / "summary.md").read_text(encoding="utf-8")
    assert text == (session.results / FOLDER / "summary.md").read_text(encoding="utf-8")
    assert "NVIDIA Tesla T4 (sm75, 15360 MiB), driver 580.1" in text
    assert "| b | failed | 0 | verify x: error: boxes differ (and 1 more) |" in text
    row = "| a | r50 | tensorrt | fp16 | set | interleaved | 1 | TTTT-T-4 |"
    assert f"{row} 4.250 (4.200 to 4.300) | 1.500 |  | valid |" in text
    assert sorted(path.name for path in out.iterdir()) == ["gpu.tar.gz", "summary.md"]
    with tarfile.open(out / "gpu.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert names == {"a.json", "b.json", "summary.md", "curve.png", "r.json", "00.out"}


def test_a_skip_is_told_in_the_summary(session: Session, tmp_path: Path) -> None:
    session.lacking["plot"] = "no a | b"
    session.step("a", passes, needs=("plot",))
    session.call(out=tmp_path)
    assert "| a | skipped |  | no a / b |" in (tmp_path / "summary.md").read_text(encoding="utf-8")

"""``make gpu`` without a GPU: fake steps, devices and clocks, and what the real table asks for."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from gpu import __main__ as entry
from gpu import device, needs, probe, process, runner, steps, torch_parity, work
from gpu.device import Gpu, Machine
from gpu.needs import NEEDS, Needs
from gpu.process import TIMED_OUT
from gpu.results import FORMAT, RESULTS, read_all
from gpu.runner import Call, UnknownStepError, run_steps, select
from gpu.step import LONGEST, Check, Done, OutOfTimeError, Run, Step, StoppedError
from gpu.steps import table
from trained_networks import FAMILIES

from anydepth_deploy.cli import app
from anydepth_deploy.runtimes.registry import RUNTIMES
from anydepth_deploy.torch_runtime.runner import TorchRunner

GPU = Gpu("NVIDIA Tesla T4", "580.1", "sm75", 15360, "13.0")
MACHINE = Machine(GPU, "", "3.11.7", {"torch": "2.13"}, "code", "c0ffee", {"cores": 2})
BARE = replace(MACHINE, gpu=None, without="NVIDIA's driver is not installed")
FOLDER = "nvidia-tesla-t4"

Do = Callable[[Run], None]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Session:
    """Calls of ``make gpu`` with steps, things that are there, and a clock of their own."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.steps: list[Step] = []
        self.ran: list[str] = []
        self.asked: list[str] = []
        self.lacking: dict[str, str] = {}
        self.said: list[str] = []
        self.results, self.work = folder / "results", folder / "work"

    def step(self, name: str, do: Do | None = None, **fields: Any) -> None:
        def run(found: Run) -> None:
            self.ran.append(name)
            if do is not None:
                do(found)

        self.steps.append(Step(name, f"what {name} does", fields.pop("needs", ()), run, **fields))

    def call(self, *names: str, machine: Machine = MACHINE, **fields: Any) -> int:
        """The exit status; ``ran`` and ``said`` are those of this call."""
        self.ran.clear()
        self.said.clear()
        call = Call(names, results=self.results, work=self.work, **fields)
        there = {**dict.fromkeys(NEEDS, self._there), "gpu": NEEDS["gpu"]}
        there |= {name: self._without(name) for name in NEEDS if name != "gpu"}
        found = Needs(machine, there)
        return run_steps(self.steps, machine, found, call, clock=self.clock, say=self.said.append)

    def result(self, step: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file(step).read_text(encoding="utf-8"))
        return found

    def file(self, step: str) -> Path:
        return self.results / FOLDER / f"{step}.json"

    def told(self, step: str) -> str:
        (line,) = (line for line in self.said if line.split()[:1] == [step])
        return line

    def _there(self, machine: Machine) -> None:
        return None

    def _without(self, name: str) -> Callable[[Machine], str | None]:
        def need(machine: Machine) -> str | None:
            self.asked.append(name)
            return self.lacking.get(name)

        return need


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def names_a_folder(run: Run) -> None:
    run.figure("build", {"note": f"{run.folder}/engine was built from {run.shared}/r50"})


def passes(run: Run) -> None:
    run.checks.append(Check("bench x", 0, 1.5))
    run.figures["answer"] = 42


def fails(run: Run) -> None:
    run.checks += [Check("verify x", 1, 2.0, "error: boxes differ"), Check("bench x", 2, 1.0, "no")]


# The table.


def test_steps_have_names_for_files_and_end_in_time() -> None:
    names = [step.name for step in table()]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert all(0 < step.limit <= LONGEST == 8 * 60 for step in table())
    assert {need for step in table() for need in step.needs} <= NEEDS.keys()


def test_every_gpu_runtime_has_steps_for_every_family() -> None:
    names = {step.name for step in table()}
    assert {f"anydepth-{family}" for family in work.families()} == set(FAMILIES)
    for runtime in (row.name for row in RUNTIMES.values() if row.on_device):
        for family in work.families():
            for precision in ("fp32", "fp16", "int8"):
                assert f"{runtime}-{family}-{precision}" in names
        assert any(name.startswith(f"curve-{runtime}-") for name in names)
    for mode in ("parity", "eager", "cudagraph", "compile"):
        assert {f"torch-{mode}-{family}" for family in work.families()} <= names


class Recorder(Run):
    """Runs nothing: every command is taken down, and answered as if it had passed."""

    def _python(self, words: list[str], what: str, libraries: bool) -> Done:
        self.checks.append(Check(what, 0, 0.0))
        self.commands: list[tuple[list[str], bool]]
        self.commands.append((words, libraries))
        for flag in ("--out", "--plot"):
            if flag in words:
                self._make(words[words.index(flag) + 1], words)
        return Done(True, None)

    def _make(self, path: str, words: list[str]) -> None:
        if "export" in words:
            Path(path).mkdir()
        elif "shapes" in words:
            Path(path).mkdir()
            (Path(path) / "000000.png").touch()
        elif "bench" in words:
            Path(path).mkdir(exist_ok=True, parents=True)
            state = {"clocks_mhz": {"sm": 1005.0}}
            devices = [{"kind": "nvidia", "name": "T4", "unknown": [], "states": [state]}]
            (Path(path) / "r.json").write_text(json.dumps({"devices": devices}), encoding="utf-8")
        elif "--plot" in words:
            Path(path).touch()


@pytest.fixture
def commands(tmp_path: Path) -> list[tuple[str, list[str], bool]]:
    """What all steps of the table would run, in their order: step, words after the interpreter, and
    whether libraries of wheels are found."""
    found = []
    for step in table():
        everything = Needs(MACHINE, dict.fromkeys(NEEDS, lambda machine: None))
        run = Recorder(tmp_path / step.name, tmp_path / "shared", 0.0, everything)
        run.commands = []
        run.folder.mkdir()
        step.do(run)
        found += [(step.name, words, libraries) for words, libraries in run.commands]
    return found


def test_the_command_line_takes_what_steps_ask_for(
    commands: list[tuple[str, list[str], bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options and their values are parsed by the package's own commands, which are not run."""
    monkeypatch.chdir(device.ROOT)
    group: Any = typer.main.get_command(app)
    seen = set()
    for step, words, _ in commands:
        if words[:2] != ["-m", "anydepth_deploy"]:
            continue
        context = group.make_context("anydepth-deploy", words[2:])
        name, command, rest = group.resolve_command(context, words[2:])
        assert command is not None, (step, words)
        found = command.make_context(name, rest, parent=context)
        assert found.params["json"] is True, (step, words)
        seen.add(name)
    assert seen == {
        *("bench", "build", "calibrate", "eval", "export", "predict", "report", "shapes", "verify"),
    }


def test_what_steps_name_is_there(commands: list[tuple[str, list[str], bool]]) -> None:
    runtimes = {*RUNTIMES, "torch", "torch-compile", "torch-cudagraph"}
    for step, words, libraries in commands:
        named = words[words.index("--runtime") + 1] if "--runtime" in words else None
        assert named is None or named in runtimes, (step, words)
        assert libraries == (named is not None and named.startswith("onnxruntime")), (step, words)
        if words[0] != "-m":
            assert (device.ROOT / words[0]).is_file(), (step, words)
        elif words[1].startswith("benchmarks."):
            assert (device.ROOT / f"{words[1].replace('.', '/')}.py").is_file(), (step, words)


def test_every_engine_is_built_verified_and_timed(
    commands: list[tuple[str, list[str], bool]],
) -> None:
    for name in ("build", "verify", "bench"):
        for runtime in ("tensorrt", "tensorrt-rtx"):
            for layout in ("gated", "set", "stages"):
                for precision in ("fp32", "fp16", "int8"):
                    wanted = {name, runtime, layout, precision}
                    steps_of = {step for step, words, _ in commands if wanted <= set(words)}
                    for family in work.families():
                        assert f"{runtime}-{family}-{precision}" in steps_of


def test_curves_are_drawn_by_runtime_and_layout(tmp_path: Path) -> None:
    for name in ("curve-tensorrt-set-r50", "curve-tensorrt-set-yolo-l", "curve-tensorrt-gated-r50"):
        runs = tmp_path / name / "runs"
        runs.mkdir(parents=True)
        (runs / "result.json").touch()
    run = Recorder(tmp_path / "curve-pictures", tmp_path / "shared", 0.0, Needs(MACHINE, {}))
    run.commands = []
    run.folder.mkdir()
    steps.curve_pictures(run)
    assert [path.name for path in sorted(run.pictures.iterdir())] == [
        "curve-tensorrt-gated.png",
        "curve-tensorrt-set.png",
    ]
    assert sum(word.endswith("result.json") for words, _ in run.commands for word in words) == 3


def test_a_bundle_is_made_once(tmp_path: Path) -> None:
    run = Recorder(tmp_path / "one", tmp_path / "shared", 0.0, Needs(MACHINE, {}))
    run.commands = []
    family = next(iter(work.families()))
    bundle = work.tiny_bundle(run, family)
    made = len(run.commands)
    assert made == 3
    assert work.tiny_bundle(run, family) == bundle
    assert len(run.commands) == made
    mine = work.copy_of(run, bundle)
    (mine / "engine").touch()
    assert work.copy_of(run, bundle) == mine
    assert (mine / "engine").exists()
    assert not (bundle / "engine").exists()


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


# Commands.


def a_run(folder: Path, seconds: float = 300.0) -> Run:
    return Run(
        folder / "step",
        folder / "shared",
        time.monotonic() + seconds,
        Needs(MACHINE),
        say=lambda line: None,
    )


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_command_passes(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    file = script(tmp_path, "import sys; print('busy'); print('[1, 2]')")
    assert run.script(file) == Done(True, [1, 2])
    (check,) = run.checks
    assert check.rc == 0
    assert not check.message
    assert (run.folder / "logs" / "00.out").read_text(encoding="utf-8") == "busy\n[1, 2]\n"


def test_a_command_runs_this_checkout(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    file = script(
        tmp_path,
        "import json, anydepth_deploy as a, random_checkpoint\nprint(json.dumps([a.__file__]))",
    )
    assert not run.script(file).passed  # benchmarks/ is on the path of its own scripts alone
    file = script(tmp_path, "import json, anydepth_deploy as a; print(json.dumps([a.__file__]))")
    assert run.script(file).content == [str(device.ROOT / "anydepth_deploy" / "__init__.py")]


def test_the_tool_answers_in_json(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    done = run.tool("shapes", "--out", run.shared / "pictures", "--count", 1)
    assert done.passed
    assert done.content["pictures"] == 1
    assert run.checks[0].what == "shapes --out SHARED/pictures --count 1"


def test_a_failed_check_keeps_its_json(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    text = f"""import sys; print('{{"passed": false}}')
print("noise", file=sys.stderr); print("error: {tmp_path}/step/x differs", file=sys.stderr)
print("more", file=sys.stderr); sys.exit(1)"""
    assert run.script(script(tmp_path, text)) == Done(False, {"passed": False})
    assert run.checks[0].message == "error: STEP/x differs"


def test_a_crash_is_a_failed_check(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    done = run.script(script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert done == Done(False)
    assert run.checks[0].message == "ended by SIGSEGV"


def test_time_ends_a_command_and_its_children(tmp_path: Path) -> None:
    run = a_run(tmp_path, seconds=5.0)
    file = script(
        tmp_path,
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)",
    )
    with pytest.raises(OutOfTimeError):
        run.script(file)
    assert run.checks[0].rc == TIMED_OUT
    assert run.checks[0].message.startswith("not done after 5 s")
    status = Path("/proc") / (tmp_path / "child").read_text(encoding="utf-8") / "status"
    deadline = time.monotonic() + 10
    while status.exists() and "Z (zombie)" not in status.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, "a child is left behind"
        time.sleep(0.05)
    with pytest.raises(OutOfTimeError):
        run.script(file)
    assert len(run.checks) == 1  # not begun


def test_commands_that_had_ended_are_not_run_again(tmp_path: Path) -> None:
    """After time ran out: what passed, failed or crashed before is taken as it was."""
    texts = {
        "passes": f"open({str(tmp_path / 'count')!r}, 'a').write('x'); print('[1]')",
        "fails": f"open({str(tmp_path / 'count')!r}, 'a').write('y'); raise SystemExit('no')",
        "waits": "import time; time.sleep(600)",
    }
    files = []
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        files.append(tmp_path / f"{name}.py")
    run = a_run(tmp_path)
    found = [run.script(file) for file in files[:2]]
    run.deadline = time.monotonic() + 1
    with pytest.raises(OutOfTimeError):
        run.script(files[2])
    again = a_run(tmp_path)
    assert [again.script(file) for file in files[:2]] == found == [Done(True, [1]), Done(False)]
    assert again.checks == run.checks[:2]
    files[2].write_text("", encoding="utf-8")
    assert again.script(files[2]).passed
    assert (tmp_path / "count").read_text(encoding="utf-8") == "xy"


def test_signals_without_a_name() -> None:
    assert process.signal_name(9) == "SIGKILL"
    assert process.signal_name(200) == "signal 200"


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


def test_figures_are_taken_from_what_bench_writes() -> None:
    """Of a result that is in the repository."""
    path = device.ROOT / "benchmarks" / "results" / "curve-onnxruntime-fp32" / "r50.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    found = work.bench_figures(result)
    assert [row["depth"] for row in found["depths"]] == [row["depth"] for row in result["depths"]]
    assert "samples" not in json.dumps(found)
    assert found["depths"][0]["median_ms"] == result["depths"][0]["latency"]["median_ms"]


def test_figures_are_taken_from_what_verify_says() -> None:
    def row(depth: str, apart: float, passed: bool) -> dict[str, Any]:
        return {"artifact": "gated", "depth": depth, "differences": {"b": apart}, "passed": passed}

    rows = [row("base", 1e-6, True), row("super", 0.5, False)]
    report = {"runtime": "tensorrt", "passed": False, "rows": rows, "left_out": []}
    found = work.parity_figures(report)
    assert found["largest"] == {"gated": {"b": 0.5}}
    assert found["failed"] == rows[1:]
    assert found["compared"] == 2


# What is here.


class FakeDriver:
    """libcuda with one GPU, or a status."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = b"NVIDIA H200"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = 143771 << 20
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> int:  # noqa: N802
        number._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802
        number._obj.value = 13000
        return 0


def test_the_gpu_is_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert probe.gpu() == {
        "name": "NVIDIA H200",
        "capability": "sm90",
        "memory_mib": 143771,
        "cuda": "13.0",
    }
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(100))
    with pytest.raises(probe.MissingError, match="finds no device \\(cuInit gives 100\\)"):
        probe.gpu()


def test_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"name": "NVIDIA H200", "capability": "sm90", "memory_mib": 143771, "cuda": "13.0"}
    monkeypatch.setattr(device, "ask", lambda name: {"reason": None, "found": found})
    monkeypatch.setattr(device, "_driver", lambda: None)
    machine = device.find_machine()
    assert machine.gpu == Gpu("NVIDIA H200", "CUDA 13.0", "sm90", 143771, "13.0")
    assert machine.gpu.folder == "nvidia-h200"
    assert machine.python == ".".join(map(str, sys.version_info[:3]))


def test_probes_say_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        print("Welcome to the library")
        raise OSError("libfoo.so: cannot open\nand more")

    def absent() -> None:
        raise ModuleNotFoundError("no", name="tensorrt")

    answers = {}
    for name, found in (("a", broken), ("b", absent), ("c", lambda: None)):
        monkeypatch.setitem(probe.PROBES, name, found)
        probe.main(name)
        answers[name] = json.loads(capsys.readouterr().out)["reason"]
    assert answers == {
        "a": "OSError: libfoo.so: cannot open",
        "b": "the Python module tensorrt is not installed",
        "c": None,
    }


def test_the_package_is_found_by_a_probe_of_its_own_process() -> None:
    assert device.ask("package") == {"reason": None, "found": None}
    assert "KeyError" in device.ask("nothing of the kind")["reason"]


def test_onnxruntime_for_cpus_has_no_provider_for_gpus() -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has one")
    with pytest.raises(probe.MissingError, match="has no CUDAExecutionProvider"):
        probe.onnxruntime_cuda()


def test_rtx_on_turing() -> None:
    need = NEEDS["rtx-beyond-fp16"]
    assert need(MACHINE) == "TensorRT-RTX has FP16 alone for SM75"
    assert need(replace(MACHINE, gpu=replace(GPU, capability="sm89"))) is None


def test_the_digest_is_that_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "anydepth_deploy").mkdir()
    file = tmp_path / "anydepth_deploy" / "a.py"
    file.write_text("1", encoding="utf-8")
    first = device.code_digest(tmp_path)
    (tmp_path / "README.md").write_text("words", encoding="utf-8")
    assert device.code_digest(tmp_path) == first
    file.write_text("2", encoding="utf-8")
    assert device.code_digest(tmp_path) != first
    assert device.commit(tmp_path) is None  # no git here


def test_libraries_of_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia/cudnn/lib", "nvidia/cu13/lib", "tensorrt_libs"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/mine")
    device.wheel_libraries.cache_clear()
    names = ("nvidia/cu13/lib", "nvidia/cudnn/lib", "tensorrt_libs")
    wanted = ":".join(["/opt/mine", *(str(tmp_path / name) for name in names)])
    assert device.wheel_libraries() == {"LD_LIBRARY_PATH": wanted}
    device.wheel_libraries.cache_clear()


def test_marked_tests(tmp_path: Path) -> None:
    texts = {
        "a": "@pytest.mark.gpu\ndef test(): ...",
        "b": "pytestmark = pytest.mark.gpu",
        "c": "@pytest.mark.gpus\n# pytest.mark.gpu",
    }
    for name, text in texts.items():
        (tmp_path / f"test_{name}.py").write_text(text, encoding="utf-8")
    assert [path.name for path in needs.marked_tests(tmp_path)] == ["test_a.py", "test_b.py"]


# The way in.


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(entry, "find_machine", lambda: BARE)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    return entry.main()


def test_main_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(monkeypatch, "--out", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no NVIDIA GPU")
    assert len(lines) == len(table()) + 2
    assert all("skipped: no NVIDIA GPU" in line for line in lines[1:-1])
    assert (tmp_path / "summary.md").is_file()
    assert not (RESULTS / "none").exists()


def test_main_chooses_and_lists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, "--step", "sensors, curve-tensorrt-set-*") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"steps: {1 + len(work.NETWORKS)} skipped"
    assert main(monkeypatch, "--list") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(table())
    assert main(monkeypatch, "--step", "tests,nothing") == 2
    assert capsys.readouterr().err.startswith("error: there is no step 'nothing'")


def test_interrupted_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "run_steps", stop)
    assert main(monkeypatch) == 130
    assert "the next call goes on" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_asks_for_nothing_to_be_installed() -> None:
    words = ["gpu", "PYTHON=python9", "STEP=tests", "FORCE=1", "OUT=/x", "WITHIN=540"]
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", *words],
        cwd=device.ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip" not in done.stdout
    assert "venv" not in done.stdout
    command = " ".join(done.stdout.replace("\\\n", "").split())
    assert command.endswith(
        "python9 -m benchmarks.gpu --step 'tests' --force --within 540 --out '/x'"
    )


def test_time_left_for_a_step_is_stated() -> None:
    assert 0 < runner.LEAST < LONGEST


# A checkpoint on one device against another.


def parity(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    checkpoint = str(next(reversed(work.families().values())))
    words = ["--device", "cpu", "--modes", "eager", "--precisions", "fp32"]
    monkeypatch.setattr(sys, "argv", ["torch_parity", checkpoint, *words])
    try:
        torch_parity.main()
    finally:
        rows = json.loads(capsys.readouterr().out)
    return rows


def test_torch_parity(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU agrees with itself, at every rung and at a size that is not square."""
    rows = parity(capsys, monkeypatch)
    assert all(row["error"] is None and max(row["raw"].values()) == 0 for row in rows)
    assert len(rows) == 2 * len({row["depth"] for row in rows})
    assert len({tuple(row["size"]) for row in rows}) == 2


def test_torch_parity_of_another_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared runs at base whatever it is asked for."""
    run = TorchRunner.run
    seen = []

    def wrong(self: TorchRunner, images: Any, depth: Any) -> Any:
        seen.append(depth)
        return run(self, images, "base" if len(seen) % 2 else depth)

    monkeypatch.setattr(TorchRunner, "run", wrong)
    with pytest.raises(SystemExit, match="1"):
        parity(capsys, monkeypatch)

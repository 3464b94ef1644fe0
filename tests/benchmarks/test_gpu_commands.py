"""Commands that a step of ``make gpu`` runs: how they end, what is kept of them, when they stop."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_gpu_calls import MACHINE
from gpu import device, process
from gpu.needs import Needs
from gpu.process import TIMED_OUT
from gpu.step import Done, OutOfTimeError, Run


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

"""What ``make gpu`` finds on a machine, and how it is called there."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_gpu_calls import BARE, GPU, MACHINE
from gpu import __main__ as entry
from gpu import device, needs, probe, work
from gpu.device import Gpu
from gpu.needs import NEEDS
from gpu.results import RESULTS
from gpu.steps import table

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

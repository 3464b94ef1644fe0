"""What ``doctor`` finds on machines that are made up: sound, odd, and broken ones."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Run, fails

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.cli import COMMANDS
from anydepth_deploy.errors import EXTRAS
from anydepth_deploy.machine import hardware, probe
from anydepth_deploy.machine import look as looking
from anydepth_deploy.machine.commands import (
    BUILDER,
    DISTRIBUTIONS,
    ENGINES,
    NEEDS,
    RUNTIME,
    commands_here,
)
from anydepth_deploy.machine.probes import Answer, ask
from anydepth_deploy.machine.requirements import extras, within
from anydepth_deploy.machine.runtimes import probe_of, runtimes_here
from anydepth_deploy.reading.system_files import Tree
from anydepth_deploy.runtimes.registry import RUNTIMES

CPU = {"onnxruntime": Answer({"version": "1.30.0", "problems": {"CPUExecutionProvider": None}})}
GPU = {
    "onnxruntime": Answer(
        {
            "version": "1.30.0",
            "problems": {
                "CPUExecutionProvider": None,
                "CUDAExecutionProvider": None,
                "TensorrtExecutionProvider": "TensorrtExecutionProvider does not start here",
            },
        }
    ),
    "tensorrt": Answer({"version": "10.3.0"}),
    "tensorrt-rtx": Answer(reason="no package tensorrt_rtx", missing=True),
    "cuda": Answer({"name": "Tesla T4", "capability": "sm75", "devices": 1}),
    "nvml": Answer(
        {
            "driver": "580.1",
            "cuda": "13.0",
            "gpus": [
                {
                    "index": 0,
                    "name": "Tesla T4",
                    "capability": "sm75",
                    "memory_total": 16 << 30,
                    "memory_free": 15 << 30,
                    "mig": None,
                }
            ],
        }
    ),
}


def telling(answers: Mapping[str, Answer]) -> Any:
    """What asks libraries: each that is not among ``answers`` is missing."""

    def asking(names: Iterable[str], _: float) -> dict[str, Answer]:
        absent = Answer(reason="no package of that name", missing=True)
        return {name: answers.get(name, absent) for name in names}

    return asking


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# --- versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "clauses", "expected"),
    [
        ("1.20", ">=1.20,<2", True),
        ("1.20.0", ">=1.20,<2", True),
        ("1.9.9", ">=1.20,<2", False),
        ("2.0", ">=1.20,<2", False),
        ("2.13.0+cpu", ">=2.8,<3", True),
        ("2.8.0rc1", ">=2.8", True),
        ("12.575.51", ">=12.535,<14", True),
        ("1.2", "!=1.2.0", False),
        ("1.2", "", True),
        ("odd", ">=1", None),
        ("1.2", "~=1.1", None),
    ],
)
def test_ranges(version: str, clauses: str, expected: bool | None) -> None:
    assert within(version, clauses) is expected


def test_ranges_agree_with_packaging() -> None:
    """The oracle is the library that pip uses; it is in every environment of tests (pytest's)."""
    from packaging.specifiers import SpecifierSet

    versions = ["1", "1.0", "1.5.2", "1.20", "1.20.1", "1.21", "2", "2.0.0", "3.1"]
    for low in versions:
        for high in versions:
            clauses = f">={low},<{high}"
            for version in versions:
                assert within(version, clauses) is SpecifierSet(clauses).contains(version)


LINES = [
    "numpy<3,>=1.26",
    'onnxruntime<2,>=1.20; extra == "onnxruntime"',
    'scipy<2,>=1.11; extra == "tensorrt"',
    'anydepth-deploy[tensorrt]; extra == "rtx"',
    "tensorrt-rtx-cu13<1.8,>=1.5; extra == 'rtx'",
    'anydepth-deploy[rtx,onnxruntime]; extra == "all"',
    "what is this",
]


def test_extras_name_what_is_missing_and_what_is_too_new() -> None:
    versions = {"scipy": "2.1", "tensorrt-rtx-cu13": "1.7.1"}
    found = extras(LINES, versions.get)
    assert found is not None
    states = {
        extra.name: (extra.state, {package.name: package.state for package in extra.packages})
        for extra in found
    }
    assert states == {
        "onnxruntime": ("missing", {"onnxruntime": "missing"}),
        "tensorrt": ("outside", {"scipy": "outside"}),
        "rtx": ("outside", {"scipy": "outside", "tensorrt-rtx-cu13": "installed"}),
    }


def test_extras_of_the_package_itself() -> None:
    """All that pyproject names, as far as this environment was installed from it."""
    found = extras()
    assert found is not None
    assert {"onnxruntime", "export", "eval", "train", "plot", "tensorrt"} <= {e.name for e in found}
    assert "dev" not in {extra.name for extra in found}


# --- hardware ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "line", "expected"),
    [
        ("x86_64", "flags : fpu avx2", {"avx2": True, "vnni": False, "amx_int8": False}),
        ("x86_64", "flags : avx2 avx512f avx512_vnni amx_int8 amx_bf16",
         {"avx512": True, "vnni": True, "amx_int8": True, "bf16": True}),
        ("AMD64", "flags : avx_vnni", {"vnni": True, "avx2": False}),
        ("aarch64", "Features : asimd asimddp", {"neon": True, "dot_product": True, "sve": False}),
        ("x86_64", "model name : odd", {"avx2": None, "vnni": None}),
    ],
)  # fmt: skip
def test_features(
    tmp_path: Path, machine: str, line: str, expected: dict[str, bool | None]
) -> None:
    found = hardware.features(Tree(write(tmp_path, {"/proc/cpuinfo": line})), machine)
    assert {name: found[name] for name in expected} == expected


def test_features_of_other_processors(tmp_path: Path) -> None:
    assert hardware.features(Tree(tmp_path), "riscv64") == {}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"/sys/fs/cgroup/memory.max": "1073741824"}, 1 << 30),
        ({"/sys/fs/cgroup/memory.max": "max"}, None),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648"}, 2 << 30),
        ({}, None),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    told = {"/proc/meminfo": "MemTotal:  4194304 kB\nMemFree: 1 kB\nMemAvailable:  2048 kB\n"}
    found = hardware.memory(write(tmp_path, {**told, **files}))
    assert found == {"total": 4 << 30, "available": 2 << 20, "limit": limit}


def test_nothing_is_told(tmp_path: Path) -> None:
    assert hardware.memory(tmp_path) == {"total": None, "available": None, "limit": None}
    assert hardware.nvidia_on_the_bus(tmp_path) is None
    assert hardware.folder(tmp_path / "none")["writable"] is False


# --- runtimes and commands -----------------------------------------------------------------------


def test_runtimes_of_a_machine_without_a_gpu() -> None:
    rows = {row.name: row for row in runtimes_here(CPU, gpu=None, jetson=False)}
    assert {*rows} == {*RUNTIMES}
    assert rows["onnxruntime"].works
    assert rows["onnxruntime"].devices == ("CPU",)
    for name in ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx"):
        assert not rows[name].works
        assert rows[name].reason
        assert rows[name].fix is None  # it would not work then, either


def test_runtimes_of_a_machine_with_a_gpu() -> None:
    rows = {row.name: row for row in runtimes_here(GPU, gpu="Tesla T4", jetson=False)}
    assert [name for name, row in rows.items() if row.works] == [
        "onnxruntime",
        "onnxruntime-cuda",
        "tensorrt",
    ]
    assert rows["onnxruntime-cuda"].devices == ("Tesla T4",)
    assert rows["onnxruntime-tensorrt"].reason == "TensorrtExecutionProvider does not start here"
    assert rows["tensorrt-rtx"].fix == "pip install 'anydepth-deploy[rtx]'"
    bare = {name: Answer(reason="absent", missing=True) for name in map(probe_of, RUNTIMES)}
    on_jetson = {row.name: row for row in runtimes_here(bare, gpu="Orin", jetson=True)}
    assert "python3-libnvinfer" in (on_jetson["tensorrt"].fix or "")


def test_needs_are_of_commands_and_packages_that_exist() -> None:
    assert {row[0] for row in NEEDS} == {row.name for row in COMMANDS}
    names = {name for row in NEEDS for name in row[3]} - {RUNTIME, BUILDER, ENGINES}
    assert names <= {*EXTRAS}
    assert {*DISTRIBUTIONS} <= {*EXTRAS}


def test_commands_of_a_device_without_torch() -> None:
    """A bundle and a runtime are enough to predict; what is missing elsewhere is named."""
    rows = runtimes_here(CPU, gpu=None, jetson=False)
    found = {
        (row.command, row.what): row for row in commands_here(rows, {"onnxruntime": "1.30"}.get, {})
    }
    for name in ("bench", "inspect", "verify"):
        assert found[name, "a bundle"].works
    assert found["predict", ""].works
    assert found["report", ""].works
    assert found["build", "FP16 graphs"].fix == "pip install 'anydepth-deploy[graphs]'"
    export = found["export", ""]
    assert not export.works
    assert "torch" in (export.reason or "")
    assert export.fix == "pip install 'anydepth-deploy[export]'"
    assert found["report", "--plot"].fix == "pip install 'anydepth-deploy[plot]'"
    nothing = commands_here(runtimes_here({}, gpu=None, jetson=False), lambda _: None, {})
    predict, videos = (row for row in nothing if row.command == "predict")
    assert videos.fix == "pip install 'anydepth-deploy[video,onnxruntime]'"
    assert predict.fix == "pip install 'anydepth-deploy[onnxruntime]'"


def test_a_broken_package_is_no_working_command() -> None:
    rows = runtimes_here(CPU, gpu=None, jetson=False)
    broken = {"torch": "OSError: libcudart.so.13"}
    (norms,) = (r for r in commands_here(rows, lambda _: "1.0", broken) if r.command == "norms")
    assert norms.reason == "torch cannot be imported (OSError: libcudart.so.13)"
    assert norms.fix is None


# --- asking ------------------------------------------------------------------------------------


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that processes find before all others."""
    folder = tmp_path / "packages"
    folder.mkdir()
    source = str(Path(ad.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), source]))
    return folder


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise OSError('libfoo.so.1: gone\\nand more')", "OSError: libfoo.so.1: gone"),
        ("import os; os.kill(os.getpid(), 11)", "ends the process: SIGSEGV"),
        ("import os; os._exit(7)", "ends the process: status 7"),
        ("raise SystemExit('no license')", "SystemExit: no license"),
        ("1 +", "SyntaxError"),
        ("print('{}' * 100000); raise KeyError('x')", "KeyError: 'x'"),
    ],
)  # fmt: skip
def test_a_broken_package_is_named(fakes: Path, text: str, told: str) -> None:
    (fakes / "openvino.py").write_text(text)
    answer = ask(["openvino"])["openvino"]
    assert told in (answer.reason or "")
    assert not answer.missing
    (row,) = (
        row
        for row in runtimes_here({"openvino": answer}, gpu=None, jetson=False)
        if row.name == "openvino"
    )
    assert not row.works
    assert told in (row.reason or "")


def test_a_package_that_hangs_is_given_up(fakes: Path) -> None:
    (fakes / "openvino.py").write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "time.sleep(60)\n"
    )
    began = time.monotonic()
    answer = ask(["openvino"], 2.0)["openvino"]
    assert time.monotonic() - began < 10
    assert answer.reason == "looking for it took over 2 s"


def test_a_file_in_the_working_folder_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("openvino.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    ask(["openvino"])
    assert not Path("ran").exists()


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/none/python")
    assert ask(["openvino"])["openvino"].reason == (
        "no process can be started: No such file or directory"
    )


# --- all of it ---------------------------------------------------------------------------------


def test_of_this_machine() -> None:
    """The real thing; what the environment of tests has, it must find."""
    before = {*sys.modules}
    found = ad.doctor()
    assert {"onnxruntime", "openvino"} <= {*found.works}
    assert {row.command for row in found.commands if row.works} >= {"predict", "export", "eval"}
    assert found.to_json()["runtimes"][0]["name"] == "onnxruntime"
    assert not {"torch", "onnxruntime", "openvino"} & ({*sys.modules} - before)


def test_a_bundle_on_machines(bundle: Bundle) -> None:
    found = looking.look(bundle, asking=telling(CPU), root=Path("/"))
    assert found.bundle is not None
    rows = {item["file"]: item for item in found.bundle["artifacts"]}
    assert {*rows} == {item.file for item in bundle.artifacts()}
    for item in rows.values():
        assert item["runs_on"] == ["onnxruntime"]
        assert "onnxruntime-cuda" in item["not_on"]
        assert item["built_for"] is None
    none = looking.look(bundle.path, asking=telling({}))
    assert none.bundle is not None
    assert all(item["runs_on"] == [] for item in none.bundle["artifacts"])


def test_an_empty_machine(tmp_path: Path) -> None:
    found = looking.look(asking=telling({}), root=tmp_path)
    assert found.works == ()
    assert found.processor["features"].get("avx2") is None
    assert found.memory == {"total": None, "available": None, "limit": None}
    assert found.jetson is None
    assert {"pip install 'anydepth-deploy[onnxruntime]'"} <= {line["type"] for line in found.advice}


def test_a_gpu_without_a_driver(tmp_path: Path) -> None:
    device = "/sys/bus/pci/devices/0000:01:00.0"
    write(tmp_path, {f"{device}/vendor": "0x10de", f"{device}/class": "0x030200"})
    found = looking.look(asking=telling(CPU), root=tmp_path)
    assert any("ubuntu-drivers" in line["type"] for line in found.advice)


def test_a_jetson(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit",
            "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1",
        },
    )
    found = looking.look(asking=telling(CPU), root=tmp_path)
    assert found.jetson is not None
    assert found.jetson["model"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert "36" in str(found.jetson["l4t"])


@pytest.mark.parametrize("answers", [{}, CPU, GPU], ids=["nothing", "CPU", "GPU"])
def test_the_command(
    run: Run,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    answers: Mapping[str, Answer],
) -> None:
    defaults = {**(looking.look.__kwdefaults__ or {}), "asking": telling(answers)}
    monkeypatch.setattr(looking.look, "__kwdefaults__", defaults)
    # What is free changes from call to call.
    memory, folder = hardware.memory(), hardware.folder(Path())
    monkeypatch.setattr(hardware, "memory", lambda _: memory)
    monkeypatch.setattr(hardware, "folder", lambda _: folder)
    found = run("doctor", bundle.path, "--json").json
    assert found["bundle"]["path"] == str(bundle.path)
    assert [row["name"] for row in found["runtimes"]] == [*RUNTIMES]
    monkeypatch.setenv("COLUMNS", "2000")
    wide = run("doctor", bundle.path)
    assert (wide.code, wide.err) == (0, "")
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("doctor", bundle.path)
    told = [set(text.replace("─", " ").split()) for text in (wide.out, shown.out)]
    assert told[0] - told[1] == set()
    if answers is GPU:
        assert "GPU 0: Tesla T4, sm75, 16.1 GB free of 17.2 GB" in wide.out


def test_no_bundle(run: Run, tmp_path: Path) -> None:
    fails(run("doctor", tmp_path / "none"), 2, "none does not exist")


def test_gpus_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVML tells is taken, what it refuses is unknown."""
    calls: dict[str, Any] = {
        "nvmlDeviceGetName": b"Tesla T4",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=16 << 30, free=15 << 30),
        "nvmlDeviceGetCudaComputeCapability": (7, 5),
        "nvmlSystemGetDriverVersion": "580.1",
        "nvmlSystemGetCudaDriverVersion_v2": 13000,
    }

    class Fake:
        def nvmlInit(self) -> None: ...  # noqa: N802
        def nvmlDeviceGetCount(self) -> int:  # noqa: N802
            return 1

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
            return index

        def __getattr__(self, name: str) -> Any:
            if name not in calls:
                raise AttributeError(name)
            return lambda *_: calls[name]

    monkeypatch.setitem(sys.modules, "pynvml", Fake())
    assert probe.PROBES["nvml"]() == GPU["nvml"].found

"""What a measurement holds for: names of processors and GPUs, from files that tests plant."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from anydepth_deploy.errors import DeviceError, UsageError
from anydepth_deploy.reading.system_files import Tree
from anydepth_deploy.runtimes.device_name import device_name
from anydepth_deploy.runtimes.registry import RUNTIMES
from anydepth_deploy.runtimes.tensorrt import cuda

INFORMATION = "proc/driver/nvidia/gpus/{}/information"


def plant(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


@pytest.mark.parametrize("runtime", [name for name, row in RUNTIMES.items() if not row.on_device])
def test_processors(runtime: str, tmp_path: Path) -> None:
    tree = plant(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name :  Some   Xeon\n"})
    assert device_name(runtime, tree) == "Some Xeon"


@pytest.mark.parametrize("runtime", [name for name, row in RUNTIMES.items() if row.on_device])
def test_gpus(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA names the one at hand; without CUDA, the first that the driver lists."""
    listed = {
        INFORMATION.format("0000:41:00.0"): "Model: \t NVIDIA T4\nIRQ: 3\n",
        INFORMATION.format("0000:c1:00.0"): "Model: NVIDIA L4\n",
    }
    found = SimpleNamespace(device=lambda: SimpleNamespace(name="NVIDIA H200"))
    monkeypatch.setattr(cuda, "load_cuda", lambda: found)
    assert device_name(runtime, plant(tmp_path, listed)) == "NVIDIA H200"

    def refuse() -> None:
        raise DeviceError("no GPU")

    monkeypatch.setattr(cuda, "load_cuda", refuse)
    assert device_name(runtime, Tree(tmp_path)) == "NVIDIA T4"
    assert device_name(runtime, Tree(tmp_path / "none")) == "unknown GPU"


def test_an_unknown_runtime() -> None:
    with pytest.raises(UsageError, match="unknown runtime 'caffe'"):
        device_name("caffe")

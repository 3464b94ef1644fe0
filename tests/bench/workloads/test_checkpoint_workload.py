"""Checkpoints under measurement, in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from fake_bench import FakeSensor
from fake_torch_cuda import FakeTorchCuda, cuda

from anydepth_deploy.bench import combinations as command
from anydepth_deploy.bench.combinations import Request, bench_all
from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.results import Scope
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.workloads import checkpoint as checkpoint_workload
from anydepth_deploy.bench.workloads.checkpoint import CheckpointWorkload
from anydepth_deploy.bench.workloads.pictures import load_batches
from anydepth_deploy.errors import CheckFailedError, CheckpointError, DeviceError, UsageError
from anydepth_deploy.torch_runtime.runner import TorchRunner, open_torch_runner
from anydepth_deploy.torch_runtime.session import TorchSession

__all__ = ["cuda"]  # a fixture

QUICK = Options(duration=0.0, count=10, warmup=0.0, warmup_count=1)

Open = Callable[..., CheckpointWorkload]


@pytest.fixture(params=["checkpoint", "yolo_checkpoint"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled without code generation, which takes minutes."""
    fast = functools.partial(open_torch_runner, backend="aot_eager")
    monkeypatch.setattr(checkpoint_workload, "open_torch_runner", fast)


def opened(
    path: Path,
    mode: str = "eager",
    scope: Scope = "detections",
    *,
    batch: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: str = "fp32",
    transfers: bool | None = None,
    size: tuple[int, int] | None = None,
) -> CheckpointWorkload:
    return CheckpointWorkload(
        path,
        mode,
        lambda recipe: load_batches(recipe, batch, count=4),
        scope,
        runtime=f"torch-{mode}",
        device=device,
        precision=precision,
        threads=1,
        transfers=transfers,
        size=size,
    )


@pytest.mark.parametrize("size", [None, (96, 256)])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_timed_is_the_depth(path: Path, batch: int, size: tuple[int, int] | None) -> None:
    workload = opened(path, scope="raw", batch=batch, size=size)
    depths = workload.table.ladder
    workload.load(depths)
    reference = TorchSession.open(path)
    images = workload.batches.prepared[0]
    assert images.shape == (batch, 3, *(size or workload.subject().input_size))
    seen = []
    for depth in depths:
        found: Any = workload.call(depth)(0)
        expected = reference.run_raw(images, depth)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert np.allclose(found[name], array, rtol=1e-4, atol=1e-4), name
        seen.append(next(iter(found.values())))
    assert not np.allclose(seen[0], seen[-1], rtol=1e-3)
    workload.close()


def test_detections_and_whole_pictures(path: Path) -> None:
    workload = opened(path)
    depth = workload.table.ladder[0]
    workload.load([depth])
    found: Any = workload.call(depth)(1)
    expected = TorchSession.open(path).run(workload.batches.prepared[1], depth)
    assert np.allclose(found.scores, expected.scores, atol=1e-6)
    assert np.allclose(found.boxes, expected.boxes, atol=1e-3)
    whole = opened(path, scope="pictures")
    whole.load([depth])
    boxes: Any = whole.call(depth)(1)
    prepared, geometries = whole.batches.prepare(1)
    inside = TorchSession.open(path).run(prepared, depth).boxes[0]
    assert np.allclose(boxes[0], geometries[0].to_picture(inside), atol=1e-3)


def test_a_checkpoint_end_to_end(path: Path, tmp_path: Path) -> None:
    request = Request(
        path, depth="base,super", device="cpu", threads=(1,), pictures=2, options=QUICK
    )
    ((file, result),) = bench_all(request, tmp_path / "results")
    assert result.subject.kind == "checkpoint"
    assert (result.subject.runtime, result.subject.device) == ("torch", "cpu")
    assert result.subject.cuda_graph is None
    assert result.depths[0].macs is not None
    assert result.depths[1].macs is not None
    assert result.depths[0].macs < result.depths[1].macs
    assert "_torch_cpu_fp32_single" in file.name
    assert result.boundaries["suppression"] in ("none needed", "timed, on the host")


@pytest.mark.usefixtures("compiled")
def test_what_is_compiled_is_checked_and_measured(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(
        checkpoint,
        depth="base",
        runtimes=("torch-compile",),
        device="cpu",
        threads=(1,),
        pictures=1,
        options=QUICK,
    )
    ((_, result),) = bench_all(request, tmp_path)
    assert result.subject.runtime == "torch-compile"


def test_half_precision_is_measured(path: Path) -> None:
    workload = opened(path, precision="bf16")
    result = run_bench(workload, workload.table.ladder[:1], QUICK, sensors=[FakeSensor()])
    assert result.subject.precision == "bf16"


def test_another_network_is_not_timed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner in half precision that runs base whatever it is asked for."""
    workload = opened(checkpoint, precision="fp16")
    base = workload.table.space.base
    run = TorchRunner.run

    def always_base(self: TorchRunner, images: Any, depth: Any = "super") -> Any:
        return run(self, images, base if self.precision == "fp16" else depth)

    monkeypatch.setattr(TorchRunner, "run", always_base)
    with pytest.raises(CheckFailedError, match="fp16 at depth"):
        run_bench(workload, workload.table.ladder, QUICK, sensors=[FakeSensor()])


@pytest.mark.parametrize("transfers", [None, False])
def test_cuda_graphs(checkpoint: Path, cuda: FakeTorchCuda, transfers: bool | None) -> None:
    """On a stand-in for CUDA: recorded, labelled, and with copies timed or left out."""
    workload = opened(checkpoint, "cudagraph", device="cuda", transfers=transfers)
    depths = workload.table.ladder[:2]
    result = run_bench(workload, depths, QUICK, sensors=[FakeSensor()])
    assert result.subject.cuda_graph is True
    assert result.subject.device == "cuda"
    timed = "timed" if transfers is None else "not timed"
    assert result.boundaries["copies to the device"] == timed
    assert result.boundaries["copies to the host"] == timed
    assert set(result.memory.device) == {"peak allocated", "peak reserved"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": "int8"}, "not in 'int8'"),
        ({"transfers": False}, "on a CPU there are no copies"),
        ({"transfers": True}, "on a CPU there are no copies"),
        ({"device": "cuda", "transfers": False, "scope": "pictures"}, "drop --no-transfers"),
    ],
)
def test_options_that_make_no_sense(checkpoint: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        opened(checkpoint, **changes)


def test_without_a_gpu(checkpoint: Path, tmp_path: Path) -> None:
    graphs = Request(checkpoint, runtimes=("torch-cudagraph",), options=QUICK)
    with pytest.raises(UsageError, match="cudagraph needs an NVIDIA GPU"):
        bench_all(graphs, tmp_path)
    with pytest.raises(DeviceError, match="finds no NVIDIA GPU"):
        bench_all(Request(checkpoint, device="cuda", options=QUICK), tmp_path)
    assert not list(tmp_path.iterdir())


def test_runtimes_of_bundles_do_not_run_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(checkpoint, runtimes=("openvino",), options=QUICK)
    with pytest.raises(UsageError, match=r"runs on torch, .* make a bundle of it with 'export'"):
        bench_all(request, tmp_path)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        bench_all(Request(tmp_path / "c.pth", device="cpu", options=QUICK), tmp_path / "results")


def test_torch_runs_where_cuda_is(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unless told otherwise; the GPU that sensors read is the one that CUDA sees."""
    monkeypatch.setattr(checkpoint_workload, "has_cuda", lambda: True)
    monkeypatch.setattr(command, "_pin", lambda gpu: asked.append(gpu))
    asked: list[int | None] = []
    with pytest.raises(DeviceError, match="finds no NVIDIA GPU"):
        bench_all(Request(checkpoint, gpu=1, options=QUICK), tmp_path)
    assert asked == [1]

"""``bench``: what a command line asks for, as runs; each leaves a result file.

Several runtimes, precisions, batch sizes, threads and streams are measured one after the other, in
all combinations, each as a run of its own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.results import BenchResult, write_result
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.workloads.bundle import BundleWorkload
from anydepth_deploy.bench.workloads.pictures import Batches, load_batches
from anydepth_deploy.bench.workloads.workload import Workload
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.bundle.choose import Choice
from anydepth_deploy.checkpoints.present import is_bundle
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ResultError, UsageError
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import format_of, on_device

if TYPE_CHECKING:
    from anydepth_deploy.bench.sensors.state import Sensor

__all__ = ["TORCH_MODES", "Request", "bench_all", "bench_one", "result_name", "summary"]

TORCH_MODES = {"torch": "eager", "torch-compile": "compile", "torch-cudagraph": "cudagraph"}
"""Runtimes of checkpoints."""


@dataclass(frozen=True)
class Request:
    """What to measure and how; lists are combined.

    ``runtimes``: empty for ONNX Runtime, or torch for a checkpoint. ``device``: of torch; other
    runtimes say by their names where they compute. ``transfers``: None for what is usual: copies
    are timed. ``images``: a picture or folder that ``pictures`` are drawn from; None: generated
    ones. ``gpu``: as nvidia-smi counts. ``lock_clocks``: MHz to hold the GPU at; 0: on a Jetson,
    the most its power mode allows.
    """

    path: Path
    depth: str = "all"
    runtimes: Sequence[str] = ()
    precisions: Sequence[str] = ("fp32",)
    batches: Sequence[int] = (1,)
    threads: Sequence[int | None] = (None,)
    streams: Sequence[int] = (1,)
    layout: str | None = None
    weights: str | None = None
    target: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    size: tuple[int, int] | None = None
    said: Said = field(default_factory=Said)
    transfers: bool | None = None
    images: Path | None = None
    orientation: Orientation = "upright"
    max_pixels: int = MAX_PIXELS
    pictures: int = 8
    gpu: int | None = None
    lock_clocks: int | None = None
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class _Case:
    runtime: str
    precision: str
    batch: int
    threads: int | None
    streams: int

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread(s)"
        streams = "" if self.streams == 1 else f", {self.streams} streams"
        return f"{self.runtime} {self.precision}, batch {self.batch}{threads}{streams}"


def bench_all(
    request: Request,
    out: Path,
    *,
    progress: Progress | None = None,
    each: Callable[[Path, BenchResult], None] | None = None,
    unwritten: dict[int, ResultError] | None = None,
) -> list[tuple[Path, BenchResult]]:
    """Measure every combination; results in their order, each written as soon as it is there.

    ``out``: a file (``.json``; for one combination), which is replaced, or a folder, in which every
    result gets a name of its own. ``each`` is called with every result. ``unwritten``: where given,
    what kept a result from being written is added to it under the result's place in the list, with
    the path that it would have had; without it the first ends the run.

    Raises :class:`UsageError` for options that do not go together and :class:`ResultError` where
    ``out`` cannot be written, before anything is measured, and what :func:`run_bench` raises;
    results written until then stay.
    """
    cases = list(_cases(request))
    file = out.suffix.lower() == ".json"
    if file and len(cases) > 1:
        raise UsageError(f"--out {out} is one file for {len(cases)} results: give a folder")
    if not file and out.is_file():
        raise UsageError(f"--out {out} is a file: expected a folder, or a file *.json to write")
    for case in cases:
        replace(request.options, batch=case.batch, streams=case.streams).checked()
    try_to_write(out if file else out / "result.json", "result", ResultError)
    found: list[tuple[Path, BenchResult]] = []
    for number, case in enumerate(cases, 1):
        labelled = _labelled(progress, f"{number}/{len(cases)} " if len(cases) > 1 else "")
        result = _bench(request, case, labelled)
        path = out if file else out / result_name(result)
        try:
            path = write_result(path, result, replace=file)
        except ResultError as error:
            if unwritten is None:
                raise
            unwritten[len(found)] = error
        if result.subject.kind == "bundle":
            open_bundle(request.path).record("bench", summary(result))
        found.append((path, result))
        if each is not None:
            each(path, result)
    return found


def bench_one(request: Request, *, batch: int, threads: int | None, streams: int) -> BenchResult:
    """One run with these in place of the request's, which names one runtime and precision; nothing
    is written. Raises what :func:`run_bench` raises."""
    (case,) = _cases(replace(request, batches=(batch,), threads=(threads,), streams=(streams,)))
    return _bench(request, case, _labelled(None, ""))


def _cases(request: Request) -> Iterator[_Case]:
    checkpoint = not is_bundle(request.path)
    default = "torch" if checkpoint else "onnxruntime"
    for name, values in (
        ("--runtime", request.runtimes or (default,)),
        ("--precision", request.precisions),
        ("--batch", request.batches),
        ("--threads", request.threads),
        ("--streams", request.streams),
    ):
        if not values or len(set(values)) < len(values):
            raise UsageError(f"{name} names nothing, or something twice: list each value once")
    for runtime in request.runtimes or (default,):
        if checkpoint and runtime not in TORCH_MODES:
            raise UsageError(
                f"{request.path} is no bundle, and a checkpoint runs on {', '.join(TORCH_MODES)}, "
                f"not on '{runtime}': make a bundle of it with 'export'"
            )
        if not checkpoint and runtime in TORCH_MODES:
            raise UsageError(
                f"{request.path} is a bundle, and '{runtime}' runs checkpoints: name the file that "
                "it was exported from, or another --runtime"
            )
        if not checkpoint:
            format_of(runtime)  # refuses an unknown one
    for case in itertools.product(
        request.runtimes or (default,),
        request.precisions,
        request.batches,
        request.threads,
        request.streams,
    ):
        yield _Case(*case)


def _bench(request: Request, case: _Case, progress: Progress) -> BenchResult:
    from anydepth_deploy.bench.sensors import find_sensors
    from anydepth_deploy.bench.sensors.locking import lock_clocks

    options = replace(request.options, batch=case.batch, streams=case.streams)
    device = _device(request, case)
    if device == "cuda":
        _pin(request.gpu)
    workload, depths = _open(request, case, device, progress)
    sensors: Sequence[Sensor] = find_sensors(device, gpu=request.gpu)
    with ExitStack() as stack:
        locked = None
        if request.lock_clocks is not None:
            lock = lock_clocks(device, request.lock_clocks or None, gpu=request.gpu)
            locked = stack.enter_context(lock)
        return run_bench(
            workload,
            depths,
            options,
            sensors=sensors,
            threads=case.threads,
            transfers=None if device == "cpu" else request.transfers is not False,
            locked_clocks=locked,
            progress=progress,
        )


def _open(
    request: Request, case: _Case, device: Literal["cpu", "cuda"], progress: Progress
) -> tuple[Workload, Sequence[Depth]]:
    options = request.options

    def batches(recipe: Preprocess) -> Batches:
        return load_batches(
            recipe,
            case.batch,
            source=request.images,
            count=request.pictures,
            seed=options.seed,
            orientation=request.orientation,
            max_pixels=request.max_pixels,
            progress=progress,
        )

    if case.runtime in TORCH_MODES:
        from anydepth_deploy.bench.workloads.checkpoint import CheckpointWorkload

        workload = CheckpointWorkload(
            request.path,
            TORCH_MODES[case.runtime],
            batches,
            options.scope,
            runtime=case.runtime,
            device=device,
            precision=case.precision,
            threads=case.threads,
            transfers=request.transfers,
            size=request.size,
            said=request.said,
        )
        return workload, workload.table.select(request.depth)
    if request.size is not None:
        raise UsageError("--size is for checkpoints: the input size of a bundle is its own")
    if request.said.words:
        raise request.said.refusal()
    bundle = open_bundle(request.path)
    choice = Choice(
        case.runtime, case.precision, request.layout, request.weights, request.target, case.threads
    )
    depths = bundle.table.select(request.depth)
    return (
        BundleWorkload(bundle, choice, batches, options.scope, transfers=request.transfers),
        depths,
    )


def _device(request: Request, case: _Case) -> Literal["cpu", "cuda"]:
    if case.runtime not in TORCH_MODES:
        if request.device != "auto":
            raise UsageError(f"--device is for torch: '{case.runtime}' says where it computes")
        return "cuda" if on_device(case.runtime) else "cpu"
    if request.device != "auto":
        return request.device
    from anydepth_deploy.bench.workloads.checkpoint import has_cuda

    return "cuda" if has_cuda() else "cpu"


def _pin(gpu: int | None) -> None:
    """Let CUDA see the GPU that the sensors read, and no other, unless the user has chosen."""
    import os

    from anydepth_deploy.bench.sensors import gpu_uuid

    if "CUDA_VISIBLE_DEVICES" not in os.environ and (uuid := gpu_uuid(gpu)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = uuid


def _labelled(progress: Progress | None, label: str) -> Progress:
    def show(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{label}{what}", done, total)

    return show


def result_name(result: BenchResult) -> str:
    """A file name that says what was measured, and when."""
    subject, settings = result.subject, result.settings
    words: Iterable[object] = (
        subject.name,
        subject.runtime,
        subject.device if subject.kind == "checkpoint" else None,
        subject.precision,
        subject.layout,
        settings.scenario,
        settings.mode,
        f"b{settings.batch}",
        None if settings.streams == 1 else f"s{settings.streams}",
        None if settings.threads is None else f"t{settings.threads}",
        re.sub(r"[^0-9]", "", result.when.removesuffix("+00:00")),
    )
    text = "_".join(str(word) for word in words if word is not None)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip(".-") + ".json"


def summary(result: BenchResult) -> dict[str, Any]:
    """What a bundle keeps of a result: everything but samples, readings and paths."""
    content = result.model_dump(mode="json")
    subject = result.subject
    return {
        "when": result.when,
        "tool_version": result.tool_version,
        "host": content["host"],
        "device": [device["name"] for device in content["devices"]],
        "runtime": subject.runtime,
        "precision": subject.precision,
        "artifacts": [
            {"name": name, "sha256": digest} for name, digest in subject.artifacts.items()
        ],
        "settings": content["settings"],
        "boundaries": result.boundaries,
        "rows": [
            {key: value for key, value in row.items() if key not in ("samples", "accuracy")}
            for row in content["depths"]
        ],
        "verdict": content["verdict"],
    }

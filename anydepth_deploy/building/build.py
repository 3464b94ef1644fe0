"""``build``: the graphs of a bundle become engines for a device."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from anydepth_deploy.building.backend import Backend, load
from anydepth_deploy.building.compile import BuildSettings, Built, compile_engine
from anydepth_deploy.building.plan import Job, engine_layouts, plan
from anydepth_deploy.building.prepare import Fitted, fit, read_graph, samples
from anydepth_deploy.building.targets import capabilities as capabilities_of
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.graphs import graph_file
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.errors import BuildError, PrecisionError, UsageError
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.graph.passes.contents import contents, quantised
from anydepth_deploy.graph.passes.cut import CutPiece, cut
from anydepth_deploy.graph.passes.heads import add_raw_outputs
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.resolve import resolve
from anydepth_deploy.manifest import (
    Artifact,
    BatchProfile,
    Deformable,
    EngineSpec,
    Layout,
    Precision,
    StagePiece,
)
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import RUNTIMES, device_capability
from anydepth_deploy.version import __version__

__all__ = ["BuildReport", "build_bundle"]


SUFFIX = ".engine"


@dataclass(frozen=True)
class BuildReport:
    """Engines by name: those that were built, and those that were there already.

    ``refused``: precisions that cannot be delivered, and why. ``notes``: what did not go as asked,
    though nothing failed, and the engines it holds for.
    """

    runtime: str
    version: str
    capabilities: tuple[str, ...]
    built: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Engine:
    """One engine to build; ``graph`` makes its graph, with raw outputs where the network ends."""

    name: str
    source: Artifact
    layout: Layout
    depth: Depth | None
    piece: StagePiece | None
    graph: Callable[[], ir.Model]


@dataclass(frozen=True)
class _Order:
    """What all engines of one build have in common."""

    backend: Backend
    table: DepthTable
    capabilities: tuple[str, ...]
    batch: BatchProfile
    workspace: int | None
    timing_cache: Path | None
    gather: bool

    @property
    def suffix(self) -> str:
        """Of the engines' names."""
        words = ["gather"] if self.gather else []
        return "-".join(["", *words, RUNTIMES[self.backend.name].short, *self.capabilities])

    def settings(self, precision: Precision, float32: tuple[str, ...]) -> BuildSettings:
        return BuildSettings(
            runtime=self.backend.name,
            precision=precision,
            capabilities=self.capabilities if self.backend.ahead_of_time else (),
            batch=self.batch,
            workspace=self.workspace,
            timing_cache=self.timing_cache,
            float32=float32,
        )

    def made(self, artifact: Artifact | None, source: Artifact) -> bool:
        """Whether ``artifact`` is what building from ``source`` would give."""
        if artifact is None or artifact.engine is None:
            return False
        spec = artifact.engine
        return (
            spec.source_sha256 == source.sha256
            and spec.version == self.backend.version
            and spec.capabilities == list(self.capabilities)
            and spec.batch == self.batch
            and spec.workspace == self.workspace
        )


@usual_arithmetic()
def build_bundle(
    path: str | Path,
    *,
    runtime: str,
    capabilities: Sequence[str] = (),
    depth: str = "all",
    layouts: Sequence[str] | None = None,
    precision: Sequence[str] | None = None,
    weights: str | None = None,
    batch: BatchProfile | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    deformable: Deformable = "gridsample",
    progress: Progress | None = None,
) -> BuildReport:
    """Build engines from the graphs of the bundle in folder ``path``, only those that are missing.

    ``runtime``: ``tensorrt``, for the device at hand, or ``tensorrt-rtx``, for the device or ahead
    of time for ``capabilities`` (``sm75``; one engine serves all that are given). ``depth`` chooses
    the static engines: ``all`` (the ladder), ``every`` or a comma-separated list. ``layouts``:
    ``gated``, ``set`` and ``stages``; by default the first two, or ``set`` for chosen depths.
    ``precision``: by default all that the bundle has graphs of; what TensorRT cannot deliver is
    then left out and reported, and an error where it was asked for. ``batch``: default 1 to 4,
    fastest at 1. ``workspace``: bytes. ``deformable``: ``gather`` replaces GridSample, which some
    versions of TensorRT miscompile.

    Each engine is committed when it is done: an interrupted build goes on where it stopped. Raises
    :class:`BundleError`, :class:`UsageError`, :class:`BuildError` (:class:`PrecisionError` for a
    precision that cannot be delivered), :class:`MissingExtraError` and :class:`DeviceError`.
    """
    bundle = open_bundle(path)
    backend = load(runtime)
    targets = _capabilities(backend, capabilities)
    jobs = plan(
        bundle,
        engine_layouts(layouts, depth),
        precision,
        bundle.table.select(depth),
        weights,
    )
    order = _Order(
        backend=backend,
        table=bundle.table,
        capabilities=targets,
        batch=batch or BatchProfile(smallest=1, typical=1, largest=4),
        workspace=workspace,
        timing_cache=None if timing_cache is None else Path(timing_cache),
        gather=deformable == "gather",
    )
    if order.gather:
        _check_samples(bundle, jobs)
    engines = [item for job in jobs for item in _engines(bundle, job, order.suffix)]
    report = BuildReport(runtime, backend.version, targets)
    with BundleWriter(path, bundle.manifest) as writer:
        for index, item in enumerate(engines):
            if progress is not None:
                progress(item.name, index, len(engines))
            kind = item.source.precision
            if order.made(writer.find(item.name), item.source):
                report.present.append(item.name)
            elif kind not in report.refused:
                writer.try_to_write()
                try:
                    writer.add(item.name, _writer(item, order, report), suffix=SUFFIX)
                    report.built.append(item.name)
                except PrecisionError as error:
                    if precision is not None:
                        raise
                    report.refused[kind] = str(error)
        if progress is not None:
            progress("done", len(engines), len(engines))
    if report.refused and not report.built and not report.present:
        raise PrecisionError("; ".join(report.refused.values()))
    return report


def _check_samples(bundle: Bundle, jobs: Sequence[Job]) -> None:
    sources = {job.source.name: job.source for job in jobs}.values()
    if not any(samples(read_graph(graph_file(bundle, source))) for source in sources):
        raise UsageError(
            f"no graph of {bundle.path} has a GridSample to replace: leave --deformable gather out"
        )


def _capabilities(backend: Backend, asked: Sequence[str]) -> tuple[str, ...]:
    """What the engines are for: the targets that were asked for, or the device at hand."""
    asked = capabilities_of(asked)
    if not asked:
        return (str(device_capability(backend.name)),)
    if not backend.ahead_of_time:
        raise UsageError(
            f"{backend.name} builds for the device it runs on: leave --target out, or build ahead "
            "of time with --runtime tensorrt-rtx"
        )
    if unknown := [name for name in asked if name not in backend.known_capabilities]:
        raise UsageError(
            f"unknown target '{unknown[0]}': {backend.name} {backend.version} builds for "
            f"{', '.join(backend.known_capabilities)}"
        )
    return asked


def _engines(bundle: Bundle, job: Job, suffix: str) -> Iterator[_Engine]:
    """What one job builds."""
    source = job.source

    def graph() -> ir.Model:
        model = read_graph(graph_file(bundle, source))
        if source.piece is None:
            add_raw_outputs(model)
        return model

    if job.layout == "stages" and source.piece is None:
        for piece in cut(graph(), bundle.table.space):
            name = f"stages-{job.precision}-{piece.spec.stage}.{piece.spec.variant}{suffix}"
            yield _Engine(name, source, "stages", None, piece.spec, functools.partial(_cut, piece))
    elif job.depth is not None and source.depth is None:
        row = bundle.table.row(job.depth)
        name = f"static-{job.precision}-{job.depth}{suffix}"
        yield _Engine(name, source, "set", job.depth, None, lambda: resolve(graph(), row))
    else:
        name = f"{source.name.removesuffix('-tensorrt')}{suffix}"
        yield _Engine(name, source, job.layout, job.depth, source.piece, graph)


def _cut(piece: CutPiece) -> ir.Model:
    return piece.model


def _writer(item: _Engine, order: _Order, report: BuildReport) -> Callable[[Path], Artifact]:
    def write(path: Path) -> Artifact:
        began = time.monotonic()
        model = item.graph()
        computes = _precision(model)  # before a weakly typed builder's graph has its types removed
        fitted = fit(model, order.backend, gather=order.gather)
        described = _describe(item, order, model)
        with tempfile.TemporaryDirectory(prefix="anydepth-build-") as folder:
            graph = Path(folder) / f"{item.name}.onnx"
            ir.save(model, graph, format="protobuf")
            del model
            try:
                built = compile_engine(graph, path, order.settings(computes, fitted.float32))
            except BuildError as error:  # names the graph, which goes with its folder
                raise type(error)(str(error).replace(str(graph), item.name)) from None
        for note in built.notes:
            report.notes.setdefault(note, []).append(item.name)
        return described.model_copy(
            update={
                # All pieces of a chain are marked alike, also those that sample nothing.
                "deformable": "gather"
                if order.gather
                else item.source.deformable or fitted.deformable,
                "engine": _spec(item.source, order, built, fitted),
                "built_with": {
                    "anydepth-deploy": __version__,
                    order.backend.name: built.version,
                },
                "build_seconds": round(time.monotonic() - began, 3),
            }
        )

    return write


def _describe(item: _Engine, order: _Order, model: ir.Model) -> Artifact:
    """What is known of an engine before it is built."""
    source, piece, table = item.source, item.piece, order.table
    outputs = {value.name for value in model.graph.outputs}
    if piece is not None:  # without what was dropped
        writes = {name: tensor for name, tensor in piece.writes.items() if name in outputs}
        piece = piece.model_copy(update={"writes": writes})
    return source.model_copy(
        update={
            "name": item.name,
            "file": f"{item.name}{SUFFIX}",
            "format": order.backend.name,
            "layout": item.layout,
            "depth": None if item.depth is None else str(item.depth),
            "row": None if item.depth is None else table.row(item.depth),
            "level": None if item.depth is None else table.level(item.depth),
            "piece": piece,
            "raw": True,
            **contents(model, source),
        }
    )


def _precision(model: ir.Model) -> Precision:
    """What a graph has to compute in: a piece of an INT8 network may hold no convolution that is
    quantised, or nothing but what an FP16 network keeps in FP32."""
    if quantised(model):
        return "int8"
    values = (value for graph in graphs_of(model.graph) for node in graph for value in node.outputs)
    return "fp16" if any(value.dtype == ir.DataType.FLOAT16 for value in values) else "fp32"


def _spec(source: Artifact, order: _Order, built: Built, fitted: Fitted) -> EngineSpec:
    return EngineSpec(
        source=source.name,
        source_sha256=source.sha256,
        version=built.version,
        device=built.device,
        capabilities=list(built.capabilities),
        batch=order.batch,
        workspace=order.workspace,
        opset=fitted.opset,
        detections=fitted.detections,
        layers=built.layers,
    )

"""FP16 graphs from the FP32 graphs of a bundle, on a device that has neither torch nor checkpoint.

What is written is, byte for byte, what an export with ``--precision fp16`` writes: half precision
is a pass over the finished FP32 graph there, too.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from anydepth_deploy.building.build import BuildReport
from anydepth_deploy.building.prepare import read_graph
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.graphs import graph_file
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.depth import names_whole_ladder
from anydepth_deploy.errors import BundleError, UsageError, shorten
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.graph.passes.contents import contents
from anydepth_deploy.graph.passes.cut import cut
from anydepth_deploy.graph.passes.deformable import gather_samples
from anydepth_deploy.graph.passes.half import to_half
from anydepth_deploy.graph.passes.kept_full import kept_full, operators_of
from anydepth_deploy.manifest import LAYOUTS, SOURCE_METADATA, Artifact, Deformable, Layout
from anydepth_deploy.progress import Progress
from anydepth_deploy.version import __version__

__all__ = ["halve_bundle"]


@dataclass(frozen=True)
class _Job:
    """The FP32 graph to lower, and the layout of what becomes of it."""

    source: Artifact
    layout: Layout


@usual_arithmetic()
def halve_bundle(
    path: str | Path,
    *,
    runtime: str = "onnxruntime",
    depth: str = "all",
    layouts: Sequence[str] | None = None,
    precision: Sequence[str] | None = None,
    weights: str | None = None,
    deformable: Deformable = "gridsample",
    progress: Progress | None = None,
) -> BuildReport:
    """Add FP16 graphs to the bundle in folder ``path``, of its FP32 graphs, only those that are
    missing.

    ``depth``: of static graphs, by default all that there are in FP32. ``layouts``: by default all
    that there are in FP32; pieces are cut from the gated graph with folded weights. ``precision``:
    ``fp16`` and nothing else. ``deformable``: ``gather`` replaces GridSample.

    Each graph is committed when it is done. Raises :class:`UsageError`, :class:`DepthError`, and
    :class:`BundleError` where there is no FP32 graph to lower.
    """
    if precision is None or list(precision) != ["fp16"]:
        raise UsageError(
            f"graphs for {runtime} are lowered to FP16 here: name --precision fp16 (graphs in fp32 "
            "come from 'export', and int8 needs a range table and the checkpoint: 'export "
            "--precision int8')"
        )
    bundle = open_bundle(path)
    jobs = _plan(bundle, layouts, depth, weights)
    report = BuildReport(runtime, ir.__version__, ())
    with BundleWriter(path, bundle.manifest) as writer:
        for index, job in enumerate(jobs):
            if progress is not None:
                progress(job.source.name, index, len(jobs))
            _lower(writer, bundle, job, deformable, report)
        if progress is not None:
            progress("done", len(jobs), len(jobs))
    return report


def _plan(
    bundle: Bundle, layouts: Sequence[str] | None, depth: str, weights: str | None
) -> list[_Job]:
    """What to lower, layout by layout."""
    if unknown := [word for word in layouts or () if word not in LAYOUTS]:
        raise UsageError(f"unknown layout '{unknown[0]}': expected {', '.join(LAYOUTS)}")
    there = [
        item
        for item in bundle.artifacts(precision="fp32", format="onnx")
        if item.deformable != "gather"  # gathers stand for operators that the pass knows
    ]
    gated = [item for item in there if item.layout == "gated"]
    folded = [item for item in gated if item.weights == "folded"]
    chosen = [item for item in there if item.layout == "set"]
    if not names_whole_ladder(depth):
        words = {str(found) for found in bundle.table.select(depth)}
        chosen = [item for item in chosen if item.depth in words]
        if missing := words - {item.depth for item in chosen}:
            raise _nothing(bundle, f"static graph of {shorten(sorted(missing), 3)}", "--layout set")
    jobs: list[_Job] = []
    for layout in LAYOUTS:
        if layouts is not None and layout not in layouts:
            continue
        if layout == "gated":
            found = [item for item in gated if weights in (None, item.weights)]
        elif layout == "set":
            found = chosen
        else:
            pieces = any(item.layout == "stages" for item in there)
            found = folded if layouts is not None or pieces else []
        if layouts is not None and not found:
            wanted = "gated graph with folded weights, to cut" if layout == "stages" else layout
            raise _nothing(bundle, f"{wanted} graph" if wanted == layout else wanted, "")
        jobs += [_Job(item, layout) for item in found]
    if not jobs:
        raise _nothing(bundle, "graph", "")
    return jobs


def _nothing(bundle: Bundle, wanted: str, words: str) -> BundleError:
    has = shorten(item.name for item in bundle.artifacts(format="onnx"))
    return BundleError(
        f"bundle {bundle.path} has no fp32 {wanted} to lower; it has: {has or 'none'}. "
        f"'export {words}{' ' if words else ''}--precision fp32' adds one"
    )


def _lower(
    writer: BundleWriter, bundle: Bundle, job: _Job, deformable: Deformable, report: BuildReport
) -> None:
    """Add what becomes of one graph, if it is not there."""
    if job.layout != "stages":
        name = _name(job.source.name, job.source, deformable)
        if _is_there(writer, name, job.source):
            report.present.append(name)
            return
    writer.try_to_write()
    for name, write in _graphs(bundle, job, deformable):
        if _is_there(writer, name, job.source):
            report.present.append(name)
        else:
            writer.add(name, write)
            report.built.append(name)


def _name(name: str, source: Artifact, deformable: Deformable) -> str:
    gathers = deformable == "gather" and source.deformable is not None
    return name.replace("-fp32", "-fp16", 1) + ("-gather" if gathers else "")


def _is_there(writer: BundleWriter, name: str, source: Artifact) -> bool:
    found = writer.find(name)
    return found is not None and (found.raw or not source.raw)


def _graphs(
    bundle: Bundle, job: _Job, deformable: Deformable
) -> Iterator[tuple[str, Callable[[Path], Artifact]]]:
    """The graphs by name, each with what writes and describes it."""
    began, source = time.monotonic(), job.source
    model = read_graph(graph_file(bundle, source))
    operators = operators_of(model)
    kept = kept_full(to_half(model), operators)
    if deformable == "gather":
        gather_samples(model)
    described = source.model_copy(
        update={
            "name": _name(source.name, source, deformable),
            "layout": job.layout,
            "precision": "fp16",
            "kept": kept,
            "deformable": source.deformable and deformable,
            "raw": source.raw or job.layout == "stages",
            "opset": model.graph.opset_imports[""],
            "built_with": _versions(source),
            "build_seconds": round(time.monotonic() - began, 3),
        }
    )
    if job.layout != "stages":
        yield described.name, _writer(model, described)
        return
    metadata = dict(model.metadata_props)
    for piece in cut(model, bundle.table.space):
        name = _name(f"stages-fp32-{piece.spec.stage}.{piece.spec.variant}", source, deformable)
        update = {"name": name, "piece": piece.spec, **contents(piece.model, described)}
        _mark(piece.model, metadata)
        yield name, _writer(piece.model, described.model_copy(update=update))


def _mark(model: ir.Model, whole: dict[str, str]) -> None:
    """Say of which checkpoint a piece is, as its whole graph does."""
    if SOURCE_METADATA in whole:
        model.metadata_props[SOURCE_METADATA] = whole[SOURCE_METADATA]


def _writer(model: ir.Model, described: Artifact) -> Callable[[Path], Artifact]:
    def write(path: Path) -> Artifact:
        ir.save(model, path, format="protobuf")
        return described

    return write


def _versions(source: Artifact) -> dict[str, str]:
    """What made the FP32 graph, and what this one."""
    own = {"anydepth-deploy": __version__, "python": platform.python_version()}
    return {**source.built_with, **own, "onnx-ir": ir.__version__}

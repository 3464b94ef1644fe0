"""``export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from anydepth_deploy import __version__
from anydepth_deploy.bundle import Bundle, BundleWriter, file_sha256, open_bundle
from anydepth_deploy.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.clock import utc_now
from anydepth_deploy.depth import Depth, DepthTable, parse_ladder
from anydepth_deploy.errors import DepthError, UsageError
from anydepth_deploy.graph.assemble import Weights, assemble_gated, assemble_static
from anydepth_deploy.graph.pieces import OPSET, Pieces, export_pieces
from anydepth_deploy.images import Preprocess
from anydepth_deploy.labels import class_names
from anydepth_deploy.manifest import Artifact, GateSpec, Manifest, Source, depth_rows
from anydepth_deploy.models.macs import count_macs
from anydepth_deploy.models.stages import AnyDepthModel
from anydepth_deploy.progress import Progress
from anydepth_deploy.suppression import Suppression

__all__ = ["export_bundle"]

LAYOUTS = ("gated", "set")
WEIGHTS: tuple[Weights, ...] = ("shared", "folded")


@dataclass(frozen=True)
class _Job:
    """One artifact to make."""

    name: str
    layout: Literal["gated", "set"]
    weights: Weights
    depth: Depth | None


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    depth: str = "all",
    layouts: Sequence[str] | None = None,
    weights: Sequence[str] = ("shared",),
    ladder: str | None = None,
    input_size: tuple[int, int] | None = None,
    classes: str | Path | None = None,
    suppression: Suppression | None = None,
    raw: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Export ``checkpoint`` into the bundle folder ``out``, making only what is missing there.

    ``depth`` chooses the static graphs of layout ``set``: ``all`` (the ladder), ``every``, or a
    comma-separated list; a gated graph always holds every depth. ``layouts``: ``gated``, ``set``
    or both; by default ``gated`` for ``all`` and ``every``, else ``set``. ``weights``: how the
    gated graph stores them, ``shared``, ``folded`` or both. ``ladder``: rungs from base to super,
    joined by commas, or a file. ``input_size``: height and width, by default the checkpoint's.
    ``classes``: a file of class names, one a line. ``suppression``: where non-maximum suppression
    happens and with which thresholds, for families that need it; by default in the graph.
    ``raw``: add the heads' raw outputs. ``force``: replace a bundle of another export.

    Raises :class:`CheckpointError`, :class:`DepthError`, :class:`BundleError`,
    :class:`UsageError` and :class:`ExportError`; an existing bundle is never damaged.
    """
    chosen = _layouts(layouts, depth)
    if not weights or (unknown := [item for item in weights if item not in WEIGHTS]):
        named = unknown[0] if weights else ""
        raise UsageError(f"unknown weights '{named}': expected {' or '.join(WEIGHTS)}")
    loaded = read_checkpoint(checkpoint)
    model = load_model(loaded)
    rungs = model.ladder if ladder is None else parse_ladder(model.space, ladder)
    table = DepthTable(model.space, rungs)
    size = input_size or loaded.input_size or model.config.input_size
    jobs = _jobs(table, chosen, [item for item in WEIGHTS if item in weights], depth)
    if suppression is not None:
        if model.suppression is None:
            raise UsageError(
                f"{model.family} gives its detections without non-maximum suppression: leave the "
                "options that begin with --nms out"
            )
        model.suppression = suppression
    manifest = _manifest(loaded, model, table, size, classes)
    _check_rising(manifest)
    with BundleWriter(out, manifest, force=force) as writer:
        missing = [job for job in jobs if not _present(writer.find(job.name), raw)]
        if missing:
            _build(writer, missing, model, table, size, raw, progress)
    return open_bundle(out)


def _check_rising(manifest: Manifest) -> None:
    """A ladder costs more with every rung; a controller counts on it."""
    for lower, upper in itertools.pairwise(manifest.depths[: len(manifest.ladder)]):
        if upper.macs["total"] <= lower.macs["total"]:
            raise DepthError(
                f"the ladder does not rise: {upper.depth} ({upper.macs['total'] / 1e6:.1f} M "
                f"multiply-adds) comes after {lower.depth} ({lower.macs['total'] / 1e6:.1f} M): "
                "put the rungs in rising order"
            )


def _layouts(layouts: Sequence[str] | None, depth: str) -> list[str]:
    words = {word.strip().lower() for word in depth.split(",")}
    whole = bool(words & {"all", "every"})
    if layouts is None:
        return ["gated"] if whole else ["set"]
    if not layouts or (unknown := [layout for layout in layouts if layout not in LAYOUTS]):
        named = unknown[0] if layouts else ""
        raise UsageError(f"unknown layout '{named}': expected {' or '.join(LAYOUTS)}")
    if "set" not in layouts and not whole:
        raise UsageError(
            f"a gated graph holds every depth, so --depth {depth} has no meaning for it: leave "
            "--depth out, or add --layout set"
        )
    return [layout for layout in LAYOUTS if layout in layouts]


def _jobs(
    table: DepthTable, layouts: Sequence[str], weights: Sequence[Weights], depth: str
) -> list[_Job]:
    jobs = []
    if "gated" in layouts:
        jobs += [_Job(f"gated-fp32-{kind}", "gated", kind, None) for kind in weights]
    if "set" in layouts:
        jobs += [
            _Job(f"static-fp32-{chosen}", "set", "folded", chosen) for chosen in table.select(depth)
        ]
    return jobs


def _present(artifact: Artifact | None, raw: bool) -> bool:
    """Raw outputs do no harm to who does not ask for them; their absence does."""
    return artifact is not None and (artifact.raw or not raw)


def _build(
    writer: BundleWriter,
    jobs: Sequence[_Job],
    model: AnyDepthModel,
    table: DepthTable,
    size: tuple[int, int],
    raw: bool,
    progress: Progress | None,
) -> None:
    rule = model.suppression
    detections = rule is None or rule.where == "graph"

    def on_piece(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"exporting {name}", done, total + len(jobs))

    pieces = export_pieces(model, size, progress=on_piece)
    count = len(pieces.pieces)
    for index, job in enumerate(jobs):
        if progress is not None:
            progress(f"writing {job.name}", count + index, count + len(jobs))
        writer.add(job.name, _writer(job, pieces, table, raw, detections))
    if progress is not None:
        progress("done", count + len(jobs), count + len(jobs))


def _writer(
    job: _Job, pieces: Pieces, table: DepthTable, raw: bool, detections: bool
) -> Callable[[Path], Artifact]:
    def write(path: Path) -> Artifact:
        began = time.monotonic()
        if job.depth is None:
            graph = assemble_gated(pieces, table, job.weights, raw=raw, detections=detections)
        else:
            graph = assemble_static(pieces, job.depth, raw=raw, detections=detections)
        ir.save(graph, path, format="protobuf")
        return Artifact(
            name=job.name,
            file=f"{job.name}.onnx",
            layout=job.layout,
            weights=job.weights,
            depth=None if job.depth is None else str(job.depth),
            row=None if job.depth is None else table.row(job.depth),
            level=None if job.depth is None else table.level(job.depth),
            raw=raw or not detections,
            opset=OPSET,
            bytes=0,
            sha256="0" * 64,
            built_with=_versions(),
            build_seconds=round(time.monotonic() - began, 3),
        )

    return write


def _versions() -> dict[str, str]:
    import onnx
    import torch

    return {
        "anydepth-deploy": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnx-ir": ir.__version__,
    }


def _manifest(
    checkpoint: Checkpoint,
    model: AnyDepthModel,
    table: DepthTable,
    size: tuple[int, int],
    classes: str | Path | None,
) -> Manifest:
    macs = count_macs(model, size)
    config: Any = checkpoint.config
    return Manifest(
        tool_version=__version__,
        created=utc_now(),
        source=Source(
            file=checkpoint.path.name,
            sha256=file_sha256(checkpoint.path),
            bytes=checkpoint.path.stat().st_size,
            weights=checkpoint.weights,
        ),
        family=checkpoint.family.name,
        config=config.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=class_names(config.classes, file=classes, stored=checkpoint.class_names),
        preprocess=Preprocess.of(model.resize, size),
        gates=[GateSpec(name=g.name, group=g.group, layers=g.layers) for g in table.space.gates],
        base=list(table.space.base_settings),
        ladder=[str(rung) for rung in table.ladder],
        depths=depth_rows(table, macs.at),
        raw_outputs=dict(model.raw_outputs),
        suppression=model.suppression,
        max_detections=model.max_detections,
    )

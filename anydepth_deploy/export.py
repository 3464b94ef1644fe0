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
from anydepth_deploy.calibration.table import RangeTable, check_table, default_table, read_table
from anydepth_deploy.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.clock import utc_now
from anydepth_deploy.depth import Depth, DepthTable, parse_ladder
from anydepth_deploy.errors import CalibrationError, DepthError, UsageError
from anydepth_deploy.graph.assemble import Weights
from anydepth_deploy.graph.keeping import KeepingRules, check_patterns
from anydepth_deploy.graph.lower import Recipe, lower
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.images import Preprocess
from anydepth_deploy.labels import class_names
from anydepth_deploy.manifest import (
    Artifact,
    Calibration,
    GateSpec,
    Manifest,
    Precision,
    Quantisation,
    Source,
    Target,
    depth_rows,
)
from anydepth_deploy.models.macs import count_macs
from anydepth_deploy.models.stages import AnyDepthModel
from anydepth_deploy.progress import Progress
from anydepth_deploy.suppression import Suppression

__all__ = ["export_bundle"]

LAYOUTS = ("gated", "set")
WEIGHTS: tuple[Weights, ...] = ("shared", "folded")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")


@dataclass(frozen=True)
class _Job:
    """One artifact to make."""

    layout: Literal["gated", "set"]
    weights: Weights
    depth: Depth | None
    precision: Precision
    target: Target | None

    @property
    def name(self) -> str:
        kind = "gated" if self.depth is None else "static"
        what = self.weights if self.depth is None else str(self.depth)
        suffix = f"-{self.target}" if self.target == "tensorrt" else ""
        return f"{kind}-{self.precision}-{what}{suffix}"


@dataclass(frozen=True)
class _Ranges:
    """Where INT8 scales come from."""

    table: RangeTable
    file: str
    rules: KeepingRules

    def quantisation(self, target: Target) -> Quantisation:
        return Quantisation(
            target=target,
            calibration=Calibration(
                file=self.file,
                sha256=self.table.sha256,
                method=self.table.method,
                pictures=self.table.pictures.count,
            ),
            max_ratio=self.rules.max_ratio,
            max_error=self.rules.max_error,
            keep=list(self.rules.keep),
            quantise=list(self.rules.quantise),
        )


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    depth: str = "all",
    layouts: Sequence[str] | None = None,
    weights: Sequence[str] = ("shared",),
    precision: Sequence[str] = ("fp32",),
    targets: Sequence[str] = ("onnxruntime",),
    ranges: str | Path | None = None,
    rules: KeepingRules | None = None,
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
    gated graph stores them, ``shared``, ``folded`` or both. ``precision``: any of ``fp32``,
    ``fp16`` and ``int8``; the last takes its scales from ``ranges``, a table that :func:`calibrate`
    wrote (by default to ``calib/<checkpoint>.json``), and is made for each of ``targets``
    (``onnxruntime``, ``tensorrt``); ``rules`` say what of it stays in float. ``ladder``: rungs from
    base to super, joined by commas, or a file. ``input_size``: height and width, by default the
    checkpoint's. ``classes``: a file of class names, one a line. ``suppression``: where non-maximum
    suppression happens and with which thresholds, for families that need it; by default in the
    graph. ``raw``: add the heads' raw outputs. ``force``: replace a bundle of another export.

    Raises :class:`CheckpointError`, :class:`CalibrationError`, :class:`DepthError`,
    :class:`BundleError`, :class:`UsageError` and :class:`ExportError`; an existing bundle is never
    damaged.
    """
    chosen = _layouts(layouts, depth)
    _check_words("weights", weights, WEIGHTS)
    _check_words("precision", precision, PRECISIONS)
    _check_words("target", targets, TARGETS)
    if "int8" not in precision and list(targets) != ["onnxruntime"]:
        raise UsageError("--target has a meaning for --precision int8 only: leave it out")
    loaded = read_checkpoint(checkpoint)
    source = _ranges(checkpoint, precision, ranges, rules)
    model = load_model(loaded)
    rungs = model.ladder if ladder is None else parse_ladder(model.space, ladder)
    table = DepthTable(model.space, rungs)
    size = input_size or loaded.input_size or model.config.input_size
    jobs = [
        _Job(layout, kind, found, lowered, target)
        for lowered, target in _precisions(precision, targets)
        for layout, kind, found in _graphs(table, chosen, weights, depth)
    ]
    if suppression is not None:
        if model.suppression is None:
            raise UsageError(
                f"{model.family} gives its detections without non-maximum suppression: leave the "
                "options that begin with --nms out"
            )
        model.suppression = suppression
    manifest = _manifest(loaded, model, table, size, classes)
    _check_rising(manifest)
    if source is not None:
        _check_ranges(source, manifest, jobs)
    with BundleWriter(out, manifest, force=force) as writer:
        missing = [job for job in jobs if not _present(writer.find(job.name), job, raw, source)]
        if missing:
            _build(writer, missing, model, table, size, raw, source, progress)
    return open_bundle(out)


def _check_words(what: str, words: Sequence[str], known: Sequence[str]) -> None:
    if not words or (unknown := [item for item in words if item not in known]):
        named = unknown[0] if words else ""
        raise UsageError(f"unknown {what} '{named}': expected {' or '.join(known)}")


def _ranges(
    checkpoint: str | Path,
    precision: Sequence[str],
    path: str | Path | None,
    rules: KeepingRules | None,
) -> _Ranges | None:
    if "int8" not in precision:
        if path is not None or rules is not None:
            raise UsageError(
                "a range table, --keep and --quantise have a meaning for --precision int8 only"
            )
        return None
    chosen = default_table(checkpoint) if path is None else Path(path)
    if path is None and not chosen.is_file():
        raise UsageError(
            f"INT8 needs a range table, and {chosen} does not exist: make it with 'anydepth-deploy "
            f"calibrate {checkpoint} --images FOLDER', or name another with --ranges"
        )
    return _Ranges(read_table(chosen), chosen.name, rules or KeepingRules())


def _check_ranges(source: _Ranges, manifest: Manifest, jobs: Sequence[_Job]) -> None:
    """The table is of this network, and knows every depth that is to be quantised."""
    quantised = [job for job in jobs if job.precision == "int8"]
    wanted = [str(job.depth) for job in quantised if job.depth is not None]
    if len(wanted) < len(quantised):
        wanted = [*manifest.ladder, *(depth for depth in wanted if depth not in manifest.ladder)]
    check_table(
        source.table,
        checkpoint_sha256=manifest.source.sha256,
        size=manifest.preprocess.size,
        depths=wanted,
        what=f"range table {source.file}",
    )


def _check_rising(manifest: Manifest) -> None:
    """A ladder costs more with every rung; a controller counts on it."""
    for below, above in itertools.pairwise(manifest.depths[: len(manifest.ladder)]):
        if above.macs["total"] <= below.macs["total"]:
            raise DepthError(
                f"the ladder does not rise: {above.depth} ({above.macs['total'] / 1e6:.1f} M "
                f"multiply-adds) comes after {below.depth} ({below.macs['total'] / 1e6:.1f} M): "
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


def _precisions(
    precision: Sequence[str], targets: Sequence[str]
) -> list[tuple[Precision, Target | None]]:
    """Precisions to make, INT8 once for each target."""
    found: list[tuple[Precision, Target | None]] = [
        (item, None) for item in PRECISIONS if item in precision and item != "int8"
    ]
    if "int8" in precision:
        found += [("int8", target) for target in TARGETS if target in targets]
    return found


def _graphs(
    table: DepthTable, layouts: Sequence[str], weights: Sequence[str], depth: str
) -> list[tuple[Literal["gated", "set"], Weights, Depth | None]]:
    """Graphs to make in each precision: layout, weights, and the depth of a static one."""
    graphs: list[tuple[Literal["gated", "set"], Weights, Depth | None]] = []
    if "gated" in layouts:
        graphs += [("gated", kind, None) for kind in WEIGHTS if kind in weights]
    if "set" in layouts:
        graphs += [("set", "folded", chosen) for chosen in table.select(depth)]
    return graphs


def _present(artifact: Artifact | None, job: _Job, raw: bool, source: _Ranges | None) -> bool:
    """Whether ``artifact`` is what ``job`` would make.

    Raw outputs do no harm to who does not ask for them; their absence does.
    """
    if artifact is None or (raw and not artifact.raw):
        return False
    wanted = source.quantisation(job.target) if source and job.target else None
    return _numbers(artifact.quantisation) == _numbers(wanted)


def _numbers(scheme: Quantisation | None) -> Quantisation | None:
    """What decides the numbers of a graph: not what the table's file is called."""
    if scheme is None:
        return None
    calibration = scheme.calibration.model_copy(update={"file": ""})
    return scheme.model_copy(update={"calibration": calibration})


def _build(
    writer: BundleWriter,
    jobs: Sequence[_Job],
    model: AnyDepthModel,
    table: DepthTable,
    size: tuple[int, int],
    raw: bool,
    source: _Ranges | None,
    progress: Progress | None,
) -> None:
    rule = model.suppression
    detections = rule is None or rule.where == "graph"

    def on_piece(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"exporting {name}", done, total + len(jobs))

    pieces = export_pieces(model, size, progress=on_piece)
    if source is not None:
        check_patterns(source.rules, _convolutions(pieces), source.table.tensors)
    count = len(pieces.pieces)
    for index, job in enumerate(jobs):
        if progress is not None:
            progress(f"writing {job.name}", count + index, count + len(jobs))
        writer.add(job.name, _writer(job, pieces, table, raw, detections, source))
    if progress is not None:
        progress("done", count + len(jobs), count + len(jobs))


def _convolutions(pieces: Pieces) -> list[str]:
    return [
        node.name or "" for piece in pieces.pieces for node in piece.graph if node.op_type == "Conv"
    ]


def _writer(
    job: _Job,
    pieces: Pieces,
    table: DepthTable,
    raw: bool,
    detections: bool,
    source: _Ranges | None,
) -> Callable[[Path], Artifact]:
    recipe = Recipe(
        precision=job.precision,
        target=job.target or "onnxruntime",
        ranges=source.table if source else None,
        rules=source.rules if source else KeepingRules(),
        weights=job.weights,
        depth=job.depth,
        raw=raw,
        detections=detections,
    )

    def write(path: Path) -> Artifact:
        began = time.monotonic()
        try:
            lowered = lower(pieces, table, recipe)
        except CalibrationError as error:
            raise CalibrationError(f"{source.file if source else ''}: {error}") from None
        ir.save(lowered.model, path, format="protobuf")
        return Artifact(
            name=job.name,
            file=f"{job.name}.onnx",
            layout=job.layout,
            precision=job.precision,
            quantisation=source.quantisation(job.target) if source and job.target else None,
            quantised=lowered.quantised,
            kept=lowered.kept,
            weights=job.weights,
            depth=None if job.depth is None else str(job.depth),
            row=None if job.depth is None else table.row(job.depth),
            level=None if job.depth is None else table.level(job.depth),
            raw=raw or not detections,
            opset=lowered.model.graph.opset_imports[""],
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

"""``export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.calibration.keeping import KeepingRules, check_patterns
from anydepth_deploy.calibration.table import RangeTable, check_table, default_table, read_table
from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.checkpoints.class_names import class_names
from anydepth_deploy.depth import Depth, DepthTable, names_whole_ladder, parse_ladder
from anydepth_deploy.documents import file_sha256, utc_now
from anydepth_deploy.errors import CalibrationError, DepthError, UsageError
from anydepth_deploy.exporting.lower import Recipe, lower
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.assemble import Weights
from anydepth_deploy.graph.passes.contents import contents
from anydepth_deploy.graph.passes.cut import CutPiece, cut
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.manifest import (
    LAYOUTS,
    PRECISIONS,
    Artifact,
    Calibration,
    Deformable,
    GateSpec,
    Layout,
    Manifest,
    Precision,
    Quantisation,
    Source,
    StagePiece,
    Target,
    depth_rows,
)
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.progress import Progress
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.version import __version__

__all__ = ["export_bundle"]

WEIGHTS: tuple[Weights, ...] = ("shared", "folded")
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")


NAMED = ("tensorrt", "gather")
"""What is not the usual thing appears in the names of artifacts."""


@dataclass(frozen=True)
class _Job:
    """One artifact to make."""

    layout: Layout
    weights: Weights
    depth: Depth | None
    precision: Precision
    target: Target | None
    deformable: Deformable | None

    @property
    def name(self) -> str:
        if self.layout == "stages":
            return self._named("stages", "*")
        if self.depth is None:
            return self._named("gated", self.weights)
        return self._named("static", str(self.depth))

    def piece_name(self, piece: StagePiece) -> str:
        """Of one artifact, where the job makes several."""
        return self._named("stages", f"{piece.stage}.{piece.variant}")

    def _named(self, kind: str, what: str) -> str:
        words = [kind, self.precision, what]
        words += [word for word in (self.target, self.deformable) if word in NAMED]
        return "-".join(words)


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
    deformable: Deformable = "gridsample",
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
    comma-separated list; a gated graph and the pieces of a chain always hold every depth.
    ``layouts``: any of ``gated``, ``set`` and ``stages``; by default ``gated`` for ``all`` and
    ``every``, else ``set``. ``weights``: how the gated graph stores them, ``shared``, ``folded`` or
    both. ``deformable``: ``gather`` writes deformable attention with gathers instead of GridSample,
    with the same result, for programs that get GridSample wrong. ``precision``: any of ``fp32``,
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
    if deformable == "gather" and not model.samples_grids:
        raise UsageError(
            f"{model.family} has no deformable attention: leave --deformable gather out"
        )
    sampling = deformable if model.samples_grids else None
    jobs = [
        _Job(layout, kind, found, lowered, target, sampling)
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
        missing = [job for job in jobs if not _made(writer, job, raw, source)]
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
    whole = names_whole_ladder(depth)
    if layouts is None:
        return ["gated"] if whole else ["set"]
    if not layouts or (unknown := [layout for layout in layouts if layout not in LAYOUTS]):
        named = unknown[0] if layouts else ""
        raise UsageError(f"unknown layout '{named}': expected {' or '.join(LAYOUTS)}")
    if "set" not in layouts and not whole:
        raise UsageError(
            f"a {layouts[0]} graph holds every depth, so --depth {depth} has no meaning for it: "
            "leave --depth out, or add --layout set"
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
) -> list[tuple[Layout, Weights, Depth | None]]:
    """Graphs to make in each precision: layout, weights, and the depth of a static one."""
    graphs: list[tuple[Layout, Weights, Depth | None]] = []
    if "gated" in layouts:
        graphs += [("gated", kind, None) for kind in WEIGHTS if kind in weights]
    if "set" in layouts:
        graphs += [("set", "folded", chosen) for chosen in table.select(depth)]
    if "stages" in layouts:
        graphs.append(("stages", "folded", None))
    return graphs


def _made(writer: BundleWriter, job: _Job, raw: bool, source: _Ranges | None) -> bool:
    """Whether everything that ``job`` would make is there."""
    if job.layout != "stages":
        return _present(writer.find(job.name), job, raw, source)
    found = [
        item
        for item in writer.manifest.artifacts
        if item.piece is not None
        and item.engine is None
        and item.name == job.piece_name(item.piece)
    ]
    whole = bool(found) and found[0].piece is not None and len(found) == found[0].piece.total
    return whole and all(_present(writer.find(item.name), job, raw, source) for item in found)


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
        for name, write in _artifacts(job, pieces, table, raw, detections, source):
            if not _present(writer.find(name), job, raw, source):  # of a chain, what is missing
                writer.add(name, write)
    if progress is not None:
        progress("done", count + len(jobs), count + len(jobs))


def _convolutions(pieces: Pieces) -> list[str]:
    return [
        node.name or "" for piece in pieces.pieces for node in piece.graph if node.op_type == "Conv"
    ]


def _artifacts(
    job: _Job,
    pieces: Pieces,
    table: DepthTable,
    raw: bool,
    detections: bool,
    source: _Ranges | None,
) -> Iterator[tuple[str, Callable[[Path], Artifact]]]:
    """The artifacts of a job by name, each with what writes and describes it."""
    recipe = Recipe(
        precision=job.precision,
        target=job.target or "onnxruntime",
        ranges=source.table if source else None,
        rules=source.rules if source else KeepingRules(),
        weights=job.weights,
        depth=job.depth,
        raw=raw,
        detections=detections,
        deformable=job.deformable or "gridsample",
    )
    began = time.monotonic()
    try:
        lowered = lower(pieces, table, recipe)
    except CalibrationError as error:
        raise CalibrationError(f"{source.file if source else ''}: {error}") from None
    artifact = Artifact(
        name=job.name,
        file="graph.onnx",
        layout=job.layout,
        precision=job.precision,
        quantisation=source.quantisation(job.target) if source and job.target else None,
        quantised=lowered.quantised,
        kept=lowered.kept,
        weights=job.weights,
        deformable=job.deformable,
        depth=None if job.depth is None else str(job.depth),
        row=None if job.depth is None else table.row(job.depth),
        level=None if job.depth is None else table.level(job.depth),
        raw=raw or not detections or job.layout == "stages",
        opset=lowered.model.graph.opset_imports[""],
        bytes=0,
        sha256="0" * 64,
        built_with=_versions(),
        build_seconds=round(time.monotonic() - began, 3),
    )
    if job.layout == "stages":
        for piece in cut(lowered.model, table.space):
            name = job.piece_name(piece.spec)
            yield name, _writer(piece.model, _part_of(artifact, name, piece))
    else:
        yield job.name, _writer(lowered.model, artifact)


def _part_of(artifact: Artifact, name: str, piece: CutPiece) -> Artifact:
    """``artifact`` as one piece of it is described."""
    update = {"name": name, "piece": piece.spec, **contents(piece.model, artifact)}
    return artifact.model_copy(update=update)


def _writer(model: ir.Model, artifact: Artifact) -> Callable[[Path], Artifact]:
    def write(path: Path) -> Artifact:
        began = time.monotonic()
        ir.save(model, path, format="protobuf")
        seconds = artifact.build_seconds + time.monotonic() - began
        return artifact.model_copy(update={"build_seconds": round(seconds, 3)})

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

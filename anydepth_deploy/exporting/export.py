"""``export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.edit import check_rising
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.calibration.doubts import known_doubts, warning
from anydepth_deploy.calibration.keeping import KeepingRules, check_patterns
from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.checkpoints.class_names import class_names
from anydepth_deploy.depth import Depth, DepthTable, parse_ladder
from anydepth_deploy.documents import utc_now
from anydepth_deploy.errors import CalibrationError, UsageError, readable
from anydepth_deploy.exporting.golden import golden_depths, golden_writer
from anydepth_deploy.exporting.input_size import other_size
from anydepth_deploy.exporting.kept import (
    find_previous,
    gone,
    in_use,
    keeping,
    kept_said,
    kept_words,
    with_artifacts,
    with_names,
)
from anydepth_deploy.exporting.lower import Recipe, lower
from anydepth_deploy.exporting.plan import (
    Job,
    Plan,
    check_options,
    check_scales,
    find_scales,
    plan_jobs,
)
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.settling import Said, assumption, option_of
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.graph.passes.contents import contents
from anydepth_deploy.graph.passes.cut import CutPiece, cut
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.manifest import (
    SOURCE_METADATA,
    Artifact,
    Deformable,
    GateSpec,
    Manifest,
    Source,
    depth_rows,
)
from anydepth_deploy.pictures.images import Preprocess, Resize
from anydepth_deploy.progress import Progress
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.version import __version__

__all__ = ["export_bundle"]

log = logging.getLogger("anydepth_deploy")


@usual_state()
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
    resize: Resize | None = None,
    classes: str | Path | None = None,
    suppression: Suppression | None = None,
    raw: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    said: Said | None = None,
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
    (``onnxruntime``, ``tensorrt``, ``openvino``); ``rules`` say what stays in float. The log
    repeats what the table says against its pictures. ``ladder``: rungs from base to super, joined
    by commas, or a file. ``input_size``: height and width, by default the checkpoint's.
    ``resize``: how pictures of another shape meet it, ``stretch`` or ``letterbox``, by default as
    in the family's training. ``classes``: a file of class names, one a line. ``suppression``: where
    non-maximum suppression happens and with which thresholds, for families that need it; by default
    in the graph. ``raw``: add the heads' raw outputs. ``force``: replace a bundle of another
    export; what it was made with (size, ladder, class names, resizing, each setting of suppression,
    what was said) is kept unless it is named here, and so are its artifacts where only class names
    change. ``note`` is given a line for a person about what was kept, one about what is gone, one
    for each assumption, and one where the input has another size than the checkpoint was trained
    with. ``said``: what no key of the checkpoint reveals, as a person says it; it is kept in the
    manifest, and so is what was assumed.

    Raises :class:`CheckpointError`, :class:`CalibrationError`, :class:`DepthError`,
    :class:`BundleError`, :class:`UsageError` and :class:`ExportError`; an existing bundle is never
    damaged.
    """
    chosen = check_options(layouts, weights, precision, targets, depth)
    said = said or Said()
    loaded = read_checkpoint(checkpoint, said)
    digest = loaded.sha256
    there = find_previous(out)
    previous = there if force else None
    if (remembered := kept_said(previous, loaded, digest, said)) != said:
        loaded = read_checkpoint(checkpoint, remembered)
        if note is not None:
            words = (f"{option_of(name)} {word}" for name, word in remembered.words.items())
            note(f"kept from the bundle that is replaced: {' '.join(words)}")
    if note is not None:
        for name, word in loaded.assumed.items():
            note(assumption(name, word))
    scales = find_scales(checkpoint, precision, ranges, rules)
    model = load_model(loaded)
    kept = keeping(previous, loaded, digest)
    rungs = kept.ladder(model) if ladder is None else parse_ladder(model.space, ladder)
    table = DepthTable(model.space, rungs)
    if ladder is None:
        table = in_use(table, there, digest)
    if input_size is None and not kept.same:
        loaded.usual_size()  # refused before anything is made of that size
    size = input_size or kept.size(loaded, model)
    model.check_size(size)
    if deformable == "gather" and not model.samples_grids:
        raise UsageError(
            f"{model.family} has no deformable attention: leave --deformable gather out"
        )
    sampling = deformable if model.samples_grids else None
    jobs = plan_jobs(table, chosen, weights, depth, precision, targets, sampling)
    if suppression is not None and model.suppression is None:
        raise UsageError(
            f"{model.family} gives its detections without non-maximum suppression: leave the "
            "options that begin with --nms out"
        )
    kept_from = kept_words(
        kept,
        loaded,
        model,
        input_size=input_size,
        resizing=resize,
        ladder=ladder,
        class_names=classes,
        suppression=suppression,
    )
    model.suppression = kept.suppression(model, suppression)
    plan = Plan(model, table, size, jobs, raw, scales)
    names = class_names(loaded.config.classes, file=classes, stored=kept.names(loaded))
    manifest = _manifest(loaded, plan, names, kept.preprocess(model, size, resize), digest)
    if ladder is not None:
        check_rising(manifest)
    manifest = with_artifacts(with_names(manifest, kept.previous), kept.previous)
    if scales is not None:
        check_scales(scales, manifest, jobs)
        if reasons := known_doubts(scales.table):
            log.warning("%s", warning(scales.file, reasons))
    with BundleWriter(out, manifest, force=force) as writer:
        missing = [job for job in jobs if not plan.made(writer, job)]
        if missing:
            writer.try_to_write()
            _build(writer, plan, missing, progress)
        if writer.find_golden() is None:
            writer.try_to_write()
            if progress is not None:
                progress("golden outputs", 0, 1)
            depths = golden_depths(table.space, table.ladder)
            macs = max(row.macs["total"] for row in manifest.depths)
            writer.add_golden(golden_writer(model, depths, manifest.preprocess, macs))
    bundle = open_bundle(out)
    for line in (kept_from, gone(previous, bundle.manifest), other_size(loaded, size)):
        if note is not None and line:
            note(line)
    return bundle


def _build(
    writer: BundleWriter, plan: Plan, jobs: Sequence[Job], progress: Progress | None
) -> None:
    def on_piece(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"exporting {name}", done, total + len(jobs))

    pieces = export_pieces(plan.model, plan.size, depths=_depths(plan, jobs), progress=on_piece)
    if plan.scales is not None:
        check_patterns(plan.scales.rules, _convolutions(pieces), plan.scales.table.tensors)
    count = len(pieces.pieces)
    for index, job in enumerate(jobs):
        if progress is not None:
            progress(f"writing {job.name}", count + index, count + len(jobs))
        for name, write in _artifacts(plan, job, pieces, writer.manifest.source.sha256):
            if not plan.present(writer.find(name), job):  # of a chain, what is missing
                writer.add(name, write)
    if progress is not None:
        progress("done", count + len(jobs), count + len(jobs))


def _depths(plan: Plan, jobs: Sequence[Job]) -> list[Depth] | None:
    """The depths whose pieces the jobs need; None for all."""
    rules = plan.scales.rules if plan.scales else KeepingRules()
    if rules.keep or rules.quantise:  # which may name any convolution of the network
        return None
    found = [job.depth for job in jobs if job.depth is not None]
    return found if len(found) == len(jobs) else None


def _convolutions(pieces: Pieces) -> list[str]:
    return [
        node.name or "" for piece in pieces.pieces for node in piece.graph if node.op_type == "Conv"
    ]


def _artifacts(
    plan: Plan, job: Job, pieces: Pieces, source: str
) -> Iterator[tuple[str, Callable[[Path], Artifact]]]:
    """The artifacts of a job by name, each with what writes and describes it. ``source``: SHA-256
    of the checkpoint, which the graphs are marked with."""
    table, scales = plan.table, plan.scales
    recipe = Recipe(
        precision=job.precision,
        target=job.target or "onnxruntime",
        ranges=scales.table if scales else None,
        rules=scales.rules if scales else KeepingRules(),
        weights=job.weights,
        depth=job.depth,
        raw=plan.raw,
        detections=plan.detections,
        deformable=job.deformable or "gridsample",
    )
    began = time.monotonic()
    try:
        lowered = lower(pieces, table, recipe)
    except CalibrationError as error:
        raise CalibrationError(f"{scales.file if scales else ''}: {error}") from None
    artifact = Artifact(
        name=job.name,
        file="graph.onnx",
        layout=job.layout,
        precision=job.precision,
        quantisation=plan.quantisation(job),
        quantised=lowered.quantised,
        kept=lowered.kept,
        weights=job.weights,
        deformable=job.deformable,
        depth=None if job.depth is None else str(job.depth),
        row=None if job.depth is None else table.row(job.depth),
        level=None if job.depth is None else table.level(job.depth),
        raw=plan.raw or not plan.detections or job.layout == "stages",
        opset=lowered.model.graph.opset_imports[""],
        bytes=0,
        sha256="0" * 64,
        built_with=_versions(),
        build_seconds=round(time.monotonic() - began, 3),
    )
    if job.layout == "stages":
        for piece in cut(lowered.model, table.space):
            name = job.piece_name(piece.spec)
            yield name, _writer(piece.model, _part_of(artifact, name, piece), source)
    else:
        yield job.name, _writer(lowered.model, artifact, source)


def _part_of(artifact: Artifact, name: str, piece: CutPiece) -> Artifact:
    """``artifact`` as one piece of it is described."""
    update = {"name": name, "piece": piece.spec, **contents(piece.model, artifact)}
    return artifact.model_copy(update=update)


def _writer(model: ir.Model, artifact: Artifact, source: str) -> Callable[[Path], Artifact]:
    def write(path: Path) -> Artifact:
        began = time.monotonic()
        model.metadata_props[SOURCE_METADATA] = source
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
    checkpoint: Checkpoint, plan: Plan, classes: list[str], preprocess: Preprocess, sha256: str
) -> Manifest:
    model, table = plan.model, plan.table
    macs = count_macs(model, plan.size)
    config: Any = checkpoint.config
    return Manifest(
        tool_version=__version__,
        created=utc_now(),
        source=Source(
            file=readable(checkpoint.path.resolve().name),
            sha256=sha256,
            bytes=checkpoint.bytes,
            weights=checkpoint.weights,
        ),
        family=checkpoint.family.name,
        config=config.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=classes,
        preprocess=preprocess,
        gates=[GateSpec(name=g.name, group=g.group, layers=g.layers) for g in table.space.gates],
        base=list(table.space.base_settings),
        ladder=[str(rung) for rung in table.ladder],
        depths=depth_rows(table, macs.at, macs.executed),
        raw_outputs=dict(model.raw_outputs),
        suppression=model.suppression,
        max_detections=model.max_detections,
        said=dict(checkpoint.chosen),
    )

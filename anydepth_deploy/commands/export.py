"""``export``: a checkpoint becomes a bundle, with engines where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from anydepth_deploy.building.plan import engine_graphs
from anydepth_deploy.calibration.rules import KeepingRules
from anydepth_deploy.checkpoints.class_names import read_names
from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.build import build_engines
from anydepth_deploy.commands.options import (
    ARTIFACTS,
    ENGINES,
    INT8,
    NETWORK,
    BatchOption,
    CheckpointPath,
    Depths,
    Json,
    LadderOption,
    SamplingOption,
    SizeOption,
    TimingCacheOption,
    WorkspaceOption,
    batch_profile,
    memory,
    one_of,
    size_of,
    words_of,
)
from anydepth_deploy.depth import ladder_words
from anydepth_deploy.errors import UsageError
from anydepth_deploy.exporting.words import (
    check_layouts,
    check_precisions,
    check_ranges,
    check_weights,
)
from anydepth_deploy.manifest import Format
from anydepth_deploy.suppression import Suppression, Where

__all__ = ["export"]

SUPPRESSION = "Non-maximum suppression (YOLO)"


def export(
    checkpoint: CheckpointPath,
    out: Annotated[Path, typer.Option(help="Folder of the bundle, e.g. engines/r50.")],
    depth: Depths = "all",
    layout: Annotated[
        str | None,
        typer.Option(
            help="gated, set, stages, or several. Default: gated, or set for chosen depths; "
            "engines: gated,set.",
            rich_help_panel=ARTIFACTS,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Gated graph: shared (small; default), folded (norms folded), or shared,folded.",
            rich_help_panel=ARTIFACTS,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, int8, or several, joined by commas.",
            rich_help_panel=ARTIFACTS,
        ),
    ] = "fp32",
    target: Annotated[
        str | None,
        typer.Option(
            help="INT8 made for onnxruntime (CPUs, also OpenVINO; default), tensorrt, or both; "
            "engines of tensorrt-rtx ahead of time: e.g. sm75,sm89.",
            rich_help_panel=ARTIFACTS,
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Add the heads' raw outputs.", rich_help_panel=ARTIFACTS),
    ] = False,
    deformable: SamplingOption = "gridsample",
    ladder: LadderOption = None,
    size: SizeOption = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Class names, one a line.", rich_help_panel=NETWORK),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(
            help="INT8: table of 'calibrate'; default: calib/CHECKPOINT.json.",
            rich_help_panel=INT8,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="INT8: stages or convolutions that stay in float, e.g. 'layer1,*Conv_3'.",
            rich_help_panel=INT8,
        ),
    ] = None,
    quantise: Annotated[
        str | None,
        typer.Option(
            help="INT8: those that are quantised whatever the thresholds say.",
            rich_help_panel=INT8,
        ),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="INT8: how far ranges of a join may differ over depths; default 4.",
            rich_help_panel=INT8,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="INT8: relative rounding error of a tensor; default 0.1.",
            rich_help_panel=INT8,
        ),
    ] = None,
    nms: Annotated[
        Where | None,
        one_of(
            get_args(Where),
            help="YOLO: suppress in the graph (default), on the host, or not at all.",
            rich_help_panel=SUPPRESSION,
        ),
    ] = None,
    nms_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.999,
            help="YOLO: lowest score of a detection; default: 0.001.",
            rich_help_panel=SUPPRESSION,
        ),
    ] = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="YOLO: IoU above which a box goes; default: 0.7.",
            rich_help_panel=SUPPRESSION,
        ),
    ] = None,
    format: Annotated[
        Format,
        one_of(
            get_args(Format),
            help="Also build engines from the graphs, on this device.",
            rich_help_panel=ENGINES,
        ),
    ] = "onnx",
    batch: BatchOption = "1,1,4",
    workspace: WorkspaceOption = None,
    timing_cache: TimingCacheOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another export.")] = False,
    json: Json = False,
) -> None:
    """Turn a checkpoint into a bundle; makes only what is missing."""
    words = None if layout is None else words_of(layout)
    precisions = words_of(precision)
    graphs: dict[str, Any] = {
        "layouts": words,
        "weights": ["shared"],
        "targets": words_of(target or "onnxruntime"),
    }
    if format != "onnx":
        graphs = engine_graphs(words, depth, precisions)
    if weights is not None:
        graphs["weights"] = words_of(weights)
    rules = _rules(keep, quantise, max_ratio, max_error)
    suppression = _suppression(nms, nms_score, nms_iou)
    input_size, profile, most = size_of(size), batch_profile(batch), memory(workspace)
    check_layouts(graphs["layouts"], depth)
    check_weights(graphs["weights"])
    check_precisions(precisions, graphs["targets"])
    if ladder is not None:
        ladder_words(ladder)
    if classes is not None:
        read_names(classes)
    check_present(checkpoint)
    check_ranges(checkpoint, precisions, ranges, rules=rules is not None)

    from anydepth_deploy import console, describe
    from anydepth_deploy.exporting.export import export_bundle

    with console.bar("export", quiet=json) as progress:
        bundle = export_bundle(
            checkpoint,
            out,
            depth=depth,
            **graphs,
            precision=precisions,
            deformable=deformable,
            ranges=ranges,
            rules=rules,
            ladder=ladder,
            input_size=input_size,
            classes=classes,
            suppression=suppression,
            raw=raw,
            force=force,
            progress=progress,
        )
    if format != "onnx":
        build_engines(
            bundle.path,
            runtime=format,
            capabilities=words_of(target or ""),
            depth=depth,
            layouts=words,
            precision=precisions,
            batch=profile,
            workspace=most,
            timing_cache=timing_cache,
            deformable=deformable,
            quiet=json,
        )
    describe.show(describe.describe_bundle(bundle.path), every=False, as_json=json)


def _suppression(nms: Where | None, score: float | None, iou: float | None) -> Suppression | None:
    """The settings of the options that were given; None where none was."""
    options = {"where": nms, "score_threshold": score, "iou_threshold": iou}
    given = {name: value for name, value in options.items() if value is not None}
    if nms == "none" and len(given) > 1:
        raise UsageError(
            "with --nms none there is nothing that thresholds could apply to: leave --nms-score "
            "and --nms-iou out, or choose --nms graph or host"
        )
    return Suppression.model_validate(given) if given else None


def _rules(
    keep: str | None, quantise: str | None, max_ratio: float | None, max_error: float | None
) -> KeepingRules | None:
    """What of an INT8 graph stays in float; None where nothing was said."""
    thresholds = {"max_ratio": max_ratio, "max_error": max_error}
    given: dict[str, Any] = {name: value for name, value in thresholds.items() if value is not None}
    patterns = {"keep": keep, "quantise": quantise}
    given |= {name: tuple(words_of(text)) for name, text in patterns.items() if text is not None}
    return KeepingRules(**given) if given else None

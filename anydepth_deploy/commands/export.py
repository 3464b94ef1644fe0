"""``export``: a checkpoint becomes a bundle, with engines where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from anydepth_deploy.building.plan import engine_graphs
from anydepth_deploy.building.targets import capabilities
from anydepth_deploy.checkpoints.class_names import read_names
from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.build import build_engines
from anydepth_deploy.commands.options import (
    ARTIFACTS,
    ENGINES,
    INT8,
    NETWORK,
    ActivationOption,
    BatchOption,
    CheckpointPath,
    DeformableOption,
    Depths,
    FineCosformerOption,
    FinePositionOption,
    FineUpsamplingOption,
    Json,
    LadderOption,
    Panel,
    ResizeOption,
    SamplingOption,
    SizeOption,
    TimingCacheOption,
    WorkspaceOption,
    batch_profile,
    memory,
    size_of,
    words_of,
)
from anydepth_deploy.depth import ladder_words
from anydepth_deploy.exporting.words import (
    check_layouts,
    check_precisions,
    check_ranges,
    check_weights,
)
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.manifest import Format
from anydepth_deploy.suppression import Where
from anydepth_deploy.verbs.words import rules_of, suppression_of

__all__ = ["export"]

SUPPRESSION = Panel("Non-maximum suppression (YOLO)")


def export(
    checkpoint: CheckpointPath,
    out: Annotated[Path, typer.Option(help="Folder of the bundle, e.g. engines/r50.")],
    depth: Depths = "all",
    layout: Annotated[
        str | None,
        ARTIFACTS.option(
            "gated, set, stages, or several. Default: gated, or set for chosen depths; "
            "engines: gated,set."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        ARTIFACTS.option(
            "Gated graph: shared (small; default), folded (norms folded), or shared,folded."
        ),
    ] = None,
    precision: Annotated[
        str, ARTIFACTS.option("fp32, fp16, int8, or several, joined by commas.")
    ] = "fp32",
    target: Annotated[
        str | None,
        ARTIFACTS.option(
            "INT8 made for onnxruntime (CPUs, also OpenVINO; default), tensorrt, or both; "
            "engines of tensorrt-rtx ahead of time: e.g. sm75,sm89 or t4,l4."
        ),
    ] = None,
    raw: Annotated[bool, ARTIFACTS.option("Add the heads' raw outputs.", "--raw")] = False,
    deformable: DeformableOption = "gridsample",
    ladder: LadderOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    decoder_activation: ActivationOption = None,
    sampling: SamplingOption = None,
    fine_position: FinePositionOption = None,
    fine_cosformer: FineCosformerOption = None,
    fine_upsampling: FineUpsamplingOption = None,
    classes: Annotated[Path | None, NETWORK.option("Class names, one a line.")] = None,
    ranges: Annotated[
        Path | None, INT8.option("INT8: table of 'calibrate'; default: calib/CHECKPOINT.json.")
    ] = None,
    keep: Annotated[
        str | None,
        INT8.option("INT8: stages or convolutions that stay in float, e.g. 'layer1,*Conv_3'."),
    ] = None,
    quantise: Annotated[
        str | None, INT8.option("INT8: those that are quantised whatever the thresholds say.")
    ] = None,
    max_ratio: Annotated[
        float | None,
        INT8.option("INT8: how far ranges of a join may differ over depths; default 4.", min=1),
    ] = None,
    max_error: Annotated[
        float | None, INT8.option("INT8: relative rounding error of a tensor; default 0.1.", min=0)
    ] = None,
    nms: Annotated[
        Where | None,
        SUPPRESSION.one_of(
            get_args(Where), "YOLO: suppress in the graph (default), on the host, or not at all."
        ),
    ] = None,
    nms_score: Annotated[
        float | None,
        SUPPRESSION.option("YOLO: lowest score of a detection; default: 0.001.", min=0, max=0.999),
    ] = None,
    nms_iou: Annotated[
        float | None,
        SUPPRESSION.option("YOLO: IoU above which a box goes; default: 0.7.", min=0.01, max=1),
    ] = None,
    format: Annotated[
        Format,
        ENGINES.one_of(get_args(Format), "Also build engines from the graphs, on this device."),
    ] = "onnx",
    batch: BatchOption = "1,1,4",
    workspace: WorkspaceOption = None,
    timing_cache: TimingCacheOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace another export, keeping the settings not named here."
        ),
    ] = False,
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
        capabilities(words_of(target or ""))  # refuses what no engine is built for
    if weights is not None:
        graphs["weights"] = words_of(weights)
    rules = rules_of(keep, quantise, max_ratio, max_error)
    suppression = suppression_of(nms, nms_score, nms_iou)
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

    notes: list[str] = []
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
            resize=resize,
            classes=classes,
            suppression=suppression,
            raw=raw,
            force=force,
            progress=progress,
            note=notes.append,
            said=Said(decoder_activation, sampling, fine_position, fine_cosformer, fine_upsampling),
        )
    if format != "onnx":
        build_engines(
            bundle.path,
            runtime=format,
            capabilities=capabilities(words_of(target or "")),
            depth=depth,
            layouts=words,
            precision=precisions,
            batch=profile,
            workspace=most,
            timing_cache=timing_cache,
            deformable=deformable,
            quiet=json,
        )
    found = {**describe.describe_bundle(bundle.path), "notes": notes}
    describe.show(found, every=False, as_json=json, checkpoint=checkpoint)

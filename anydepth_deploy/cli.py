"""The command ``anydepth-deploy``: parse, call, print. No logic lives here."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from anydepth_deploy.errors import (
    AnyDepthError,
    CheckFailedError,
    MissingExtraError,
    UsageError,
    missing_extra,
    shorten,
)
from anydepth_deploy.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="anydepth-deploy",
    help="Any-depth object detectors in production: calibrate, export, build, verify, eval, "
    "bench, report, predict, triton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What typer raises for bad options has a base class that it does not export, and which moved
# between releases; it is an ancestor of one that it does export.
CommandLineError: Any = next(
    parent for parent in typer.BadParameter.__mro__ if parent.__name__ == "ClickException"
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.")]
Runtime = Annotated[str, typer.Option(help="What executes the artifact.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads inside one operator.")]
Depths = Annotated[
    str,
    typer.Option(
        help="Depths, joined by commas: FFTT-F-6, super, base, level:K, all (the ladder), every."
    ),
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")]
Images = Annotated[
    Path | None,
    typer.Option(help="A picture or a folder, of which three are used; default: generated ones."),
]


class Layout(str, Enum):
    """How depths are packed into artifacts."""

    gated = "gated"
    set = "set"
    stages = "stages"


class Weights(str, Enum):
    """How a gated graph stores its weights."""

    shared = "shared"
    folded = "folded"


class Nms(str, Enum):
    """Where non-maximum suppression happens."""

    graph = "graph"
    host = "host"
    none = "none"


class FamilyName(str, Enum):
    """Families of any-depth detectors."""

    detr = "anydepth-detr"
    yolo = "anydepth-yolo"


WeightsOption = Annotated[
    Weights | None, typer.Option(help="Use the gated graph with these weights.")
]


class Format(str, Enum):
    """What a bundle's artifacts are."""

    onnx = "onnx"
    tensorrt = "tensorrt"
    rtx = "tensorrt-rtx"


class EngineRuntime(str, Enum):
    """What engines are built for."""

    tensorrt = "tensorrt"
    rtx = "tensorrt-rtx"


class Sampling(str, Enum):
    """How deformable attention samples."""

    gridsample = "gridsample"
    gather = "gather"


class PrecisionName(str, Enum):
    """What a session computes in; ``bf16``: an FP32 artifact in BF16 (OpenVINO)."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    bf16 = "bf16"


class Method(str, Enum):
    """How a range is chosen from what was seen."""

    percentile = "percentile"
    minmax = "minmax"
    entropy = "entropy"


class TargetName(str, Enum):
    """What INT8 graphs are made for."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class ScenarioName(str, Enum):
    """How requests come."""

    single = "single"
    streams = "streams"
    fixed_rate = "fixed-rate"
    poisson = "poisson"
    offline = "offline"


class ModeName(str, Enum):
    """How depths share the time."""

    interleaved = "interleaved"
    fixed = "fixed"
    mixed = "mixed"
    switching = "switching"


class ScopeName(str, Enum):
    """What is timed."""

    raw = "raw"
    detections = "detections"
    pictures = "pictures"


class ServeRuntime(str, Enum):
    """Triton's backends for models with weights."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class ServeDevice(str, Enum):
    """Where Triton runs models with weights."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class DeviceName(str, Enum):
    """Where torch computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ReportFormat(str, Enum):
    """Of a table of results."""

    text = "text"
    markdown = "markdown"
    csv = "csv"


PrecisionOption = Annotated[
    PrecisionName,
    typer.Option(help="Of the artifact; bf16: the FP32 one, computed in BF16 (OpenVINO)."),
]
TargetOption = Annotated[TargetName, typer.Option(help="What the INT8 artifacts were made for.")]
SamplingOption = Annotated[
    Sampling,
    typer.Option(
        help="Deformable attention with GridSample, or with gathers: some TensorRT versions get "
        "the first wrong."
    ),
]
BatchOption = Annotated[
    str,
    typer.Option(
        help="Batch sizes of engines: one, smallest,largest, or smallest,fastest,largest."
    ),
]
WorkspaceOption = Annotated[
    str | None, typer.Option(help="Engines: scratch memory of the builder at most, e.g. 2GiB.")
]
TimingCacheOption = Annotated[
    Path | None,
    typer.Option(help="TensorRT: file of measured kernels; makes the next build faster."),
]
LayoutOption = Annotated[
    Layout | None,
    typer.Option(help="Use only artifacts of this layout."),
]


def main() -> None:
    """Entry point: errors become one line and an exit status (see :mod:`errors`)."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        status = app(arguments, prog_name="anydepth-deploy", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        message = _message(error)
        if message is None:
            kind = type(error).__name__
            line = " ".join(str(error).split())[:300]
            print(f"error: unexpected {kind}: {line} (a bug; --debug shows where)", file=sys.stderr)
            sys.exit(3)
        if message:  # without arguments, the help that was printed says it all
            print(f"error: {message}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckFailedError) else 2)
    sys.exit(status if isinstance(status, int) else 0)


def _message(error: Exception) -> str | None:
    """One line for a person, or None for what is a bug of ours."""
    if isinstance(error, AnyDepthError | CheckFailedError):
        return str(error)
    if isinstance(error, CommandLineError):
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "anydepth-deploy"
        line = " ".join(error.format_message().split())
        if not line:
            return ""
        return f"{line.rstrip('.')}: see '{where} --help'"
    if isinstance(error, ModuleNotFoundError):
        friendly = missing_extra(error, "this command")
        return None if friendly is None else str(friendly)
    if isinstance(error, OSError | MemoryError):
        return f"{type(error).__name__}: {error}"
    return None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"anydepth-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (any position).")
    ] = False,
) -> None:
    """Any-depth object detectors in production."""


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint or a bundle.")],
    every: Annotated[bool, typer.Option(help="List every depth, not only the ladder.")] = False,
    size: Annotated[
        str | None,
        typer.Option(help="Input size for multiply-adds, HEIGHTxWIDTH (checkpoints)."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what a checkpoint or a bundle holds."""
    from anydepth_deploy import describe

    if path.is_dir():
        found = describe.describe_bundle(path)
    else:
        found = describe.describe_checkpoint(path, _size(size))
    describe.show(found, every=every, as_json=json)


@app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    images: Annotated[Path, typer.Option(help="Folder of pictures like those to come.")],
    out: Annotated[
        Path | None, typer.Option(help="The range table; default: calib/CHECKPOINT.json.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of the report (.png, .pdf, .svg); default: beside the table."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures drawn from the folder.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Which ones.")] = 0,
    method: Annotated[Method, typer.Option(help="How ranges are chosen.")] = Method.percentile,
    percentile: Annotated[
        float, typer.Option(min=50, max=100, help="Per cent of the values kept.")
    ] = 99.99,
    depth: Annotated[
        str, typer.Option(help="Depths beside the ladder, as for export; a static graph needs its.")
    ] = "all",
    ladder: Annotated[
        str | None,
        typer.Option(help="Rungs from base to super, joined by commas, or a file with them."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Input size, HEIGHTxWIDTH.")] = None,
    probe: Annotated[
        int, typer.Option(min=0, help="Pictures to measure the errors of stages with; 0: do not.")
    ] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per run.")] = 1,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Gather ranges of activations over pictures and depths, for INT8; resumes where it stopped.

    Reports how far ranges differ between depths, and what 8 bits cost each stage at each depth.
    """
    from anydepth_deploy import console
    from anydepth_deploy.calibration import report
    from anydepth_deploy.calibration.calibrate import calibrate as run
    from anydepth_deploy.commands import verify as tables

    with console.bar("calibrate", quiet=json) as progress:
        path, table = run(
            checkpoint,
            images,
            out,
            depth=depth,
            ladder=ladder,
            input_size=_size(size),
            count=count,
            seed=seed,
            method=method.value,
            percentile=percentile,
            probe=probe,
            batch=batch,
            threads=threads,
            progress=progress,
        )
    picture: Path | None = plot or path.with_suffix(".png")
    try:
        report.draw_report(table, plot or path.with_suffix(".png"))
    except MissingExtraError:
        if plot is not None:
            raise
        picture = None
    if json:
        content = {"table": str(path), "sha256": table.sha256, **report.report_rows(table)}
        console.print_json({**content, "picture": picture and str(picture)})
        return
    if stages := report.stage_rows(table):
        title = "relative error at the outputs of stages, ranges merged over depths (own)"
        console.print_table(title, *tables.stage_table(stages, table.ladder))
    title = "ranges of joins over depths"
    console.print_table(title, *tables.join_table(report.join_rows(table)))
    further = table.depths[len(table.ladder) :]
    console.print_line(
        f"{table.pictures.count} pictures at {len(table.depths)} depths"
        + (f" (beside the ladder: {shorten(further)})" if further else "")
    )
    console.print_line(f"ranges: {path}" + (f", picture: {picture}" if picture else ""))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle, e.g. engines/r50.")],
    depth: Depths = "all",
    layout: Annotated[
        str | None,
        typer.Option(
            help="gated, set, stages, or several. Default: gated, or set for chosen depths; "
            "engines: gated,set."
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="Also build engines from the graphs, on this device.")
    ] = Format.onnx,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Gated graph: shared (small; default), folded (norms folded), or shared,folded."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8, or several, joined by commas.")
    ] = "fp32",
    target: Annotated[
        str | None,
        typer.Option(
            help="INT8 made for onnxruntime (CPUs, also OpenVINO; default), tensorrt, or both; "
            "engines of tensorrt-rtx ahead of time: e.g. sm75,sm89."
        ),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(help="INT8: table of 'calibrate'; default: calib/CHECKPOINT.json."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="INT8: stages or convolutions that stay in float, e.g. 'layer1,*Conv_3'."
        ),
    ] = None,
    quantise: Annotated[
        str | None,
        typer.Option(help="INT8: those that are quantised whatever the thresholds say."),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            min=1, help="INT8: how far ranges of a join may differ over depths; default 4."
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(min=0, help="INT8: relative rounding error of a tensor; default 0.1."),
    ] = None,
    ladder: Annotated[
        str | None,
        typer.Option(help="Rungs from base to super, joined by commas, or a file with them."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Input size, HEIGHTxWIDTH.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Class names, one a line."),
    ] = None,
    nms: Annotated[
        Nms | None,
        typer.Option(help="YOLO: suppress in the graph (default), on the host, or not at all."),
    ] = None,
    nms_score: Annotated[
        float | None,
        typer.Option(min=0, max=0.999, help="YOLO: lowest score of a detection; default: 0.001."),
    ] = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="YOLO: IoU above which a box goes; default: 0.7."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Add the heads' raw outputs.")] = False,
    deformable: SamplingOption = Sampling.gridsample,
    batch: BatchOption = "1,1,4",
    workspace: WorkspaceOption = None,
    timing_cache: TimingCacheOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another export.")] = False,
    json: Json = False,
) -> None:
    """Turn a checkpoint into a bundle; makes only what is missing."""
    from anydepth_deploy import console, describe
    from anydepth_deploy.building.plan import engine_graphs
    from anydepth_deploy.exporting.export import export_bundle

    engines = None if format is Format.onnx else EngineRuntime(format.value)
    words = None if layout is None else _words(layout)
    targets = _words(target or "onnxruntime")
    graphs: dict[str, Any] = {"layouts": words, "weights": ["shared"], "targets": targets}
    if engines is not None:
        graphs = engine_graphs(words, depth, _words(precision))
    if weights is not None:
        graphs["weights"] = _words(weights)
    with console.bar("export", quiet=json) as progress:
        bundle = export_bundle(
            checkpoint,
            out,
            depth=depth,
            **graphs,
            precision=_words(precision),
            deformable=deformable.value,
            ranges=ranges,
            rules=_rules(keep, quantise, max_ratio, max_error),
            ladder=ladder,
            input_size=_size(size),
            classes=classes,
            suppression=_suppression(nms, nms_score, nms_iou),
            raw=raw,
            force=force,
            progress=progress,
        )
    if engines is not None:
        _build(
            bundle.path,
            engines,
            targets=_words(target or ""),
            depth=depth,
            layouts=words,
            precision=_words(precision),
            batch=batch,
            workspace=workspace,
            timing_cache=timing_cache,
            deformable=deformable,
            quiet=json,
        )
    describe.show(describe.describe_bundle(bundle.path), every=False, as_json=json)


@app.command()
def build(
    bundle: BundlePath,
    runtime: Annotated[EngineRuntime, typer.Option(help="What builds and runs the engines.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="tensorrt-rtx, ahead of time: compute capabilities, e.g. sm75,sm89, served by one "
            "engine. Default: the device at hand."
        ),
    ] = None,
    depth: Depths = "all",
    layout: Annotated[
        str | None,
        typer.Option(
            help="gated (one engine for all depths), set (one each), stages (pieces, chained), or "
            "several. Default: gated,set, or set for chosen depths."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, int8 or several; default: all that the bundle has."),
    ] = None,
    weights: WeightsOption = None,
    batch: BatchOption = "1,1,4",
    workspace: WorkspaceOption = None,
    timing_cache: TimingCacheOption = None,
    deformable: SamplingOption = Sampling.gridsample,
    json: Json = False,
) -> None:
    """Build TensorRT engines from a bundle's graphs; makes only what is missing."""
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.commands import verify as tables

    report = _build(
        bundle,
        runtime,
        targets=_words(target or ""),
        depth=depth,
        layouts=None if layout is None else _words(layout),
        precision=None if precision is None else _words(precision),
        weights=None if weights is None else weights.value,
        batch=batch,
        workspace=workspace,
        timing_cache=timing_cache,
        deformable=deformable,
        quiet=json,
    )
    if json:
        console.print_json(asdict(report))
        return
    title = f"engines for {' and '.join(report.capabilities)}, {runtime.value} {report.version}"
    console.print_table(title, *tables.engine_table(report, open_bundle(bundle)))
    for name, reason in report.refused.items():
        console.print_line(f"not built in {name}: {reason}")
    for note, names in report.notes.items():
        console.print_line(f"{shorten(names, 3)}: {note}")


@app.command()
def verify(
    bundle: BundlePath,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint the bundle was made from; not for engines, which are compared "
            "with the graphs of the bundle."
        ),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option(
            help="Depths, as for export; by default the ladder (engines: every depth), and each "
            "static graph's own."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="Same as --depth every.")] = False,
    images: Images = None,
    layout: LayoutOption = None,
    precision: Annotated[
        PrecisionName | None,
        typer.Option(help="Only artifacts of this precision; bf16: the FP32 ones, in BF16."),
    ] = None,
    runtime: Runtime = "onnxruntime",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Compare every artifact with its checkpoint, depth by depth; exit 1 on a difference.

    FP32 has to be equal: largest differences are shown. Lower precisions have to be close:
    relative errors are. Engines (--runtime tensorrt, tensorrt-rtx) are compared with the graphs
    they were built from, on ONNX Runtime, and marked in the bundle.
    """
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.pictures.samples import verification_batches
    from anydepth_deploy.runtimes.registry import format_of

    engines = format_of(runtime) != "onnx"
    if engines and checkpoint is not None:
        raise UsageError(
            "engines are compared with the graphs of their bundle: leave --checkpoint out"
        )
    opened = open_bundle(bundle)
    chosen = "every" if every else depth
    batches = verification_batches(opened.manifest.preprocess, images)
    options: dict[str, Any] = {
        "depths": None if chosen is None else opened.table.select(chosen),
        "layout": None if layout is None else layout.value,
        "precision": None if precision is None else precision.value,
        "runtime": runtime,
        "threads": threads,
    }
    if engines:
        _verify_engines(opened, batches, json, **options)
    elif checkpoint is None:
        raise UsageError("--checkpoint is missing: name the file that the bundle was made from")
    else:
        _verify(opened, checkpoint, batches, json, **options)


def _verify(opened: Any, checkpoint: Path, batches: Any, json: bool, **options: Any) -> None:
    from anydepth_deploy import console
    from anydepth_deploy.commands import verify as tables
    from anydepth_deploy.verifying.graphs import verify as run

    with console.bar("verify", quiet=json) as progress:
        report = run(opened, str(checkpoint), batches, progress=progress, **options)
    if json:
        console.print_json(report.to_json())
    else:
        title = f"parity with {checkpoint.name} ({report.runtime})"
        console.print_table(title, *tables.parity_table(report))
    if not report.passed:
        raise CheckFailedError(tables.failure(report, str(checkpoint)))
    if not json:
        console.print_line(f"verified: {tables.verdicts(report)}")
        if report.left_out:
            console.print_line(f"not tried: {', '.join(report.left_out)}")


def _verify_engines(opened: Any, batches: Any, json: bool, **options: Any) -> None:
    from anydepth_deploy import console
    from anydepth_deploy.commands import verify as tables

    with _without_torch("verifying engines"):
        from anydepth_deploy.verifying.engines import verify_engines

    with _without_torch("verifying engines"), console.bar("verify", quiet=json) as progress:
        report = verify_engines(opened, batches, progress=progress, **options)
    if json:
        console.print_json(report.to_json())
    else:
        sizes = sorted({shape[0] for shape in report.batches})
        title = f"engines of {report.runtime} and their graphs, batches of {shorten(sizes)}"
        console.print_table(title, *tables.engine_parity_table(report))
    if not report.passed:
        raise CheckFailedError(tables.engine_failure(report))
    if not json:
        for line in report.notes:
            console.print_line(line)
        if report.left_out:
            console.print_line(f"not tried: {', '.join(report.left_out)}")


@app.command(name="eval")
def evaluate(
    bundle: BundlePath,
    data: Annotated[Path, typer.Option(help="Annotations in COCO format (JSON).")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; by default where the annotations are."),
    ] = None,
    depth: Depths = "all",
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: Annotated[
        str,
        typer.Option(help="fp32, fp16, int8, bf16 (OpenVINO), several joined by commas, or all."),
    ] = "fp32",
    target: TargetOption = TargetName.onnxruntime,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per call.")] = 8,
    ladder_out: Annotated[
        Path | None,
        typer.Option(help="Write the ladder that the measured accuracy supports (JSON)."),
    ] = None,
    runtime: Runtime = "onnxruntime",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """COCO average precision of the artifact, per depth and precision."""
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.commands import verify as tables
    from anydepth_deploy.evaluation import CocoData, check_precisions, pareto_ladder, write_ladder
    from anydepth_deploy.evaluation import evaluate as run

    opened = open_bundle(bundle)
    depths = opened.table.select(depth)
    if ladder_out is not None and not {opened.table.space.base, opened.table.space.super} <= {
        *depths
    }:
        raise UsageError("--ladder-out needs the accuracy of base and super: add them to --depth")
    layout_name = None if layout is None else layout.value
    weights_name = None if weights is None else weights.value
    chosen = check_precisions(
        opened,
        _words(precision),
        layout=layout_name,
        weights=weights_name,
        runtime=runtime,
        target=target.value,
    )
    coco = CocoData(data, images)
    rows = []
    for name in chosen:
        with console.bar(f"eval {name}", quiet=json) as progress:
            rows += run(
                opened,
                coco,
                depths,
                layout=layout_name,
                weights=weights_name,
                precision=name,
                target=target.value,
                runtime=runtime,
                batch=batch,
                threads=threads,
                progress=progress,
            )
    if ladder_out is not None:
        first = [row for row in rows if row.precision == rows[0].precision]
        write_ladder(ladder_out, pareto_ladder(opened, first))
    if json:
        console.print_json({"data": str(data), "rows": [asdict(row) for row in rows]})
        return
    table = tables.precision_table if len(chosen) > 1 else tables.accuracy_table
    console.print_table(
        f"average precision on {data.name} ({len(coco.images)} pictures, {runtime}, "
        f"{', '.join(chosen)})",
        *table(rows),
    )


@app.command()
def bench(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE|CKPT", help="A bundle, or a checkpoint (torch).")
    ],
    depth: Depths = "all",
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Bundles: onnxruntime (default), onnxruntime-cuda, onnxruntime-tensorrt, "
            "openvino, tensorrt, tensorrt-rtx. Checkpoints: torch (default), torch-compile, "
            "torch-cudagraph. Several are measured one after the other."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8, bf16, or several, joined by commas.")
    ] = "fp32",
    batch: Annotated[str, typer.Option(help="Pictures per request, or several sizes.")] = "1",
    threads: Annotated[
        str | None,
        typer.Option(help="Threads inside one operator, or several numbers; default: its own."),
    ] = None,
    streams: Annotated[
        str, typer.Option(help="Requests at the same time, or several numbers.")
    ] = "1",
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    target: TargetOption = TargetName.onnxruntime,
    scenario: Annotated[
        ScenarioName,
        typer.Option(
            help="single: one request after the other; streams: the same on --streams; fixed-rate, "
            "poisson: --rate requests a second, timed from when they are due; offline: throughput."
        ),
    ] = ScenarioName.single,
    mode: Annotated[
        ModeName | None,
        typer.Option(
            help="interleaved: depths in turn (default of single); fixed: one by one (default of "
            "the others); mixed: at random; switching: each after each, for the switch cost."
        ),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="Mode mixed: weights, e.g. base=3,super=1; default: equal.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second.")] = None,
    duration: Annotated[
        float, typer.Option(min=0, help="Seconds to measure each depth for, at least.")
    ] = 5.0,
    count: Annotated[int, typer.Option(min=1, help="Requests of each depth, at least.")] = 30,
    repeats: Annotated[
        int, typer.Option(min=1, help="Mode fixed: stretches a depth's time is cut into.")
    ] = 3,
    warmup: Annotated[
        float, typer.Option(min=0, help="Seconds to warm each depth up, at least.")
    ] = 0.5,
    warmup_count: Annotated[int, typer.Option(min=0, help="Requests, at least.")] = 3,
    percentiles: Annotated[str, typer.Option(help="Of latency.")] = "50,90,95,99,99.9",
    scope: Annotated[
        ScopeName,
        typer.Option(
            help="What is timed: raw: to the network's raw outputs; detections; pictures: with "
            "pre-processing and boxes in the picture's pixels."
        ),
    ] = ScopeName.detections,
    transfers: Annotated[
        bool | None,
        typer.Option(
            "--transfers/--no-transfers",
            help="torch on a GPU: with or without copies from and to the host. Default: with.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A picture or a folder; default: generated ones.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Different pictures to run.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of pictures, orders and arrivals.")] = 0,
    device: Annotated[DeviceName, typer.Option(help="torch: where it computes.")] = DeviceName.auto,
    size: Annotated[str | None, typer.Option(help="Checkpoints: input size, HEIGHTxWIDTH.")] = None,
    gpu: Annotated[int | None, typer.Option(min=0, help="Which GPU, as nvidia-smi counts.")] = None,
    lock_clocks: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="MHZ",
            help="Hold the GPU's clock during the run and let go afterwards (root; Jetson: 0 for "
            "the most its power mode allows).",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for result files, or one file *.json.")] = Path(
        "results"
    ),
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 unless the verdict is valid.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure latency and throughput per depth; every sample goes into a result file.

    A verdict says whether the figures can be relied on: valid, unstable, throttled, or unknown
    where no sensor could tell.
    """
    from anydepth_deploy import console
    from anydepth_deploy.bench.combinations import Request, bench_all
    from anydepth_deploy.bench.options import Options, parse_mix
    from anydepth_deploy.commands import bench as show

    request = Request(
        path,
        depth=depth,
        runtimes=() if runtime is None else _words(runtime),
        precisions=_words(precision),
        batches=_numbers("--batch", batch),
        threads=(None,) if threads is None else _numbers("--threads", threads),
        streams=_numbers("--streams", streams),
        layout=None if layout is None else layout.value,
        weights=None if weights is None else weights.value,
        target=target.value,
        device=device.value,
        size=_size(size),
        transfers=transfers,
        images=images,
        pictures=pictures,
        gpu=gpu,
        lock_clocks=lock_clocks,
        options=Options(
            scenario=scenario.value,
            mode=None if mode is None else mode.value,
            rate=rate,
            duration=duration,
            count=count,
            repeats=repeats,
            warmup=warmup,
            warmup_count=warmup_count,
            seed=seed,
            percentiles=_percentiles(percentiles),
            scope=scope.value,
            mix=None if mix is None else parse_mix(mix),
        ),
    )
    with console.bar("bench", quiet=json, still=True) as progress:
        found = bench_all(request, out, progress=progress)
    if json:
        console.print_json([{"file": str(file), **show.content(result)} for file, result in found])
    for file, result in [] if json else found:
        show.show(result)
        console.print_line(f"result: {file}")
    words = [result.verdict.word for _, result in found]
    if strict and set(words) != {"valid"}:
        raise CheckFailedError(f"--strict: the verdict is {shorten(words)}, not valid")


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT...", help="Files that bench wrote.")
    ],
    plot: Annotated[Path | None, typer.Option(help="Picture to draw (.png, .pdf, .svg).")] = None,
    figures: Annotated[
        str,
        typer.Option(help="speedup, accuracy, distribution, throughput, or several."),
    ] = "speedup,accuracy",
    format: Annotated[ReportFormat, typer.Option(help="Of the table.")] = ReportFormat.text,
    out: Annotated[Path | None, typer.Option(help="File for the table.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare two results, depth by depth.")
    ] = False,
    allow: Annotated[
        str,
        typer.Option(help="With --compare: settings that may differ all the same, e.g. threads."),
    ] = "",
    json: Json = False,
) -> None:
    """Merge results of several devices and runtimes into a table and pictures, or compare two."""
    from anydepth_deploy import console
    from anydepth_deploy.bench.report import formats as reports
    from anydepth_deploy.bench.results import read_result

    if allow and not compare:
        raise UsageError("--allow is for --compare")
    if compare and (len(results) != 2 or plot is not None or out is not None):
        raise UsageError("--compare takes two results and no --plot or --out")
    if json and (format is not ReportFormat.text or out is not None):
        raise UsageError("--json is a format of its own: leave --format and --out out")
    found = [read_result(path) for path in results]
    if compare:
        _compare(found, results, _words(allow), json)
        return
    if plot is not None:
        from anydepth_deploy.bench.plots.page import draw

        draw(found, plot, _words(figures))
    if json:
        content = reports.to_json(found)
        console.print_json({**content, "picture": None if plot is None else str(plot)})
        return
    reports.write_report(found, format.value, out)
    # A table on standard output may go to a file: what else there is to say does not belong there.
    for file, what in ((plot, "picture"), (out, "table")):
        if file is not None:
            print(f"{what}: {file}", file=sys.stderr)


def _compare(found: list[Any], results: list[Path], allow: list[str], json: bool) -> None:
    from anydepth_deploy import console
    from anydepth_deploy.bench.report.compare import compare, print_comparison

    comparison = compare(found[0], found[1], allow=allow)
    if json:
        console.print_json({"files": [str(path) for path in results], **comparison.to_json()})
        return
    print_comparison(comparison)


@app.command()
def predict(
    bundle: BundlePath,
    image: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    depth: Annotated[str, typer.Option(help="One depth.")] = "super",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score shown.")] = 0.5,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write (a folder for several); default: NAME.pred.png."),
    ] = None,
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = PrecisionName.fp32,
    runtime: Runtime = "onnxruntime",
    json: Json = False,
) -> None:
    """Detect objects at a chosen depth and draw them."""
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.predict import predict as run

    with console.bar("predict", quiet=json) as progress:
        found = run(
            open_bundle(bundle),
            image,
            depth,
            threshold=threshold,
            out=out,
            layout=None if layout is None else layout.value,
            weights=None if weights is None else weights.value,
            precision=precision.value,
            runtime=runtime,
            progress=progress,
        )
    if json:
        console.print_json([asdict(item) for item in found])
        return
    for item in found:
        rows = [
            [one["class"], f"{one['score']:.3f}", *(f"{side:.1f}" for side in one["box"])]
            for one in item.detections
        ]
        console.print_table(
            f"{item.image} at {item.depth}", ["class", "score", "x1", "y1", "x2", "y2"], rows
        )
        console.print_line(item.drawn)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    family: Annotated[FamilyName, typer.Option(help="Of networks.")] = FamilyName.detr,
    steps: Annotated[int, typer.Option(min=1)] = 5000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    data_seed: Annotated[int, typer.Option(min=0, help="Which generated pictures.")] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak; by default what suits the family.")
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(help="A checkpoint to start from, for a second round.")
    ] = None,
    ground_truth_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the run before distillation begins.")
    ] = 0.1,
    pictures: Annotated[int, typer.Option(min=1, help="Generated training pictures.")] = 16000,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    threads: Annotated[int, typer.Option(min=0, help="0: torch's own choice.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a tiny network on generated shapes by self-distillation."""
    from anydepth_deploy import console
    from anydepth_deploy.train import Progress, TrainConfig
    from anydepth_deploy.train import train as run

    chosen: dict[str, Any] = {} if learning_rate is None else {"learning_rate": learning_rate}
    config = TrainConfig(
        family=family.value,
        output=str(out),
        initial="" if initial is None else str(initial),
        steps=steps,
        seed=seed,
        data_seed=data_seed,
        ground_truth_share=ground_truth_share,
        pictures=pictures,
        batch=batch,
        threads=threads,
        **chosen,
    )
    with console.bar("train", quiet=json) as progress:

        def report(state: Progress) -> None:
            losses = f"super {state.super_loss:.2f} base {state.base_loss:.2f}"
            progress(f"{losses} {state.pictures_per_second:.0f}/s", state.step, steps)

        result = run(config, progress=report, resume=resume)
    content = {**asdict(result), "checkpoint": str(result.checkpoint)}
    if json:
        console.print_json(content)
    else:
        console.print_table("trained", list(content), [list(content.values())])


@app.command()
def shapes(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and annotations.json.")],
    count: Annotated[int, typer.Option(min=1)] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    size: Annotated[int, typer.Option(min=32, help="Side of the pictures in pixels.")] = 160,
    json: Json = False,
) -> None:
    """Generate pictures of shapes with COCO annotations (what the tiny detector knows)."""
    from anydepth_deploy import console
    from anydepth_deploy.pictures.shapes import write_coco

    annotations = write_coco(out, count, seed, "val", size=size)
    if json:
        console.print_json({"annotations": str(annotations), "pictures": count, "seed": seed})
    else:
        console.print_line(f"{count} pictures: {annotations}")


@app.command()
def triton(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A bundle; with --check, a model repository.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Model repository, new or with other models.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check a model repository, ours or any other.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Of the models; default: that of the bundle's folder.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="gated (one model for all depths), set (one each), or both; default: what the "
            "bundle has."
        ),
    ] = None,
    precision: Annotated[
        PrecisionName, typer.Option(help="Of the artifacts: fp32, fp16 or int8.")
    ] = PrecisionName.fp32,
    weights: WeightsOption = None,
    runtime: Annotated[
        ServeRuntime, typer.Option(help="Triton's backend.")
    ] = ServeRuntime.onnxruntime,
    device: Annotated[
        ServeDevice, typer.Option(help="auto: the GPU for engines, the CPU for graphs.")
    ] = ServeDevice.auto,
    target: Annotated[
        str | None, typer.Option(help="Engines: those for this compute capability, e.g. sm89.")
    ] = None,
    default_depth: Annotated[str, typer.Option(help="Of requests that name none.")] = "super",
    max_batch: Annotated[
        int, typer.Option(min=1, help="Images that a model of one depth takes at once.")
    ] = 8,
    queue_delay_us: Annotated[
        int, typer.Option(min=0, help="Microseconds it waits for more of them.")
    ] = 0,
    instances: Annotated[int, typer.Option(min=1, help="Of each model with weights.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes for pre- and for postprocessing.")
    ] = 2,
    threads: Threads = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace models of the same name.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a model repository for the Triton Inference Server, or check one."""
    from anydepth_deploy.commands import triton as show
    from anydepth_deploy.serve.plan import ServeOptions

    if check:
        if out is not None or name is not None or force:
            raise UsageError("--check takes no --out, --name or --force: it writes nothing")
        show.check(path, as_json=json)
        return
    if out is None:
        raise UsageError("--out is missing: name the model repository to write")
    options = ServeOptions(
        runtime=runtime.value,
        device=device.value,
        layouts=None if layout is None else tuple(_words(layout)),
        precision=precision.value,
        weights=None if weights is None else weights.value,
        target=target,
        default_depth=default_depth,
        max_batch=max_batch,
        queue_delay_us=queue_delay_us,
        instances=instances,
        workers=workers,
        threads=threads,
    )
    show.write(path, out, name=name, options=options, force=force, as_json=json)


@app.command()
def demo(
    family: Annotated[FamilyName, typer.Option(help="Of networks.")] = FamilyName.detr,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A tiny network trained on shapes; default: checkpoints/FAMILY-…"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the bundle and the picture; default: engines/demo-FAMILY."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=10, help="Held-out pictures.")] = 200,
    json: Json = False,
) -> None:
    """Export, verify, evaluate and predict with the trained tiny checkpoint."""
    from anydepth_deploy import console
    from anydepth_deploy.commands.demo import run_demo

    result = run_demo(
        checkpoint or Path("checkpoints") / f"{family.value}-tiny-shapes.pth",
        out or Path("engines") / f"demo-{family.value}",
        pictures=pictures,
        quiet=json,
    )
    if json:
        console.print_json(asdict(result))


def _build(
    bundle: Path,
    runtime: EngineRuntime,
    *,
    targets: list[str],
    batch: str,
    workspace: str | None,
    deformable: Sampling,
    quiet: bool,
    **options: Any,
) -> Any:
    from anydepth_deploy import console

    with _without_torch("building engines"):
        from anydepth_deploy.building.build import build_bundle

    with console.bar("build", quiet=quiet) as progress:
        return build_bundle(
            bundle,
            runtime=runtime.value,
            capabilities=targets,
            batch=_batch(batch),
            workspace=_bytes(workspace),
            deformable=deformable.value,
            progress=progress,
            **options,
        )


@contextlib.contextmanager
def _without_torch(purpose: str) -> Iterator[None]:
    """Where a package is missing that ``export`` brings as well, name the extra for devices."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise (missing_extra(error, purpose, extra="tensorrt") or error) from None


def _batch(text: str) -> Any:
    """A batch profile from one, two or three sizes."""
    from anydepth_deploy.manifest import BatchProfile

    words = _words(text)
    if not 1 <= len(words) <= 3 or not all(re.fullmatch("[1-9][0-9]{0,4}", word) for word in words):
        raise UsageError(
            f"batch '{text}' is not one to three sizes: expected e.g. 1, 1,8 or 1,4,16"
        )
    smallest, *middle, largest = [int(word) for word in (words if len(words) > 1 else words * 2)]
    typical = middle[0] if middle else smallest
    if not smallest <= typical <= largest:
        raise UsageError(f"batch '{text}' does not rise: expected smallest,fastest,largest")
    return BatchProfile(smallest=smallest, typical=typical, largest=largest)


def _bytes(text: str | None) -> int | None:
    """A size such as 2GiB or 512MiB in bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kmg]?)i?b?", text.strip().lower())
    size = int(float(found[1]) * 1024 ** " kmg".index(found[2] or " ")) if found else 0
    if size <= 0:
        raise UsageError(f"'{text}' is not an amount of memory: expected e.g. 2GiB or 512MiB")
    return size


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str) -> list[int]:
    words = _words(text)
    if not words or not all(re.fullmatch("[1-9][0-9]{0,5}", word) for word in words):
        raise UsageError(f"{option} '{text}' is not a list of numbers: expected e.g. 1 or 1,4,8")
    return [int(word) for word in words]


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError:
        raise UsageError(f"percentiles '{text}' are not numbers: expected e.g. 50,90,99") from None


def _suppression(nms: Nms | None, score: float | None, iou: float | None) -> Any:
    """The settings of the options that were given; None where none was."""
    from anydepth_deploy.suppression import Suppression

    options = {"where": nms and nms.value, "score_threshold": score, "iou_threshold": iou}
    given = {name: value for name, value in options.items() if value is not None}
    if nms is Nms.none and len(given) > 1:
        raise UsageError(
            "with --nms none there is nothing that thresholds could apply to: leave --nms-score "
            "and --nms-iou out, or choose --nms graph or host"
        )
    return Suppression.model_validate(given) if given else None


def _rules(
    keep: str | None, quantise: str | None, max_ratio: float | None, max_error: float | None
) -> Any:
    """What of an INT8 graph stays in float; None where nothing was said."""
    from anydepth_deploy.calibration.keeping import KeepingRules

    thresholds = {"max_ratio": max_ratio, "max_error": max_error}
    given: dict[str, Any] = {name: value for name, value in thresholds.items() if value is not None}
    patterns = {"keep": keep, "quantise": quantise}
    given |= {name: tuple(_words(text)) for name, text in patterns.items() if text is not None}
    return KeepingRules(**given) if given else None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(re.fullmatch("[0-9]{1,5}", side) for side in sides):
        raise UsageError(f"input size '{text}' is not HEIGHTxWIDTH, e.g. 640x640 or 384x640")
    return int(sides[0]), int(sides[-1])


if __name__ == "__main__":
    main()

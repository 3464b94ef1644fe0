"""``build``: engines from the graphs of a bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy.building.plan import engine_layouts
from anydepth_deploy.building.targets import capabilities
from anydepth_deploy.commands.options import (
    ARTIFACTS,
    BatchOption,
    BuildRuntime,
    BundlePath,
    DeformableOption,
    Depths,
    Json,
    TimingCacheOption,
    WeightsOption,
    WorkspaceOption,
    batch_profile,
    memory,
    words_of,
)
from anydepth_deploy.console import Table, counts, megabytes
from anydepth_deploy.errors import UsageError, missing_extra, shorten
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:  # needs onnx
    from anydepth_deploy.building.build import BuildReport
    from anydepth_deploy.bundle.bundle import Bundle

__all__ = ["build", "build_engines", "engine_table", "without_torch"]

BATCH = "1,1,4"


def build(
    bundle: BundlePath,
    runtime: BuildRuntime,
    target: Annotated[
        str | None,
        typer.Option(
            help="tensorrt-rtx, ahead of time: compute capabilities or devices, e.g. sm75,sm89 or "
            "t4,l4, served by one engine. Default: the device at hand."
        ),
    ] = None,
    depth: Depths = "all",
    layout: Annotated[
        str | None,
        ARTIFACTS.option(
            "gated (one engine for all depths), set (one each), stages (pieces, chained), or "
            "several. Default: gated,set, or set for chosen depths."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        ARTIFACTS.option("fp32, fp16, int8 or several; default: all that the bundle has."),
    ] = None,
    weights: WeightsOption = None,
    batch: BatchOption = BATCH,
    workspace: WorkspaceOption = None,
    timing_cache: TimingCacheOption = None,
    deformable: DeformableOption = "gridsample",
    json: Json = False,
) -> None:
    """Build TensorRT engines from a bundle's graphs; makes only what is missing.

    For onnxruntime, graphs in FP16 are made from those in FP32, as export would make them, without
    torch and the checkpoint.
    """
    profile, most = batch_profile(batch), memory(workspace)
    targets = capabilities(words_of(target or ""))
    layouts = None if layout is None else words_of(layout)
    precisions = None if precision is None else words_of(precision)

    from anydepth_deploy import console
    from anydepth_deploy.building.plan import plan
    from anydepth_deploy.bundle.bundle import open_bundle

    opened = open_bundle(bundle)
    if format_of(runtime) == "onnx":
        _refuse_words_of_engines(target, batch, workspace, timing_cache)
        report = _halve(
            bundle,
            quiet=json,
            runtime=runtime,
            depth=depth,
            layouts=layouts,
            precision=precisions,
            weights=weights,
            deformable=deformable,
        )
        if json:
            console.print_json(asdict(report))
            return
        console.print_table("graphs in FP16", *_graph_table(report, open_bundle(bundle)))
        console.print_line(f"'verify {bundle} --precision fp16' compares them with golden outputs")
        return
    # What the bundle cannot give is refused before a builder is looked for.
    plan(opened, engine_layouts(layouts, depth), precisions, opened.table.select(depth), weights)
    report = build_engines(
        bundle,
        runtime=runtime,
        capabilities=targets,
        depth=depth,
        layouts=layouts,
        precision=precisions,
        weights=weights,
        batch=profile,
        workspace=most,
        timing_cache=timing_cache,
        deformable=deformable,
        quiet=json,
    )
    if json:
        console.print_json(asdict(report))
        return
    title = f"engines for {' and '.join(report.capabilities)}, {runtime} {report.version}"
    console.print_table(title, *engine_table(report, open_bundle(bundle)))
    for name, reason in report.refused.items():
        console.print_line(f"not built in {name}: {reason}")
    for note, names in report.notes.items():
        console.print_line(f"{shorten(names, 3)}: {note}")


def _refuse_words_of_engines(
    target: str | None, batch: str, workspace: str | None, timing_cache: object
) -> None:
    given = {
        "--target": target is not None,
        "--batch": batch != BATCH,
        "--workspace": workspace is not None,
        "--timing-cache": timing_cache is not None,
    }
    if words := [name for name, said in given.items() if said]:
        raise UsageError(f"{words[0]} is of engines, and graphs have none: leave it out")


def _halve(bundle: Path, *, quiet: bool, **options: Any) -> BuildReport:
    """The verb with a progress bar."""
    from anydepth_deploy import console
    from anydepth_deploy.verbs.build import build as run

    with console.bar("build", quiet=quiet) as progress:
        return run(bundle, progress=progress, **options)


def _graph_table(report: BuildReport, bundle: Bundle) -> Table:
    graphs = {item.name: item for item in bundle.artifacts()}
    rows: list[list[object]] = []
    for what, names in (("built", report.built), ("there", report.present)):
        for item in (graphs[name] for name in names):
            rows.append([item.file, what, megabytes(item.bytes), f"{item.build_seconds:.1f} s"])
    return ["graph", "", "size", "built in"], rows


def build_engines(bundle: Path, *, quiet: bool, **options: Any) -> BuildReport:
    """:func:`~anydepth_deploy.building.build.build_bundle` with a progress bar."""
    from anydepth_deploy import console

    with without_torch("building engines"):
        from anydepth_deploy.building.build import build_bundle

    with console.bar("build", quiet=quiet) as progress:
        return build_bundle(bundle, progress=progress, **options)


@contextlib.contextmanager
def without_torch(purpose: str) -> Iterator[None]:
    """Where a package is missing that ``export`` brings as well, name the extra for devices."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise (missing_extra(error, purpose, extra="tensorrt") or error) from None


def engine_table(report: BuildReport, bundle: Bundle) -> Table:
    """What was built, and what was there."""
    columns = ["engine", "", "size", "built in", "computes in"]
    rows: list[list[object]] = []
    engines = {item.name: item for item in bundle.artifacts()}
    for what, names in (("built", report.built), ("there", report.present)):
        for item in (engines[name] for name in names):
            layers = item.engine.layers if item.engine else {}
            seconds = f"{item.build_seconds:.1f} s"
            rows.append([item.file, what, megabytes(item.bytes), seconds, counts(layers)])
    return columns, rows

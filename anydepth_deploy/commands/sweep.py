"""``sweep``: the threads, streams and batch to deploy a bundle with on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    EXECUTION,
    PICTURES,
    BundlePath,
    Depths,
    Json,
    LayoutOption,
    MaxPixels,
    OrientationOption,
    Panel,
    Runtime,
    TargetOption,
    WeightsOption,
    check_pictures,
    words_of,
)
from anydepth_deploy.console import bar, print_json, print_line, print_note, print_table
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ResultError, UsageError
from anydepth_deploy.pictures.budget import MAX_PIXELS

if TYPE_CHECKING:
    from anydepth_deploy.bench.sweep import Rate, Setting, Sweep, Tried

__all__ = ["sweep"]

SEARCH = Panel("Search")


def sweep(
    path: BundlePath,
    depth: Depths = "base,super",
    runtime: Runtime = "onnxruntime",
    precision: Annotated[str, ARTIFACTS.option("fp32, fp16, int8 or bf16.")] = "fp32",
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    target: TargetOption = None,
    most_batch: Annotated[
        int,
        SEARCH.option(
            "Batches to try: 1 (or the fewest an engine takes), 2, 4 and so on up to this.",
            min=1,
            max=1024,
        ),
    ] = 8,
    cores: Annotated[
        int | None,
        EXECUTION.option("Cores to fill; default: those that this process may use.", min=1),
    ] = None,
    within: Annotated[
        float | None,
        SEARCH.option(
            "Only settings that answer 95 of 100 requests in so many milliseconds, at every depth.",
            min=0,
        ),
    ] = None,
    duration: Annotated[
        float, SEARCH.option("Seconds of a long round at each depth.", min=0)
    ] = 2.0,
    images: Annotated[
        Path | None, PICTURES.option("A picture or a folder; default: generated ones.")
    ] = None,
    orientation: OrientationOption = "upright",
    max_pixels: MaxPixels = MAX_PIXELS,
    plot: Annotated[
        Path | None, typer.Option(help="Draw all settings: .png, .pdf or .svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the threads, streams and batch that give most pictures a second on this machine.

    Many settings are tried for a moment, the best of them measured in turns with the usual one: a
    picture at a time, the runtime's own threads.
    """
    from anydepth_deploy.bench.combinations import Request, bench_one
    from anydepth_deploy.bench.options import Options
    from anydepth_deploy.bench.sweep import Rate, candidates
    from anydepth_deploy.bench.sweep import sweep as search
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.bundle.choose import choose_artifacts
    from anydepth_deploy.pictures.figures import drawing_format
    from anydepth_deploy.runtimes.registry import format_of, on_device
    from anydepth_deploy.runtimes.threads import usable_cores

    for option, words in (("--precision", words_of(precision)), ("--runtime", words_of(runtime))):
        if len(words) != 1:
            raise UsageError(f"{option} names {len(words)} values: a sweep is of one")
    format_of(runtime)  # refuses an unknown one
    if plot is not None:
        drawing_format(plot, "picture")
        try_to_write(plot, "picture", ResultError)
    for note in check_pictures(images):
        print_note(note)
    bundle = open_bundle(path)
    bundle.table.select(depth)
    engine = choose_artifacts(bundle, layout, precision, weights, target, runtime)[0].engine

    def measure(setting: Setting, seconds: float) -> Mapping[str, Rate]:
        request = Request(
            path,
            depth=depth,
            runtimes=(runtime,),
            precisions=(precision,),
            layout=layout,
            weights=weights,
            target=target,
            images=images,
            orientation=orientation,
            max_pixels=max_pixels,
            options=Options(
                scenario="offline",
                duration=seconds,
                count=8,
                repeats=1,
                warmup=min(0.5, seconds / 4),
                warmup_count=2,
                percentiles=(50, 95),
            ),
        )
        found = bench_one(
            request, batch=setting.batch, threads=setting.threads, streams=setting.streams
        )
        rates = {}
        for row in found.depths:
            tail = row.latency.percentiles_ms["95"]
            rates[row.depth] = Rate(
                row.images_per_second or 0.0,
                row.latency.median_ms.value,
                row.latency.maximum_ms if tail is None else tail,
            )
        return rates

    host = not on_device(runtime)
    least = 1 if engine is None else engine.batch.smallest
    settings = candidates(cores or usable_cores(), most_batch, least_batch=least, host=host)
    with bar("sweep", quiet=json, still=True) as progress:
        found = search(measure, settings, seconds=duration, within_ms=within, progress=progress)
    if json:
        print_json(_content(found))
    else:
        named = {
            "runtime": (runtime, "onnxruntime"),
            "artifact": (layout, None),
            "precision": (precision, "fp32"),
            "weights": (weights, None),
            "target": (target, None),
            "threads": (found.best.setting.threads, None),
        }
        given = [f"{key}={value!r}" for key, (value, usual) in named.items() if value != usual]
        _show(found, f"{path.name}, {runtime} {precision}", ", ".join(given))
    if plot is not None:
        from anydepth_deploy.bench.plots.sweep import draw_sweep

        draw_sweep(found, plot, f"{path.name}, {runtime} {precision}")
        if not json:
            print_line(f"picture: {plot}")


def _content(found: Sweep) -> dict[str, Any]:
    def row(item: Tried) -> dict[str, Any]:
        setting = item.setting
        return {
            "threads": setting.threads,
            "streams": setting.streams,
            "batch": setting.batch,
            "long_rounds": max(0, len(item.rounds) - 1),
            "of_usual": None if item.problem else item.gain(found.usual),
            "problem": item.problem,
            "depths": {depth: vars(rate) for depth, rate in item.rates.items()},
        }

    return {"best": row(found.best), "tried": [row(item) for item in found.tried]}


def _show(found: Sweep, what: str, given: str) -> None:
    runs = [item for item in found.tried if item.problem is None]
    ranked = sorted(runs, key=lambda item: (item.finalist, item.gain(found.usual)), reverse=True)
    depths = list(found.usual.rates)
    rows = []
    for item in ranked:
        setting, rates = item.setting, item.rates
        rows.append(
            [
                "*" if item is found.best else "",
                "default" if setting.threads is None else setting.threads,
                setting.streams,
                setting.batch,
                *(f"{rates[depth].images_per_second:.4g}" for depth in depths),
                *(f"{rates[depth].tail_ms:.4g}" for depth in depths),
                f"{item.gain(found.usual):.2f}",
                "long" if item.finalist else "short",
            ]
        )
    columns = [
        "",
        "threads",
        "streams",
        "batch",
        *(f"images/s\n{depth}" for depth in depths),
        *(f"p95 ms\n{depth}" for depth in depths),
        "of usual",
        "rounds",
    ]
    print_table(what, columns, rows, keys=4)
    for item in found.tried:
        if item.problem is not None:
            print_note(f"left out: {item.setting}: {item.problem}")
    setting = found.best.setting
    print_line(
        f"deploy with {setting}: {found.gain:.2f} times as many pictures a second as with "
        f"{found.usual.setting}"
    )
    workers = "one worker" if setting.streams == 1 else f"{setting.streams} workers sharing it"
    print_line(f"Python: bundle.session({given}), {workers}, {setting.batch} picture(s) a run")

"""``bench``: latency and throughput per depth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from anydepth_deploy.annotations.evaluations import DataSet
from anydepth_deploy.bench.options import Options, parse_mix
from anydepth_deploy.bench.report.accuracies import average_precision, main_data_set
from anydepth_deploy.bench.report.facts import printable
from anydepth_deploy.bench.report.merge import interval, milliseconds
from anydepth_deploy.bench.results import BenchResult, DepthResult, Mode, Scenario, Scope
from anydepth_deploy.bench.statistics import samples_needed
from anydepth_deploy.checkpoints.present import check_present, is_bundle
from anydepth_deploy.commands.options import (
    ARTIFACTS,
    EXECUTION,
    PICTURES,
    ActivationOption,
    Depths,
    FineCosformerOption,
    FinePositionOption,
    FineUpsamplingOption,
    Json,
    LayoutOption,
    MaxPixels,
    OrientationOption,
    Panel,
    SamplingOption,
    TargetOption,
    WeightsOption,
    check_pictures,
    size_of,
    words_of,
)
from anydepth_deploy.console import (
    Table,
    bar,
    giga,
    print_json,
    print_line,
    print_note,
    print_table,
)
from anydepth_deploy.errors import CheckFailedError, ResultError, UsageError, shorten
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.torch_runtime.precisions import check_precision

__all__ = ["bench", "content", "depth_table", "show"]

ABSENT = "-"

LOAD = Panel("Requests")
TIME = Panel("Time and statistics")
GPU = Panel("GPU")

Device = Literal["auto", "cpu", "cuda"]

MODES = tuple(sorted(get_args(Mode), key=lambda name: name != "interleaved"))
"""The default comes first."""


def bench(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE|CKPT", help="A bundle, or a checkpoint (torch).")
    ],
    depth: Depths = "all",
    runtime: Annotated[
        str | None,
        EXECUTION.option(
            "Bundles: onnxruntime (default), onnxruntime-cuda, onnxruntime-tensorrt, "
            "openvino, tensorrt, tensorrt-rtx. Checkpoints: torch (default), torch-compile, "
            "torch-cudagraph. Several are measured one after the other."
        ),
    ] = None,
    precision: Annotated[
        str, ARTIFACTS.option("fp32, fp16, int8, bf16, or several, joined by commas.")
    ] = "fp32",
    batch: Annotated[str, LOAD.option("Pictures per request, or several sizes.")] = "1",
    threads: Annotated[
        str | None,
        EXECUTION.option("Threads inside one operator, or several numbers; default: its own."),
    ] = None,
    streams: Annotated[str, LOAD.option("Requests at the same time, or several numbers.")] = "1",
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    target: TargetOption = None,
    scenario: Annotated[
        Scenario,
        LOAD.one_of(
            get_args(Scenario),
            "single: one request after the other; streams: the same on --streams; fixed-rate, "
            "poisson: --rate requests a second, timed from when they are due; offline: throughput.",
        ),
    ] = "single",
    mode: Annotated[
        Mode | None,
        LOAD.one_of(
            MODES,
            "interleaved: depths in turn (default of single); fixed: one by one (default of "
            "the others); mixed: at random; switching: each after each, for the switch cost.",
        ),
    ] = None,
    mix: Annotated[
        str | None, LOAD.option("Mode mixed: weights, e.g. base=3,super=1; default: equal.")
    ] = None,
    rate: Annotated[float | None, LOAD.option("Requests a second.")] = None,
    duration: Annotated[
        float, TIME.option("Seconds to measure each depth for, at least.", min=0)
    ] = 5.0,
    count: Annotated[int, TIME.option("Requests of each depth, at least.", min=1)] = 30,
    repeats: Annotated[
        int, TIME.option("Mode fixed: stretches a depth's time is cut into.", min=1)
    ] = 3,
    warmup: Annotated[float, TIME.option("Seconds to warm each depth up, at least.", min=0)] = 0.5,
    warmup_count: Annotated[int, TIME.option("Requests, at least.", min=0)] = 3,
    percentiles: Annotated[str, TIME.option("Of latency.")] = "50,90,95,99,99.9",
    scope: Annotated[
        Scope,
        TIME.one_of(
            get_args(Scope),
            "What is timed: raw: to the network's raw outputs; detections; pictures: with "
            "pre-processing and boxes in the picture's pixels.",
        ),
    ] = "detections",
    transfers: Annotated[
        bool | None,
        TIME.option(
            "torch on a GPU: with or without copies from and to the host. Default: with.",
            "--transfers/--no-transfers",
        ),
    ] = None,
    images: Annotated[
        Path | None, PICTURES.option("A picture or a folder; default: generated ones.")
    ] = None,
    orientation: OrientationOption = "upright",
    max_pixels: MaxPixels = MAX_PIXELS,
    pictures: Annotated[int, PICTURES.option("Different pictures to run.", min=1)] = 8,
    seed: Annotated[int, PICTURES.option("Of pictures, orders and arrivals.", min=0)] = 0,
    device: Annotated[
        Device, EXECUTION.one_of(get_args(Device), "torch: where it computes.")
    ] = "auto",
    size: Annotated[str | None, ARTIFACTS.option("Checkpoints: input size, HEIGHTxWIDTH.")] = None,
    decoder_activation: ActivationOption = None,
    sampling: SamplingOption = None,
    fine_position: FinePositionOption = None,
    fine_cosformer: FineCosformerOption = None,
    fine_upsampling: FineUpsamplingOption = None,
    gpu: Annotated[int | None, GPU.option("Which GPU, as nvidia-smi counts.", min=0)] = None,
    lock_clocks: Annotated[
        int | None,
        GPU.option(
            "Hold the GPU's clock during the run and let go afterwards (root; Jetson: 0 for "
            "the most its power mode allows).",
            min=0,
            metavar="MHZ",
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
    from anydepth_deploy.bench.combinations import Request, bench_all

    request = Request(
        path,
        depth=depth,
        runtimes=() if runtime is None else words_of(runtime),
        precisions=words_of(precision),
        batches=_numbers("--batch", batch),
        threads=(None,) if threads is None else _numbers("--threads", threads),
        streams=_numbers("--streams", streams),
        layout=layout,
        weights=weights,
        target=target,
        device=device,
        size=size_of(size),
        said=Said(decoder_activation, sampling, fine_position, fine_cosformer, fine_upsampling),
        transfers=transfers,
        images=images,
        orientation=orientation,
        max_pixels=max_pixels,
        pictures=pictures,
        gpu=gpu,
        lock_clocks=lock_clocks,
        options=Options(
            scenario=scenario,
            mode=mode,
            rate=rate,
            duration=duration,
            count=count,
            repeats=repeats,
            warmup=warmup,
            warmup_count=warmup_count,
            seed=seed,
            percentiles=_percentiles(percentiles),
            scope=scope,
            mix=None if mix is None else parse_mix(mix),
        ),
    )
    if not is_bundle(path):
        check_present(path)
        for name in request.precisions:
            check_precision(name)
    for note in check_pictures(images):
        print_note(note)
    unwritten: dict[int, ResultError] = {}
    with bar("bench", quiet=json, still=True) as progress:
        found = bench_all(request, out, progress=progress, unwritten=unwritten)
    if json:
        files = [None if at in unwritten else str(file) for at, (file, _) in enumerate(found)]
        rows = [{"file": files[at], **content(item)} for at, (_, item) in enumerate(found)]
        print_json({"results": rows})
    for at, (file, result) in enumerate([] if json else found):
        show(result)
        print_line("result: not written" if at in unwritten else f"result: {file}")
    for error in unwritten.values():
        raise error
    words = [result.verdict.word for _, result in found]
    if strict and set(words) != {"valid"}:
        raise CheckFailedError(f"--strict: the verdict is {shorten(words)}, not valid")


def _numbers(option: str, text: str) -> list[int]:
    words = words_of(text)
    if not words or not all(re.fullmatch("[1-9][0-9]{0,5}", word) for word in words):
        raise UsageError(
            f"{option} '{text}' is not a list of whole numbers from 1: expected e.g. 1 or 1,4,8"
        )
    return [int(word) for word in words]


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words_of(text))
    except ValueError:
        raise UsageError(f"percentiles '{text}' are not numbers: expected e.g. 50,90,99") from None


def content(result: BenchResult) -> dict[str, Any]:
    """``result`` as plain data without its samples, which are in its file."""
    found = result.model_dump(mode="json")
    for row in found["depths"]:
        del row["samples"]
    return found


def show(result: BenchResult) -> None:
    """Print a table with a row for each depth, and what has to be said with it."""
    subject, settings, overall = result.subject, result.settings, result.overall
    threads = f"{settings.threads} thread(s)" if settings.threads else "default threads"
    streams = f", {settings.streams} streams" if settings.streams > 1 else ""
    rate = f" at {settings.rate:g} requests/s" if settings.rate is not None else ""
    print_table(
        f"{subject.name} ({subject.family} {subject.config}), {subject.runtime} {subject.precision}"
        f"{' ' + subject.layout if subject.layout else ''}: {settings.scenario}{rate}, depths "
        f"{settings.mode}, batch {settings.batch}, {threads}{streams}",
        *depth_table(result),
    )
    timed = [name for name, words in result.boundaries.items() if words.startswith("timed")]
    left = [name for name, words in result.boundaries.items() if words.startswith("not")]
    print_line(f"timed: {', '.join(timed)}; not timed: {', '.join(left)}")
    if settings.scenario != "single" or settings.mode == "mixed":
        latency = overall.latency
        queue = overall.queue_ms
        waited = f", of which waiting {interval(queue.median_ms)}" if queue else ""
        print_line(
            f"all requests: {overall.requests} in {overall.wall_s:.1f} s, "
            f"{overall.images_per_second:.2f} images/s, median {interval(latency.median_ms)} ms"
            f"{waited}"
        )
    for line in _remarks(result):
        print_line(line)


def depth_table(result: BenchResult) -> Table:
    """Columns and rows; columns without any entry are left out."""
    named = [f"{value:g}" for value in result.settings.percentiles if value != 50]
    data = main_data_set([result])
    columns: dict[str, list[str]] = {
        "depth": [row.depth for row in result.depths],
        "level": [_plain(row.level) for row in result.depths],
        "multiply-adds": [giga(row.macs) if row.macs else ABSENT for row in result.depths],
        "n": [str(row.latency.count) for row in result.depths],
        "median ms": [interval(row.latency.median_ms) for row in result.depths],
        **{
            f"p{name}": [milliseconds(row.latency.percentiles_ms[name]) for row in result.depths]
            for name in named
        },
        "CV": [_percent(row.latency.variation) for row in result.depths],
        "speed-up": [interval(row.speedup, "{:.3f}") for row in result.depths],
        "images/s": [milliseconds(row.images_per_second) for row in result.depths],
        "switch ms": [_switch(row) for row in result.depths],
        "J/image": [milliseconds(row.energy_per_image_j) for row in result.depths],
        "AP": [_ap(row, data) for row in result.depths],
        "verdict": [row.verdict.word for row in result.depths],
    }
    kept = [name for name, cells in columns.items() if set(cells) != {ABSENT}]
    return kept, [[columns[name][place] for name in kept] for place in range(len(result.depths))]


def _remarks(result: BenchResult) -> list[str]:
    """What a reader of the table has to know."""
    lines = [f"load {result.load_ms:.0f} ms, {_memory(result)}"]
    fewest = min(row.latency.count for row in result.depths)
    lacking = [value for value in result.settings.percentiles if samples_needed(value) > fewest]
    if lacking:
        words = ", ".join(f"p{value:g} needs {samples_needed(value)}" for value in lacking)
        lines.append(f"{fewest} samples a depth: {words} (--count, --duration)")
    if result.subject.kind == "bundle" and result.subject.verified is None:
        lines.append("never verified on this runtime: 'anydepth-deploy verify' proves what is fast")
    if (data := main_data_set([result])) is not None:
        lines.append(f"AP: on {printable(data.name)}, {data.pictures} pictures")
    lines.append(f"verdict: {result.verdict.word}")
    return lines + [f"  {reason}" for reason in result.verdict.reasons]


def _memory(result: BenchResult) -> str:
    memory = result.memory
    if memory.before is None or memory.loaded is None:
        return "memory unknown"
    held = "".join(f", {name} {size / 1e6:.0f} MB" for name, size in memory.device.items())
    return f"memory {(memory.loaded - memory.before) / 1e6:+.0f} MB{held}"


def _switch(row: DepthResult) -> str:
    return ABSENT if row.switch_ms is None else interval(row.switch_ms, "{:+.3f}")


def _ap(row: DepthResult, data: DataSet | None) -> str:
    found = average_precision(row, data)
    return ABSENT if found is None else f"{found:.1f}"


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.1f} %"


def _plain(value: object) -> str:
    return ABSENT if value is None else str(value)

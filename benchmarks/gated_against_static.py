"""Gated graph and chained stages against the static graph of the same depth: latency, size, memory.

    python benchmarks/gated_against_static.py
    python benchmarks/gated_against_static.py --network yolo-s
    python benchmarks/gated_against_static.py --runtime openvino --precision bf16

Random weights at 640 x 640, a generated picture, on the CPU, one thread, batch 1. All
sessions live in one process; a round runs each of them once, in an order drawn anew, and ratios
are taken within rounds, so that drift of the machine falls on both sides alike. On a machine that
others use, too, ``--clock processor`` counts the time that calls had a processor.

``depths by themselves``: a session with ``kept_depths``, which opens each depth of the gated graph
as a graph of its own, on ONNX Runtime; OpenVINO does no other thing.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.bench.timing.clock import Clock, ProcessorClock
from anydepth_deploy.bench.timing.interleave import interleave, median_ratio
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.console import bar
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.samples import verification_batches

FULL = "static_super_bytes"

DEPTHS = {
    "r50": ("super", "base", "FFTT-F-4", "FFTF-F-5", "TFFT-T-1"),
    "r101": ("super", "base", "FFTF-F-5", "TFFT-T-1"),
    "tiny": ("super", "base", "FFTF-F-2", "TFFT-T-1"),
    "yolo-s": ("super", "base", "FFTTTFTT", "TFTFTFTF"),
    "yolo-l": ("super", "base", "FFTTTFTT"),
    "yolo-tiny": ("super", "base", "FFTTTFTT", "TFTFTFTF"),
}
KEPT = 8
Form = tuple[str, str | None, int | None]
FORMS: dict[str, Form] = {
    "gated shared": ("gated", "shared", None),
    "gated folded": ("gated", "folded", None),
    "depths by themselves": ("gated", "shared", KEPT),
    "stages": ("stages", None, None),
}
"""What is compared with the static graph of the same depth: layout, weights and how many depths are
kept where each is compiled by itself (OpenVINO does so in any case)."""


def _forms(bundle: Bundle, runtime: str) -> dict[str, Form]:
    """Those that the bundle has and that differ on this runtime."""
    return {
        form: (layout, weights, kept)
        for form, (layout, weights, kept) in FORMS.items()
        if bundle.artifacts(layout, "fp32", weights=weights)
        and (kept is None or runtime == "onnxruntime")
    }


Runs = tuple[str, str]
"""Runtime and precision."""


def measure_latency(
    bundle: Bundle, runs: Runs, depths: tuple[str, ...], repeats: int, clock: Clock | None = None
) -> list[dict[str, Any]]:
    """One row per depth and form, with the median of the paired ratios."""
    runtime, precision = runs

    def opened(form: Form, depth: str) -> Session:
        layout, weights, kept = form
        session = bundle.session(
            runtime, layout, precision, weights=weights, threads=1, kept_depths=kept
        )
        session.load([depth])
        return session

    images = verification_batches(bundle.manifest.preprocess)[0]
    rows = []
    for depth in depths:
        static = opened(("set", None, None), depth)
        calls: dict[str, Callable[[], object]] = {
            "static": functools.partial(static.run, images, depth)
        }
        for form, how in _forms(bundle, runtime).items():
            session = opened(how, depth)
            calls[form] = functools.partial(session.run, images, depth)
        with bar(f"latency at {depth}") as progress:
            samples = interleave(calls, repeats=repeats, clock=clock, progress=progress)
        for form in _forms(bundle, runtime):
            ratios = samples[form] / samples["static"]
            rows.append(
                {
                    "depth": str(bundle.table.find(depth)),
                    "form": form,
                    "static_ms": round(1e3 * float(np.median(samples["static"])), 2),
                    "ms": round(1e3 * float(np.median(samples[form])), 2),
                    "ratio": round(median_ratio(samples[form], samples["static"]), 4),
                    "ratio_quartiles": [
                        round(float(q), 4) for q in np.quantile(ratios, (0.25, 0.75))
                    ],
                    "rounds": repeats,
                }
            )
    return rows


def measure_sizes(bundle: Bundle) -> dict[str, Any]:
    """File sizes, and as multiples of the static graph of super."""
    full = bundle.artifacts("set", depth=bundle.table.space.super)[0].bytes
    found: dict[str, Any] = {FULL: full}
    for form, (layout, weights, _) in _forms(bundle, "onnxruntime").items():
        size = sum(item.bytes for item in bundle.artifacts(layout, weights=weights))
        found[form] = {"bytes": size, "ratio": round(size / full, 4)}
    ladder = sum(bundle.artifacts("set", depth=depth)[0].bytes for depth in bundle.table.ladder)
    found["static ladder"] = {"bytes": ladder, "ratio": round(ladder / full, 4)}
    return found


def _peak_mb() -> float:
    """Peak resident memory of this program; ru_maxrss would count what it was started from."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _memory(path: str, runs: Runs, form: Form, queue: Any) -> None:
    before = _peak_mb()
    bundle = open_bundle(path)
    (runtime, precision), (layout, weights, kept) = runs, form
    session = bundle.session(
        runtime, layout, precision, weights=weights, threads=1, kept_depths=kept
    )
    session.warm("super")
    queue.put(_peak_mb() - before)
    for depth in bundle.table.ladder:
        session.warm(depth)
    queue.put(_peak_mb() - before)


def measure_memory(bundle: Bundle, runs: Runs) -> dict[str, list[float]]:
    """Peak memory in MB that each form adds to a fresh process: once super has run, and once every
    rung has."""
    context = multiprocessing.get_context("spawn")
    found = {}
    ladder: Form = ("set", None, None)
    for name, form in {**_forms(bundle, runs[0]), "static ladder": ladder}.items():
        queue = context.Queue()
        given = (str(bundle.path), runs, form, queue)
        process = context.Process(target=_memory, args=given)
        process.start()
        found[name] = [round(queue.get(timeout=1800), 1) for _ in range(2)]
        process.join()
    return found


def _exported(network: str, folder: Path, depths: tuple[str, ...]) -> Bundle:
    checkpoint = write_random_checkpoint(network, folder / "random.pth")
    with bar("export") as progress:
        return export_bundle(
            checkpoint,
            folder / "bundle",
            layouts=["gated", "set", "stages"],
            weights=["shared", "folded"],
            depth=f"all,{','.join(depths)}",
            progress=progress,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50", choices=sorted(DEPTHS))
    parser.add_argument("--runtime", default="onnxruntime", choices=("onnxruntime", "openvino"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--repeats", type=int, default=30, help="0: files and memory alone")
    parser.add_argument("--depth", help="several joined by commas; default: some of the network's")
    parser.add_argument("--no-memory", action="store_true", help="leave memory out")
    parser.add_argument("--clock", default="wall", choices=("wall", "processor"))
    parser.add_argument("--bundle", type=Path, help="of this network, instead of exporting one")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    runs = (options.runtime, options.precision)
    found = machine(options.runtime, "numpy", "torch", "onnx")
    depths = tuple(options.depth.split(",")) if options.depth else DEPTHS[options.network]
    clock = ProcessorClock() if options.clock == "processor" else None
    with tempfile.TemporaryDirectory() as folder:
        bundle = (
            open_bundle(options.bundle)
            if options.bundle
            else _exported(options.network, Path(folder), depths)
        )
        sizes = measure_sizes(bundle)
        memory = {} if options.no_memory else measure_memory(bundle, runs)
        tried = depths if options.repeats else ()
        rows = measure_latency(bundle, runs, tried, options.repeats, clock)
    where = " ".join(runs)
    table = Table(
        title=f"all depths / static, {options.network}, {where}, batch 1, one thread",
        title_justify="left",
    )
    for column in ("depth", "form", "static ms", "ms", "ratio", "quartiles"):
        table.add_column(column)
    for row in rows:
        quartiles = " to ".join(f"{value:.3f}" for value in row["ratio_quartiles"])
        figures = (f"{row['static_ms']:.1f}", f"{row['ms']:.1f}", f"{row['ratio']:.3f}")
        table.add_row(row["depth"], row["form"], *figures, quartiles)
    console = Console(width=100)
    console.print(table)
    ratios = [f"{name} {size['ratio']:.3f}" for name, size in sizes.items() if name != FULL]
    console.print(f"files / full static graph: {', '.join(ratios)}")
    console.print(f"peak memory added, MB, after super and after every rung: {memory}")
    if options.record:
        content = {
            "machine": found,
            "clock": options.clock,
            "latency": rows,
            "files": sizes,
            "memory_mb": memory,
        }
        name = f"gated-against-static-{options.network}"
        if runs != ("onnxruntime", "fp32"):
            name = f"{name}-{'-'.join(runs)}"
        print(write(name if clock is None else f"{name}-processor", content))


if __name__ == "__main__":
    main()

"""DETRs whose decoder alone can stop early: what an exit saves, and what the gates cost.

    python benchmarks/early_exits.py
    python benchmarks/early_exits.py --networks d-fine-n rt-detr-r50 --rounds 40

Random weights at 640 x 640, a generated picture, on ONNX Runtime, one thread, batch 1. The gated
graph at every exit and the static graph of each run in turn, each once a round in an order drawn
anew; ratios are taken within rounds, so that drift of the machine falls on both sides alike. Drawn
beside what RT-DETR's authors measured on a T4, where a layer is many small kernels.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, machine, write
from random_checkpoint import NETWORKS, write_random_checkpoint

from anydepth_deploy.bench.timing.interleave import interleave, median_ratio
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.samples import verification_batches

CHOSEN = ("d-fine-s", "rt-detr-r18")

GOALS = {"latency": 1.01, "file": 1.02}
"""Of the gated graph over the static one of the same exit, and of the deepest."""

PUBLISHED = {1: 7.0, 2: 7.5, 3: 7.9, 4: 8.3, 5: 8.8, 6: 9.3}
"""Milliseconds of RT-DETR R50 by exit, T4, TensorRT, FP16: DETRs Beat YOLOs on Real-time Object
Detection (Zhao et al., 2024), table 5."""


def measure(bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    """One row per exit: medians, and medians of ratios within rounds with their quartiles."""
    images = verification_batches(bundle.manifest.preprocess)[0]
    exits = [str(depth) for depth in bundle.table.ladder]
    gated = bundle.session(artifact="gated", threads=1)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for depth in exits:
        static = bundle.session(artifact="set", threads=1)
        for form, session in (("gated", gated), ("static", static)):
            session.load([depth])
            calls[form, depth] = functools.partial(session.run, images, depth)
    with bar("latency") as progress:
        took = interleave(calls, repeats=rounds, progress=progress)
    rows = []
    for depth in exits:
        one, other = took["gated", depth], took["static", depth]
        quartiles = np.quantile(one / other, (0.25, 0.75))
        rows.append(
            {
                "exit": depth,
                "gated_ms": round(1e3 * float(np.median(one)), 2),
                "static_ms": round(1e3 * float(np.median(other)), 2),
                "gated_of_static": round(median_ratio(one, other), 4),
                "quartiles": [round(float(value), 4) for value in quartiles],
                "of_deepest": round(median_ratio(one, took["gated", exits[-1]]), 4),
                "rounds": rounds,
            }
        )
    return rows


def file_ratio(bundle: Bundle) -> float:
    """The gated graph's file over that of the deepest exit alone."""
    (gated,) = bundle.artifacts("gated")
    (deepest,) = bundle.artifacts("set", depth=bundle.table.space.super)
    return round(gated.bytes / deepest.bytes, 4)


def measure_network(name: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_checkpoint(name, Path(folder) / "random.pth")
        with bar(f"export of {name}") as progress:
            bundle = export_bundle(
                checkpoint, Path(folder) / "bundle", layouts=["gated", "set"], progress=progress
            )
        return {"file_of_deepest": file_ratio(bundle), "exits": measure(bundle, rounds)}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Latency of each exit over that of the deepest of the same network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, measured in found.items():
        rows = measured["exits"]
        numbers = [int(row["exit"].removeprefix("L")) for row in rows]
        axes.plot(numbers, [row["of_deepest"] for row in rows], "o-", label=f"{name}, CPU, gated")
    deepest = max(PUBLISHED)
    axes.plot(
        list(PUBLISHED),
        [value / PUBLISHED[deepest] for value in PUBLISHED.values()],
        "ks--",
        lw=1,
        label="RT-DETR R50, T4, TensorRT FP16 (published)",
    )
    axes.set(
        xlabel="decoder layers that run",
        ylabel="latency, of the deepest exit",
        xticks=range(1, deepest + 1),
        title="What an early exit saves",
    )
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    choices = sorted(name for name in NETWORKS if NETWORKS[name][0] in ("rt-detr", "d-fine"))
    parser.add_argument("--networks", nargs="+", default=list(CHOSEN), choices=choices)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--plot", type=Path, help="draw the exits into this file")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    machine_before = machine("onnxruntime", "numpy", "torch", "onnx")
    found = {name: measure_network(name, options.rounds) for name in options.networks}
    for name, measured in found.items():
        print_table(
            f"{name}, one thread, batch 1; file {measured['file_of_deepest']:.3f} of the deepest "
            f"static one (goal {GOALS['file']})",
            [
                "exit",
                "gated ms",
                "static ms",
                f"ratio (goal {GOALS['latency']})",
                "quartiles",
                "of deepest",
            ],
            [
                [
                    row["exit"],
                    f"{row['gated_ms']:.1f}",
                    f"{row['static_ms']:.1f}",
                    f"{row['gated_of_static']:.3f}",
                    " to ".join(f"{value:.3f}" for value in row["quartiles"]),
                    f"{row['of_deepest']:.3f}",
                ]
                for row in measured["exits"]
            ],
        )
    if options.plot:
        draw(found, options.plot)
    if options.record:
        content = {"machine": machine_before, "published_t4_ms": PUBLISHED, "networks": found}
        print_line(str(write("early-exits", content)))
        draw(found, RESULTS / "early-exits.png")


if __name__ == "__main__":
    main()

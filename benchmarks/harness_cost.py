"""What the harness itself costs: its medians against a bare loop, its memory against its samples.

    python benchmarks/harness_cost.py

Both loops run the same session on the same input at the same depth, stretch by stretch in turn, in
an order drawn anew for each pair; the harness reads its sensors as it always does. The networks are
the tiny ones, whose calls are so short that any cost would show most. Memory is that of the process
before and after measuring calls that do nothing, by number of calls.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from trained import TRAINED, checkpoint_of

from anydepth_deploy.bench.host import resident_memory
from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.run import run_bench
from anydepth_deploy.bench.sensors import find_sensors
from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.bench.timing.clock import MonotonicClock
from anydepth_deploy.bench.timing.monitor import Monitor
from anydepth_deploy.bench.timing.timer import Timer
from anydepth_deploy.bench.workloads.bundle import BundleWorkload
from anydepth_deploy.bench.workloads.pictures import load_batches
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import Choice
from anydepth_deploy.console import bar, print_table
from anydepth_deploy.depth import Depth
from anydepth_deploy.exporting.export import export_bundle

CALLS = 150
"""In a stretch."""

COUNTS = (1_000, 100_000, 1_000_000, 3_000_000)
"""Of calls that do nothing."""


class Opened(BundleWorkload):
    """A bundle whose session is opened once, for all stretches."""

    def load(self, depths: Sequence[Depth]) -> None:
        if self._session is None:
            super().load(depths)

    def close(self) -> None:
        pass


def bare(workload: Opened, depth: Depth) -> float:
    """Median nanoseconds of a loop without a harness."""
    session, images = workload._opened, workload.batches.prepared[0]
    took = np.zeros(CALLS, np.int64)
    for index in range(CALLS):
        began = time.perf_counter_ns()
        session.run(images, depth)
        took[index] = time.perf_counter_ns() - began
    return float(np.median(took))


def measured(workload: Opened, depth: Depth) -> float:
    """The median that the harness reports, in nanoseconds."""
    options = Options(count=CALLS, duration=0, warmup=0, warmup_count=1)
    result = run_bench(workload, [depth], options, sensors=find_sensors("cpu"), threads=1)
    return 1e6 * result.depths[0].latency.median_ms.value


def compare(bundle: Bundle, pairs: int) -> dict[str, Any]:
    """Ratio of the harness's median to that of a bare loop, over pairs of stretches."""
    depth = bundle.table.ladder[0]
    choice = Choice(threads=1)
    workload = Opened(bundle, choice, lambda recipe: load_batches(recipe, 1, count=1), "detections")
    workload.load([depth])
    bare(workload, depth)
    draw = random.Random(0)
    found: dict[str, list[float]] = {"harness": [], "bare": []}
    with bar("harness and bare loop") as progress:
        for pair in range(pairs):
            progress("pairs", pair, pairs)
            for name in draw.sample(["harness", "bare"], 2):
                time_of = measured if name == "harness" else bare
                found[name].append(time_of(workload, depth))
    harness, loop = np.array(found["harness"]), np.array(found["bare"])
    ratio = ratio_of_medians(harness, loop, paired=True)
    return {
        "network": f"{bundle.manifest.family} {bundle.manifest.config}",
        "depth": str(depth),
        "bare_ms": round(float(np.median(loop)) / 1e6, 4),
        "ratio": {name: value and round(value, 5) for name, value in ratio.model_dump().items()},
        "pairs": pairs,
        "calls": CALLS,
    }


def growth(count: int) -> dict[str, Any]:
    """Memory that measuring so many empty calls adds to a process."""
    clock = MonotonicClock()
    monitor = Monitor(find_sensors("cpu"), clock)
    options = Options(count=count, duration=0, mode="interleaved").checked()
    timer = Timer([lambda item: None], ["nothing"], 1, options, [1.0], monitor, clock)
    before = resident_memory() or 0
    taken = timer.measure([0.0])
    added = (resident_memory() or 0) - before
    return {
        "samples": count,
        "added_mb": round(added / 1e6, 2),
        "samples_mb": round(taken.rows.nbytes / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy")
    rows = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:  # a fresh process for each
        memory = pool.map(growth, COUNTS, chunksize=1)
    with tempfile.TemporaryDirectory() as folder:
        for family in TRAINED:
            with bar(f"export {family}") as progress:
                out = Path(folder) / family
                bundle = export_bundle(checkpoint_of(family), out, progress=progress)
            rows.append(compare(bundle, options.pairs))
    print_table(
        "median of the harness over that of a bare loop",
        ["network", "depth", "bare ms", "ratio", "from", "to"],
        [
            [
                row["network"],
                row["depth"],
                row["bare_ms"],
                *(f"{v:.4f}" for v in row["ratio"].values()),
            ]
            for row in rows
        ],
    )
    print_table(
        "memory of the process by number of samples",
        list(memory[0]),
        [list(row.values()) for row in memory],
    )
    if options.record:
        print(write("harness-cost", {"machine": found, "latency": rows, "memory": memory}))


if __name__ == "__main__":
    main()

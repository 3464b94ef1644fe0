"""What it costs to hold graphs and images against the manifest: the opening of a session with that
and without, and its share of a call.

    python benchmarks/opening_cost.py [BUNDLE ...]

Bundles with gated graphs, by default the tiny networks, exported for the purpose. A session is
opened and closed with the comparison and without it, in one process, in an order drawn anew for
each pair; hashes are compared in both. So are the two halves of a call on random numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from machine import machine, write
from trained import TRAINED, checkpoint_of

from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.bundle import engines, session
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import BundleFiles
from anydepth_deploy.console import bar, print_table
from anydepth_deploy.exporting.export import export_bundle

RUNTIMES = ("onnxruntime", "openvino")
CALLS = 3
"""Pairs of calls for each pair of openings."""


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e6


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Sessions as they were before graphs and images were looked at."""
    with (
        mock.patch.object(engines, "graph_file", BundleFiles.file),
        mock.patch.object(session, "check_finite", id),
    ):
        yield


def paired(call: Callable[[], object], pairs: int) -> dict[str, Any]:
    """Medians of ``call`` with the checks and without, and their ratio."""
    draw = random.Random(0)
    found: dict[str, list[float]] = {"with": [], "without": []}
    call()
    for _ in range(pairs):
        for name in draw.sample(["with", "without"], 2):
            with unchecked() if name == "without" else contextlib.nullcontext():
                found[name].append(milliseconds(call))
    checked, bare = np.array(found["with"]), np.array(found["without"])
    ratio = ratio_of_medians(checked, bare, paired=True)
    return {
        "without_ms": round(float(np.median(bare)), 3),
        "adds_ms": round(float(np.median(checked - bare)), 3),
        "ratio": {name: value and round(value, 5) for name, value in ratio.model_dump().items()},
        "pairs": pairs,
    }


def measure(bundle: Bundle, runtime: str, pairs: int) -> list[dict[str, Any]]:
    """Opening, and calls at the base depth, whose share is the largest."""
    options: dict[str, Any] = {"runtime": runtime, "artifact": "gated", "threads": 1}
    about = {
        "network": f"{bundle.manifest.family} {bundle.manifest.config}",
        "input": "x".join(map(str, bundle.size)),
        "runtime": runtime,
    }
    opening = paired(lambda: bundle.session(**options).close(), pairs)
    images = np.random.default_rng(0).random((1, 3, *bundle.size), np.float32)
    opened = bundle.session(**options)
    call = paired(lambda: opened.run(images, "base"), CALLS * pairs)
    return [{**about, "of": "opening", **opening}, {**about, "of": "a call", **call}]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = [open_bundle(path) for path in options.bundles]
        for family in TRAINED if not bundles else ():
            with bar(f"export {family}") as progress:
                out = Path(folder) / family
                made = export_bundle(checkpoint_of(family), out, progress=progress)
                bundles.append(made)
        for bundle in bundles:
            for runtime in options.runtimes:
                rows += measure(bundle, runtime, options.pairs)
    print_table(
        "with graphs and images held against the manifest, over without",
        ["network", "input", "runtime", "of", "without ms", "adds ms", "ratio", "from", "to"],
        [
            [
                *(row[key] for key in ("network", "input", "runtime", "of", "without_ms")),
                row["adds_ms"],
                *(f"{value:.4f}" for value in row["ratio"].values()),
            ]
            for row in rows
        ],
    )
    if options.record:
        found = machine("onnxruntime", "openvino", "numpy")
        print(write("opening-cost", {"machine": found, "rows": rows}))


if __name__ == "__main__":
    main()

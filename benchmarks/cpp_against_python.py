"""The C++ library against the Python package: latency of the same session, call by call in turn.

    make cpp
    python benchmarks/cpp_against_python.py
    python benchmarks/cpp_against_python.py --network r50 --rounds 30

Both run the same gated graph with the same ONNX Runtime, one thread, batch 1, on the same pictures.
The C++ side is a child process (``anydepth-bench --on-request``) that makes the call it is asked
for and answers with the nanoseconds it took by its own clock, so the pipe is not timed. A round
makes every call once on each side, in an order drawn anew; each is made twice in a row and the
second is timed, since either side has waited for the other. Ratios are taken within rounds, so that
drift of the machine falls on both alike.

Scope ``detections`` is from prepared input to detections; ``pictures`` from decoded pictures to
boxes in their pixels, with each side's own pre-processing.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from numpy.typing import NDArray
from PIL import Image
from random_checkpoint import write_random_checkpoint
from trained import TRAINED, checkpoint_of

from anydepth_deploy.bench.results import Scope
from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.bench.timing.timer import quiet
from anydepth_deploy.bench.workloads.bundle import BundleWorkload
from anydepth_deploy.bench.workloads.pictures import load_batches
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import Choice
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.shapes import render

ROOT = Path(__file__).resolve().parent.parent
RANDOM = ("r50", "yolo-s")
"""Beside the committed tiny checkpoints, which are measured by default: their calls are so short
that the cost of a language shows most."""
SCOPES: tuple[Scope, ...] = ("detections", "pictures")
PICTURES = 4
PICTURE_SIDE = {"tiny": 640, "r50": 1280, "s": 1280}
"""Pixels of the square pictures: larger than the input, so that there is something to resize."""

Take = Callable[[int, int], int]
"""Nanoseconds of a call: the depth by its place, the picture by its number."""


class Child:
    """The C++ side."""

    def __init__(self, program: Path, bundle: Bundle, scope: Scope, pictures: Path) -> None:
        options = {
            "--images": str(pictures),
            "--pictures": str(PICTURES),
            "--scope": scope,
            "--threads": "1",
            "--layout": "gated",
            "--depth": "all",
        }
        words = [word for item in options.items() for word in item]
        self._process = subprocess.Popen(
            [str(program), str(bundle.path), "--on-request", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, depth: int, item: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{depth} {item}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("anydepth-bench has ended early: see its message above")
        return int(answer)

    def close(self) -> None:
        self._process.communicate()


def python_side(bundle: Bundle, scope: Scope, pictures: Path) -> Take:
    """The calls of ``bench``, without its loop."""
    workload = BundleWorkload(
        bundle,
        Choice(layout="gated", threads=1),
        lambda recipe: load_batches(recipe, 1, source=pictures, count=PICTURES),
        scope,
    )
    depths = bundle.table.ladder
    workload.load(depths)
    calls = [workload.call(depth) for depth in depths]

    def take(depth: int, item: int) -> int:
        call = calls[depth]
        call(item)
        began = time.perf_counter_ns()
        call(item)
        return time.perf_counter_ns() - began

    return take


def measure(
    bundle: Bundle, scope: Scope, pictures: Path, program: Path, rounds: int, seed: int = 0
) -> list[dict[str, Any]]:
    """One row for each rung: both medians, and how many times longer Python takes."""
    child = Child(program, bundle, scope, pictures)
    sides: dict[str, Take] = {
        "python": python_side(bundle, scope, pictures),
        "cpp": child.take,
    }
    depths = bundle.table.ladder
    keys = [(side, place) for side in sides for place in range(len(depths))]
    draw = random.Random(seed)
    took: dict[tuple[str, int], NDArray[np.float64]] = {key: np.zeros(rounds) for key in keys}
    with bar(f"{bundle.manifest.config} {scope}") as progress, quiet():
        for number in range(-2, rounds):  # two rounds to warm up
            progress("rounds", max(number, 0), rounds)
            for side, place in draw.sample(keys, len(keys)):
                took[side, place][max(number, 0)] = sides[side](place, number % PICTURES)
    child.close()
    return [
        {
            "network": f"{bundle.manifest.family} {bundle.manifest.config}",
            "input": "x".join(map(str, bundle.size)),
            "scope": scope,
            "depth": str(depth),
            "python_ms": round(float(np.median(took["python", place])) / 1e6, 4),
            "cpp_ms": round(float(np.median(took["cpp", place])) / 1e6, 4),
            "ratio": _ratio(took["python", place], took["cpp", place]),
            "rounds": rounds,
        }
        for place, depth in enumerate(depths)
    ]


def _ratio(python: NDArray[np.float64], cpp: NDArray[np.float64]) -> dict[str, float | None]:
    found = ratio_of_medians(python, cpp, paired=True).model_dump()
    return {name: value and round(value, 4) for name, value in found.items()}


def find_checkpoint(network: str, folder: Path) -> Path:
    if network in TRAINED:
        return checkpoint_of(network)
    return write_random_checkpoint(network, folder / f"{network}.pth")


def draw_pictures(bundle: Bundle, folder: Path) -> Path:
    """Pictures in a format that both read."""
    folder.mkdir()
    side = PICTURE_SIDE[bundle.manifest.config]
    for index in range(PICTURES):
        picture = render(index, 0, "val", size=side).image
        Image.fromarray(picture).save(folder / f"{index}.ppm")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", default=TRAINED, choices=(*TRAINED, *RANDOM))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "cpp" / "anydepth-bench")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    if not options.program.is_file():
        parser.error(f"{options.program} does not exist: 'make cpp' builds it")
    found = machine("onnxruntime", "numpy", "pillow")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in options.network:
            with bar(f"export {network}") as progress:
                bundle = export_bundle(
                    find_checkpoint(network, folder), folder / network, progress=progress
                )
            pictures = draw_pictures(bundle, folder / f"{network}-pictures")
            for scope in SCOPES:
                rows += measure(bundle, scope, pictures, options.program, options.rounds)
    print_table(
        "Python over C++: above 1, C++ is faster",
        ["network", "scope", "depth", "Python ms", "C++ ms", "ratio", "from", "to"],
        [
            [
                row["network"],
                row["scope"],
                row["depth"],
                f"{row['python_ms']:.3f}",
                f"{row['cpp_ms']:.3f}",
                *("-" if value is None else f"{value:.3f}" for value in row["ratio"].values()),
            ]
            for row in rows
        ],
    )
    if options.record:
        kind = "tiny" if set(options.network) <= set(TRAINED) else "-".join(options.network)
        print_line(str(write(f"cpp-against-python-{kind}", {"machine": found, "latency": rows})))


if __name__ == "__main__":
    main()

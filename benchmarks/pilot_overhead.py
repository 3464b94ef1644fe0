"""What a pilot adds to a call: microseconds, and as a part of the calls of the tiny networks.

    python benchmarks/pilot_overhead.py

Two figures. Alone: choosing and reporting, in stretches of calls that take nothing, both policies.
Beside a session: the same depth through a pilot and named by hand, call by call in turn, in an
order drawn anew each round; the ratio of a round's two calls. Time is that of the processor in the
calling thread, so that other processes are not counted; sessions have one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from trained import TRAINED, checkpoint_of

from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.console import bar, print_table
from anydepth_deploy.control.controller import Controller, Policy
from anydepth_deploy.control.simulation import even_ladder
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pilot.pilot import Pilot

STRETCH = 500
GOAL = 20.0
"""Microseconds."""


def alone(policy: Policy, rungs: int, stretches: int) -> dict[str, Any]:
    """Choosing and reporting, without a call between."""
    ladder = even_ladder(rungs)
    controller = Controller(ladder, target_ms=4.3, policy=policy)
    costs = {rung.depth: rung.milliseconds for rung in ladder}
    found = []
    for _ in range(stretches):
        began = time.thread_time_ns()
        for _ in range(STRETCH):
            controller.report(costs[controller.choose()])
        found.append((time.thread_time_ns() - began) / STRETCH / 1e3)
    return {
        "policy": policy,
        "rungs": rungs,
        "microseconds": round(statistics.median(found), 2),
        "fastest": round(min(found), 2),
    }


def beside(family: str, folder: Path, rounds: int) -> dict[str, Any]:
    """A pilot that may only take base, and base named by hand."""
    with bar(f"export {family}") as progress:
        bundle = export_bundle(checkpoint_of(family), folder / family, progress=progress)
    session = bundle.session(threads=1)
    pilot = Pilot(session, target_ms=1000, floor="base", ceiling="base")
    base = str(session.table.space.base)
    images = np.random.default_rng(0).random((1, 3, *session.size), np.float32)
    ways = {
        "pilot": lambda: pilot.run(images),
        "by hand": lambda: session.run(images, base),
    }
    draw = random.Random(0)
    took: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in draw.sample(sorted(ways), 2):
            began = time.thread_time_ns()
            ways[name]()
            took[name].append(time.thread_time_ns() - began)
    pairs = {name: np.array(values, float) for name, values in took.items()}
    ratio = ratio_of_medians(pairs["pilot"], pairs["by hand"], paired=True)
    return {
        "network": f"{bundle.manifest.family} {bundle.manifest.config}",
        "by_hand_ms": round(float(np.median(pairs["by hand"])) / 1e6, 3),
        "ratio": {name: value and round(value, 5) for name, value in ratio.model_dump().items()},
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--stretches", type=int, default=60)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy")
    policies: tuple[Policy, ...] = ("mean", "deadline")
    bare = [alone(policy, rungs, options.stretches) for policy in policies for rungs in (2, 5, 16)]
    with tempfile.TemporaryDirectory() as folder:
        paired = [beside(family, Path(folder), options.rounds) for family in TRAINED]
    if options.json:
        print(json.dumps({"alone": bare, "beside": paired}))
    else:
        print_table(
            f"choosing and reporting (aim: less than {GOAL:g} microseconds)",
            list(bare[0]),
            [list(row.values()) for row in bare],
        )
        print_table(
            "a call through a pilot over one by hand",
            ["network", "by hand ms", "ratio", "from", "to"],
            [
                [row["network"], row["by_hand_ms"], *(f"{v:.4f}" for v in row["ratio"].values())]
                for row in paired
            ],
        )
    if options.record:
        print(write("pilot-overhead", {"machine": found, "alone": bare, "beside": paired}))


if __name__ == "__main__":
    main()

"""What a controller of depth holds on made-up devices, and how far off it is.

    python benchmarks/pilot_simulated.py

Ladders of two, four and eight rungs between 3.24 and 5.20 ms (published: an RTX 3090, 720 x 1280,
FP16), targets from base + 10 % to super - 10 %. The error is that of the published controller: the
mean absolute error of the mean over 60 calls, in percent of the target. "late": calls that took
longer than their deadline, which is to have 95 % of calls meet it. No device is needed, and figures
are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

from machine import RESULTS, machine, write

from anydepth_deploy.console import bar, print_table
from anydepth_deploy.control.controller import Policy
from anydepth_deploy.control.simulation import Run, Scene, even_ladder, scenes, simulate

RUNGS = (2, 4, 8)
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the target, from base + 10 % to super - 10 %."""
GOAL = 2.0
"""Percent of the target."""


def measure(noise: float) -> list[dict[str, Any]]:
    """Figures of each scene and ladder, over all targets."""
    names = [scene.name for scene in scenes(even_ladder(2))]
    rows: list[dict[str, Any]] = []
    with bar("simulate") as progress:
        for place, name in enumerate(names):
            progress(name, place, len(names))
            for count in RUNGS:
                rungs = even_ladder(count, noise=noise)
                means, worst, late, changes = [], [], [], []
                for seed, target in enumerate(PLACES):
                    scene = next(item for item in scenes(rungs, target, noise) if item.name == name)
                    run = simulate(scene, rungs, seed=seed)
                    means.append(100 * run.mean_error())
                    worst.append(100 * max(run.window_errors()))
                    deadline = simulate(scene, rungs, "deadline", seed=seed)
                    late.append(100 * deadline.late)
                    changes.append(100 * deadline.changes() / scene.calls)
                rows.append(
                    {
                        "scene": name,
                        "rungs": count,
                        "error": round(sum(means) / len(means), 3),
                        "largest error": round(max(means), 3),
                        "worst window": round(max(worst), 2),
                        "late": round(sum(late) / len(late), 2),
                        "changes in 100 calls": round(sum(changes) / len(changes), 2),
                    }
                )
    return rows


def calm(count: int, noise: float) -> dict[str, Any]:
    """At constant cost, over all targets: calls that get neither of the two rungs of most calls,
    and how often the deadline's rung changes within 100 calls, at most."""
    rungs = even_ladder(count, noise=noise)
    low, high = 1.1 * rungs[0].milliseconds, 0.9 * rungs[-1].milliseconds
    third, changes = 0.0, 0
    for seed in range(11):
        scene = Scene("calm", constant(low + (high - low) * seed / 10), noise=noise)
        used = Counter(simulate(scene, rungs, seed=seed).rungs).most_common(2)
        third = max(third, 100 - 100 * sum(calls for _, calls in used) / scene.calls)
        run = simulate(scene, rungs, "deadline", seed=seed)
        changes = max(changes, *(run.changes(t, t + 100) for t in range(0, scene.calls - 99, 10)))
    return {
        "rungs": count,
        "noise %": 100 * noise,
        "calls at a third rung %": round(third, 1),
        "changes in 100 calls": changes,
    }


def back(policy: Policy, noise: float, factor: float) -> dict[str, Any]:
    """After which call of a step of costs all calls are at the rungs of the last hundred, over all
    targets."""
    rungs = even_ladder(8, noise=noise)
    low, high = 1.1 * rungs[0].milliseconds, 0.9 * rungs[-1].milliseconds
    took = []
    for seed in range(11):
        target = low + (high - low) * seed / 10
        scene = Scene(
            "a step", constant(target), lambda t, i: factor if t >= 200 else 1.0, noise, calls=400
        )
        run = simulate(scene, rungs, policy, seed=seed)
        wrong = [t for t in range(200, 300) if run.rungs[t] not in set(run.rungs[300:])]
        took.append(max(wrong, default=199) - 199)
    return {
        "policy": policy,
        "noise %": 100 * noise,
        "costs times": factor,
        "calls, median": statistics.median(took),
        "within 10": f"{sum(calls <= 10 for calls in took)} of {len(took)}",
        "most": max(took),
    }


def constant(target: float) -> Callable[[int], float]:
    return lambda t: target


def draw(noise: float) -> None:
    """Cost, target and rung over time of four scenes, both policies."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rungs = even_ladder(8, noise=noise)
    shown = [s for s in scenes(rungs, 0.5, noise) if s.name in ("step", "contention", "twice")]
    figure, axes = plt.subplots(2, len(shown), figsize=(13, 5.5), sharex=True, squeeze=False)
    for column, scene in enumerate(shown):
        above, below = axes[0][column], axes[1][column]
        runs: list[tuple[str, Run, str]] = [
            ("mean", simulate(scene, rungs), "tab:blue"),
            ("deadline", simulate(scene, rungs, "deadline"), "tab:orange"),
        ]
        for name, run, colour in runs:
            means = [sum(run.costs[max(0, t - 59) : t + 1]) / min(60, t + 1) for t in range(900)]
            above.plot(run.costs[:900], ".", ms=1.5, color=colour, alpha=0.35)
            above.plot(means, color=colour, label=f"{name}: mean of 60 calls")
            below.plot(run.rungs[:900], ".", ms=2, color=colour, label=name)
        above.plot(runs[0][1].targets[:900], "k--", lw=1, label="target")
        above.set_title(scene.name)
        below.set_xlabel("call")
    axes[0][0].set_ylabel("ms")
    axes[1][0].set_ylabel("rung")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "pilot-simulated.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", type=float, default=0.02, help="of a call, as a part of it")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.noise)
    still = [calm(count, noise) for count in (2, 4, 8, 16) for noise in (0.0, 0.02, 0.05)]
    policies: tuple[Policy, ...] = ("mean", "deadline")
    steps = [
        back(policy, noise, factor)
        for policy in policies
        for noise in (0.0, 0.02)
        for factor in (1.15, 1.3, 2.0, 0.87, 0.7)
    ]
    found = {"scenes": rows, "constant": still, "steps": steps}
    if options.json:
        print(json.dumps(found))
    else:
        print_table(
            f"percent of the target; goal: an error below {GOAL}",
            list(rows[0]),
            [list(row.values()) for row in rows],
        )
        for title, table in (("at constant cost", still), ("after a step of costs", steps)):
            print_table(title, list(table[0]), [list(row.values()) for row in table])
    if options.record:
        print(write("pilot-simulated", {"machine": machine("numpy"), **found}))
        draw(options.noise)


if __name__ == "__main__":
    main()

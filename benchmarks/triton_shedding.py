"""What gives way first when more is asked of a Triton server than it can do: depth, or requests.

    python benchmarks/triton_shedding.py

A trained tiny network behind a local Triton server (``triton_server/``) on loopback, prepared
images to the router. Requests come at random moments (Poisson) that do not wait for answers (open
loop), at rates that are parts of what can be done at super, one after the other; at each rate once
at depth auto and once at super, at the same moments, in an order drawn anew. The router has few
places to wait in (``--max-queue``), so that a server that falls behind refuses requests within
seconds, as a busy one does after a while. Counted are requests that were refused, those that came
late, and the depths that were run: an autoscaler has to see that depth is shed at rates at which
nothing is refused yet (docs/kubernetes.md).

Networks run in a stand-in for Triton's backend, and clients use the same processors: what differs
between the two ways holds, absolute rates do not. It needs an otherwise idle machine, and ends by
itself: ``--seconds`` at each rate and way, and at most as many requests as ``--requests``.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from machine import machine, write
from trained import TRAINED
from triton_auto import BUDGET, Answer, Load, parameters_of, poisson, served, usual_ms, words

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.console import bar, print_line, print_table

RATES = (0.5, 0.8, 1.1, 1.4, 2.0)
WAYS = ("auto", "super")
MAX_QUEUE = 16
CLIENTS = 128
"""Connections: more than the router has places, so that it, and not the clients, says when it is
full."""

REFUSED = -1
"""In place of the row of a request that found no place."""


class OpenLoad(Load):
    """Requests some of which may be refused because the router is full; any other error ends it."""

    def row(self, parameters: dict[str, str]) -> int:
        from tritonclient.utils import InferenceServerException

        try:
            return super().row(parameters)
        except InferenceServerException as error:
            if str(error.status()) != "StatusCode.UNAVAILABLE":
                raise
            return REFUSED


def summary(answers: Sequence[Answer], budget: float, levels: Sequence[int]) -> dict[str, Any]:
    """What became of requests: in percent of all, those refused and those answered after ``budget``
    milliseconds, and of those answered at each row of ``levels``; the median and the 95th
    percentile of milliseconds until an answer, None where there was none."""
    took = [milliseconds for milliseconds, row in answers if row != REFUSED]
    counts = Counter(row for _, row in answers)
    late = sum(milliseconds > budget for milliseconds in took)
    middle, most = np.percentile(took, [50, 95]) if took else (None, None)
    return {
        "requests": len(answers),
        "refused_percent": round(100 * counts[REFUSED] / len(answers), 1),
        "late_percent": round(100 * late / len(answers), 1),
        "median_ms": None if middle is None else round(float(middle), 2),
        "p95_ms": None if most is None else round(float(most), 2),
        "levels_percent": [round(100 * counts[row] / max(len(took), 1), 1) for row in levels],
    }


def under_load(
    load: Load, bundle: Bundle, rates: Sequence[float], seconds: float, requests: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What a request takes alone, and what becomes of requests at each rate."""
    usual = usual_ms(load)
    budget = BUDGET * usual
    for _ in range(20):
        load.alone(parameters_of("auto", budget))
    levels = [bundle.table.row(depth) for depth in bundle.table.ladder]
    draw, rows = random.Random(0), []
    with bar("load") as progress:
        for turn, rate in enumerate(rates):
            moments = poisson(draw, rate * 1e3 / usual, seconds)[:requests]
            found = {}
            for way in draw.sample(WAYS, len(WAYS)):
                answers = load.at(moments, parameters_of(way, budget))
                found[way] = summary(answers, budget, levels)
            rows += [{"rate": rate, "depth": way, **found[way]} for way in WAYS]
            progress(f"{rate:g} of super", turn + 1, len(rates))
    return {"super_alone_ms": round(usual, 2), "budget_ms": round(budget, 2)}, rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=list(TRAINED), default=next(iter(TRAINED)))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seconds", type=float, default=10, help="at each rate and way")
    parser.add_argument("--requests", type=int, default=5000, help="at each rate and way, at most")
    parser.add_argument("--max-queue", type=int, default=MAX_QUEUE, help="places to wait in")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy", "tritonclient")
    found["server"] = "Triton 24.10 with stand-ins for its backends"
    with served(options.family, options.max_queue) as (server, bundle):
        load = OpenLoad(server, bundle, CLIENTS)
        try:
            usual, rows = under_load(load, bundle, options.rates, options.seconds, options.requests)
        finally:
            load.close()
    print_table(
        f"{options.family}: super alone {usual['super_alone_ms']} ms, budget {usual['budget_ms']} "
        "ms; rates in parts of what one after the other would be at super",
        [
            *("rate", "depth", "requests", "refused %", "late %", "median ms", "p95 ms"),
            "by level %",
        ],
        [[words(value) for value in row.values()] for row in rows],
    )
    if options.record:
        content = {"machine": found, "max_queue": options.max_queue, **usual, "rows": rows}
        print_line(str(write("triton-shedding", content)))


if __name__ == "__main__":
    main()

"""Requests at depth auto to a Triton router under load: who is late, and at which depths.

    python benchmarks/triton_auto.py

Requests come at random moments (Poisson), at rates that are parts of what can be done at super;
each is late where its answer comes later than ``BUDGET`` times what a request at super takes alone.
On a made-up device that takes requests one by one, in calls that differ by 5 %, which gives the
same figures everywhere; base, super and auto at the same moments. Also what choosing costs, in
processor time.

    python benchmarks/triton_auto.py --server

For real: a trained tiny network behind a local Triton server (``triton_server/``), prepared images
to the router, each late by the moment it was due. Requests at auto tell the server a tenth less,
which is for the way there and back. The three take turns in an order drawn anew each round.
Networks run in a stand-in for Triton's backend: what differs between the three holds, absolute
times do not. It needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from trained import TRAINED, checkpoint_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for triton_server, which is not installed

from anydepth_deploy.bundle.bundle import Bundle  # noqa: E402
from anydepth_deploy.console import bar, print_line, print_table  # noqa: E402
from anydepth_deploy.control.rungs import Rung  # noqa: E402
from anydepth_deploy.exporting.export import export_bundle  # noqa: E402
from anydepth_deploy.serve.models.autopilot import Autopilot, Call  # noqa: E402
from anydepth_deploy.serve.plan import ServeOptions  # noqa: E402
from anydepth_deploy.serve.repository import write_repository  # noqa: E402
from triton_server.environment import ensure  # noqa: E402
from triton_server.prometheus import total  # noqa: E402
from triton_server.server import LocalServer  # noqa: E402

NAME = "net"
REQUESTS = 20_000
"""To the made-up device, at each rate."""
LADDER_MS = (10.0, 11.9, 13.7, 15.6)
"""Of its calls, by level: in the proportions of the trained tiny DETR's multiply-adds."""
BUDGET = 3.0
KEPT = 0.1
"""Of the budget, for what the server does not see."""
RATES = (0.3, 0.6, 0.8, 1.0, 1.2)
MISSES = ("chosen", "answered")
"""How the router counts them: no level was thought to be in time; the answer was not."""
WAYS = ("base", "auto", "super")
CLIENTS = 24
"""Connections: so many requests may be under way."""
ALONE, BATCHES = 20, 5
"""Requests, one after the other, and how often so many, by which rates and the budget are set."""

Answer = tuple[float, int]
"""Milliseconds from when it was due to its answer, and the row that was run."""


def simulated() -> list[dict[str, Any]]:
    """On a made-up device: the part of late requests and the mean of what they take, by rate."""
    rows = []
    for rate in RATES:
        draw, moments, now = random.Random(0), [], 0.0
        for _ in range(REQUESTS):
            now += draw.expovariate(rate / LADDER_MS[-1])
            moments.append(now)
        for way in WAYS:
            took, rungs, missed = _played(moments, way, BUDGET * LADDER_MS[-1])
            late = sum(milliseconds > BUDGET * LADDER_MS[-1] for milliseconds in took)
            rows.append(
                {
                    "rate": rate,
                    "depth": way,
                    "late_percent": round(100 * late / REQUESTS, 1),
                    "no_level_fits_percent": round(100 * missed / REQUESTS, 1),
                    "mean_cost_ms": round(sum(LADDER_MS[rung] for rung in rungs) / REQUESTS, 2),
                    "levels_percent": [
                        round(100 * rungs.count(rung) / REQUESTS, 1)
                        for rung in range(len(LADDER_MS))
                    ],
                }
            )
    return rows


def _played(
    moments: Sequence[float], way: str, budget: float
) -> tuple[list[float], list[int], int]:
    """Milliseconds and rungs of all requests, and for how many no level was thought to fit."""
    now = 0.0
    rungs = [Rung(str(row), cost, p95=1.1 * cost) for row, cost in enumerate(LADDER_MS)]
    places = range(len(rungs))
    pilot = Autopilot(rungs, places, [1] * len(rungs), clock=lambda: now / 1000)
    noise, free = random.Random(1), 0.0
    running: deque[tuple[float, Call]] = deque()
    took, chosen, missed = [], [], 0
    for moment in [*moments, math.inf]:
        while running and running[0][0] <= moment:
            now, call = running.popleft()
            pilot.end(call, answered=True)
        if moment == math.inf:
            break
        now = moment
        fixed = {"base": 0, "super": len(rungs) - 1}.get(way)
        call = pilot.choose(1, budget) if fixed is None else pilot.start(1, fixed)
        free = max(free, now) + LADDER_MS[call.row] * noise.gauss(1, 0.05)
        running.append((free, call))
        took.append(free - now)
        chosen.append(call.row)
        missed += not call.fits
    return took, chosen, missed


class Load:
    """Requests to the router of one server, over ``clients`` connections that stay open. Ends with
    :meth:`close`."""

    def __init__(self, server: LocalServer, bundle: Bundle, clients: int = CLIENTS) -> None:
        self._server = server
        grpc: Any = import_module("tritonclient.grpc")
        images = np.random.default_rng(0).random((1, 3, *bundle.size), np.float32)
        self._inputs = [grpc.InferInput("images", images.shape, "FP32")]
        self._inputs[0].set_data_from_numpy(images)
        self._here = threading.local()

        def connect() -> None:
            self._here.client = grpc.InferenceServerClient(server.grpc)

        self._pool = ThreadPoolExecutor(clients, initializer=connect)

    def close(self) -> None:
        self._pool.shutdown()

    def missed(self) -> dict[str, int]:
        """Requests at auto that missed their budgets so far, as the router sees it."""
        time.sleep(0.2)  # it counts a request after it is answered
        metrics = self._server.metrics()
        name = "anydepth_auto_missed_total"
        return {when: int(total(metrics, name, when=when)) for when in MISSES}

    def alone(self, parameters: dict[str, str]) -> float:
        """Milliseconds of a request while there is no other."""
        return self._pool.submit(self._ask, parameters, None).result()[0]

    def _ask(self, parameters: dict[str, str], due: float | None) -> Answer:
        """``due``: by :func:`time.perf_counter`; now, where it is not given."""
        began = time.perf_counter() if due is None else due
        row = self.row(parameters)
        return 1e3 * (time.perf_counter() - began), row

    def row(self, parameters: dict[str, str]) -> int:
        """Send a request from one of the pool's threads; the row that was run."""
        found = self._here.client.infer(f"{NAME}_router", self._inputs, parameters=parameters)
        return int(found.as_numpy("depth_row")[0])

    def at(self, moments: Sequence[float], parameters: dict[str, str]) -> list[Answer]:
        """Requests that are due so many seconds from now."""
        start, waiting = time.perf_counter() + 0.05, []
        for moment in moments:
            time.sleep(max(0.0, start + moment - time.perf_counter()))
            waiting.append(self._pool.submit(self._ask, parameters, start + moment))
        return [item.result() for item in waiting]


def parameters_of(way: str, budget: float) -> dict[str, str]:
    if way != "auto":
        return {"depth": way}
    return {"depth": way, "budget_ms": f"{(1 - KEPT) * budget:.3f}"}


def usual_ms(load: Load) -> float:
    """Milliseconds of a request at super while there is no other."""
    for _ in range(ALONE):
        load.alone({"depth": "base"})
    # Others use this machine, too: the least of several medians.
    return min(
        float(np.median([load.alone({"depth": "super"}) for _ in range(ALONE)]))
        for _ in range(BATCHES)
    )


def poisson(draw: random.Random, rate: float, seconds: float) -> list[float]:
    """Moments of requests, ``rate`` of them a second, in seconds from the first moment on."""
    moments, moment = [], 0.0
    while (moment := moment + draw.expovariate(rate)) < seconds:
        moments.append(moment)
    return moments


def under_load(
    load: Load, bundle: Bundle, rates: Sequence[float], rounds: int, seconds: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a request takes alone, and what becomes of requests at each rate."""
    usual = usual_ms(load)
    budget = BUDGET * usual
    for _ in range(ALONE):
        load.alone(parameters_of("auto", budget))
    draw = random.Random(0)
    found: dict[tuple[float, str], list[Answer]] = {}
    missed: Counter[tuple[float, str]] = Counter()
    turns = [rate for rate in rates for _ in range(rounds)]
    draw.shuffle(turns)
    with bar("load") as progress:
        for turn, rate in enumerate(turns):
            moments = poisson(draw, rate * 1e3 / usual, seconds)
            for way in draw.sample(WAYS, len(WAYS)):
                before = load.missed()
                answers = load.at(moments, parameters_of(way, budget))
                found.setdefault((rate, way), []).extend(answers)
                for when, count in load.missed().items():
                    missed[rate, when] += count - before[when]
            progress(f"{rate:g} of super", turn + 1, len(turns))
    levels = [bundle.table.row(depth) for depth in bundle.table.ladder]
    rows = []
    for rate in rates:
        for way in WAYS:
            answers = found[rate, way]
            took = [milliseconds for milliseconds, _ in answers]
            counts = Counter(row for _, row in answers)
            macs = [bundle.manifest.depths[row].macs["total"] for _, row in answers]
            rows.append(
                {
                    "rate": rate,
                    "depth": way,
                    "requests": len(answers),
                    "late_percent": round(100 * float(np.mean(np.array(took) > budget)), 1),
                    "seen_percent": {
                        when: round(100 * missed[rate, when] / len(answers), 1)
                        for when in (MISSES if way == "auto" else ())
                    },
                    "median_ms": round(float(np.median(took)), 2),
                    "p95_ms": round(float(np.percentile(took, 95)), 2),
                    "levels_percent": [
                        round(100 * counts[row] / len(answers), 1) for row in levels
                    ],
                    "mean_macs_m": round(float(np.mean(macs)) / 1e6, 1),
                }
            )
    return {"super_alone_ms": round(usual, 2), "budget_ms": round(budget, 2)}, rows


def choosing(rungs: int, under_way: int, stretches: int = 30, calls: int = 300) -> float:
    """Microseconds of processor time of one choice and its report, with so many under way."""
    ladder = [Rung(str(row), 10.0 + row, p95=11.0 + row) for row in range(rungs)]
    pilot = Autopilot(ladder, range(rungs), [100 + row for row in range(rungs)])
    held = deque(pilot.choose(1, 500.0) for _ in range(under_way))
    found = []
    for _ in range(stretches):
        began = time.thread_time_ns()
        for _ in range(calls):
            held.append(pilot.choose(1, 500.0))
            pilot.end(held.popleft(), answered=True)
        found.append((time.thread_time_ns() - began) / calls / 1e3)
    return round(float(np.median(found)), 1)


@contextlib.contextmanager
def served(family: str, max_queue: int | None = None) -> Iterator[tuple[LocalServer, Bundle]]:
    """``max_queue``: images that wait in the router, None for as many as usual."""
    environment = ensure()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with bar(f"export {family}") as progress:
            bundle = export_bundle(checkpoint_of(family), folder / "bundle", progress=progress)
        options = ServeOptions(device="cpu", threads=1, workers=1, max_queue=max_queue)
        write_repository(bundle, folder / "repository", name=NAME, options=options)
        with LocalServer(environment, folder / "repository", log=folder / "log") as server:
            yield server, bundle


def words(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", action="store_true", help="requests to a real server")
    parser.add_argument("--family", choices=list(TRAINED), default=next(iter(TRAINED)))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--rounds", type=int, default=3, help="of each rate")
    parser.add_argument("--seconds", type=float, default=5, help="of each way in a round")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy", "tritonclient")
    content: dict[str, Any] = {"machine": found}
    if options.server:
        found["server"] = "Triton 24.10 with stand-ins for its backends"
        content |= _of_server(options.family, options.rates, options.rounds, options.seconds)
    else:
        content |= _without_server()
    if options.record:
        print_line(str(write("triton-auto-server" if options.server else "triton-auto", content)))


def _without_server() -> dict[str, Any]:
    costs = [
        {"rungs": rungs, "under_way": held, "microseconds": choosing(rungs, held)}
        for rungs, held in ((5, 0), (5, 32), (16, 32))
    ]
    print_table("choosing", ["rungs", "under way", "microseconds"], [[*c.values()] for c in costs])
    rows = simulated()
    print_table(
        f"a made-up device, levels of {', '.join(map(str, LADDER_MS))} ms, a budget of "
        f"{BUDGET * LADDER_MS[-1]:.1f} ms; rates in parts of what can be done at super",
        ["rate", "depth", "late %", "no level fits %", "mean cost ms", "by level %"],
        [[words(value) for value in row.values()] for row in rows],
    )
    return {"ladder_ms": LADDER_MS, "budget": BUDGET, "simulated": rows, "choosing": costs}


def _of_server(family: str, rates: Sequence[float], rounds: int, seconds: float) -> dict[str, Any]:
    with served(family) as (server, bundle):
        load = Load(server, bundle)
        try:
            usual, rows = under_load(load, bundle, rates, rounds, seconds)
        finally:
            load.close()
    print_table(
        f"{family}: super alone {usual['super_alone_ms']} ms, budget {usual['budget_ms']} "
        "ms; rates in parts of what one after the other would be at super",
        [
            *("rate", "depth", "requests", "late %", "seen by the router %", "median ms"),
            *("p95 ms", "by level %", "M macs"),
        ],
        [[words(value) for value in row.values()] for row in rows],
    )
    return {
        "family": family,
        **usual,
        "rounds": rounds,
        "seconds": seconds,
        "ladder": [str(depth) for depth in bundle.table.ladder],
        "rates": rows,
    }


if __name__ == "__main__":
    main()

"""What the router of a Triton repository costs, and what the way of a picture to the server costs.

    python benchmarks/triton_router.py

A trained tiny network behind a local Triton server (``triton_server/``), at 160 x 160 and, for
inputs of the usual size, at 640 x 640, one client, batch 1. Direct requests to the model of a depth
and requests to the router take turns, in an order drawn anew each round; differences are taken
within rounds. The same for pictures through the ensemble over HTTP, gRPC and shared memory.
Networks run in a stand-in for Triton's backend, on both sides alike: differences hold, absolute
times do not.

    python benchmarks/triton_router.py --first

How much longer the first requests take after the server says that it is ready: depths in a server
of their own each, over a connection that is open already.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for triton_server, which is not installed

from anydepth_deploy.bench.statistics import median  # noqa: E402
from anydepth_deploy.bench.timing.interleave import interleave  # noqa: E402
from anydepth_deploy.bundle.bundle import Bundle  # noqa: E402
from anydepth_deploy.console import bar, print_table  # noqa: E402
from anydepth_deploy.exporting.export import export_bundle  # noqa: E402
from anydepth_deploy.serve.plan import ServeOptions  # noqa: E402
from anydepth_deploy.serve.repository import write_repository  # noqa: E402
from triton_server.client import Detector  # noqa: E402
from triton_server.environment import Environment, ensure  # noqa: E402
from triton_server.server import LocalServer  # noqa: E402

CHECKPOINT = ROOT / "anydepth_deploy" / "trained" / "anydepth-detr-tiny-shapes.pth"
SIZES = (160, 640)
TARGET_MS = 2.0
NAME = "net"
WAYS = {
    "http": ("http", False),
    "grpc": ("grpc", False),
    "http, shared memory": ("http", True),
    "grpc, shared memory": ("grpc", True),
}
PICTURES = ((480, 640), (1080, 1920))
"""Height and width."""

FIRST = 40
"""Requests to a server that has just become ready."""

Call = Callable[[], object]


def router_cost(server: LocalServer, bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    """Direct and routed requests at a rung, which has a model of its own, and at a depth outside
    the ladder, which the gated graph runs."""
    http: Any = import_module("tritonclient.http")
    images = np.random.default_rng(0).random((1, 3, *bundle.size), np.float32)
    tensor = http.InferInput("images", images.shape, "FP32").set_data_from_numpy(images)
    rows = range(len(bundle.table.rows))
    outside = next(row for row in rows if bundle.table.level(row) is None)
    row = http.InferInput("depth", [1], "INT64").set_data_from_numpy(np.array([outside], np.int64))
    found = []
    with contextlib.closing(http.InferenceServerClient(server.http)) as client:
        for model, inputs, depth in (
            (f"{NAME}_level_0", [tensor], 0),
            (f"{NAME}_gated", [tensor, row], outside),
        ):
            calls: dict[str, Call] = {
                "direct": functools.partial(client.infer, model, inputs),
                "routed": functools.partial(
                    client.infer, f"{NAME}_router", [tensor], parameters={"depth": depth}
                ),
            }
            took = interleave(calls, repeats=rounds, warmup=10)
            direct, routed = took["direct"], took["routed"]
            added = median(1e3 * (routed - direct))
            found.append(
                {
                    "input": "x".join(map(str, bundle.size)),
                    "model": model.removeprefix(f"{NAME}_"),
                    "direct_ms": round(1e3 * float(np.median(direct)), 3),
                    "routed_ms": round(1e3 * float(np.median(routed)), 3),
                    "added_ms": _rounded(added.model_dump()),
                    "target_met": bool(added.high is not None and added.high <= TARGET_MS),
                }
            )
    return found


def way_cost(server: LocalServer, rounds: int) -> list[dict[str, Any]]:
    """Pictures through the ensemble at base, by protocol and shared memory."""
    found = []
    draw = np.random.default_rng(0)
    for height, width in PICTURES:
        picture = draw.integers(0, 256, (height, width, 3), np.uint8)
        with contextlib.ExitStack() as stack:
            detectors = {
                name: stack.enter_context(
                    Detector(
                        getattr(server, protocol),
                        protocol=protocol,
                        model=NAME,
                        shared_memory=shared,
                    )
                )
                for name, (protocol, shared) in WAYS.items()
            }
            calls: dict[str, Call] = {
                name: functools.partial(detector.detect, picture, "base")
                for name, detector in detectors.items()
            }
            took = interleave(calls, repeats=rounds, warmup=5)
        for name, times in took.items():
            less = median(1e3 * (times - took["http"]))
            found.append(
                {
                    "picture": f"{width}x{height}",
                    "way": name,
                    "median_ms": round(1e3 * float(np.median(times)), 3),
                    "against_http_ms": None if name == "http" else _rounded(less.model_dump()),
                }
            )
    return found


def first_cost(
    environment: Environment, repository: Path, log: Path, depths: Sequence[str]
) -> list[dict[str, Any]]:
    """The first and the second request at a depth after "ready", and the median of later ones."""
    picture = np.random.default_rng(0).integers(0, 256, PICTURES[0] + (3,), np.uint8)
    found = []
    for depth in depths:
        with (
            LocalServer(environment, repository, log=log) as server,
            Detector(server.http, model=NAME) as detector,
        ):
            took = [detector.detect(picture, depth).milliseconds for _ in range(FIRST)]
        usual = float(np.median(took[5:]))
        found.append(
            {
                "depth": depth,
                "first_ms": round(took[0], 3),
                "second_ms": round(took[1], 3),
                "median_ms": round(usual, 3),
                "first_against_median": round(took[0] / usual, 2),
            }
        )
    return found


def _rounded(estimate: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 3) for name, value in estimate.items()}


def _text(estimate: dict[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    return f"{value:+.2f}" if low is None else f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--first", action="store_true", help="the first requests, nothing else")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy", "tritonclient")
    found["server"] = "Triton 24.10 with stand-ins for its backends"
    measured = _first() if options.first else _rounds(options.rounds)
    if options.record:
        name = "triton-first" if options.first else "triton-router"
        print(write(name, {"machine": found, **measured}))


@contextlib.contextmanager
def _served(size: int) -> Iterator[tuple[Bundle, Path]]:
    """The trained network at this size, and a folder with its ``repository``."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with bar(f"export at {size} x {size}") as progress:
            bundle = export_bundle(
                CHECKPOINT,
                folder / "bundle",
                layouts=["gated", "set"],
                input_size=(size, size),
                progress=progress,
            )
        serve = ServeOptions(device="cpu", threads=1)
        write_repository(bundle, folder / "repository", name=NAME, options=serve)
        yield bundle, folder


def _rounds(rounds: int) -> dict[str, Any]:
    environment = ensure()
    routing, ways = [], []
    for size in SIZES:
        with (
            _served(size) as (bundle, folder),
            LocalServer(environment, folder / "repository", log=folder / "log") as server,
        ):
            routing += router_cost(server, bundle, rounds)
            if size == SIZES[0]:
                ways = way_cost(server, rounds)
    print_table(
        f"what the router adds; target: at most {TARGET_MS:g} ms",
        ["input", "model", "direct ms", "through the router ms", "added ms", "target met"],
        [
            [
                *(row["input"], row["model"], row["direct_ms"], row["routed_ms"]),
                *(_text(row["added_ms"]), "yes" if row["target_met"] else "no"),
            ]
            for row in routing
        ],
    )
    print_table(
        "a picture through the ensemble at base",
        ["picture", "way", "median ms", "against http ms"],
        [
            [row["picture"], row["way"], row["median_ms"], _text(row["against_http_ms"])]
            for row in ways
        ],
    )
    return {"rounds": rounds, "router": routing, "ways": ways}


def _first() -> dict[str, Any]:
    with _served(SIZES[0]) as (bundle, folder):
        outside = str(bundle.table.levels)  # the gated graph runs it
        depths = ("base", "super", outside)
        found = first_cost(ensure(), folder / "repository", folder / "log", depths)
    print_table(
        "the first requests after the server is ready, a picture of 640 x 480",
        ["depth", "first ms", "second ms", "median of later ones ms", "first against median"],
        [list(row.values()) for row in found],
    )
    return {"requests": FIRST, "first": found}


if __name__ == "__main__":
    main()

"""What a worker of Ray keeps of the pace of one process with one thread.

    python benchmarks/ray_throughput.py

Folders of JPEGs of 720p, random weights of a small network, a session of one thread everywhere,
pictures read ahead everywhere. A round runs each way once, in an order drawn anew: `ad.load` in one
process; one worker of a job, which writes its Parquet file, too; two such processes at once, each
with pictures of its own; two workers at once. All are started and warm: what is compared is work on
pictures, and what starting costs is told beside it. What counts is the ratio of a round's paces,
one to one and two to two; the processor's time of all threads says what work there is, also where
other processes are in the way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from PIL import Image
from random_checkpoint import NETWORKS, write_random_checkpoint

import anydepth_deploy as ad
from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.ray.parts import Part
from anydepth_deploy.ray.places import place_of
from anydepth_deploy.ray.stage import AHEAD
from anydepth_deploy.ray.writer import PartWriter

SIZE = (720, 1280)
GOAL = 0.9
WORKERS = 2
PAIRS = (("one worker", "one process"), ("two workers", "two processes"))

_opened: list[ad.Detector] = []
"""The detector of a process."""


def write_pictures(folder: Path, count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    paths = []
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (18, 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 6, (*SIZE, 1)), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:03}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return [str(path) for path in paths]


def open_detector(bundle: str) -> None:
    _opened.append(ad.load(bundle, threads=1))


def look(paths: list[str], depth: str) -> float:
    """Seconds of the processor that one process takes for ``paths``."""
    begin = time.process_time()
    assert len(_opened[0](paths, depth, ahead=AHEAD)) == len(paths)
    return time.process_time() - begin


class Timed(PartWriter):
    """Says how many seconds of the processor a part took, too."""

    def write(self, text: str) -> dict[str, Any]:
        begin = time.process_time()
        return {**super().write(text), "processor": time.process_time() - begin}


def ways(
    bundle: str,
    depth: str,
    folders: list[list[str]],
    out: Path,
    ray: Any,
    stack: contextlib.ExitStack,
) -> tuple[dict[str, Callable[[], float]], dict[str, float]]:
    """Each way as a call that gives the seconds of the processor, and what starting took."""
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    pools = [
        stack.enter_context(
            ProcessPoolExecutor(1, context, initializer=open_detector, initargs=(bundle,))
        )
        for _ in folders
    ]
    _settle(pools, folders, depth)
    started = {"processes": time.monotonic() - began}
    began = time.monotonic()
    detect = {"bundle": bundle, "depth": depth, "threads": 1}
    parts = [Part(tuple(paths)) for paths in folders]
    kind = ray.remote(Timed).options(num_cpus=1)
    writers = [kind.remote(place_of(out), place_of(out), {}, detect) for _ in parts]

    def work(count: int) -> float:
        pairs = list(zip(writers, parts, strict=True))[:count]
        rows = ray.get([writer.write.remote(part.to_text()) for writer, part in pairs])
        assert not any(row["failed"] for row in rows)
        return float(sum(row["processor"] for row in rows))

    def alone(count: int) -> float:
        return _settle(pools[:count], folders[:count], depth)

    work(len(parts))
    started["workers"] = time.monotonic() - began
    calls: dict[str, Callable[[], float]] = {
        "one process": lambda: alone(1),
        "one worker": lambda: work(1),
        "two processes": lambda: alone(WORKERS),
        "two workers": lambda: work(WORKERS),
    }
    return calls, started


def _settle(pools: list[ProcessPoolExecutor], folders: list[list[str]], depth: str) -> float:
    futures = [pool.submit(look, paths, depth) for pool, paths in zip(pools, folders, strict=True)]
    return sum(future.result() for future in futures)


def measured(
    calls: dict[str, Callable[[], float]], rounds: int, count: int
) -> dict[str, dict[str, Any]]:
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    draw = random.Random(0)
    with bar("rounds") as progress:
        for number in range(rounds):
            progress("rounds", number, rounds)
            for name in draw.sample(sorted(calls), len(calls)):
                begin = time.perf_counter()
                processor = calls[name]()
                took[name].append((time.perf_counter() - begin, processor))
    rows: dict[str, dict[str, Any]] = {}
    for name, pairs in took.items():
        values = np.array(pairs)
        each = WORKERS if name.startswith("two") else 1
        rows[name] = {
            "pictures_per_second_each": round(count / float(np.median(values[:, 0])), 3),
            "processor_seconds": round(float(np.median(values[:, 1])) / count / each, 4),
        }
    for name, base in PAIRS:
        one, other = (np.array(took[way]) for way in (base, name))
        ratio = ratio_of_medians(one[:, 0], other[:, 0], paired=True)
        rows[name]["of_processes"] = {
            key: value and round(value, 4) for key, value in ratio.model_dump().items()
        }
        work = float(np.median(other[:, 1] / one[:, 1]))
        rows[name]["processor_of_processes"] = round(work, 4)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(NETWORKS), default="yolo-n")
    parser.add_argument("--depth", default="base")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=16, help="pictures of a process")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # Ray is nice to others by default (15): beside other work, priorities would be compared.
    settings = {
        "USAGE_STATS_ENABLED": "0",
        "enable_metrics_collection": "0",
        "worker_niceness": "0",
    }
    os.environ.update({f"RAY_{name}": value for name, value in settings.items()})
    found = machine("onnxruntime", "numpy", "pillow", "pyarrow", "ray")
    import ray

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(options.network, folder / "random.pth")
        with bar("export") as progress:
            bundle = export_bundle(checkpoint, folder / "bundle", progress=progress)
        folders = [
            write_pictures(folder / f"pictures-{number}", options.count, number)
            for number in range(WORKERS)
        ]
        place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # names of sockets are short
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=place)
        try:
            with contextlib.ExitStack() as stack:
                calls, started = ways(
                    str(bundle.path), options.depth, folders, folder / "found", ray, stack
                )
                rows = measured(calls, options.rounds, options.count)
        finally:
            ray.shutdown()
            shutil.rmtree(place, ignore_errors=True)
    network = f"{bundle.manifest.family} {bundle.manifest.config}"
    result = {
        "network": network,
        "depth": options.depth,
        "size": list(SIZE),
        "pictures": options.count,
        "rounds": options.rounds,
        "started_seconds": {key: round(value, 1) for key, value in started.items()},
        "ways": rows,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print_table(
            f"{network} at {options.depth} (aim: {GOAL:g} of processes without Ray)",
            ["way", "pictures/s, each", "processor s", "ratio", "from", "to", "processor"],
            [
                [
                    way,
                    row["pictures_per_second_each"],
                    row["processor_seconds"],
                    *(
                        "-" if value is None else f"{value:.3f}"
                        for value in row.get("of_processes", dict.fromkeys("abc")).values()
                    ),
                    row.get("processor_of_processes", "-"),
                ]
                for way, row in rows.items()
            ],
        )
        seconds = ", ".join(f"{key} {value:.1f} s" for key, value in started.items())
        print_line(f"started, with a first round: {seconds}")
    if options.record:
        print(write("ray-throughput", {"machine": found, **result}))


if __name__ == "__main__":
    main()

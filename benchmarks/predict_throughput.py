"""How much of the network's pace `predict` keeps when it reads pictures and writes drawings, too.

    python benchmarks/predict_throughput.py

A folder of JPEGs of 1080p, random weights of R50 at 640 x 640, a session of one thread. A round
runs each way once over the same pictures, in an order drawn anew: the network alone, over inputs
that are prepared already; `predict` with `--no-draw`, as it is, and reading nothing ahead;
`predict` with drawings. What counts is the ratio of a round's throughputs; the processor's time of
all threads says what work there is beside the network's, also where other processes are in the way.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from PIL import Image
from random_checkpoint import NETWORKS, write_random_checkpoint

from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.console import bar, print_table
from anydepth_deploy.detector.detector import Detector
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.images import load_image, prepare
from anydepth_deploy.predict import run as run_module
from anydepth_deploy.predict.run import Options, Run

SIZE = (1080, 1920)
GOAL = 0.9


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Photographs are smooth with some noise: a JPEG of this kind takes about half a megabyte."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (27, 48, 3), np.uint8))
        smooth = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 6, (*SIZE, 1)), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:03d}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=85)
    return paths


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor in all threads."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - busy


def measured(bundle: Bundle, folder: Path, depth: str, rounds: int, count: int) -> dict[str, Any]:
    """``rounds`` of all ways over ``count`` pictures."""
    pictures = folder / "pictures"
    pictures.mkdir()
    paths = write_pictures(pictures, count)
    session = bundle.session(threads=1)
    recipe = bundle.manifest.preprocess
    inputs = [prepare(load_image(path), recipe)[0][None] for path in paths]
    detector = Detector(bundle, session)

    def alone() -> None:
        for images in inputs:
            session.run(images, depth)

    def predict(*, draw: bool, ahead: int) -> None:
        # With the session that is open: what is compared is work on pictures.
        out = folder / "drawn" if draw else None
        whole = Run(bundle, [str(pictures)], [depth], Options(draw=draw, out=out))
        before, run_module.AHEAD = run_module.AHEAD, ahead
        try:
            assert sum(1 for _ in whole.predictions(detector=detector)) == count
        finally:
            run_module.AHEAD = before

    ways: dict[str, Callable[[], object]] = {
        "network alone": alone,
        "predict --no-draw": lambda: predict(draw=False, ahead=run_module.AHEAD),
        "predict --no-draw, nothing ahead": lambda: predict(draw=False, ahead=0),
        "predict": lambda: predict(draw=True, ahead=run_module.AHEAD),
    }
    alone()
    draw = random.Random(0)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with bar("rounds") as progress:
        for number in range(rounds):
            progress(depth, number, rounds)
            for name in draw.sample(sorted(ways), len(ways)):
                took[name].append(seconds(ways[name]))
    base = np.array(took["network alone"])
    rows = {}
    for name, pairs in took.items():
        values = np.array(pairs)
        ratio = ratio_of_medians(base[:, 0], values[:, 0], paired=True)
        rows[name] = {
            "pictures_per_second": round(count / float(np.median(values[:, 0])), 3),
            "processor_seconds": round(float(np.median(values[:, 1])) / count, 3),
            "of_network_alone": {k: v and round(v, 4) for k, v in ratio.model_dump().items()},
        }
    return {"depth": depth, "pictures": count, "rounds": rounds, "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(NETWORKS), default="r50")
    parser.add_argument("--depth", default="super,base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy", "pillow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(options.network, folder / "random.pth")
        with bar("export") as progress:
            bundle = export_bundle(checkpoint, folder / "bundle", progress=progress)
        results = []
        for depth in options.depth.split(","):
            (folder / depth).mkdir()
            results.append(measured(bundle, folder / depth, depth, options.rounds, options.count))
    network = f"{bundle.manifest.family} {bundle.manifest.config}"
    if options.json:
        print(json.dumps(results))
    else:
        for result in results:
            print_table(
                f"{network} at {result['depth']} (aim: {GOAL:g} of the network alone, --no-draw)",
                ["way", "pictures/s", "processor s", "ratio", "from", "to"],
                [
                    [
                        way,
                        row["pictures_per_second"],
                        row["processor_seconds"],
                        *(
                            "-" if value is None else f"{value:.3f}"
                            for value in row["of_network_alone"].values()
                        ),
                    ]
                    for way, row in result["ways"].items()
                ],
            )
    if options.record:
        content = {"machine": found, "network": network, "size": list(SIZE), "results": results}
        print(write("predict-throughput", content))


if __name__ == "__main__":
    main()

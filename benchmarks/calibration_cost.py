"""What `calibrate` costs, beside plain inference of the same pictures at the same depths.

    python benchmarks/calibration_cost.py
    python benchmarks/calibration_cost.py --network yolo-s --count 8

Random weights, generated pictures. Picture by picture: every calibrated depth's static
graph runs once (as anyone would run it, nothing looked at), and the observation of all depths
(reading, running, counting) takes the same picture; its peak memory is that of the first one. Then
the errors of stages are measured over some of the pictures, as `calibrate` does. Ratios are those
of a picture's pair; what is quoted for 512 pictures is computed from the parts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from machine import machine, write
from numpy.typing import NDArray
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.calibration.calibrate import COUNT, PROBE, calibrate
from anydepth_deploy.calibration.collect import collect
from anydepth_deploy.calibration.graphs import to_bytes
from anydepth_deploy.calibration.observe import Observations
from anydepth_deploy.calibration.sensitivity import stage_errors
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.console import bar
from anydepth_deploy.graph.assemble import assemble_static
from anydepth_deploy.graph.pieces import export_pieces
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.shapes import write_coco


def peak_gib() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50")
    parser.add_argument("--count", type=int, default=6, help="pictures")
    parser.add_argument("--probe", type=int, default=3, help="of them for errors of stages")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("onnxruntime", "numpy", "torch", "onnx")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(options.network, folder / "random.pth")
        write_coco(folder / "pictures", options.count, 7, "train")
        # For the depths that it chooses, and for a table whose ranges forms are made from.
        first = calibrate(checkpoint, folder / "pictures", folder / "t.json", count=1, probe=0)[1]
        model = load_model(read_checkpoint(checkpoint))
        depths = [model.table.find(depth) for depth in first.depths]
        pieces = export_pieces(model, model.config.input_size)
        recipe = Preprocess.of(model.resize, pieces.size)
        paths = choose_pictures(folder / "pictures", options.count).paths
        before = peak_gib()
        observations = Observations(pieces, model.table, depths)
        opened = observations.open()

        def read(path: Path) -> NDArray[np.float32]:
            return prepare_batch([load_image(path)], recipe)[0]

        def infer(images: NDArray[np.float32]) -> float:
            """Seconds of one run of every depth's graph; the sessions are opened one by one."""
            total = 0.0
            for model in plain:
                session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
                session.run(None, {"images": images})
                began = time.perf_counter()
                session.run(None, {"images": images})
                total += time.perf_counter() - began
            return total

        plain = [to_bytes(assemble_static(pieces, depth, detections=False)) for depth in depths]
        marks: list[float] = []
        pairs: list[tuple[float, float]] = []
        peaks: list[float] = []
        with bar("observing") as progress:

            def between(name: str, done: int, total: int) -> None:
                """Between two pictures: the one before has been counted."""
                if marks:
                    took = time.perf_counter() - marks[-1]
                    peaks.append(peak_gib())
                    pairs.append((infer(read(paths[done - 1])), took))
                progress(name, done, total)
                marks.append(time.perf_counter())

            collect(lambda: opened, paths, recipe, folder / "state", "x", progress=between)

        def batches() -> Iterator[NDArray[np.float32]]:
            for path in paths[: options.probe]:
                marks.append(time.perf_counter())
                yield read(path)

        marks.clear()
        began = time.perf_counter()
        rows = stage_errors(pieces, first, depths, batches())
        ended = time.perf_counter()
    bare, observing = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    preparing, probing = marks[0] - began, (ended - marks[0]) / len(marks)
    whole = COUNT * observing + preparing + PROBE * probing
    result: dict[str, Any] = {
        "depths": len(depths),
        "bare_s": round(bare, 3),
        "observing_s": round(observing, 3),
        "observing_of_bare": round(ratio, 3),
        "stages": len(rows),
        "preparing_stages_s": round(preparing, 2),
        "stages_s": round(probing, 3),
        "share_of_stages_at_512": round((preparing + PROBE * probing) / whole, 3),
        "minutes_at_512": round(whole / 60, 1),
        "peak_gib": round(peaks[0], 2),
        "peak_before_gib": round(before, 2),
    }
    table = Table(title=f"calibrate, {options.network}, {len(depths)} depths", title_justify="left")
    table.add_column("what")
    table.add_column("", justify="right")
    for key, value in result.items():
        table.add_row(key.replace("_", " "), str(value))
    Console(width=100).print(table)
    if options.record:
        print(write(f"calibration-cost-{options.network}", {"machine": found, **result}))


if __name__ == "__main__":
    main()

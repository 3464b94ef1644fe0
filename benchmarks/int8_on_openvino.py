"""INT8 for OpenVINO beside INT8 for ONNX Runtime and BF16, all on OpenVINO, from gated bundles.

    python benchmarks/int8_on_openvino.py --network yolo-s --record
    python benchmarks/int8_on_openvino.py --record

Random weights at 640 x 640, a generated picture, the CPU, one thread, batch 1. All sessions live in
one process; a round runs each of them once, in an order drawn anew, and ratios are taken within
rounds. ONNX Runtime in FP32, which everybody has, is what they are compared with.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.bench.timing.interleave import interleave, median_ratio
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.console import bar
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.runtimes.registry import runtime_computes

DEPTHS = ("super", "base")
REFERENCE = "ONNX Runtime FP32"
PICTURES = 4
"""For calibration. Ranges do not change latency."""

FORMS = {
    REFERENCE: ("onnxruntime", "onnxruntime", "fp32"),
    "ONNX Runtime INT8": ("onnxruntime", "onnxruntime", "int8"),
    "OpenVINO FP32": ("onnxruntime", "openvino", "fp32"),
    "OpenVINO BF16": ("onnxruntime", "openvino", "bf16"),
    "OpenVINO INT8, --target onnxruntime": ("onnxruntime", "openvino", "int8"),
    "OpenVINO INT8, --target openvino": ("openvino", "openvino", "int8"),
}
"""What the artifacts were made for, the runtime, and the precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("openvino", "onnxruntime", "numpy", "torch", "onnx")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(options.network, folder / "random.pth")
        write_coco(folder / "pictures", PICTURES, 7, "train")
        table, _ = calibrate(checkpoint, folder / "pictures", folder / "table.json", probe=0)
        bundles: dict[str, Bundle] = {}
        for target in ("onnxruntime", "openvino"):
            bundles[target] = export_bundle(
                checkpoint,
                folder / target,
                precision=["fp32", "int8"],
                targets=[target],
                ranges=table,
            )
        images = verification_batches(bundles["openvino"].manifest.preprocess)[0][:1]
        here = (*runtime_computes("openvino"), "int8")
        forms = {key: form for key, form in FORMS.items() if form[2] in here}
        for depth in DEPTHS:
            calls = {}
            for key, (target, runtime, precision) in forms.items():
                session = bundles[target].session(runtime, "gated", precision, threads=1)
                session.warm(depth)
                calls[key] = functools.partial(session.run, images, depth)
            with bar(f"latency at {depth}") as progress:
                samples = interleave(calls, repeats=options.rounds, progress=progress)
            for key, took in samples.items():
                ratios = samples[REFERENCE] / took
                rows.append(
                    {
                        "depth": depth,
                        "form": key,
                        "ms": round(1e3 * float(np.median(took)), 2),
                        "faster": round(median_ratio(samples[REFERENCE], took), 3),
                        "quartiles": [
                            round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))
                        ],
                    }
                )
    shown = Table(title=f"{options.network}, gated, batch 1, one thread", title_justify="left")
    for column in ("depth", "", "ms", "faster", "quartiles"):
        shown.add_column(column)
    for row in rows:
        low, high = row["quartiles"]
        figures = (f"{row['ms']:.1f}", f"{row['faster']:.2f}x", f"{low:.2f} to {high:.2f}")
        shown.add_row(row["depth"], row["form"], *figures)
    Console(width=100).print(shown)
    if options.record:
        content = {"machine": found, "rounds": options.rounds, "rows": rows}
        print(write(f"int8-on-openvino-{options.network}", content))


if __name__ == "__main__":
    main()

"""OpenVINO in FP32 and BF16 against ONNX Runtime in FP32: latency of every form of a graph.

    python benchmarks/openvino_against_onnxruntime.py
    python benchmarks/openvino_against_onnxruntime.py --network yolo-s

Random weights at 640 x 640, a generated picture, the CPU, one thread, batch 1. All engines live in
one process; a round runs each of them once, in an order drawn anew, and ratios are taken within
rounds, so that drift of the machine falls on all alike. BF16 is left out where the CPU has none.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write
from random_checkpoint import NETWORKS, write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.bench.timing import interleave, median_ratio
from anydepth_deploy.bundle import Bundle
from anydepth_deploy.console import bar
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import UsageError
from anydepth_deploy.export import export_bundle
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.runtimes import Compute, EngineOptions, open_engine
from anydepth_deploy.samples import verification_batches

DEPTHS = ("super", "base")
FORMS = ("static", "shared", "folded")
OUTPUTS = ("labels", "boxes", "scores")
PRECISIONS: tuple[tuple[str, Compute], ...] = (
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
)


def artifact_of(bundle: Bundle, form: str, depth: Depth) -> Artifact:
    """The static graph of ``depth``, or the gated graph with the weights ``form``."""
    if form == "static":
        return bundle.artifacts("set", depth=depth)[0]
    return bundle.artifacts("gated", weights=form)[0]


def calls_at(bundle: Bundle, depth: Depth) -> dict[tuple[str, str, str], Callable[[], object]]:
    """One call per runtime, precision and form of the graph."""
    images = verification_batches(bundle.manifest.preprocess)[0]
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    for runtime, compute in PRECISIONS:
        for form in FORMS:
            path = bundle.file(artifact_of(bundle, form, depth))
            try:
                engine = open_engine(runtime, path, EngineOptions(threads=1, compute=compute))
            except UsageError as error:
                print(error)
                break
            feeds: dict[str, Any] = {"images": images}
            if form != "static":
                feeds["depth"] = np.asarray(bundle.table.row(depth), np.int64)
            calls[runtime, compute, form] = functools.partial(engine.run, feeds, OUTPUTS)
    return calls


def measure(bundle: Bundle, depth: Depth, repeats: int) -> list[dict[str, Any]]:
    """One row per call: median latency, and medians of the paired ratios to ONNX Runtime with the
    same form, and to the same runtime and precision with the static graph."""
    calls = calls_at(bundle, depth)
    with bar(f"latency at {depth}") as progress:
        samples = interleave(calls, repeats=repeats, progress=progress)
    rows = []
    for (runtime, compute, form), found in samples.items():
        same_form = samples["onnxruntime", "fp32", form]
        static = samples[runtime, compute, "static"]
        rows.append(
            {
                "depth": str(depth),
                "runtime": runtime,
                "compute": compute,
                "form": form,
                "ms": round(1e3 * float(np.median(found)), 2),
                "over_onnxruntime": round(median_ratio(found, same_form), 4),
                "over_onnxruntime_quartiles": [
                    round(float(q), 4) for q in np.quantile(found / same_form, (0.25, 0.75))
                ],
                "over_static": round(median_ratio(found, static), 4),
                "rounds": repeats,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50", choices=sorted(NETWORKS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("openvino", "onnxruntime", "numpy", "torch", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_checkpoint(options.network, Path(folder) / "random.pth")
        with bar("export") as progress:
            bundle = export_bundle(
                checkpoint,
                Path(folder) / "bundle",
                layouts=["gated", "set"],
                weights=["shared", "folded"],
                depth=",".join(DEPTHS),
                progress=progress,
            )
        rows = [
            row
            for depth in DEPTHS
            for row in measure(bundle, bundle.table.find(depth), options.repeats)
        ]
    table = Table(title=f"{options.network}, batch 1, one thread", title_justify="left")
    for column in ("depth", "runtime", "form", "ms", "/ onnxruntime", "/ static"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["depth"],
            f"{row['runtime']} {row['compute']}",
            row["form"],
            f"{row['ms']:.1f}",
            f"{row['over_onnxruntime']:.3f}",
            f"{row['over_static']:.3f}",
        )
    Console(width=100).print(table)
    if options.record:
        content = {"machine": found, "latency": rows}
        print(write(f"openvino-against-onnxruntime-{options.network}", content))


if __name__ == "__main__":
    main()

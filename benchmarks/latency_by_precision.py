"""Latency by precision and runtime, of every form of a graph, and where the time goes.

    python benchmarks/latency_by_precision.py
    python benchmarks/latency_by_precision.py --network yolo-s

Random weights at 640 x 640, a generated picture, the CPU, one thread, batch 1: FP32 and INT8 on
ONNX Runtime; FP32, BF16 and INT8 on OpenVINO. All engines live in one process; a round runs each of
them once, in an order drawn anew, and ratios are taken within rounds, so that drift of the machine
falls on all alike. BF16 is left out where the CPU has none.

Two more comparisons say what INT8 gains on ONNX Runtime: of the convolutional part alone (the
static graph cut off behind it), and of every kind of operator, from the profiler of ONNX Runtime.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
from machine import machine, write
from numpy.typing import NDArray
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.bench.timing.interleave import interleave, median_ratio
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.console import bar
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.runtimes.engine import Compute, EngineOptions
from anydepth_deploy.runtimes.registry import open_engine

DEPTHS = ("super", "base")
FORMS = ("static", "shared", "folded")
OUTPUTS = ("labels", "boxes", "scores")
PRECISIONS: tuple[tuple[str, str], ...] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
CONVOLUTIONAL = {"r50": ("layer2", "layer3", "layer4"), "yolo-s": ("entry",)}
"""Stages up to which, and with which, a network consists of convolutions: the backbone of a DETR,
the layers before attention of a YOLO."""
PICTURES = 4
"""For calibration. Ranges do not change latency."""

Key = tuple[str, str, str]
Feeds = dict[str, NDArray[np.generic]]


def artifact_of(bundle: Bundle, form: str, depth: Depth, precision: str) -> Artifact:
    """The static graph of ``depth``, or the gated graph with the weights ``form``."""
    if form == "static":
        return bundle.artifacts("set", precision, depth=depth)[0]
    return bundle.artifacts("gated", precision, weights=form)[0]


def calls_at(
    bundle: Bundle, depth: Depth, images: NDArray[np.float32]
) -> dict[Key, Callable[[], object]]:
    """One call per runtime, precision and form of the graph."""
    calls: dict[Key, Callable[[], object]] = {}
    for runtime, precision in PRECISIONS:
        compute: Compute = "bf16" if precision == "bf16" else "fp32"
        stored = "fp32" if precision == "bf16" else precision
        for form in FORMS:
            path = bundle.file(artifact_of(bundle, form, depth, stored))
            try:
                engine = open_engine(runtime, path, EngineOptions(threads=1, compute=compute))
            except UsageError as error:
                print(error)
                break
            feeds: Feeds = {"images": images}
            if form != "static":
                feeds["depth"] = np.asarray(bundle.table.row(depth), np.int64)
            calls[runtime, precision, form] = functools.partial(engine.run, feeds, OUTPUTS)
    return calls


def measure(
    bundle: Bundle, depth: Depth, images: NDArray[np.float32], repeats: int
) -> list[dict[str, Any]]:
    """One row per call: median latency, and medians of paired ratios: how much faster than ONNX
    Runtime in FP32 with the same form, and how much slower than the static graph of the same
    runtime and precision."""
    calls = calls_at(bundle, depth, images)
    with bar(f"latency at {depth}") as progress:
        samples = interleave(calls, repeats=repeats, progress=progress)
    rows = []
    for (runtime, precision, form), found in samples.items():
        reference = samples["onnxruntime", "fp32", form]
        static = samples[runtime, precision, "static"]
        quartiles = np.quantile(reference / found, (0.25, 0.75))
        rows.append(
            {
                "depth": str(depth),
                "runtime": runtime,
                "precision": precision,
                "form": form,
                "ms": round(1e3 * float(np.median(found)), 2),
                "speedup": round(median_ratio(reference, found), 4),
                "speedup_quartiles": [round(float(q), 4) for q in quartiles],
                "over_static": round(median_ratio(found, static), 4),
                "rounds": repeats,
            }
        )
    return rows


def measure_convolutions(
    bundle: Bundle, stages: tuple[str, ...], images: NDArray[np.float32], repeats: int
) -> dict[str, Any]:
    """INT8 against FP32 of the static graph of super, cut off behind ``stages``."""
    calls: dict[str, Callable[[], object]] = {}
    for precision in ("fp32", "int8"):
        path = bundle.file(artifact_of(bundle, "static", bundle.table.space.super, precision))
        session = _session(_cut(path, stages))
        calls[precision] = functools.partial(session.run, None, {"images": images})
    samples = interleave(calls, repeats=repeats)
    ratio = samples["fp32"] / samples["int8"]
    return {
        "stages": list(stages),
        "fp32_ms": round(1e3 * float(np.median(samples["fp32"])), 2),
        "int8_ms": round(1e3 * float(np.median(samples["int8"])), 2),
        "speedup": round(float(np.median(ratio)), 4),
        "speedup_quartiles": [round(float(q), 4) for q in np.quantile(ratio, (0.25, 0.75))],
        "rounds": repeats,
    }


def _cut(path: Path, stages: tuple[str, ...]) -> bytes:
    """The part of a static graph that makes the outputs of ``stages``, which are float."""
    model = onnx.load(str(path))
    makers: dict[str, str] = {name: node.name for node in model.graph.node for name in node.output}
    wanted: dict[str, None] = {}
    for node in model.graph.node:
        for name in node.input:
            stage = name.split(".", 1)[0]
            reader = node.name.split(".", 1)[0]
            if name in makers and stage in stages and reader not in (*stages, stage):
                wanted[name] = None
    cut = onnx.utils.Extractor(model).extract_model(["images"], list(wanted))
    return bytes(cut.SerializeToString())


def _session(model: bytes | str, *, profile: str | None = None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operator_times(path: Path, images: NDArray[np.float32], runs: int = 5) -> dict[str, float]:
    """Milliseconds a run by kind of operator, as ONNX Runtime's profiler has them."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(str(path), profile=f"{folder}/profile")
        for _ in range(runs):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"] / 1e3 / runs
    return {name: round(value, 2) for name, value in times.most_common() if value >= 0.05}


def show(network: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{network}, batch 1, one thread", title_justify="left")
    for column in ("depth", "runtime", "precision", "form", "ms", "faster", "/ static"):
        table.add_column(column)
    for row in rows:
        figures = (f"{row['ms']:.1f}", f"{row['speedup']:.2f}x", f"{row['over_static']:.3f}")
        table.add_row(row["depth"], row["runtime"], row["precision"], row["form"], *figures)
    console = Console(width=100)
    console.print(table)
    console.print("faster: than ONNX Runtime in FP32 with the same form at the same depth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50", choices=sorted(CONVOLUTIONAL))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("openvino", "onnxruntime", "numpy", "torch", "onnx")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(options.network, folder / "random.pth")
        write_coco(folder / "pictures", PICTURES, 7, "train", size=640)
        with bar("calibrate") as progress:
            table, _ = calibrate(
                checkpoint, folder / "pictures", folder / "table.json", probe=0, progress=progress
            )
        with bar("export") as progress:
            bundle = export_bundle(
                checkpoint,
                folder / "bundle",
                layouts=["gated", "set"],
                weights=["shared", "folded"],
                precision=["fp32", "int8"],
                ranges=table,
                depth=",".join((*DEPTHS, "all")),
                progress=progress,
            )
        images = verification_batches(bundle.manifest.preprocess)[0]
        top = bundle.table.space.super
        times = {
            precision: operator_times(
                bundle.file(artifact_of(bundle, "static", top, precision)), images
            )
            for precision in ("fp32", "int8")
        }
        part = measure_convolutions(bundle, CONVOLUTIONAL[options.network], images, options.repeats)
        sizes = {
            f"{item.precision} {item.layout} {item.weights} {item.depth or 'all'}": item.bytes
            for item in bundle.artifacts()
        }
        rows = [
            row
            for depth in DEPTHS
            for row in measure(bundle, bundle.table.find(depth), images, options.repeats)
        ]
    show(options.network, rows)
    print("convolutional part at super:", part)
    print("operators at super, ms:", times)
    if options.record:
        content = {
            "machine": found,
            "latency": rows,
            "convolutional_part": part,
            "operators_ms": times,
            "bytes": sizes,
        }
        print(write(f"latency-by-precision-{options.network}", content))


if __name__ == "__main__":
    main()

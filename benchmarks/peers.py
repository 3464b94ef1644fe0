"""Our graphs beside what anyone would make of the same network with the usual tools.

    python benchmarks/peers.py --network yolo-s --record
    python benchmarks/peers.py --nncf OTHER_ENVIRONMENT/bin/python
    python benchmarks/peers.py --network yolo-s --other "Ultralytics YOLO12s=yolo12s.onnx"

Random weights at 640 x 640, a generated picture, the CPU, one thread, batch 1, up to the heads' raw
outputs: suppression is in none of them, what it costs stands below the table. The peers get a file
for each depth (that is all they can make): ``torch.onnx.export`` run by ONNX Runtime and OpenVINO,
ONNX Runtime's ``quantize_static`` and, with ``--nncf`` (an interpreter that has nncf and openvino),
OpenVINO's quantiser, both over the same pictures as ours. All run in one process; a round runs each
of them once, in an order drawn anew, and ratios are taken within rounds. Peak memory is that of a
process that opens what is needed for both depths and runs it.

``--other``: a file made elsewhere, a network of the same shape for super, such as that of
``yolo export model=yolo12s.yaml format=onnx imgsz=640`` (Ultralytics, in its own environment).
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from export_cost import export_plainly
from machine import machine, write
from numpy.typing import NDArray
from random_checkpoint import write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.bench.timing.interleave import interleave, median_ratio
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.console import bar
from anydepth_deploy.errors import UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.runtimes.registry import runtime_computes
from anydepth_deploy.suppression import Suppression, suppress

DEPTHS = ("super", "base")
REFERENCE = "torch.onnx.export, ONNX Runtime"
PICTURES = 16
"""For calibration. Ranges do not change latency."""

THRESHOLDS = (0.001, 0.25)

QUANTISE = """
import sys
import numpy as np, nncf, openvino as ov
source, out, pictures = sys.argv[1:]
images = np.load(pictures)
core = ov.Core()
core.set_property({"ENABLE_MMAP": False})
model = core.read_model(source)
ranges = nncf.Dataset([image[None] for image in images])
ov.save_model(nncf.quantize(model, ranges, preset=nncf.QuantizationPreset.MIXED), out)
"""

Run = Callable[[NDArray[np.float32]], object]


@dataclass
class Peer:
    """A way to run the network: ``files`` by depth, or one bundle with both."""

    runtime: str
    compute: str = "fp32"
    files: dict[str, Path] = field(default_factory=dict)
    bundle: Path | None = None
    artifact: str = "gated"
    seconds: float | None = None
    """That making the files took, of both depths."""

    def open(self, depth: str) -> Run:
        if self.bundle is not None:
            session = open_bundle(self.bundle).session(
                self.runtime, self.artifact, self.compute, threads=1, raw=True, check=False
            )
            session.load([depth])
            return functools.partial(session.run_raw, depth=depth)
        path = self.files[depth]
        if self.runtime == "onnxruntime":
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = 1
            opened = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
            name = opened.get_inputs()[0].name
            return lambda images: opened.run(None, {name: images})
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            path,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(self.compute, "f32"),
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": 1,
            },
        )
        request = compiled.create_infer_request()
        return lambda images: request.infer([images])

    def size(self) -> int:
        if self.bundle is not None:
            found = open_bundle(self.bundle)
            stored = "int8" if self.compute == "int8" else "fp32"
            items = found.artifacts(self.artifact, stored)
            return sum(item.bytes for item in items)
        return sum(
            file.stat().st_size
            for path in self.files.values()
            for file in path.parent.glob(f"{path.stem}.*")
        )


def plain_files(checkpoint: Path, folder: Path) -> tuple[dict[str, Path], float]:
    """By torch's own exporter, a process each."""
    found, began = {}, time.perf_counter()
    for depth in DEPTHS:
        found[depth] = folder / f"plain-{depth}.onnx"
        words = ["--plainly", checkpoint, found[depth], depth]
        subprocess.run([sys.executable, __file__, *map(str, words)], check=True)
    return found, time.perf_counter() - began


def quantised_by_onnxruntime(
    plain: Mapping[str, Path], images: NDArray[np.float32], folder: Path
) -> tuple[dict[str, Path], float]:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._rest: Iterator[Any] = iter([{name: image[None]} for image in images])

        def get_next(self) -> Any:
            return next(self._rest, None)

    found, began = {}, time.perf_counter()
    for depth, source in plain.items():
        prepared, found[depth] = folder / f"prepared-{depth}.onnx", folder / f"ort8-{depth}.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        name = onnx.load(source, load_external_data=False).graph.input[0].name
        quantize_static(
            str(prepared),
            str(found[depth]),
            Reader(name),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return found, time.perf_counter() - began


def quantised_by_nncf(
    python: str, plain: Mapping[str, Path], images: NDArray[np.float32], folder: Path
) -> tuple[dict[str, Path], float]:
    pictures = folder / "pictures.npy"
    np.save(pictures, images)
    found, began = {}, time.perf_counter()
    for depth, source in plain.items():
        found[depth] = folder / f"nncf-{depth}.xml"
        words = [python, "-c", QUANTISE, str(source), str(found[depth]), str(pictures)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return found, time.perf_counter() - began


def ours(model: AnyDepthModel, checkpoint: Path, folder: Path, pictures: Path) -> dict[str, Peer]:
    rule = None if model.suppression is None else Suppression(where="none")
    table = folder / "table.json"
    began = time.perf_counter()
    calibrate(checkpoint, pictures, table, count=PICTURES, probe=0)
    calibrating = time.perf_counter() - began
    found: dict[str, Peer] = {}
    for precision, runs in (
        ("fp32", (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))),
        ("int8", (("onnxruntime", "int8"), ("openvino", "int8"))),
    ):
        out = folder / f"ours-{precision}"
        began = time.perf_counter()
        export_bundle(
            checkpoint,
            out,
            precision=[precision],
            ranges=table if precision == "int8" else None,
            raw=True,
            suppression=rule,
        )
        took = time.perf_counter() - began + (calibrating if precision == "int8" else 0)
        for runtime, compute in runs:
            label = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[runtime]
            name = f"ours, {label}{'' if compute == 'fp32' else f' {compute.upper()}'}"
            found[name] = Peer(runtime, compute, bundle=out, seconds=took)
    return found


def _peak(peer: Peer, images: NDArray[np.float32], queue: Any) -> None:
    for depth in DEPTHS if peer.bundle is not None or len(peer.files) > 1 else DEPTHS[:1]:
        run = peer.open(depth)
        run(images)
        kept.append(run)
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            queue.put(int(line.split()[1]) / 1024)


kept: list[Run] = []
"""Sessions that a process measures the memory of."""


def peak_mb(peer: Peer, images: NDArray[np.float32]) -> float:
    """Of a process of its own that runs both depths."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(peer, images, queue))
    process.start()
    found = float(queue.get(timeout=600))
    process.join()
    return found


def suppression_cost(
    model: AnyDepthModel, classes: int, size: tuple[int, int], seed: int = 0
) -> dict[str, float] | None:
    """Milliseconds of suppression on the host, with scores spread as a trained network's: about
    3,000 of all scores above 0.001 and 60 above 0.25, boxes around 20 places."""
    if model.suppression is None:
        return None
    rng = np.random.default_rng(seed)
    height, width = size
    boxes = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    scores = np.full((1, classes, boxes), 1e-5, np.float32)
    clusters = rng.uniform(100, 540, (20, 2))
    centres = rng.uniform(0, 640, (boxes, 2))
    for number in range(3000):
        cluster = number % 20
        box = int(rng.integers(boxes))
        centres[box] = clusters[cluster] + rng.normal(0, 6, 2)
        strong = number < 60
        scores[0, cluster % classes, box] = (
            rng.uniform(0.25, 0.95) if strong else 0.001 + (rng.beta(0.5, 8) * 0.2)
        )
    sides = rng.uniform(40, 120, (boxes, 2))
    places = np.concatenate([centres, sides], 1)
    predictions = np.concatenate([places.T[None], scores], 1).astype(np.float32)
    found = {}
    for threshold in THRESHOLDS:
        rule = Suppression(where="host", score_threshold=threshold)
        took = []
        for _ in range(11):
            began = time.perf_counter()
            suppress(predictions, rule, model.max_detections)
            took.append(time.perf_counter() - began)
        found[str(threshold)] = round(1e3 * float(np.median(took)), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--nncf", help="interpreter of an environment with nncf and openvino")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--plainly", nargs=3, metavar=("CHECKPOINT", "OUT", "DEPTH"))
    options = parser.parse_args()
    if options.plainly:
        checkpoint, out, depth = options.plainly
        export_plainly(Path(checkpoint), Path(out), dynamo=True, depth=depth)
        return
    found = machine("onnxruntime", "openvino", "torch", "onnx", "numpy")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(options.network, folder / "random.pth")
        write_coco(folder / "pictures", PICTURES, 7, "train")
        model = load_model(read_checkpoint(checkpoint))
        peers = ours(model, checkpoint, folder, folder / "pictures")
        bundle = open_bundle(folder / "ours-fp32")
        recipe: Preprocess = bundle.manifest.preprocess
        paths = choose_pictures(folder / "pictures", PICTURES).paths
        pictures = prepare_batch([load_image(path) for path in paths], recipe)[0]
        plain, took = plain_files(checkpoint, folder)
        usual = {
            REFERENCE: Peer("onnxruntime", files=plain, seconds=took),
            "the same file, OpenVINO": Peer("openvino", files=plain, seconds=took),
            "the same file, OpenVINO BF16": Peer("openvino", "bf16", plain, seconds=took),
        }
        eight, more = quantised_by_onnxruntime(plain, pictures, folder)
        usual["quantize_static, ONNX Runtime INT8"] = Peer(
            "onnxruntime", "int8", eight, seconds=took + more
        )
        if options.nncf:
            eight, more = quantised_by_nncf(options.nncf, plain, pictures, folder)
            usual["NNCF, OpenVINO INT8"] = Peer("openvino", "int8", eight, seconds=took + more)
        for words in options.other:
            label, _, path = words.partition("=")
            usual[label] = Peer("onnxruntime", files={"super": Path(path)})
        everyone = {**usual, **peers}
        if "bf16" not in runtime_computes("openvino"):
            everyone = {key: item for key, item in everyone.items() if item.compute != "bf16"}
        images = verification_batches(recipe)[0][:1]
        rows = measure(everyone, images, options.rounds)
        cost = suppression_cost(model, len(bundle.manifest.classes), bundle.size)
    show(options.network, rows, cost)
    if options.record:
        content = {"machine": found, "rounds": options.rounds, "rows": rows, "suppression_ms": cost}
        print(write(f"peers-{options.network}", content))


def measure(
    peers: Mapping[str, Peer], images: NDArray[np.float32], rounds: int
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {
        name: {
            "mb": round(peer.size() / 1e6, 1),
            "seconds": None if peer.seconds is None else round(peer.seconds, 1),
            "peak_mb": round(peak_mb(peer, images)),
        }
        for name, peer in peers.items()
    }
    for depth in DEPTHS:
        calls = {}
        for name, peer in peers.items():
            if peer.bundle is not None or depth in peer.files:
                try:
                    calls[name] = functools.partial(peer.open(depth), images)
                except UsageError as error:
                    print(f"{name}: {error}")
        with bar(f"latency at {depth}") as progress:
            samples = interleave(calls, repeats=rounds, progress=progress)
        for name, took in samples.items():
            rows[name][depth] = {
                "ms": round(1e3 * float(np.median(took)), 2),
                "of_reference": round(median_ratio(took, samples[REFERENCE]), 3),
            }
    return rows


def show(
    network: str, rows: Mapping[str, Mapping[str, Any]], cost: dict[str, float] | None
) -> None:
    table = Table(
        title=f"{network}, one thread, up to the raw outputs; ratios over {REFERENCE}",
        title_justify="left",
    )
    for column in ("", "super ms", "ratio", "base ms", "ratio", "files MB", "peak MB", "made in s"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        cells = []
        for depth in DEPTHS:
            measured = row.get(depth)
            cells += (
                [f"{measured['ms']:.1f}", f"{measured['of_reference']:.3f}"]
                if measured
                else ["-", "-"]
            )
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f}"
        table.add_row(name, *cells, f"{row['mb']:.1f}", f"{row['peak_mb']:.0f}", seconds)
    console = Console(width=120)
    console.print(table)
    if cost is not None:
        console.print(f"suppression on the host, ms by threshold: {json.dumps(cost)}")


if __name__ == "__main__":
    main()

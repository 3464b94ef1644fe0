"""Average precision of the trained tiny checkpoints, by rung of the ladder and precision.

    python benchmarks/accuracy_by_precision.py
    python benchmarks/accuracy_by_precision.py --family anydepth-yolo

Calibrated on generated training pictures, evaluated on generated held-out ones (a seed that no
training uses). FP16 and INT8 on ONNX Runtime, gated and static, and INT8 as made for TensorRT;
BF16 and INT8 on OpenVINO. ONNX Runtime is made to round to FP16 wherever a graph does (it would
leave that out on x86 CPUs); products are summed in FP32 all the same, as tensor cores do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from machine import RESULTS, machine, write
from trained import TRAINED, checkpoint_of

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.commands.demo import HELD_OUT_SEED
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.evaluation import Accuracy, CocoData, evaluate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.runtimes.registry import runtime_computes
from anydepth_deploy.runtimes.vnni import why_no_int8

mpl.use("Agg")
CALIBRATION_SEED, CALIBRATION_PICTURES = 7, 128

FORMS: tuple[tuple[str, dict[str, str]], ...] = (
    ("FP32, gated", {"layout": "gated"}),
    ("FP16, gated", {"layout": "gated", "precision": "fp16"}),
    ("FP16, static", {"layout": "set", "precision": "fp16"}),
    ("INT8, gated", {"layout": "gated", "precision": "int8"}),
    ("INT8, static", {"layout": "set", "precision": "int8"}),
    ("INT8 for TensorRT, gated", {"layout": "gated", "precision": "int8", "target": "tensorrt"}),
    ("INT8 for TensorRT, static", {"layout": "set", "precision": "int8", "target": "tensorrt"}),
    ("OpenVINO FP32, gated", {"layout": "gated", "runtime": "openvino"}),
    ("OpenVINO BF16, gated", {"layout": "gated", "precision": "bf16", "runtime": "openvino"}),
    ("OpenVINO INT8, gated", {"layout": "gated", "precision": "int8", "runtime": "openvino"}),
    ("OpenVINO INT8, static", {"layout": "set", "precision": "int8", "runtime": "openvino"}),
)


def measure(bundle: Bundle, data: CocoData) -> dict[str, list[Accuracy]]:
    """AP of every rung, by form; forms that this CPU does not compute are left out."""
    found = {}
    for name, choice in FORMS:
        if reason := _not_here(choice):
            print_line(f"{name}: left out, {reason}")
            continue
        options: dict[str, Any] = dict(choice)
        with bar(name) as progress:
            found[name] = evaluate(
                bundle,
                data,
                bundle.table.ladder,
                **options,
                threads=1,
                progress=progress,
                record=False,
            )
    return found


def _not_here(choice: dict[str, str]) -> str | None:
    if choice.get("runtime") != "openvino":
        return None
    if choice.get("precision") == "bf16" and "bf16" not in runtime_computes("openvino"):
        return "no BF16 on this CPU"
    return why_no_int8("the graph") if choice.get("precision") == "int8" else None


def draw(found: dict[str, list[Accuracy]], title: str, path: Path) -> None:
    """What each form loses against FP32, at every rung."""
    import matplotlib.pyplot as plt

    reference, *others = found
    depths = [row.depth for row in found[reference]]
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    width = 0.8 / len(others)
    for index, name in enumerate(others):
        losses = [
            row.ap - exact.ap for row, exact in zip(found[name], found[reference], strict=True)
        ]
        places = np.arange(len(depths)) + (index - (len(others) - 1) / 2) * width
        axes.bar(places, losses, width, label=name, color=plt.get_cmap("tab20")(index))
    labels = [f"{row.depth}\nFP32 {row.ap:.1f}" for row in found[reference]]
    axes.set_xticks(range(len(depths)), labels, fontsize=8)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(ylabel="AP against FP32", title=title)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


def rows_of(found: dict[str, list[Accuracy]]) -> Sequence[Sequence[object]]:
    """AP of each form at every rung, and how far that is from FP32."""
    exact = found["FP32, gated"]
    return [
        [
            name,
            *(f"{a.ap:.2f} ({a.ap - b.ap:+.2f})" for a, b in zip(rows, exact, strict=True)),
        ]
        for name, rows in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default=TRAINED[0], choices=TRAINED)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    checkpoint = checkpoint_of(options.family)
    machine_found = machine("onnxruntime", "openvino", "numpy", "faster-coco-eval", "pillow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_coco(folder / "calibration", CALIBRATION_PICTURES, CALIBRATION_SEED, "train")
        with bar("calibrate") as progress:
            path, table = calibrate(
                checkpoint, folder / "calibration", folder / "table.json", progress=progress
            )
        with bar("export") as progress:
            bundle = export_bundle(
                checkpoint,
                folder / "bundle",
                layouts=["gated", "set"],
                precision=["fp32", "fp16", "int8"],
                targets=["onnxruntime", "tensorrt"],
                ranges=path,
                progress=progress,
            )
        data = CocoData(write_coco(folder / "data", options.pictures, HELD_OUT_SEED, "val"))
        found = measure(bundle, data)
        source = bundle.manifest.source.sha256
    depths = [str(depth) for depth in bundle.table.ladder]
    print_table(
        f"AP on {options.pictures} held-out pictures (against FP32)",
        ["form", *depths],
        rows_of(found),
    )
    if options.record:
        content = {
            "machine": machine_found,
            "checkpoint_sha256": source,
            "pictures": options.pictures,
            "seed": HELD_OUT_SEED,
            "calibration": {
                "pictures": table.pictures.count,
                "seed": CALIBRATION_SEED,
                "method": table.method,
                "percentile": table.percentile,
                "depths": table.depths,
            },
            "rows": [{"form": name, **asdict(row)} for name, rows in found.items() for row in rows],
        }
        record = f"accuracy-by-precision-{options.family}"
        print_line(str(write(record, content)))
        draw(found, f"{options.family} tiny", RESULTS / f"{record}.png")


if __name__ == "__main__":
    main()

"""Engines of TensorRT-RTX, built ahead of time: size, time and memory of building each form.

    python benchmarks/engine_sizes.py
    python benchmarks/engine_sizes.py --network yolo-s --precision fp16

Random weights at 640 x 640. One engine per depth of the ladder, the gated engine in both weight
layouts, and the stage engines, which together reach every depth; sizes are also given as multiples
of the engine of super. Needs no GPU, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine import machine, write
from random_checkpoint import NETWORKS, write_random_checkpoint
from rich.console import Console
from rich.table import Table

from anydepth_deploy.building.build import build_bundle
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.console import bar
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import Artifact

TARGETS = ("sm75", "sm89")


def build(bundle: Bundle, precision: str) -> None:
    """All forms, for all targets in one engine each."""
    with bar("build") as progress:
        for layouts, weights in ((["gated"], "shared"), (["gated", "set", "stages"], "folded")):
            build_bundle(
                bundle.path,
                runtime="tensorrt-rtx",
                capabilities=TARGETS,
                layouts=layouts,
                precision=[precision],
                weights=weights,
                progress=progress,
            )


def measure(bundle: Bundle) -> list[dict[str, Any]]:
    """One row per form: what it holds, and its size against the engine of super."""
    engines = [item for item in bundle.artifacts() if item.engine is not None]
    forms: dict[str, list[Artifact]] = {}
    for item in engines:
        if item.depth is not None:
            forms[f"static {item.depth}"] = [item]
    rungs = [str(bundle.table.space.super), str(bundle.table.space.base)]
    forms["static super and base"] = [item for item in engines if item.depth in rungs]
    forms["static, the whole ladder"] = [item for item in engines if item.layout == "set"]
    for weights in ("shared", "folded"):
        forms[f"gated, {weights}"] = [
            item for item in engines if item.layout == "gated" and item.weights == weights
        ]
    forms["stages"] = [item for item in engines if item.layout == "stages"]
    full = forms[f"static {rungs[0]}"][0].bytes
    return [
        {
            "form": form,
            "engines": len(items),
            "depths": len(items) if form.startswith("static") else len(bundle.table.rows),
            "bytes": sum(item.bytes for item in items),
            "of_super": round(sum(item.bytes for item in items) / full, 4),
            "build_seconds": round(sum(item.build_seconds for item in items), 1),
            "layers": _layers(items),
        }
        for form, items in forms.items()
    ]


def _layers(items: list[Artifact]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        for kind, count in (item.engine.layers if item.engine else {}).items():
            found[kind] = found.get(kind, 0) + count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="r50", choices=sorted(NETWORKS))
    parser.add_argument("--precision", default="fp16", choices=("fp32", "fp16"))
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("tensorrt-rtx-cu13", "onnx", "torch", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_checkpoint(options.network, Path(folder) / "random.pth")
        with bar("export") as progress:
            bundle = export_bundle(
                checkpoint,
                Path(folder) / "bundle",
                weights=["shared", "folded"],
                precision=[options.precision],
                progress=progress,
            )
        build(bundle, options.precision)
        rows = measure(open_bundle(bundle.path))
    title = f"engines of {options.network}, {options.precision}, {' and '.join(TARGETS)} in each"
    table = Table(title=title, title_justify="left")
    for column in ("form", "engines", "depths", "MB", "of super", "built in s", "computes in"):
        table.add_column(column)
    for row in rows:
        types = ", ".join(f"{count} {kind}" for kind, count in row["layers"].items())
        counts = (str(row["engines"]), str(row["depths"]), f"{row['bytes'] / 1e6:.1f}")
        figures = (f"{row['of_super']:.3f}", f"{row['build_seconds']:.1f}", types)
        table.add_row(row["form"], *counts, *figures)
    Console(width=120).print(table)
    if options.record:
        content = {"machine": found, "targets": TARGETS, "engines": rows}
        print(write(f"engine-sizes-{options.network}-{options.precision}", content))


if __name__ == "__main__":
    main()

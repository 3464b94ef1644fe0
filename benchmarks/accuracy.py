"""Average precision of a trained tiny checkpoint at every depth, and the ladder it supports.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --family anydepth-yolo

Generated held-out pictures (a seed that no training uses), the gated graph on ONNX Runtime. Draws
accuracy against multiply-adds, the default ladder among all depths.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
from machine import RESULTS, machine, write
from trained import TRAINED, checkpoint_of

from anydepth_deploy.commands.demo import HELD_OUT_SEED
from anydepth_deploy.console import bar, giga, print_line, print_table
from anydepth_deploy.depth import DepthTable
from anydepth_deploy.evaluation import Accuracy, CocoData, evaluate, pareto_ladder
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.pictures.shapes import write_coco

mpl.use("Agg")


LARGE = 1 / 3
"""Of the largest effect on AP: the share from which a gate has a colour of its own."""


def decisive(rows: list[Accuracy], table: DepthTable) -> list[int]:
    """The gates that matter most to accuracy, two at most: depths are coloured by them."""
    settings = np.array([table.find(row.depth).settings for row in rows])
    ap = np.array([row.ap for row in rows])
    skips = [index for index, gate in enumerate(table.space.gates) if not gate.layers]
    effect = {
        gate: abs(ap[settings[:, gate] == 0].mean() - ap[settings[:, gate] == 1].mean())
        for gate in skips
    }
    ranked = sorted(skips, key=lambda gate: -effect[gate])
    return [gate for gate in ranked[:2] if effect[gate] >= LARGE * effect[ranked[0]]]


def draw(rows: list[Accuracy], table: DepthTable, title: str, path: Path) -> None:
    """All depths as dots, the default ladder as a line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    gates = decisive(rows, table)
    colours = ("tab:blue", "tab:orange", "tab:green", "tab:red")
    for chosen, colour in zip(itertools.product((0, 1), repeat=len(gates)), colours, strict=False):
        dots = [
            row
            for row in rows
            if tuple(table.find(row.depth).settings[gate] for gate in gates) == chosen
        ]
        label = ", ".join(
            f"{table.space.gates[gate].name} {'skipped' if skipped else 'in full'}"
            for gate, skipped in zip(gates, chosen, strict=True)
        )
        macs, ap = [row.macs / 1e6 for row in dots], [row.ap for row in dots]
        axes.scatter(macs, ap, s=14, c=colour, label=label)
    rungs = [row for depth in table.ladder for row in rows if row.depth == str(depth)]
    axes.plot(
        [r.macs / 1e6 for r in rungs], [r.ap for r in rungs], "k.-", lw=1, label="default ladder"
    )
    for row in rungs:
        axes.annotate(
            row.depth,
            (row.macs / 1e6, row.ap),
            fontsize=7,
            xytext=(3, 4),
            textcoords="offset points",
        )
    axes.set(xlabel="multiply-adds, millions", ylabel="AP", title=f"{title}, every depth")
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default=TRAINED[0], choices=TRAINED)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    family = find_family(options.family)
    checkpoint = checkpoint_of(options.family)
    found = machine("onnxruntime", "numpy", "faster-coco-eval", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        with bar("export") as progress:
            bundle = export_bundle(checkpoint, Path(folder) / "bundle", progress=progress)
        data = CocoData(write_coco(Path(folder) / "data", options.pictures, HELD_OUT_SEED, "val"))
        with bar("evaluate") as progress:
            rows = evaluate(bundle, data, bundle.table.rows, progress=progress, record=False)
        supported = pareto_ladder(bundle, rows)
        ladder = list(bundle.manifest.ladder)
        table = bundle.table
        source = bundle.manifest.source.sha256
    best = sorted((row for row in rows if row.depth in {*ladder, *supported}), key=lambda r: r.macs)
    print_table(
        f"{options.pictures} held-out pictures, seed {HELD_OUT_SEED}",
        ["depth", "multiply-adds", "AP", "AP50", "default ladder", "supported"],
        [
            [
                row.depth,
                giga(row.macs),
                f"{row.ap:.1f}",
                f"{row.ap50:.1f}",
                "yes" if row.depth in ladder else "",
                "yes" if row.depth in supported else "",
            ]
            for row in best
        ],
    )
    if options.record:
        content = {
            "machine": found,
            "checkpoint_sha256": source,
            "pictures": options.pictures,
            "seed": HELD_OUT_SEED,
            "default_ladder": ladder,
            "supported_ladder": supported,
            "rows": [asdict(row) for row in rows],
        }
        record = f"accuracy-{family.prefix}tiny"
        print_line(str(write(record, content)))
        draw(rows, table, f"{family.title} tiny", RESULTS / f"{record}.png")


if __name__ == "__main__":
    main()

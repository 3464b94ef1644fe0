"""Average precision of a trained tiny checkpoint at every depth, and the ladder it supports.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --family anydepth-yolo

Generated held-out pictures (a seed that no training uses), the gated graph on ONNX Runtime. Draws
accuracy against multiply-adds, the default ladder among all depths.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
from machine import RESULTS, machine, write

from anydepth_deploy.commands.demo import HELD_OUT_SEED
from anydepth_deploy.console import bar, giga, print_line, print_table
from anydepth_deploy.evaluation import Accuracy, CocoData, evaluate, pareto_ladder
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.shapes import write_coco

mpl.use("Agg")
CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class Split:
    """The gates that matter most to accuracy: depths are coloured by them. ``letters`` are places
    in the text of a depth."""

    title: str
    letters: slice
    labels: dict[str, str]
    record: str


SPLITS = {
    "anydepth-detr": Split(
        "AnyDepth-DETR tiny",
        slice(5, 6),
        {"F": "encoder in full", "T": "encoder skipped"},
        "accuracy-tiny",
    ),
    "anydepth-yolo": Split(
        "AnyDepth-YOLO tiny",
        slice(2, 4),
        {
            "FF": "layers 6 and 8 in full",
            "FT": "layer 6 in full, 8 skipped",
            "TF": "layer 6 skipped, 8 in full",
            "TT": "layers 6 and 8 skipped",
        },
        "accuracy-yolo-tiny",
    ),
}


def draw(rows: list[Accuracy], ladder: list[str], split: Split, path: Path) -> None:
    """All depths as dots, the default ladder as a line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colours = ("tab:blue", "tab:orange", "tab:green", "tab:red")
    for (letters, label), colour in zip(split.labels.items(), colours, strict=False):
        chosen = [row for row in rows if row.depth[split.letters] == letters]
        axes.scatter(
            [r.macs / 1e6 for r in chosen], [r.ap for r in chosen], s=14, c=colour, label=label
        )
    rungs = [row for depth in ladder for row in rows if row.depth == depth]
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
    axes.set(xlabel="multiply-adds, millions", ylabel="AP", title=f"{split.title}, every depth")
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="anydepth-detr", choices=sorted(SPLITS))
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    split = SPLITS[options.family]
    checkpoint = CHECKPOINTS / f"{options.family}-tiny-shapes.pth"
    found = machine("onnxruntime", "numpy", "faster-coco-eval", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        with bar("export") as progress:
            bundle = export_bundle(checkpoint, Path(folder) / "bundle", progress=progress)
        data = CocoData(write_coco(Path(folder) / "data", options.pictures, HELD_OUT_SEED, "val"))
        with bar("evaluate") as progress:
            rows = evaluate(bundle, data, bundle.table.rows, progress=progress, record=False)
        supported = pareto_ladder(bundle, rows)
        ladder = list(bundle.manifest.ladder)
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
        print_line(str(write(split.record, content)))
        draw(rows, ladder, split, RESULTS / f"{split.record}.png")


if __name__ == "__main__":
    main()

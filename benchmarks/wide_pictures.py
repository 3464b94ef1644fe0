"""Average precision on wide pictures: stretched to the square input, letterboxed in it, and in an
input of their own shape.

    python benchmarks/wide_pictures.py [--family anydepth-yolo] [--record]

Generated held-out pictures of 160 x 160, each somewhere on a canvas of 256 x 160 of the colour of
its corner; the trained tiny networks, gated graphs on ONNX Runtime, the depths of the ladder. A
letterbox makes objects smaller and keeps their shape; the grey of its bars is another row each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from machine import machine, write
from PIL import Image
from trained import TRAINED, checkpoint_of

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.commands.demo import HELD_OUT_SEED
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.evaluation import CocoData, evaluate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.pictures.shapes import write_coco

WIDE = (160, 256)
"""Height and width of the pictures."""

EXPORTS: dict[str, dict[str, Any]] = {
    "stretch": {"resize": "stretch"},
    "letterbox": {"resize": "letterbox"},
    "160x256": {"input_size": WIDE},
}
PADDINGS = (0, 114, 255)


def widen(annotations: Path, folder: Path) -> Path:
    """The pictures on their canvases, and where their objects are then."""
    data = json.loads(annotations.read_text(encoding="utf-8"))
    folder.mkdir()
    moved: dict[int, int] = {}
    for number, item in enumerate(data["images"]):
        with Image.open(annotations.parent / item["file_name"]) as picture:
            canvas = Image.new("RGB", WIDE[::-1], picture.getpixel((0, 0)))
            moved[item["id"]] = (0, 48, 96)[number % 3]
            canvas.paste(picture, (moved[item["id"]], 0))
        item.update(file_name=f"{number}.png", width=WIDE[1], height=WIDE[0])
        canvas.save(folder / item["file_name"], compress_level=1)
    for item in data["annotations"]:
        x, y, width, height = item["bbox"]
        item["bbox"] = [x + moved[item["image_id"]], y, width, height]
    path = folder / "annotations.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def padded_with(bundle: Path, grey: int) -> None:
    """Change the grey of a letterbox: no option does, as it is the family's."""
    path = bundle / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    content["preprocess"]["padding"] = grey
    path.write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default=TRAINED[0], choices=TRAINED)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    family, checkpoint = find_family(options.family), checkpoint_of(options.family)
    found = machine("onnxruntime", "numpy", "faster-coco-eval", "pillow")
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, bar("wide pictures") as progress:
        folder = Path(name)
        square = write_coco(folder / "square", options.pictures, HELD_OUT_SEED, "val")
        wide = CocoData(widen(square, folder / "wide"))
        for kind, chosen in EXPORTS.items():
            bundle = export_bundle(checkpoint, folder / kind, progress=progress, **chosen)
            usual = bundle.manifest.preprocess.padding
            for grey in PADDINGS if kind == "letterbox" else (usual,):
                padded_with(folder / kind, grey)
                scores = evaluate(
                    open_bundle(folder / kind),
                    wide,
                    bundle.table.ladder,
                    progress=progress,
                    record=False,
                )
                words = kind if kind != "letterbox" else f"letterbox, {grey}"
                words += " (default)" if kind == "letterbox" and grey == usual else ""
                rows[words] = {row.depth: row.ap for row in scores}
        scores = evaluate(
            open_bundle(folder / "stretch"),
            CocoData(square),
            bundle.table.ladder,
            progress=progress,
            record=False,
        )
        rows["the square pictures themselves"] = {row.depth: row.ap for row in scores}
    depths = list(next(iter(rows.values())))
    print_table(
        f"AP of {options.pictures} wide pictures, {family.title} tiny, seed {HELD_OUT_SEED}",
        ["", *depths],
        [[kind, *(f"{row[depth]:.1f}" for depth in depths)] for kind, row in rows.items()],
    )
    if options.record:
        content = {
            "machine": found,
            "family": options.family,
            "checkpoint_sha256": read_checkpoint(checkpoint).sha256,
            "pictures": options.pictures,
            "seed": HELD_OUT_SEED,
            "ap": rows,
        }
        print_line(str(write(f"wide-pictures-{family.prefix}tiny", content)))


if __name__ == "__main__":
    main()

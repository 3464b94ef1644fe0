"""Whether pictures are there when a training step asks for them.

    python benchmarks/training_data.py

Both tiny networks of any depth learn from pictures in files, augmented as their families are: with
2 processes that load, how much of the time a step waits; and how many pictures these, and the same
process alone, make a second while nobody learns. Pictures are those of ``anydepth-deploy shapes``,
PNG of 160 pixels a side and JPEG of 640. A step is forward and backward of both passes, on one
thread; what its optimiser takes on top is left out, which makes the share larger, if anything.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from machine import machine, write
from PIL import Image

from anydepth_deploy.console import bar, print_table
from anydepth_deploy.families.registry import find_family, find_training
from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
from anydepth_deploy.pictures.shapes import CLASS_NAMES, write_coco
from anydepth_deploy.train.data.batches import Batches
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.step import accumulate_gradients

WARM = 3
"""Batches before anything is timed: processes start, torch allocates."""

RESIZE: dict[str, Literal["stretch", "letterbox"]] = {
    "anydepth-detr": "stretch",
    "anydepth-yolo": "letterbox",
}


def pictures(folder: Path, size: int, count: int, *, jpeg: bool) -> DetectionSet:
    """A generated set in files."""
    path = write_coco(folder, count, 0, "train", size=size)
    if jpeg:
        content = json.loads(path.read_text(encoding="utf-8"))
        for item in content["images"]:
            picture = folder / item["file_name"]
            item["file_name"] = picture.with_suffix(".jpg").name
            Image.open(picture).save(picture.with_suffix(".jpg"), quality=90)
        path.write_text(json.dumps(content), encoding="utf-8")
    return read_data_set(path)


def recipe_of(family: str, size: int) -> Recipe[Any]:
    """The tiny network of a family, as it begins to learn."""
    training = find_training(family)
    config = replace(
        find_family(family).sizes["tiny"], classes=len(CLASS_NAMES), input_size=(size, size)
    )
    torch.manual_seed(0)
    model = find_family(family).build(config)
    training.initialise(model)
    recipe = training.recipe(model, RecipeSettings())
    recipe.model.train()
    recipe.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return recipe


def loader(found: DetectionSet, family: str, size: int, batch: int, workers: int) -> Batches:
    return Batches(
        found,
        find_training(family).augmentation,
        size=(size, size),
        resize=RESIZE[family],
        batch=batch,
        seed=0,
        workers=workers,
    )


def alone(found: DetectionSet, family: str, size: int, batch: int, workers: int) -> float:
    """Pictures a second of the loader, while nobody learns."""
    count = 12
    with loader(found, family, size, batch, workers) as batches:
        running = batches.batches()
        next(islice(running, WARM + 2 * workers, None))  # those that were ready do not count
        began = time.perf_counter()
        for _ in islice(running, count):
            pass
        return count * batch / (time.perf_counter() - began)


def learning(
    found: DetectionSet, family: str, size: int, batch: int, workers: int, steps: int
) -> tuple[float, float]:
    """The share of the time that steps wait, and pictures a second of all."""
    recipe = recipe_of(family, size)
    waited, began = 0.0, 0.0
    with loader(found, family, size, batch, workers) as batches:
        for number, one in enumerate(islice(batches.batches(), WARM + steps)):
            if number == WARM:
                began = time.perf_counter() - one.waited
            if number >= WARM:
                waited += one.waited
            recipe.model.zero_grad()
            generator = torch.Generator().manual_seed(number)
            accumulate_gradients(recipe, one.images, one.targets, distill=True, generator=generator)
    whole = time.perf_counter() - began
    return waited / whole, steps * batch / whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="at 160 pixels; a tenth at 640")
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 640], choices=[160, 640])
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    found = machine("torch", "kornia", "numpy", "pillow")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, bar("training data") as progress:
        for size in options.sizes:
            batch, count = (16, 400) if size == 160 else (4, 60)
            data = pictures(Path(folder) / str(size), size, count, jpeg=size == 640)
            steps = options.steps if size == 160 else max(4, options.steps // 10)
            for family in RESIZE:
                progress(f"{family} {size}", len(rows), 2 * len(options.sizes))
                share, speed = learning(data, family, size, batch, 2, steps)
                rows.append(
                    {
                        "family": family,
                        "size": size,
                        "batch": batch,
                        "waiting": round(share, 4),
                        "learning": round(speed, 1),
                        "loaded by 2": round(alone(data, family, size, batch, 2), 1),
                        "by the same process": round(alone(data, family, size, batch, 0), 1),
                    }
                )
    print_table(
        "pictures a second, and the share of time that a step waits for them",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )
    if options.record:
        print(write("training-data", {"machine": found, "steps": options.steps, "rows": rows}))


if __name__ == "__main__":
    main()

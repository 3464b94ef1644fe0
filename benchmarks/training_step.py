"""What a whole training step costs beside the passes that it cannot do without.

    python benchmarks/training_step.py

A step is super's and base's pass, forward and backward, with denoising, matching, losses and
distillation, clipping, AdamW and the average of the weights. It is held against two plain passes of
the same network on the same pictures: forward in training mode through every layer, and backward
from the sum of all outputs. Both are run in turn, many times; the ratio is the median of pairs, in
pictures a second, so that 0.9 means a tenth of the time on top. Denoising queries are more work for
the decoder and no overhead of a step: ``ratio`` is without them on both sides, ``with_denoising``
with them in the step alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import machine, write
from torch import Tensor

from anydepth_deploy.console import bar, print_table
from anydepth_deploy.families.shared.stages import POSTPROCESS, AnyDepthModel
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.schedule import parameter_groups
from anydepth_deploy.train.start import open_start
from anydepth_deploy.train.step import Stepper

NETWORKS = {
    "anydepth-detr tiny": ("anydepth-detr", "tiny", 160, 16),
    "anydepth-yolo tiny": ("anydepth-yolo", "tiny", 160, 16),
    "rt-detr tiny-r18": ("rt-detr", "tiny-r18", 160, 16),
    "d-fine tiny": ("d-fine", "tiny", 160, 16),
    "rt-detr r18": ("rt-detr", "r18", 320, 4),
    "d-fine s": ("d-fine", "s", 320, 4),
}
"""By name: family, size, side of the pictures, pictures a step."""


def plain_pass(model: AnyDepthModel, images: Tensor, depth: str) -> None:
    """Forward through all that ``depth`` runs and every decoder layer, and backward from the sum of
    what comes out."""
    chosen = model.table.find(depth)
    tensors = {"images": images}
    for stage in model.stages((images.shape[-2], images.shape[-1])):
        if stage.name == POSTPROCESS:
            continue
        variant = stage.variant(chosen) or next(iter(stage.variants))
        tensors.update(stage.run(variant, tensors))
    outputs = [tensors[name] for name in model.raw_outputs.values()]
    loss = torch.stack([value.float().mean() for value in outputs if value.requires_grad]).sum()
    loss.backward()  # type: ignore[no-untyped-call]


def prepared(
    name: str, seed: int, denoising: int | None
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A whole step and two plain passes, as functions."""
    family, size, side, batch = NETWORKS[name]
    config = TrainConfig.for_family(
        family, model=size, input_size=side, seed=seed, batch=batch, denoising=denoising
    )
    recipe = open_start(config, CLASS_NAMES).recipe
    model: Any = recipe.model
    model.train()
    drawn = render_many(batch, seed, "train", size=side, processes=1)
    pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    images, targets = pictures.batch(torch.arange(batch))
    groups = parameter_groups(model, learning_rate=1e-4, backbone_scale=1.0, weight_decay=1e-4)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
    stepper, ema = Stepper(recipe), Ema(model)
    generator = torch.Generator().manual_seed(seed)

    def whole() -> object:
        return stepper.step(
            optimizer, ema, [(images, targets)], distill=True, clip=0.1, generator=generator
        )

    def plain() -> object:
        optimizer.zero_grad(set_to_none=True)
        for depth in ("super", "base"):
            plain_pass(model, images, depth)
        return None

    return whole, plain


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(name: str, pairs: int, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    batch = NETWORKS[name][3]
    row: dict[str, Any] = {"network": name, "side": NETWORKS[name][2], "batch": batch}
    for column, denoising in (("ratio", 0), ("with_denoising", None)):
        whole, plain = prepared(name, 0, denoising)
        whole()
        plain()
        found: list[tuple[float, float]] = []
        for pair in range(pairs):
            progress(f"{name}, {column}", pair, pairs)
            # In turn the one and the other goes first.
            first = seconds(whole) if pair % 2 else 0.0
            other = seconds(plain)
            found.append((first or seconds(whole), other))
        row[column] = round(statistics.median(two / one for one, two in found), 3)
        row["pictures_per_second"] = round(batch / statistics.median(one for one, _ in found), 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results")
    options = parser.parse_args()
    found = machine("torch", "numpy", "scipy")
    torch.set_num_threads(options.threads)
    rows = []
    with bar("steps") as progress:
        for name in options.network or NETWORKS:
            rows.append(measure(name, options.pairs, progress))
    columns = list(rows[0])
    print_table("a step against two plain passes", columns, [list(row.values()) for row in rows])
    if options.record:
        content = {"machine": found, "threads": options.threads, "rows": rows}
        print(write("training-step", content))


if __name__ == "__main__":
    main()

"""The pictures a benchmark runs: real ones, or generated ones; the same for the same seed.

Zeros would do for convolutions, but not for what depends on content: with nothing found,
suppression has nothing to do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.results import Inputs
from anydepth_deploy.errors import readable
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.images import Geometry, Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress

__all__ = ["Batches", "load_batches"]

LARGEST_GENERATED = 640
SMALLEST_GENERATED = 32


@dataclass(frozen=True)
class Batches:
    """Batches of pictures, decoded (uint8 [H, W, 3] each) and prepared (float32 [N, 3, h, w])."""

    pictures: list[list[NDArray[np.uint8]]]
    prepared: list[NDArray[np.float32]]
    recipe: Preprocess
    inputs: Inputs
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.pictures)

    def prepare(self, index: int) -> tuple[NDArray[np.float32], list[Geometry]]:
        """Do the pre-processing of a batch, as a service would for every request."""
        return prepare_batch(self.pictures[index], self.recipe, max_pixels=self.max_pixels)


def load_batches(
    recipe: Preprocess,
    batch: int,
    *,
    source: Path | None = None,
    count: int = 8,
    seed: int = 0,
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Batches:
    """At least one batch of ``batch`` pictures, of about ``count`` different ones.

    ``source``: a picture or a folder that they are drawn from by ``seed``; generated ones by
    default. ``orientation``: which way up they are read. ``max_pixels``: of each, and of what
    resizing it takes. Where there are too few for a batch, they are used again. Raises
    :class:`ImageError`.
    """
    if source is None:
        pictures, inputs = _generated(recipe, count, seed)
    else:
        chosen = choose_pictures(source, count, seed, max_pixels=max_pixels, progress=progress)
        upright = orientation == "upright"
        pictures = [
            load_image(path, upright=upright, max_pixels=max_pixels, recipe=recipe)
            for path in chosen.paths
        ]
        name = readable(source.name)
        inputs = Inputs(source=name, count=len(pictures), sha256=chosen.sha256, seed=seed)
    batches = [
        [pictures[(start + offset) % len(pictures)] for offset in range(batch)]
        for start in range(0, max(len(pictures) - batch + 1, 1), batch)
    ]
    prepared = [prepare_batch(each, recipe, max_pixels=max_pixels)[0] for each in batches]
    return Batches(batches, prepared, recipe, inputs, max_pixels)


def _generated(recipe: Preprocess, count: int, seed: int) -> tuple[list[NDArray[np.uint8]], Inputs]:
    from anydepth_deploy.pictures.shapes import render

    size = min(max(*recipe.size, SMALLEST_GENERATED), LARGEST_GENERATED)
    pictures = [render(index, seed, "val", size=size).image for index in range(count)]
    digest = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()
    return pictures, Inputs(source="generated", count=count, sha256=digest, seed=seed)

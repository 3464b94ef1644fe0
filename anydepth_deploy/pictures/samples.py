"""Images to check an artifact with: real or generated pictures, and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Preprocess, find_images, load_image, prepare_batch
from anydepth_deploy.pictures.orientation import Orientation

__all__ = ["VERIFY_BATCHES", "verification_batches"]

VERIFY_BATCHES = (1, 3)
"""Batch sizes that parity is checked at: a baked-in batch shows with the second."""


def verification_batches(
    recipe: Preprocess,
    source: str | Path | None = None,
    *,
    seed: int = 0,
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
) -> list[NDArray[np.float32]]:
    """Batches of 1 and 3 inputs, float32 [N, 3, H, W]: pictures first, noise last in the larger.

    ``source``: a picture, or a folder of which three pictures are used, evenly spread over the
    sorted list from its first to its last (repeated where there are fewer); three generated ones
    by default. ``orientation``: which way up they are read. ``max_pixels``: of each, and of what
    resizing it takes. Raises :class:`ImageError`.
    """
    wanted = sum(VERIFY_BATCHES) - 1
    if source is None:
        from anydepth_deploy.pictures.shapes import render

        pictures = [render(index, seed, "val").image for index in range(wanted)]
    else:
        paths = find_images(source)
        last = len(paths) - 1
        chosen = [paths[index * last // (wanted - 1)] for index in range(wanted)]
        upright = orientation == "upright"
        pictures = [
            load_image(path, upright=upright, max_pixels=max_pixels, recipe=recipe)
            for path in chosen
        ]
    images, _ = prepare_batch(pictures, recipe, max_pixels=max_pixels)
    noise = np.random.default_rng(seed).random((1, *images.shape[1:]), np.float32)
    return [images[:1], np.concatenate([images[1:], noise])]

"""Pictures to begin with: drawn ones for networks that know shapes, or own ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.budget import BudgetError
from anydepth_deploy.pictures.folders import find_images
from anydepth_deploy.pictures.images import load_image
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render

__all__ = ["MOST", "Sample", "knows_shapes", "write_samples"]

MOST = 12
"""Pictures that are copied; of more, as many that are evenly spread."""

MOST_PIXELS = 50_000_000
"""Of a picture, as ``picture.mjs`` has it."""

SHOWN = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""Files that every browser shows, by suffix: they are copied as they are, others become PNG."""

DRAWN = (2, 3, 7, 11, 14, 21)
"""Which pictures of the generated set are drawn."""

SEED, SIDE = 25, 320


@dataclass(frozen=True)
class Sample:
    """``file``: its path in the page's folder; ``name``: what people know it by."""

    file: str
    name: str


def knows_shapes(classes: Sequence[str]) -> bool:
    """Whether a network finds the shapes that can be drawn."""
    return list(classes) == list(CLASS_NAMES)


def write_samples(folder: Path, source: Path | None) -> list[Sample]:
    """Write pictures into ``folder``, which is made: those of ``source``, a picture or a folder of
    some, or drawn ones.

    Raises :class:`ImageError` where ``source`` has none or one that cannot be read, and
    :class:`OSError`.
    """
    folder.mkdir()
    if source is None:
        return [_drawn(folder, number, index) for number, index in enumerate(DRAWN, 1)]
    found = find_images(source)
    last, count = len(found) - 1, min(len(found), MOST)
    chosen = [found[place * last // max(1, count - 1)] for place in range(count)]
    return [_copied(folder, number, path) for number, path in enumerate(chosen, 1)]


def _drawn(folder: Path, number: int, index: int) -> Sample:
    path = folder / f"{number}.png"
    Image.fromarray(render(index, SEED, "val", size=SIDE).image).save(path)
    return Sample(f"{folder.name}/{path.name}", f"Drawn shapes {number}")


def _copied(folder: Path, number: int, source: Path) -> Sample:
    try:
        # What cannot be read here is not shown there.
        pixels = load_image(source, max_pixels=MOST_PIXELS)
    except BudgetError:
        raise ImageError(
            f"picture {source} has more than {MOST_PIXELS} pixels, the most that a page reads: "
            "make it smaller, or leave it out of --samples"
        ) from None
    suffix = source.suffix.lower()
    with Image.open(source) as opened:
        as_it_is = SHOWN.get(suffix) == opened.format
    # Numbers for names: what files are called has no say in addresses.
    path = folder / f"{number}{suffix if as_it_is else '.png'}"
    if as_it_is:
        shutil.copyfile(source, path)
    else:
        Image.fromarray(pixels).save(path)
    return Sample(f"{folder.name}/{path.name}", source.name)

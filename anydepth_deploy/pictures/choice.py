"""The pictures of a calibration: a repeatable choice, checked before the long work begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import ImageError, UsageError
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import find_images, load_image
from anydepth_deploy.pictures.variety import Looks, Variety
from anydepth_deploy.progress import Progress

__all__ = ["Pictures", "choose_pictures"]


@dataclass(frozen=True)
class Pictures:
    """Pictures that can all be decoded.

    ``paths``: sorted. ``sha256``: of the pictures as a set: over the sorted hashes of their
    files, whatever they are called. ``seed``: what they were drawn with; None where all that
    there are were taken. ``variety``: how different they are.
    """

    paths: tuple[Path, ...]
    sha256: str
    seed: int | None
    variety: Variety


def choose_pictures(
    source: str | Path,
    count: int,
    seed: int = 0,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Pictures:
    """At most ``count`` pictures of a folder (subfolders included), or the one picture named.

    Which ones are drawn depends only on ``seed`` and the paths within the folder, on any machine
    and with any version. Every picture is decoded once; ``progress`` is called before each.
    ``max_pixels``: of each picture.

    Raises :class:`UsageError` for a count below 1, :class:`ImageError` when there is no picture
    or one cannot be read.
    """
    if count < 1:
        raise UsageError(f"{count} calibration pictures: expected at least 1")
    found = find_images(source)
    drawn = len(found) > count
    if drawn:
        folder = Path(source)
        found = sorted(found, key=lambda path: _rank(path.relative_to(folder), seed))[:count]
        found.sort()
    hashes, looks = [], Looks()
    for index, path in enumerate(found):
        if progress is not None:
            progress(f"reading {path.name}", index, len(found))
        looks.add(load_image(path, max_pixels=max_pixels))
        try:
            hashes.append(file_sha256(path))
        except OSError as error:
            raise ImageError(f"picture {path} cannot be read: {error}") from None
    digest = _sha256(sorted(hashes))
    return Pictures(tuple(found), digest, seed if drawn else None, looks.variety)


def _rank(path: Path, seed: int) -> bytes:
    """Where a picture stands in the draw: generators of libraries change with their versions."""
    name = path.as_posix().encode("utf-8", "surrogateescape")
    return hashlib.sha256(f"{seed}/".encode() + name).digest()


def _sha256(hashes: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for value in hashes:
        digest.update(f"{value}\n".encode())
    return digest.hexdigest()

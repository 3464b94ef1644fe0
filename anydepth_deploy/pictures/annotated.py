"""The pictures that an annotation file names: where they are, and which way up its boxes mean them.

A picture is turned as viewers turn it, except where the width and height in the annotation file say
that its boxes are in stored pixels. A size that is the picture's in neither way is refused: boxes
of other pictures, or scaled ones, would give a figure that means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import read_header
from anydepth_deploy.pictures.names import Names
from anydepth_deploy.pictures.orientation import Header, Orientation

__all__ = ["Annotated", "AnnotatedPicture", "find_annotated", "said_size", "ways_of"]

Side = int | float | None
"""What an annotation file says of a side in pixels; None where it says nothing."""


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture: its file, whether it is turned upright, and its height and width then."""

    path: Path
    upright: bool
    size: tuple[int, int]


@dataclass(frozen=True)
class Annotated:
    """All of them by id, and how they are read.

    ``orientation``: for records: ``rule`` (``sizes``, or what was asked for), how many pictures are
    ``marked`` with an orientation that is not upright, how many of these are ``turned``, and how
    many their sizes leave ``undecided``. ``notes``: what a reader of a figure has to know of it, a
    line each.
    """

    pictures: dict[int, AnnotatedPicture]
    orientation: dict[str, str | int]
    notes: list[str]


def find_annotated(
    annotations: Path,
    folder: Path,
    images: Sequence[Mapping[str, Any]],
    orientation: Orientation | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Annotated:
    """Find the files of ``images``, the items of the list in COCO's format, and read their headers.

    ``orientation``: decides by hand what their sizes otherwise decide. Raises :class:`ImageError`
    for pictures that are not in ``folder``, cannot be read or have more than ``max_pixels`` pixels,
    and for sizes that are not theirs.
    """
    paths = _paths(annotations, folder, images)
    headers = {item["id"]: read_header(paths[item["id"]], max_pixels=max_pixels) for item in images}
    ways: dict[int, set[Orientation]] = {}
    for item in images:
        ways[item["id"]] = ways_of(said_size(annotations, item), headers[item["id"]])
    _check_sizes(annotations, images, headers, ways)

    marked = [item for item in images if headers[item["id"]].orientation != 1]
    decided = {item["id"]: way for item in marked for way in _only(ways[item["id"]])}
    others: Orientation = "stored" if set(decided.values()) == {"stored"} else "upright"
    pictures = {}
    for item in images:
        header = headers[item["id"]]
        # What sizes leave open follows the pictures that they decide, if those all agree.
        way = orientation or decided.get(item["id"], others)
        size = header.upright if way == "upright" else header.stored
        pictures[item["id"]] = AnnotatedPicture(paths[item["id"]], way == "upright", size)
    undecided = [item for item in marked if item["id"] not in decided]
    return Annotated(
        pictures,
        {
            "rule": orientation or "sizes",
            "marked": len(marked),
            "turned": sum(pictures[item["id"]].upright for item in marked),
            "undecided": len(undecided),
        },
        _notes(annotations, marked, decided, orientation, others),
    )


def _paths(annotations: Path, folder: Path, images: Sequence[Mapping[str, Any]]) -> dict[int, Path]:
    names = Names(folder)
    found = {item["id"]: names.find(item["file_name"]) for item in images}
    missing = [item["file_name"] for item in images if found[item["id"]] is None]
    if missing:
        raise ImageError(
            f"{annotations} names {len(images)} pictures, {len(missing)} of which are not "
            f"in {folder}: {shorten(missing, 3)}; give their folder with --images"
        )
    return {key: path for key, path in found.items() if path is not None}


def said_size(annotations: Path, item: Mapping[str, Any]) -> tuple[Side, Side]:
    """Height and width that the annotation file gives a picture of its list ``images``. Raises
    :class:`ImageError` where they are no numbers."""
    sides = []
    for name in ("height", "width"):
        value = item.get(name)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise ImageError(
                f"annotations {annotations}: the picture {shorten([item['file_name']])} has the "
                f"{name} {shorten([repr(value)[:60]])}, expected a number of pixels, or none"
            )
        sides.append(value)
    return sides[0], sides[1]


def ways_of(said: tuple[Side, Side], header: Header) -> set[Orientation]:
    """The ways of reading a picture that give it this size (height, width)."""
    sizes: dict[Orientation, tuple[int, int]] = {
        "upright": header.upright,
        "stored": header.stored,
    }
    return {
        way
        for way, size in sizes.items()
        if all(side is None or side == real for side, real in zip(said, size, strict=True))
    }


def _only(ways: set[Orientation]) -> set[Orientation]:
    """The one way, if there is but one."""
    return ways if len(ways) == 1 else set()


def _check_sizes(
    annotations: Path,
    images: Sequence[Mapping[str, Any]],
    headers: Mapping[int, Header],
    ways: Mapping[int, set[Orientation]],
) -> None:
    """Refuse sizes that are the pictures' in neither way, naming the first."""
    wrong = [item for item in images if not ways[item["id"]]]
    if not wrong:
        return
    item, header = wrong[0], headers[wrong[0]["id"]]
    told = " x ".join("?" if item.get(side) is None else str(item[side])[:20] for side in SIDES)
    real = _size(header.stored)
    if header.upright != header.stored:
        real += f", or {_size(header.upright)} turned upright"
    raise ImageError(
        f"annotations {annotations}: the picture {shorten([item['file_name']])} is {told} (width x "
        f"height) there, its file is {real} ({len(wrong)} of {len(images)} pictures differ): boxes "
        "would not be where the objects are; give annotations of these very pictures, or the "
        "folder of the annotated ones with --images"
    )


SIDES = ("width", "height")


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _notes(
    annotations: Path,
    marked: Sequence[Mapping[str, Any]],
    decided: Mapping[int, Orientation],
    orientation: Orientation | None,
    others: Orientation,
) -> list[str]:
    notes = []
    if orientation is not None:
        against = [item for item in marked if decided.get(item["id"], orientation) != orientation]
        if against:
            notes.append(
                f"{_some(against)} read {orientation}, as --orientation says; the sizes in "
                f"{annotations.name} say otherwise"
            )
        return notes
    stored = [item for item in marked if decided.get(item["id"]) == "stored"]
    if stored:
        notes.append(
            f"{_some(stored)} read as stored, not turned by the EXIF orientation: the sizes in "
            f"{annotations.name} are those of stored pixels"
        )
    undecided = [item for item in marked if item["id"] not in decided]
    if undecided:
        like = "turned, as viewers show them" if others == "upright" else "read as stored, too"
        other = "stored" if others == "upright" else "upright"
        notes.append(
            f"{_some(undecided)} {like}: the sizes in {annotations.name} do not tell whether boxes "
            f"are in turned or in stored pixels (--orientation {other} for the other)"
        )
    return notes


def _some(items: Sequence[Mapping[str, Any]]) -> str:
    """``1 picture (a.jpg) is``, ``2 pictures (a.jpg, b.jpg) are``."""
    names = shorten([item["file_name"] for item in items], 2)
    return f"1 picture ({names}) is" if len(items) == 1 else f"{len(items)} pictures ({names}) are"

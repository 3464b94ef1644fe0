"""Which files of a folder are pictures, and what else is there.

Linked folders are followed, each folder is looked into once: links in a circle end. Nothing is
passed over in silence but what a Mac leaves beside files on other disks (``._*``).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.pictures.formats import SUFFIXES

__all__ = [
    "SUFFIXES",
    "Contents",
    "contents_of",
    "find_images",
    "is_file",
    "is_folder",
    "is_picture",
    "look_into",
]

BESIDE = "._"
"""How the names of files begin in which a Mac keeps what other disks have no place for."""

BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"P6\n", b"P6 ")

BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
"""Lengths in bytes of the header that follows the first 14 bytes of a BMP."""


@dataclass
class Contents:
    """What is in a folder and the folders below.

    ``pictures``: sorted. ``others``: how many files there are that are no pictures by their names,
    by suffix. ``closed``: folders that cannot be looked into, and a line that says why.
    """

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    closed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def note(self) -> str | None:
        """What was passed over, in one line; None where nothing was."""
        if not self.others:
            return None
        count, suffixes = self.others.total(), shorten(self.others)
        files = "1 file is no picture by its name" if count == 1 else None
        files = files or f"{count} files are no pictures by their names"
        return f"{files} ({suffixes}) in {shorten([self.folder])}: passed over"


def look_into(folder: str | Path) -> Contents:
    """The pictures in a folder, subfolders included, and what else is there.

    A picture is a file with one of :data:`SUFFIXES`, or without a suffix and with the first bytes
    of a picture. A link that leads nowhere counts by its name: it is for the reader to refuse.
    """
    found = Contents(Path(folder))
    seen: set[str] = set()
    # Links last, so that what is reached on two ways has the name that needs no link.
    waiting, links = deque([found.folder]), deque[Path]()
    while waiting or links:
        current = waiting.popleft() if waiting else links.popleft()
        place = os.path.realpath(current)
        if place in seen:
            continue
        seen.add(place)
        try:
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or str(error)
            found.closed.append((current, f"folder {current} cannot be looked into: {reason}"))
            continue
        for entry in entries:
            path = current / entry.name
            if _leads_to_folder(entry):
                (links if entry.is_symlink() else waiting).append(path)
            elif entry.name.startswith(BESIDE):
                continue
            elif _is_picture(entry, path):
                found.pictures.append(path)
            elif not entry.name.startswith("."):
                found.others[path.suffix.lower() or "without a suffix"] += 1
    found.pictures.sort()
    return found


def find_images(source: str | Path) -> list[Path]:
    """The pictures in a folder (sorted, subfolders included), or the one picture named.

    Raises :class:`ImageError` when there is none, and for a subfolder that cannot be looked into:
    its pictures would be missing without a word.
    """
    return contents_of(source).pictures


def contents_of(source: str | Path, *, partial: bool = False) -> Contents:
    """What :func:`find_images` finds, and what it passes over; raises as it does.

    ``partial``: subfolders that cannot be looked into are left to the caller, unless there is
    nothing else.
    """
    path = Path(source)
    if is_file(path):
        return Contents(path.parent, [path])
    if not is_folder(path):
        told = f"{path} is neither a picture nor a folder of pictures"
        raise ImageError(told if os.path.lexists(path) else f"{told}: it does not exist")
    found = look_into(path)
    if found.closed and not (partial and found.pictures):
        raise ImageError(f"{found.closed[0][1]}; let it be read, or move it elsewhere")
    if not found.pictures:
        expected = ", ".join(sorted(SUFFIXES))
        raise ImageError(f"folder {path} holds no picture: {_held(found)}; expected {expected}")
    return found


def _held(contents: Contents) -> str:
    """What is in a folder without pictures, in words."""
    if (contents.folder / "manifest.json").is_file():
        return "it is a bundle, and the pictures are named behind it"
    if not contents.others:
        return "it holds no file"
    kinds = sorted(kind if kind.startswith(".") else "no suffix" for kind in contents.others)
    return f"its {contents.others.total()} files have {shorten(kinds)}"


def is_file(path: Path) -> bool:
    """Whether there is a file, or a link to one; never an error, whatever the name is like."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one; as :func:`is_file`."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def is_picture(path: Path) -> bool:
    """Whether :func:`look_into` would take ``path`` for a picture."""
    suffix = path.suffix.lower()
    if path.name.startswith(BESIDE):
        return False
    if suffix in SUFFIXES:
        return is_file(path) or (path.is_symlink() and _leads_nowhere(path))
    return not suffix and not path.name.startswith(".") and is_file(path) and _begins_like_one(path)


# Of entries, for most of which the listing has said what they are: a folder may be on a network.


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _leads_to_file(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_file()
    return False


def _leads_nowhere(link: Path) -> bool:
    try:
        link.stat()
    except OSError:
        return True
    return False


def _is_picture(entry: os.DirEntry[str], path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return _leads_to_file(entry) or (entry.is_symlink() and _leads_nowhere(path))
    if suffix or entry.name.startswith("."):
        return False
    return _leads_to_file(entry) and _begins_like_one(path)


def _begins_like_one(path: Path) -> bool:
    """Whether the first bytes of a file are those of a picture."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError:
        return False
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":
        return int.from_bytes(head[14:18], "little") in BMP_HEADERS
    return head.startswith(BEGINNINGS)

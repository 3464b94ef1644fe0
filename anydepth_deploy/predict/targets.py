"""Where drawings and labels go: told from the words alone, and never over what is read."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anydepth_deploy.detector.frames import AnyItem, VideoItem
from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.pictures.drawings import DRAWING
from anydepth_deploy.pictures.formats import SUFFIXES
from anydepth_deploy.videos.writer import CONTAINERS

__all__ = ["Places", "places_of"]

DRAWN = ".pred.mp4"
"""What the name of a video with drawings ends with, unless it was chosen."""


@dataclass(frozen=True)
class Places:
    """``drawings``: by the name of each item; empty where nothing is drawn. ``labels``: the begin
    of the names of label files, likewise. ``chosen``: by the user, so that what is there is
    replaced."""

    drawings: Mapping[str, Path]
    labels: Mapping[str, Path]
    chosen: bool


def places_of(
    items: Sequence[AnyItem],
    sources: Sequence[str],
    out: str | Path | None,
    *,
    draw: bool,
    label: bool,
) -> Places:
    """Where the drawing of each of ``items`` goes (``draw``), and its labels (``label``).

    ``sources``: as they were given. Raises :class:`UsageError` where ``out`` is no place for them,
    or is needed and missing, and where something that is read would be replaced.
    """
    if not draw and not label:
        if out is not None:
            raise UsageError(f"--out {out} is where drawings go: leave it out, or --no-draw")
        return Places({}, {}, False)
    several = len(items) > 1 or Path(sources[0]).is_dir()
    what = f"{sources[0]} is a folder of pictures" if len(sources) == 1 else None
    what = what or f"there are {len(items)} sources ({shorten(sources, 3)})"
    if label and (out is None or (not several and _names_a_file(items[0], out))):
        raise UsageError("--format yolo writes a file for each picture: give --out FOLDER")
    folder = _folder(items[0], what, out, several)
    stems = [_stem(item) for item in items]
    if len(set(stems)) < len(stems):  # the same name in two subfolders
        stems = [f"{index:06d}-{stem}" for index, stem in enumerate(stems)]
    drawings: dict[str, Path] = {}
    for item, stem in zip(items, stems, strict=True) if draw else ():
        name = f"{stem}{DRAWN if isinstance(item, VideoItem) else DRAWING}"
        if folder is not None:
            drawings[item.name] = folder / name
        else:
            drawings[item.name] = Path(name if out is None else out)
    labels = {}
    if label and folder is not None:
        labels = {item.name: folder / stem for item, stem in zip(items, stems, strict=True)}
    _check_replaced(items, [*drawings.values(), *(f"{path}.txt" for path in labels.values())])
    return Places(drawings, labels, out is not None)


def _check_replaced(items: Sequence[AnyItem], targets: Sequence[Path | str]) -> None:
    read = {
        Path(item.name).resolve()
        for item in items
        if "://" not in item.name and "\0" not in item.name
    }
    for target in map(Path, targets):
        if target.resolve() in read:
            raise UsageError(
                f"the drawing {target} would replace a picture that is read: choose another --out"
            )


def _stem(item: AnyItem) -> str:
    """The name of an item's file without its suffix; of an address its last part."""
    name = item.name
    if isinstance(item, VideoItem) and item.source.camera is not None:
        return f"camera{item.source.camera}"
    if "://" not in name:
        return Path(name).stem
    parts = urllib.parse.urlsplit(name)
    last = Path(urllib.parse.unquote(parts.path)).stem or parts.hostname or "picture"
    return re.sub(r"[^\w.-]+", "_", last)[:100]


def _names_a_file(item: AnyItem, out: str | Path) -> bool:
    return not Path(out).is_dir() and _suffix(out) in _suffixes(item)


def _suffix(out: str | Path) -> str:
    return "" if str(out).endswith(("/", os.sep)) else Path(out).suffix.lower()


def _suffixes(item: AnyItem) -> frozenset[str]:
    return CONTAINERS if isinstance(item, VideoItem) else SUFFIXES


def _folder(first: AnyItem, what: str, out: str | Path | None, several: bool) -> Path | None:
    """The folder that ``out`` means, or None where it is the one file to write."""
    if out is None:
        if several:
            raise UsageError(f"{what}: give --out FOLDER for drawings, or --no-draw")
        return None
    path, suffix, known = Path(out), _suffix(out), _suffixes(first)
    if path.is_dir():
        return path
    kind = "a video" if isinstance(first, VideoItem) else "a picture"
    file = f"{kind} ({', '.join(sorted(known))})"
    if several and (path.is_file() or suffix in SUFFIXES | CONTAINERS):
        raise UsageError(f"--out {out} is a file, but {what}: give a folder")
    if several:
        return path
    if suffix in known:
        return None
    if path.is_file():
        raise UsageError(f"--out {out} is a file: expected a folder, or {file}")
    if suffix:
        raise UsageError(f"--out {out} has the suffix {path.suffix}: expected a folder, or {file}")
    return path

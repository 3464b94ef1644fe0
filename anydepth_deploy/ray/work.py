"""What there is to do: pictures of folders, patterns, stores and addresses, or tables of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.detector.frames import VideoItem
from anydepth_deploy.detector.sources import Skipped, Skips, items_of
from anydepth_deploy.errors import ImageError, UsageError, shorten
from anydepth_deploy.pictures.drawings import DRAWING
from anydepth_deploy.pictures.folders import SUFFIXES, is_folder, look_into
from anydepth_deploy.ray.parts import is_part
from anydepth_deploy.ray.places import Place, place_of

__all__ = ["TABLES", "Work", "work_of"]

TABLES = ".parquet"
ADDRESS = re.compile("https?://", re.IGNORECASE)


@dataclass
class Work:
    """``pictures``: names, each once. ``tables``: Parquet files and their bytes. ``place``: of the
    file system of them all. ``skipped``: folders that cannot be looked into."""

    place: Place
    pictures: list[str] = field(default_factory=list)
    tables: list[tuple[Place, int]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def work_of(source: Any, filesystem: Any = None, out: Place | None = None) -> Work:
    """``source``: a folder (those below included), a picture, a pattern, an http or https address,
    a Parquet file or a folder of these, or a list; of a store, a folder or a file of it. Results
    beside tables, or in ``out``, are no tables.

    Raises :class:`ImageError` where there is nothing, :class:`UsageError` for what is no source.
    """
    texts = [str(item) for item in (source if isinstance(source, list | tuple) else [source])]
    if not texts:
        raise UsageError("no source is given: expected a folder, a table, or a list of these")
    places = [place_of("") if ADDRESS.match(text) else place_of(text, filesystem) for text in texts]
    work = Work(places[0])
    for text, place in zip(texts, places, strict=True):
        if place.filesystem != work.place.filesystem:
            raise UsageError(
                f"{shorten(texts, 2)} are of different file systems: give those of one at a time"
            )
        if not place.local:
            _stored(place, work, out)
        elif not _tables(text, place, work, out):
            _local(text, work)
    if work.pictures and work.tables:
        raise UsageError(
            f"{shorten(texts, 2)}: pictures and tables ({TABLES}) have different columns; give "
            "them one after the other, with a folder for each"
        )
    work.pictures = list(dict.fromkeys(work.pictures))
    work.tables = list({str(table): (table, size) for table, size in work.tables}.values())
    return work


def _stored(place: Place, work: Work, out: Place | None) -> None:
    files = place.files()
    pictures = [path for path, _ in files if _is_picture(path)]
    work.pictures += [str(place.at(path)) for path in pictures]
    tables = [] if pictures else _without_results(place, files, out)
    work.tables += [(place.at(path), size) for path, size in tables]
    if not pictures and not tables:
        raise ImageError(
            f"{place} holds neither pictures nor tables: it has {len(files)} files, expected "
            f"{', '.join(sorted(SUFFIXES))} or {TABLES}"
        )


def _is_picture(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return not name.startswith(".") and name.endswith(tuple(SUFFIXES)) and DRAWING not in name


def _without_results(
    place: Place, files: list[tuple[str, int]], out: Place | None
) -> list[tuple[str, int]]:
    """The tables among the ``files`` of ``place``. Results of this job are none, nor are those of
    others, which may lie below the same folder, unless there is nothing else: then they are meant.
    """
    own = None
    if out is not None and out.filesystem == place.filesystem:
        own = f"{out.path.rstrip('/')}/"
    tables = [
        file
        for file in files
        if file[0].lower().endswith(TABLES)
        and not (is_part(file[0]) and own is not None and file[0].startswith(own))
    ]
    return [file for file in tables if not is_part(file[0])] or tables


def _tables(text: str, place: Place, work: Work, out: Place | None) -> bool:
    """Whether it is a table, or a folder of tables and no pictures."""
    folder = not ADDRESS.match(text) and is_folder(Path(place.path))
    if folder and (found := look_into(place.path)) and not found.pictures and found.others[TABLES]:
        tables = _without_results(place, place.files(), out)
        if not tables:
            raise ImageError(f"folder {place} holds no table but the results in it")
    elif place.path.lower().endswith(TABLES):
        tables = place.files()
    else:
        return False
    if not tables:
        raise ImageError(f"table {place} does not exist")
    work.tables += [(place.at(path), size) for path, size in tables]
    return True


def _local(text: str, work: Work) -> None:
    plain = re.sub("^file://", "", text)
    for item in items_of(plain, Skips(work.skipped)):
        if isinstance(item, VideoItem):
            raise UsageError(f"{item.name} is a video: predict takes it, frame by frame")
        address = ADDRESS.match(item.name)
        work.pictures.append(item.name if address else str(Path(item.name).absolute()))

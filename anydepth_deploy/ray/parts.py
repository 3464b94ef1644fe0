"""A job in parts: each is one file of results, named after what is in it.

A part that is tried again, since its worker died, replaces its own file; a job that is started
again leaves out what readable files hold. A file is there when all of it is, or is thrown away; so
is one of a table that has changed since.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.ray.places import Place
from anydepth_deploy.ray.results import Results, read_results

__all__ = ["Part", "Written", "is_part", "part_files", "parts_of", "written"]

log = logging.getLogger("anydepth_deploy")

NAME = re.compile(r"part-[0-9a-f]{16}\.parquet")

READERS = 16
"""Threads that look into files of results: most of the time is that of a store's answers."""


@dataclass(frozen=True)
class Part:
    """``pictures``: by name; or else the row group ``group`` of the Parquet file ``table`` of
    ``size`` bytes, whose first row is row ``first`` of the file."""

    pictures: tuple[str, ...] = ()
    table: str = ""
    group: int = 0
    first: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        """Of its file: the same for a table that has changed, whose rows it replaces."""
        text = replace(self, first=0, size=0).to_text()
        return f"part-{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Part:
        content = json.loads(text)
        return cls(**{**content, "pictures": tuple(content["pictures"])})


@dataclass
class Written:
    """What is done: ``parts`` by the names of their files, ``pictures`` by their names, and how
    many ``rows`` that is. ``failures``: of parts with pictures that cannot be used, the names of
    all pictures, and of these."""

    parts: set[str] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)
    rows: int = 0
    failures: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    def add(self, name: str, found: Results) -> None:
        """The file ``name`` of results, with the columns ``path`` and ``error``."""
        paths, errors = (found.rows.column(one).to_pylist() for one in ("path", "error"))
        self.parts.add(name)
        self.pictures.update(paths)
        self.rows += len(paths)
        pairs = zip(paths, errors, strict=True)
        if failed := [path for path, error in pairs if error is not None]:
            self.failures[name] = paths, failed

    def forget_failures(self, pictures: Container[str], groups: Container[str]) -> list[Part]:
        """Take parts with pictures that could not be used for not done. Those of row groups are
        forgotten where ``groups`` has their names; those of any of ``pictures`` are returned, with
        the pictures that they had, so that they replace their files."""
        parts = []
        for name, (paths, failed) in self.failures.items():
            part = Part(tuple(paths))
            if name not in groups:
                if part.name != name or not any(path in pictures for path in failed):
                    continue
                parts.append(part)
            self.parts.discard(name)
            self.pictures.difference_update(paths)
            self.rows -= len(paths)
        return parts


def parts_of(names: Sequence[str], count: int, done: Written) -> list[Part]:
    """The pictures ``names`` that are not done yet, ``count`` a part."""
    left = [name for name in names if name not in done.pictures]
    return [Part(tuple(left[begin : begin + count])) for begin in range(0, len(left), count)]


def is_part(path: str) -> bool:
    """Whether a file is called like one of results."""
    return NAME.fullmatch(path.rpartition("/")[2]) is not None


def part_files(out: Place) -> list[Place]:
    """The files in ``out`` that are called like those of parts."""
    return [out.at(path) for path, _ in out.files() if is_part(path)]


def written(
    out: Place, record: Mapping[str, Any], tables: Mapping[str, int] | None = None
) -> Written:
    """What is done of the job with this ``record``. Files that are cut short are removed, and so
    are those of ``tables``, by name, that were of another size in bytes than they are now.

    Raises :class:`UsageError` where files are of another job, and :class:`ImageError` where they
    cannot be looked into.
    """
    done, sizes = Written(), tables or {}
    gone: list[Place] = []
    changed: set[str] = set()
    with ThreadPoolExecutor(READERS) as pool:
        for place, found in pool.map(_look, part_files(out)):
            if found is None:
                gone.append(place)
                continue
            other = [key for key in record if found.record.get(key) != record[key]]
            if other:
                raise UsageError(
                    f"{out} holds results of another job: its {other[0]} is "
                    f"{_said(found.record.get(other[0]))}, expected {_said(record[other[0]])}; "
                    "choose another folder, or remove it"
                )
            if sizes.get(found.table, found.size) != found.size:
                gone.append(place)
                changed.add(found.table)
                continue
            done.add(place.path.rpartition("/")[2], found)
    if changed:
        log.warning(
            "results of tables that have changed are made anew: %s", shorten(sorted(changed), 3)
        )
    for place in gone:  # when nothing is refused any more
        place.delete()
    return done


def _said(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)[:80]


def _look(place: Place) -> tuple[Place, Results | None]:
    return place, read_results(place, ["path", "error"])

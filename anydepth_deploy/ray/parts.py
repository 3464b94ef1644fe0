"""A job in parts: each is one file of results, named after what is in it.

A part that is tried again, since its worker died, replaces its own file; a job that is started
again leaves out what readable files hold. A file is there when all of it is, or is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from anydepth_deploy.errors import ImageError, UsageError, first_line
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.places import Place

__all__ = ["Part", "Written", "part_files", "parts_of", "record_of", "with_record", "written"]

KEY = b"anydepth-deploy"
"""Of the metadata of a file of results, beside its schema: the record of the job, in JSON."""

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
        """Of its file."""
        return f"part-{hashlib.sha256(self.to_text().encode()).hexdigest()[:16]}.parquet"

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Part:
        content = json.loads(text)
        return cls(**{**content, "pictures": tuple(content["pictures"])})


@dataclass
class Written:
    """What is done: ``parts`` by the names of their files, ``pictures`` by their names, and how
    many ``rows`` that is."""

    parts: set[str] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)
    rows: int = 0


def parts_of(names: Sequence[str], count: int, done: Written) -> list[Part]:
    """The pictures ``names`` that are not done yet, ``count`` a part."""
    left = [name for name in names if name not in done.pictures]
    return [Part(tuple(left[begin : begin + count])) for begin in range(0, len(left), count)]


def with_record(table: Any, record: Mapping[str, Any]) -> Any:
    """A table of Arrow that remembers the job that it is of."""
    return table.replace_schema_metadata({KEY: json.dumps(dict(record)).encode()})


def record_of(file: Any, place: Place) -> dict[str, Any]:
    """The record in an opened Parquet file. Raises :class:`UsageError` where there is none."""
    text = (file.schema_arrow.metadata or {}).get(KEY)
    if text is None:
        raise UsageError(
            f"{place} is no file of this job, though it is called like one: choose another folder"
        )
    found: dict[str, Any] = json.loads(text)
    return found


def part_files(out: Place) -> list[Place]:
    """The files in ``out`` that are called like those of parts."""
    paths = [path for path, _ in out.files()]
    return [out.at(path) for path in paths if NAME.fullmatch(path.rpartition("/")[2])]


def written(out: Place, record: Mapping[str, Any]) -> Written:
    """What is done of the job with this ``record``; files that are cut short are removed.

    Raises :class:`UsageError` where files are of another job, and :class:`ImageError` where they
    cannot be looked into.
    """
    done = Written()
    with ThreadPoolExecutor(READERS) as pool:
        for place, found in pool.map(_look, part_files(out)):
            if found is None:
                out.filesystem.delete_file(place.path)
                continue
            of, paths = found
            other = [key for key in record if of.get(key) != record[key]]
            if other:
                raise UsageError(
                    f"{out} holds results of another job: its {other[0]} is "
                    f"{_said(of.get(other[0]))}, expected {_said(record[other[0]])}; choose "
                    "another folder, or remove it"
                )
            done.parts.add(place.path.rpartition("/")[2])
            done.pictures.update(paths)
            done.rows += len(paths)
    return done


def _said(value: Any) -> str:
    return json.dumps(value)[:80]


def _look(place: Place) -> tuple[Place, tuple[dict[str, Any], list[str]] | None]:
    """The record of a file and the names of its pictures; None where it is cut short."""
    pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    with place.open() as opened:
        try:
            file = parquet.ParquetFile(opened)
        except pa.ArrowInvalid:  # no footer: whoever wrote it was ended
            return place, None
        record = record_of(file, place)
        try:
            return place, (record, file.read(columns=["path"]).column("path").to_pylist())
        except (OSError, ValueError, KeyError) as error:
            raise ImageError(f"{place} cannot be read: {first_line(error)}") from None


def groups_of(table: Place, size: int) -> Iterator[Part]:
    """A part for each row group of a Parquet file. Raises :class:`ImageError`."""
    parquet = needed("pyarrow.parquet")
    with table.open() as opened:
        try:
            metadata = parquet.ParquetFile(opened).metadata
        except (OSError, ValueError) as error:
            raise ImageError(f"table {table} is no Parquet file: {first_line(error)}") from None
        first = 0
        for group in range(metadata.num_row_groups):
            yield Part((), str(table), group, first, size)
            first += metadata.row_group(group).num_rows

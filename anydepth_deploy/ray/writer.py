"""What a worker of a job does: parts in, files of results out. It is an actor of Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from anydepth_deploy.detector.items import Item
from anydepth_deploy.errors import AnyDepthError, ImageError, first_line
from anydepth_deploy.ray.cells import item_of
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.parts import Part, with_record
from anydepth_deploy.ray.places import Place, StoredPicture
from anydepth_deploy.ray.stage import Detect

__all__ = ["PartWriter"]

ROWS = 64
"""Of a table that are in memory at once: they may hold pictures."""

MOST_FAILURES = 20
"""Pictures of a part that are named in the report; its file names all."""


class PartWriter:
    """Opens the bundle once, and writes a file in ``out`` for each part that it is given.

    ``source``: of the file system of pictures and tables. ``record``: kept in each file.
    ``detect``: arguments of :class:`Detect`."""

    def __init__(
        self, out: Place, source: Place, record: Mapping[str, Any], detect: Mapping[str, Any]
    ) -> None:
        self._out = out
        self._source = source
        self._record = record
        self._refused: AnyDepthError | None = None
        try:
            self._detect = Detect(**detect)
        except AnyDepthError as error:
            # Told by `ready`: of what a constructor raises, Ray passes on a text alone.
            self._refused = error

    def ready(self) -> None:
        """Raises what opening the bundle has raised."""
        if self._refused is not None:
            raise self._refused

    def write(self, text: str) -> dict[str, Any]:
        """Write the part that ``text`` tells, and return how many ``pictures`` it has, how many of
        them ``failed``, which these are (``failures``: names and errors, of the first), and the
        ``seconds`` that it took."""
        part = Part.from_text(text)
        pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
        begin = time.monotonic()
        table = self._of_table(part) if part.table else self._of_pictures(part.pictures)
        sink = pa.BufferOutputStream()
        parquet.write_table(with_record(table, self._record), sink)
        self._out.below(part.name).write(memoryview(sink.getvalue()))
        failed = table.filter(pa.compute.is_valid(table.column("error")))
        named = failed.slice(0, MOST_FAILURES).select(["path", "error"]).to_pylist()
        return {
            "pictures": table.num_rows,
            "failed": failed.num_rows,
            "seconds": time.monotonic() - begin,
            "failures": [(row["path"], row["error"]) for row in named],
        }

    def _of_pictures(self, names: Sequence[str]) -> Any:
        pa = needed("pyarrow")
        return self._detect.table(
            [self._item(name) for name in names], {"path": pa.array(names, pa.string())}
        )

    def _item(self, name: str) -> Item:
        if self._source.local:
            return item_of(name, name)
        return StoredPicture(self._source.at(name[len(self._source.prefix) :]))

    def _of_table(self, part: Part) -> Any:
        pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
        place = self._source.at(part.table[len(self._source.prefix) :])
        tables, row = [], part.first
        with place.open() as opened:
            try:
                file = parquet.ParquetFile(opened)
                for rows in file.iter_batches(ROWS, row_groups=[part.group]):
                    tables.append(self._detect(_named(pa.Table.from_batches([rows]), place, row)))
                    row += rows.num_rows
            except (OSError, pa.ArrowException) as error:
                raise ImageError(f"table {place} cannot be read: {first_line(error)}") from None
        return pa.concat_tables(tables)


def _named(table: Any, place: Place, first: int) -> Any:
    """Rows that have no ``path`` are called by their file and their number in it, as frames are."""
    if "path" in table.column_names:
        return table
    pa = needed("pyarrow")
    names = [f"{place}#{row}" for row in range(first, first + table.num_rows)]
    return table.append_column("path", pa.array(names, pa.string()))

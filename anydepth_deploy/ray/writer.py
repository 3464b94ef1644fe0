"""What a worker of a job does: parts in, files of results out. It is an actor of Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from anydepth_deploy.detector.items import Item
from anydepth_deploy.errors import AnyDepthError, ImageError, first_line
from anydepth_deploy.ray.cells import item_of
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.parts import Part
from anydepth_deploy.ray.places import Place, StoredPicture
from anydepth_deploy.ray.results import with_record
from anydepth_deploy.ray.stage import Detect
from anydepth_deploy.ray.tables import columns_of, paths_of

__all__ = ["PartWriter", "UnwrittenError"]

ROWS = 64
"""Of a table that are in memory at once: they may hold pictures."""

MOST_FAILURES = 20
"""Pictures of a part that are named in the report; its file names all."""


class UnwrittenError(ImageError):
    """Results that cannot be written: other parts will hardly fare better."""


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
        self._columns = detect.get("column"), detect.get("keep")
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
        ``seconds`` that it took.

        Raises :class:`ImageError` where its table cannot be read, :class:`UsageError` for columns
        of it that do not fit, and :class:`UnwrittenError`."""
        part = Part.from_text(text)
        pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
        begin = time.monotonic()
        table = self._of_table(part) if part.table else self._of_pictures(part.pictures)
        sink = pa.BufferOutputStream()
        parquet.write_table(with_record(table, self._record, part.table, part.size), sink)
        try:
            self._out.below(part.name).write(memoryview(sink.getvalue()))
        except ImageError as error:
            raise UnwrittenError(error) from None
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
                for batch in file.iter_batches(ROWS, row_groups=[part.group]):
                    rows = pa.Table.from_batches([batch])
                    tables.append(self._of_rows(rows, place, row))
                    row += rows.num_rows
                return pa.concat_tables(tables)
            except (OSError, pa.ArrowException) as error:
                raise ImageError(f"table {place} cannot be read: {first_line(error)}") from None

    def _of_rows(self, rows: Any, place: Place, first: int) -> Any:
        chosen = columns_of(place, rows.schema, *self._columns)
        paths = paths_of(rows, place, first)
        kept = {name: paths if name == "path" else rows.column(name) for name in chosen.kept}
        cells = zip(rows.column(chosen.pictures).to_pylist(), paths.to_pylist(), strict=True)
        return self._detect.table([item_of(cell, name) for cell, name in cells], kept)

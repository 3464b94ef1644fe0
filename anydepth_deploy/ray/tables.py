"""Tables with pictures: what their columns give, their row groups, and what rows are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anydepth_deploy.errors import ImageError, UsageError, first_line, shorten
from anydepth_deploy.ray.columns import Chosen, chosen_columns
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.parts import Part
from anydepth_deploy.ray.places import Place

__all__ = ["columns_of", "groups_of", "paths_of"]


def columns_of(
    table: Place, schema: Any, column: str | None = None, keep: Sequence[str] | None = None
) -> Chosen:
    """Which columns of a table with this ``schema`` of Arrow a job reads: ``column`` and ``keep``
    as for :class:`Detect`, and ``path`` beside these, whose names results are known by.

    Raises :class:`UsageError` for columns that do not fit.
    """
    names = list(schema.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"table {table} has several columns of one name: {shorten(twice)}")
    try:
        chosen = chosen_columns(names, column, keep)
    except UsageError as error:
        raise UsageError(f"table {table}: {error}") from None
    if "path" in names and not _is_text(kind := schema.field("path").type):
        raise UsageError(
            f"table {table}: its column 'path' is of type {kind}: expected text, by which results "
            "are known; rename it"
        )
    if "path" in chosen.kept:
        return chosen
    return Chosen(chosen.pictures, ("path", *chosen.kept))


def _is_text(kind: Any) -> bool:
    of = needed("pyarrow").types
    kind = kind.value_type if of.is_dictionary(kind) else kind
    return bool(of.is_string(kind) or of.is_large_string(kind) or of.is_null(kind))


def paths_of(rows: Any, table: Place, first: int) -> Any:
    """The names of ``rows``, the first of which is row ``first`` of the file, as an array of
    strings: their ``path``; where they have none, their file and their number in it, as frames
    are called."""
    pa, compute = needed("pyarrow"), needed("pyarrow.compute")
    numbered = [f"{table}#{row}" for row in range(first, first + rows.num_rows)]
    names = pa.chunked_array([pa.array(numbered, pa.string())])
    if "path" not in rows.column_names:
        return names
    return compute.coalesce(rows.column("path").cast(pa.string()), names)


def groups_of(
    table: Place, size: int, column: str | None = None, keep: Sequence[str] | None = None
) -> Iterator[Part]:
    """A part for each row group of a Parquet file that has rows. Raises :class:`ImageError` for
    what is no such file, and :class:`UsageError` where its columns do not fit."""
    pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    with table.open() as opened:
        try:
            file = parquet.ParquetFile(opened)
            metadata, schema = file.metadata, file.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ImageError(f"table {table} is no Parquet file: {first_line(error)}") from None
    if metadata.num_rows:
        columns_of(table, schema, column, keep)
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if rows:
            yield Part((), str(table), group, first, size)
        first += rows

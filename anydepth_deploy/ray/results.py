"""Files of results, read with care: they may be cut short, damaged, or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.errors import ImageError, UsageError, first_line
from anydepth_deploy.ray.columns import result_types
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.places import Place

__all__ = ["Results", "damaged", "read_results", "with_record"]

KEY = b"anydepth-deploy"
"""Of the metadata of a file of results, beside its schema: the record of the job, in JSON."""

TABLE = b"anydepth-deploy table"
"""And of which table its rows are, and of how many bytes this was."""


@dataclass(frozen=True)
class Results:
    """``record``: of the job. ``rows``: a table of Arrow of the columns that were asked for.
    ``table``: whose rows these are, of ``size`` bytes; empty where it is of pictures."""

    record: dict[str, Any]
    rows: Any
    table: str = ""
    size: int = 0


def with_record(rows: Any, record: Mapping[str, Any], table: str = "", size: int = 0) -> Any:
    """A table of Arrow that remembers what it is of; see :class:`Results`."""
    of = {TABLE: json.dumps([table, size])} if table else {}
    return rows.replace_schema_metadata({KEY: json.dumps(dict(record)), **of})


def damaged(place: Place, told: str) -> ImageError:
    """What is said of a file whose content cannot be as it is."""
    return ImageError(
        f"{place} cannot be read: {told}; where it is damaged, remove it, and start the job again"
    )


def read_results(place: Place, columns: Sequence[str]) -> Results | None:
    """A file of results; None where it is cut short. ``columns``: which to read, of the types that
    they were written with.

    Raises :class:`UsageError` where it is no file of results, and :class:`ImageError` where it
    cannot be read.
    """
    pa, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    with place.open() as opened:
        try:
            file = parquet.ParquetFile(opened)
        except pa.ArrowInvalid:  # no footer: whoever wrote it was ended
            return None
        except (OSError, pa.ArrowException) as error:
            raise damaged(place, first_line(error)) from None
        record, of = _noted(file.schema_arrow.metadata or {}, place)
        try:
            kinds = result_types()
            schema = pa.schema([(name, kinds[name]) for name in columns])
            rows = file.read(columns=list(columns)).select(list(columns)).cast(schema)
            rows.validate(full=True)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise damaged(place, first_line(error)) from None
    if "path" in columns and rows.column("path").null_count:
        raise damaged(place, "it has rows without a path")
    return Results(record, rows, *of)


def _noted(metadata: Mapping[bytes, bytes], place: Place) -> tuple[dict[str, Any], list[Any]]:
    """The record, and of which table a file is."""
    try:
        record, of = json.loads(metadata[KEY]), json.loads(metadata.get(TABLE, b"[]"))
    except (KeyError, ValueError):
        record, of = None, []
    if not isinstance(record, dict) or [type(one) for one in of] not in ([], [str, int]):
        raise UsageError(
            f"{place} is no file of this job, though it is called like one: choose another folder"
        )
    return record, of

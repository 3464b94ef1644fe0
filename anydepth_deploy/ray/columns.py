"""Results as columns of a table of Arrow, one row a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.detector.result import Result
from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.ray.cells import NAMING, picture_column
from anydepth_deploy.ray.needed import needed

__all__ = ["NAMES", "Chosen", "check_kept", "chosen_columns", "found_table", "result_types"]

NAMES = ("depth", "height", "width", "boxes", "scores", "labels", "names", "error")


@dataclass(frozen=True)
class Chosen:
    """Columns of a table: ``pictures`` has these, those that are ``kept`` stay beside results."""

    pictures: str
    kept: tuple[str, ...]


def chosen_columns(
    names: Sequence[str], column: str | None = None, keep: Sequence[str] | None = None
) -> Chosen:
    """What a table with the columns ``names`` gives: ``column`` and ``keep`` are those of
    :class:`Detect`. Raises :class:`UsageError` for columns that do not fit."""
    pictures = picture_column(names, column)
    if isinstance(keep, str):
        raise UsageError(f"keep is '{keep}': expected a list of columns")
    if keep is None:
        kept = tuple(name for name in names if name != pictures or name in NAMING)
    else:
        kept = tuple(keep)
        missing = [name for name in kept if name not in names]
        if missing:
            raise UsageError(
                f"keep names no column of the table: {shorten(missing)}; it has {shorten(names)}"
            )
    check_kept(kept)
    return Chosen(pictures, kept)


def check_kept(names: Sequence[str]) -> None:
    """Raise :class:`UsageError` where a column that is kept would be hidden by a result's."""
    taken = [name for name in names if name in NAMES]
    if taken:
        raise UsageError(
            f"columns of results are called like columns of the table: {shorten(taken)}; rename "
            "these, or say with keep= which columns to keep"
        )


def result_types() -> dict[str, Any]:
    """The types of Arrow of the columns of files of results."""
    pa = needed("pyarrow")
    texts, scores = pa.list_(pa.string()), pa.list_(pa.float32())
    boxes, labels = pa.list_(pa.list_(pa.float32())), pa.list_(pa.int64())
    sides = {"height": pa.int32(), "width": pa.int32()}
    found = {"boxes": boxes, "scores": scores, "labels": labels, "names": texts}
    return {"path": pa.string(), "depth": pa.string(), **sides, **found, "error": pa.string()}


def found_table(
    found: Sequence[Result | None],
    errors: Mapping[int, str],
    depth: str,
    kept: Mapping[str, Any],
) -> Any:
    """A :class:`pyarrow.Table` of the columns ``kept`` and of what was found:

    ``depth`` string; ``height`` and ``width`` int32, of the picture; ``boxes`` lists [K] of lists
    [4] of float32 (x1, y1, x2, y2 in pixels of the picture), ``scores`` lists [K] of float32,
    ``labels`` lists [K] of int64, ``names`` lists [K] of strings, best first; ``error`` string. Of
    a picture that cannot be used, ``error`` says why, and the others but ``depth`` are null.
    """
    pa = needed("pyarrow")
    check_kept([*kept])

    def of(take: Any) -> list[Any]:
        return [None if result is None else take(result) for result in found]

    columns = {
        "depth": [depth] * len(found),
        "height": of(lambda result: result.size[0]),
        "width": of(lambda result: result.size[1]),
        "boxes": of(lambda result: result.boxes.tolist()),
        "scores": of(lambda result: result.scores.tolist()),
        "labels": of(lambda result: result.labels.tolist()),
        "names": of(lambda result: result.names),
        "error": [errors.get(place) for place in range(len(found))],
    }
    kinds = result_types()
    results = {name: pa.array(cells, type=kinds[name]) for name, cells in columns.items()}
    return pa.table({**kept, **results})

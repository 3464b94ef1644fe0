"""Results as columns of a table of Arrow, one row a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anydepth_deploy.detector.result import Result
from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.ray.needed import needed

__all__ = ["NAMES", "check_kept", "found_table"]

NAMES = ("depth", "height", "width", "boxes", "scores", "labels", "names", "error")


def check_kept(names: Sequence[str]) -> None:
    """Raise :class:`UsageError` where a column that is kept would be hidden by a result's."""
    taken = [name for name in names if name in NAMES]
    if taken:
        raise UsageError(
            f"columns of results are called like columns of the table: {shorten(taken)}; rename "
            "these, or say with keep= which columns to keep"
        )


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

    def column(kind: Any, values: list[Any]) -> Any:
        return pa.array(values, type=kind)

    def of(take: Any) -> list[Any]:
        return [None if result is None else take(result) for result in found]

    columns = {
        "depth": column(pa.string(), [depth] * len(found)),
        "height": column(pa.int32(), of(lambda result: result.size[0])),
        "width": column(pa.int32(), of(lambda result: result.size[1])),
        "boxes": column(pa.list_(pa.list_(pa.float32())), of(lambda result: result.boxes.tolist())),
        "scores": column(pa.list_(pa.float32()), of(lambda result: result.scores.tolist())),
        "labels": column(pa.list_(pa.int64()), of(lambda result: result.labels.tolist())),
        "names": column(pa.list_(pa.string()), of(lambda result: result.names)),
        "error": column(pa.string(), [errors.get(place) for place in range(len(found))]),
    }
    return pa.table({**kept, **columns})

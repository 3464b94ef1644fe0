"""A stage of Ray Data: one detector a worker, batches of pictures in, tables of results out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anydepth_deploy.depth import Depth
from anydepth_deploy.detector.detector import load
from anydepth_deploy.detector.items import Item, NumberedItem
from anydepth_deploy.detector.result import Result, check_threshold
from anydepth_deploy.detector.sources import Skipped
from anydepth_deploy.ray.cells import NAMING, item_of
from anydepth_deploy.ray.columns import chosen_columns, found_table
from anydepth_deploy.ray.needed import needed

__all__ = ["Detect"]

AHEAD = 4
"""Pictures that are read while others are computed."""


class Detect:
    """Opens the bundle in folder ``bundle`` once a worker, and detects objects in batches::

        import ray
        from anydepth_deploy.ray import Detect

        pictures = ray.data.read_binary_files("photos", include_paths=True)
        found = pictures.map_batches(
            Detect,
            fn_constructor_args=("engines/r50", "base"),
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=8,
        )

    ``depth``: one for all pictures. ``threshold``: lowest score. ``column``: that has the pictures,
    by default the first that is there of ``bytes`` (of files), ``image`` (pixels uint8 [H, W, 3],
    bytes of files, or what Hugging Face's data sets have there), ``path`` and ``url``. ``keep``:
    columns that results are put beside, by default all but that of the pictures themselves.
    ``batch``: pictures of a call of the network, at most. ``ahead``: pictures that are read, in
    threads, while others are computed. ``threads``: inside one operator; with one, as many workers
    as there are cores share them. ``options``: as for :func:`anydepth_deploy.load`.

    A picture that cannot be used has an ``error`` in its row, and the others go on. Workers open
    the bundle by its path, so each machine has to see it there.

    Raises what :func:`anydepth_deploy.load` raises, :class:`DepthError`, and
    :class:`MissingExtraError` without pyarrow.
    """

    def __init__(
        self,
        bundle: str | Path,
        depth: str = "super",
        threshold: float = 0.5,
        *,
        column: str | None = None,
        keep: Sequence[str] | None = None,
        batch: int = 1,
        ahead: int = AHEAD,
        threads: int = 1,
        **options: Any,
    ) -> None:
        needed("pyarrow")
        check_threshold(threshold)
        self.detector = load(bundle, threads=threads, **options)
        self.depth: Depth = self.detector.bundle.table.find(depth)
        self.threshold = threshold
        self._column = column
        self._keep = keep
        self._batch = batch
        self._ahead = ahead
        self.detector.session.load([self.depth])

    def __call__(self, batch: Any) -> Any:
        """A :class:`pyarrow.Table` of a row for each picture of ``batch``, in order: the columns
        that are kept, and those of :func:`~anydepth_deploy.ray.columns.found_table`. ``batch``: a
        mapping of arrays, as Ray Data gives it by default, or a table of Arrow.

        Raises :class:`UsageError` for columns that do not fit.
        """
        names = list(batch if isinstance(batch, Mapping) else batch.column_names)
        chosen = chosen_columns(names, self._column, self._keep)
        kept = {name: _arrow(batch, name) for name in chosen.kept}
        cells = _cells(batch, chosen.pictures)
        calling = next((name for name in NAMING if name in names and name != chosen.pictures), None)
        called = [None] * len(cells) if calling is None else _cells(batch, calling)
        items = [
            item_of(cell, str(called[row] or f"in row {row} of a batch"))
            for row, cell in enumerate(cells)
        ]
        return self.table(items, kept)

    def table(self, items: Sequence[Item], kept: Mapping[str, Any]) -> Any:
        """The same of pictures: a row for each, beside the columns ``kept``."""
        found: list[Result | None] = [None] * len(items)
        errors: dict[int, str] = {}
        for row, result in self.results(items):
            if isinstance(result, str):
                errors[row] = result
            else:
                found[row] = result
        return found_table(found, errors, str(self.depth), kept)

    def results(self, items: Iterable[Item]) -> Iterator[tuple[int, Result | str]]:
        """Of every picture its number and what was found, or why it cannot be used; those of the
        first kind are in order."""
        skipped: list[Skipped] = []
        waiting: list[int] = []

        def numbered() -> Iterator[NumberedItem]:
            for number, item in enumerate(items):
                waiting.append(number)
                yield NumberedItem(number, item)

        stream = self.detector.stream(
            numbered(), self.depth, self.threshold, self._batch, ahead=self._ahead, skipped=skipped
        )
        with contextlib.closing(stream):  # type: ignore[type-var]  # a generator
            for result in stream:
                yield from _failures(skipped, waiting)
                yield waiting.pop(0), result
        yield from _failures(skipped, waiting)


def _failures(skipped: list[Skipped], waiting: list[int]) -> Iterator[tuple[int, str]]:
    """What was skipped since: it waits no more."""
    while skipped:
        failed = skipped.pop(0)
        waiting.remove(int(failed.image))
        yield int(failed.image), failed.error


def _cells(batch: Any, name: str) -> list[Any]:
    """Of a mapping of arrays, or a table of Arrow."""
    if isinstance(batch, Mapping):
        values = batch[name]
        return list(values) if getattr(values, "ndim", 1) > 1 else np.asarray(values).tolist()
    return list(batch.column(name).to_pylist())


def _arrow(batch: Any, name: str) -> Any:
    """The same as a column of Arrow."""
    if not isinstance(batch, Mapping):
        return batch.column(name)
    pa = needed("pyarrow")
    return pa.array([_plain(cell) for cell in _cells(batch, name)])


def _plain(cell: Any) -> Any:
    return cell.tolist() if isinstance(cell, np.ndarray) else cell

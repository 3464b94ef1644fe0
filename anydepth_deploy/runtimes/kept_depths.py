"""A gated graph compiled once for each depth that is run: the depths used last are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import InputError

__all__ = ["KeptDepths", "row_fed"]

Compiled = TypeVar("Compiled")


class KeptDepths(Generic[Compiled]):
    """What was compiled, by row of the depth table; at most ``most``, the latest used.

    May be called from several threads. Who wants a depth that is compiled does not wait for the
    compilation of another; who wants the same one waits for it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._places: OrderedDict[int, _Place[Compiled]] = OrderedDict()

    def at(self, row: int, compile_row: Callable[[int], Compiled]) -> Compiled:
        """What ``compile_row`` makes of ``row``, now or before; what it raises, the next caller
        tries again."""
        with self._lock:
            place = self._places.setdefault(row, _Place())
            self._places.move_to_end(row)
            if len(self._places) > self._most:
                self._places.popitem(last=False)  # who runs it has its own share of it
        with place.lock:
            if place.compiled is None:
                place.compiled = compile_row(row)
            return place.compiled

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that are kept, the latest used last."""
        with self._lock:
            return tuple(self._places)


class _Place(Generic[Compiled]):
    """A place for what is compiled, and who compiles it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.compiled: Compiled | None = None


def row_fed(depth: NDArray[Any], rows: int, name: str) -> int:
    """The row in the input ``depth`` of the graph ``name``, whose table has so many ``rows``.

    Raises :class:`InputError` for anything else: a row that is a constant asks no runtime.
    """
    value = np.asarray(depth)
    if value.shape != () or value.dtype.kind not in "iu" or not 0 <= int(value) < rows:
        raise InputError(
            f"{name}: depth is {value.dtype} {value.tolist()}; expected one integer, a row of the "
            f"depth table, 0 to {rows - 1}"
        )
    return int(value)

"""The most pairs that can be made: maximum matching in a bipartite graph. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["maximum_matching"]


def maximum_matching(close: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The partner of each row, [rows], -1 for none: ``close`` [rows, columns] says who may be whose
    partner, each has one at most, and no choice gives more pairs.

    Paths that begin and end at who has no partner, and turn pairs over on their way (Berge, 1957),
    are looked for in breadth.
    """
    partner = np.full(close.shape[0], -1, np.intp)
    row_of = np.full(close.shape[1], -1, np.intp)
    for row, allowed in enumerate(close):  # most find one at once
        free = allowed & (row_of < 0)
        if free.any():
            column = int(free.argmax())
            partner[row], row_of[column] = column, row
    for row in np.flatnonzero(partner < 0):
        _augment(int(row), close, partner, row_of)
    return partner


def _augment(
    start: int,
    close: NDArray[np.bool_],
    partner: NDArray[np.intp],
    row_of: NDArray[np.intp],
) -> None:
    """Give ``start`` a partner, if others can take another one for that."""
    comes_from = np.full(close.shape[1], -1, np.intp)
    frontier = [start]
    while frontier:
        reached: list[int] = []
        for row in frontier:
            new = np.flatnonzero(close[row] & (comes_from < 0))
            comes_from[new] = row
            free = new[row_of[new] < 0]
            if free.size:
                _turn(int(free[0]), start, comes_from, partner, row_of)
                return
            reached += row_of[new].tolist()
        frontier = reached


def _turn(
    column: int,
    start: int,
    comes_from: NDArray[np.intp],
    partner: NDArray[np.intp],
    row_of: NDArray[np.intp],
) -> None:
    """Pair all along the way that led to ``column``."""
    while True:
        row = int(comes_from[column])
        left = int(partner[row])
        partner[row], row_of[column] = column, row
        if row == start:
            return
        column = left

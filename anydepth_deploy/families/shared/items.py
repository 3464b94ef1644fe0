"""Raw outputs as lists of items: what an engine and its graph say about the same query or cell.

Two executions of one network may choose other queries where scores tie, and in another order; the
encoder token that a query came from is what identifies it. Cells stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Items"]

LARGEST_PRINT = 1 << 17
"""Numbers of a quantity that :meth:`Items.thinned` leaves."""


@dataclass(frozen=True)
class Items:
    """The items of N images.

    ``values``: by quantity, [N, items, numbers]; ``tokens``: int64 [N, items], the encoder token
    of each query; None where items are cells, which need no name.
    """

    values: Mapping[str, NDArray[np.generic]]
    tokens: NDArray[np.int64] | None = None

    def images(self, index: NDArray[np.intp]) -> Items:
        """These images, in this order."""
        tokens = None if self.tokens is None else self.tokens[index]
        return Items({name: array[index] for name, array in self.values.items()}, tokens)

    def thinned(self) -> Items:
        """Evenly spaced cells, few enough to be kept for every depth; queries all stay."""
        if self.tokens is not None:
            return self
        widest = max(array.size for array in self.values.values())
        step = math.ceil(widest / LARGEST_PRINT)
        return Items({name: array[:, ::step].copy() for name, array in self.values.items()})

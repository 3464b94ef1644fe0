"""What raw outputs mean: what every family says of them, and what verifying asks. NumPy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.detections import Detections
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.tolerances import EngineTolerances, Size, Tolerances
from anydepth_deploy.suppression import Suppression

__all__ = ["Outputs", "Raw"]

Raw = Mapping[str, NDArray[np.generic]]
"""Raw outputs by their public names, those of :attr:`AnyDepthModel.raw_outputs`."""


class Outputs(ABC):
    """What the raw outputs of a family's networks mean, and how far an artifact's may be off.

    A *quantity* is an array of one unit; an *item* is what an engine and its graph say something
    about: a query, a cell.
    """

    coordinates: tuple[str, ...] = ("boxes",)
    """Quantities that hold boxes or points: an item's numbers are judged together, against the
    root mean square of all. Of the others (scores, logits) each number is judged by itself, where
    it is large."""

    choice: str | None = None
    """The raw output int64 [N, Q] that says which tokens became queries, the indices of a TopK over
    a score (a logit) of every token; None where nothing is chosen."""

    def quantities(self, raw: Raw) -> dict[str, NDArray[np.generic]]:
        """Raw outputs, taken apart where one array holds quantities of different units."""
        return dict(raw)

    @abstractmethod
    def items(self, raw: Raw) -> Items:
        """The items of raw outputs: by quantity, [N, items, numbers]."""

    @abstractmethod
    def detections(self, raw: Raw, size: Size, places: int, rule: Suppression | None) -> Detections:
        """The detections that follow from raw outputs, as the network's last stage makes them.

        ``size``: of the input; boxes are in its pixels. ``places``: how many detections there are
        at most. ``rule``: of non-maximum suppression, where the bundle has one.
        """

    @abstractmethod
    def tolerances(self, size: Size, precision: str) -> Tolerances | None:
        """What parity with the checkpoint means for inputs of ``size`` at ``precision`` (fp32,
        fp16, bf16 or int8), every quantity with a limit; None for a precision that the family does
        not offer."""

    def engine_tolerances(self, size: Size, precision: str) -> EngineTolerances | None:
        """How far an engine may be from its graph (fp32, fp16 or int8); None where the family does
        not say, which leaves its engines unverified."""
        return None

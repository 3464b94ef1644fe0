"""What the raw outputs of AnyDepth-YOLO mean, and how exactly they must be repeated. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.detections import Detections
from anydepth_deploy.families.family import Outputs, Raw
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.tolerances import (
    EngineLimits,
    EngineTolerances,
    Limits,
    Size,
    Tolerances,
    approximate,
    approximate_engine,
    exact_engine,
)
from anydepth_deploy.suppression import Suppression, suppress

__all__ = ["YoloOutputs"]

APPROXIMATE: Limits = {
    "fp16": ({"boxes": 0.002, "scores": 0.006}, 0.0),
    "bf16": ({"boxes": 0.01, "scores": 0.05}, 0.0),
    "int8": ({"boxes": 0.08, "scores": 0.25}, 0.0),
}
"""Relative errors of the quantities of the raw output, by precision: about three times what the
trained tiny network shows at its worst rung. There is no choice to judge."""

ENGINES = {
    "fp16": EngineLimits(
        raw={"boxes": 0.002, "scores": 0.008},
        typical={"boxes": 0.0004, "scores": 0.006},
        bias={"boxes": 0.0003, "scores": 0.005},
    ),
    "int8": EngineLimits(
        raw={"boxes": 0.065, "scores": 0.35},
        typical={"boxes": 0.02, "scores": 0.4},
        bias={"boxes": 0.0045, "scores": 0.05},
    ),
}
"""Found as those of AnyDepth-DETR were
(:data:`anydepth_deploy.families.shared.detr.outputs.ENGINES`)."""


class YoloOutputs(Outputs):
    """``predictions`` [N, 4 + classes, A]: cx, cy, w, h in input pixels, then the score of each
    class in 0..1; A cells."""

    def quantities(self, raw: Raw) -> dict[str, NDArray[np.generic]]:
        """``boxes`` [N, 4, A] and ``scores`` [N, classes, A]."""
        predictions = raw["predictions"]
        return {"boxes": predictions[:, :4], "scores": predictions[:, 4:]}

    def items(self, raw: Raw) -> Items:
        """Cells, which stay where they are."""
        found = self.quantities(raw)
        return Items({name: np.swapaxes(array, 1, 2) for name, array in found.items()})

    def detections(self, raw: Raw, size: Size, places: int, rule: Suppression | None) -> Detections:
        """What suppression leaves; without a ``rule``, with its defaults."""
        predictions = raw["predictions"].astype(np.float32, copy=False)
        return suppress(predictions, rule or Suppression(), places)

    def tolerances(self, size: Size, precision: str) -> Tolerances | None:
        return _exact() if precision == "fp32" else approximate(size, precision, APPROXIMATE)

    def engine_tolerances(self, size: Size, precision: str) -> EngineTolerances | None:
        if precision == "fp32":
            return exact_engine(_exact())
        return approximate_engine(size, precision, ENGINES)


def _exact() -> Tolerances:
    score, pixels = 1e-5, 1e-3
    return Tolerances({"boxes": pixels, "scores": score}, selection=0.0, score=score, pixels=pixels)

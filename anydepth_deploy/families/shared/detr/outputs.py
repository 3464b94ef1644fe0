"""What the raw outputs of the DETRs mean, and how exactly they must be repeated. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.detections import Detections
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.outputs import Outputs, Raw
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
from anydepth_deploy.suppression import Suppression

__all__ = ["DetrOutputs"]

APPROXIMATE: Limits = {
    "fp16": ({"logits": 0.003, "boxes": 0.001, "queries": 0.0}, 0.05),
    "bf16": ({"logits": 0.04, "boxes": 0.008, "queries": 0.0}, 0.3),
    "int8": ({"logits": 0.1, "boxes": 0.03, "queries": 0.0}, 2.0),
}
"""Relative errors of the quantities of the raw outputs, and the gap in logits, by precision: about
three times what the trained tiny AnyDepth-DETR shows at its worst rung. Tiny RT-DETRs and D-FINE,
with random weights, show at their worst exits 0.001 and 0.0005 in FP16, 0.01 and 0.004 in BF16 (a
gap of 0.14), 0.035 and 0.013 in INT8 (a gap of 1.1)."""

ENGINES = {
    "fp16": EngineLimits(
        raw={"logits": 0.045, "boxes": 0.002},
        typical={"logits": 0.0015, "boxes": 0.0003},
        bias={"logits": 0.0006, "boxes": 0.0004},
        gap=0.05,
    ),
    "int8": EngineLimits(
        raw={"logits": 0.12, "boxes": 0.08},
        typical={"logits": 0.03, "boxes": 0.0075},
        bias={"logits": 0.015, "boxes": 0.007},
        gap=2.0,
    ),
}
"""About three times what the trained tiny network shows at the worst of all its depths when
ONNX Runtime plays the engine: FP16 graphs, rounded as the graph says, against FP32; INT8 graphs,
not rounded to FP16, against the same, rounded. No GPU has been measured. An 8-bit step turns a
small difference in rounding into a whole step now and then, and so do the layers behind it: in
``raw`` two sound executions of one INT8 graph are nearly as far apart as INT8 is from FP32."""


class DetrOutputs(Outputs):
    """``logits`` [N, Q, classes], ``boxes`` [N, Q, 4] (cx, cy, w, h in 0..1), and ``queries``
    int64 [N, Q], the encoder token that each query came from."""

    choice = "queries"

    def items(self, raw: Raw) -> Items:
        """Queries, named by their tokens."""
        values = {name: array for name, array in raw.items() if name in ("logits", "boxes")}
        return Items(values, raw["queries"].astype(np.int64))

    def detections(self, raw: Raw, size: Size, places: int, rule: Suppression | None) -> Detections:
        """The best ``places`` pairs of query and class; nothing is suppressed."""
        return _best(raw["logits"], raw["boxes"], size, places)

    def tolerances(self, size: Size, precision: str) -> Tolerances | None:
        return _exact(size) if precision == "fp32" else approximate(size, precision, APPROXIMATE)

    def engine_tolerances(self, size: Size, precision: str) -> EngineTolerances | None:
        if precision == "fp32":
            return exact_engine(_exact(size))
        return approximate_engine(size, precision, ENGINES)


def _exact(size: Size) -> Tolerances:
    logits, boxes = 1e-4, 1e-5
    # A logistic function has slope 1/4 at most; a corner is a centre plus half a size.
    return Tolerances(
        {"logits": logits, "boxes": boxes, "queries": 0.0},
        selection=logits,
        score=logits / 4,
        pixels=1.5 * boxes * max(size),
    )


def _best(
    logits: NDArray[np.generic], boxes: NDArray[np.generic], size: tuple[int, int], places: int
) -> Detections:
    """The best ``places`` pairs of query and class: logits [N, Q, classes] and boxes [N, Q, 4]
    (cx, cy, w, h in 0..1) to detections, as the DETRs end."""
    count, _, classes = logits.shape
    with np.errstate(over="ignore"):
        flat = (1 / (1 + np.exp(-logits.astype(np.float32, copy=False)))).reshape(count, -1)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :places]
    query, labels = np.divmod(best, classes)
    height, width = size
    chosen = np.take_along_axis(boxes.astype(np.float32, copy=False), query[..., None], 1)
    centre, half = chosen[..., :2], chosen[..., 2:] / 2
    corners = np.concatenate([centre - half, centre + half], -1)
    return Detections(
        labels=labels.astype(np.int64),
        boxes=(corners * np.array([width, height, width, height])).astype(np.float32),
        scores=np.take_along_axis(flat, best, 1).astype(np.float32),
    )

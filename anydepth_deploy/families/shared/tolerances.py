"""How far an artifact may be from what it was made from, by family, precision and quantity.

Numbers only: neither torch nor the networks are needed to judge an engine on the device it was
built for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from anydepth_deploy.errors import BundleError

__all__ = [
    "SLACK",
    "EngineTolerances",
    "Tolerances",
    "approximate",
    "detr_tolerances",
    "engine_tolerances",
    "resemblance_limit",
    "yolo_tolerances",
]

Size = tuple[int, int]
"""Height and width of the network input, in pixels."""

Limits = Mapping[str, tuple[Mapping[str, float], float]]
"""By precision: the limits of the raw outputs' quantities, and of the gap."""


@dataclass(frozen=True)
class Tolerances:
    """How far an artifact may be from its checkpoint, or an engine from its graph.

    ``raw``: for each quantity of the raw outputs
    (:func:`anydepth_deploy.verifying.parity.quantities`), in its own unit; ``selection``: of the
    gap of a choice of queries (logits); ``score``: of a detection's score (probability);
    ``pixels``: of a box's corner (input pixels).

    An FP32 artifact equals its checkpoint: ``raw`` holds largest differences, and every detection
    has a partner. A lower precision is ``approximate``: ``raw`` holds relative errors
    ||artifact - checkpoint|| / ||checkpoint|| over all pictures, only detections of a score of at
    least ``confident`` need partners, and a share of ``unmatched`` may lack them, and
    ``SLACK`` more: of few detections a share says little.
    """

    raw: Mapping[str, float]
    selection: float
    score: float
    pixels: float
    approximate: bool = False
    confident: float = 0.0
    unmatched: float = 0.0


PARTNERS = {"fp16": (0.02, 0.01), "bf16": (0.1, 0.02), "int8": (0.2, 0.04)}
"""By precision: how far the scores of partners may be apart, and their corners, as a share of the
input's longer side."""

CONFIDENT, UNMATCHED = 0.5, 0.1

SLACK = 2
"""Detections that may lack a partner whatever their number (one pair that is too far apart)."""

DETR_APPROXIMATE: Limits = {
    "fp16": ({"logits": 0.003, "boxes": 0.001, "queries": 0.0}, 0.05),
    "bf16": ({"logits": 0.04, "boxes": 0.008, "queries": 0.0}, 0.3),
    "int8": ({"logits": 0.1, "boxes": 0.03, "queries": 0.0}, 2.0),
}
"""Relative errors of the quantities of the raw outputs, and the gap in logits, by precision: about
three times what the trained tiny network shows at its worst rung."""

YOLO_APPROXIMATE: Limits = {
    "fp16": ({"boxes": 0.002, "scores": 0.006}, 0.0),
    "bf16": ({"boxes": 0.01, "scores": 0.05}, 0.0),
    "int8": ({"boxes": 0.08, "scores": 0.25}, 0.0),
}
"""Likewise for the raw output of AnyDepth-YOLO; there is no choice to judge."""


def approximate(size: Size, precision: str, limits: Limits) -> Tolerances:
    """Tolerances of a lower precision; ``limits``: of the raw outputs and the gap, by precision."""
    raw, gap = limits[precision]
    score, corner = PARTNERS[precision]
    return Tolerances(
        raw,
        selection=gap,
        score=score,
        pixels=corner * max(size),
        approximate=True,
        confident=CONFIDENT,
        unmatched=UNMATCHED,
    )


def detr_tolerances(size: Size, precision: str = "fp32") -> Tolerances:
    """Of AnyDepth-DETR against its checkpoint."""
    if precision != "fp32":
        return approximate(size, precision, DETR_APPROXIMATE)
    logits, boxes = 1e-4, 1e-5
    # A logistic function has slope 1/4 at most; a corner is a centre plus half a size.
    return Tolerances(
        {"logits": logits, "boxes": boxes, "queries": 0.0},
        selection=logits,
        score=logits / 4,
        pixels=1.5 * boxes * max(size),
    )


def yolo_tolerances(size: Size, precision: str = "fp32") -> Tolerances:
    """Of AnyDepth-YOLO against its checkpoint."""
    if precision != "fp32":
        return approximate(size, precision, YOLO_APPROXIMATE)
    score, pixels = 1e-5, 1e-3
    return Tolerances({"boxes": pixels, "scores": score}, selection=0.0, score=score, pixels=pixels)


@dataclass(frozen=True)
class EngineTolerances(Tolerances):
    """How far an engine may be from its graph, in three measures by quantity.

    ``raw``: the relative error (FP32: the largest difference), which one query far off can make
    large; it catches what is grossly wrong. ``typical``: the median error of an item, a query or a
    cell, relative to the root mean square of all. ``bias``: the median of signed errors, for
    scores and logits relative to the value where that is large, for each coordinate of boxes to its
    root mean square: rounding has no direction, so a fault that has one shows here at a tenth of
    the size. ``score`` and ``pixels``: between detections and those that follow from the engine's
    own raw outputs.
    """

    typical: Mapping[str, float] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)


FOLLOWS_SCORE, FOLLOWS_CORNER = 0.005, 0.002
"""How far an engine's detections may be from those that follow from its own raw outputs, in score
and, as a share of the input's longer side, in corners: FP16 holds both more finely."""


@dataclass(frozen=True)
class _Engine:
    raw: Mapping[str, float]
    typical: Mapping[str, float]
    bias: Mapping[str, float]
    gap: float = 0.0


ENGINES: Mapping[str, Mapping[str, _Engine]] = {
    "anydepth-detr": {
        "fp16": _Engine(
            raw={"logits": 0.045, "boxes": 0.002},
            typical={"logits": 0.0015, "boxes": 0.0003},
            bias={"logits": 0.0006, "boxes": 0.0004},
            gap=0.05,
        ),
        "int8": _Engine(
            raw={"logits": 0.12, "boxes": 0.08},
            typical={"logits": 0.03, "boxes": 0.0075},
            bias={"logits": 0.015, "boxes": 0.007},
            gap=2.0,
        ),
    },
    "anydepth-yolo": {
        "fp16": _Engine(
            raw={"boxes": 0.002, "scores": 0.008},
            typical={"boxes": 0.0004, "scores": 0.006},
            bias={"boxes": 0.0003, "scores": 0.005},
        ),
        "int8": _Engine(
            raw={"boxes": 0.065, "scores": 0.35},
            typical={"boxes": 0.02, "scores": 0.4},
            bias={"boxes": 0.0045, "scores": 0.05},
        ),
    },
}
"""About three times what the trained tiny networks show at the worst of all their depths when
ONNX Runtime plays the engine: FP16 graphs, rounded as the graph says, against FP32; INT8 graphs,
not rounded to FP16, against the same, rounded. No GPU has been measured. An 8-bit step turns a
small difference in rounding into a whole step now and then, and so do the layers behind it: in
``raw`` two sound executions of one INT8 graph are nearly as far apart as INT8 is from FP32."""


def engine_tolerances(family: str, size: Size, precision: str) -> EngineTolerances:
    """Of an engine against the graph that
    :func:`anydepth_deploy.verifying.reference.choose_reference` names. Raises :class:`BundleError`
    for a family without tolerances."""
    if family not in ENGINES:
        raise BundleError(
            f"no tolerances are known for engines of the family '{family}': expected "
            f"{' or '.join(ENGINES)}"
        )
    base = detr_tolerances if family == "anydepth-detr" else yolo_tolerances
    found = base(size, precision)
    raw = {name: limit for name, limit in found.raw.items() if limit}
    if precision == "fp32":
        return EngineTolerances(raw, found.selection, found.score, found.pixels)
    limits = ENGINES[family][precision]
    return EngineTolerances(
        limits.raw,
        selection=limits.gap,
        score=FOLLOWS_SCORE,
        pixels=FOLLOWS_CORNER * max(size),
        approximate=True,
        confident=CONFIDENT,
        unmatched=UNMATCHED,
        typical=limits.typical,
        bias=limits.bias,
    )


STRAY, LEAST_STRAY = 0.15, 0.04
"""By how much the share of a single pair of depths may stray from one half, and of any number of
pairs: about three times what sound INT8 graphs do at the worst. Engines that compute all depths
alike stray alike, so that averaging does not take everything away."""


def resemblance_limit(pairs: int) -> float:
    """The share of items that may look like another depth, on average over ``pairs`` of depths.

    Where two depths differ by less than the rounding, chance decides: half. Items of one picture
    are rounded together, so that a single pair strays from it.
    """
    return 0.5 + max(STRAY / math.sqrt(pairs), LEAST_STRAY)

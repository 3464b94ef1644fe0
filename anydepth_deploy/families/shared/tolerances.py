"""How far an artifact may be from what it was made from: the forms that families fill with numbers.

Numbers only: neither torch nor the networks are needed to judge an engine on the device it was
built for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "SLACK",
    "EngineLimits",
    "EngineTolerances",
    "Limits",
    "Size",
    "Tolerances",
    "approximate",
    "approximate_engine",
    "exact_engine",
    "golden",
]

Size = tuple[int, int]
"""Height and width of the network input, in pixels."""

Limits = Mapping[str, tuple[Mapping[str, float], float]]
"""By precision: the limits of the raw outputs' quantities, and of the gap."""


@dataclass(frozen=True)
class Tolerances:
    """How far an artifact may be from its checkpoint, or an engine from its graph.

    ``raw``: for each quantity of the raw outputs (see
    :meth:`anydepth_deploy.families.family.Outputs.quantities`), in its own unit; ``selection``: of
    the gap of a choice of queries (logits); ``score``: of a detection's score (probability);
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


def approximate(size: Size, precision: str, limits: Limits) -> Tolerances | None:
    """Tolerances of a lower precision; ``limits``: of the raw outputs and the gap, by precision.
    None where they lack it."""
    if precision not in limits:
        return None
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
class EngineLimits:
    """Of engines of one precision: the limits of :class:`EngineTolerances`; ``gap``: of a choice of
    queries (logits)."""

    raw: Mapping[str, float]
    typical: Mapping[str, float]
    bias: Mapping[str, float]
    gap: float = 0.0


def exact_engine(base: Tolerances) -> EngineTolerances:
    """Tolerances of an FP32 engine; ``base``: those of an FP32 graph. Choices (limits of zero) are
    judged by their gap."""
    raw = {name: limit for name, limit in base.raw.items() if limit}
    return EngineTolerances(raw, base.selection, base.score, base.pixels)


def approximate_engine(
    size: Size, precision: str, limits: Mapping[str, EngineLimits]
) -> EngineTolerances | None:
    """Tolerances of an engine of a lower precision; None where ``limits`` lack it."""
    if precision not in limits:
        return None
    found = limits[precision]
    return EngineTolerances(
        found.raw,
        selection=found.gap,
        score=FOLLOWS_SCORE,
        pixels=FOLLOWS_CORNER * max(size),
        approximate=True,
        confident=CONFIDENT,
        unmatched=UNMATCHED,
        typical=found.typical,
        bias=found.bias,
    )


def golden(base: Tolerances, size: Size, beside: Mapping[str, float] | None) -> EngineTolerances:
    """Of an artifact against golden outputs, which are the checkpoint's in FP32. ``base``: against
    the checkpoint, whose queries are the artifact's then.

    ``beside``: None where both have chosen the same queries, or there are none. Else how far
    queries that both have may be apart because others were chosen otherwise, at a tie (relative
    errors by quantity), which is added.
    """
    if not base.approximate:
        return exact_engine(base)
    raw = {
        name: limit + (0.0 if beside is None else beside.get(name, limit))
        for name, limit in base.raw.items()
        if limit
    }
    return EngineTolerances(
        raw,
        selection=base.selection,
        score=FOLLOWS_SCORE,
        pixels=FOLLOWS_CORNER * max(size),
        approximate=True,
        confident=base.confident,
        unmatched=base.unmatched,
    )

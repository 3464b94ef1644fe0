"""Comparing arrays and detections: what equal means, and what close means.

Raw outputs are compared quantity by quantity, detections as sets: the order of near-equal scores,
and which of them make the last place, is nobody's promise. NumPy only: artifacts are compared on
devices that have no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.documents import utc_now
from anydepth_deploy.families.shared.tolerances import Tolerances
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.verifying.matching import maximum_matching

__all__ = [
    "CHECKPOINT",
    "GOLDEN",
    "GRAPHS",
    "Difference",
    "Parity",
    "Report",
    "count_unmatched",
    "depths_of",
    "unmatched_detections",
]


CHECKPOINT, GRAPHS, GOLDEN = "checkpoint", "graphs", "golden outputs"


@dataclass(frozen=True)
class Parity:
    """How far one artifact is from its reference at one depth, over all batches tried.

    ``precision``: what it was computed in. ``differences``: by quantity of the raw outputs, the
    largest, or for a lower precision the relative error. ``selection``: by how much (in logits) the
    best choice of a query that the artifact passed over beats the worst one it took.
    ``unmatched``: how many of ``detections`` have no partner, or are out of order; for a lower
    precision of the confident ones.
    """

    artifact: str
    precision: str
    depth: str
    level: int | None
    differences: dict[str, float]
    selection: float
    detections: int
    unmatched: int
    passed: bool


@dataclass(frozen=True)
class Report:
    """What a comparison found; ``passed`` only if every row passed.

    ``checkpoint``: the file that the bundle was made from. ``batches``: shapes. ``tolerances``: by
    precision. ``left_out``: artifacts of the bundle that hold none of the depths asked for, or that
    the runtime cannot run as they are meant to. ``compared_with``: what they were held against,
    :data:`CHECKPOINT`, :data:`GRAPHS` or :data:`GOLDEN`.
    """

    bundle: str
    checkpoint: str
    runtime: str
    batches: list[list[int]]
    tolerances: dict[str, Tolerances]
    rows: Sequence[Parity]
    left_out: list[str] = field(default_factory=list)
    compared_with: str = CHECKPOINT

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def record(self, tried: Iterable[tuple[Artifact, str, bool]]) -> dict[str, Any]:
        """What the manifest keeps: no paths of the machine, but the hash of what was verified.
        ``tried``: artifacts, what each was computed in, and whether it passed."""
        content = self.to_json()
        del content["bundle"], content["checkpoint"]
        artifacts = [
            {"name": item.name, "sha256": item.sha256, "precision": precision, "passed": passed}
            for item, precision, passed in tried
        ]
        return {"when": utc_now(), "artifacts": artifacts, **content}


def depths_of(
    artifact: Artifact,
    table: DepthTable,
    depths: Sequence[Depth] | None,
    default: Sequence[Depth],
) -> tuple[Depth, ...]:
    """The depths to try an artifact at: of ``depths``, those it holds; where none are given, of
    ``default``, and of a static graph its own."""
    if artifact.depth is None:
        return tuple(default if depths is None else depths)
    own = table.find(artifact.depth)
    return (own,) if depths is None or own in depths else ()


@dataclass
class Difference:
    """Between an artifact's arrays and the reference's, over batches; infinite for another shape
    or anything not finite."""

    largest: float = 0.0
    squares: float = 0.0
    norm: float = 0.0

    @property
    def relative(self) -> float:
        """||artifact - reference|| / ||reference||."""
        if not self.squares:
            return 0.0
        return math.sqrt(self.squares / self.norm) if self.norm else math.inf

    def measure(self, limits: Tolerances) -> float:
        """What ``limits.raw`` limits."""
        return self.relative if limits.approximate else self.largest

    def add(self, one: NDArray[np.generic], other: NDArray[np.generic]) -> None:
        if one.shape != other.shape:
            self.largest = self.squares = math.inf
            return
        wanted = other.astype(np.float64)
        difference = np.abs(one.astype(np.float64) - wanted)
        largest = float(difference.max(initial=0.0))
        finite = math.isfinite(largest)
        self.largest = max(self.largest, largest if finite else math.inf)
        self.squares += float(np.square(difference).sum()) if finite else math.inf
        self.norm += float(np.square(wanted).sum())


def count_unmatched(found: Detections, wanted: Detections, limits: Tolerances) -> tuple[int, int]:
    """How many detections count, and how many of them have no partner or are out of order."""
    if limits.approximate:
        pairs = [_confident(*both, limits) for both in zip(found, wanted, strict=True)]
        return sum(counted for counted, _ in pairs), sum(lonely for _, lonely in pairs)
    detections = int(np.count_nonzero(wanted.labels != NOTHING))
    if found.labels.shape != wanted.labels.shape:
        return detections, max(found.labels.size, wanted.labels.size)
    lonely = sum(
        unmatched_detections(one, other, score=limits.score, pixels=limits.pixels)
        for one, other in zip(found, wanted, strict=True)
    )
    return detections, lonely + _out_of_order(found, limits.score)


def _out_of_order(found: Detections, score: float) -> int:
    """How many detections have a better one right behind them, by more than ``score``."""
    return int(np.count_nonzero(np.diff(found.scores, axis=1) > score))


def _confident(one: Detections, other: Detections, limits: Tolerances) -> tuple[int, int]:
    """How many detections of two sets are confident, and how many of those have no partner in the
    whole other set (which may be less confident of it)."""
    if not (np.isfinite(one.scores).all() and np.isfinite(one.boxes).all()):
        count = max(one.labels.size, 1)
        return count, count
    close = _close(one, other, limits.score, limits.pixels)
    partner = maximum_matching(close)
    sure, sure_other = (
        (found.scores[0] >= limits.confident) & (found.labels[0] != NOTHING)
        for found in (one, other)
    )
    lonely_other = np.ones(other.labels[0].size, bool)
    lonely_other[partner[partner >= 0]] = False
    lonely = np.count_nonzero(sure & (partner < 0)) + np.count_nonzero(sure_other & lonely_other)
    return int(np.count_nonzero(sure) + np.count_nonzero(sure_other)), int(lonely)


def _close(one: Detections, other: Detections, score: float, pixels: float) -> NDArray[np.bool_]:
    """Which detections of two sets, each of one image, may be partners."""
    scores = (one.scores[0].astype(np.float64), other.scores[0].astype(np.float64))
    boxes = (one.boxes[0].astype(np.float64), other.boxes[0].astype(np.float64))
    return np.asarray(
        (one.labels[0][:, None] == other.labels[0][None])
        & (np.abs(scores[0][:, None] - scores[1][None]) <= score)
        & (np.abs(boxes[0][:, None] - boxes[1][None]).max(-1, initial=0.0) <= pixels)
    )


def unmatched_detections(one: Detections, other: Detections, *, score: float, pixels: float) -> int:
    """How many detections of one image have no partner in the other set, counted both ways.

    Partners have the same label, scores within ``score`` and corners within ``pixels``; each has
    one partner. Where both sets have the same size, a detection whose score is within ``score`` of
    the other set's lowest may have missed the last place there, and is not counted.
    """
    labels = (one.labels[0], other.labels[0])
    scores = (one.scores[0].astype(np.float64), other.scores[0].astype(np.float64))
    boxes = (one.boxes[0].astype(np.float64), other.boxes[0].astype(np.float64))
    if not all(np.isfinite(array).all() for array in (*scores, *boxes)):
        return int(max(labels[0].size, labels[1].size, 1))
    close = _close(one, other, score, pixels)
    # A maximum matching: taking partners greedily could strand one of two near-twins.
    partner = maximum_matching(close)
    lonely_other = np.setdiff1d(np.arange(labels[1].size), partner)
    if labels[0].size != labels[1].size:  # a list that is too short has no last place to miss
        return int(np.count_nonzero(partner < 0)) + len(lonely_other)
    return _not_at_the_edge(scores[0][partner < 0], scores[1], score) + _not_at_the_edge(
        scores[1][lonely_other], scores[0], score
    )


def _not_at_the_edge(lonely: NDArray[np.float64], theirs: NDArray[np.float64], score: float) -> int:
    edge = theirs.min(initial=math.inf) + score
    return sum(bool(value) for value in lonely > edge)

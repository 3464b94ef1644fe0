"""Whether two machines found the same in a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from release.environments import FailedError

__all__ = ["Difference", "differences"]


@dataclass(frozen=True)
class Difference:
    """``boxes``: the largest of a side, in pixels of the picture. ``scores``: the largest."""

    boxes: float
    scores: float


def differences(
    found: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    limit: Difference,
    threshold: float,
) -> str:
    """How far detections are from others, in words: each is held against the nearest of its class.

    Those whose scores are within ``limit.scores`` of the ``threshold`` of both may be missing on
    either side. Raises
    :class:`FailedError` where something differs by more than ``limit``.
    """
    if not expected:
        raise FailedError("nothing was found in the picture here: there is nothing to compare")
    lowest = threshold + limit.scores
    boxes = scores = 0.0
    for mine, others in ((found, expected), (expected, found)):
        for item in mine:
            near = [_gap(item, other) for other in others if other["label"] == item["label"]]
            gap = min(near, key=lambda one: one.boxes, default=None)
            sure = gap is not None and gap.boxes <= limit.boxes and gap.scores <= limit.scores
            if not sure and item["score"] <= lowest:
                continue
            if gap is None or not sure:
                raise FailedError(f"{dict(item)} has no equal: the nearest differs by {gap}")
            boxes, scores = max(boxes, gap.boxes), max(scores, gap.scores)
    return f"{len(found)} detections, within {boxes:.1e} pixels and {scores:.1e}"


def _gap(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference:
    sides = zip(one["box"], other["box"], strict=True)
    return Difference(
        max(abs(a - b) for a, b in sides), abs(float(one["score"]) - float(other["score"]))
    )

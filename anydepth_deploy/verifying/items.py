"""Comparing items: which belong together, how good a choice was, which depth they look like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.families.shared.items import Items

__all__ = [
    "Floats",
    "Pairs",
    "choice_gap",
    "pair",
    "resemblance",
    "resemblance_limit",
    "same_shape",
]

Floats = NDArray[np.float64]

STRAY, LEAST_STRAY = 0.15, 0.04
"""By how much the share of a single pair of depths may stray from one half, and of any number of
pairs: about three times what sound INT8 graphs do at the worst. Engines that compute all depths
alike stray alike, so that averaging does not take everything away."""


@dataclass(frozen=True)
class Pairs:
    """Items that both sides have: by quantity, float64 [pairs, numbers] each."""

    found: dict[str, Floats]
    wanted: dict[str, Floats]


def same_shape(one: Items, other: Items) -> bool:
    """Whether items can be compared."""
    return one.values.keys() == other.values.keys() and all(
        array.shape == other.values[name].shape for name, array in one.values.items()
    )


def pair(found: Items, wanted: Items) -> Pairs:
    """Pair the items of the same token, or cell, of the same image; both have the same shape."""
    places = _places(found, wanted)
    both = places >= 0
    return Pairs(_picked(found, None, both), _picked(wanted, places, both))


def _places(found: Items, wanted: Items) -> NDArray[np.intp]:
    """Where ``wanted`` has each item of ``found``, [N, items]; -1 for nowhere."""
    first = next(iter(found.values.values()))
    if found.tokens is None or wanted.tokens is None:
        return np.broadcast_to(np.arange(first.shape[1]), first.shape[:2])
    places = np.full(found.tokens.shape, -1, np.intp)
    for image, (ours, theirs) in enumerate(zip(found.tokens, wanted.tokens, strict=True)):
        _, here, there = np.intersect1d(ours, theirs, return_indices=True)
        places[image, here] = there
    return places


def _picked(
    items: Items, places: NDArray[np.intp] | None, kept: NDArray[np.bool_]
) -> dict[str, Floats]:
    picked: dict[str, Floats] = {}
    for name, array in items.values.items():
        if places is not None and items.tokens is not None:
            array = np.take_along_axis(array, np.maximum(places, 0)[..., None], 1)
        picked[name] = array[kept].astype(np.float64)
    return picked


def choice_gap(tokens: NDArray[np.int64], choice: NDArray[np.generic]) -> float:
    """By how much, in logits, the best token left out beats the worst one taken, at least 0.

    ``tokens`` [N, Q]: the tokens that an engine took; ``choice`` [N, T]: the reference's score of
    every token. Both sides choosing the same, it is 0; for tokens that tie up to rounding it is of
    the size of the rounding; for a wrong choice it is of the size of the scores. Infinite for
    tokens that do not exist or are taken twice, and for scores that are no numbers.
    """
    count = choice.shape[1]
    gap = 0.0
    for taken, scores in zip(tokens, choice.astype(np.float64), strict=True):
        inside = ((taken >= 0) & (taken < count)).all()
        if not inside or len(np.unique(taken)) != len(taken) or np.isnan(scores).any():
            return math.inf
        left_out = np.ones(count, bool)
        left_out[taken] = False
        if left_out.any():
            gap = max(gap, float(scores[left_out].max() - scores[taken].min()))
    return gap


def resemblance(found: Items, own: Items, other: Items) -> float:
    """The share of items that are nearer to the reference at another depth, ``other``, than to the
    one at their ``own``; 0 where the two depths do not differ.

    Of a sound engine at most about half: where the depths differ by less than the rounding, chance
    decides. Of one that runs the other depth more than half. Counting items makes few that are far
    off, which rounding causes too, weigh no more than others.
    """
    here, there = _places(found, own), _places(found, other)
    both = (here >= 0) & (there >= 0)
    mine = _picked(found, None, both)
    near, far = _picked(own, here, both), _picked(other, there, both)
    distance = np.zeros((2, int(both.sum())))
    delta = np.zeros(int(both.sum()))
    with np.errstate(all="ignore"):
        for name, array in mine.items():
            scale = float(np.sqrt(np.square(near[name]).mean())) if array.size else 0.0
            for row, wanted in zip(distance, (near[name], far[name]), strict=True):
                row += np.square((array - wanted) / (scale or 1.0)).sum(1)
            delta += np.square((near[name] - far[name]) / (scale or 1.0)).sum(1)
        moved = delta > 0
        if not moved.any():
            return 0.0
        return float(np.mean(distance[0, moved] > distance[1, moved]))


def resemblance_limit(pairs: int) -> float:
    """The share of items that may look like another depth, on average over ``pairs`` of depths.

    Where two depths differ by less than the rounding, chance decides: half. Items of one picture
    are rounded together, so that a single pair strays from it.
    """
    return 0.5 + max(STRAY / math.sqrt(pairs), LEAST_STRAY)

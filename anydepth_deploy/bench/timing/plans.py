"""Which depth runs when, and when requests arrive: drawn from a seed before anything is timed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["fixed", "fixed_arrivals", "interleaved", "mixed", "poisson_arrivals", "switching"]

Rounds = Iterator[Sequence[int]]
"""Endless rounds; each lists the calls to make, by their index, in order."""


def fixed(index: int) -> Rounds:
    """One and the same call."""
    while True:
        yield (index,)


def interleaved(count: int, seed: int) -> Rounds:
    """Every call once a round, in an order drawn anew each time: drift hits all alike."""
    draw = random.Random(seed)
    while True:
        yield draw.sample(range(count), count)


def mixed(shares: Sequence[float], seed: int) -> Rounds:
    """Calls drawn independently, each with a probability proportional to its share."""
    draw = random.Random(seed)
    while True:
        yield draw.choices(range(len(shares)), shares)


def switching(count: int, seed: int) -> Rounds:
    """Every call after every call, itself included, exactly once a round.

    A round is an Eulerian circuit of the complete directed graph with loops, drawn by Hierholzer's
    algorithm; the next one begins where it ends. The very first call opens the first round.
    """
    draw = random.Random(seed)
    start = draw.randrange(count)
    yield (start,)
    while True:
        yield _circuit(count, start, draw)[1:]


def _circuit(count: int, start: int, draw: random.Random) -> list[int]:
    """Vertices of a circuit over all ``count**2`` edges that begins and ends at ``start``."""
    ahead = [draw.sample(range(count), count) for _ in range(count)]
    path, circuit = [start], []
    while path:
        if ahead[path[-1]]:
            path.append(ahead[path[-1]].pop())
        else:
            circuit.append(path.pop())
    return circuit[::-1]


def fixed_arrivals(rate: float, count: int) -> NDArray[np.int64]:
    """Moments in nanoseconds, ``1 / rate`` seconds apart, the first at 0."""
    return np.round(np.arange(count) * (1e9 / rate)).astype(np.int64)


def poisson_arrivals(rate: float, count: int, seed: int) -> NDArray[np.int64]:
    """Moments in nanoseconds of a Poisson process of ``rate`` a second: exponential gaps."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return np.round(np.cumsum(gaps)).astype(np.int64)

"""Holding what a sensor says (watts, a queue's length, degrees) by moving what calls may take."""

from __future__ import annotations

from anydepth_deploy.control.policies import within

__all__ = ["Regulator"]

PROPORTIONAL = 0.5
INTEGRAL = 0.3
"""Of the error as a part of the target: how far the position moves."""


class Regulator:
    """A proportional-integral controller in its positional form. ``position``: from 0, where calls
    are the cheapest, to 1, where they are the dearest. ``reading``: the last one, None before.

    The integral keeps what leads to the position that is possible (back-calculation), so that it
    leaves an end as soon as the error changes its sign.
    """

    def __init__(self, target: float) -> None:
        self.target = target
        self.position = 0.0
        self.reading: float | None = None
        self._integral = 0.0

    def update(self, reading: float) -> None:
        """The sensor says ``reading``; the deeper calls are, the larger it becomes."""
        self.reading = reading
        error = (self.target - reading) / self.target
        self._integral += INTEGRAL * error
        wish = self._integral + PROPORTIONAL * error
        self.position = within(wish, 0.0, 1.0)
        self._integral += self.position - wish

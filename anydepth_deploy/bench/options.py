"""The options of a run, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from anydepth_deploy.bench.results import Arrivals, Mode, Scenario, Scope
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.errors import UsageError

__all__ = ["PERCENTILES", "Options", "parse_mix"]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

ONE_STREAM: tuple[Mode, ...] = ("interleaved", "switching")
"""Modes that say what comes after what, which only one stream can."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    ``mode``: None for what suits the scenario: ``interleaved`` for ``single``, else ``fixed``.
    ``rate``: requests a second, where they arrive by themselves. ``duration`` (seconds) and
    ``count`` (requests): both are reached for each depth. ``repeats``: stretches that the time of
    a depth is cut into in mode ``fixed``, in turn with those of the other depths. ``mix``: weights
    of depths by their text, in mode ``mixed``; equal by default; those of several names of one
    depth add up. ``warmup`` (seconds) and ``warmup_count``: for each depth, not kept.
    """

    scenario: Scenario = "single"
    mode: Mode | None = None
    batch: int = 1
    streams: int = 1
    rate: float | None = None
    duration: float = 5.0
    count: int = 30
    repeats: int = 3
    warmup: float = 0.5
    warmup_count: int = 3
    seed: int = 0
    percentiles: tuple[float, ...] = PERCENTILES
    scope: Scope = "detections"
    mix: Mapping[str, float] | None = None

    @property
    def arriving(self) -> bool:
        """Whether requests come at moments of their own."""
        return self.scenario in Arrivals

    def checked(self) -> Options:
        """These options with the mode settled. Raises :class:`UsageError`."""
        mode: Mode = self.mode or ("interleaved" if self.scenario == "single" else "fixed")
        for name, value, choices in (
            ("scenario", self.scenario, get_args(Scenario)),
            ("mode", mode, get_args(Mode)),
            ("scope", self.scope, get_args(Scope)),
        ):
            if value not in choices:
                raise UsageError(f"unknown {name} '{value}': expected {', '.join(choices)}")
        self._check_numbers()
        if self.arriving and self.rate is None:
            raise UsageError(f"scenario {self.scenario} needs --rate, requests a second")
        if not self.arriving and self.rate is not None:
            raise UsageError(
                f"--rate is for requests that arrive by themselves: choose --scenario "
                f"{' or '.join(Arrivals)}"
            )
        if self.scenario == "single" and self.streams != 1:
            raise UsageError(
                f"scenario single has one stream: choose --scenario streams for {self.streams}"
            )
        if mode in ONE_STREAM and self.scenario != "single":
            raise UsageError(
                f"mode {mode} says which request follows which, scenario {self.scenario} does not: "
                "choose --mode fixed or mixed"
            )
        if self.scenario == "offline" and mode != "fixed":
            raise UsageError("scenario offline measures one depth at a time: choose --mode fixed")
        if self.mix is not None and mode != "mixed":
            raise UsageError("--mix is for --mode mixed")
        return replace(self, mode=mode)

    def _check_numbers(self) -> None:
        for name, value, least in (
            ("batch", self.batch, 1),
            ("streams", self.streams, 1),
            ("count", self.count, 1),
            ("repeats", self.repeats, 1),
            ("warmup-count", self.warmup_count, 0),
            ("duration", self.duration, 0),
            ("warmup", self.warmup, 0),
        ):
            if not least <= value < 1e9:
                raise UsageError(f"--{name} is {value}: expected at least {least}, and finite")
        if self.rate is not None and not 0 < self.rate < 1e6:
            raise UsageError(f"--rate is {self.rate:g}: expected requests a second, above 0")
        strange = [value for value in self.percentiles if not 0 < value < 100]
        if strange or not self.percentiles:
            raise UsageError(
                f"percentiles {', '.join(f'{value:g}' for value in strange) or 'none'}: expected "
                "numbers between 0 and 100, e.g. 50,90,99"
            )

    def shares(self, table: DepthTable, depths: Sequence[Depth]) -> list[float]:
        """The share of requests at each of ``depths``. Raises :class:`UsageError`."""
        if self.mix is None:
            return [1 / len(depths)] * len(depths)
        weights: dict[Depth, float] = {}
        for name, weight in self.mix.items():  # a depth may go by several names
            depth = table.find(name)
            weights[depth] = weights.get(depth, 0.0) + weight
        strange = [str(depth) for depth in weights if depth not in depths]
        if strange:
            raise UsageError(f"--mix names {', '.join(strange)}, which --depth does not")
        idle = [str(depth) for depth in depths if depth not in weights]
        if idle:
            raise UsageError(f"--mix has no weight for {', '.join(idle)}: give one, or see --depth")
        total = sum(weights.values())
        return [weights[depth] / total for depth in depths]


def parse_mix(text: str) -> dict[str, float]:
    """Weights by depth from ``base=3,super=1``. Raises :class:`UsageError`."""
    found: dict[str, float] = {}
    for word in text.split(","):
        name, _, weight = word.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not name.strip() or not 0 < value < 1e9 or name.strip() in found:
            raise UsageError(f"mix '{text}' is not a list of weights: expected base=3,super=1")
        found[name.strip()] = value
    return found

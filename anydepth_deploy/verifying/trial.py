"""One engine, or chain, on trial: run at its depths and batch sizes, judged against its graph.

See :mod:`anydepth_deploy.verifying.engines` for what is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.families.family import Raw
from anydepth_deploy.families.registry import find_outputs
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.tolerances import SLACK, EngineTolerances
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.progress import Progress
from anydepth_deploy.verifying.items import (
    Floats,
    choice_gap,
    pair,
    resemblance,
    resemblance_limit,
    same_shape,
)
from anydepth_deploy.verifying.parity import Difference, Parity, count_unmatched
from anydepth_deploy.verifying.reference import CHOICE, Reference

__all__ = ["EngineParity", "Found", "GateVote", "Images", "Steps", "Trial", "follows"]

Images = NDArray[np.float32]

FEWEST_SHARED = 0.5
"""Share of the queries that both sides must have: the others are not compared."""


@dataclass(frozen=True)
class EngineParity(Parity):
    """How far one engine is from its reference at one depth: the worst of all batch sizes.

    ``typical`` and ``bias``: see :class:`EngineTolerances`. ``resembles``: the depth, one gate
    away, that most items are nearer to, and ``resemblance``: their share. ``problem``: what the
    runtime said, where it did not run.
    """

    reference: str = ""
    typical: dict[str, float] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    resemblance: float = 0.0
    resembles: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class GateVote:
    """The share of items nearer to the other setting of one gate, over all depths tried."""

    artifact: str
    gate: str
    pairs: int
    share: float
    passed: bool


class Steps:
    """Progress over all engines and depths."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._total)
        self._done += 1


class Trial:
    """One engine, or chain, and its reference."""

    def __init__(
        self,
        bundle: Bundle,
        artifact: Artifact,
        session: Session,
        reference: Reference,
        limits: EngineTolerances,
        pool: Images,
        sizes: Sequence[int],
    ) -> None:
        """``pool``: all images, float32 [N, 3, H, W]; ``sizes``: of the batches to run them in."""
        self.bundle, self.artifact, self.session = bundle, artifact, session
        self.reference, self.limits, self.pool, self.sizes = reference, limits, pool, sizes
        self.outputs = find_outputs(bundle.manifest.family)
        self._expected: dict[Depth, Items] = {}
        self._given: dict[Depth, Items] = {}

    def row(self, depth: Depth, step: Steps) -> EngineParity:
        """What is found at one depth, but for its resemblance to others."""
        step(f"{self.artifact.name} at {depth}")
        expected = self.reference.run(self.pool, depth)
        wanted = self.outputs.items(expected)
        self._expected[depth] = wanted.thinned()
        total = Found()
        problem: str | None = None
        for size in self.sizes:
            try:
                found = self._at(depth, size, wanted, expected.get(CHOICE))
            except AnyDepthError as error:  # an engine that does not run is no sound engine
                problem = f"batches of {size}: {error}"
                break
            total.worse(found)
        return EngineParity(
            artifact=self.artifact.name,
            precision=self.artifact.precision,
            depth=str(depth),
            level=self.bundle.table.level(depth),
            differences=total.differences,
            selection=total.gap,
            detections=total.detections,
            unmatched=total.unmatched,
            passed=problem is None and total.within(self.limits),
            reference=self.reference.artifact.name,
            typical=total.typical,
            bias=total.bias,
            problem=problem,
        )

    def _at(
        self, depth: Depth, size: int, wanted: Items, choice: NDArray[np.generic] | None
    ) -> Found:
        """All images, in batches of one size; the last batch begins again with the first image."""
        count = len(self.pool)
        found = Found()
        raw, images_of = found.run(self.session, self.pool, depth, size, self._follows, self.limits)
        given = self.outputs.items(raw)
        chosen_by = None if choice is None else choice[images_of]
        found.compare(
            given, wanted.images(images_of), chosen_by, self.limits, self.outputs.coordinates
        )
        self._given[depth] = given.images(np.arange(count)).thinned()
        return found

    def _follows(self, raw: Raw) -> Detections:
        return follows(self.bundle, raw)

    def vote(
        self, rows: Sequence[EngineParity], tried: Sequence[Depth]
    ) -> tuple[list[EngineParity], list[GateVote]]:
        """Ask of each depth whether the engine looks like a depth one gate away instead."""
        space = self.bundle.table.space
        held = set(self.reference.depths())
        shares: dict[int, list[float]] = {}
        judged: list[EngineParity] = []
        for row, depth in zip(rows, tried, strict=True):
            given, own = self._given.get(depth), self._expected[depth]
            if given is None or not same_shape(given, own) or row.selection == math.inf:
                judged.append(row)
                continue
            most: tuple[float, str | None] = (0.0, None)
            for gate, other in _neighbours(depth, self.bundle):
                if other not in held or not (row.passed or other in self._expected):
                    continue  # what has failed needs no more proof
                if other not in self._expected:
                    found = self.outputs.items(self.reference.run(self.pool, other))
                    self._expected[other] = found.thinned()
                share = resemblance(given, own, self._expected[other])
                shares.setdefault(gate, []).append(share)
                most = max(most, (share, str(other)), key=lambda item: item[0])
            passed = row.passed and most[0] <= resemblance_limit(1)
            judged.append(replace(row, resemblance=most[0], resembles=most[1], passed=passed))
        votes = []
        for gate, pairs in sorted(shares.items()):
            share = float(np.mean(pairs))
            passed = share <= resemblance_limit(len(pairs))
            name = space.gates[gate].name
            votes.append(GateVote(self.artifact.name, name, len(pairs), share, passed))
        return judged, votes


def follows(bundle: Bundle, raw: Raw) -> Detections:
    """The detections that follow from raw outputs."""
    manifest = bundle.manifest
    return find_outputs(manifest.family).detections(
        raw, bundle.size, manifest.max_detections, manifest.suppression
    )


def _neighbours(depth: Depth, bundle: Bundle) -> list[tuple[int, Depth]]:
    """Depths that differ by one step of one gate, and that gate."""
    space = bundle.table.space
    found: list[tuple[int, Depth]] = []
    for index, gate in enumerate(space.gates):
        for choice in gate.choices:
            if abs(choice - depth.settings[index]) == 1:
                settings = (*depth.settings[:index], choice, *depth.settings[index + 1 :])
                found.append((index, space.depth(settings)))
    return found


@dataclass
class Found:
    """What one batch size shows, or the worst of several."""

    differences: dict[str, float] = field(default_factory=dict)
    typical: dict[str, float] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    gap: float = 0.0
    detections: int = 0
    unmatched: int = 0

    def worse(self, other: Found) -> None:
        """Take over what is worse in ``other``; detections are counted together."""
        for mine, theirs in (
            (self.differences, other.differences),
            (self.typical, other.typical),
            (self.bias, other.bias),
        ):
            for name, value in theirs.items():
                mine[name] = max(mine.get(name, 0.0), value)
        self.gap = max(self.gap, other.gap)
        self.detections += other.detections
        self.unmatched += other.unmatched

    def run(
        self,
        session: Session,
        pool: Images,
        depth: Depth,
        size: int,
        follow: Callable[[Raw], Detections],
        limits: EngineTolerances,
    ) -> tuple[Raw, NDArray[np.intp]]:
        """Run all images of ``pool`` in batches of one ``size``, the last of which begins again
        with the first image, and compare the detections with what should ``follow`` from the raw
        outputs. Gives these, and the image that each belongs to."""
        count = len(pool)
        raws: list[Raw] = []
        order: list[NDArray[np.intp]] = []
        for start in range(0, count, size):
            index = np.arange(start, start + size) % count
            images = pool[index]
            if session.detects:
                detections, raw = session.run_both(images, depth)
                self.detect(detections, follow(raw), limits)
            else:
                raw = session.run_raw(images, depth)
            raws.append(raw)
            order.append(index)
        whole = {name: np.concatenate([raw[name] for raw in raws]) for name in raws[0]}
        return whole, np.concatenate(order)

    def detect(self, found: Detections, wanted: Detections, limits: EngineTolerances) -> None:
        """Compare detections with those that follow from the same raw outputs."""
        if found.labels.shape != wanted.labels.shape:
            counted = int(np.count_nonzero(wanted.labels != NOTHING))
            lonely = max(found.labels.size, wanted.labels.size)
        else:
            counted, lonely = count_unmatched(found, wanted, limits)
        self.detections += counted
        self.unmatched += lonely

    def compare(
        self,
        given: Items,
        wanted: Items,
        choice: NDArray[np.generic] | None,
        limits: EngineTolerances,
        coordinates: Sequence[str],
    ) -> None:
        """Compare raw outputs, item by item; ``coordinates``: see :class:`Outputs`."""
        if not same_shape(given, wanted):
            self.differences = dict.fromkeys(wanted.values, math.inf)
            return
        if given.tokens is not None and choice is not None:
            self.gap = choice_gap(given.tokens, choice)
        pairs = pair(given, wanted)
        first = next(iter(wanted.values.values()))
        shared = len(next(iter(pairs.found.values())))
        if shared < FEWEST_SHARED * first.shape[0] * first.shape[1]:
            self.gap = math.inf
        for name, found in pairs.found.items():
            difference = Difference()
            difference.add(found, pairs.wanted[name])
            self.differences[name] = difference.measure(limits)
            finite = math.isfinite(difference.largest) and shared
            measure = _of_coordinates if name in coordinates else _of_numbers
            self.typical[name], self.bias[name] = (
                measure(found, pairs.wanted[name]) if finite else (math.inf, math.inf)
            )

    def within(self, limits: EngineTolerances) -> bool:
        """Whether all of it is tolerable."""
        slack = SLACK if limits.approximate else 0
        measures = (
            (self.differences, limits.raw),
            (self.typical, limits.typical),
            (self.bias, limits.bias),
        )
        return (
            self.differences.keys() == limits.raw.keys()
            and all(
                found[name] <= limit
                for found, limit_of in measures
                for name, limit in limit_of.items()
            )
            and self.gap <= limits.selection
            and self.unmatched <= limits.unmatched * self.detections + slack
        )


def _of_coordinates(found: Floats, wanted: Floats) -> tuple[float, float]:
    """The median error of an item, and the error that most items share; [pairs, numbers] each. See
    :class:`EngineTolerances`."""
    error = found - wanted
    scale = np.sqrt(np.square(wanted).sum(1).mean())
    typical = _ratio(float(np.median(np.sqrt(np.square(error).sum(1)))), float(scale))
    scales = np.sqrt(np.square(wanted).mean(0))
    shift = np.abs(np.median(error, axis=0))
    bias = max(_ratio(float(one), float(size)) for one, size in zip(shift, scales, strict=True))
    return typical, bias


def _of_numbers(found: Floats, wanted: Floats) -> tuple[float, float]:
    """The same of scores or logits, of those above the root mean square: the background says
    nothing."""
    large = (np.abs(wanted) >= np.sqrt(np.square(wanted).mean())) & (wanted != 0)
    if not large.any():
        return 0.0, 0.0
    relative = (found[large] - wanted[large]) / wanted[large]
    return float(np.median(np.abs(relative))), float(abs(np.median(relative)))


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale else (math.inf if error else 0.0)

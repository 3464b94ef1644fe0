"""Parity of built engines: each computes what the graph it was built from computes.

A builder may miscompile a correct graph, for one depth or one batch size only. So every engine is
run at every depth it holds and at several batch sizes of its profile, and compared with a graph on
ONNX Runtime's CPU kernels (:mod:`anydepth_deploy.verifying.reference` says which). That the graph
computes what the checkpoint computes is :mod:`anydepth_deploy.verifying.graphs`'s business; nothing
here needs torch.

What is judged, at each depth and batch size:

- queries by their encoder tokens: what an engine took instead of what the reference would have
  taken must tie with it, by the reference's own scores;
- the values of the queries both sides have, or of all cells, in three measures (see
  :class:`EngineTolerances`);
- detections against those that follow from the engine's own raw outputs;
- whether the engine looks more like the reference at a depth that differs in one gate than at its
  own, depth by depth, and gate by gate over all depths. In 8 bits two branches may differ by less
  than rounding does, and no tolerance can tell them apart; many small votes can.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import chains, other_devices
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.documents import utc_now
from anydepth_deploy.errors import AnyDepthError, BundleError, ImageError, shorten
from anydepth_deploy.families.shared.tolerances import (
    SLACK,
    EngineTolerances,
    engine_tolerances,
    resemblance_limit,
)
from anydepth_deploy.manifest import Artifact, BatchProfile, Verification
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import device_capability
from anydepth_deploy.suppression import suppress
from anydepth_deploy.verifying.items import (
    Items,
    choice_gap,
    items_of,
    pair,
    resemblance,
    same_shape,
)
from anydepth_deploy.verifying.parity import Difference, Parity, Report, count_unmatched
from anydepth_deploy.verifying.reference import CHOICE, Reference, choose_reference

__all__ = ["EngineParity", "EngineReport", "GateVote", "batch_sizes", "verify_engines"]

Images = NDArray[np.float32]
Raw = Mapping[str, NDArray[np.generic]]

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


@dataclass(frozen=True)
class EngineReport(Report):
    """What :func:`verify_engines` found. ``gates``: by engine; ``notes``: what limits the result,
    by engine. ``batches`` holds every shape that some engine was run with."""

    rows: Sequence[EngineParity]
    gates: list[GateVote] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return super().passed and all(gate.passed for gate in self.gates)


def verify_engines(
    bundle: Bundle,
    batches: Sequence[Images],
    *,
    runtime: str,
    depths: Sequence[Depth] | None = None,
    layout: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    record: bool = True,
) -> EngineReport:
    """Compare the engines of ``bundle`` for ``runtime`` and the device at hand with their graphs.

    ``batches``: prepared images, float32 [N, 3, H, W] each. All their images are run at their batch
    sizes, as far as an engine's profile allows, and at the sizes its profile names. ``depths``: by
    default every depth that an engine holds. ``threads``: of ONNX Runtime. The verdict is written
    to the manifest as :attr:`Artifact.verified` of exactly the bytes that were tried; all pieces of
    a chain share it.

    Raises :class:`BundleError` when there is no engine to try or no graph to compare one with, and
    what the runtime raises where an engine cannot be opened.
    """
    if not batches:
        raise ImageError("verify needs at least one batch of images")
    found = bundle.artifacts(layout, precision, format=runtime)
    here = device_capability(runtime) if found else None
    fitting = [item for item in found if item.engine and _fits(here, item.engine.capabilities)]
    plan = [(chain, _depths_of(chain[0], bundle, depths)) for chain in chains(fitting)]
    if not any(tried for _, tried in plan):
        raise BundleError(_nothing_to_try(bundle, runtime, found, fitting, here))
    left_out = [item.name for item in found if item not in fitting]
    left_out += [item.name for chain, tried in plan if not tried for item in chain]
    pool = np.concatenate(list(batches))
    steps = _Steps(progress, sum(len(tried) for _, tried in plan))
    rows: list[EngineParity] = []
    gates: list[GateVote] = []
    notes: list[str] = []
    verdicts: dict[str, Verification] = {}
    tolerances: dict[str, Any] = {}
    sizes_tried: set[int] = set()
    for chain, tried in plan:
        if not tried:
            continue
        first = chain[0]
        assert first.engine is not None
        kind = first.precision
        limits = engine_tolerances(bundle.manifest.family, bundle.size, kind)
        tolerances[kind] = limits
        sizes = batch_sizes(first.engine.batch, [len(batch) for batch in batches])
        if len(sizes) == 1:
            notes.append(f"{first.name}: its profile allows batches of {sizes[0]} only")
        reference = Reference(bundle, choose_reference(bundle, first), threads=threads)
        session = open_artifacts(bundle, chain, runtime=runtime, raw=True)
        trial = _Trial(bundle, first, session, reference, limits, pool, sizes)
        own = [trial.row(depth, steps) for depth in tried]
        own, votes = trial.vote(own, tried)
        rows += own
        gates += votes
        sizes_tried |= set(sizes)
        verdict = Verification(
            when=utc_now(),
            passed=all(row.passed for row in own) and all(vote.passed for vote in votes),
            reference=reference.artifact.name,
            device=here or platform.machine(),
            depths=len(tried),
            batches=sizes,
        )
        found_now = {item.sha256: verdict for item in chain}
        verdicts |= found_now
        if record:  # at once: what comes next may not even open
            bundle.mark(found_now)
    shapes = [[size, *pool.shape[1:]] for size in sorted(sizes_tried)]
    source = bundle.manifest.source.file
    report = EngineReport(
        str(bundle.path), source, runtime, shapes, tolerances, rows, left_out, gates, notes
    )
    if record:
        bundle.record("verify", _record(report, plan, verdicts))
    return report


def batch_sizes(profile: BatchProfile, given: Sequence[int]) -> list[int]:
    """The sizes to try an engine at: the ``given`` ones, brought into its profile, and those that
    the profile names. Two at least, unless the profile allows one only."""
    wanted = {min(max(size, profile.smallest), profile.largest) for size in given}
    return sorted(wanted | {profile.smallest, profile.typical, profile.largest})


def _fits(here: str | None, capabilities: Sequence[str]) -> bool:
    return here is None or here in capabilities


def _depths_of(
    artifact: Artifact, bundle: Bundle, depths: Sequence[Depth] | None
) -> tuple[Depth, ...]:
    """The depths to try an engine at."""
    if artifact.depth is None:
        return bundle.table.rows if depths is None else tuple(depths)
    own = bundle.table.find(artifact.depth)
    return (own,) if depths is None or own in depths else ()


def _nothing_to_try(
    bundle: Bundle,
    runtime: str,
    found: Sequence[Artifact],
    fitting: Sequence[Artifact],
    here: str | None,
) -> str:
    has = shorten([item.name for item in bundle.artifacts()]) or "none"
    if not found:
        return (
            f"bundle {bundle.path} has no engine of that kind for the runtime '{runtime}'; it has "
            f"{has}. 'build {bundle.path} --runtime {runtime}' adds engines"
        )
    if not fitting:
        return other_devices(bundle, found, runtime, here)
    return f"bundle {bundle.path} has no engine for the depths asked for; it has {has}"


def _record(
    report: EngineReport,
    plan: Sequence[tuple[Sequence[Artifact], Sequence[Depth]]],
    verdicts: Mapping[str, Verification],
) -> dict[str, Any]:
    """What the manifest keeps: no paths of the machine, but the hash of what was verified."""
    content = report.to_json()
    del content["bundle"], content["checkpoint"]
    tried = [
        {
            "name": item.name,
            "sha256": item.sha256,
            "precision": item.precision,
            "passed": verdicts[item.sha256].passed,
        }
        for chain, depths in plan
        if depths
        for item in chain
    ]
    return {"when": utc_now(), "artifacts": tried, **content}


class _Steps:
    """Progress over all engines and depths."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._total)
        self._done += 1


class _Trial:
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
        self.bundle, self.artifact, self.session = bundle, artifact, session
        self.reference, self.limits, self.pool, self.sizes = reference, limits, pool, sizes
        self._expected: dict[Depth, Items] = {}
        self._given: dict[Depth, Items] = {}

    def row(self, depth: Depth, step: _Steps) -> EngineParity:
        """What is found at one depth, but for its resemblance to others."""
        step(f"{self.artifact.name} at {depth}")
        expected = self.reference.run(self.pool, depth)
        wanted = items_of(expected)
        self._expected[depth] = wanted.thinned()
        total = _Found()
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
            passed=problem is None and total.within(self.limits, self.session.detects),
            reference=self.reference.artifact.name,
            typical=total.typical,
            bias=total.bias,
            problem=problem,
        )

    def _at(
        self, depth: Depth, size: int, wanted: Items, choice: NDArray[np.generic] | None
    ) -> _Found:
        """All images, in batches of one size; the last batch begins again with the first image."""
        count = len(self.pool)
        found = _Found()
        raws: list[Raw] = []
        order: list[NDArray[np.intp]] = []
        for start in range(0, count, size):
            index = np.arange(start, start + size) % count
            images = self.pool[index]
            if self.session.detects:
                detections, raw = self.session.run_both(images, depth)
                found.detect(detections, self._follows(raw), self.limits)
            else:
                raw = self.session.run_raw(images, depth)
            raws.append(raw)
            order.append(index)
        given = items_of({name: np.concatenate([raw[name] for raw in raws]) for name in raws[0]})
        images_of = np.concatenate(order)
        chosen_by = None if choice is None else choice[images_of]
        found.compare(given, wanted.images(images_of), chosen_by, self.limits)
        self._given[depth] = given.images(np.arange(count)).thinned()
        return found

    def _follows(self, raw: Raw) -> Detections:
        """The detections that follow from raw outputs."""
        rule, places = self.bundle.manifest.suppression, self.bundle.manifest.max_detections
        if rule is not None:
            return suppress(raw["predictions"].astype(np.float32, copy=False), rule, places)
        return _best(raw["logits"], raw["boxes"], self.bundle.size, places)

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
                    self._expected[other] = items_of(self.reference.run(self.pool, other)).thinned()
                share = resemblance(given, own, self._expected[other])
                shares.setdefault(gate, []).append(share)
                most = max(most, (share, str(other)), key=lambda item: item[0])
            passed = row.passed and most[0] <= resemblance_limit(1)
            judged.append(_with(row, resemblance=most[0], resembles=most[1], passed=passed))
        votes = []
        for gate, found in sorted(shares.items()):
            share = float(np.mean(found))
            passed = share <= resemblance_limit(len(found))
            name = space.gates[gate].name
            votes.append(GateVote(self.artifact.name, name, len(found), share, passed))
        return judged, votes


def _with(row: EngineParity, **changes: Any) -> EngineParity:
    return EngineParity(**{item.name: getattr(row, item.name) for item in fields(row)} | changes)


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
class _Found:
    """What one batch size shows, or the worst of several."""

    differences: dict[str, float] = field(default_factory=dict)
    typical: dict[str, float] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    gap: float = 0.0
    detections: int = 0
    unmatched: int = 0

    def worse(self, other: _Found) -> None:
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
    ) -> None:
        """Compare raw outputs, item by item."""
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
            measures = (
                _typical(name, found, pairs.wanted[name]),
                _bias(name, found, pairs.wanted[name]),
            )
            self.typical[name], self.bias[name] = measures if finite else (math.inf, math.inf)

    def within(self, limits: EngineTolerances, detects: bool) -> bool:
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


def _typical(name: str, found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """The median error; see :class:`EngineTolerances`. [pairs, numbers] each."""
    error = found - wanted
    if name == "boxes":
        scale = np.sqrt(np.square(wanted).sum(1).mean())
        return _ratio(float(np.median(np.sqrt(np.square(error).sum(1)))), float(scale))
    large = _large(wanted)
    return float(np.median(np.abs(error[large] / wanted[large]))) if large.any() else 0.0


def _bias(name: str, found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """The error that most items share; see :class:`EngineTolerances`."""
    error = found - wanted
    if name == "boxes":
        scale = np.sqrt(np.square(wanted).mean(0))
        shift = np.abs(np.median(error, axis=0))
        return max(_ratio(float(one), float(size)) for one, size in zip(shift, scale, strict=True))
    large = _large(wanted)
    return float(abs(np.median(error[large] / wanted[large]))) if large.any() else 0.0


def _large(wanted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which scores or logits are above the root mean square: the background says nothing."""
    return np.asarray((np.abs(wanted) >= np.sqrt(np.square(wanted).mean())) & (wanted != 0))


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale else (math.inf if error else 0.0)


def _best(
    logits: NDArray[np.generic], boxes: NDArray[np.generic], size: tuple[int, int], places: int
) -> Detections:
    """The best ``places`` pairs of query and class: logits [N, Q, classes] and boxes [N, Q, 4]
    (cx, cy, w, h in 0..1) to detections, as an AnyDepth-DETR ends."""
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

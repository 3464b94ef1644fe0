"""Proof without the checkpoint: graphs and engines against the golden outputs of their bundle.

Neither torch nor another runtime is needed, so any device can ask whether what it runs computes
what the checkpoint does: from the pictures on, which are prepared here, as it is run there (an FP16
graph is not rounded where a runtime does not). What is judged, at each depth that there are golden
outputs of:

- queries by their encoder tokens: what an artifact took instead of what the network takes must tie
  with it, by the network's own scores;
- the values of the queries that both have, or of cells;
- detections against those that follow from the artifact's own raw outputs;
- whether it looks more like the network at another depth.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import stored_precision
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.golden import Golden
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import utc_now
from anydepth_deploy.errors import AnyDepthError, BundleError, DepthError, shorten
from anydepth_deploy.families.registry import find_outputs, golden_tolerances
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.tolerances import EngineTolerances, Tolerances
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.manifest import Verification
from anydepth_deploy.pictures.images import prepare_batch
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import format_of
from anydepth_deploy.verifying.items import (
    choice_gap,
    resemblance,
    resemblance_limit,
    same_shape,
)
from anydepth_deploy.verifying.parity import GOLDEN, Report
from anydepth_deploy.verifying.plan import Plan, batch_sizes, name_of, plan_engines, plan_graphs
from anydepth_deploy.verifying.trial import EngineParity, Found, Images, Steps, follows

__all__ = ["GoldenReport", "verify_golden"]

ABSENT = -1
"""The token of no query."""


@dataclass(frozen=True)
class GoldenParity(EngineParity):
    """How far an artifact is from the golden outputs at one depth. ``exchanged``: queries that it
    chose otherwise, at a tie; the others are held against wider limits then."""

    exchanged: int = 0


@dataclass(frozen=True)
class GoldenReport(Report):
    """What :func:`verify_golden` found; ``notes``: what limits the result."""

    rows: Sequence[GoldenParity]
    compared_with: str = GOLDEN
    notes: list[str] = field(default_factory=list)


@usual_arithmetic()
def verify_golden(
    bundle: Bundle,
    *,
    runtime: str = "onnxruntime",
    depths: Sequence[Depth] | None = None,
    layout: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    record: bool = True,
) -> GoldenReport:
    """Compare the artifacts of ``bundle`` for ``runtime`` with its golden outputs.

    ``depths``: by default all that there are golden outputs of; static graphs of others are left
    out. ``precision``: as in :func:`anydepth_deploy.verifying.graphs.verify`. ``threads``: of
    runtimes of graphs. All pictures are run in batches of one and of all of them, of engines also
    of the sizes of their profile. The outcome is recorded in the manifest; engines are marked with
    it.

    Raises :class:`BundleError` where there are no golden outputs, for damaged ones and where there
    is nothing to try, :class:`DepthError` for depths without golden outputs, and what runtimes
    raise.
    """
    golden = bundle.golden()
    tried = _depths(bundle, golden, depths)
    engines = format_of(runtime) != "onnx"
    find = plan_engines if engines else plan_graphs
    plan = find(bundle, runtime, layout, precision, tried, tried)
    images = prepare_batch(list(golden.pictures), bundle.manifest.preprocess)[0]
    steps = Steps(progress, plan.steps)
    rows: list[GoldenParity] = []
    notes: list[str] = []
    tolerances: dict[str, Tolerances] = {}
    marks: dict[tuple[str, str], Verification] = {}
    shapes: set[int] = set()
    compute = "fp32" if precision is None else stored_precision(precision)[1]
    for chain, held in plan.chains:
        first, sizes = chain[0], [1, len(images)]
        computed = "bf16" if compute == "bf16" else first.precision
        limits = golden_tolerances(bundle.manifest.family, bundle.size, computed)
        tolerances[computed] = limits[0]
        if first.engine is not None:
            sizes = batch_sizes(first.engine.batch, sizes)
            if len(sizes) == 1:
                notes.append(f"{first.name}: its profile allows batches of {sizes[0]} only")
        session = open_artifacts(
            bundle,
            chain,
            runtime=runtime,
            threads=None if engines else threads,
            raw=True,
            compute=compute,
        )
        trial = _Trial(bundle, golden, session, limits, images, sorted({*sizes}))
        blank = GoldenParity(
            artifact=name_of(chain),
            precision=computed,
            depth="",
            level=None,
            differences={},
            selection=0.0,
            detections=0,
            unmatched=0,
            passed=False,
            reference=_file(bundle),
        )
        own = trial.resemblances([trial.row(blank, depth, steps, engines) for depth in held])
        rows += own
        shapes |= {*sizes}
        verdict = Verification(
            when=utc_now(),
            passed=all(row.passed for row in own),
            reference=_file(bundle),
            device=plan.device or platform.machine(),
            depths=len(held),
            batches=sorted({*sizes}),
        )
        marks |= {(item.name, item.sha256): verdict for item in chain if item.engine is not None}
        if record and engines:  # at once: what comes next may not even open
            bundle.mark(marks)
    report = GoldenReport(
        str(bundle.path),
        bundle.manifest.source.file,
        runtime,
        [[size, *images.shape[1:]] for size in sorted(shapes)],
        tolerances,
        rows,
        plan.left_out,
        notes=notes,
    )
    if record:
        bundle.record("verify", _record(report, plan))
    return report


def _record(report: GoldenReport, plan: Plan) -> dict[str, object]:
    failed = {row.artifact for row in report.rows if not row.passed}
    computed = {row.artifact: row.precision for row in report.rows}
    artifacts = [(item, name_of(chain)) for chain, _ in plan.chains for item in chain]
    return report.record((item, computed[name], name not in failed) for item, name in artifacts)


def _file(bundle: Bundle) -> str:
    assert bundle.manifest.golden is not None
    return bundle.manifest.golden.file


def _depths(bundle: Bundle, golden: Golden, asked: Sequence[Depth] | None) -> list[Depth]:
    """The depths to try, in the order of the golden outputs."""
    try:
        there = [bundle.table.space.parse(text) for text in golden.depths]
    except DepthError as error:
        raise BundleError(
            f"bundle {bundle.path}: its golden outputs are of another network ({error}): export it "
            "again"
        ) from None
    if asked is None:
        return there
    if missing := [depth for depth in asked if depth not in there]:
        raise DepthError(
            f"bundle {bundle.path} has no golden outputs at {shorten(missing, 3)}; it has them at "
            f"{shorten(there, 12)}: choose of these, or name the checkpoint to compare with"
        )
    return [depth for depth in there if depth in asked]


class _Trial:
    """One artifact, or chain, and the golden outputs."""

    def __init__(
        self,
        bundle: Bundle,
        golden: Golden,
        session: Session,
        limits: tuple[EngineTolerances, EngineTolerances],
        images: Images,
        sizes: Sequence[int],
    ) -> None:
        self.bundle, self.golden, self.session = bundle, golden, session
        self.limits, self.images, self.sizes = limits, images, sizes
        self.outputs = find_outputs(bundle.manifest.family)
        self._given: dict[str, Items] = {}

    def row(self, blank: GoldenParity, depth: Depth, step: Steps, engines: bool) -> GoldenParity:
        """What is found at one depth, but for its resemblance to others: the worst of all batch
        sizes. An engine that does not run has failed; a graph's error is raised."""
        step(f"{blank.artifact} at {depth}")
        problem: str | None = None
        exchanged = 0
        for limits in self.limits:
            total = Found()
            for size in self.sizes:
                try:
                    found, other = self._at(depth, size, limits)
                except AnyDepthError as error:
                    if not engines:
                        raise
                    problem = f"batches of {size}: {error}"
                    break
                total.worse(found)
                exchanged = max(exchanged, other)
            if not exchanged:
                break
        return replace(
            blank,
            depth=str(depth),
            level=self.bundle.table.level(depth),
            differences=total.differences,
            selection=total.gap,
            detections=total.detections,
            unmatched=total.unmatched,
            passed=problem is None and total.within(limits),
            exchanged=exchanged,
            typical=total.typical,
            bias=total.bias,
            problem=problem,
        )

    def _at(self, depth: Depth, size: int, limits: EngineTolerances) -> tuple[Found, int]:
        """What is found with batches of one size, and how many queries are others."""
        found, exchanged = Found(), 0
        raw, images_of = found.run(
            self.session,
            self.images,
            depth,
            size,
            lambda given: follows(self.bundle, given),
            limits,
        )
        given, text = self.outputs.items(raw), str(depth)
        wanted = self.golden.depths[text].items.images(images_of)
        if not self._is_whole(given, wanted):
            found.differences = dict.fromkeys(wanted.values, math.inf)
            return found, 0
        if given.tokens is not None:
            choice, best = self.golden.choice(text), self.golden.depths[text].best_tokens
            if choice is not None and best is not None:
                found.gap = choice_gap(given.tokens, choice[images_of])
                exchanged = sum(
                    len(np.setdiff1d(taken, wanted_of))
                    for taken, wanted_of in zip(
                        given.tokens, best[images_of, : self.golden.items], strict=True
                    )
                )
        own = self._selected(given, wanted, images_of)
        gap = found.gap
        found.compare(own, wanted, None, limits, self.outputs.coordinates)
        found.gap = max(found.gap, gap)
        self._given[text] = own.images(np.arange(len(self.images)))
        return found, exchanged

    def _is_whole(self, given: Items, wanted: Items) -> bool:
        """Whether there are as many items as there should be, of the same quantities."""
        return (
            given.values.keys() == wanted.values.keys()
            and (given.tokens is None) == (wanted.tokens is None)
            and all(
                array.shape[1:] == (self.golden.items, wanted.values[name].shape[2])
                for name, array in given.values.items()
            )
        )

    def _selected(self, given: Items, wanted: Items, images_of: np.ndarray) -> Items:
        """Of the items of an artifact, those that there are golden outputs of, in their order; of
        queries that it did not choose, zeros."""
        if self.golden.cells is not None:
            places, there = self.golden.cells[images_of], None
            tokens = None
        else:
            assert given.tokens is not None
            assert wanted.tokens is not None
            same = given.tokens[:, None, :] == wanted.tokens[:, :, None]
            places, there = same.argmax(2), same.any(2)
            # Each image's own names for what is not there, none of them a token's.
            lacking = ABSENT - np.arange(there.shape[1])
            tokens = np.where(there, wanted.tokens, lacking)
        values = {}
        for name, array in given.values.items():
            taken = np.take_along_axis(array, places[..., None], 1)
            values[name] = taken if there is None else np.where(there[..., None], taken, 0)
        return Items(values, tokens)

    def resemblances(self, rows: Sequence[GoldenParity]) -> list[GoldenParity]:
        """Ask of each depth whether the artifact looks like another of the golden depths."""
        judged: list[GoldenParity] = []
        for row in rows:
            given, own = self._given.get(row.depth), self.golden.depths[row.depth].items
            if given is None or not same_shape(given, own):
                judged.append(row)
                continue
            shares = [
                (resemblance(given, own, other.items), text)
                for text, other in self.golden.depths.items()
                if text != row.depth
            ]
            share, text = max(shares, default=(0.0, None), key=lambda item: item[0])
            passed = row.passed and share <= resemblance_limit(1)
            judged.append(
                replace(row, resemblance=share, resembles=text if share else None, passed=passed)
            )
        return judged

"""Parity: an artifact computes what its checkpoint computes, at every depth.

Raw outputs are compared query by query; the artifact's own choice of queries is taken over by the
torch model and judged separately (see :meth:`AnyDepthModel.compare`). Detections are compared as
sets: the order of near-equal scores, and which of them make the last place, is nobody's promise.

An FP32 artifact has to equal its checkpoint. One of lower precision has to be close: its raw
outputs in relative error, over all pictures, and its confident detections to those that the
checkpoint finds by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from anydepth_deploy.bundle import Bundle, file_sha256
from anydepth_deploy.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.clock import utc_now
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.errors import BundleError, ImageError
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.models.stages import SLACK, Tolerances
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes import made_for, rounds_to_half, runtime_targets
from anydepth_deploy.runtimes.torch import TorchSession
from anydepth_deploy.session import Session, open_artifacts, stored_precision

__all__ = ["Parity", "Report", "unmatched_detections", "verify"]


@dataclass(frozen=True)
class Parity:
    """How far one artifact is from its checkpoint at one depth, over all batches tried.

    ``precision``: what it was computed in. ``differences``: by quantity of the raw outputs, the
    largest, or for a lower precision the relative error. ``selection``: see :class:`Comparison`.
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
    """What :func:`verify` found; ``passed`` only if every row passed.

    ``tolerances``: by precision. ``left_out``: artifacts of the bundle that hold none of the depths
    asked for, or that the runtime cannot run as they are meant to.
    """

    bundle: str
    checkpoint: str
    runtime: str
    batches: list[list[int]]
    tolerances: dict[str, Tolerances]
    rows: list[Parity]
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def verify(
    bundle: Bundle,
    checkpoint: str,
    batches: Sequence[NDArray[np.float32]],
    *,
    depths: Sequence[Depth] | None = None,
    layout: str | None = None,
    precision: str | None = None,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    progress: Progress | None = None,
    record: bool = True,
) -> Report:
    """Compare the artifacts of ``bundle`` with ``checkpoint``, depth by depth.

    ``batches``: prepared images, float32 [N, 3, H, W] each; give several batch sizes. ``depths``:
    by default the ladder for gated graphs, and for each static graph the depth it holds.
    ``precision``: only artifacts of this one; ``bf16`` has a runtime compute FP32 artifacts in it.
    The outcome is recorded in the manifest, with the hash of each artifact.

    Raises :class:`BundleError` when the checkpoint is not the one the bundle was made from, or
    when there is nothing to verify, and :class:`UsageError` for an unknown precision.
    """
    if not batches:
        raise ImageError("verify needs at least one batch of images")
    stored, compute = stored_precision(precision) if precision is not None else (None, None)
    model = load_model(_same_checkpoint(bundle, checkpoint))
    if model.suppression is not None:
        model.suppression = bundle.manifest.suppression
    reference = TorchSession(model)
    targets = runtime_targets(runtime)
    plan = [
        (item, _depths_of(item, bundle, depths) if made_for(item, targets) else [])
        for item in bundle.artifacts(layout, stored)
    ]
    total = sum(len(found) for _, found in plan)
    if not total:
        wanted = "" if precision is None else f" in {precision}"
        raise BundleError(
            f"bundle {bundle.path} has no artifact for the depths asked for{wanted}; "
            f"it has {', '.join(item.name for item in bundle.artifacts()) or 'none'}"
        )
    rows: list[Parity] = []
    tolerances: dict[str, Tolerances] = {}
    for artifact, found in plan:
        if not found:
            continue
        session = open_artifacts(
            bundle,
            [artifact],
            runtime=runtime,
            threads=threads,
            raw=True,
            compute=compute or "fp32",
            rounded=rounds_to_half(artifact),
        )
        computed = "bf16" if compute == "bf16" else artifact.precision
        limits = tolerances.setdefault(computed, model.tolerances(bundle.size, computed))
        for depth in found:
            if progress is not None:
                progress(f"{artifact.name} at {depth}", len(rows), total)
            compared = _compare(session, reference, depth, batches, limits)
            rows.append(
                Parity(artifact.name, computed, str(depth), bundle.table.level(depth), **compared)
            )
    shapes = [list(batch.shape) for batch in batches]
    left_out = [item.name for item, found in plan if not found]
    report = Report(str(bundle.path), str(checkpoint), runtime, shapes, tolerances, rows, left_out)
    if record:
        bundle.record("verify", _record(report, [item for item, found in plan if found]))
    return report


def _depths_of(artifact: Artifact, bundle: Bundle, depths: Sequence[Depth] | None) -> list[Depth]:
    """The depths to try an artifact at."""
    if artifact.depth is None:
        return list(bundle.table.ladder if depths is None else depths)
    own = bundle.table.find(artifact.depth)
    return [own] if depths is None or own in depths else []


def _record(report: Report, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """What the manifest keeps: no paths of the machine, but the hash of what was verified."""
    content = report.to_json()
    del content["bundle"], content["checkpoint"]
    failed = {row.artifact for row in report.rows if not row.passed}
    computed = {row.artifact: row.precision for row in report.rows}
    tried = [
        {
            "name": item.name,
            "sha256": item.sha256,
            "precision": computed[item.name],
            "passed": item.name not in failed,
        }
        for item in artifacts
    ]
    return {"when": utc_now(), "artifacts": tried, **content}


def _same_checkpoint(bundle: Bundle, path: str) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    digest = file_sha256(checkpoint.path)
    source = bundle.manifest.source
    if digest != source.sha256:
        raise BundleError(
            f"bundle {bundle.path} was made from {source.file} (sha256 {source.sha256[:12]}…), "
            f"not from {path} (sha256 {digest[:12]}…): give the checkpoint it was exported from"
        )
    return checkpoint


def _compare(
    session: Session,
    reference: TorchSession,
    depth: Depth,
    batches: Iterable[NDArray[np.float32]],
    limits: Tolerances,
) -> dict[str, Any]:
    """The fields of :class:`Parity` that say what was found."""
    measured: dict[str, _Difference] = {}
    gap = 0.0
    places = detections = unmatched = 0
    for images in batches:
        found: Detections | None = None
        if session.detects:
            found, raw = session.run_both(images, depth)
        else:
            raw = session.run_raw(images, depth)
        given = reference.quantities(raw)
        expected, wanted, batch_gap = reference.compare(images, depth, raw)
        gap = max(gap, batch_gap)
        for name, array in expected.items():
            measured.setdefault(name, _Difference()).add(given[name], array)
        if found is None:
            continue
        places += wanted.labels.size
        if limits.approximate:
            wanted = reference.run(images, depth)
        counted, lonely = _count_unmatched(found, wanted, limits)
        detections += counted
        unmatched += lonely
    differences = {
        name: item.relative if limits.approximate else item.largest
        for name, item in measured.items()
    }
    passed = (
        all(differences[name] <= limit for name, limit in limits.raw.items())
        and differences.keys() == limits.raw.keys()
        and gap <= limits.selection
        and unmatched <= limits.unmatched * detections + (SLACK if limits.approximate else 0)
        and (places > 0 or not session.detects)
    )
    return {
        "differences": differences,
        "selection": gap,
        "detections": detections,
        "unmatched": unmatched,
        "passed": passed,
    }


def _count_unmatched(found: Detections, wanted: Detections, limits: Tolerances) -> tuple[int, int]:
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


@dataclass
class _Difference:
    """Between an artifact's arrays and the checkpoint's, over batches; infinite for another shape
    or anything not finite."""

    largest: float = 0.0
    squares: float = 0.0
    norm: float = 0.0

    @property
    def relative(self) -> float:
        """||artifact - checkpoint|| / ||checkpoint||."""
        if not self.squares:
            return 0.0
        return math.sqrt(self.squares / self.norm) if self.norm else math.inf

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


def _confident(one: Detections, other: Detections, limits: Tolerances) -> tuple[int, int]:
    """How many detections of two sets are confident, and how many of those have no partner in the
    whole other set (which may be less confident of it)."""
    if not (np.isfinite(one.scores).all() and np.isfinite(one.boxes).all()):
        count = max(one.labels.size, 1)
        return count, count
    close = _close(one, other, limits.score, limits.pixels)
    partner = maximum_bipartite_matching(csr_array(close), perm_type="column")
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
    partner = maximum_bipartite_matching(csr_array(close), perm_type="column")
    lonely_other = np.setdiff1d(np.arange(labels[1].size), partner)
    if labels[0].size != labels[1].size:  # a list that is too short has no last place to miss
        return int(np.count_nonzero(partner < 0)) + len(lonely_other)
    return _not_at_the_edge(scores[0][partner < 0], scores[1], score) + _not_at_the_edge(
        scores[1][lonely_other], scores[0], score
    )


def _not_at_the_edge(lonely: NDArray[np.float64], theirs: NDArray[np.float64], score: float) -> int:
    edge = theirs.min(initial=math.inf) + score
    return sum(bool(value) for value in lonely > edge)

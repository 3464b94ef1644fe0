"""Parity: an artifact computes what its checkpoint computes, at every depth.

Raw outputs are compared query by query; the artifact's own choice of queries is taken over by the
torch model and judged separately (see :meth:`AnyDepthModel.compare`). Detections are compared as
sets: the order of near-equal scores, and which of them make the last place, is nobody's promise.
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
from anydepth_deploy.models.stages import Tolerances
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.torch import TorchSession
from anydepth_deploy.session import Session, open_artifacts

__all__ = ["Parity", "Report", "unmatched_detections", "verify"]


@dataclass(frozen=True)
class Parity:
    """The largest differences of one artifact at one depth, over all batches tried.

    ``differences``: by quantity of the raw outputs. ``selection``: see :class:`Comparison`.
    ``unmatched``: how many of ``detections`` have no partner, or are out of order.
    """

    artifact: str
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

    ``left_out``: artifacts of the bundle that hold none of the depths asked for.
    """

    bundle: str
    checkpoint: str
    runtime: str
    batches: list[list[int]]
    tolerances: Tolerances
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
    runtime: str = "onnxruntime",
    threads: int | None = None,
    progress: Progress | None = None,
    record: bool = True,
) -> Report:
    """Compare the artifacts of ``bundle`` with ``checkpoint``, depth by depth.

    ``batches``: prepared images, float32 [N, 3, H, W] each; give several batch sizes. ``depths``:
    by default the ladder for gated graphs, and for each static graph the depth it holds. The
    outcome is recorded in the manifest, with the hash of each artifact.

    Raises :class:`BundleError` when the checkpoint is not the one the bundle was made from, or
    when there is nothing to verify.
    """
    if not batches:
        raise ImageError("verify needs at least one batch of images")
    model = load_model(_same_checkpoint(bundle, checkpoint))
    if model.suppression is not None:
        model.suppression = bundle.manifest.suppression
    reference = TorchSession(model)
    tolerances = model.tolerances(bundle.size)
    plan = [(item, _depths_of(item, bundle, depths)) for item in bundle.artifacts(layout)]
    total = sum(len(found) for _, found in plan)
    if not total:
        raise BundleError(
            f"bundle {bundle.path} has no artifact for the depths asked for; "
            f"it has {', '.join(item.name for item in bundle.artifacts()) or 'none'}"
        )
    rows: list[Parity] = []
    for artifact, found in plan:
        if not found:
            continue
        session = open_artifacts(bundle, [artifact], runtime=runtime, threads=threads, raw=True)
        for depth in found:
            if progress is not None:
                progress(f"{artifact.name} at {depth}", len(rows), total)
            rows.append(_compare(artifact, depth, session, reference, batches, tolerances, bundle))
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
    tried = [
        {"name": item.name, "sha256": item.sha256, "passed": item.name not in failed}
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
    artifact: Artifact,
    depth: Depth,
    session: Session,
    reference: TorchSession,
    batches: Iterable[NDArray[np.float32]],
    tolerances: Tolerances,
    bundle: Bundle,
) -> Parity:
    worst: dict[str, float] = {}
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
            difference = _largest_difference(given[name], array)
            worst[name] = max(worst.get(name, 0.0), difference)
        if found is None:
            continue
        places += wanted.labels.size
        detections += int(np.count_nonzero(wanted.labels != NOTHING))
        if found.labels.shape != wanted.labels.shape:
            unmatched += max(found.labels.size, wanted.labels.size)
            continue
        unmatched += _out_of_order(found, tolerances.score)
        for one, other in zip(found, wanted, strict=True):
            unmatched += unmatched_detections(
                one, other, score=tolerances.score, pixels=tolerances.pixels
            )
    passed = (
        all(worst[name] <= limit for name, limit in tolerances.raw.items())
        and worst.keys() == tolerances.raw.keys()
        and gap <= tolerances.selection
        and unmatched == 0
        and (places > 0 or not session.detects)
    )
    level = bundle.table.level(depth)
    return Parity(artifact.name, str(depth), level, worst, gap, detections, unmatched, passed)


def _out_of_order(found: Detections, score: float) -> int:
    """How many detections have a better one right behind them, by more than ``score``."""
    return int(np.count_nonzero(np.diff(found.scores, axis=1) > score))


def _largest_difference(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Largest absolute difference; infinite for another shape or anything not finite."""
    if one.shape != other.shape:
        return math.inf
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
    largest = float(difference.max(initial=0.0))
    return largest if math.isfinite(largest) else math.inf


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
    close = (
        (labels[0][:, None] == labels[1][None])
        & (np.abs(scores[0][:, None] - scores[1][None]) <= score)
        & (np.abs(boxes[0][:, None] - boxes[1][None]).max(-1, initial=0.0) <= pixels)
    )
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

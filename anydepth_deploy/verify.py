"""Parity: an artifact computes what its checkpoint computes, at every depth.

Raw outputs are compared query by query; the artifact's own choice of queries is taken over by the
torch model and judged separately (see :meth:`AnyDepthModel.compare`). Detections are compared as
sets: the order of near-equal scores, and which of them make the last place, is nobody's promise.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from anydepth_deploy.bundle import Bundle, file_sha256
from anydepth_deploy.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, ImageError
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.runtimes.torch import TorchSession
from anydepth_deploy.session import Session, open_artifacts

__all__ = ["Parity", "Report", "Tolerances", "unmatched_detections", "verify"]


@dataclass(frozen=True)
class Tolerances:
    """Largest differences that count as equal.

    ``logits`` and ``selection`` in logits, ``boxes`` in fractions of the input's sides, ``score``
    in probability, ``pixels`` in input pixels.
    """

    logits: float
    boxes: float
    selection: float
    score: float
    pixels: float

    @classmethod
    def of(cls, precision: str, size: tuple[int, int]) -> Tolerances:
        """The tolerances of a precision, for inputs of ``size``."""
        logits, boxes = {"fp32": (1e-4, 1e-5)}[precision]
        # A logistic function has slope 1/4 at most; corners add half a size to a centre.
        return cls(logits, boxes, logits, logits / 4, 1.5 * boxes * max(size))


@dataclass(frozen=True)
class Parity:
    """The largest differences of one artifact at one depth, over all batches tried."""

    artifact: str
    depth: str
    level: int | None
    logits: float
    boxes: float
    selection: float
    detections: int
    unmatched: int
    passed: bool


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found; ``passed`` only if every row passed."""

    bundle: str
    checkpoint: str
    runtime: str
    batches: list[list[int]]
    tolerances: Tolerances
    rows: list[Parity]

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
    progress: Callable[[str, int, int], None] | None = None,
    record: bool = True,
) -> Report:
    """Compare every artifact of ``bundle`` with ``checkpoint``, depth by depth.

    ``batches``: prepared images, float32 [N, 3, H, W] each; give several batch sizes. ``depths``:
    by default the ladder. Static graphs are tried at the one depth they hold. The outcome is
    recorded in the manifest.

    Raises :class:`BundleError` when the checkpoint is not the one the bundle was made from, or
    when there is nothing to verify.
    """
    if not batches:
        raise ImageError("verify needs at least one batch of images")
    reference = TorchSession(load_model(_same_checkpoint(bundle, checkpoint)))
    chosen = tuple(bundle.table.ladder if depths is None else depths)
    tolerances = Tolerances.of("fp32", bundle.size)
    work = [
        (artifact, [depth for depth in chosen if artifact.depth in (None, str(depth))])
        for artifact in bundle.artifacts(layout)
    ]
    total = sum(len(found) for _, found in work)
    if not total:
        raise BundleError(
            f"bundle {bundle.path} has no artifact for the depths asked for; "
            f"it has {', '.join(item.name for item in bundle.artifacts()) or 'none'}"
        )
    rows: list[Parity] = []
    for artifact, found in work:
        if not found:
            continue
        session = open_artifacts(bundle, [artifact], runtime=runtime, threads=threads, raw=True)
        for depth in found:
            if progress is not None:
                progress(f"{artifact.name} at {depth}", len(rows), total)
            rows.append(_compare(artifact, depth, session, reference, batches, tolerances, bundle))
    shapes = [list(batch.shape) for batch in batches]
    report = Report(str(bundle.path), str(checkpoint), runtime, shapes, tolerances, rows)
    if record:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        bundle.record("verify", {"when": now, **report.to_json()})
    return report


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
    detections = unmatched = 0
    for images in batches:
        found, raw = session.run_both(images, depth)
        expected, wanted, batch_gap = reference.compare(images, depth, raw)
        gap = max(gap, batch_gap)
        for name, array in expected.items():
            difference = _largest_difference(raw[name], array)
            worst[name] = max(worst.get(name, 0.0), difference)
        for one, other in zip(found, wanted, strict=True):
            detections += one.labels.size
            unmatched += unmatched_detections(
                one, other, score=tolerances.score, pixels=tolerances.pixels
            )
    logits, boxes = worst.get("logits", 0.0), worst.get("boxes", 0.0)
    passed = (
        logits <= tolerances.logits
        and boxes <= tolerances.boxes
        and gap <= tolerances.selection
        and unmatched == 0
        and detections > 0
    )
    level = bundle.table.level(depth)
    return Parity(
        artifact.name, str(depth), level, logits, boxes, gap, detections, unmatched, passed
    )


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
    one partner. A detection whose score is within ``score`` of the other set's lowest may have
    missed the last place there, and is not counted.
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
    return _not_at_the_edge(scores[0][partner < 0], scores[1], score) + _not_at_the_edge(
        scores[1][lonely_other], scores[0], score
    )


def _not_at_the_edge(lonely: NDArray[np.float64], theirs: NDArray[np.float64], score: float) -> int:
    edge = theirs.min(initial=math.inf) + score
    return sum(bool(value) for value in lonely > edge)

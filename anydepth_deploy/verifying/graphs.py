"""Parity: an artifact computes what its checkpoint computes, at every depth.

Raw outputs are compared query by query; the artifact's own choice of queries is taken over by the
torch model and judged separately (see :meth:`AnyDepthModel.compare`). Detections are compared as
sets: the order of near-equal scores, and which of them make the last place, is nobody's promise.

An FP32 artifact has to equal its checkpoint. One of lower precision has to be close: its raw
outputs in relative error, over all pictures, and its confident detections to those that the
checkpoint finds by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import stored_precision
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, ImageError
from anydepth_deploy.families.registry import tolerances
from anydepth_deploy.families.shared.memory import StageMemory
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.tolerances import SLACK, Tolerances
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.manifest import rounds_to_half
from anydepth_deploy.progress import Progress
from anydepth_deploy.torch_runtime.session import TorchSession
from anydepth_deploy.verifying.parity import Difference, Parity, Report, count_unmatched
from anydepth_deploy.verifying.plan import name_of, plan_graphs

__all__ = ["Parity", "Report", "verify"]


@usual_state()
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
    when there is nothing to verify, and :class:`UsageError` for an unknown precision, and for INT8
    where ``runtime`` computes it wrongly on this CPU: left out beside other artifacts.
    """
    if not batches:
        raise ImageError("verify needs at least one batch of images")
    compute = stored_precision(precision)[1] if precision is not None else None
    model = load_model(_same_checkpoint(bundle, checkpoint))
    if model.suppression is not None:
        model.suppression = bundle.manifest.suppression
    model.memory = StageMemory()
    reference = TorchSession(model)
    plan = plan_graphs(bundle, runtime, layout, precision, depths, bundle.table.ladder)
    rows: list[Parity] = []
    limits_by: dict[str, Tolerances] = {}
    for chain, tried in plan.chains:
        artifact = chain[0]
        session = open_artifacts(
            bundle,
            chain,
            runtime=runtime,
            threads=threads,
            raw=True,
            compute=compute or "fp32",
            rounded=rounds_to_half(artifact),
        )
        computed = "bf16" if compute == "bf16" else artifact.precision
        if computed not in limits_by:
            limits_by[computed] = tolerances(bundle.manifest.family, bundle.size, computed)
        limits = limits_by[computed]
        name = name_of(chain)
        for depth in tried:
            if progress is not None:
                progress(f"{name} at {depth}", len(rows), plan.steps)
            compared = _compare(session, reference, depth, batches, limits)
            level = bundle.table.level(depth)
            rows.append(Parity(name, computed, str(depth), level, **compared))
    shapes = [list(batch.shape) for batch in batches]
    report = Report(
        str(bundle.path), str(checkpoint), runtime, shapes, limits_by, rows, plan.left_out
    )
    if record:
        failed = {row.artifact for row in rows if not row.passed}
        computed_in = {row.artifact: row.precision for row in rows}
        artifacts = [(item, name_of(chain)) for chain, _ in plan.chains for item in chain]
        bundle.record(
            "verify",
            report.record(
                (item, computed_in[name], name not in failed) for item, name in artifacts
            ),
        )
    return report


def _same_checkpoint(bundle: Bundle, path: str) -> Checkpoint:
    source = bundle.manifest.source
    checkpoint = read_checkpoint(path, Said.of(bundle.manifest.said))
    digest = checkpoint.sha256
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
    measured: dict[str, Difference] = {}
    gap = 0.0
    places = detections = unmatched = 0
    for images in batches:
        found: Detections | None = None
        if session.detects:
            found, raw = session.run_both(images, depth)
        else:
            raw = session.run_raw(images, depth)
        given = reference.outputs.quantities(raw)
        expected, wanted, batch_gap = reference.compare(images, depth, raw)
        gap = max(gap, batch_gap)
        for name, array in expected.items():
            measured.setdefault(name, Difference()).add(given[name], array)
        if found is None:
            continue
        places += wanted.labels.size
        if limits.approximate:
            wanted = reference.run(images, depth)
        counted, lonely = count_unmatched(found, wanted, limits)
        detections += counted
        unmatched += lonely
    differences = {name: item.measure(limits) for name, item in measured.items()}
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

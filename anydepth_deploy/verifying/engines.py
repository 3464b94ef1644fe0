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

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import utc_now
from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.registry import engine_tolerances
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.manifest import Verification
from anydepth_deploy.progress import Progress
from anydepth_deploy.verifying.parity import GRAPHS, Report
from anydepth_deploy.verifying.plan import batch_sizes, plan_engines
from anydepth_deploy.verifying.reference import Reference, choose_reference
from anydepth_deploy.verifying.trial import EngineParity, GateVote, Images, Steps, Trial

__all__ = ["EngineParity", "EngineReport", "GateVote", "batch_sizes", "verify_engines"]


@dataclass(frozen=True)
class EngineReport(Report):
    """What :func:`verify_engines` found. ``gates``: by engine; ``notes``: what limits the result,
    by engine. ``batches`` holds every shape that some engine was run with."""

    rows: Sequence[EngineParity]
    compared_with: str = GRAPHS
    gates: list[GateVote] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return super().passed and all(gate.passed for gate in self.gates)


@usual_arithmetic()
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
    plan = plan_engines(bundle, runtime, layout, precision, depths, bundle.table.rows)
    pool = np.concatenate(list(batches))
    steps = Steps(progress, plan.steps)
    rows: list[EngineParity] = []
    gates: list[GateVote] = []
    notes: list[str] = []
    verdicts: dict[tuple[str, str], Verification] = {}
    tolerances: dict[str, Any] = {}
    sizes_tried: set[int] = set()
    for chain, tried in plan.chains:
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
        trial = Trial(bundle, first, session, reference, limits, pool, sizes)
        own = [trial.row(depth, steps) for depth in tried]
        own, votes = trial.vote(own, tried)
        rows += own
        gates += votes
        sizes_tried |= set(sizes)
        verdict = Verification(
            when=utc_now(),
            passed=all(row.passed for row in own) and all(vote.passed for vote in votes),
            reference=reference.artifact.name,
            device=plan.device or platform.machine(),
            depths=len(tried),
            batches=sizes,
        )
        found_now = {(item.name, item.sha256): verdict for item in chain}
        verdicts |= found_now
        if record:  # at once: what comes next may not even open
            bundle.mark(found_now)
    shapes = [[size, *pool.shape[1:]] for size in sorted(sizes_tried)]
    source = bundle.manifest.source.file
    report = EngineReport(
        str(bundle.path),
        source,
        runtime,
        shapes,
        tolerances,
        rows,
        plan.left_out,
        gates=gates,
        notes=notes,
    )
    if record:
        artifacts = [item for chain, _ in plan.chains for item in chain]
        bundle.record(
            "verify",
            report.record(
                (item, item.precision, verdicts[item.name, item.sha256].passed)
                for item in artifacts
            ),
        )
    return report

"""Which engines to build, from which graph of the bundle each, and what to export for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.depth import Depth, names_whole_ladder
from anydepth_deploy.errors import BundleError, UsageError, shorten
from anydepth_deploy.manifest import LAYOUTS, PRECISIONS, Artifact, Layout, Precision

__all__ = ["Job", "engine_graphs", "engine_layouts", "plan"]


@dataclass(frozen=True)
class Job:
    """What to build from one graph: itself, the static graph of ``depth`` that is in it, or (layout
    ``stages`` of a gated graph) its pieces."""

    source: Artifact
    layout: Layout
    depth: Depth | None = None

    @property
    def precision(self) -> Precision:
        return self.source.precision


def plan(
    bundle: Bundle,
    layouts: Sequence[str],
    precisions: Sequence[str] | None,
    depths: Sequence[Depth],
    weights: str | None = None,
) -> list[Job]:
    """The jobs, layout by layout in each precision.

    ``precisions``: None for all that the bundle has. ``depths``: of layout ``set``. ``weights``:
    of gated graphs, for all layouts. An engine of one depth is built from its exported static
    graph, or else from a gated graph, which holds it; pieces likewise.

    Raises :class:`UsageError` for unknown words and :class:`BundleError` when the bundle has no
    graph to build from.
    """
    for what, words, known in (
        ("layout", layouts, LAYOUTS),
        ("precision", precisions or (), PRECISIONS),
    ):
        if unknown := [word for word in words if word not in known]:
            raise UsageError(f"unknown {what} '{unknown[0]}': expected {', '.join(known)}")
    sources = [item for item in bundle.artifacts(format="onnx") if _suits(item)]
    has = {item.precision for item in sources}
    wanted = [name for name in PRECISIONS if name in (has if precisions is None else precisions)]
    jobs: list[Job] = []
    for precision in wanted:
        same = [item for item in sources if item.precision == precision]
        for layout in LAYOUTS:
            if layout in layouts:
                jobs += _jobs(bundle, same, layout, precision, depths, weights)
    if not jobs:
        raise _nothing(bundle, "the precisions and layouts asked for", "fp16")
    return jobs


def _suits(artifact: Artifact) -> bool:
    return artifact.quantisation is None or artifact.quantisation.target == "tensorrt"


def _jobs(
    bundle: Bundle,
    sources: Sequence[Artifact],
    layout: Layout,
    precision: Precision,
    depths: Sequence[Depth],
    weights: str | None,
) -> list[Job]:
    gated = [item for item in sources if item.layout == "gated" and weights in (None, item.weights)]
    # Separate engines own their weights: the folded form has the norms out of the way already.
    apart = sorted(gated, key=lambda item: item.weights != "folded")
    if layout == "gated":
        if not gated:
            raise _nothing(bundle, f"gated {precision}", precision)
        # One engine for all depths is chosen for its size: the shared form, where there are both.
        return [Job(min(gated, key=lambda item: item.weights != "shared"), layout)]
    if layout == "stages":
        pieces = [item for item in sources if item.piece is not None]
        if pieces and pieces[0].piece and len(pieces) == pieces[0].piece.total:
            return [Job(item, layout) for item in pieces]
        if not apart:
            raise _nothing(bundle, f"stages {precision}", precision)
        return [Job(apart[0], layout)]
    jobs = []
    for depth in depths:
        own = [item for item in sources if item.depth == str(depth)]
        if not own and not apart:
            raise _nothing(bundle, f"{precision} at depth {depth}", precision)
        jobs.append(Job((own or apart)[0], layout, depth))
    return jobs


def _nothing(bundle: Bundle, wanted: str, precision: str) -> BundleError:
    has = shorten(item.name for item in bundle.artifacts(format="onnx"))
    target = " --target tensorrt" if precision == "int8" else ""
    return BundleError(
        f"bundle {bundle.path} has no graph to build engines from for {wanted}; it has: "
        f"{has or 'none'}. 'export --precision {precision}{target}' adds one"
    )


def engine_layouts(layouts: Sequence[str] | None, depth: str) -> list[str]:
    """The layouts to build: by default the gated engine and static ones, or of depths that were
    chosen one by one the static ones."""
    if layouts:
        return list(layouts)
    return ["gated", "set"] if names_whole_ladder(depth) else ["set"]


def engine_graphs(
    layouts: Sequence[str] | None, depth: str, precision: Sequence[str]
) -> dict[str, Any]:
    """Options of :func:`anydepth_deploy.exporting.export.export_bundle` for engines of these
    ``layouts``.

    A gated graph holds what static engines and pieces are built from, so it is all that is made
    where whole ladders are asked for: with shared weights for the gated engine, which is small
    then; folded for engines that own their weights. Depths that were chosen one by one come as
    static graphs.
    """
    whole = names_whole_ladder(depth)
    wanted = engine_layouts(layouts, depth)
    weights = ["shared"] if "gated" in wanted else []
    if "stages" in wanted or (whole and "set" in wanted):
        weights.append("folded")
    graphs = ["gated"] if weights else []
    if "set" in wanted and not whole:
        graphs.append("set")
    return {
        "layouts": graphs,
        "weights": weights or ["shared"],
        "targets": ["tensorrt"] if "int8" in precision else ["onnxruntime"],
    }

"""From an exported graph to one that a builder reads: within what its TensorRT knows and can.

Everything here works on finished graphs, so a device needs the bundle and onnx-ir, not torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from anydepth_deploy.building.backend import Backend
from anydepth_deploy.errors import BundleError, shown
from anydepth_deploy.graph.passes.deformable import gather_samples
from anydepth_deploy.graph.passes.flatten import flatten
from anydepth_deploy.graph.passes.heads import drop_detections, suppresses
from anydepth_deploy.graph.passes.opset import set_opset
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.passes.widen import widen
from anydepth_deploy.manifest import Deformable

__all__ = ["Fitted", "fit", "read_graph", "samples"]


@dataclass(frozen=True)
class Fitted:
    """What was done to a graph.

    ``detections``: False where they were dropped, suppression being left to the host.
    ``float32``: nodes that a weakly typed builder has to be told to keep in FP32. ``deformable``:
    how the graph samples; None where it does not.
    """

    detections: bool
    deformable: Deformable | None
    float32: tuple[str, ...]
    opset: int


def read_graph(path: Path) -> ir.Model:
    """Load an exported graph. Raises :class:`BundleError` for a file that is none."""
    try:
        return ir.load(path)
    except Exception as error:  # of protobuf, which has no public root for its exceptions
        reason = shown((str(error).strip().splitlines() or ["no reason is given"])[0])
        raise BundleError(f"{path} is not a whole ONNX graph ({reason}): export it again") from None


def samples(model: ir.Model) -> bool:
    """Whether the graph has a GridSample."""
    return any(node.op_type == "GridSample" for graph in graphs_of(model.graph) for node in graph)


def fit(model: ir.Model, backend: Backend, *, gather: bool) -> Fitted:
    """Change ``model``, a graph with raw outputs, in place to what ``backend`` builds.

    ``gather``: replace GridSample by gathers. Raises :class:`ExportError` where the graph cannot be
    expressed for this backend.
    """
    ends_early = suppresses(model) and not backend.non_max_suppression
    if ends_early:
        drop_detections(model)
    if not backend.nested_ifs:
        flatten(model)
    deformable: Deformable | None = "gridsample" if samples(model) else None
    if gather and gather_samples(model):
        deformable = "gather"
    float32 = () if backend.strongly_typed else tuple(widen(model))
    opset = int(model.graph.opset_imports[""])
    if opset > backend.largest_opset:
        set_opset(model, backend.largest_opset)
        opset = backend.largest_opset
    return Fitted(not ends_early, deformable, float32, opset)

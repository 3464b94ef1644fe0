"""ONNX Runtime on the CPU as tests use it: one thread, silent, answers by name.

It has no FP16 convolution or matrix product for x86 CPUs: it computes those in FP32 and leaves out
the rounding to FP16 between them, whatever the level of optimisation, which hides errors and
overflows. So :func:`rounding_session` runs with two Identities, which it has for FP16, behind every
operator that gives FP16; a single one is computed in FP32 as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_graphs import graphs_with_types, value_types


def quiet_session(
    model: Path | bytes | onnx.ModelProto | ir.Model,
    *,
    optimise: bool = True,
    saved: Path | None = None,
    without: Sequence[str] = (),
) -> ort.InferenceSession:
    """``without``: optimisers that are left out; ``saved``: where the optimised graph goes."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    if isinstance(model, Path):
        source: str | bytes = str(model)
    elif isinstance(model, bytes):
        source = model
    else:
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        source = proto.SerializeToString()
    extra: dict[str, Any] = {"disabled_optimizers": list(without)} if without else {}
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], **extra)


def unfused_session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """Every node by itself: what ONNX Runtime fuses, and which layouts it takes, depends on the
    CPU, the opset and the nodes around, and what is the same would be rounded otherwise."""
    return quiet_session(proto, optimise=False)


def rounding_session(model: ir.Model | onnx.ModelProto) -> ort.InferenceSession:
    """Rounds to FP16 wherever the graph does."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return quiet_session(_with_identities(proto), optimise=False)


def _with_identities(proto: onnx.ModelProto) -> onnx.ModelProto:
    kinds, copy = value_types(proto), onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph, _ in graphs_with_types(copy.graph):
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            barriers = []
            for index, name in enumerate(node.output):
                half = name and kinds[name] == onnx.TensorProto.FLOAT16
                if half and node.op_type != "If":
                    node.output[index] = f"{name}/unrounded"
                    barriers += [
                        onnx.helper.make_node("Identity", [f"{name}/unrounded"], [f"{name}/half"]),
                        onnx.helper.make_node("Identity", [f"{name}/half"], [name]),
                    ]
            graph.node.extend([node, *barriers])
    return copy


def run(opened: ort.InferenceSession, **feeds: Any) -> dict[str, NDArray[Any]]:
    """All outputs; ONNX Runtime refuses feeds that the graph has no input for."""
    names = [value.name for value in opened.get_outputs()]
    return dict(zip(names, opened.run(None, feeds), strict=True))


def run_with_known(opened: ort.InferenceSession, **feeds: Any) -> dict[str, NDArray[Any]]:
    """As :func:`run`, without the feeds that the graph has no input for, such as the depth of a
    static one."""
    known = {value.name for value in opened.get_inputs()}
    given = {name: np.asarray(array) for name, array in feeds.items() if name in known}
    return run(opened, **given)

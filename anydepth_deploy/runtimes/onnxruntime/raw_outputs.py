"""The heads' raw outputs of a graph that was exported without them, at the end of its bytes.

A message of Protocol Buffers that is written twice is merged by who reads it, lists being joined
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). So nodes and outputs are added to
a graph by another ModelProto behind it, which holds nothing else: no package that knows ONNX is
needed, and no weight is read. Nothing else of the graph changes, so parity is checked on the very
graph that is deployed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anydepth_deploy.runtimes.onnxruntime.wire import field

__all__ = ["appended_outputs"]

GRAPH = 7
"""Field of ModelProto; those below are of GraphProto, NodeProto and ValueInfoProto, in
onnx.proto."""
NODE, OUTPUT = 1, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, OP_TYPE = 1, 2, 3, 4
VALUE_NAME = 1


def appended_outputs(tensors: Mapping[str, str], present: Collection[str]) -> bytes:
    """What to put behind a model, so that ``raw_NAME`` is an output of its graph for each public
    name of ``tensors`` (the tensor that holds it), where it is not among those ``present``.

    Types are inferred from the nodes: a value without one is legal for ONNX Runtime.
    """
    parts = []
    for public, tensor in tensors.items():
        name = f"raw_{public}"
        if name in present:
            continue
        node = (
            field(NODE_INPUT, tensor.encode())
            + field(NODE_OUTPUT, name.encode())
            + field(NODE_NAME, name.encode())
            + field(OP_TYPE, b"Identity")
        )
        parts += [field(NODE, node), field(OUTPUT, field(VALUE_NAME, name.encode()))]
    return field(GRAPH, b"".join(parts)) if parts else b""

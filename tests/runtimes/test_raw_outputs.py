"""Raw outputs behind the bytes of a graph: ``onnx`` reads what it would have added."""

from __future__ import annotations

import json

import onnx
import pytest

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.manifest import RAW_METADATA
from anydepth_deploy.runtimes.onnxruntime.raw_outputs import appended_outputs


def test_as_onnx_would_add_them(bundle: Bundle) -> None:
    (artifact,) = bundle.artifacts("gated", weights="shared")
    content = bundle.file(artifact).read_bytes()
    wanted = onnx.load_model_from_string(content)
    (entry,) = (item for item in wanted.metadata_props if item.key == RAW_METADATA)
    tensors = json.loads(entry.value)
    present = {value.name for value in wanted.graph.output}
    found = onnx.load_model_from_string(content + appended_outputs(tensors, present))
    for public, tensor in tensors.items():
        name = f"raw_{public}"
        wanted.graph.node.append(onnx.helper.make_node("Identity", [tensor], [name], name=name))
        wanted.graph.output.append(onnx.ValueInfoProto(name=name))
    assert found == wanted


@pytest.mark.parametrize("length", [1, 127, 128, 20_000])
def test_names_of_any_length(length: int) -> None:
    model = onnx.ModelProto()
    model.ParseFromString(appended_outputs({"a": "é" * length, "b": "there"}, {"raw_b"}))
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == (
        "Identity",
        ["é" * length],
        ["raw_a"],
    )
    assert [value.name for value in model.graph.output] == ["raw_a"]


def test_nothing_is_added_twice() -> None:
    assert appended_outputs({"a": "x"}, {"raw_a"}) == b""
    assert appended_outputs({}, ()) == b""

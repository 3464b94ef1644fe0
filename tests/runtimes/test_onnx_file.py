"""ONNX files read without a runtime: what onnx reads, and nothing of files beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from anydepth_deploy.errors import BundleError
from anydepth_deploy.runtimes import onnx_file
from anydepth_deploy.runtimes.engine import Port
from anydepth_deploy.runtimes.onnx_file import load_model, read_onnx_file

info = helper.make_tensor_value_info
SIZES = {"small": 3, "of a block": 4_000, "large": 70_000}
"""Weights of the tensors: what is searched, what is read field by field, what spans blocks."""


def model_of(size: int = 3, nodes: int = 40) -> onnx.ModelProto:
    """A graph with an If whose branches have weights of their own."""

    def branch(name: str) -> onnx.GraphProto:
        tensor = numpy_helper.from_array(np.zeros(size, np.float32), f"{name}/weight")
        node = helper.make_node("Identity", [tensor.name], [f"{name}/found"])
        found = info(f"{name}/found", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [found], [tensor])

    tensor = numpy_helper.from_array(np.zeros(size, np.float32), "weight")
    chosen = helper.make_node(
        "If", ["yes"], ["chosen"], then_branch=branch("then"), else_branch=branch("else")
    )
    plain = [
        helper.make_node("Identity", ["images"], [f"copy/{index}"], name="location" * 5)
        for index in range(nodes)
    ]
    inputs = [info("images", TensorProto.FLOAT, ["N", 3, 8, 8]), info("yes", TensorProto.BOOL, [])]
    outputs = [info("chosen", TensorProto.FLOAT, None), info("copy/0", TensorProto.FLOAT16, [5])]
    hidden = [info("head/a", TensorProto.INT64, ["N", 7]), info("head/b", TensorProto.DOUBLE, [1])]
    graph = helper.make_graph(
        [*plain, chosen], "graph", inputs, outputs, [tensor], value_info=hidden
    )
    model = helper.make_model(graph)
    properties = {"other": "x", "anydepth.depth": "FF", "anydepth.raw_outputs": '{"a": "head/a"}'}
    helper.set_model_props(model, properties)
    return model


def written(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    path = folder / "graph.onnx"
    path.write_bytes(content)
    return path


def described(value: onnx.ValueInfoProto) -> Port:
    """The same by onnx alone."""
    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    sides = (side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return Port(value.name, dtype, tuple(sides))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_reads_what_onnx_reads(tmp_path: Path, size: int) -> None:
    model = model_of(size, nodes=3000)
    found = read_onnx_file(written(tmp_path, model))
    assert list(found.inputs) == [described(value) for value in model.graph.input]
    assert list(found.outputs) == [described(value) for value in model.graph.output]
    assert found.tensors == {"head/a": described(model.graph.value_info[0])}
    assert found.metadata == {
        entry.key: entry.value for entry in model.metadata_props if entry.key != "other"
    }


def test_numbers_of_fields_are_those_of_onnx() -> None:
    messages: dict[str, Any] = {
        "model": onnx.ModelProto,
        "training": onnx.TrainingInfoProto,
        "function": onnx.FunctionProto,
        "graph": onnx.GraphProto,
        "node": onnx.NodeProto,
        "attribute": onnx.AttributeProto,
        "sparse": onnx.SparseTensorProto,
        "tensor": onnx.TensorProto,
    }
    kinds = {message.DESCRIPTOR.full_name: word for word, message in messages.items()}
    for word, message in messages.items():
        leads = {
            field.number: kinds[field.message_type.full_name]
            for field in message.DESCRIPTOR.fields
            if field.message_type is not None and field.message_type.full_name in kinds
        }
        if word == "model":  # which is read apart
            assert leads.pop(onnx_file.GRAPH) == "graph"
        assert onnx_file.INSIDE[word] == leads
    assert {code: helper.tensor_dtype_to_np_dtype(code).name for code in onnx_file.DTYPES} == (
        onnx_file.DTYPES
    )


def in_branch(model: onnx.ModelProto) -> Any:
    return model.graph.node[-1].attribute[1].g.initializer[0]


def in_constant(model: onnx.ModelProto) -> Any:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "constant")
    model.graph.node.append(helper.make_node("Constant", [], ["constant"], value=tensor))
    return model.graph.node[-1].attribute[0].t


def in_sparse(model: onnx.ModelProto) -> Any:
    model.graph.sparse_initializer.add()
    return model.graph.sparse_initializer[0].values


def in_function(model: onnx.ModelProto) -> Any:
    attribute = model.functions.add().node.add().attribute.add()
    return attribute.tensors.add()


PLACES: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "initializer": lambda model: model.graph.initializer[0],
    "branch": in_branch,
    "constant": in_constant,
    "sparse": in_sparse,
    "function": in_function,
    "training": lambda model: model.training_info.add().algorithm.initializer.add(),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_numbers_in_other_files_are_found_wherever_they_are(
    tmp_path: Path, place: str, size: int
) -> None:
    model = model_of(size)
    tensor = PLACES[place](model)
    tensor.name = "moved\nout"
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    read_onnx_file(written(tmp_path, model))  # not yet in a file
    tensor.external_data.add(key="location", value="/etc/" + "x" * 300)
    path = written(tmp_path, model)
    with pytest.raises(BundleError) as caught:
        read_onnx_file(path)
    told = str(caught.value)
    assert told.startswith(f"{path} has the numbers of 'moved\\nout' in another file, '/etc/xxx")
    assert told.endswith(
        f"characters left out) …{'x' * 86}', which no manifest vouches for; expected all of them "
        "in the graph: export it again"
    )


def test_every_beginning_of_a_file_is_refused(tmp_path: Path) -> None:
    model = model_of(nodes=4)
    for behind in ("opset_import", "metadata_props"):  # which may be missing, not cut
        model.ClearField(behind)
    content = model.SerializeToString()
    for length in range(len(content)):
        path = written(tmp_path, content[:length])
        with pytest.raises(BundleError, match=r"is not a whole ONNX graph \(byte \d+: "):
            read_onnx_file(path)


def test_what_a_made_up_file_can_cost_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "MOST_TEXT", 1000)
    model = model_of()
    model.metadata_props[0].value = "x" * 5000  # of others: passed over
    read_onnx_file(written(tmp_path, model))
    model.metadata_props[1].value = "x" * 1001
    with pytest.raises(BundleError, match="a text is longer than any graph has"):
        read_onnx_file(written(tmp_path, model))
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 1000)
    with pytest.raises(BundleError, match="it has more fields than any graph has"):
        read_onnx_file(written(tmp_path, bytes(b"\x08\x08" * 1001)))
    deep = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(9000), "w")])
    for _ in range(15):
        node = helper.make_node("If", ["yes"], ["found"], then_branch=deep)
        deep = helper.make_graph([node], "g", [], [])
    with pytest.raises(BundleError, match="its parts are nested too deep"):
        read_onnx_file(written(tmp_path, helper.make_model(deep)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BundleError, match="cannot be read: "):
            read_onnx_file(path)


def test_whole_models_are_loaded_without_the_files_beside_them(tmp_path: Path) -> None:
    model = model_of()
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="absent.bin")
    assert load_model(written(tmp_path, model)) == model
    path = written(tmp_path, b"\xff" * 30)
    with pytest.raises(BundleError, match="is not a whole ONNX graph") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.fuzz
@examples(200)
@given(data=st.data())
def test_random_bytes_are_refused_or_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(model_of(nodes=4).SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    for made in (bytes(content), data.draw(st.binary(max_size=300))):
        path.write_bytes(made)
        try:
            found = read_onnx_file(path)
        except BundleError:
            continue
        assert found.outputs

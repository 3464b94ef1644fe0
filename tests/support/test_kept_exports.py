"""Kept exports are what torch makes, and nothing else is taken for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from conftest import random_detr, random_yolo
from kept_exports import KeptExports, UnknownError, describe
from torch import Tensor, nn
from trained_networks import SIZES

from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph import pieces

CHOSEN: dict[str, tuple[Callable[..., AnyDepthModel], dict[str, str]]] = {
    "detr": (random_detr, {"layer3": "skipped", "queries": "full", "decoder3": "full"}),
    "yolo": (random_yolo, {"entry": "full-skipped", "layer11": "skipped", "head": "full"}),
}
"""Stages with weights cut from others, folded weights, constants of the size, two gates."""

Exported = tuple[nn.Module, tuple[Tensor, ...]]


def modules(model: AnyDepthModel, variants: dict[str, str]) -> list[Exported]:
    model.eval()
    size = SIZES[model.family]
    examples = pieces._example_inputs(model.stages(size), size)
    found = [
        (stage.variants[variants[stage.name]], inputs)
        for stage, inputs in examples
        if stage.name in variants
    ]
    assert len(found) == len(variants)
    return found


def canonical(model: ir.Model) -> bytes:
    """The graph that an export is made of, its values named by their places."""
    graph = pieces._clean(model)
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    used = [value for node in graph for value in node.inputs if value is not None]
    constants = dict.fromkeys(value for value in used if value.is_initializer())
    for index, value in enumerate((*constants, *values)):
        value.name = f"value {index}"
        value.metadata_props.clear()
    for index, node in enumerate(graph):
        node.name = f"node {index}"
        node.metadata_props.clear()
    left = {value.name for value in graph.initializers.values()}
    assert left == {f"value {index}" for index in range(len(constants))}
    for value in constants:
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    ordered = sorted(proto.graph.initializer, key=lambda tensor: tensor.name)
    del proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.initializer.extend(ordered)
    return bytes(proto.SerializeToString(deterministic=True))


@pytest.mark.parametrize("family", list(CHOSEN))
def test_a_kept_export_is_what_torch_makes(family: str) -> None:
    """Made with the weights of another network, taken with ours."""
    kept = pieces._to_onnx
    assert isinstance(kept, KeptExports)  # that of this run of the tests
    make, variants = CHOSEN[family]
    with pieces._quiet(), torch.no_grad():
        for other in modules(make(seed=1), variants):
            kept(*other)
        made = kept.made
        for ours in modules(make(seed=2), variants):
            found = kept(*ours)
            assert canonical(found) == canonical(kept.export(*ours))
        assert kept.made == made


class Layer(nn.Module):
    """What a description has to tell apart."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.slope = 0.5
        self.register_buffer("grid", torch.arange(4.0), persistent=False)
        for name, value in changes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(x) * self.slope + self.grid)
        return found


class Other(Layer):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.first(self.second(x) * self.slope + self.grid)
        return found


INPUTS = (torch.zeros(2, 4),)


def tied() -> Layer:
    layer = Layer()
    layer.second.weight = layer.first.weight
    return layer


def same() -> Layer:
    layer = Layer()
    layer.second = layer.first
    return layer


@pytest.mark.parametrize(
    "other",
    [
        lambda: Layer(slope=0.25),
        lambda: Layer(grid=torch.arange(1.0, 5.0)),
        lambda: Layer(grid=torch.arange(4)),
        lambda: Layer(second=nn.Linear(4, 4, bias=False)),
        lambda: Layer(second=nn.LayerNorm(4)),
        lambda: Layer(more=[1]),
        lambda: Layer().eval(),
        lambda: Layer().double(),
        Other,
        tied,
        same,
    ],
)
def test_whatever_changes_an_export_changes_its_description(other: Callable[[], Layer]) -> None:
    assert describe(other(), INPUTS) != describe(Layer(), INPUTS)


def test_inputs_are_a_part_of_it() -> None:
    layer = Layer()
    found = {describe(layer, (torch.zeros(*shape),)) for shape in ((2, 4), (4, 2), (2, 4, 1))}
    found |= {describe(layer, INPUTS * 2), describe(layer, (torch.zeros(2, 4).double(),))}
    assert len(found) == 5


def test_another_method_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe(Layer(), INPUTS)
    monkeypatch.setattr(Layer, "forward", Other.forward)
    assert describe(Layer(), INPUTS) != before


def test_values_of_weights_are_no_part_of_it() -> None:
    assert describe(Layer(), INPUTS) == describe(Layer(), INPUTS)
    assert describe(copy.deepcopy(tied()), INPUTS) == describe(tied(), INPUTS)


def test_what_cannot_be_told_apart_is_exported_each_time(tmp_path: Path) -> None:
    exports = []

    def export(module: nn.Module, inputs: tuple[Tensor, ...]) -> ir.Model:
        exports.append(module)
        return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=10)

    kept = KeptExports(export, tmp_path)
    odd = Layer(hook=lambda x: x)
    with pytest.raises(UnknownError):
        describe(odd, INPUTS)
    for _ in range(2):
        kept(odd, INPUTS)
        kept(Layer(), INPUTS)
    assert exports.count(odd) == 2
    assert len(exports) == 3

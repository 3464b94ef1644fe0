"""The exporter's library of operators: read once, and every export as if it had been read anew."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
import torch
from kept_exports import KeptExports
from torch import nn
from torch.onnx._internal.exporter import _registration

from anydepth_deploy.graph import pieces
from anydepth_deploy.graph.operators import operators_read_once

NETWORKS = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), nn.Sequential(nn.Linear(8, 2), nn.GELU()))
INPUTS = (torch.zeros(2, 3, 8, 8), torch.zeros(2, 8))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one whenever the library is read."""
    found: list[object] = []
    read = vars(_registration.ONNXRegistry)["from_torchlib"].__func__

    def counted(registry: Any, /, *arguments: Any, **named: Any) -> object:
        found.append(named)
        return read(registry, *arguments, **named)

    monkeypatch.setattr(_registration.ONNXRegistry, "from_torchlib", classmethod(counted))
    return found


def exports() -> list[bytes]:
    """Both networks, by torch alone."""
    to_onnx = pieces._to_onnx
    assert isinstance(to_onnx, KeptExports)
    found = []
    with pieces._quiet(), torch.no_grad():
        for network, images in zip(NETWORKS, INPUTS, strict=True):
            graph = pieces._clean(to_onnx.export(network.eval(), (images,)))
            proto = ir.to_proto(ir.Model(graph, ir_version=10))
            found.append(bytes(proto.SerializeToString(deterministic=True)))
    return found


def test_it_is_read_once(reads: list[object]) -> None:
    expected = exports()
    assert len(reads) == len(NETWORKS)
    reads.clear()
    with operators_read_once():
        assert exports() == expected
    assert len(reads) == 1
    _registration.ONNXRegistry.from_torchlib()
    _registration.ONNXRegistry.from_torchlib()
    assert len(reads) == 3  # as torch has it, afterwards


def test_translations_of_one_export_are_not_there_in_the_next() -> None:
    """Ours are given to each export: a library that kept them would grow."""
    operator = torch.ops.aten.relu.default
    with operators_read_once():
        first = _registration.ONNXRegistry.from_torchlib()
        before = list(first.get_decomps(operator))
        first.register_op(operator, lambda x: x, is_complex=False)
        assert first.get_decomps(operator) != before
        second = _registration.ONNXRegistry.from_torchlib()
        assert second.get_decomps(operator) == before != []


def test_a_torch_that_keeps_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed, and nothing is missing."""
    registry = _registration.ONNXRegistry
    before = vars(registry)["from_torchlib"]
    monkeypatch.delattr(_registration, "ONNXRegistry")
    with operators_read_once():
        assert vars(registry)["from_torchlib"] is before

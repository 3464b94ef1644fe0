"""Pieces by translation and by torch's exporter, which takes over where there is none."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from conftest import random_detr, random_yolo
from onnx_sessions import quiet_session
from torch import Tensor, nn
from trained_networks import SIZES

from anydepth_deploy.depth import Predicate
from anydepth_deploy.errors import ExportError
from anydepth_deploy.families.shared.stages import AnyDepthModel, Stage
from anydepth_deploy.graph import pieces as pieces_module
from anydepth_deploy.graph.aten.builder import Unsupported
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.graph.recording import record

NETWORKS: dict[str, Callable[..., AnyDepthModel]] = {
    "anydepth-detr": random_detr,
    "anydepth-yolo": random_yolo,
}
CHOSEN = (
    ("anydepth-detr", "layer3.skipped"),
    ("anydepth-detr", "encoder.full"),
    ("anydepth-detr", "queries.full"),
    ("anydepth-detr", "decoder3.full"),
    ("anydepth-yolo", "entry.full-skipped"),
    ("anydepth-yolo", "layer6.full"),
    ("anydepth-yolo", "layer11.skipped"),
    ("anydepth-yolo", "head.full"),
)
"""Every kind of piece."""


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest) -> AnyDepthModel:
    return NETWORKS[request.param](seed=5).eval()


def outputs(graph: ir.Graph, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    graph = graph.clone()
    graph.opset_imports[""] = pieces_module.OPSET
    session = quiet_session(ir.Model(graph, ir_version=8))
    names = [value.name for value in session.get_inputs()]
    found: list[np.ndarray] = session.run(None, dict(zip(names, given, strict=True)))
    return found


def test_nothing_goes_through_torchs_exporter(
    model: AnyDepthModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_module, "_by_torch", lambda *_: pytest.fail("torch was asked"))
    height, width = SIZES[model.family]
    assert export_pieces(model, (height, width + 32)).pieces


@functools.cache
def pieces_of(family: str) -> Pieces:
    """Not to be changed."""
    return export_pieces(NETWORKS[family](seed=5).eval(), SIZES[family])


@pytest.mark.parametrize(("family", "name"), CHOSEN)
def test_a_piece_is_what_torch_makes_of_it(family: str, name: str) -> None:
    """Compared by what they compute, one and three pictures."""
    found = {piece.prefix: piece for piece in pieces_of(family).pieces}
    graph = found[name].graph
    shapes = [tuple(_sizes(value)) for value in graph.inputs]
    inputs = tuple((shape, torch.float32) for shape in shapes)
    module = found[name].stage.variants[found[name].variant]
    by_torch, _ = pieces_module._by_torch(module, inputs, name)
    for batch in (1, 3):
        random = np.random.default_rng(batch)
        given = [random.random((batch, *shape), np.float32) for shape in shapes]
        for one, other in zip(outputs(graph, given), outputs(by_torch, given), strict=True):
            if one.dtype.kind == "f":
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(one, other)


def test_pieces_of_some_depths(model: AnyDepthModel) -> None:
    """What runs at none of them is not made, and what is left is the same."""
    size = SIZES[model.family]
    every = {piece.prefix: piece for piece in export_pieces(model, size).pieces}
    for depths in ([model.space.super], [model.space.base], list(model.ladder)):
        found = export_pieces(model, size, depths=depths)
        wanted = {
            f"{stage.name}.{variant}"
            for stage in model.stages(size)
            for depth in depths
            if (variant := stage.variant(depth)) is not None
        }
        assert {piece.prefix for piece in found.pieces} == wanted
        for piece in found.pieces:
            nodes = [(node.name, node.op_type) for node in piece.graph]
            assert nodes == [(node.name, node.op_type) for node in every[piece.prefix].graph]


class Odd(nn.Module):
    """Something that has no translation."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


def with_an_odd_stage(model: AnyDepthModel) -> Iterator[Stage]:
    for stage in model.stages(SIZES[model.family]):
        if stage.name == "stem":
            yield stage
            names, gates = stage.outputs, (Predicate(0),)
            yield Stage("odd", "backbone", names, names, {"full": Odd()}, gates)
        else:
            yield stage


def test_torch_takes_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For one piece; what comes behind it is translated, and it is told."""
    model = random_detr(seed=5).eval()
    stages = list(with_an_odd_stage(model))
    monkeypatch.setattr(type(model), "stages", lambda *_: stages)
    with caplog.at_level(logging.INFO, "anydepth_deploy"):
        found = export_pieces(model, SIZES[model.family])
    told = [item.message for item in caplog.records]
    assert len(told) == 1
    assert told[0].startswith("odd.full goes through torch's exporter")
    assert "GELU" in told[0]
    piece = next(piece for piece in found.pieces if piece.stage.name == "odd")
    shape = (3, *_sizes(piece.graph.inputs[0]))
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = Odd()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(outputs(piece.graph, [images])[0], expected, atol=1e-6)


def _sizes(value: ir.Value) -> list[int]:
    return [size for size in value.shape or () if isinstance(size, int)]


def test_an_error_of_the_network_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_detr(seed=5).eval()

    def broken(*_: Any) -> Tensor:
        raise ValueError("seven is not eight\nand so on")

    monkeypatch.setattr(Odd, "forward", broken)
    stages = list(with_an_odd_stage(model))
    monkeypatch.setattr(type(model), "stages", lambda *_: stages)
    told = r"^torch could not export the stage 'odd.full': .*seven is not eight$"
    with pytest.raises(ExportError, match=told):
        export_pieces(model, SIZES[model.family])


def test_a_network_that_answers_otherwise_for_many_pictures() -> None:
    """Both passes see the same operators, and other numbers."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (2.0 / len(x))

    with pytest.raises(Unsupported, match="number of pictures"):
        record(Mean(), [((3,), torch.float32)])

"""Every operator, translated and run by ONNX Runtime, gives what torch gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx_sessions import quiet_session
from torch import Tensor, nn

from anydepth_deploy.graph import recording
from anydepth_deploy.graph.aten.builder import Unsupported
from anydepth_deploy.graph.pieces import OPSET
from anydepth_deploy.graph.recording import record
from anydepth_deploy.graph.translate import translate

Inputs = tuple[tuple[int, ...], ...]
MAP: Inputs = ((4, 6, 8),)
MAPS: Inputs = ((4, 6, 8), (4, 6, 8))
TOKENS: Inputs = ((7, 12),)


class Function(nn.Module):
    """A function with a few weights at hand."""

    kernel: Tensor
    table: Tensor
    vector: Tensor

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        random = torch.Generator().manual_seed(3)
        for name, shape in {"kernel": (8, 2, 3, 3), "table": (5, 12), "vector": (12,)}.items():
            self.register_buffer(name, torch.randn(shape, generator=random))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


@dataclass
class Case:
    """``exact``: nothing is computed, elements only move."""

    inputs: Inputs
    function: Callable[..., Any]
    exact: bool = False


ELEMENTWISE: dict[str, Callable[[Tensor], Any]] = {
    "abs": torch.abs,
    "add a number": lambda x: x + 1.5,
    "add a number before": lambda x: 2 + x,
    "ceil": torch.ceil,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp from below": lambda x: x.clamp(min=0.1),
    "clamp from above": lambda x: x.clamp(max=0.1),
    "cos": torch.cos,
    "divide by a number": lambda x: x / 3,
    "divide a number": lambda x: 3 / (x.abs() + 1),
    "elu": F.elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "floor": torch.floor,
    "gelu": F.gelu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "log": lambda x: torch.log(x.abs() + 1),
    "masked fill": lambda x: x.masked_fill(x > 0.3, -7.0),
    "maximum": lambda x: torch.maximum(x, -x),
    "minimum": lambda x: torch.minimum(x, x * 0.5),
    "multiply": lambda x: x * x,
    "negate": lambda x: -x,
    "power": lambda x: x.abs() ** 1.5,
    "reciprocal": lambda x: torch.reciprocal(x + 9),
    "relu": F.relu,
    "round": lambda x: torch.round(x * 8),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "softplus": F.softplus,
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "subtract": lambda x: x - x.abs(),
    "subtract from a number": lambda x: 1 - x,
    "tanh": torch.tanh,
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where with two numbers": lambda x: torch.where(x > 0, 1.0, -1.0),
    "comparisons": lambda x: (x > 0.1, x >= 0.1, x < 0.1, x <= 0.1, x == x.abs(), x < x.abs()),
    "comparisons joined": lambda x: (((x > 0) & (x < 1)) | ~(x > -1)).float(),
    "whole numbers": lambda x: _whole((x * 40).to(torch.int64)),
    "booleans as numbers": lambda x: (x > 0).to(torch.float32) * 2,
    "whole numbers meet a fraction": lambda x: (x * 9).to(torch.int32) * 0.5 + 1,
    "whole numbers divided": lambda x: (x * 9).to(torch.int64) / 4,
}


def _whole(x: Tensor) -> tuple[Tensor, ...]:
    """Of either sign, by numbers of either sign."""
    divisions = [
        torch.div(x, by, rounding_mode=how) for by in (7, -7) for how in ("floor", "trunc")
    ]
    return (*divisions, x // 5, x % 5, x + 3, x * 2 - 1, x.clamp(-20, 20))


CASES: dict[str, Case] = {
    **{name: Case(MAP, lambda _, x, f=f: f(x)) for name, f in ELEMENTWISE.items()},
    "add a map": Case(MAPS, lambda _, x, y: x + y),
    "broadcast over axes": Case(((3, 1, 5), (4, 1)), lambda _, x, y: x.unsqueeze(1) * y[:, None]),
    "broadcast a weight": Case(TOKENS, lambda m, x: x * m.vector + m.table[:1]),
    "convolution": Case(MAP, lambda m, x: F.conv2d(x, m.kernel, stride=2, padding=1, groups=2)),
    "convolution with a bias, dilated": Case(
        MAP,
        lambda m, x: F.conv2d(x, m.kernel, m.vector[:8], padding=(2, 1), dilation=2, groups=2),
    ),
    "linear": Case(TOKENS, lambda m, x: F.linear(x, m.table, m.vector[:5])),
    "linear without a bias": Case(TOKENS, lambda m, x: F.linear(x, m.table)),
    "linear with a weight cut from another": Case(TOKENS, lambda m, x: F.linear(x, m.table[1:3])),
    "linear with a computed weight": Case(
        TOKENS, lambda m, x: F.linear(x, m.table * 2, m.vector[:5])
    ),
    "product of tokens": Case(((3, 7, 5), (3, 5, 2)), lambda _, x, y: x @ y),
    "product with a weight": Case(TOKENS, lambda m, x: torch.matmul(x, m.table.T)),
    "product of pictures": Case(((7, 5), (5, 7)), lambda _, x, y: torch.bmm(x, y)),
    "batch norm": Case(
        TOKENS,
        lambda m, x: F.batch_norm(
            x.transpose(1, 2), m.vector, m.vector.abs() + 1, m.vector, m.vector, False, 0.0, 1e-3
        ),
    ),
    "batch norm without parameters": Case(
        TOKENS, lambda m, x: F.batch_norm(x.transpose(1, 2), m.vector, m.vector.abs() + 1)
    ),
    "layer norm": Case(TOKENS, lambda m, x: F.layer_norm(x, (12,), m.vector, m.vector, 1e-6)),
    "layer norm without parameters": Case(TOKENS, lambda _, x: F.layer_norm(x, (7, 12))),
    "softmax of the last axis": Case(TOKENS, lambda _, x: x.softmax(-1)),
    "softmax of another axis": Case(TOKENS, lambda _, x: x.softmax(1)),
    "max pool": Case(MAP, lambda _, x: F.max_pool2d(x, 3, 2, padding=1)),
    "max pool rounded up": Case(((2, 7, 7),), lambda _, x: F.max_pool2d(x, 2, 2, ceil_mode=True)),
    "max pool of stride 1": Case(MAP, lambda _, x: F.max_pool2d(x, 2, 1)),
    "average pool": Case(MAP, lambda _, x: F.avg_pool2d(x, 2)),
    "average pool with padding": Case(MAP, lambda _, x: F.avg_pool2d(x, 3, 2, padding=1)),
    "average pool, padding left out": Case(
        MAP, lambda _, x: F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)
    ),
    "average of a map": Case(MAP, lambda _, x: F.adaptive_avg_pool2d(x, 1)),
    "nearest": Case(MAP, lambda _, x: F.interpolate(x, scale_factor=2.0, mode="nearest"), True),
    "nearest to a size": Case(MAP, lambda _, x: F.interpolate(x, (12, 24), mode="nearest"), True),
    "bilinear": Case(MAP, lambda _, x: F.interpolate(x, (12, 16), mode="bilinear")),
    "bilinear with aligned corners": Case(
        MAP, lambda _, x: F.interpolate(x, (12, 16), mode="bilinear", align_corners=True)
    ),
    "samples": Case(
        ((3, 5, 6), (4, 2, 2)), lambda _, x, y: F.grid_sample(x, y * 1.4, align_corners=False)
    ),
    "nearest samples, corners aligned": Case(
        ((3, 5, 6), (4, 2, 2)),
        lambda _, x, y: F.grid_sample(
            x, y * 0.4, mode="nearest", padding_mode="border", align_corners=True
        ),
    ),
    "padding": Case(MAP, lambda _, x: F.pad(x, (1, 2, 0, 3), value=-2.0), True),
    "view": Case(MAP, lambda _, x: x.view(-1, 4, 48), True),
    "views in a row": Case(MAP, lambda _, x: x.flatten(2).unflatten(1, (2, 2)), True),
    "fold the batch into channels": Case(MAP, lambda _, x: x.flatten(0, 1), True),
    "squeeze": Case(((1, 5, 1),), lambda _, x: (x.squeeze(1), x.squeeze(-1).squeeze(1)), True),
    "transposes in a row": Case(MAP, lambda _, x: x.transpose(1, 2).transpose(2, 3), True),
    "transposed and back": Case(MAP, lambda _, x: x.mT.mT * 1, True),
    "permute": Case(MAP, lambda _, x: x.permute(0, 3, 1, 2).contiguous(), True),
    "unsqueeze twice": Case(TOKENS, lambda _, x: x[:, :, None, None, 2:9], True),
    "unsqueeze before and behind": Case(TOKENS, lambda _, x: x[:, None, :, None, :, None], True),
    "slices of two axes": Case(MAP, lambda _, x: x[:, 1:3, 2:, ::3], True),
    "slices of one axis": Case(MAP, lambda _, x: x[:, :, 1:][:, :, :3], True),
    "slice from behind": Case(MAP, lambda _, x: x[..., -3:-1], True),
    "select": Case(MAP, lambda _, x: (x[:, 2], x[:, :, -1]), True),
    "chunks": Case(MAP, lambda _, x: x.chunk(2, 1), True),
    "chunks that are not equal": Case(TOKENS, lambda _, x: x.chunk(3, 1), True),
    "parts": Case(TOKENS, lambda _, x: x.split([3, 4], 1), True),
    "elements": Case(((3, 5),), lambda _, x: x.unbind(1), True),
    "join": Case(MAPS, lambda _, x, y: torch.cat([x, y, x], 1), True),
    "stack": Case(MAPS, lambda _, x, y: torch.stack([x, y], 2), True),
    "expand": Case(((1, 5),), lambda _, x: x.expand(-1, 4, -1), True),
    "repeat": Case(TOKENS, lambda _, x: x.repeat(1, 2, 3), True),
    "sum": Case(MAP, lambda _, x: (x.sum(-1), x.sum((1, 3), keepdim=True))),
    "mean": Case(MAP, lambda _, x: (x.mean(1), x.mean((-2, -1), keepdim=True))),
    "largest": Case(MAP, lambda _, x: (x.amax(-1), x.amin((1, 2)))),
    "place of the largest": Case(TOKENS, lambda _, x: x.argmax(-1), True),
    "best": Case(TOKENS, lambda _, x: x.topk(4, dim=1), True),
    "worst": Case(TOKENS, lambda _, x: x.topk(4, largest=False), True),
    "gather": Case(
        TOKENS,
        lambda _, x: x.gather(1, x.amax(-1).topk(3).indices[..., None].expand(-1, -1, 12)),
        True,
    ),
    "look up": Case(TOKENS, lambda m, x: F.embedding(x.argmax(-1) % 5, m.table), True),
    "computed twice": Case(TOKENS, lambda m, x: (x + m.vector) * (x + m.vector)),
    "an input as it came": Case(TOKENS, lambda _, x: (x, x + 1), True),
    "one result twice": Case(TOKENS, lambda _, x: (x.relu(),) * 2, True),
    "constants made on the way": Case(
        TOKENS,
        lambda m, x: x + torch.arange(12, dtype=x.dtype, device=x.device) * m.vector.new_ones(12),
    ),
    "dropout at rest": Case(TOKENS, lambda _, x: F.dropout(x, 0.5, training=False) + 1),
}


def translated(module: nn.Module, inputs: Inputs) -> Any:
    """A session of the graph that a module becomes."""
    module.eval()
    names = {id(item): name for name, item in module.named_buffers()}
    graph = translate(record(module, [(shape, torch.float32) for shape in inputs]), names)
    graph.opset_imports[""] = OPSET
    graph.name = "graph"
    for index, node in enumerate(graph):
        node.name = f"{node.op_type}_{index}"
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(proto, full_check=True)  # types and shapes, too
    return quiet_session(proto.SerializeToString())


@pytest.mark.parametrize("name", CASES)
def test_an_operator(name: str) -> None:
    """For one picture and for three, by one graph."""
    case = CASES[name]
    module = Function(case.function)
    session = translated(module, case.inputs)
    for batch in (1, 3):
        random = np.random.default_rng(batch)
        given = [
            random.standard_normal((batch, *shape)).astype(np.float32) for shape in case.inputs
        ]
        with torch.no_grad():
            found = module(*(torch.from_numpy(item) for item in given))
        expected = (found,) if isinstance(found, Tensor) else tuple(found)
        feeds = dict(zip([item.name for item in session.get_inputs()], given, strict=True))
        results = session.run(None, feeds)
        for result, truth, declared in zip(results, expected, session.get_outputs(), strict=True):
            assert result.dtype == truth.numpy().dtype
            assert len(declared.shape) == result.ndim
            if case.exact or result.dtype.kind != "f":
                np.testing.assert_array_equal(result, truth.numpy())
            else:
                np.testing.assert_allclose(result, truth.numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_shape_of_a_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known beforehand is what torch says."""
    module = Function(CASES[name].function).eval()
    inputs = [(shape, torch.float32) for shape in CASES[name].inputs]
    found = record(module, inputs)
    monkeypatch.setattr(recording, "RESULTS", {})
    expected = record(module, inputs)
    for one, other in zip(found.calls, expected.calls, strict=True):
        # A norm at rest gives statistics that nothing reads.
        kept = slice(1) if "norm" in str(one.target) else slice(None)
        assert [(item.shape, item.dtype) for item in one.results[kept]] == [
            (item.shape, item.dtype) for item in other.results[kept]
        ], one.target


def test_equal_work_is_done_once() -> None:
    module = Function(CASES["computed twice"].function)
    graph = translate(record(module, [(TOKENS[0], torch.float32)]), {})
    assert [node.op_type for node in graph] == ["Add", "Mul"]


def test_what_is_moved_twice_is_moved_once() -> None:
    for name, operators in {
        "views in a row": ["Reshape"],
        "transposes in a row": ["Transpose"],
        "transposed and back": ["Mul"],
        "slices of two axes": ["Slice"],
        "unsqueeze twice": ["Unsqueeze", "Slice"],
    }.items():
        case = CASES[name]
        inputs = [(shape, torch.float32) for shape in case.inputs]
        graph = translate(record(Function(case.function), inputs), {})
        assert [node.op_type for node in graph] == operators, name


def test_weights_keep_their_names() -> None:
    module = Function(CASES["linear"].function)
    names = {id(item): name for name, item in module.named_buffers()}
    graph = translate(record(module, [(TOKENS[0], torch.float32)]), names)
    assert "table.T" in graph.initializers


UNSUPPORTED: dict[str, Callable[..., Any]] = {
    "an operator nobody knows": lambda _, x: torch.special.i0(x),
    "GELU by tanh": lambda _, x: F.gelu(x, approximate="tanh"),
    "attention that torch computes in one": lambda _, x: F.scaled_dot_product_attention(x, x, x),
    "part of the batch": lambda _, x: x[1:],
    "written into its argument": lambda _, x: F.relu(x + 1, inplace=True),
    "a question about contents": lambda _, x: x + 1 if bool(x.sum() > 0) else x,
    "contents as a number": lambda _, x: x * float(x.sum()),
    "the mean over pictures": lambda _, x: x / x.shape[0],
    "as many numbers as pictures": lambda _, x: x + torch.arange(x.shape[0])[:, None, None],
    "half of the pictures": lambda _, x: x[: x.shape[0] // 2],
    "another way for many pictures": lambda _, x: x + 1 if x.shape[0] > 1010 else x.relu(),
    "a shape of pictures and more": lambda _, x: x.reshape(x.shape[0] * 2 // 2 + 0, -1)[
        :, : x.shape[0] - 1005
    ],
    "numbers of 16 bits, brain float": lambda m, x: x.to(torch.bfloat16) + m.vector.bfloat16(),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_translated_is_said(name: str) -> None:
    """And not translated wrongly: torch's exporter takes over."""
    module = Function(UNSUPPORTED[name])
    with pytest.raises(Unsupported):
        translate(record(module, [(TOKENS[0], torch.float32)]), {})

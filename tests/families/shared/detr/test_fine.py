"""FINE by itself: against its formulas, with every switch, and in half precision."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx_sessions import rounding_session, run
from oracle_detr import position_embedding
from oracle_fine import Switches, fine
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from anydepth_deploy.families.shared.detr.fine import EPS, Fine
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.graph.passes.half import to_half
from anydepth_deploy.graph.pieces import OPSET
from anydepth_deploy.graph.recording import record
from anydepth_deploy.graph.translate import translate

STEPS = (0, 1)
"""Of the top-down path: from stride 32 to 16, and from 16 to 8."""

SWITCHES = [
    Switches(position, cosformer) for position in (True, False) for cosformer in (True, False)
]
GRIDS = [(3, 5), (12, 20), (5, 2)]
"""Cells at stride 32: of 96 x 160, 384 x 640 and 160 x 64 pixels."""

Case = tuple[Fine, tuple[Tensor, Tensor, Tensor]]


def case(
    step: int,
    grid: tuple[int, int],
    config: FineConfig,
    channels: int = 64,
    kind: type[Fine] = Fine,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
) -> Case:
    """A module with random weights, and maps and an embedding for it."""
    torch.manual_seed(7)
    module = kind(channels, config, (2 << step, 1 << step)).to(dtype).eval()
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.dim() == 1:  # or norms and biases would be ones and zeros
                torch.nn.init.uniform_(value, -0.3, 0.3)
            if name.endswith("norm.weight") or name.startswith("norm"):
                value.add_(1.0)
    low, high = (
        torch.randn(batch, channels, grid[0] * side, grid[1] * side, dtype=torch.float64)
        for side in (2 << step, 1 << step)
    )
    embedding = position_embedding(*grid, channels, torch.float64)
    low, high, embedding = (x.to(dtype) for x in (low, high, embedding))
    return module, (low, high, embedding)


def oracle(module: Fine, given: tuple[Tensor, Tensor, Tensor], step: int) -> Tensor:
    """In float64."""
    state = {f"fine.{name}": value.double() for name, value in module.state_dict().items()}
    switches = Switches(module.has_position, module.is_cosformer)
    low, high, embedding = (x.double() for x in given)
    return fine(state, "fine", low, high, embedding, step, switches)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@torch.no_grad()
def test_equals_its_formulas(step: int, switches: Switches) -> None:
    for grid in GRIDS:
        config = FineConfig(4, 96, switches.position, switches.cosformer)
        module, given = case(step, grid, config)
        expected = oracle(module, given, step)
        assert (module(*given[:2], given[2][None]) - expected).abs().max() < 1e-12, grid
        module, given = case(step, grid, config, dtype=torch.float32)
        found = module(*given[:2], given[2][None])
        assert found.dtype == torch.float32
        assert (found - oracle(module, given, step)).abs().max() < 1e-4, grid


@pytest.mark.parametrize("heads", [1, 8, 16])
@torch.no_grad()
def test_heads_are_groups_of_channels(heads: int) -> None:
    module, given = case(1, (4, 3), FineConfig(heads, 256))
    expected = oracle(module, given, 1)
    assert (module(*given[:2], given[2][None]) - expected).abs().max() < 1e-12


@torch.no_grad()
def test_each_switch_shows() -> None:
    """Or a test of one could not fail."""
    base, given = case(0, (6, 4), FineConfig(4, 96))
    usual = base(*given[:2], given[2][None])
    for switches in SWITCHES[1:]:
        config = FineConfig(4, 96, switches.position, switches.cosformer)
        other, given = case(0, (6, 4), config)
        assert (other(*given[:2], given[2][None]) - usual).std() > 0.02 * usual.std(), switches


@torch.no_grad()
def test_nothing_is_divided_by_zero() -> None:
    """Queries and keys that are zero, as those of an empty map without biases."""
    module, (low, high, embedding) = case(0, (3, 4), FineConfig(4, 96, position=False))
    for linear in (module.q_proj, module.k_proj, module.v_proj):
        torch.nn.init.zeros_(linear.bias)
    given = (torch.zeros_like(low), torch.zeros_like(high), embedding)
    assert torch.equal(module(*given[:2], embedding[None]), torch.zeros_like(low))
    given = (low, torch.zeros_like(high), embedding)
    found = module(*given[:2], embedding[None])
    assert found.isfinite().all()
    assert (found - oracle(module, given, 0)).abs().max() < 1e-12


def test_key_names_are_the_authors() -> None:
    shapes = {
        key: tuple(value.shape)
        for key, value in Fine(256, FineConfig(), (2, 1)).state_dict().items()
    }
    square = {f"{name}_proj.weight": (256, 256) for name in ("q", "k", "v", "out")}
    assert shapes == {
        **square,
        **{name.replace("weight", "bias"): (256,) for name in square},
        "attn_norm.weight": (16,),
        "linear1.weight": (1024, 256),
        "linear1.bias": (1024,),
        "linear2.weight": (256, 1024),
        "linear2.bias": (256,),
        **{f"norm{i}.{name}": (256,) for i in (1, 2) for name in ("weight", "bias")},
    }
    parameters = Fine(256, FineConfig(), (2, 1)).parameters()
    assert sum(value.numel() for value in parameters) == 789_776


def test_gradients_reach_every_weight() -> None:
    module, (low, high, embedding) = case(1, (3, 5), FineConfig(4, 96), dtype=torch.float32)
    module.train()
    module(low, high, embedding[None]).square().mean().backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name


# Half precision.


class AsWritten(Fine):
    """Queries divided by their sum, as the formula says."""

    def _attend(self, asking: Tensor, answering: Tensor) -> Tensor:
        query, key = self.q_proj(asking), self.k_proj(answering)
        value = self.v_proj(answering).reshape(*asking.shape[:2], self.heads, -1).transpose(1, 2)
        query, key = (x / x.abs().sum(1, keepdim=True).clamp(min=1e-6) for x in (query, key))
        query, key = (self._heads(x).transpose(1, 2) for x in (query, key))
        attended = query @ (key.transpose(2, 3) @ value)
        size = (attended.pow(2).mean(-1, keepdim=True) + EPS).sqrt()
        attended = attended / size * self.attn_norm.weight
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output


class Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every result of every operator rounded to FP16, as a device does that computes in it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        return tree_map(_rounded, found)


def _rounded(item: Any) -> Any:
    if isinstance(item, Tensor) and item.dtype == torch.float32:
        return item.half().float()
    return item


def relative_rms(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).square().mean().sqrt() / expected.std())


@torch.no_grad()
def rounded_error(kind: type[Fine], step: int) -> float:
    """Of the authors' size for 640 x 640, weights and inputs rounded as well."""
    module, given = case(step, (20, 20), FineConfig(), 256, kind, torch.float32, batch=1)
    expected = oracle(module, given, step)
    for value in module.parameters():
        value.copy_(_rounded(value))
    given = tuple(map(_rounded, given))
    with Rounding():  # type: ignore[no-untyped-call]
        found = module(*given[:2], given[2][None])
    return relative_rms(found, expected)


@pytest.mark.parametrize("step", STEPS)
def test_rounded_to_half_everywhere_it_holds(step: int) -> None:
    """Where the formula as it is written does not."""
    assert rounded_error(Fine, step) < 2e-3
    assert rounded_error(AsWritten, step) > 3e-3


class Placed(nn.Module):
    """With its embedding, as an encoder's graph holds it."""

    embedding: Tensor

    def __init__(self, module: Fine, embedding: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("embedding", embedding[None])

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        output: Tensor = self.module(low, high, self.embedding)
        return output


def graph_of(module: Fine, given: tuple[Tensor, Tensor, Tensor]) -> ir.Model:
    """Through the package's own translation."""
    placed = Placed(module, given[2])
    names = {id(item): name for name, item in [*placed.named_parameters(), *placed.named_buffers()]}
    shapes = [(tuple(x.shape[1:]), x.dtype) for x in given[:2]]
    graph = translate(record(placed, shapes), names)
    graph.opset_imports[""] = OPSET
    graph.name = "fine"
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize("step", STEPS)
@torch.no_grad()
def test_graph_in_half_precision(step: int) -> None:
    """Everything heavy in FP16, sums and norms not; rounded wherever the graph says."""
    module, given = case(step, (12, 20), FineConfig(), 256, dtype=torch.float32)
    model = graph_of(module, given)
    kept = to_half(model).kept
    kinds = {node.op_type for node in model.graph if node.name in kept}
    assert {"ReduceMean", "ReduceSum", "Sqrt", "Pow", "LayerNormalization"} <= kinds
    assert not kinds & {"MatMul", "AveragePool", "Resize", "Erf", "Abs"}, kinds
    feeds = zip(model.graph.inputs, given, strict=False)
    session = rounding_session(model)
    (found,) = run(session, **{value.name or "": x.numpy() for value, x in feeds}).values()
    assert relative_rms(torch.from_numpy(found), oracle(module, given, step)) < 2e-3


@torch.no_grad()
def test_graph_is_small() -> None:
    """No Einsum, and nothing that an older runtime does not have."""
    module, given = case(1, (3, 5), FineConfig(4, 96), dtype=torch.float32)
    kinds = [node.op_type for node in graph_of(module, given).graph]
    assert len(kinds) <= 70
    assert kinds.count("MatMul") == 7  # keys and values are one of them
    assert not {"Einsum", "RMSNormalization", "Gelu", "ReduceL1"} & set(kinds)


def test_bilinear_is_torchs() -> None:
    """The oracle's own, which nothing else holds it to."""
    from oracle_fine import average, enlarge

    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    for factor in (2, 4):
        expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        assert (enlarge(x, factor) - expected).abs().max() < 1e-13
        wide = torch.randn(2, 3, 8, 12, dtype=torch.float64)
        assert (average(wide, factor) - F.avg_pool2d(wide, factor)).abs().max() < 1e-13

"""Multiply-adds per stage, and so per depth, without running the network.

Counted are convolutions and matrix products (attention products included), as the published
figures do; norms, activations, grid sampling and sorting are not. What those figures count and this
network leaves out (``Stage.spared``) is counted, too; what is executed stands beside it. Each
variant of each stage is counted once, on a copy of the network that has shapes and no numbers; a
depth is the sum of its variants.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from anydepth_deploy.depth import Depth
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size, Stage
from anydepth_deploy.families.shared.usual_state import usual_state

__all__ = ["Macs", "count_macs"]


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one image that are executed, by stage and variant."""

    stages: tuple[tuple[Stage, dict[str, int]], ...]

    def at(self, depth: Depth) -> dict[str, int]:
        """``total`` and one entry for each part of the network, at ``depth``, as published."""
        parts: dict[str, int] = {"total": 0}
        for stage, variants in self.stages:
            variant = stage.variant(depth)
            if variant is not None and any(variants.values()):
                counted = variants[variant] + stage.spared
                parts["total"] += counted
                parts[stage.part] = parts.get(stage.part, 0) + counted
        return parts

    def executed(self, depth: Depth) -> int:
        """All that is computed at ``depth``."""
        ran = ((stage.variant(depth), variants) for stage, variants in self.stages)
        return sum(variants[variant] for variant, variants in ran if variant is not None)


@usual_state()
def count_macs(model: AnyDepthModel, size: Size) -> Macs:
    """Count ``model`` for one image of ``size`` (height, width)."""
    counted = []
    blank = _without_numbers(model)
    with torch.device("meta"), torch.no_grad():  # constants that name no device, too
        flow = {"images": torch.empty(1, 3, *size)}
        for stage in blank.stages(size, torch.device("meta")):
            variants, found = {}, {}
            for variant in stage.variants:
                with _Counter() as counter:
                    found = stage.run(variant, flow)
                variants[variant] = counter.flops // 2
            flow.update(found)  # all variants give the same shapes
            counted.append((stage, variants))
    return Macs(tuple(counted))


def _without_numbers(model: AnyDepthModel) -> AnyDepthModel:
    """A copy on torch's device "meta"; ``model`` and its memory stay as they are."""
    copies: dict[int, Any] = {}
    constants = (value for module in model.modules() for value in vars(module).values())
    loose = (value for value in constants if isinstance(value, Tensor))
    for tensor in (*model.parameters(), *model.buffers(), *loose):
        blank = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(blank, requires_grad=False) if is_parameter else blank
    return copy.deepcopy(model, copies)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of what runs inside by torch's formulas, two for a multiply-add.

    ``torch.utils.flop_counter.FlopCounterMode`` has the same sum, and sums of modules that nobody
    asks for here, in several times the time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operator, named = func._overloadpacket, kwargs or {}
        if operator in NORMS:  # whose shapes torch finds by computing them, the slowest part of all
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        out = func(*args, **named)
        formula = flop_registry.get(operator)
        if formula is not None:
            self.flops += formula(*args, **named, out_val=out)
        return out


NORMS = (
    torch.ops.aten.native_batch_norm,
    torch.ops.aten._native_batch_norm_legit,
    torch.ops.aten._native_batch_norm_legit_no_training,
)
"""Of batches: the output has the shape of the input; the statistics of a network that is not being
trained are empty."""

"""Multiply-adds per stage, and so per depth, without running the network.

Counted are convolutions and matrix products (attention products included), as the published
figures do; norms, activations, grid sampling and sorting are not. What those figures count and this
network leaves out (``Stage.spared``) is counted, too; what is executed stands beside it. Each
variant of each stage is counted once on fake tensors; a depth is the sum of its variants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

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
    device = next(model.parameters()).device  # a model on "meta" can be counted too
    stages = model.stages(size, device)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        flow = {"images": torch.empty(1, 3, *size, device=device)}
        for stage in stages:
            variants, found = {}, {}
            for variant in stage.variants:
                with FlopCounterMode(display=False) as counter:
                    found = stage.run(variant, flow)
                variants[variant] = counter.get_total_flops() // 2
            flow.update(found)  # all variants give the same shapes
            counted.append((stage, variants))
    return Macs(tuple(counted))

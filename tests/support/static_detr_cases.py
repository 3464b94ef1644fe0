"""What tests of both families of static DETRs ask alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.macs import count_macs

Shapes = dict[str, tuple[int, ...]]


def meta_model(family: str, size: str) -> Any:
    """A network of a published size, without memory."""
    found = find_family(family)
    with torch.device("meta"):
        return found.build(found.sizes[size])


def shapes_of(state: dict[str, torch.Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def gflops(model: Any, depth: str) -> dict[str, float]:
    """Billions of operations at 640 x 640 by part, twice the multiply-adds, with each 1x1 beside a
    3x3 merged into that, as deployed and as published figures count."""
    found = dict(count_macs(model, (640, 640)).at(model.table.find(depth)))
    levels = len(model.strides)
    for name, weight in model.encoder.named_parameters():
        if not name.endswith("conv2.conv.weight") or ".bottlenecks." not in name:
            continue
        path, index = name.split(".")[:2]
        level = levels - 2 - int(index) if path == "fpn_blocks" else int(index) + 1
        merged = weight.numel() * (640 // model.strides[level]) ** 2
        found["encoder"] -= merged
        found["total"] -= merged
    return {part: 2 * count / 1e9 for part, count in found.items()}


def gflops_of_exits(model: Any) -> tuple[float, ...]:
    """Backbone, encoder, decoder at the first and at the last exit, all at the first and last."""
    first, last = gflops(model, "base"), gflops(model, "super")
    parts = (last["backbone"], last["encoder"], first["decoder"], last["decoder"])
    return (*parts, first["total"], last["total"])


def count_by_hooks(model: Any, images: torch.Tensor, depth: str) -> int:
    """Multiply-adds of convolutions and linear layers, counted while a real forward pass runs, and
    those of multi-head attention by its formula."""
    counted = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal counted
        if isinstance(module, nn.Conv2d) and isinstance(output, torch.Tensor):
            counted += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear) and isinstance(output, torch.Tensor):
            counted += output[0].numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.detect(images, depth)
    for hook in hooks:
        hook.remove()
    config = model.config
    tokens = (images.shape[-2] // 32) * (images.shape[-1] // 32)
    for count_, width, layers in (
        (tokens, config.hidden, config.aifi_layers),
        (config.queries, config.decoder_hidden, model.table.find(depth).settings[-1]),
    ):
        counted += layers * (3 * count_ * width * width + 2 * count_ * count_ * width)
    return counted

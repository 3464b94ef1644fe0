"""Frozen and trainable batch norms: one set of names, two ways to hold the numbers.

Norms of backbones may be frozen: right for pretrained weights, wrong for training from
scratch, and for a second set, which no pretrained weights know. So training swaps those that should
learn for ordinary batch norms of the same names, and what is saved is in the frozen form again. The
two compute the same function in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from anydepth_deploy.families.shared.norms import FrozenBatchNorm2d, SwitchableConv
from anydepth_deploy.families.shared.second_sets import is_second_set

__all__ = ["initialize", "unfreeze_norms"]

_RESIDUAL_SCALE = 0.2


def unfreeze_norms(model: nn.Module, *, second_sets_only: bool = False) -> list[str]:
    """Replace every frozen norm inside ``model``, or only those of second sets, by a trainable one,
    in place; their names.

    Names, statistics and affine parameters stay. The new parameters only exist from here on:
    make optimisers after this.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d) and (is_second_set(name) or not second_sets_only)
    ]
    for name, frozen in found:
        norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps, device=frozen.weight.device)
        norm.load_state_dict(frozen.state_dict(), strict=False)
        norm.train(frozen.training)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, norm)
    return [name for name, _ in found]


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Weights to train from scratch with, in place.

    Convolutions get normal weights that keep the variance of the backward pass (He et al.,
    2015); the last norm of each residual block of a ResNet starts small, so that a deep network
    starts close to a shallow one. What the modules set up themselves (attention, heads, affine
    layers) stays.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            # torch counts the outputs of all groups, an input has those of its own.
            module.weight.mul_(module.groups**0.5)
    for norm in _closing_norms(model):
        assert isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d)
        nn.init.constant_(norm.weight, _RESIDUAL_SCALE)


def _closing_norms(model: nn.Module) -> Iterator[nn.Module]:
    """The norms, of both sets, that residual blocks of ResNets end with, before the sum."""
    for name, module in model.named_modules():
        parent, _, own = name.rpartition(".")
        if own in ("bn3", "bn3_skip"):
            yield module
        elif isinstance(module, SwitchableConv) and own in ("branch2b", "branch2c"):
            if own == "branch2b" and hasattr(model.get_submodule(parent), "branch2c"):
                continue
            for norm in module.norm_names[: 1 + module.switchable]:
                yield module.get_submodule(norm)

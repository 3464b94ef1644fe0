"""Frozen and trainable batch norms: one set of names, two ways to hold the numbers.

The backbone's norms are frozen: right for pretrained weights, wrong for training from
scratch. So training swaps them for ordinary batch norms of the same names, and what is saved
is in the frozen form again. The two compute the same function in evaluation mode.
"""

from __future__ import annotations

from torch import nn

from anydepth_deploy.families.shared.norms import FrozenBatchNorm2d

__all__ = ["initialize", "unfreeze_norms"]

_RESIDUAL_SCALE = 0.2


def unfreeze_norms(model: nn.Module) -> list[str]:
    """Replace every frozen norm inside ``model`` by a trainable one, in place; their names.

    Names, statistics and affine parameters stay. The new parameters only exist from here on:
    make optimisers after this.
    """
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    for name, frozen in found:
        norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps, device=frozen.weight.device)
        norm.load_state_dict(frozen.state_dict(), strict=False)
        norm.train(frozen.training)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, norm)
    return [name for name, _ in found]


def initialize(model: nn.Module) -> None:
    """Weights to train from scratch with, in place.

    Convolutions get normal weights that keep the variance of the backward pass (He et al.,
    2015); the last norm of each residual block starts small, so that a deep network starts
    close to a shallow one. What the modules set up themselves (attention, heads) stays.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif name.rpartition(".")[2] in ("bn3", "bn3_skip"):
            assert isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
            nn.init.constant_(module.weight, _RESIDUAL_SCALE)

"""The optimizer: its learning rate over a run, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from anydepth_deploy.train.config import TrainConfig

__all__ = ["learning_rate_factor", "make_optimizer", "parameter_groups"]


def learning_rate_factor(step: int, fraction: float, *, warmup: int, final: float) -> float:
    """Factor on the learning rate: a linear rise of ``warmup`` steps, then half a cosine down to
    ``final`` at the end of the run.

    ``step``: steps done so far; ``fraction``: share of the run done so far, 0..1, in steps or in
    time.
    """
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return rise * fall


def parameter_groups(
    model: nn.Module, *, learning_rate: float, backbone_scale: float, weight_decay: float
) -> list[dict[str, object]]:
    """AdamW groups: the backbone's rate is scaled; norms and biases do not decay.

    Each group carries its full rate as ``base_lr``; the loop multiplies it by the factor of
    the schedule. Empty groups are left out.
    """
    groups: list[dict[str, object]] = []
    for in_backbone in (False, True):
        rate = learning_rate * (backbone_scale if in_backbone else 1.0)
        for decays in (True, False):
            chosen = [
                value
                for name, value in model.named_parameters()
                if value.requires_grad
                and name.startswith("backbone.") == in_backbone
                and (value.ndim > 1) == decays
            ]
            if chosen:
                decay = weight_decay if decays else 0.0
                groups.append(
                    {"params": chosen, "lr": rate, "base_lr": rate, "weight_decay": decay}
                )
    return groups


def make_optimizer(
    config: TrainConfig, model: nn.Module, beside: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """AdamW of the settings. ``beside``: what learns that is no part of ``model``."""
    groups = parameter_groups(
        model,
        learning_rate=config.learning_rate,
        backbone_scale=config.backbone_scale,
        weight_decay=config.weight_decay,
    )
    if beside:
        rate, decay = config.learning_rate, config.weight_decay
        groups.append({"params": [*beside], "lr": rate, "base_lr": rate, "weight_decay": decay})
    # Fused: hundreds of small tensors, whose updates one by one would cost as much as a layer.
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)

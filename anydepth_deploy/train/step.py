"""One step of self-distillation: super learns from the objects, base from super.

The authors' recipe, the same for all families: zero the gradients; super pass (nothing
skipped) against the objects, backward; base pass (everything skipped) against super's detached
outputs, backward; the gradients of both add up; clip, step, average. What the losses are is a
matter of the family: see :class:`~anydepth_deploy.families.shared.recipe.Recipe`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.recipe import Recipe, Teacher, Terms, total
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.train.ema import Ema

__all__ = ["StepLosses", "accumulate_gradients", "training_step"]


@dataclass(frozen=True)
class StepLosses:
    """Loss terms of the two passes of a step, as detached scalars by name."""

    super_terms: Terms
    base_terms: Terms


def accumulate_gradients(
    recipe: Recipe[Teacher],
    images: Tensor,
    targets: Targets,
    *,
    distill: bool,
    generator: torch.Generator | None = None,
) -> StepLosses:
    """Run both passes forward and backward; their gradients add to those that are there.

    The network of ``recipe`` is in training mode. ``images``: float32 [N, 3, H, W] in 0..1, the
    same for both passes; ``targets``: their objects. ``distill``: whether base learns from super,
    or from the objects like super. ``generator``: source of what is random in the passes.
    """
    super_terms, teacher = recipe.super_pass(images, targets, generator)
    # Backward before base's forward: only one of the two graphs is in memory at a time.
    total(super_terms).backward()  # type: ignore[no-untyped-call]
    base_terms = recipe.base_pass(images, targets, teacher if distill else None, generator)
    total(base_terms).backward()  # type: ignore[no-untyped-call]
    return StepLosses(
        {name: term.detach() for name, term in super_terms.items()},
        {name: term.detach() for name, term in base_terms.items()},
    )


def training_step(
    recipe: Recipe[Teacher],
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    images: Tensor,
    targets: Targets,
    *,
    distill: bool,
    clip: float,
    generator: torch.Generator | None = None,
) -> StepLosses:
    """One update of the weights and their average; arguments as above.

    ``clip`` is the largest norm of the gradient of both passes together.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = accumulate_gradients(recipe, images, targets, distill=distill, generator=generator)
    nn.utils.clip_grad_norm_(recipe.model.parameters(), clip)
    optimizer.step()
    ema.update(recipe.model)
    return losses

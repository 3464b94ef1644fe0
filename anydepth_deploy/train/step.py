"""One step of self-distillation: super learns from the objects, base from super.

The authors' recipe, the same for both families: zero the gradients; super pass (nothing
skipped) against the objects, backward; base pass (everything skipped) against super's detached
outputs, backward; the gradients of both add up; clip, step, average. What the losses are is a
matter of the family: see ``families/*/training``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.train.ema import Ema

__all__ = ["Recipe", "StepLosses", "Terms", "accumulate_gradients", "total", "training_step"]

Terms = dict[str, Tensor]
"""Weighted scalar loss terms by name."""

Teacher = TypeVar("Teacher")


def total(terms: Terms) -> Tensor:
    """Sum of all terms, a scalar."""
    return torch.stack(list(terms.values())).sum()


class Recipe(Protocol[Teacher]):
    """How a network of one family is trained; ``Teacher`` is what base may see of super."""

    @property
    def model(self) -> nn.Module:
        """The network, in training mode while it learns."""

    def stores(self, name: str) -> bool:
        """Whether a checkpoint holds the entry ``name`` of the model's state."""

    def super_pass(
        self, images: Tensor, targets: Targets, generator: torch.Generator | None
    ) -> tuple[Terms, Teacher]:
        """Loss of super against the objects, and its detached outputs.

        Args:
            images: float32 [N, 3, H, W] in 0..1.
            targets: their objects.
            generator: source of what is random in it.
        """

    def base_pass(
        self,
        images: Tensor,
        targets: Targets,
        teacher: Teacher | None,
        generator: torch.Generator | None,
    ) -> Terms:
        """Loss of base against ``teacher``, or against the objects where there is none."""


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

    Args:
        recipe: of the network, which is in training mode.
        images: float32 [N, 3, H, W] in 0..1, the same for both passes.
        targets: their objects.
        distill: whether base learns from super, or from the objects like super.
        generator: source of what is random in the passes.
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

"""How a network of any family is trained: two passes, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["Recipe", "RecipeSettings", "Teacher", "Terms", "total"]

Terms = dict[str, Tensor]
"""Weighted scalar loss terms by name."""

Teacher = TypeVar("Teacher")


def total(terms: Terms) -> Tensor:
    """Sum of all terms, a scalar."""
    return torch.stack(list(terms.values())).sum()


def itself(value: Tensor) -> Tensor:
    """What one process alone makes of a mean over processes."""
    return value


@dataclass(frozen=True)
class RecipeSettings:
    """What a recipe is told of a run.

    ``denoising``: about how many denoising queries there are, where a family has such.
    ``train_norms``: whether norms that the network holds frozen learn, too; second sets always do.
    ``average``: a scalar of this process to its mean over all processes that train together: what
    sums are divided by must be the same in all of them.
    """

    denoising: int = 40
    train_norms: bool = True
    average: Callable[[Tensor], Tensor] = itself


class Recipe(Protocol[Teacher]):
    """How a network of one family is trained; ``Teacher`` is what base may see of super."""

    @property
    def model(self) -> AnyDepthModel:
        """The network, in training mode while it learns."""

    def stores(self, name: str) -> bool:
        """Whether a checkpoint holds the entry ``name`` of the model's state."""

    def super_pass(
        self, images: Tensor, targets: Targets, generator: torch.Generator | None
    ) -> tuple[Terms, Teacher]:
        """Loss of super against the objects, and its detached outputs.

        ``images``: float32 [N, 3, H, W] in 0..1; ``targets``: their objects; ``generator``: source
        of what is random in it.
        """

    def base_pass(
        self,
        images: Tensor,
        targets: Targets,
        teacher: Teacher | None,
        generator: torch.Generator | None,
    ) -> Terms:
        """Loss of base against ``teacher``, or against the objects where there is none."""

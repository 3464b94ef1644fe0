"""How a network of any family is trained: two passes, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.targets import Targets

__all__ = ["Recipe", "Teacher", "Terms", "TrainSettings", "network_size", "total"]

Terms = dict[str, Tensor]
"""Weighted scalar loss terms by name."""

Teacher = TypeVar("Teacher")


def total(terms: Terms) -> Tensor:
    """Sum of all terms, a scalar."""
    return torch.stack(list(terms.values())).sum()


class TrainSettings(Protocol):
    """What a recipe reads of the settings of a run; see
    :class:`anydepth_deploy.train.config.TrainConfig`."""

    @property
    def model(self) -> str:
        """Name of a size."""

    @property
    def seed(self) -> int:
        """Of the initial weights."""

    @property
    def input_size(self) -> int:
        """Side of the square pictures, in pixels."""

    @property
    def classes(self) -> int:
        """How many there are in the pictures."""

    @property
    def denoising(self) -> int:
        """About how many denoising queries there are, where a family has such."""


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


def network_size(settings: TrainSettings, sizes: Mapping[str, Any]) -> Any:
    """The configuration that ``settings`` name, of a family's ``sizes``, for their pictures.

    Raises :class:`UsageError` for an unknown name.
    """
    if settings.model not in sizes:
        raise UsageError(
            f"unknown model {settings.model!r}: choose one of {', '.join(sorted(sizes))}"
        )
    size = (settings.input_size, settings.input_size)
    return replace(sizes[settings.model], classes=settings.classes, input_size=size)

"""What a step adds up and what it refuses, by losses that can be read off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anydepth_deploy.errors import DivergedError
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.train.step import Stepper


class Objects:
    """A recipe whose loss is the number of objects over what losses are divided by."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1)

    def super_pass(self, images: Tensor, targets: Targets, generator: object) -> Any:
        return {"objects": targets.valid.sum() / targets.count + 0 * self.model.weight.sum()}, None


class Steep(Objects):
    """The loss is 0, its slope infinite."""

    def super_pass(self, images: Tensor, targets: Targets, generator: object) -> Any:
        return {"root": (0 * self.model.weight.sum()).sqrt()}, None


def batch(*objects: int) -> tuple[Tensor, Targets]:
    """Pictures with as many objects."""
    labels = torch.full((len(objects), 3), -1)
    for row, count in enumerate(objects):
        labels[row, :count] = 0
    return torch.zeros(len(objects), 3, 4, 4), Targets(labels, torch.rand(len(objects), 3, 4))


@pytest.mark.parametrize(
    ("parts", "loss"),
    [
        ([batch(0, 1), batch(0, 0)], 1),
        ([batch(0, 0), batch(0, 0)], 0),
        ([batch(2, 1), batch(3, 0), batch(0, 0)], 1),
        ([batch(0, 1)], 1),
    ],
)
def test_a_batch_in_parts_is_divided_by_all_of_its_objects(parts: Any, loss: float) -> None:
    stepper = Stepper(Objects(), static=True)  # type: ignore[arg-type]
    losses = stepper.accumulate(parts, distill=False)
    assert losses.super_loss == pytest.approx(loss)


@pytest.mark.parametrize("clip", [0.1, 0.0])
def test_a_gradient_that_is_no_number_changes_nothing(clip: float) -> None:
    recipe = Steep()
    before = recipe.model.weight.detach().clone()
    optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=1.0)
    stepper = Stepper(recipe, static=True)  # type: ignore[arg-type]
    with pytest.raises(DivergedError, match="the gradient is no number any more"):
        stepper.step(optimizer, None, [batch(1, 0)], distill=False, clip=clip)
    assert torch.equal(recipe.model.weight, before)


class Slope(Objects):
    """The gradient of the weight is 3."""

    def super_pass(self, images: Tensor, targets: Targets, generator: object) -> Any:
        return {"line": 3 * self.model.weight.sum()}, None


@pytest.mark.parametrize(("clip", "moved"), [(0.0, 3.0), (5.0, 3.0), (0.5, 0.5)])
def test_gradients_are_clipped_unless_nothing_is_said(clip: float, moved: float) -> None:
    recipe = Slope()
    before = float(recipe.model.weight.detach())
    optimizer = torch.optim.SGD(recipe.model.parameters(), lr=1.0)
    stepper = Stepper(recipe, static=True)  # type: ignore[arg-type]
    stepper.step(optimizer, None, [batch(1)], distill=False, clip=clip)
    assert before - float(recipe.model.weight.detach()) == pytest.approx(moved, rel=1e-4)

"""Random weights for benchmarks and tests, where no trained ones are needed."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from anydepth_deploy.families.shared.stages import AnyDepthModel

__all__ = ["randomise"]

Model = TypeVar("Model", bound=AnyDepthModel)


def randomise(model: Model, seed: int = 0) -> Model:
    """Fill ``model`` with random weights that keep activations in range, in evaluation mode.

    Statistics and affine parameters of all norms are random too: with default values both norm
    sets would be equal and all boxes the same, which hides errors.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, scale: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.dim() > 1:
                value.copy_(normal(value, 0.7 * (2 / value[0].numel()) ** 0.5))
            elif name.endswith("weight"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            else:
                value.copy_(normal(value, 0.1))
        model.after_random_weights()
    model.eval()
    return model

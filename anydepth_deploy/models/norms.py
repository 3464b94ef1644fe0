"""Norms that both families use, and the choice between two sets of them.

A layer of an essential path owns two sets of norm parameters over one convolution. Set one
normalises when its stage runs in full, set two when the stage's refinement is skipped, because the
statistics that the layer sees differ between the two.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvNorm", "FrozenBatchNorm2d"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine parameters, all of them buffers.

    Keys: ``weight``, ``bias``, ``running_mean``, ``running_var``, each [C]; there is no
    ``num_batches_tracked``.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, optional activation; the norm may be switchable.

    Keys: ``conv.weight``, ``norm.*`` and, where ``switchable``, ``norm_skippable.*``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        activation: Callable[[Tensor], Tensor] | None = None,
        switchable: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.norm_skippable = nn.BatchNorm2d(out_channels) if switchable else None
        self.activation = activation

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        """``skip`` selects the second norm set, where the layer has one."""
        second = self.norm_skippable
        norm = second if skip and second is not None else self.norm
        x = norm(self.conv(x))
        return x if self.activation is None else self.activation(x)

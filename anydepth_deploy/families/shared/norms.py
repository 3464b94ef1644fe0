"""Norms, and the choice between two sets of them, as the families make it.

A layer of an essential path owns two sets of norm parameters over one convolution. Set one
normalises when its stage runs in full, set two when the stage's refinement is skipped, because the
statistics that the layer sees differ between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FrozenBatchNorm2d", "SwitchableConv"]


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


class SwitchableConv(nn.Module):
    """Convolution without bias, batch norm, optional activation; the norm may be switchable.

    Keys: ``conv.weight``, and for each of the one or two norm sets the name that the family gives
    it in ``norm_names``. Padding is "same" for odd kernels at stride 1. ``frozen``: norms are
    :class:`FrozenBatchNorm2d`.
    """

    norm_names: ClassVar[tuple[str, str]]
    eps: ClassVar[float] = 1e-5
    momentum: ClassVar[float] = 0.1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: Callable[[Tensor], Tensor] | None = None,
        switchable: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=(kernel - 1) // 2,
            groups=groups,
            bias=False,
        )
        self.switchable = switchable
        for name in self.norm_names[: 1 + switchable]:
            norm: nn.Module
            if frozen:
                norm = FrozenBatchNorm2d(out_channels, eps=self.eps)
            else:
                norm = nn.BatchNorm2d(out_channels, eps=self.eps, momentum=self.momentum)
            self.add_module(name, norm)
        self.activation = activation

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        """``skip`` selects the second norm set, where the layer has one."""
        norm = self.get_submodule(self.norm_names[skip and self.switchable])
        x = norm(self.convolve(x, skip))
        return x if self.activation is None else self.activation(x)

    def convolve(self, x: Tensor, skip: bool) -> Tensor:
        """The convolution alone; a family may do it with fewer weights when ``skip`` is set."""
        output: Tensor = self.conv(x)
        return output

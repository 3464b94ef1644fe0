"""ResNet of variant d as the RT-DETRs have it ("PResNet"): basic blocks or bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.detr.encoder import ConvNorm

__all__ = ["PResNet"]


class _Branches(nn.Module):
    """A block: convolutions ``branch2a``, ``branch2b`` (and ``branch2c``) around a shortcut, then
    ReLU. A bottleneck has its stride in the 3x3.

    The first block of a stage has a convolution in its shortcut, behind an average pool where it
    halves the map (``short.conv``). Sides are multiples of 32, so each that is pooled is even.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, *, first: bool, config: ResNetConfig
    ) -> None:
        super().__init__()
        out_channels = width * (4 if config.bottleneck else 1)
        kernels = (1, 3, 1) if config.bottleneck else (3, 3)
        place = kernels.index(3)  # of the stride
        channels = (in_channels, *[width] * (len(kernels) - 1), out_channels)
        for index, kernel in enumerate(kernels):
            conv = ConvNorm(
                channels[index],
                channels[index + 1],
                kernel,
                stride if index == place else 1,
                activation=F.relu if index < len(kernels) - 1 else None,
                frozen=config.frozen,
            )
            self.add_module(f"branch2{'abc'[index]}", conv)
        self.branches = len(kernels)
        self.short: nn.Module | None = None
        if first:
            project = ConvNorm(in_channels, out_channels, 1, frozen=config.frozen)
            self.short = project
            if stride == 2:
                self.short = nn.Sequential()
                self.short.add_module("pool", nn.AvgPool2d(2, 2))
                self.short.add_module("conv", project)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.short is None else self.short(x)
        for letter in "abc"[: self.branches]:
            x = self.get_submodule(f"branch2{letter}")(x)
        return F.relu(x + shortcut)


class _Stage(nn.Module):
    """Holds the blocks under the authors' names (``res_layers.0.blocks.0``)."""

    def __init__(self, blocks: Iterator[_Branches]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.blocks(x)
        return output


class PResNet(nn.Module):
    """``forward`` gives the last ``levels`` maps, the coarsest (stride 32) last."""

    def __init__(self, config: ResNetConfig, levels: int) -> None:
        super().__init__()
        self.levels = levels
        inner, channels = config.stem
        self.conv1 = nn.Sequential()
        for index, (before, after) in enumerate(((3, inner), (inner, inner), (inner, channels))):
            conv = ConvNorm(
                before,
                after,
                3,
                1 if index else 2,
                activation=F.relu,
                frozen=config.frozen,
            )
            self.conv1.add_module(f"conv1_{index + 1}", conv)
        self.res_layers = nn.ModuleList()
        for index, (count, width) in enumerate(zip(config.blocks, config.widths, strict=True)):
            self.res_layers.append(
                _Stage(
                    _Branches(
                        config.out_channels[index] if block else channels,
                        width,
                        2 if index and not block else 1,
                        first=not block,
                        config=config,
                    )
                    for block in range(count)
                )
            )
            channels = config.out_channels[index]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``images`` [N, 3, H, W] -> maps [N, C, H/s, W/s]."""
        x = F.max_pool2d(self.conv1(images), kernel_size=3, stride=2, padding=1)
        maps = []
        for stage in self.res_layers:
            x = stage(x)
            maps.append(x)
        return tuple(maps[-self.levels :])

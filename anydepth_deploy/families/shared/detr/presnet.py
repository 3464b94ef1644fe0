"""ResNet of variant d as the RT-DETRs have it ("PResNet"): basic blocks or bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.detr.encoder import ConvNorm
from anydepth_deploy.families.shared.detr.staged import BlockStage, StagedBackbone

__all__ = ["PResNet"]


class _Branches(nn.Module):
    """A block: convolutions ``branch2a``, ``branch2b`` (and ``branch2c``) around a shortcut, then
    ReLU. A bottleneck has its stride in the 3x3.

    The first block of a stage has a convolution in its shortcut, behind an average pool where it
    halves the map (``short.conv``). Sides are multiples of 32, so each that is pooled is even.
    ``switchable``: every norm, that of the shortcut among them, has two sets.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        *,
        first: bool,
        switchable: bool,
        config: ResNetConfig,
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
                switchable=switchable,
                frozen=config.frozen,
            )
            self.add_module(f"branch2{'abc'[index]}", conv)
        self.branches = len(kernels)
        self.short: nn.Module | None = None
        if first:
            project = ConvNorm(
                in_channels, out_channels, 1, switchable=switchable, frozen=config.frozen
            )
            self.short = project
            if stride == 2:
                self.short = nn.Sequential()
                self.short.add_module("pool", nn.AvgPool2d(2, 2))
                self.short.add_module("conv", project)

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        shortcut = x
        if isinstance(self.short, nn.Sequential):
            pool, project = self.short
            shortcut = project(pool(x), skip)
        elif self.short is not None:
            shortcut = self.short(x, skip)
        for letter in "abc"[: self.branches]:
            x = self.get_submodule(f"branch2{letter}")(x, skip)
        return F.relu(x + shortcut)


class _Entry(nn.Module):
    """The stem and the max pool."""

    def __init__(self, conv1: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv1

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(images), kernel_size=3, stride=2, padding=1)


class PResNet(StagedBackbone):
    """``essential``: blocks of each stage that always run."""

    def __init__(self, config: ResNetConfig, levels: int, essential: Sequence[int]) -> None:
        super().__init__(levels)
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
            always = essential[index]
            blocks = (
                _Branches(
                    config.out_channels[index] if block else channels,
                    width,
                    2 if index and not block else 1,
                    first=not block,
                    switchable=block < always < count,
                    config=config,
                )
                for block in range(count)
            )
            self.res_layers.append(BlockStage(blocks, always))
            channels = config.out_channels[index]

    @property
    def entry(self) -> nn.Module:
        """See :attr:`StagedBackbone.entry`."""
        return _Entry(self.conv1)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See :attr:`StagedBackbone.layers`."""
        return tuple(self.res_layers)

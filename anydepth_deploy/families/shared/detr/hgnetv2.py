"""HGNetv2, the backbone of D-FINE and of some RT-DETRs, with or without affine layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.backbones import HGNetConfig, HGNetStage
from anydepth_deploy.families.shared.detr.staged import BlockStage, StagedBackbone
from anydepth_deploy.families.shared.norms import SwitchableConv

__all__ = ["HGNetV2"]


class _Affine(nn.Module):
    """``scale * x + bias`` with one number each for a whole map ("LAB")."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class _Unit(SwitchableConv):
    """Convolution, norm (``bn``) and, unless it is ``bare``, ReLU and the affine layer (``lab``):
    there is none without an activation before it. Where it is switchable, a second affine layer
    (``lab_skip``) goes with the second norm."""

    norm_names = ("bn", "bn_skip")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bare: bool = False,
        switchable: bool = False,
        config: HGNetConfig,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            groups=groups,
            activation=None if bare else F.relu,
            switchable=switchable,
            frozen=config.frozen,
        )
        affine = config.affine and not bare
        self.lab = _Affine() if affine else None
        self.lab_skip = _Affine() if affine and switchable else None

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        x = super().forward(x, skip)
        lab = self.lab_skip if skip and self.switchable else self.lab
        return x if lab is None else lab(x)


class _Light(nn.Module):
    """A 1x1 without activation, then a depthwise convolution."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        *,
        switchable: bool,
        config: HGNetConfig,
    ) -> None:
        super().__init__()
        self.conv1 = _Unit(
            in_channels, channels, 1, bare=True, switchable=switchable, config=config
        )
        self.conv2 = _Unit(
            channels, channels, kernel, groups=channels, switchable=switchable, config=config
        )

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        output: Tensor = self.conv2(self.conv1(x, skip), skip)
        return output


class _Stem(nn.Module):
    """3x3, then two 2x2 beside a max pool, then 3x3 and 1x1; stride 4.

    Maps are padded with zeros to the right and below before each 2x2 and the pool, after the
    affine layer: where that made values negative, the pool sees the zero.
    """

    def __init__(self, config: HGNetConfig) -> None:
        super().__init__()
        inner, channels = config.stem
        self.stem1 = _Unit(3, inner, 3, 2, config=config)
        self.stem2a = _Unit(inner, inner // 2, 2, config=config)
        self.stem2b = _Unit(inner // 2, inner, 2, config=config)
        self.stem3 = _Unit(2 * inner, inner, 3, 2, config=config)
        self.stem4 = _Unit(inner, channels, 1, config=config)

    def forward(self, images: Tensor) -> Tensor:
        x = F.pad(self.stem1(images), (0, 1, 0, 1))
        beside = F.pad(self.stem2a(x), (0, 1, 0, 1))
        pooled = F.max_pool2d(x, kernel_size=2, stride=1)
        output: Tensor = self.stem4(self.stem3(torch.cat([pooled, self.stem2b(beside)], 1)))
        return output


class _Block(nn.Module):
    """Layers one after the other; input and all outputs are joined and gathered by two 1x1. A
    ``residual`` block, which is not the first of its stage, adds its input; nothing follows."""

    def __init__(
        self,
        in_channels: int,
        stage: HGNetStage,
        config: HGNetConfig,
        *,
        residual: bool,
        switchable: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for index in range(stage.layers):
            before = stage.width if index else in_channels
            layer: nn.Module
            if stage.light:
                layer = _Light(
                    before, stage.width, stage.kernel, switchable=switchable, config=config
                )
            else:
                layer = _Unit(
                    before, stage.width, stage.kernel, switchable=switchable, config=config
                )
            self.layers.append(layer)
        joined = in_channels + stage.layers * stage.width
        half = stage.channels // 2
        self.aggregation = nn.Sequential(
            _Unit(joined, half, 1, switchable=switchable, config=config),
            _Unit(half, stage.channels, 1, switchable=switchable, config=config),
        )
        self.residual = residual

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        parts = [x]
        for layer in self.layers:
            parts.append(layer(parts[-1], skip))
        gathered = torch.cat(parts, 1)
        for unit in self.aggregation:
            gathered = unit(gathered, skip)
        return gathered + x if self.residual else gathered


def _stage(in_channels: int, stage: HGNetStage, config: HGNetConfig, essential: int) -> BlockStage:
    """A depthwise convolution that halves the map, where there is one, and the blocks."""
    skips = essential < stage.blocks
    downsample: _Unit | None = None
    if stage.downsample:
        downsample = _Unit(
            in_channels,
            in_channels,
            3,
            2,
            groups=in_channels,
            bare=True,
            switchable=skips,
            config=config,
        )
    blocks = (
        _Block(
            stage.channels if index else in_channels,
            stage,
            config,
            residual=index > 0,
            switchable=skips and index < essential,
        )
        for index in range(stage.blocks)
    )
    return BlockStage(blocks, essential, downsample)


class HGNetV2(StagedBackbone):
    """``essential``: blocks of each stage that always run."""

    def __init__(self, config: HGNetConfig, levels: int, essential: Sequence[int]) -> None:
        super().__init__(levels)
        self.stem = _Stem(config)
        self.stages = nn.ModuleList()
        channels = config.stem[1]
        for stage, always in zip(config.stages, essential, strict=True):
            self.stages.append(_stage(channels, stage, config, always))
            channels = stage.channels

    @property
    def entry(self) -> nn.Module:
        """See :attr:`StagedBackbone.entry`."""
        return self.stem

    @property
    def layers(self) -> Sequence[nn.Module]:
        """See :attr:`StagedBackbone.layers`."""
        return tuple(self.stages)

    def after_random_weights(self) -> None:
        """Scales of affine layers around 1: small ones in a row would leave nothing of a map."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, _Affine):
                    module.scale.add_(1)

"""Sizes of the static backbones, by their authors' names; nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass

from anydepth_deploy.families.shared.detr.essentials import essential_blocks

__all__ = ["HGNETS", "RESNETS", "HGNetConfig", "HGNetStage", "ResNetConfig", "is_frozen"]


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet of variant d ("PResNet"): ``stem`` channels of its first and its last convolution,
    ``blocks`` of each of four stages and their ``widths`` (of basic blocks, and inside bottlenecks,
    which give four times as many). ``frozen``: norms without counters, all of it buffers."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = True
    stem: tuple[int, int] = (32, 64)
    frozen: bool = True

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Of the four stages (strides 4, 8, 16, 32)."""
        return tuple(width * (4 if self.bottleneck else 1) for width in self.widths)

    @property
    def essential(self) -> tuple[int, ...]:
        """Blocks of each stage that an any-depth network always runs."""
        return tuple(map(essential_blocks, self.blocks))


@dataclass(frozen=True)
class HGNetStage:
    """``blocks`` of ``layers`` convolutions of ``width`` channels each, whose outputs are gathered
    in ``channels``. ``light``: layers are a 1x1 and a depthwise ``kernel``; else one ``kernel``."""

    width: int
    channels: int
    blocks: int
    layers: int
    light: bool
    kernel: int
    downsample: bool = True


@dataclass(frozen=True)
class HGNetConfig:
    """An HGNetv2: ``stem`` channels inside and after the stem, four stages, with or without a
    learnable scale and shift after every activation (``affine``, "LAB"); ``frozen`` as above."""

    stem: tuple[int, int]
    stages: tuple[HGNetStage, ...]
    affine: bool = False
    frozen: bool = False

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Of the stages (strides 4, 8, 16, 32)."""
        return tuple(stage.channels for stage in self.stages)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Of each stage."""
        return tuple(stage.blocks for stage in self.stages)

    @property
    def essential(self) -> tuple[int, ...]:
        """The first block of each stage, the only one that is not residual."""
        return (1,) * len(self.stages)


def is_frozen(backbone: ResNetConfig | HGNetConfig) -> bool:
    """Whether the authors froze the norms of such a backbone: those of bottlenecks, and of HGNetv2
    without affine layers. For files that have lost all counters of norms."""
    if isinstance(backbone, ResNetConfig):
        return backbone.bottleneck
    return not backbone.affine


def _hgnet(
    stem: tuple[int, int],
    widths: tuple[int, ...],
    channels: tuple[int, ...],
    blocks: tuple[int, ...],
    layers: int,
    *,
    affine: bool,
) -> HGNetConfig:
    """As the authors lay it out: 3x3 in two stages, then light layers of 5x5 in two."""
    stages = tuple(
        HGNetStage(width, out, count, layers, index > 1, 5 if index > 1 else 3, index > 0)
        for index, (width, out, count) in enumerate(zip(widths, channels, blocks, strict=True))
    )
    return HGNetConfig(stem, stages, affine, frozen=not affine)


RESNETS = {
    "18": ResNetConfig((2, 2, 2, 2), bottleneck=False, frozen=False),
    "34": ResNetConfig((3, 4, 6, 3), bottleneck=False, frozen=False),
    "50": ResNetConfig((3, 4, 6, 3)),
    "101": ResNetConfig((3, 4, 23, 3)),
}

HGNETS = {
    "b0": _hgnet((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, affine=True),
    "b1": _hgnet((24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3, affine=True),
    "b2": _hgnet((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, affine=True),
    "b3": _hgnet(
        (24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5, affine=True
    ),
    "b4": _hgnet(
        (32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6, affine=False
    ),
    "b5": _hgnet(
        (32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6, affine=False
    ),
    "b6": _hgnet(
        (48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6, affine=False
    ),
}

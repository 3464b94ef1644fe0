"""DETRs whose decoder can stop early, as their authors trained them, and their any-depth form.

Every descendant of RT-DETR was trained with a head, and a loss, on each decoder layer: each layer
may be the last, without any training for it. Trained further, as AnyDepth-DETR is, they skip the
refinement of backbone stages and of the encoder, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anydepth_deploy.depth import Depth, DepthSpace, Gate
from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.detr.backbones import HGNetConfig, ResNetConfig
from anydepth_deploy.families.shared.detr.essentials import (
    Essentials,
    depth_space,
    essential_bottlenecks,
    rungs,
)

if TYPE_CHECKING:
    from anydepth_deploy.families.shared.detr.staged import StagedBackbone

__all__ = ["HEADS", "StaticConfig", "build_backbone"]

HEADS = 8
"""Of all attention in all of them; no key reveals it."""

R50 = ResNetConfig((3, 4, 6, 3))

Config = TypeVar("Config", bound="StaticConfig")


@dataclass(frozen=True)
class StaticConfig:
    """What shapes all of them. Defaults are those of RT-DETR R50.

    ``hidden``, ``feedforward``: of the encoder; ``aifi_layers``: of its attention; ``csp_blocks``,
    ``csp_channels``: bottlenecks of its blocks, and channels inside. ``points``: places that
    attention reads by level, the finest first. ``decoder_activation``: of the decoder's linear
    layers; ``feedforward_activation``: of those of its feed-forward, where they have another;
    ``sampling``: ``bilinear`` or ``discrete``. ``release``: which of the authors' releases
    the weights are of. ``input_size``: height and width. ``essential``: what always runs in an
    any-depth network; None for one that skips nothing but decoder layers.
    """

    name: str = "custom"
    release: str = ""
    backbone: ResNetConfig | HGNetConfig = R50
    hidden: int = 256
    feedforward: int = 1024
    heads: int = HEADS
    aifi_layers: int = 1
    csp_blocks: int = 3
    csp_channels: int = 256
    decoder_hidden: int = 256
    decoder_feedforward: int = 1024
    decoder_layers: int = 6
    points: tuple[int, ...] = (4, 4, 4)
    decoder_activation: str = "relu"
    feedforward_activation: str | None = None
    sampling: str = "bilinear"
    queries: int = 300
    classes: int = 80
    max_detections: int = 300
    input_size: tuple[int, int] = (640, 640)
    essential: Essentials | None = None

    def replace(self: Config, **changes: Any) -> Config:
        """This configuration with some fields changed."""
        return dataclasses.replace(self, **changes)

    def resembles(self, other: StaticConfig) -> bool:
        """Whether both are the same size: release, classes, input, queries, sampling, which norms
        are frozen and what is skipped may differ."""
        return self._structure() == other._structure()

    def _structure(self: Config) -> Config:
        return self.replace(
            name="",
            release="",
            backbone=dataclasses.replace(self.backbone, frozen=False),
            sampling="",
            queries=0,
            classes=0,
            max_detections=0,
            input_size=(0, 0),
            essential=None,
        )

    def size_name(self: Config, sizes: Mapping[str, Config]) -> str | None:
        """The name that one of ``sizes`` has for it: of its own release, if it is there."""
        found = [name for name, size in sizes.items() if self.resembles(size)]
        own = [name for name in found if sizes[name].release == self.release]
        return next(iter(own or found), None)

    def renamed(self: Config, sizes: Mapping[str, Config]) -> Config:
        """The same by its :meth:`size_name`, else ``custom``; any-depth networks say so."""
        name = self.size_name(sizes) or "custom"
        return self.replace(name=name if self.essential is None else f"{name} any-depth")

    def completed(self: Config, sizes: Mapping[str, Config]) -> Config:
        """:meth:`renamed`, and what shapes do not tell as that size has it."""
        named, name = self.renamed(sizes), self.size_name(sizes)
        if name is None:
            return named
        size = sizes[name]
        return named.replace(
            queries=size.queries, max_detections=size.max_detections, input_size=size.input_size
        )

    def deepened(self: Config, sizes: Mapping[str, Config]) -> Config:
        """Its any-depth form, by the name of ``sizes``; itself where it is that already.

        Essential are of a ResNet stage as many blocks as in AnyDepth-DETR, of an HGNetv2 stage the
        first block, and of the encoder's bottlenecks as many as in AnyDepth-DETR. Raises
        :class:`UsageError` where that leaves nothing to skip.
        """
        if self.essential is not None:
            return self
        bottlenecks = essential_bottlenecks(self.csp_blocks)
        found = self.replace(essential=Essentials(self.backbone.essential, bottlenecks))
        if not found.skips_encoder and not any(found.skips_stages):
            raise UsageError(
                f"{self.name}: every stage of its backbone has one block and every block of its "
                "encoder one bottleneck, so there is nothing to skip; expected a larger network, "
                "or train it as it is"
            )
        return found.renamed(sizes)

    @property
    def skips_stages(self) -> tuple[bool, ...]:
        """Of each backbone stage, whether it has refinement to skip."""
        pairs = zip(self.essential_blocks, self.backbone.blocks, strict=True)
        return tuple(always < count for always, count in pairs)

    @property
    def skips_encoder(self) -> bool:
        """Whether the encoder has refinement to skip."""
        if self.essential is None:
            return False
        return self.essential.bottlenecks < self.csp_blocks or self.refines

    @property
    def refines(self) -> bool:
        """Whether the encoder refines maps otherwise than by its bottlenecks."""
        return False

    @property
    def essential_blocks(self) -> tuple[int, ...]:
        """Blocks of each backbone stage that always run."""
        return self.backbone.blocks if self.essential is None else self.essential.blocks

    @property
    def essential_bottlenecks(self) -> int:
        """Bottlenecks of each block of the encoder that always run."""
        return self.csp_blocks if self.essential is None else self.essential.bottlenecks

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the maps that the encoder takes; the coarsest is 32."""
        return tuple(32 >> step for step in reversed(range(len(self.points))))

    @property
    def in_channels(self) -> tuple[int, ...]:
        """Of the backbone's maps that the encoder takes."""
        return self.backbone.out_channels[-len(self.points) :]

    @property
    def depth_space(self) -> DepthSpace:
        """The number of decoder layers, of which base has the first alone; of an any-depth network
        its stages and its encoder, too."""
        if self.essential is None:
            return DepthSpace((Gate("decoder", 0, layers=self.decoder_layers),), (1,))
        return depth_space(self.skips_stages, self.skips_encoder, self.decoder_layers)

    @property
    def ladder(self) -> tuple[str, ...]:
        """Rungs from base to super."""
        return tuple(map(str, self.default_ladder))

    @property
    def default_ladder(self) -> tuple[Depth, ...]:
        """Every exit; of an any-depth network what AnyDepth-DETR's ladder has."""
        space = self.depth_space
        return tuple(reversed(space.every)) if self.essential is None else rungs(space)


def build_backbone(config: StaticConfig) -> StagedBackbone:
    """The backbone's network, which gives one map for each level."""
    from anydepth_deploy.families.shared.detr.hgnetv2 import HGNetV2
    from anydepth_deploy.families.shared.detr.presnet import PResNet

    levels, essential = len(config.points), config.essential_blocks
    if isinstance(config.backbone, ResNetConfig):
        return PResNet(config.backbone, levels, essential)
    return HGNetV2(config.backbone, levels, essential)

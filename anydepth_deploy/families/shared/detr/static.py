"""DETRs whose decoder alone can stop early: their one gate, and the stages that follow from it.

Every descendant of RT-DETR was trained with a head, and a loss, on each decoder layer: each layer
may be the last, without any training for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anydepth_deploy.depth import Depth, DepthSpace, Gate
from anydepth_deploy.families.shared.detr.backbones import HGNetConfig, ResNetConfig

if TYPE_CHECKING:
    from torch import nn

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
    the weights are of. ``input_size``: height and width.
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

    def replace(self: Config, **changes: Any) -> Config:
        """This configuration with some fields changed."""
        return dataclasses.replace(self, **changes)

    def resembles(self, other: StaticConfig) -> bool:
        """Whether both are the same size: release, classes, input, queries, sampling and which
        norms are frozen may differ."""
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
        )

    def renamed(self: Config, sizes: Mapping[str, Config]) -> Config:
        """The same by the name that one of ``sizes`` has for it, else ``custom``: of its own
        release, if it is there."""
        found = [name for name, size in sizes.items() if self.resembles(size)]
        own = [name for name in found if sizes[name].release == self.release]
        return self.replace(name=next(iter(own or found), "custom"))

    def completed(self: Config, sizes: Mapping[str, Config]) -> Config:
        """:meth:`renamed`, and what shapes do not tell as that size has it."""
        named = self.renamed(sizes)
        if named.name not in sizes:
            return named
        size = sizes[named.name]
        return named.replace(
            queries=size.queries, max_detections=size.max_detections, input_size=size.input_size
        )

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
        """The number of decoder layers; base is the first alone."""
        return DepthSpace((Gate("decoder", 0, layers=self.decoder_layers),), (1,))

    @property
    def ladder(self) -> tuple[str, ...]:
        """Every exit, from base to super."""
        return tuple(map(str, self.default_ladder))

    @property
    def default_ladder(self) -> tuple[Depth, ...]:
        return tuple(reversed(self.depth_space.every))


def build_backbone(config: StaticConfig) -> nn.Module:
    """The backbone's network, which gives one map for each level."""
    from anydepth_deploy.families.shared.detr.hgnetv2 import HGNetV2
    from anydepth_deploy.families.shared.detr.presnet import PResNet

    levels = len(config.points)
    if isinstance(config.backbone, ResNetConfig):
        return PResNet(config.backbone, levels)
    return HGNetV2(config.backbone, levels)

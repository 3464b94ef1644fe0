"""AnyDepth-DETR: the network, and how it falls into gated stages."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from anydepth_deploy.families.detr.backbone import Backbone, Stem
from anydepth_deploy.families.detr.config import DetrConfig
from anydepth_deploy.families.shared.detr.decoder import Decoder
from anydepth_deploy.families.shared.detr.encoder import CspBlock, HybridEncoder, silu_conv
from anydepth_deploy.families.shared.detr.essentials import essential_bottlenecks
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.stages import Size, Stage

__all__ = ["AnyDepthDETR"]


class AnyDepthDETR(DetrModel):
    """RT-DETR with skippable stages; parameter names are those of the authors' checkpoints."""

    family = "anydepth-detr"
    backbone: Backbone
    decoder: Decoder
    config: DetrConfig

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        hidden = config.hidden
        self.backbone = Backbone(config.blocks, config.widths, shortcut=config.switches_all)
        self.encoder = HybridEncoder(
            self.backbone.out_channels,
            hidden,
            heads=config.heads,
            feedforward=config.feedforward,
            join=functools.partial(
                CspBlock,
                2 * hidden,
                hidden,
                config.csp_blocks,
                switchable=True,
                essential=essential_bottlenecks(config.csp_blocks),
            ),
            lateral=functools.partial(silu_conv, hidden, hidden, switchable=True),
            down=functools.partial(silu_conv, hidden, hidden, 3, 2, switchable=True),
            switchable=True,
            fine=config.fine,
        )
        self.decoder = Decoder(
            [hidden] * len(self.strides),
            channels=config.decoder_hidden,
            heads=config.decoder_heads,
            feedforward=config.decoder_feedforward,
            layers=config.decoder_layers,
            points=config.points,
            queries=config.queries,
            classes=config.classes,
            switchable=config.switches_all,
        )

    def maps(self, images: Tensor, *, skip: bool) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """See :meth:`DetrModel.maps`."""
        maps = self.backbone(images, (skip,) * 4)
        return maps, self.encoder(maps, skip)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        entry = Stem(self.backbone.conv1, self.backbone.bn1)
        return self.gated_stages(size, device, entry, self.backbone.layers)

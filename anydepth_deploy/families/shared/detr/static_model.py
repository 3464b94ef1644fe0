"""The networks of the static DETRs: the stages before their decoders."""

from __future__ import annotations

import torch
from torch import nn

from anydepth_deploy.families.shared.detr.encoder import position_embedding
from anydepth_deploy.families.shared.detr.hgnetv2 import HGNetV2
from anydepth_deploy.families.shared.detr.model import DetrModel, EncoderVariant
from anydepth_deploy.families.shared.detr.static import StaticConfig, build_backbone
from anydepth_deploy.families.shared.stages import Size, Stage

__all__ = ["StaticDetr"]


class StaticDetr(DetrModel):
    """A backbone and an encoder that always run, and a decoder that stops after any layer."""

    backbone: nn.Module
    config: StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.strides = config.strides
        self.backbone = build_backbone(config)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        position = position_embedding(*self.shapes(size)[-1], self.config.hidden, device)
        return [
            Stage("backbone", "backbone", ("images",), self.map_names, {"full": self.backbone}),
            Stage(
                "encoder",
                "encoder",
                self.map_names,
                self.encoded_names,
                {"full": EncoderVariant(self.encoder, position, skip=False)},
            ),
            *self.decoding_stages(size, device, gate=0),
        ]

    def after_random_weights(self) -> None:
        if isinstance(self.backbone, HGNetV2):
            self.backbone.after_random_weights()

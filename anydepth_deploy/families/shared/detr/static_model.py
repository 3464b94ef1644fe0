"""The networks of the static DETRs: the stages before their decoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydepth_deploy.families.shared.detr.hgnetv2 import HGNetV2
from anydepth_deploy.families.shared.detr.model import DetrModel
from anydepth_deploy.families.shared.detr.staged import StagedBackbone
from anydepth_deploy.families.shared.detr.static import StaticConfig, build_backbone
from anydepth_deploy.families.shared.stages import Size, Stage

__all__ = ["StaticDetr"]

RANDOM_SIZE = (128, 160)
CLASS_SPREAD, CLASS_DOUBT, OWN_JUDGEMENT = 3.0, 4.5, 0.5
"""Of random class heads: a factor, how far below 0 the mean logit of every class is, and how much
each layer's own weights count."""


class StaticDetr(DetrModel):
    """A decoder that stops after any layer, behind a backbone and an encoder that always run, or
    whose refinement is skipped where the configuration says what is ``essential``."""

    backbone: StagedBackbone
    config: StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.strides = config.strides
        self.backbone = build_backbone(config)

    def maps(self, images: Tensor, *, skip: bool) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """See :meth:`DetrModel.maps`."""
        maps = self.backbone(images, skip)
        return maps, self.encoder(maps, skip)

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        if self.config.essential is not None:
            return self.gated_stages(size, device, self.backbone.entry, self.backbone.layers)
        return [
            Stage("backbone", "backbone", ("images",), self.map_names, {"full": self.backbone}),
            self.encoder_stage(size, device),
            *self.decoding_stages(size, device),
        ]

    def after_random_weights(self) -> None:
        """What random networks lack and trained ones have: queries that differ, and of which few
        are something. So tokens are centred (those of noise and of smooth pictures) before a norm
        enlarges what is left of them; most pairs of query and class are clearly not there; and
        layers judge much as query selection does, so that what is there was not chosen by a hair.
        """
        if isinstance(self.backbone, HGNetV2):
            self.backbone.after_random_weights()
        self.eval()
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(2, 3, *RANDOM_SIZE, generator=generator)
        smooth = torch.rand(2, 3, 8, 8, generator=generator)
        tensors = {"images": torch.cat([noise, F.interpolate(smooth, RANDOM_SIZE)])}
        with torch.no_grad():
            for stage in self.build_stages(RANDOM_SIZE, noise.device):
                if stage.part == "decoder":
                    break
                tensors.update(stage.run("full", tensors))
            _, tokens = self.decoder.remember([tensors[name] for name in self.encoded_names])
            linear, first = self.decoder.enc_output[0], self.decoder.enc_score_head
            assert isinstance(linear, nn.Linear)
            linear.bias.copy_(-linear.weight @ tokens.mean((0, 1)))
            first.weight.mul_(CLASS_SPREAD)
            logits = first(self.decoder.enc_output(tokens))
            first.bias.sub_(logits.mean((0, 1)) + CLASS_DOUBT)
            for head in self.decoder.dec_score_head:
                for own, shared in zip(head.parameters(), first.parameters(), strict=True):
                    own.mul_(OWN_JUDGEMENT).add_(shared)

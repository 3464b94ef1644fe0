"""D-FINE, and what DEIM and RT-DETRv4 trained of it, as a network of gated stages."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from anydepth_deploy.families.dfine.config import DFineConfig
from anydepth_deploy.families.dfine.decoder import DecoderVariant, DFineDecoder
from anydepth_deploy.families.dfine.encoder import ElanBlock, LeanDown
from anydepth_deploy.families.shared.detr.decoder import ACTIVATIONS
from anydepth_deploy.families.shared.detr.encoder import ConvNorm, HybridEncoder
from anydepth_deploy.families.shared.detr.static_model import StaticDetr

__all__ = ["DFINE"]


class DFINE(StaticDetr):
    """Parameter names are those of the authors' checkpoints."""

    family = "d-fine"
    counts_all_boxes = False
    config: DFineConfig
    decoder: DFineDecoder

    def __init__(self, config: DFineConfig) -> None:
        super().__init__(config)
        hidden, skips = config.hidden, config.skips_encoder
        self.encoder = HybridEncoder(
            config.in_channels,
            hidden,
            heads=config.heads,
            feedforward=config.feedforward,
            layers=config.aifi_layers,
            join=functools.partial(
                ElanBlock,
                hidden,
                config.csp_channels,
                config.csp_blocks,
                switchable=skips,
                essential=config.essential_bottlenecks,
            ),
            lateral=functools.partial(ConvNorm, hidden, hidden, 1, switchable=skips),
            down=functools.partial(LeanDown, hidden, switchable=skips),
            switchable=skips,
        )
        activation = ACTIVATIONS[config.decoder_activation]
        inner = ACTIVATIONS[config.feedforward_activation or config.decoder_activation]
        self.decoder = DFineDecoder(
            [hidden] * len(config.points),
            channels=config.decoder_hidden,
            heads=config.heads,
            feedforward=config.decoder_feedforward,
            layers=config.decoder_layers,
            points=config.points,
            queries=config.queries,
            classes=config.classes,
            bins=config.bins,
            best=config.best,
            quality=config.quality,
            reach=config.reach,
            bound=config.bound,
            activation=activation,
            feedforward_activation=inner,
            discrete=config.sampling == "discrete",
            switchable=skips,
        )

    @property
    def memory_names(self) -> tuple[str, ...]:
        """Maps, where they are not those of the encoder's stage."""
        if not self.decoder.projected or self.decoder.switchable:
            return ()
        return tuple(f"memory{stride}" for stride in self.strides)

    def layer_stage(
        self, index: int, shapes: Sequence[tuple[int, int]]
    ) -> tuple[tuple[str, ...], tuple[str, ...], nn.Module]:
        """The first layer makes the anchor boxes that the others are told; the last tells nobody
        anything."""
        layer = DecoderVariant(self.decoder, index, shapes)
        maps = self.memory_names or self.encoded_names
        if index == 0:
            return ("target", "boxes", *maps), layer.makes, layer
        return ("target", "boxes", "edges", "anchor", *maps), layer.makes, layer

    def after_random_weights(self) -> None:
        """The reach of bins is a constant, and not drawn."""
        super().after_random_weights()
        with torch.no_grad():
            self.decoder.up.fill_(self.config.bound)
            self.decoder.reg_scale.fill_(self.config.reach)

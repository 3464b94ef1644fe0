"""RT-DETR, RT-DETRv2 and those that DEIM trained, as a network of gated stages."""

from __future__ import annotations

import functools

from anydepth_deploy.families.rtdetr.config import RTDetrConfig
from anydepth_deploy.families.shared.detr.decoder import ACTIVATIONS, Decoder
from anydepth_deploy.families.shared.detr.encoder import CspBlock, HybridEncoder, silu_conv
from anydepth_deploy.families.shared.detr.static_model import StaticDetr

__all__ = ["RTDETR"]


class RTDETR(StaticDetr):
    """Parameter names are those of the authors' RT-DETRv2."""

    family = "rt-detr"
    config: RTDetrConfig
    decoder: Decoder

    def __init__(self, config: RTDetrConfig) -> None:
        super().__init__(config)
        hidden, skips = config.hidden, config.skips_encoder
        self.encoder = HybridEncoder(
            config.in_channels,
            hidden,
            heads=config.heads,
            feedforward=config.feedforward,
            layers=config.aifi_layers,
            join=functools.partial(
                CspBlock,
                2 * hidden,
                config.csp_channels,
                config.csp_blocks,
                hidden,
                switchable=skips,
                essential=config.essential_bottlenecks,
            ),
            lateral=functools.partial(silu_conv, hidden, hidden, switchable=skips),
            down=functools.partial(silu_conv, hidden, hidden, 3, 2, switchable=skips),
            switchable=skips,
            fine=config.fine,
        )
        self.decoder = Decoder(
            [hidden] * len(config.points),
            channels=config.decoder_hidden,
            heads=config.heads,
            feedforward=config.decoder_feedforward,
            layers=config.decoder_layers,
            points=config.points,
            queries=config.queries,
            classes=config.classes,
            position=config.position,
            names=("proj", "norm"),
            switchable=skips,
            activation=ACTIVATIONS[config.decoder_activation],
            feedforward_activation=ACTIVATIONS[
                config.feedforward_activation or config.decoder_activation
            ],
            discrete=config.sampling == "discrete",
        )

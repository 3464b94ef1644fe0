"""Sizes of AnyDepth-DETR: R50 and R101 as published, and tiny ones for demos and tests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.depth import Depth, DepthSpace, Gate
from anydepth_deploy.families.shared.detr.fine_config import FineConfig

__all__ = ["CONFIGS", "DetrConfig", "deepen"]


@dataclass(frozen=True)
class DetrConfig:
    """Everything that shapes the network. Defaults are those of R50.

    ``ladder`` holds the default rungs as text, from base to super. What decides it is measured
    accuracy: skipping the encoder below a full backbone loses accuracy for nothing, so the rungs
    between keep the encoder (see docs/ladders.md). ``fine``: in the encoder where it runs in full,
    with the switches of the authors' RT-DETR; skipped, the encoder is that of a network without.
    ``switches_all``: whether the norms of shortcuts and of the decoder's projections have two sets,
    too: theirs see what both modes of the stage before make. The authors' have one.
    """

    name: str = "r50"
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    hidden: int = 256
    feedforward: int = 1024
    heads: int = 8
    csp_blocks: int = 3
    decoder_hidden: int = 256
    decoder_feedforward: int = 1024
    decoder_heads: int = 8
    decoder_layers: int = 6
    base_decoder_layers: int = 4
    points: int = 4
    queries: int = 300
    classes: int = 80
    max_detections: int = 300
    input_size: tuple[int, int] = (640, 640)
    ladder: tuple[str, ...] = (
        "TTTT-T-4",
        "FFTT-F-4",
        "FFTF-F-4",
        "FFFF-F-4",
        "FFFF-F-6",
    )
    fine: FineConfig | None = None
    switches_all: bool = False

    def replace(self, **changes: Any) -> DetrConfig:
        """This configuration with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def depth_space(self) -> DepthSpace:
        """Four backbone stages, the encoder, and the number of decoder layers."""
        gates = (
            *(Gate(f"backbone.layer{index}", 0) for index in range(1, 5)),
            Gate("encoder", 1),
            Gate("decoder", 2, layers=self.decoder_layers),
        )
        return DepthSpace(gates, (1, 1, 1, 1, 1, self.base_decoder_layers))

    @property
    def default_ladder(self) -> tuple[Depth, ...]:
        space = self.depth_space
        return tuple(space.parse(text) for text in self.ladder)


TINY = DetrConfig(
    name="tiny",
    blocks=(2, 2, 3, 2),
    widths=(16, 32, 64, 128),
    hidden=64,
    feedforward=128,
    heads=4,
    decoder_hidden=64,
    decoder_feedforward=128,
    decoder_heads=4,
    decoder_layers=3,
    base_decoder_layers=3,
    queries=60,
    classes=8,
    max_detections=100,
    input_size=(160, 160),
    ladder=("TTTT-T-3", "TTTT-F-3", "FFTT-F-3", "FFFF-F-3"),
)

CONFIGS: dict[str, DetrConfig] = {
    "r50": DetrConfig(),
    "r101": DetrConfig(name="r101", blocks=(3, 4, 23, 3), hidden=384, feedforward=2048),
    "tiny": TINY,
    "tiny-fine": TINY.replace(name="tiny-fine", fine=FineConfig(heads=4, feedforward=256)),
}


def deepen(config: DetrConfig) -> DetrConfig:
    """``config`` as it is trained anew: with two sets of all norms behind what is skipped."""
    return config.replace(switches_all=True)

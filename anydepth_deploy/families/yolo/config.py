"""Sizes of AnyDepth-YOLO: n, s, l, x as published, and a tiny one for demos and tests; and those
of YOLOv12 without any-depth."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.depth import Depth, DepthSpace, Gate

__all__ = [
    "ATTENTION_LAYERS",
    "C3K2_LAYERS",
    "CONFIGS",
    "GATED_LAYERS",
    "ONE_DEPTH_CONFIGS",
    "YoloConfig",
]

GATED_LAYERS = (2, 4, 6, 8, 11, 14, 17, 20)
"""Layers whose block has a gate, in the order of the gates."""

C3K2_LAYERS = (2, 4, 20)
ATTENTION_LAYERS = (6, 8)

LADDER = ("TTTTTTTT", "FFTTTFTT", "FFFTTFTT", "FFFFFFTT", "FFFFFFFF")


@dataclass(frozen=True)
class YoloConfig:
    """Everything that shapes the network. Defaults are those of s.

    ``depth``, ``width`` and ``max_channels`` scale the table of layers as YOLOv12 does.
    ``bottleneck_c3k``: layers 2 and 4 are made of C3k blocks, too. ``switchable_c3k2``: layers 2,
    4 and 20 skip none of their repeats and only change norms, as in the first published layout.
    What checkpoints of one size may differ in is a tuple of layers: ``own_skip_weights`` (the
    last convolution has weights of its own for the skipped mode, ``conv_skip``), ``gamma`` (the
    block is residual), ``inner_skips`` (C3k blocks skip half of their bottlenecks). ``ladder``
    holds the default rungs as text, from base to super (see docs/ladders.md). ``one_depth``: of
    the network without any-depth, which has one norm set, no gates and nothing to skip.
    """

    name: str = "s"
    depth: float = 1.0
    width: float = 0.5
    max_channels: int = 512
    bottleneck_c3k: bool = False
    mlp_ratio: float = 2.0
    switchable_c3k2: bool = False
    own_skip_weights: tuple[int, ...] = ATTENTION_LAYERS
    gamma: tuple[int, ...] = ATTENTION_LAYERS
    inner_skips: tuple[int, ...] = ()
    classes: int = 80
    max_detections: int = 300
    input_size: tuple[int, int] = (640, 640)
    ladder: tuple[str, ...] = LADDER
    one_depth: bool = False

    def replace(self, **changes: Any) -> YoloConfig:
        """This configuration with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def switchable(self) -> YoloConfig:
        """The same size in the first published layout: switchable C3k2, no ``conv_skip``."""
        inner = C3K2_LAYERS if self.bottleneck_c3k else (20,)
        return self.replace(switchable_c3k2=True, own_skip_weights=(), inner_skips=inner)

    def channels(self, channels: int) -> int:
        """Output channels of a layer, from the unscaled table: a multiple of 8."""
        return math.ceil(min(channels, self.max_channels) * self.width / 8) * 8

    def repeats(self, count: int) -> int:
        """How often a block is repeated, from the unscaled table."""
        return max(1, round(count * self.depth))

    @property
    def depth_space(self) -> DepthSpace:
        """One skip gate for each of the eight blocks; without any-depth none."""
        if self.one_depth:
            return DepthSpace((), ())
        gates = tuple(Gate(f"layer{layer}", 0) for layer in GATED_LAYERS)
        return DepthSpace(gates, (1,) * len(gates))

    @property
    def default_ladder(self) -> tuple[Depth, ...]:
        space = self.depth_space
        # With switchable C3k2, rungs that differ in layers 2 and 4 alone may cost the same.
        rungs = LADDER if self.switchable_c3k2 else self.ladder
        return tuple(space.parse(text) for text in rungs)


_S = YoloConfig()

CONFIGS: dict[str, YoloConfig] = {
    "n": _S.replace(name="n", depth=0.75, width=0.25, max_channels=1024, own_skip_weights=()),
    "s": _S,
    "l": _S.replace(name="l", width=1.0, bottleneck_c3k=True, mlp_ratio=1.5),
    "x": _S.replace(name="x", width=1.5, bottleneck_c3k=True, mlp_ratio=1.5),
    "tiny": _S.replace(
        name="tiny",
        width=0.25,
        classes=8,
        max_detections=100,
        input_size=(160, 160),
        ladder=("TTTTTTTT", "TTTTTFTT", "TFTTTFTT", "FFTTTFTT", "FFFFFFFF"),
    ),
}

_PLAIN = YoloConfig(depth=0.5, own_skip_weights=(), gamma=(), ladder=("full",), one_depth=True)
_RESIDUAL = {"bottleneck_c3k": True, "mlp_ratio": 1.5, "gamma": ATTENTION_LAYERS}
_SCALED = {"own_skip_weights": (), "ladder": ("full",), "one_depth": True}

ONE_DEPTH_CONFIGS: dict[str, YoloConfig] = {
    "n": _PLAIN.replace(name="n", width=0.25, max_channels=1024),
    "s": _PLAIN.replace(name="s", max_channels=1024),
    "m": _PLAIN.replace(name="m", width=1.0, bottleneck_c3k=True),
    "l": _PLAIN.replace(name="l", depth=1.0, width=1.0, **_RESIDUAL),
    "x": _PLAIN.replace(name="x", depth=1.0, width=1.5, **_RESIDUAL),
    "n-anydepth": CONFIGS["n"].replace(name="n-anydepth", **_SCALED),
    "s-anydepth": CONFIGS["s"].replace(name="s-anydepth", **_SCALED),
    "tiny": CONFIGS["tiny"].replace(**_SCALED),
}
"""YOLOv12 without any-depth, as its authors scale it, and as those of AnyDepth-YOLO scale n and s.
At l and x the two agree."""

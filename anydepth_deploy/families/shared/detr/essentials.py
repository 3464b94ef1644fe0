"""What of a DETR always runs once it is trained to skip the rest; nothing of torch.

An any-depth network skips the refinement of a backbone stage or of the encoder; what remains, the
essential path, owns a second norm set for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anydepth_deploy.depth import Depth, DepthSpace, Gate

__all__ = [
    "Essentials",
    "depth_space",
    "essential_blocks",
    "essential_bottlenecks",
    "essential_layers",
    "rungs",
]


@dataclass(frozen=True)
class Essentials:
    """How many ``blocks`` of each backbone stage, and ``bottlenecks`` of each block of the encoder,
    always run. Where that is all of them, nothing is skipped."""

    blocks: tuple[int, ...]
    bottlenecks: int


def essential_blocks(blocks: int) -> int:
    """Of a ResNet stage, as AnyDepth-DETR has them; a stage of one block has nothing to skip."""
    return max(1, min(blocks - 1, (blocks + 1) // 2))


def essential_bottlenecks(count: int) -> int:
    """Of a block of the encoder: one of three, as in AnyDepth-DETR, and never none."""
    return max(1, (count + 1) // 2 - 1)


def essential_layers(count: int) -> int:
    """Decoder layers of base: two thirds, as AnyDepth-DETR's four of six, and no less than three
    where there are three."""
    return min(count, max(3, round(2 * count / 3)))


def depth_space(stages: Sequence[bool], encoder: bool, layers: int) -> DepthSpace:
    """The gates of a network some of whose backbone ``stages``, and whose ``encoder``, skip; names
    as in AnyDepth-DETR, ``backbone.layer1`` the first stage. ``layers``: of the decoder."""
    groups = [
        [Gate(f"backbone.layer{index}", 0) for index, skips in enumerate(stages, 1) if skips],
        [Gate("encoder", 0)] if encoder else [],
        [Gate("decoder", 0, layers=layers)],
    ]
    gates = tuple(
        Gate(gate.name, number, gate.layers)
        for number, group in enumerate(filter(None, groups))
        for gate in group
    )
    return DepthSpace(gates, (*[1] * (len(gates) - 1), essential_layers(layers)))


def rungs(space: DepthSpace) -> tuple[Depth, ...]:
    """Its default ladder: base; the encoder in full, since skipping it below a full backbone loses
    accuracy for nothing in AnyDepth-DETR (docs/ladders.md); the earlier half of the stages, then
    all of them; the whole decoder."""
    count = sum(gate.name.startswith("backbone.") for gate in space.gates)
    *skipped, layers = space.base.settings
    between = [
        space.depth([*[0] * full, *[1] * (count - full), *[0] * (len(skipped) - count), layers])
        for full in (0, (count + 1) // 2, count)
    ]
    return tuple(dict.fromkeys([space.base, *between, space.super]))

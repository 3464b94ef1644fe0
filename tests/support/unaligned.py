"""A trained network whose features do not fit together at mixed depths, as without alignment.

At base and at super it computes what it computed: where layer 1 of the backbone is skipped, its
output is larger by a constant factor, and layer 2 expects that where it is skipped itself. Both are
in the norms' second sets alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from trained_networks import CHECKPOINTS

from anydepth_deploy.checkpoints.checkpoint import read_checkpoint

__all__ = ["FACTOR", "STAGES", "write_unaligned"]

FACTOR = 4.0
STAGES = ("backbone.layer1", "backbone.layer2")
"""The gates that no longer fit."""


def write_unaligned(file: Path) -> Path:
    """Write the checkpoint of the trained AnyDepth-DETR with that change."""
    found = read_checkpoint(CHECKPOINTS["anydepth-detr"])
    state = dict(found.state)
    for path in ("bn3_skip", "downsample_skip"):  # relu(a x) = a relu(x)
        for name in ("weight", "bias"):
            key = f"backbone.layer1.0.{path}.{name}"
            state[key] = FACTOR * state[key]
    for path in ("bn1_skip", "downsample_skip"):
        mean, variance = (f"backbone.layer2.0.{path}.running_{name}" for name in ("mean", "var"))
        state[mean] = FACTOR * state[mean]
        state[variance] = FACTOR**2 * state[variance]
    torch.save({"model": state, "class_names": found.class_names}, file)
    return file

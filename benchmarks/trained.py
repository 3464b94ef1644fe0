"""The committed checkpoints: tiny networks trained on generated shapes, one a family."""

from __future__ import annotations

from pathlib import Path

from anydepth_deploy.families.registry import names

__all__ = ["CHECKPOINTS", "TRAINED", "checkpoint_of"]

CHECKPOINTS = Path(__file__).resolve().parent.parent / "anydepth_deploy" / "trained"


def checkpoint_of(family: str) -> Path:
    """Where the trained network of a family is."""
    return CHECKPOINTS / f"{family}-tiny-shapes.pth"


TRAINED = tuple(name for name in names() if checkpoint_of(name).is_file())
"""The families that have one."""

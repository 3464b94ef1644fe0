"""Tiny networks that were trained on generated shapes (docs/training.md), one a family: what the
demo shows, and what anything can be tried on. They are part of the installed package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FOLDER", "SUFFIX", "checkpoint_of"]

FOLDER = Path(__file__).parent

SUFFIX = "-tiny-shapes.pth"


def checkpoint_of(family: str) -> Path:
    """Where the trained network of ``family`` is, if there is one."""
    return FOLDER / f"{family}{SUFFIX}"

"""The callback that long work reports its steps to."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[str, int, int], None]
"""Called before each step with what it does, the number of steps done, and the total."""

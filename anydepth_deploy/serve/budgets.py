"""Budgets in milliseconds, as options, configurations and requests give them."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["AUTO", "budget_of", "is_auto"]

AUTO: Final = "auto"
"""The depth of requests that leave the choice to the router."""


def is_auto(depth: object) -> bool:
    """Whether ``depth`` means :data:`AUTO`, as lenient as names of depths are read."""
    return isinstance(depth, str) and depth.strip().lower() == AUTO


def budget_of(value: object) -> float | None:
    """Milliseconds that ``value``, a number or its text, means; None where it is no positive
    number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and found > 0 else None

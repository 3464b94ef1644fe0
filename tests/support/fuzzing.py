"""How many random inputs a test tries: few, always the same, but for ``make fuzz``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["FACTOR", "examples"]

FACTOR = int(os.environ.get("ANYDEPTH_EXAMPLES", "1"))
"""How many times as many as usual, and new ones each time where that is more than one."""


def examples(count: int) -> settings:
    """Settings of a test that tries ``count`` inputs, or that many times :data:`FACTOR`."""
    return settings(
        max_examples=count * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        # Files are written into one folder; some inputs are large.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )

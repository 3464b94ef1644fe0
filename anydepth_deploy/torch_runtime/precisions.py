"""What torch computes a checkpoint in; asked before torch is imported."""

from __future__ import annotations

from typing import Literal, get_args

from anydepth_deploy.errors import UsageError

__all__ = ["PRECISIONS", "Precision", "check_precision"]

Precision = Literal["fp32", "fp16", "bf16"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def check_precision(precision: str) -> None:
    """Raises :class:`UsageError` for a precision that torch does not compute a checkpoint in."""
    if precision not in PRECISIONS:
        raise UsageError(
            f"torch computes a checkpoint in {', '.join(PRECISIONS)}, not in '{precision}'"
        )

"""What the user says of convolutions that stay in float; needs no onnx, as deciding it does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anydepth_deploy.errors import UsageError

__all__ = ["MAX_ERROR", "MAX_RATIO", "KeepingRules"]

MAX_RATIO = 4.0
MAX_ERROR = 0.1


@dataclass(frozen=True)
class KeepingRules:
    """``max_ratio``: how far the range of a join (a tensor that enters a stage) may differ between
    depths, for a graph that holds several. ``max_error``: relative error (RMS) that rounding may
    make in what a convolution reads, at any depth of the graph. ``keep`` and ``quantise``:
    patterns of names that are kept in float or quantised whatever those say; ``keep`` wins.

    A pattern (``*``, ``?``) is matched with the name of a convolution (``layer1.full/Conv_3``), of
    its stage (``layer1``) or variant (``layer1.full``), and of the tensor it reads.
    """

    max_ratio: float = MAX_RATIO
    max_error: float = MAX_ERROR
    keep: tuple[str, ...] = ()
    quantise: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_ratio", "max_error"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise UsageError(
                    f"{name} is {value}: expected a finite number that is not negative"
                )

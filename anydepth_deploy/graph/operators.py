"""torch's exporter reads its library of operators anew for each graph, a second each: here once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

__all__ = ["operators_read_once"]


@contextlib.contextmanager
def operators_read_once() -> Iterator[None]:
    """What torch's exporter reads while this is open, it reads once.

    torch has no public way to hand a library over. Where it keeps it elsewhere than in the versions
    that were tried, nothing is changed, and exports take longer.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = vars(ONNXRegistry)["from_torchlib"]
        read = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError, KeyError):
        yield
        return
    known: dict[Any, Any] = {}

    def kept(*arguments: Any, **named: Any) -> Any:
        key = (arguments, tuple(sorted(named.items())))
        if key not in known:
            known[key] = read(*arguments, **named)
        found = copy.copy(known[key])
        # The exporter adds the caller's own translations to what it was given.
        found.functions = {name: list(entries) for name, entries in found.functions.items()}
        return found

    ONNXRegistry.from_torchlib = staticmethod(kept)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]

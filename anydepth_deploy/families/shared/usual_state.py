"""What a process may have set for itself, and what nothing of ours may hang on.

An application may compute in another default type, on another default device, under autocast, in
inference mode, or have NumPy raise where a number overflows. A network that is built, exported or
compared is the same in all of them: what does that is decorated, and the application finds what it
had set as it was.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["usual_arithmetic", "usual_state"]

DEVICES = ("cpu", "cuda")
"""Kinds of devices that networks are run on."""


@contextlib.contextmanager
def usual_arithmetic() -> Iterator[None]:
    """NumPy without words or errors about numbers: what is not finite is looked for where it
    matters. A decorator as well; needs no torch."""
    with np.errstate(all="ignore"):
        yield


@contextlib.contextmanager
def usual_state() -> Iterator[None]:
    """torch as it is when it was just imported, and :func:`usual_arithmetic`: float32 and the CPU
    by default, gradients recorded, no autocast, no inference mode. A decorator as well.

    Everything but the default type is a matter of this thread; that one is of the process, and
    other threads see float32, too, until the last of those that asked for it is done.
    """
    import torch

    with contextlib.ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(_DTYPE)
        # Entered where it is needed: each of them costs something at every operator.
        if not _on_cpu(torch):
            stack.enter_context(torch.device("cpu"))
        for kind in DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        yield


def _on_cpu(torch: Any) -> bool:
    try:
        return bool(torch.get_default_device().type == "cpu")
    # One that this machine does not have; torch 2.8: one that was set and taken back.
    except (AssertionError, RuntimeError, AttributeError):
        return False


class _DefaultType:
    """float32 as torch's default type, while anyone is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: Any = None

    def __enter__(self) -> None:
        torch: Any = sys.modules["torch"]
        with self._lock:
            found = torch.get_default_dtype()
            if self._inside == 0 or found != torch.float32:
                self._before = found  # also where the application has changed it meanwhile
                if found != torch.float32:
                    torch.set_default_dtype(torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        torch: Any = sys.modules["torch"]
        with self._lock:
            self._inside -= 1
            # Not where the application has chosen another one meanwhile.
            if self._inside == 0 and torch.get_default_dtype() == torch.float32:
                torch.set_default_dtype(self._before)


_DTYPE = _DefaultType()

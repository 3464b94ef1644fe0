"""Ctrl-C and SIGTERM in a training run: the step is finished, its state written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Stop", "StoppedTraining", "stopping"]


class StoppedTraining(KeyboardInterrupt):
    """A run that was interrupted, after its state was written to ``path``."""

    def __init__(self, step: int, path: Path) -> None:
        super().__init__(f"stopped after step {step}; {path} holds it: --resume goes on")
        self.step, self.path = step, path


class Stop:
    """Whether somebody asked for the end."""

    asked = False

    def __call__(self, number: int, frame: object) -> None:
        if self.asked:  # a second time: at once
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Take Ctrl-C and SIGTERM as a wish to end after this step; in threads they are not ours."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Who may use what a runtime has opened: the process that opened it, until it is closed.

Threads of a runtime do not survive a fork, and a child that waits for them waits forever; device
memory that one thread gives back while another computes with it is somebody else's. Both are found
here, before a runtime is called.
"""

from __future__ import annotations

import os
import threading
from collections import Counter

from anydepth_deploy.errors import UsageError

__all__ = ["Use", "not_portable"]


class Use:
    """A context manager around every call of what was opened; ``what`` it is called in messages.

    May be entered by several threads at once, and again by a thread that is inside. Entering raises
    :class:`UsageError` in a process forked from the one that opened it, and once it is closed.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()
        self._idle = threading.Condition()
        self._running: Counter[int] = Counter()
        self._closed = False

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                f"{self._what} was opened by process {self._process}, from which this one, "
                f"{os.getpid()}, was forked, and the runtime's threads do not survive that: open "
                "the bundle again in each process"
            )
        with self._idle:
            if self._closed:
                raise UsageError(f"{self._what} is closed: open the bundle again")
            self._running[threading.get_ident()] += 1

    def __exit__(self, *_: object) -> None:
        own = threading.get_ident()
        with self._idle:
            self._running[own] -= 1
            if not self._running[own]:
                del self._running[own]
                self._idle.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def end(self) -> bool:
        """Let nobody begin any more, and wait for those who have begun; whether there is something
        to give back: once, and only in the process that opened it.

        Raises :class:`UsageError` where this very thread is inside (as in the handler of a signal),
        since it would wait for itself.
        """
        if os.getpid() != self._process:
            return False
        own = threading.get_ident()
        with self._idle:
            if own in self._running:
                raise UsageError(
                    f"{self._what} cannot be closed while this thread runs it: close it when the "
                    "call has returned"
                )
            first, self._closed = not self._closed, True
            self._idle.wait_for(lambda: not self._running)
        return first


def not_portable(what: str) -> UsageError:
    """What pickling or copying something opened raises."""
    return UsageError(
        f"{what} cannot be pickled or copied, since a runtime has opened it in this process: send "
        "the path of what it was opened from, and open that where it is used"
    )

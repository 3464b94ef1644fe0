"""How many images are under way at once."""

from __future__ import annotations

import threading

__all__ = ["Places"]


class Places:
    """``count`` places, one for each image that is under way.

    Requests and not images were counted once, so that few large requests took as much memory as
    many small ones times their size. May be used from several threads; who waits is let in when
    there is room for all of its images, so :meth:`take` is for one thread that asks in order.
    """

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._changed = threading.Condition()

    def take(self, images: int) -> int:
        """Wait for places for so many images; returns how many were taken: at least one, and all
        of them where there are more images than places."""
        taken = min(max(images, 1), self._count)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        return taken

    def give(self, taken: int) -> None:
        """Give places back."""
        with self._changed:
            self._free += taken
            self._changed.notify_all()

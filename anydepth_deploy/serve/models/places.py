"""How many images there are at once."""

from __future__ import annotations

import threading

__all__ = ["Places"]


class Places:
    """``count`` places, one for each image: requests bring one or many, and what they take is the
    memory of their images. May be used from several threads.

    A request with more images than there are places takes all of them, alone.
    """

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._changed = threading.Condition()

    def take(self, images: int) -> int:
        """Wait for places for so many images; returns how many were taken. For one thread that
        asks in order: of several, a large request might wait for ever."""
        taken = self._wanted(images)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        return taken

    def try_take(self, images: int) -> int:
        """The same without waiting: 0 where there is no room for all of them."""
        taken = self._wanted(images)
        with self._changed:
            if self._free < taken:
                return 0
            self._free -= taken
        return taken

    def give(self, taken: int) -> None:
        """Give places back."""
        with self._changed:
            self._free += taken
            self._changed.notify_all()

    def _wanted(self, images: int) -> int:
        return min(max(images, 1), self._count)

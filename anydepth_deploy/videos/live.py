"""Frames of a source that does not wait: the newest one, whatever became of those before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Newest"]

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """Reads ``open_items()`` in a thread of its own, and gives each time what came last: items that
    nobody asked for in time are let go.

    Iteration ends, or raises, as that of the items does, after the last of them. :meth:`close` ends
    the thread; it waits for the item that is on its way.
    """

    def __init__(self, open_items: Callable[[], Iterator[Item]]) -> None:
        self._open = open_items
        self._changed = threading.Condition()
        self._newest: list[Item] = []
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="anydepth-live", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            items = self._open()
            for item in items:
                with self._changed:
                    self._newest = [item]
                    self._changed.notify_all()
                    if self._stopped:
                        break
            close = getattr(items, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._newest or self._ended)
                    if not self._newest:
                        break
                    item = self._newest.pop()
                yield item
                del item
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        with self._changed:
            self._stopped = True
        self._thread.join()

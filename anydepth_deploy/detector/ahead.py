"""Work on items ahead of whoever takes the results, in threads, in order, within a bound."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["mapped"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, workers: int = 1
) -> Iterator[Result]:
    """``function`` of each of ``items``, in order.

    ``ahead``: how many may be under way or ready before they are asked for; 0 does everything in
    the thread that asks, when it asks. Otherwise ``items`` are iterated over in a thread of their
    own and ``function`` runs in ``workers`` others. What either raises is raised in its place in
    the order. Closed early, it waits for what is under way and leaves no thread.
    """
    if not ahead:
        yield from map(function, items)
        return
    slots = threading.Semaphore(ahead)
    stopped = threading.Event()
    ready: queue.SimpleQueue[Future[Result] | BaseException | None] = queue.SimpleQueue()
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="anydepth-prepare")

    def feed() -> None:
        try:
            while slots.acquire() and not stopped.is_set():
                try:
                    item = next(source)
                except StopIteration:
                    break
                ready.put(pool.submit(function, item))
                del item  # or it would stay until the next one is there
        except BaseException as error:
            ready.put(error)
        finally:
            ready.put(None)

    feeder = threading.Thread(target=feed, name="anydepth-read", daemon=True)
    feeder.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            result = found.result()
            del found
            slots.release()
            yield result
            del result
    finally:
        stopped.set()
        slots.release()
        feeder.join()
        pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(source, "close", None)
        if close is not None:
            with contextlib.suppress(RuntimeError):  # it is running: what it raised is on its way
                close()

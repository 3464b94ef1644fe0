"""A file system of fsspec below a folder, as an object store is one: nothing of it is a path of
this machine. Whoever opens a name with ``deadly`` in it is killed, as often as it is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

__all__ = ["KillingStore"]


class KillingStore(DirFileSystem):  # type: ignore[misc]  # fsspec has no types
    """``times``: a folder beside the store, where the deaths are counted."""

    cachable = False

    def __init__(self, folder: str, deaths: str, times: int = 0) -> None:
        super().__init__(folder, LocalFileSystem())
        self.deaths, self.times = deaths, times

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.deaths, self.times)

    def _open(self, path: str, *args: Any, **options: Any) -> Any:
        return self.open(path, *args, **options)

    def open(self, path: str, *args: Any, **options: Any) -> Any:
        counted = Path(self.deaths)
        if "deadly" in path and len(list(counted.iterdir())) < self.times:
            (counted / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(path, *args, **options)

"""Files that others name: regular ones, or what links lead to; nothing that never ends.

A pipe keeps its reader waiting for a writer, a device has no end. Model caches and mounted volumes
consist of links, so these are followed.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

__all__ = ["NoFileError", "TooLargeError", "kind_of_file", "open_regular", "read_regular"]

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What else a name may lead to; the C++ library calls them so, too."""


class NoFileError(OSError):
    """A name that leads to something else than a file; its text says to what."""


class TooLargeError(OSError):
    """A file with more bytes than the reader takes."""


def kind_of_file(path: str | Path) -> str | None:
    """What is there in the place of a file (``a folder``, ``a pipe``); None for a file.

    Raises :class:`OSError` where there is nothing.
    """
    return _kind(Path(path).stat())


def open_regular(path: str | Path) -> io.BufferedReader:
    """The file ``path``, open for reading, links followed.

    Raises :class:`NoFileError` for a folder, a pipe, a socket or a device, without waiting for any
    of them, and :class:`OSError` as ``open`` does.
    """
    try:
        _check(Path(path).stat())  # to open a device may already do something
    except ValueError as error:  # a zero in the name
        raise NoFileError(f"it is no name of a file: {error}") from None
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()))  # what is there may have changed meanwhile
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | Path, most: int | None = None) -> bytes:
    """The bytes of the file ``path``, at most ``most``.

    Raises :class:`TooLargeError` for more, before they are in memory, and as :func:`open_regular`.
    """
    with open_regular(path) as file:
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise TooLargeError(f"it has more than {most} bytes")
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind(found: os.stat_result) -> str | None:
    if stat.S_ISREG(found.st_mode):
        return None
    return KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def _check(found: os.stat_result) -> None:
    kind = _kind(found)
    if kind is not None:
        raise NoFileError(f"it is {kind}, expected a file")

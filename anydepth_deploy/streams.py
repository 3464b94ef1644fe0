"""Standard output and error that take any text, whatever a process was started with.

They may be closed (``>&-``), which Python tells as ``sys.stdout is None``; their encoding may lack
a letter; whoever reads them may have gone away. None of that is a reason to lose work.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

__all__ = ["errors", "output", "usable_streams"]


def output() -> TextIO:
    """Standard output, or what takes its place where there is none."""
    return _or_nothing(sys.stdout)


def errors() -> TextIO:
    """Standard error, or what takes its place where there is none."""
    return _or_nothing(sys.stderr)


@contextlib.contextmanager
def usable_streams() -> Iterator[Callable[[int], int]]:
    """While this is open, writing to ``sys.stdout`` and ``sys.stderr`` never fails; afterwards both
    are what they were.

    What their encoding lacks is written as ``\\u65e5``. Once nobody reads a stream any more, or its
    disk is full, the rest is let go, since the work is worth more than what is said of it.

    Gives a function that is to be called at the end, with the exit status that would be: it returns
    the one to exit with, which is 2 where standard output could not be written, with a line on
    standard error. That a reader has gone is no failure.
    """
    _fill_descriptors()
    with contextlib.ExitStack() as stack:
        targets: dict[str, _Tolerant] = {}
        for name in ("stdout", "stderr"):
            found = getattr(sys, name)
            if _is_missing(found):
                nothing = stack.enter_context(
                    Path(os.devnull).open("w", encoding="utf-8", errors="backslashreplace")
                )
                setattr(sys, name, nothing)
                stack.callback(setattr, sys, name, found)
            elif isinstance(found, io.TextIOWrapper):
                found.flush()
                targets[name] = _Tolerant(found)
                setattr(sys, name, _over(targets[name], found))
                stack.callback(setattr, sys, name, found)
                stack.callback(getattr(sys, name).detach)  # with a last flush

        def ended(status: int) -> int:
            sys.stdout.flush()
            failure = targets["stdout"].failure if "stdout" in targets else None
            if status or failure is None or isinstance(failure, BrokenPipeError):
                return status
            reason = failure.strerror or failure
            print(f"error: standard output cannot be written: {reason}", file=sys.stderr)
            return 2

        yield ended


class _Tolerant(io.BufferedIOBase):
    """Writes to where ``stream`` does until that fails, and lets everything go from then on."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        self._attempt(lambda: self._stream.buffer.write(data))
        return len(data)

    def flush(self) -> None:
        self._attempt(self._stream.buffer.flush)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _attempt(self, write: Callable[[], object]) -> None:
        if self.failure is None:
            try:
                write()
            except OSError as error:
                self.failure = error
                _abandon(self._stream)


def _over(target: _Tolerant, stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A stream of text like ``stream`` that takes any."""
    unicode = stream.encoding.lower().startswith("utf")
    refuses = stream.errors == "strict" or (stream.errors == "surrogateescape" and not unicode)
    return io.TextIOWrapper(
        # It asks for nothing that the type of its buffer has and this one has not.
        cast(Any, target),
        encoding=stream.encoding,
        errors="backslashreplace" if refuses else stream.errors,
        line_buffering=stream.line_buffering,
    )


def _fill_descriptors() -> None:
    """Open what was closed among 0, 1 and 2: the next file would get its number, and what a library
    prints would end up in that file."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:  # the lowest that is free
                os.set_inheritable(number, True)
            else:
                os.close(opened)


def _is_missing(stream: Any) -> bool:
    return stream is None or bool(getattr(stream, "closed", False))


def _or_nothing(stream: TextIO | None) -> TextIO:
    return io.StringIO() if stream is None or _is_missing(stream) else stream


def _abandon(stream: Any) -> None:
    """Let what cannot be written go, or Python would try once more at its end, and say so."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

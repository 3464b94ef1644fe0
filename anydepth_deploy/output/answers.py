"""The JSON document of a command: one object on standard output, whatever happens after it is made.

Light to import, since the list of commands needs it to answer bad options.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from anydepth_deploy import streams
from anydepth_deploy.errors import readable_all

__all__ = ["SCHEMA_VERSION", "Answer", "answering", "put", "wants_json"]

SCHEMA_VERSION = 1
"""Of documents whose command says no other. It rises when a key goes, or means something else; new
keys do not raise it."""


class Answer:
    """What a command says to machines: its document, and the error that it ended with."""

    def __init__(self) -> None:
        self.content: Mapping[str, Any] | None = None
        self._error: dict[str, Any] | None = None

    def fail(self, kind: str, message: str, status: int) -> None:
        """The command ends with ``status``; ``kind``: the name of the error's class."""
        self._error = {"kind": kind, "message": message, "exit_status": status}

    def write(self, wanted: bool) -> None:
        """Print the document, the error in it; an error alone only where JSON is ``wanted``."""
        if self.content is None and not (wanted and self._error):
            return
        error = {} if self._error is None else {"error": self._error}
        _write({**(self.content or {}), **error})


_under_way: list[Answer] = []
"""The command that runs, if one does."""


@contextlib.contextmanager
def answering(*, wanted: bool) -> Iterator[Answer]:
    """While this is open, what is :func:`put` is kept; it is printed at the end, together with the
    error that ended the command. ``wanted``: whether the command line asks for JSON."""
    answer = Answer()
    _under_way.append(answer)
    try:
        yield answer
    finally:
        _under_way.pop()
        answer.write(wanted)


def put(content: Mapping[str, Any]) -> None:
    """Answer with ``content``, behind a ``schema_version``: at the end of the command that runs, at
    once where none does. What is not finite becomes null, and names that are not UTF-8 are
    escaped."""
    if not _under_way:
        _write(content)
        return
    answer = _under_way[-1]
    assert answer.content is None, "a command has one document"
    answer.content = content


def wants_json(words: list[str]) -> bool:
    """Whether a command line asks for JSON, as far as its words tell before they are understood."""
    options = words[: words.index("--")] if "--" in words else words
    return bool({"--json", "--format=json"} & {*options}) or ("--format", "json") in pairwise(
        options
    )


def _write(content: Mapping[str, Any]) -> None:
    whole = {"schema_version": SCHEMA_VERSION, **content}
    finite = json.loads(json.dumps(readable_all(whole)), parse_constant=lambda _: None)
    stream = streams.output()
    json.dump(finite, stream, indent=2)
    stream.write("\n")

"""Which tests are slow: ``tests/pace.txt`` says it in one place, by the clock.

``make test`` leaves out what is marked ``slow``, ``make test-quick`` what is marked ``long`` too,
``make fuzz`` runs what is marked ``fuzz`` with many more random inputs. Files that are named
``first`` are: what takes minutes must not begin when all else is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

__all__ = ["first", "mark", "order", "read"]

EXPORTED = {"bundle", "bundle_copy", "_exported", "yolo_bundle", "yolo_pieces"}
"""Fixtures that export a network."""

FILE = Path(__file__).resolve().parents[1] / "pace.txt"


def _lines(file: Path) -> list[tuple[str, str]]:
    lines = (line.partition("#")[0].split(maxsplit=1) for line in file.read_text().splitlines())
    return [(word, name.strip()) for word, name in filter(None, lines)]


def read(file: Path = FILE) -> dict[str, str]:
    """The mark for each name: of a file, of a test, or of a test with its parameters."""
    return {name: word for word, name in _lines(file) if word != "first"}


def first(file: Path = FILE) -> list[str]:
    """The files to begin with, the longest first."""
    return [name for word, name in _lines(file) if word == "first"]


def order(items: list[pytest.Item]) -> None:
    """Sort ``items``: the files to begin with, then the rest as they were."""
    places = {name: place for place, name in enumerate(first())}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def mark(items: Iterable[pytest.Item], *, whole: bool) -> None:
    """Mark ``items``; where they are all there are (``whole``), a line that names none is wrong."""
    words = read()
    files: set[str] = set()
    used: set[str] = set()
    for item in items:
        name = item.nodeid
        files.add(name.partition("::")[0])
        for known in (name, name.partition("[")[0], name.partition("::")[0]):
            if known in words:
                used.add(known)
                item.add_marker(words[known])
        if EXPORTED & set(getattr(item, "fixturenames", ())):
            item.add_marker("long")
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")
    lost = sorted(({*words} - used) | ({*first()} - files))
    if whole and lost:
        raise pytest.UsageError(f"{FILE.name} names no test: {', '.join(lost[:5])}")

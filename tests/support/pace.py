"""Which tests are slow: ``tests/pace.txt`` says it in one place, by the clock.

``make test`` leaves out what is marked ``slow``, ``make test-quick`` what is marked ``long`` too,
``make fuzz`` runs what is marked ``fuzz`` with many more random inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

__all__ = ["mark", "read"]

EXPORTED = {"bundle", "bundle_copy", "_exported", "yolo_bundle", "yolo_pieces"}
"""Fixtures that export a network."""

FILE = Path(__file__).resolve().parents[1] / "pace.txt"


def read(file: Path = FILE) -> dict[str, str]:
    """The word for each name: of a file, of a test, or of a test with its parameters."""
    lines = (line.partition("#")[0].split(maxsplit=1) for line in file.read_text().splitlines())
    return {name.strip(): word for word, name in filter(None, lines)}


def mark(items: Iterable[pytest.Item], *, whole: bool) -> None:
    """Mark ``items``; where they are all there are (``whole``), a line that names none is wrong."""
    words = read()
    used: set[str] = set()
    for item in items:
        name = item.nodeid
        for known in (name, name.partition("[")[0], name.partition("::")[0]):
            if known in words:
                used.add(known)
                item.add_marker(words[known])
        if EXPORTED & set(getattr(item, "fixturenames", ())):
            item.add_marker("long")
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")
    if whole and (lost := sorted(set(words) - used)):
        raise pytest.UsageError(f"{FILE.name} names no test: {', '.join(lost[:5])}")

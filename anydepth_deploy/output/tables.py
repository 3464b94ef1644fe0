"""How a table meets a width: no word, number or name is ever broken.

It is drawn as it is where it fits, with cells over several lines where their words allow that, in
parts one below the other where its columns do not, and as a list where not even two of them do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len

__all__ = ["Line", "lay_out", "wrapped"]

GAP = 2
"""Letters between two columns."""

EDGE = 1
"""And beside the first and the last."""

BREAK = re.compile(
    r"(?<![-+±~<>≤≥]) +(?!(?:%|[GMkK]?B|[GMT]|[mµn]?s|°C|[JW]|MHz)(?:[\s,;)]|$))(?![^\[\]]*\])"
)
"""Where a line may end: at spaces, but not between a number and its unit, or behind a sign."""


@dataclass(frozen=True)
class Line:
    """A line of a table, and what it is."""

    text: str
    kind: Literal["head", "rule", "row"]


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells, as far as its words allow."""
    lines: list[str] = []
    for word in _words(text):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def lay_out(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    width: int,
    keys: int = 1,
) -> list[Line]:
    """The lines of a table, none of them beyond ``width`` cells unless a single word is.

    ``columns``: names; lines in them end with a line feed. ``rows``: their cells. ``numeric``:
    which columns are aligned to the right. ``keys``: how many of the first columns name a row, and
    are in each part of a table that is drawn in parts.
    """
    cells = [[name, *(row[place] for row in rows)] for place, name in enumerate(columns)]
    least = [max(cell_len(word) for text in column for word in _words(text)) for column in cells]
    most = [max(cell_len(line) for text in column for line in text.split("\n")) for column in cells]
    parts = _parts(least, width, keys)
    if parts is None:
        return [*_listed(columns, rows)]
    lines: list[Line] = []
    for part in parts:
        sizes = _sizes([least[place] for place in part], [most[place] for place in part], width)
        if lines:
            lines.append(Line("", "row"))
        lines += _drawn([cells[place] for place in part], sizes, [numeric[place] for place in part])
    return lines


def _words(text: str) -> list[str]:
    """What stays together."""
    return [word for line in text.split("\n") for word in BREAK.split(line.strip())] or [""]


def _total(sizes: Sequence[int]) -> int:
    return sum(sizes) + GAP * (len(sizes) - 1) + 2 * EDGE


def _parts(least: Sequence[int], width: int, keys: int) -> list[list[int]] | None:
    """The places of the columns of each part; None where a part has no room for one beside the
    keys."""
    every = [*range(len(least))]
    if _total(least) <= width or len(every) < 2:
        return [every]
    first = every[:keys]
    parts: list[list[int]] = []
    for place in every[keys:]:
        if parts and _total([least[one] for one in (*parts[-1], place)]) <= width:
            parts[-1].append(place)
        elif _total([least[one] for one in (*first, place)]) <= width:
            parts.append([*first, place])
        else:
            return None
    return parts or None


def _sizes(least: Sequence[int], most: Sequence[int], width: int) -> list[int]:
    """Widths of columns: the widest are cut to one measure until all fit."""
    if _total(most) <= width:
        return [*most]

    def cut(limit: int) -> list[int]:
        return [max(low, min(high, limit)) for low, high in zip(least, most, strict=True)]

    limit = max(most)
    while limit > 0 and _total(cut(limit)) > width:
        limit -= 1
    sizes = cut(limit)
    for place, high in enumerate(most):  # what rounding left
        more = min(high - sizes[place], width - _total(sizes))
        sizes[place] += max(0, more)
    return sizes


def _drawn(
    cells: Sequence[Sequence[str]], sizes: Sequence[int], numeric: Sequence[bool]
) -> Iterator[Line]:
    pairs = [*zip(cells, sizes, strict=True)]
    for row in range(len(cells[0])):
        fitted = [
            [line for part in column[row].split("\n") for line in wrapped(part, size)]
            for column, size in pairs
        ]
        height = max(map(len, fitted))
        if row == 0:  # names stand on the rule
            fitted = [[""] * (height - len(lines)) + lines for lines in fitted]
        for number in range(height):
            texts = [lines[number] if number < len(lines) else "" for lines in fitted]
            padded = [
                " " * (size - cell_len(text)) + text
                if right
                else text + " " * (size - cell_len(text))
                for text, size, right in zip(texts, sizes, numeric, strict=True)
            ]
            line = f"{' ' * EDGE}{(' ' * GAP).join(padded)}".rstrip()
            yield Line(line, "row" if row else "head")
        if row == 0:
            yield Line(" " * EDGE + "─" * (_total(sizes) - 2 * EDGE), "rule")


def _listed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Line]:
    """A row after the other, a line for each of its cells."""
    for number, row in enumerate(rows):
        if number:
            yield Line("", "row")
        for place, (name, cell) in enumerate(zip(columns, row, strict=True)):
            label = f"{' '.join(name.split())}: " if name.strip() else ""
            indent = " " * EDGE if place == 0 else " " * (EDGE + 2)
            yield Line(f"{indent}{label}{cell}", "row")

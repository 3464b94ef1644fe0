"""Objects from the text files of the YOLO format, and what is odd about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.reading.regular import read_regular
from anydepth_deploy.train.data.detection_set import Objects

__all__ = ["read_lines"]

MOST_BYTES = 1 << 24
"""Of one picture's file: outlines of some thousand objects are less."""

SLACK = 0.01
"""Share of a side by which a box may reach beyond its picture without being counted."""

EXPECTED = "expected class cx cy width height in shares of the picture, 0 to 1"


class _Odd:
    """Lines with something wrong, by kind: how many, and the first."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.firsts: dict[str, str] = {}

    def add(self, kind: str, path: Path, line: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.firsts.setdefault(kind, f"{shorten([line[:80]])} in {shorten([path])}")


TOLD = {
    "malformed": "are no class and four or more numbers",
    "unknown class": "have a class that the names do not go up to",
    "empty": "have a width or height of 0, or below",
    "outside": "lie outside the picture",
    "twice": "repeat another one of the picture",
    "beyond the edge": "reach beyond the picture, and are clipped to it",
}
"""What follows "N of M lines"; all but the last kind are left out."""


def read_lines(
    source: Path, files: Sequence[Path], classes: int, *, poses: bool = False
) -> tuple[Objects, list[Finding]]:
    """The objects of all pictures, boxes in shares of their sides, and a finding for each kind of
    odd lines; ``files`` are the pictures' own, some of which may not exist.

    ``poses``: each line has points after its box, which are not read. Raises :class:`ImageError`
    for a file that is there and cannot be read, and where more than half of the lines are wrong.
    """
    odd = _Odd()
    owners, labels, boxes = list[int](), list[int](), list[tuple[float, float, float, float]]()
    lines = missing = 0
    for owner, path in enumerate(files):
        text = _text(path)
        missing += text is None
        seen = set[tuple[float, ...]]()
        for line in (text or "").splitlines():
            if not (words := line.split()):
                continue
            lines += 1
            found = _read(words, classes, poses=poses)
            if isinstance(found, str):
                odd.add(found, path, line)
                continue
            if found in seen:
                odd.add("twice", path, line)
                continue
            seen.add(found)
            label, x1, y1, x2, y2 = found
            if min(x1, y1) < -SLACK or max(x2, y2) > 1 + SLACK:
                odd.add("beyond the edge", path, line)
            owners.append(owner)
            labels.append(int(label))
            boxes.append((x1, y1, x2 - x1, y2 - y1))
    if missing == len(files):
        raise ImageError(
            f"data set {source}: none of its {missing} pictures has a file of objects, expected "
            f"{shorten([files[0]])} for the first: the folder labels is to be beside images"
        )
    _refuse(source, odd, lines)
    kept = np.array(boxes, np.float64).reshape(-1, 4)
    sides = kept[:, 2:]
    objects = Objects(
        np.array(owners, np.int64),
        kept,
        np.array(labels, np.int64),
        np.zeros(len(kept), np.bool_),
        sides[:, 0] * sides[:, 1],
    )
    findings = [
        Finding(kind, odd.counts[kind], lines, _line(kind, odd, lines))
        for kind in TOLD
        if kind in odd.counts
    ]
    if missing:
        text = (
            f"{missing} of {len(files)} pictures {'has' if missing == 1 else 'have'} no file of "
            "objects: taken as background"
        )
        findings.append(Finding("no labels", missing, len(files), text))
    return objects, findings


def _line(kind: str, odd: _Odd, lines: int) -> str:
    return f"{odd.counts[kind]} of {lines} lines {TOLD[kind]}; the first: {odd.firsts[kind]}"


def _refuse(source: Path, odd: _Odd, lines: int) -> None:
    if odd.counts and 2 * sum(odd.counts.values()) > lines:
        worst = max(odd.counts, key=lambda kind: odd.counts[kind])
        raise ImageError(f"data set {source}: {_line(worst, odd, lines)}; {EXPECTED}")


def _text(path: Path) -> str | None:
    """What a file says; None where there is none."""
    try:
        return read_regular(path, MOST_BYTES).decode("utf-8-sig", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ImageError(
            f"objects of a picture, {path}, cannot be read: {error}; let it be read, or remove it"
        ) from None


def _read(
    words: Sequence[str], classes: int, *, poses: bool
) -> tuple[float, float, float, float, float] | str:
    """Class and corners of a line, or what is wrong with it."""
    outline = not poses and len(words) >= 7
    if len(words) < 5 or (len(words) % 2 == 0 and not poses):
        return "malformed"
    try:
        label, *numbers = map(float, words if outline else words[:5])
    except ValueError:
        return "malformed"
    if not all(map(math.isfinite, (label, *numbers))) or label < 0 or label != int(label):
        return "malformed"
    if label >= classes:
        return "unknown class"
    if outline:
        across, down = numbers[::2], numbers[1::2]
        x1, y1, x2, y2 = min(across), min(down), max(across), max(down)
    else:
        x, y, width, height = numbers
        x1, y1, x2, y2 = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if not (x2 > x1 and y2 > y1):
        return "empty"
    if x1 >= 1 or y1 >= 1 or x2 <= 0 or y2 <= 0:
        return "outside"
    return label, x1, y1, x2, y2

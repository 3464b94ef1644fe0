"""Small files in which Linux tells of itself, below a root that a test can choose."""

from __future__ import annotations

import math
import re
from pathlib import Path

__all__ = ["CPU_FOLDER", "Tree", "UnreadableError"]

CPU_FOLDER = "/sys/devices/system/cpu"


class UnreadableError(Exception):
    """Why something cannot be read, in a few words."""


class Tree:
    """Files by their usual absolute paths, below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def text(self, path: str) -> str:
        """What the file says, stripped; never nothing. Raises :class:`UnreadableError`."""
        try:
            raw = self._path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise UnreadableError(f"no {path}") from None
        except OSError as error:
            raise UnreadableError(f"{path}: {error.strerror or type(error).__name__}") from None
        text = raw.decode("utf-8", errors="replace").strip(" \t\r\n\0")
        if not text:
            raise UnreadableError(f"{path} is empty")
        return text

    def number(self, path: str) -> float:
        """The finite number in the file. Raises :class:`UnreadableError`."""
        text = self.text(path)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UnreadableError(f"{path} says {text[:24]!a}")
        return value

    def write(self, path: str, text: str) -> None:
        """Overwrite the file. Raises :class:`OSError`."""
        self._path(path).write_text(text, encoding="ascii")

    def exists(self, path: str) -> bool:
        try:
            return self._path(path).exists()
        except OSError:
            return False

    def find(self, pattern: str) -> list[str]:
        """Paths that match, ``cpu2`` before ``cpu10``."""
        try:
            found = list(self._root.glob(pattern.lstrip("/")))
        except OSError:
            return []
        paths = ("/" + path.relative_to(self._root).as_posix() for path in found)
        return sorted(paths, key=_natural)

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")


def _natural(text: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    ]

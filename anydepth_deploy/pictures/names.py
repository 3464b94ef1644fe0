"""Files by the names that other machines gave them: backslashes, decomposed letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from anydepth_deploy.pictures.folders import is_file, is_folder

__all__ = ["Names"]


class Names:
    """Finds files in ``folder`` by names written elsewhere.

    A name is tried as it is; then with ``/`` for each backslash, as Windows writes paths; then by
    its normal form (NFC), since a Mac stores an accent as a character of its own and most others
    do not. Folders are listed once each, when that is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file that ``name``, relative to the folder, means; None where there is none."""
        spellings = list(dict.fromkeys([name, name.replace("\\", "/")]))
        for spelling in spellings:
            path = self._folder / spelling
            if is_file(path):
                return path
        for spelling in spellings:
            alike = self._alike(PurePosixPath(spelling).parts)
            if alike is not None:
                return alike
        return None

    def _alike(self, parts: Sequence[str]) -> Path | None:
        """A file whose path has these parts, or parts of the same normal forms."""
        waiting = [(self._folder, 0)] if parts else []
        while waiting:
            folder, depth = waiting.pop()
            part = parts[depth]
            same = self._listing(folder).get(unicodedata.normalize("NFC", part), [])
            paths = [folder / entry for entry in dict.fromkeys([part, *same])]
            if depth + 1 < len(parts):
                waiting += [(path, depth + 1) for path in reversed(paths) if is_folder(path)]
                continue
            for path in paths:
                if is_file(path):
                    return path
        return None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder by their normal form."""
        if folder not in self._listings:
            found: dict[str, list[str]] = {}
            try:
                names = sorted(path.name for path in folder.iterdir())
            except OSError:
                names = []
            for name in names:
                found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
            self._listings[folder] = found
        return self._listings[folder]

"""A font that has the letters of a name: Pillow's own, one that was named, or one of this machine.

Pillow's own font has the letters of western Europe. For all others fonts of the system are looked
through: fontconfig says which have the letters; where it is not there, files that systems bring.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont, features

from anydepth_deploy.errors import UsageError, first_line, shown

__all__ = ["Font", "Writing", "check_font"]

log = logging.getLogger("anydepth_deploy")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CAPTION = 60
"""Letters of a class's name at most: more would cover the picture."""

LACKING = "\U0010ffff"
"""No font has a letter of this number: Unicode gives it to none."""

JOINERS = "\u200c\u200d"
"""Say how letters are joined, and have no shape."""

KNOWN = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "SourceHanSans-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NanumGothic.ttf",
    "FreeSans.ttf",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "PingFang.ttc",
    "AppleSDGothicNeo.ttc",
    "segoeui.ttf",
    "msyh.ttc",
    "YuGothR.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "Nirmala.ttc",
    "LeelawUI.ttf",
)
"""Files that Linux, macOS and Windows bring, the plainest first."""

FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("%WINDIR%/Fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"),
}
ELSEWHERE = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")

FANCY = ("bold", "italic", "oblique", "mono", "light", "thin", "black", "condensed", "serif")

TRIED = 30
"""Fonts that are opened for one name, at most."""

SHAPED = ((0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x1A20, 0x1AAF))
"""Scripts of India and its neighbours, whose letters change with those beside them."""


def check_font(path: str | Path | None) -> None:
    """Raise :class:`UsageError` where ``path`` is not the file of a font."""
    if path is not None:
        try:
            ImageFont.truetype(str(path), 16)
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(f"font {path} cannot be read: {first_line(error)}") from None


class Writing:
    """Names of classes as they can be written in letters of ``size`` pixels. ``file``: of a font
    that is asked first."""

    def __init__(self, size: int, file: str | None = None) -> None:
        self._size = size
        self._file = file
        self._named = None if file is None else ImageFont.truetype(file, size)
        self.plain: Font = self._named or ImageFont.load_default(size=size)

    def of(self, name: str, label: int) -> tuple[str, Font]:
        """``name``, or what stands for it, and the font that has its letters: the name itself,
        without its accents, or as the number of the class, which is said once."""
        text = _cut(name)
        if text.strip():
            for font in self._fonts(text):
                if _has_all(font, text):
                    return text, font
            letters = unicodedata.normalize("NFKD", name)
            bare = _cut("".join(item for item in letters if not unicodedata.combining(item)))
            if bare.strip() and _has_all(self.plain, bare):
                return bare, self.plain
        number = f"class {label}"
        _say_once(shown(name), number)
        font = self.plain if _has_all(self.plain, number) else ImageFont.load_default(self._size)
        return number, font

    def _fonts(self, text: str) -> Iterator[Font]:
        yield self.plain
        if self._named is not None:
            yield ImageFont.load_default(size=self._size)
        if any(not letter.isprintable() and letter not in JOINERS for letter in text):
            return  # no font has these
        path = system_font(frozenset(text))
        if path is not None:
            yield ImageFont.truetype(path, self._size)


@functools.lru_cache(1024)
def _say_once(name: str, number: str) -> None:
    log.warning(
        "no font of this machine has the letters of the class '%s': drawn as '%s'; --font FILE "
        "(font=) names one that has",
        name,
        number,
    )


def _cut(text: str) -> str:
    return text if len(text) <= CAPTION else text[: CAPTION - 3] + "..."


def _has_all(font: Font, text: str) -> bool:
    if needs_shaping(text) and not features.check("raqm"):
        return False
    return all(_has(font, letter) for letter in text if letter not in JOINERS)


def needs_shaping(text: str) -> bool:
    """Whether letters depend on their neighbours, or run from right to left."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL")
        or any(first <= ord(letter) <= last for first, last in SHAPED)
        for letter in text
    )


def _has(font: Font, letter: str) -> bool:
    """Whether ``font`` draws ``letter``, and not the box that stands for what it lacks."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return letter.isprintable() and ord(letter) < 256  # Pillow's own, of Latin-1
    if letter == " ":
        return True
    return letter.isprintable() and _shape(font, letter) != _shape(font, LACKING)


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[object, bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.lru_cache(1024)
def system_font(letters: frozenset[str]) -> str | None:
    """The file of a font of this machine that has all of ``letters``; None where there is none."""
    tried = 0
    for path in _candidates(letters):
        tried += 1
        if tried > TRIED:
            break
        try:
            font = ImageFont.truetype(path, 16)
            if _has_all(font, "".join(sorted(letters))):
                return path
        except (OSError, ValueError, ImportError):  # bitmaps of one size, damaged files
            continue
    return None


def _candidates(letters: frozenset[str]) -> Iterator[str]:
    """Files of fonts, the likeliest first."""
    listed = _fontconfig(letters)
    yield from sorted(listed, key=_fanciness)
    files = _files()
    yield from (files[name.lower()] for name in KNOWN if name.lower() in files)


def _fanciness(path: str) -> tuple[int, int, str]:
    name = Path(path).name
    known = KNOWN.index(name) if name in KNOWN else len(KNOWN)
    return known, sum(word in name.lower() for word in FANCY), path


def _fontconfig(letters: frozenset[str]) -> list[str]:
    """Files of the fonts that fontconfig knows to have all of ``letters``."""
    program = shutil.which("fc-list")
    if program is None:
        return []
    wanted = " ".join(sorted(f"{ord(letter):x}" for letter in letters if letter not in JOINERS))
    try:
        found = subprocess.run(
            [program, "--format", "%{file}\n", f":charset={wanted}"],
            capture_output=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted({*os.fsdecode(found.stdout).splitlines()} - {""})


@functools.lru_cache(1)
def _files() -> dict[str, str]:
    """The files in the folders of fonts, by their names in lower case."""
    found: dict[str, str] = {}
    for folder in FOLDERS.get(sys.platform, ELSEWHERE):
        for place, _, names in os.walk(os.path.expandvars(Path(folder).expanduser())):
            for name in names:
                found.setdefault(name.lower(), str(Path(place) / name))
    return found

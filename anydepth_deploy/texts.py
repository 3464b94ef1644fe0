"""Texts that people write by hand or with an editor: lists of class names, ladders."""

from __future__ import annotations

import codecs
from pathlib import Path

from anydepth_deploy.reading.regular import read_regular

__all__ = ["read_text"]

MOST = 1 << 24
"""Bytes; more than anybody writes by hand."""

MARK = "\ufeff"

CODECS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as the next one does
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""What a byte-order mark says of the text behind it."""


def read_text(path: Path) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 or UTF-32 where a byte-order mark says so.

    Marks are left out, also those that begin a later line, as in files that were joined. Every line
    ends with ``\n``. Raises :class:`OSError`, also for what is no file or larger than any such
    text, and :class:`UnicodeDecodeError`.
    """
    content = read_regular(path, MOST)
    codec = next((name for mark, name in CODECS if content.startswith(mark)), "utf-8")
    text = content.decode(codec).replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix(MARK).replace(f"\n{MARK}", "\n")

"""Tables that commands print are whole in narrow terminals, too."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from anydepth_deploy import console
from anydepth_deploy.output.tables import Line, lay_out

__all__ = ["hold_tables_whole", "pieces"]

WIDTHS = (60, 80, 100)


def pieces(text: str) -> list[str]:
    """What a reader must find in one line: words, numbers with their units, intervals."""
    return re.findall(r"\[[^\]]*\]|[\d.]+ [GM]\b|\S+", text)


def hold_tables_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every table is laid out for narrow terminals as well, and looked at."""

    def held(
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        numeric: Sequence[bool],
        width: int,
        keys: int = 1,
    ) -> list[Line]:
        for narrow in WIDTHS:
            lines = lay_out(columns, rows, numeric, narrow, keys)
            shown = "\n".join(line.text for line in lines)
            for cells in (columns, *rows) if rows else ():
                for piece in (piece for cell in cells for piece in pieces(cell)):
                    assert piece in shown, f"'{piece}' is broken at {narrow} letters:\n{shown}"
        return lay_out(columns, rows, numeric, width, keys)

    monkeypatch.setattr(console, "lay_out", held)

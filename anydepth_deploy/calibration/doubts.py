"""Whether pictures can calibrate a network at all: ranges of what they do not show are unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anydepth_deploy.calibration.table import RangeTable
from anydepth_deploy.errors import shorten
from anydepth_deploy.pictures.variety import Variety

__all__ = ["FEWEST", "doubts", "known_doubts", "warning"]

FEWEST = 16
"""Different pictures with something in them below which ranges are doubted."""

SHARE = 0.5
"""Of pictures of one colour, or equal to another, from which the histograms are about them."""


def doubts(variety: Variety) -> list[str]:
    """Why ranges from such pictures may be useless, a clause each; nothing where they are sound."""
    count = variety.count
    found = []
    if variety.flat >= SHARE * count:
        found.append(f"{variety.flat} of {count} are of one colour")
    if variety.repeated >= SHARE * count:
        found.append(f"{variety.repeated} of {count} equal another")
    if variety.telling < FEWEST:
        found.append(
            f"different ones that show something: {variety.telling}, at least {FEWEST} expected"
        )
    return found


def known_doubts(table: RangeTable) -> list[str]:
    """Those that ``table`` holds; of a table from before it held any, what its count tells."""
    if table.warnings or table.pictures.count >= FEWEST:
        return table.warnings
    return [f"in all: {table.pictures.count}, at least {FEWEST} expected"]


def warning(table: str | Path, reasons: Sequence[str]) -> str:
    """One line about the file of a range table."""
    return (
        f"range table {shorten([table])}: its pictures say little about those to come "
        f"({shorten(reasons)}), and INT8 made from it may find nothing: calibrate with pictures "
        "like those, 512 are a sound number"
    )

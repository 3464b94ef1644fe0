"""Which depth a request asks for: in inputs, in parameters, in several places that agree, or not
at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from anydepth_deploy.depth import DepthTable
from anydepth_deploy.errors import DepthError

__all__ = ["asked_row"]

Place = tuple[str, object]
"""Where something was said, for messages, and what."""


def asked_row(
    table: DepthTable,
    inputs: Mapping[str, object],
    parameters: Mapping[str, object],
    default: int,
) -> int:
    """The row of ``table`` that a request means.

    ``inputs`` and ``parameters`` may each hold ``depth`` (what :meth:`DepthTable.find` takes: text,
    of which digits are a row, or an integer) and ``row`` (an integer, or digits); what else they
    hold is not looked at. ``default``: the row where nothing is said.

    Raises :class:`DepthError` for a depth the model does not have, a value of another type, and
    places that do not agree.
    """
    places = [
        (f"{kind} '{name}'", given[name])
        for kind, given in (("input", inputs), ("parameter", parameters))
        for name in ("depth", "row")
        if name in given
    ]
    if not places:
        return default
    rows = [(place, table.row(_depth(place))) for place in places]
    if len({row for _, row in rows}) > 1:
        raise DepthError(
            f"the request names different depths: {_list(table, rows)}; give one, or the same"
        )
    return rows[0][1]


def _depth(place: Place) -> str | int:
    """What :meth:`DepthTable.row` takes."""
    where, value = place
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DepthError(
            f"{where} is {str(value)[:40]} ({type(value).__name__}): expected text like 'super' or "
            "'level:K', or a row"
        )
    if isinstance(value, int):
        return value
    if len(value) > 80 or not value.isprintable():  # whole in a message of one line otherwise
        raise DepthError(
            f"{where} is text of {len(value)} characters, which is no depth: {value[:40]!a}"
        )
    if where.endswith("'row'") and not re.fullmatch(r"-?[0-9]{1,9}", value.strip()):
        raise DepthError(f"{where} is '{value}': expected an integer; texts go in 'depth'")
    return value


def _list(table: DepthTable, rows: Iterable[tuple[Place, int]]) -> str:
    return ", ".join(
        f"{where} is '{value}' ({table.rows[row]}, row {row})" for (where, value), row in rows
    )

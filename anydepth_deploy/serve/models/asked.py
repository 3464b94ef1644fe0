"""Which depth a request asks for: in inputs, in parameters, in several places that agree, or not
at all; and within which budget, where the router is to choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from anydepth_deploy.depth import DepthTable
from anydepth_deploy.errors import DepthError
from anydepth_deploy.serve import names
from anydepth_deploy.serve.budgets import AUTO, budget_of, is_auto

__all__ = ["Asked", "asked_budget", "asked_depth"]

Asked = int | Literal["auto"]
"""A row of the depth table, or what leaves the choice to the router."""

Place = tuple[str, object]
"""Where something was said, for messages, and what."""


def asked_depth(
    table: DepthTable,
    inputs: Mapping[str, object],
    parameters: Mapping[str, object],
    default: Asked,
) -> Asked:
    """The row of ``table`` that a request means, or ``auto``.

    ``inputs`` and ``parameters`` may each hold ``depth`` (``auto``, or what
    :meth:`DepthTable.find` takes: text, of which digits are a row, or an integer) and ``row`` (an
    integer, or digits); what else they hold is not looked at. ``default``: where nothing is said.

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
    rows = [(place, _row(table, _depth(place))) for place in places]
    if len({row for _, row in rows}) > 1:
        raise DepthError(
            f"the request names different depths: {_list(table, rows)}; give one, or the same"
        )
    return rows[0][1]


def asked_budget(parameters: Mapping[str, object], default: float | None) -> float:
    """The milliseconds that a request at ``auto`` may take; ``default``: where it does not say.

    Raises :class:`DepthError` where nobody says, and for what is no positive number.
    """
    if names.BUDGET_MS not in parameters:
        if default is None:
            raise DepthError(
                f"depth '{AUTO}' needs a budget: give the request parameter '{names.BUDGET_MS}', "
                "or write the repository with --budget-ms"
            )
        return default
    value = parameters[names.BUDGET_MS]
    found = budget_of(value)
    if found is None:
        raise DepthError(
            f"parameter '{names.BUDGET_MS}' is {str(value)[:40]!a} ({type(value).__name__}): "
            "expected a positive number of milliseconds"
        )
    return found


def _row(table: DepthTable, depth: str | int) -> Asked:
    return AUTO if is_auto(depth) else table.row(depth)


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


def _list(table: DepthTable, rows: Iterable[tuple[Place, Asked]]) -> str:
    return ", ".join(
        f"{where} is '{value}'" + ("" if row == AUTO else f" ({table.rows[row]}, row {row})")
        for (where, value), row in rows
    )

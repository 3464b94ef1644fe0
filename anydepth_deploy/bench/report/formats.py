"""Merged results as text, Markdown, CSV and JSON."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anydepth_deploy.bench.report.facts import printable
from anydepth_deploy.bench.report.merge import ALWAYS, arrange, notes, raw_rows, report_table
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.console import print_line, print_table
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import ResultError, UsageError

__all__ = ["print_report", "to_csv", "to_json", "to_markdown", "write_report"]

STYLES = ("text", "markdown", "csv")

TITLE = "Latency by depth"

WIDTH = 140
"""Characters of a table in a log."""


def write_report(
    results: Sequence[BenchResult], style: str = "text", path: str | Path | None = None
) -> None:
    """Write the report as ``text``, ``markdown`` or ``csv``: into a file, whole or not at all, or
    on standard output where ``path`` is None.

    Raises :class:`UsageError` for another style, and :class:`ResultError` where there are no
    results or the file cannot be written.
    """
    if style not in STYLES:
        raise UsageError(f"unknown style '{style}': expected {' or '.join(STYLES)}")
    text = io.StringIO()
    if style == "text" and path is None:
        print_report(results)  # knows how wide the terminal is
        return
    if style == "text":
        with contextlib.redirect_stdout(text):
            print_report(results)
    else:
        text.write(to_csv(results) if style == "csv" else to_markdown(results))
    if path is None:
        sys.stdout.write(text.getvalue())
        return
    content = text.getvalue().encode()
    write_or_refuse(Path(path), lambda file: file.write(content), "report", ResultError)


def print_report(results: Sequence[BenchResult], title: str = TITLE) -> None:
    """The table and the notes on standard output. Raises :class:`ResultError` without results."""
    found = arrange(results)
    columns, rows = report_table(found)
    # Terminals are narrow: what is the same in all rows is said once, and what is the same in all
    # rows of a result has a table of its own where one is too wide.
    alike = [
        name
        for place, name in enumerate(columns)
        if name in ALWAYS and len({str(row[place]) for row in rows}) == 1
    ]
    names = [name for name in columns if name not in alike]
    start = names.index("depth")
    if _width(columns, rows, names) > WIDTH:
        _print_columns("Results", columns, rows, names[:start])
        names = [*(name for name in names[:start] if name in ("#", "network")), *names[start:]]
    _print_columns(title, columns, rows, names)
    if alike:
        words = (f"{name} {rows[0][columns.index(name)]}" for name in alike)
        print_line(f"All rows: {', '.join(words)}")
    for heading, lines in _grouped_notes(found):
        print_line(heading)
        for name, text in lines.items():
            print_line(f"  {name + ':':<10}{text}")


def to_markdown(results: Sequence[BenchResult], title: str = TITLE) -> str:
    """The same as a Markdown document. Raises :class:`ResultError` without results."""
    found = arrange(results)
    columns, rows = report_table(found)
    right = ("#", "multiply-adds", "p9", "median", "speed-up", "images/s", "AP", "J/image")
    rules = ["---:" if name.startswith(right) else "---" for name in columns]
    lines = [f"# {_markdown(title)}", "", _markdown_row(columns), f"| {' | '.join(rules)} |"]
    lines += [_markdown_row(row) for row in rows]
    for heading, parts in _grouped_notes(found):
        lines += ["", f"## {heading}", ""]
        lines += [f"- {name}: {_markdown(text)}" for name, text in parts.items()]
    return "\n".join(lines) + "\n"


def to_csv(results: Sequence[BenchResult]) -> str:
    """The raw rows with a header, lines ended by a line feed; empty where there is no figure."""
    rows = raw_rows(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        # No control characters: this may go to a terminal, and a bare return is no end of a row.
        writer.writerow([printable(v) if isinstance(v, str) else v for v in row.values()])
    return text.getvalue()


def to_json(results: Sequence[BenchResult]) -> dict[str, Any]:
    """Notes, boundaries, versions and raw rows as plain data for JSON; samples are left out."""
    found = arrange(results)
    return {
        "results": [
            {
                "number": number,
                "notes": notes(result),
                "boundaries": result.boundaries,
                "host": result.host.model_dump(mode="json"),
                "subject": result.subject.model_dump(mode="json"),
                "settings": result.settings.model_dump(mode="json"),
                "inputs": result.inputs.model_dump(mode="json"),
                "verdict": result.verdict.model_dump(mode="json"),
            }
            for number, result in enumerate(found, 1)
        ],
        "rows": raw_rows(found),
    }


def _grouped_notes(found: Sequence[BenchResult]) -> list[tuple[str, dict[str, str]]]:
    """The notes with their headings: those that hold of all results first, and only once."""
    every = [notes(result) for result in found]
    shared = {
        name: text
        for name, text in every[0].items()
        if len(every) > 1 and all(other.get(name) == text for other in every)
    }
    own = [
        (f"Result {number}", {name: text for name, text in one.items() if name not in shared})
        for number, one in enumerate(every, 1)
    ]
    return [*([("All results", shared)] if shared else []), *own]


def _width(columns: Sequence[str], rows: Sequence[Sequence[object]], names: Sequence[str]) -> int:
    """Of a table with some of the columns, in characters."""
    places = [columns.index(name) for name in names]
    return sum(2 + max(len(columns[p]), *(len(str(row[p])) for row in rows)) for p in places)


def _print_columns(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], names: Sequence[str]
) -> None:
    """Some columns of a table; rows that are the same in all of them once."""
    kept = [columns.index(name) for name in names]
    cells = dict.fromkeys(tuple(row[place] for place in kept) for row in rows)
    heads = [name.replace("multiply-adds", "MACs") for name in names]
    keys = names.index("depth") + 1 if "depth" in names else 1
    print_table(title, heads, [list(row) for row in cells], keys=keys)


def _markdown(text: str) -> str:
    for mark in "\\|<*`":
        text = text.replace(mark, "\\" + mark)
    return text.replace("](", "]\\(")


def _markdown_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_markdown(str(cell)) for cell in cells)} |"

"""What the command line prints: tables, progress bars, JSON, one-line errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from anydepth_deploy import streams
from anydepth_deploy.errors import in_one_line, readable_all, shown
from anydepth_deploy.progress import Progress

__all__ = [
    "Table",
    "bar",
    "counts",
    "giga",
    "megabytes",
    "print_json",
    "print_line",
    "print_note",
    "print_table",
]

Table = tuple[list[str], list[list[object]]]
"""Column names, and rows of cells."""


def _console(*, stderr: bool = False) -> Console:
    # Made on use, so that a redirected stream is respected; wide enough for pipes and logs.
    stream = streams.errors() if stderr else streams.output()
    width = None if stream.isatty() else 140
    # Names of files and classes are not ours: what looks like markup in them is text.
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; columns of numbers are aligned to the right. Texts are no markup, and one line each:
    what a terminal would obey is escaped, and what is too long is cut."""
    table = RichTable(
        title=in_one_line(title),
        title_justify="left",
        title_style="italic",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for index, name in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in rows)
        table.add_column(shown(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(shown(str(cell)) for cell in row))
    _console().print(table)


def print_line(text: str) -> None:
    """One line on standard output, without markup or wrapping; what is in it is escaped and cut as
    in messages."""
    print(in_one_line(text), file=streams.output())


def print_note(text: str) -> None:
    """One line on standard error, beside a result: what its reader has to know."""
    print(f"note: {in_one_line(text)}", file=streams.errors())


def print_json(content: Any) -> None:
    """A JSON document on standard output, and nothing else; what is not finite becomes null, and
    names that are not UTF-8 are escaped."""
    finite = json.loads(json.dumps(readable_all(content)), parse_constant=lambda _: None)
    stream = streams.output()
    json.dump(finite, stream, indent=2)
    stream.write("\n")


@contextlib.contextmanager
def bar(
    label: str, *, quiet: bool = False, still: bool = False, rate: bool = False
) -> Iterator[Progress]:
    """A progress bar on standard error, as a function ``progress(what, done, total)``.

    Silent with ``quiet`` and where standard error is no terminal. ``still``: drawn by the calls of
    that function only, not by a thread that would compete with what is being timed. ``rate``: with
    the number of steps a second. A total of 0 is one that nobody knows.
    """
    if quiet or not streams.errors().isatty():
        yield lambda what, done, total: None
        return
    columns: list[rich_progress.ProgressColumn] = [
        rich_progress.TextColumn("{task.fields[label]}:", markup=False),
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    ]
    if rate:
        columns.append(_RateColumn())
    with rich_progress.Progress(
        *columns, console=_console(stderr=True), transient=True, auto_refresh=not still
    ) as progress:
        task = progress.add_task("starting", total=None, label=shown(label))

        def update(what: str, done: int, total: int) -> None:
            progress.update(
                task, description=shown(what), completed=done, total=total or None, refresh=still
            )

        yield update


class _RateColumn(rich_progress.ProgressColumn):
    """``3.1/s``: of the steps of the last half a minute."""

    def render(self, task: rich_progress.Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def giga(macs: int) -> str:
    """Multiply-adds for people: ``67.0 G``, or ``93 M`` for small networks."""
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _is_number(cell: object) -> bool:
    text = str(cell)
    return bool(text) and (text[0].isdigit() or text[0] == "-")


def counts(found: Mapping[str, int]) -> str:
    """``3 fp32, 61 fp16``; a dash for none."""
    return ", ".join(f"{count} {name}" for name, count in found.items()) or "-"

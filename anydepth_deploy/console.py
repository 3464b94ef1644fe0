"""What the command line prints: tables, progress bars, JSON, one-line errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

from anydepth_deploy import streams
from anydepth_deploy.errors import in_one_line, shown
from anydepth_deploy.output import answers
from anydepth_deploy.output.tables import lay_out, wrapped
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


LOG = 140
"""Letters in a line of a pipe or a log, where COLUMNS says nothing else."""

NARROWEST = 20

STYLES = {"head": "bold", "rule": "", "row": ""}


def _console(*, stderr: bool = False) -> Console:
    # Made on use, so that a redirected stream is respected; wide enough for pipes and logs.
    stream = streams.errors() if stderr else streams.output()
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else LOG
    # Names of files and classes are not ours: what looks like markup in them is text.
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, keys: int = 1
) -> None:
    """A table; columns of numbers are aligned to the right. Texts are no markup, and one line each:
    what a terminal would obey is escaped, and what is too long is cut. ``keys``: how many of the
    first columns name a row; they are repeated where a table is too wide for the terminal."""
    console = _console()
    width = max(console.width, NARROWEST)
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    heads = ["\n".join(map(shown, name.split("\n"))) for name in columns]
    cells = [[shown(str(cell)) for cell in row] for row in rows]
    for line in wrapped(in_one_line(title), width) if title else ():
        console.print(line, style="italic", soft_wrap=True)
    console.print()
    for item in lay_out(heads, cells, numeric, width, keys):
        console.print(item.text, style=STYLES[item.kind], soft_wrap=True)
    console.print()


def print_line(text: str) -> None:
    """One line on standard output, without markup or wrapping; what is in it is escaped and cut as
    in messages."""
    print(in_one_line(text), file=streams.output())


def print_note(text: str) -> None:
    """One line on standard error, beside a result: what its reader has to know."""
    print(f"note: {in_one_line(text)}", file=streams.errors())


def print_json(content: Mapping[str, Any]) -> None:
    """The JSON document of a command on standard output, and nothing else: an object that begins
    with its ``schema_version``. An error of what follows is put into it, see
    :mod:`~anydepth_deploy.output.answers`."""
    answers.put(content)


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

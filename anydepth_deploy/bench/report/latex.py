"""Merged results as a table for LaTeX, with the rules of the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from anydepth_deploy.bench.report.merge import ABSENT, ALWAYS, arrange, notes, report_table
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import ResultError

__all__ = ["escaped", "to_latex", "write_latex"]

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
"""What means something else to LaTeX, or is another letter in its usual fonts."""

INTERVAL = re.compile(r"([^ \[]+) \[([^\],]+), ([^\]]+)\]")
UNIT = re.compile(r"(?<=\d) (?=[A-Z%]+$)")

NUMBERS = ("#", "multiply-adds", "p9", "median", "speed-up", "images/s", "AP", "J/image")
"""How names of columns begin that are aligned to the right."""


def write_latex(results: Sequence[BenchResult], path: str | Path) -> None:
    """Write :func:`to_latex` into a file, whole or not at all. Raises :class:`ResultError` without
    results, or where the file cannot be written."""
    content = to_latex(results).encode()
    write_or_refuse(Path(path), lambda file: file.write(content), "table", ResultError)


def to_latex(results: Sequence[BenchResult]) -> str:
    """A ``tabular`` with a row for each result and depth; what is the same in all rows is said in a
    comment above it. Intervals are of 95 %. Raises :class:`ResultError` without results."""
    found = arrange(results)
    columns, rows = report_table(found)
    alike = [
        name
        for place, name in enumerate(columns)
        if name in (*ALWAYS, "#", "verdict") and len({str(row[place]) for row in rows}) == 1
    ]
    places = [place for place, name in enumerate(columns) if name not in alike]
    names = [columns[place] for place in places]
    said = [f"{name} {rows[0][columns.index(name)]}" for name in alike if name != "#"]
    sides = "".join("r" if name.startswith(NUMBERS) else "l" for name in names)
    lines = [
        r"% \usepackage{booktabs}",
        *(f"% {_comment(line)}" for line in _about(found, said)),
        rf"\begin{{tabular}}{{{sides}}}",
        r"  \toprule",
        f"  {' & '.join(map(escaped, names))} \\\\",
    ]
    first = columns.index("#")
    own = columns[: columns.index("depth")]
    for _, group in groupby(rows, key=lambda row: str(row[first])):
        lines.append(r"  \midrule")
        for number, row in enumerate(group):
            # What a result is, its first row says.
            cells = [
                "" if number and columns[place] in own else _cell(str(row[place]), columns[place])
                for place in places
            ]
            lines.append(f"  {' & '.join(cells)} \\\\")
    lines += [r"  \bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """``text`` as LaTeX prints it."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _cell(text: str, column: str) -> str:
    if text == ABSENT:
        return "--"
    if match := INTERVAL.fullmatch(text):
        value, low, high = (escaped(part) for part in match.groups())
        return rf"{value} {{\footnotesize [{low}, {high}]}}"
    if column == "depth":
        return rf"\texttt{{{escaped(text)}}}"
    return UNIT.sub(r"\\,", escaped(text))


def _about(found: Sequence[BenchResult], said: Sequence[str]) -> list[str]:
    """Of what the figures are; a table is copied without them."""
    lines = [f"All rows: {', '.join(said)}"] if said else []
    for number, result in enumerate(found, 1):
        told = notes(result)
        lines.append(f"{number}: {told['subject']}; measured {told['measured']}")
    return [*lines, "Intervals are of 95 %."]


def _comment(text: str) -> str:
    return " ".join(text.split())

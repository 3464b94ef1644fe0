"""The tables that ``verify``, ``eval`` and ``calibrate`` print: columns and rows of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from anydepth_deploy.console import giga

if TYPE_CHECKING:  # what makes them needs torch or faster-coco-eval
    from anydepth_deploy.calibration.report import JoinRow, StageRow
    from anydepth_deploy.evaluate import Accuracy
    from anydepth_deploy.verify import Report

__all__ = [
    "Table",
    "accuracy_table",
    "join_table",
    "limits",
    "parity_table",
    "precision_table",
    "stage_table",
    "verdicts",
]

Table = tuple[list[str], list[list[object]]]
"""Column names, and rows of cells."""


def parity_table(report: Report) -> Table:
    """One row for each artifact and depth. Quantities that must be equal exactly are left out."""
    limits = next(iter(report.tolerances.values()))
    outputs = [name for name, limit in limits.raw.items() if limit]
    rows: list[list[object]] = []
    for row in report.rows:
        approximate = report.tolerances[row.precision].approximate
        agrees = "close" if approximate else "equal"
        rows.append(
            [
                row.artifact.replace(f"-{row.depth}", ""),
                row.depth,
                *(f"{row.differences[name]:.1e}" for name in outputs),
                f"{row.selection:.1e}",
                f"{row.detections - row.unmatched}/{row.detections}",
                agrees if row.passed else "DIFFERENT",
            ]
        )
    return ["artifact", "depth", *outputs, "selection", "matched", "verdict"], rows


def limits(report: Report, precisions: Collection[str]) -> str:
    """The limits of the raw outputs at ``precisions``, in words."""
    return "; ".join(
        f"{precision}: "
        + ", ".join(f"{limit:g} ({name})" for name, limit in found.raw.items() if limit)
        for precision, found in report.tolerances.items()
        if precision in precisions
    )


def verdicts(report: Report) -> str:
    """How many rows of a report that passed are equal to the checkpoint, and how many close."""
    close = [row for row in report.rows if report.tolerances[row.precision].approximate]
    equal = len(report.rows) - len(close)
    words = [f"{equal} rows equal the checkpoint"] if equal else []
    if close:
        names = ", ".join(dict.fromkeys(row.precision for row in close))
        words.append(f"{len(close)} rows ({names}) are close to it")
    return ", ".join(words)


def accuracy_table(found: Sequence[Accuracy]) -> Table:
    """One row for each depth."""
    columns = ["depth", "level", "multiply-adds", "AP", "AP50", "AP75", "small", "medium", "large"]
    return columns, [
        [
            row.depth,
            "-" if row.level is None else row.level,
            giga(row.macs),
            *(
                _percent(value)
                for value in (
                    row.ap,
                    row.ap50,
                    row.ap75,
                    row.ap_small,
                    row.ap_medium,
                    row.ap_large,
                )
            ),
        ]
        for row in found
    ]


def precision_table(found: Sequence[Accuracy]) -> Table:
    """AP of each depth (rows) in each precision (columns); behind the first, what it loses."""
    precisions = list(dict.fromkeys(row.precision for row in found))
    by_place = {(row.depth, row.precision): row for row in found}
    columns = ["depth", "level", "multiply-adds", *(f"AP {name}" for name in precisions)]
    rows: list[list[object]] = []
    for row in found:
        if row.precision != precisions[0]:
            continue
        cells: list[object] = [_percent(row.ap)]
        for name in precisions[1:]:
            other = by_place[row.depth, name]
            cells.append(f"{_percent(other.ap)} ({other.ap - row.ap:+.1f})")
        level = "-" if row.level is None else row.level
        rows.append([row.depth, level, giga(row.macs), *cells])
    return columns, rows


def stage_table(rows: Sequence[StageRow], ladder: Sequence[str]) -> Table:
    """Relative errors of each stage (rows) at each depth of the ladder (columns)."""
    return ["stage", *ladder], [
        [
            row.stage,
            *(
                f"{100 * row.error_merged[depth]:.2f} % ({100 * row.error_own[depth]:.2f})"
                if depth in row.error_merged
                else "passes on"
                for depth in ladder
            ),
        ]
        for row in rows
    ]


def join_table(rows: Sequence[JoinRow]) -> Table:
    """How far the ranges of each join differ, and what rounding costs there."""
    columns = ["join", "widest / narrowest", "own ranges", "merged", "at", "convolutions there"]
    return columns, [
        [
            row.tensor,
            f"{row.ratio:.2f}",
            f"{100 * row.error_own:.2f} %",
            f"{100 * row.error_merged:.2f} %",
            row.merged_at,
            "quantised" if row.kept is None else f"in float: {row.kept}",
        ]
        for row in rows
    ]


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{value:.1f}"

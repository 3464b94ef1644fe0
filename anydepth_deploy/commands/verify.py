"""The tables that commands print: columns and rows of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from anydepth_deploy.console import Table, counts, giga, megabytes
from anydepth_deploy.errors import shorten

if TYPE_CHECKING:  # what makes them needs torch or faster-coco-eval
    from anydepth_deploy.building.build import BuildReport
    from anydepth_deploy.bundle.bundle import Bundle
    from anydepth_deploy.calibration.report import JoinRow, StageRow
    from anydepth_deploy.evaluation import Accuracy
    from anydepth_deploy.verifying.engines import EngineParity, EngineReport
    from anydepth_deploy.verifying.parity import Report

__all__ = [
    "accuracy_table",
    "engine_failure",
    "engine_parity_table",
    "engine_table",
    "failure",
    "join_table",
    "limits",
    "parity_table",
    "precision_table",
    "stage_table",
    "verdicts",
]


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


def engine_parity_table(report: EngineReport) -> Table:
    """One row for each engine or chain: the worst of its depths, and gates that look swapped."""
    limits = next(iter(report.tolerances.values()))
    outputs = list(limits.raw)
    by_engine: dict[str, list[EngineParity]] = {}
    for row in report.rows:
        by_engine.setdefault(row.artifact, []).append(row)
    rows: list[list[object]] = []
    for engine, found in by_engine.items():
        failed = [row for row in found if not row.passed]
        swapped = [
            vote.gate for vote in report.gates if vote.artifact == engine and not vote.passed
        ]
        problem = next((row.problem for row in failed if row.problem), None)
        verdict = "computes what its graph does"
        if failed or swapped:
            where = [row.depth for row in failed] or [f"gate {gate}" for gate in swapped]
            verdict = f"DIFFERENT at {shorten(where, 3)}{f': {problem}' if problem else ''}"
        worst = [max(row.differences.get(name, 0.0) for row in found) for name in outputs]
        detections = sum(row.detections for row in found)
        matched = detections - sum(row.unmatched for row in found)
        figures = [f"{value:.1e}" for value in worst]
        rows.append([engine, len(found), *figures, f"{matched}/{detections}", verdict])
    return ["engine", "depths", *outputs, "matched", "verdict"], rows


def failure(report: Report, reference: str) -> str:
    """What went wrong, in one line, for a report that did not pass."""
    failed = [row for row in report.rows if not row.passed]
    found = limits(report, {row.precision for row in failed})
    line = f"{len(failed)} of {len(report.rows)} rows differ from {reference} by more than {found}"
    return f"{line}, or in their detections: do not deploy this bundle"


def engine_failure(report: EngineReport) -> str:
    """The same for engines."""
    gates = {(vote.artifact, vote.gate) for vote in report.gates if not vote.passed}
    names = {row.artifact for row in report.rows if not row.passed} | {name for name, _ in gates}
    return (
        f"{shorten(sorted(names), 3)} failed: {sum(not row.passed for row in report.rows)} of "
        f"{len(report.rows)} rows differ from the graphs, {len(gates)} gates look swapped. The "
        "bundle says so, and these engines are not run; build them again with --deformable gather, "
        "or with another TensorRT"
    )


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


def engine_table(report: BuildReport, bundle: Bundle) -> Table:
    """What was built, and what was there."""
    columns = ["engine", "", "size", "built in", "computes in"]
    rows: list[list[object]] = []
    engines = {item.name: item for item in bundle.artifacts()}
    for what, names in (("built", report.built), ("there", report.present)):
        for item in (engines[name] for name in names):
            layers = item.engine.layers if item.engine else {}
            seconds = f"{item.build_seconds:.1f} s"
            rows.append([item.file, what, megabytes(item.bytes), seconds, counts(layers)])
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

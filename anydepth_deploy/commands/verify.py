"""``verify``: every artifact against its checkpoint, or engines against their graphs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.build import without_torch
from anydepth_deploy.commands.options import (
    ARTIFACTS,
    BundlePath,
    Images,
    Json,
    LayoutOption,
    MaxPixels,
    OrientationOption,
    Runtime,
    Threads,
    check_pictures,
    precision_names,
)
from anydepth_deploy.console import Table, print_note
from anydepth_deploy.errors import CheckFailedError, UsageError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:  # needs torch or scipy
    from anydepth_deploy.verifying.engines import EngineParity, EngineReport
    from anydepth_deploy.verifying.parity import Report

__all__ = [
    "engine_failure",
    "engine_parity_table",
    "failure",
    "limits",
    "parity_table",
    "verdicts",
    "verify",
]


def verify(
    bundle: BundlePath,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint the bundle was made from; not for engines, which are compared "
            "with the graphs of the bundle."
        ),
    ] = None,
    depth: Annotated[
        str | None,
        ARTIFACTS.option(
            "Depths, as for export; by default the ladder (engines: every depth), and each "
            "static graph's own."
        ),
    ] = None,
    every: Annotated[bool, ARTIFACTS.option("Same as --depth every.", "--every")] = False,
    images: Images = None,
    orientation: OrientationOption = "upright",
    max_pixels: MaxPixels = MAX_PIXELS,
    layout: LayoutOption = None,
    precision: Annotated[
        str | None,
        ARTIFACTS.one_of(
            precision_names(), "Only artifacts of this precision; bf16: the FP32 ones, in BF16."
        ),
    ] = None,
    runtime: Runtime = "onnxruntime",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Compare every artifact with its checkpoint, depth by depth; exit 1 on a difference.

    FP32 has to be equal: largest differences are shown. Lower precisions have to be close:
    relative errors are. Engines (--runtime tensorrt, tensorrt-rtx) are compared with the graphs
    they were built from, on ONNX Runtime, and marked in the bundle.
    """
    engines = format_of(runtime) != "onnx"
    if engines and checkpoint is not None:
        raise UsageError(
            "engines are compared with the graphs of their bundle: leave --checkpoint out"
        )

    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.pictures.samples import verification_batches

    opened = open_bundle(bundle)
    if checkpoint is not None:
        check_present(checkpoint)
    elif not engines:
        raise UsageError("--checkpoint is missing: name the file that the bundle was made from")
    notes = check_pictures(images)
    if not json:
        for note in notes:
            print_note(note)
    chosen = "every" if every else depth
    options: dict[str, Any] = {
        "depths": None if chosen is None else opened.table.select(chosen),
        "layout": layout,
        "precision": precision,
        "runtime": runtime,
        "threads": threads,
    }
    batches = verification_batches(
        opened.manifest.preprocess, images, orientation=orientation, max_pixels=max_pixels
    )
    if checkpoint is None:
        _verify_engines(opened, batches, json, notes, **options)
    else:
        _verify(opened, checkpoint, batches, json, notes, **options)


def _content(report: Report | EngineReport, notes: Sequence[str]) -> dict[str, Any]:
    """A report as plain data, with notes on the pictures."""
    content = report.to_json()
    return {**content, "notes": [*content.get("notes", []), *notes]}


def _verify(
    opened: Any, checkpoint: Path, batches: Any, json: bool, notes: Sequence[str], **options: Any
) -> None:
    from anydepth_deploy import console
    from anydepth_deploy.verifying.graphs import verify as run

    with console.bar("verify", quiet=json) as progress:
        report = run(opened, str(checkpoint), batches, progress=progress, **options)
    if json:
        console.print_json(_content(report, notes))
    else:
        title = f"parity with {checkpoint.name} ({report.runtime})"
        console.print_table(title, *parity_table(report), keys=2)
    if not report.passed:
        raise CheckFailedError(failure(report, str(checkpoint)))
    if not json:
        console.print_line(f"verified: {verdicts(report)}")
        if report.left_out:
            console.print_line(f"not tried: {', '.join(report.left_out)}")


def _verify_engines(
    opened: Any, batches: Any, json: bool, notes: Sequence[str], **options: Any
) -> None:
    from anydepth_deploy import console

    with without_torch("verifying engines"):
        from anydepth_deploy.verifying.engines import verify_engines

    with without_torch("verifying engines"), console.bar("verify", quiet=json) as progress:
        report = verify_engines(opened, batches, progress=progress, **options)
    if json:
        console.print_json(_content(report, notes))
    else:
        sizes = sorted({shape[0] for shape in report.batches})
        title = f"engines of {report.runtime} and their graphs, batches of {shorten(sizes)}"
        console.print_table(title, *engine_parity_table(report))
    if not report.passed:
        raise CheckFailedError(engine_failure(report))
    if not json:
        for line in report.notes:
            console.print_line(line)
        if report.left_out:
            console.print_line(f"not tried: {', '.join(report.left_out)}")


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

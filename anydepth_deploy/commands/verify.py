"""``verify``: every artifact against its checkpoint or golden outputs, engines against graphs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from anydepth_deploy.errors import CheckFailedError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:
    from anydepth_deploy.verifying.parity import Parity, Report

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
            help="The checkpoint the bundle was made from, to compare graphs with; by default they "
            "are compared with the bundle's golden outputs."
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
    """Compare every artifact with what it should compute, depth by depth; exit 1 on a difference.

    Without --checkpoint, that is the golden outputs that the bundle was exported with: no torch is
    needed. FP32 has to be equal: largest differences are shown. Lower precisions have to be close:
    relative errors are. Engines (--runtime tensorrt, tensorrt-rtx) are compared with the graphs
    they were built from, or, without ONNX Runtime, with the golden outputs, and marked in the
    bundle.
    """
    engines = format_of(runtime) != "onnx"

    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.verbs.verify import verify as run

    opened = open_bundle(bundle)
    notes = check_pictures(images)
    if not json:
        for note in notes:
            print_note(note)
    with console.bar("verify", quiet=json) as progress:
        report = run(
            opened,
            checkpoint,
            depth="every" if every else depth,
            images=images,
            layout=layout,
            precision=precision,
            runtime=runtime,
            threads=threads,
            orientation=orientation,
            max_pixels=max_pixels,
            progress=progress,
        )
    content = report.to_json()
    told: list[str] = content.get("notes", [])
    reference = report.compared_with if checkpoint is None else str(checkpoint)
    if json:
        console.print_json({**content, "notes": [*told, *notes]})
    elif engines:
        sizes = sorted({shape[0] for shape in report.batches})
        beside = "their graphs" if report.compared_with == "graphs" else reference
        title = f"engines of {report.runtime} and {beside}, batches of {shorten(sizes)}"
        console.print_table(title, *engine_parity_table(report))
    else:
        name = reference if checkpoint is None else checkpoint.name
        console.print_table(f"parity with {name} ({report.runtime})", *parity_table(report), keys=2)
    if not report.passed:
        raise CheckFailedError(
            engine_failure(report)
            if engines
            else failure(report, f"the {reference}" if checkpoint is None else reference)
        )
    if json:
        return
    if not engines:
        console.print_line(f"verified: {verdicts(report)}")
    for line in told:
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


def engine_parity_table(report: Report) -> Table:
    """One row for each engine or chain: the worst of its depths, and gates that look swapped."""
    limits = next(iter(report.tolerances.values()))
    outputs = list(limits.raw)
    by_engine: dict[str, list[Parity]] = {}
    for row in report.rows:
        by_engine.setdefault(row.artifact, []).append(row)
    with_graphs = report.compared_with == "graphs"
    sound = "computes what its graph does" if with_graphs else "agrees with the golden outputs"
    rows: list[list[object]] = []
    for engine, found in by_engine.items():
        failed = [row for row in found if not row.passed]
        swapped = [gate for name, gate in _swapped(report) if name == engine]
        problem = next((text for row in failed if (text := getattr(row, "problem", None))), None)
        verdict = sound
        if failed or swapped:
            where = [row.depth for row in failed] or [f"gate {gate}" for gate in swapped]
            verdict = f"DIFFERENT at {shorten(where, 3)}{f': {problem}' if problem else ''}"
        worst = [max(row.differences.get(name, 0.0) for row in found) for name in outputs]
        detections = sum(row.detections for row in found)
        matched = detections - sum(row.unmatched for row in found)
        figures = [f"{value:.1e}" for value in worst]
        rows.append([engine, len(found), *figures, f"{matched}/{detections}", verdict])
    return ["engine", "depths", *outputs, "matched", "verdict"], rows


def _swapped(report: Report) -> list[tuple[str, str]]:
    """Engines and their gates that look swapped."""
    votes = getattr(report, "gates", [])
    return [(vote.artifact, vote.gate) for vote in votes if not vote.passed]


def failure(report: Report, reference: str) -> str:
    """What went wrong, in one line, for a report that did not pass."""
    failed = [row for row in report.rows if not row.passed]
    found = limits(report, {row.precision for row in failed})
    line = f"{len(failed)} of {len(report.rows)} rows differ from {reference} by more than {found}"
    return f"{line}, or in their detections: do not deploy this bundle"


def engine_failure(report: Report) -> str:
    """The same for engines."""
    swapped = {*_swapped(report)}
    names = {row.artifact for row in report.rows if not row.passed} | {name for name, _ in swapped}
    gates = f", {len(swapped)} gates look swapped" if report.compared_with == "graphs" else ""
    return (
        f"{shorten(sorted(names), 3)} failed: {sum(not row.passed for row in report.rows)} of "
        f"{len(report.rows)} rows differ from the {report.compared_with}{gates}. The "
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
    """How many rows of a report that passed are equal to the checkpoint, or to golden outputs, and
    how many close."""
    close = [row for row in report.rows if report.tolerances[row.precision].approximate]
    equal = len(report.rows) - len(close)
    pronoun = "it" if report.compared_with == "checkpoint" else "them"
    words = [f"{equal} rows equal the {report.compared_with}"] if equal else []
    if close:
        names = ", ".join(dict.fromkeys(row.precision for row in close))
        words.append(f"{len(close)} rows ({names}) are close to {pronoun}")
    return ", ".join(words)

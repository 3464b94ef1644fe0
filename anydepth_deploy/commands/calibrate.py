"""``calibrate``: ranges of activations for INT8, and how they differ between depths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from anydepth_deploy.calibration.ranges import Method
from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.options import (
    EXECUTION,
    NETWORK,
    PICTURES,
    ActivationOption,
    CheckpointPath,
    FineCosformerOption,
    FinePositionOption,
    FineUpsamplingOption,
    Json,
    LadderOption,
    MaxPixels,
    OrientationOption,
    Panel,
    ResizeOption,
    SamplingOption,
    SizeOption,
    Threads,
    check_pictures,
    size_of,
)
from anydepth_deploy.console import Table, print_note
from anydepth_deploy.depth import count_depths, ladder_words
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import CalibrationError, MissingExtraError, shorten
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.figures import drawing_format

if TYPE_CHECKING:  # needs onnx
    from anydepth_deploy.calibration.report import JoinRow, StageRow

__all__ = ["calibrate", "join_table", "stage_table"]

RANGES = Panel("Ranges")


def calibrate(
    checkpoint: CheckpointPath,
    images: Annotated[Path, PICTURES.option("Folder of pictures like those to come.")],
    out: Annotated[
        Path | None, typer.Option(help="The range table; default: calib/CHECKPOINT.json.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of the report (.png, .pdf, .svg); default: beside the table."),
    ] = None,
    count: Annotated[int, PICTURES.option("Pictures drawn from the folder.", min=1)] = 512,
    seed: Annotated[int, PICTURES.option("Which ones.", min=0)] = 0,
    orientation: OrientationOption = "upright",
    max_pixels: MaxPixels = MAX_PIXELS,
    method: Annotated[
        Method, RANGES.one_of(get_args(Method), "How ranges are chosen.")
    ] = "percentile",
    percentile: Annotated[
        float, RANGES.option("Per cent of the values kept.", min=50, max=100)
    ] = 99.99,
    depth: Annotated[
        str, NETWORK.option("Depths beside the ladder, as for export; a static graph needs its.")
    ] = "all",
    ladder: LadderOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    decoder_activation: ActivationOption = None,
    sampling: SamplingOption = None,
    fine_position: FinePositionOption = None,
    fine_cosformer: FineCosformerOption = None,
    fine_upsampling: FineUpsamplingOption = None,
    probe: Annotated[
        int, PICTURES.option("Pictures to measure the errors of stages with; 0: do not.", min=0)
    ] = 16,
    batch: Annotated[int, EXECUTION.option("Pictures per run.", min=1)] = 1,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Gather ranges of activations over pictures and depths, for INT8; resumes where it stopped.

    Reports how far ranges differ between depths, and what 8 bits cost each stage at each depth.
    """
    input_size = size_of(size)
    if plot is not None:
        drawing_format(plot, "report")
        try_to_write(plot, "report", CalibrationError)
    if ladder is not None:
        ladder_words(ladder)
    check_present(checkpoint)
    notes = check_pictures(images)
    if not json:
        for note in notes:
            print_note(note)

    from anydepth_deploy import console
    from anydepth_deploy.calibration import report
    from anydepth_deploy.calibration.calibrate import calibrate as run

    with console.bar("calibrate", quiet=json) as progress:
        path, table = run(
            checkpoint,
            images,
            out,
            depth=depth,
            ladder=ladder,
            input_size=input_size,
            resize=resize,
            count=count,
            seed=seed,
            orientation=orientation,
            max_pixels=max_pixels,
            method=method,
            percentile=percentile,
            probe=probe,
            batch=batch,
            threads=threads,
            progress=progress,
            said=Said(decoder_activation, sampling, fine_position, fine_cosformer, fine_upsampling),
        )
    picture: Path | None = plot or path.with_suffix(".png")
    try:
        report.draw_report(table, plot or path.with_suffix(".png"))
    except MissingExtraError:
        if plot is not None:
            raise
        picture = None
    if json:
        content = {
            "table": str(path),
            "sha256": table.sha256,
            "orientation": table.pictures.orientation,
            "notes": notes,
            "warnings": table.warnings,
            **report.report_rows(table),
        }
        console.print_json({**content, "picture": picture and str(picture)})
        return
    if stages := report.stage_rows(table):
        title = "relative error at the outputs of stages, ranges merged over depths (own)"
        console.print_table(title, *stage_table(stages, table.ladder))
    if joins := report.join_rows(table):
        console.print_table("ranges of joins over depths", *join_table(joins))
    further = table.depths[len(table.ladder) :]
    console.print_line(
        f"{table.pictures.count} pictures at {count_depths(len(table.depths))}"
        + (f" (beside the ladder: {shorten(further)})" if further else "")
    )
    console.print_line(f"ranges: {path}" + (f", picture: {picture}" if picture else ""))


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

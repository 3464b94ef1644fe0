"""``eval``: COCO average precision per depth and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    EXECUTION,
    AnnotatedOrientation,
    BundlePath,
    Depths,
    Json,
    LayoutOption,
    MatchByRank,
    MaxPixels,
    Runtime,
    TargetOption,
    Threads,
    WeightsOption,
    words_of,
)
from anydepth_deploy.console import Table, giga
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import UsageError, shown
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:
    from anydepth_deploy.evaluation import Accuracy, LostClass

__all__ = ["accuracy_table", "as_data", "evaluate", "lost_lines", "precision_table"]

LOST = 5
"""Classes that are named below the table."""


def evaluate(
    bundle: BundlePath,
    data: Annotated[Path, typer.Option(help="Annotations in COCO format (JSON).")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; by default where the annotations are."),
    ] = None,
    orientation: AnnotatedOrientation = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    depth: Depths = "all",
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: Annotated[
        str,
        ARTIFACTS.option("fp32, fp16, int8, bf16 (OpenVINO), several joined by commas, or all."),
    ] = "fp32",
    target: TargetOption = None,
    batch: Annotated[int, EXECUTION.option("Pictures per call.", min=1)] = 8,
    ladder_out: Annotated[
        Path | None,
        typer.Option(help="Write the ladder that the measured accuracy supports (JSON)."),
    ] = None,
    save_differences: Annotated[
        Path | None,
        typer.Option(
            help="Folder: draw the pictures on which two depths differ most, of the first "
            "precision.",
        ),
    ] = None,
    between: Annotated[
        str, typer.Option(help="With --save-differences: the two depths.")
    ] = "super,base",
    pictures: Annotated[int, typer.Option(help="With --save-differences: how many pictures.")] = 12,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="Folder: write what was found in COCO's results format, a file for each depth.",
        ),
    ] = None,
    runtime: Runtime = "onnxruntime",
    threads: Threads = None,
    match_by_rank: MatchByRank = False,
    json: Json = False,
) -> None:
    """COCO average precision of the artifact, per depth and precision."""
    format_of(runtime)  # refuses an unknown one

    from anydepth_deploy import console
    from anydepth_deploy.annotations.difference_files import DIFFERENCES
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.evaluation import lost_classes, pareto_ladder, write_ladder
    from anydepth_deploy.verbs.evaluate import Files, evaluate_all

    opened = open_bundle(bundle)
    depths = opened.table.select(depth)
    ends = {opened.table.space.base, opened.table.space.super}
    if ladder_out is not None and not ends <= {*depths}:
        raise UsageError("--ladder-out needs the accuracy of base and super: add them to --depth")
    if ladder_out is not None:
        try_to_write(ladder_out, "ladder file", UsageError)
    found = evaluate_all(
        opened,
        data,
        images,
        depths=depths,
        layout=layout,
        weights=weights,
        precisions=words_of(precision),
        target=target,
        runtime=runtime,
        batch=batch,
        threads=threads,
        orientation=orientation,
        max_pixels=max_pixels,
        match_by_rank=match_by_rank,
        files=Files(save_differences, between, pictures, detections),
        watched=lambda name: console.bar(f"eval {name}", quiet=json),
    )
    coco, rows = found.data, found.rows
    matching = coco.mapping(opened.classes, by_rank=match_by_rank)
    findings = [*coco.findings, *matching.findings]
    if ladder_out is not None:
        first = [row for row in rows if row.precision == rows[0].precision]
        write_ladder(ladder_out, pareto_ladder(opened, first))
    lost = lost_classes(opened, rows)
    if json:
        content = {
            "data": str(data),
            "data_sha256": coco.sha256,
            "pictures": len(coco.images),
            "orientation": coco.annotated.orientation,
            "notes": coco.annotated.notes,
            "mapped_by": matching.mapped_by,
            "matched": matching.record(),
            "findings": [asdict(item) for item in findings],
            "rows": [as_data(row) for row in rows],
            "lost": [{"class": item.pop("name"), **item} for item in map(asdict, lost)],
            "detections": [str(path) for path in found.detections],
            "differences": None
            if save_differences is None
            else str(save_differences / DIFFERENCES),
        }
        console.print_json(content)
        return
    table = precision_table if len(found.precisions) > 1 else accuracy_table
    console.print_table(
        f"average precision on {data.name} ({len(coco.images)} pictures, {runtime}, "
        f"{', '.join(found.precisions)})",
        *table(rows),
    )
    lines = [*matching.lines(), *(item.text for item in findings), *lost_lines(lost)]
    lines += [f"detections: {path}" for path in found.detections]
    if found.differences is not None:
        told = found.differences
        lines.append(
            f"{' and '.join(told.depths)} differ on {told.differing} of {told.compared} pictures; "
            f"the {len(told.pictures)} that differ most: {save_differences}"
        )
    for line in lines:
        console.print_line(line)
    for note in coco.annotated.notes:
        console.print_note(note)


def as_data(row: Accuracy) -> dict[str, Any]:
    """``row`` as plain data for JSON: null where the data has no such objects."""
    content = {
        key: None if key.startswith("ap") and value < 0 else value
        for key, value in row.record().items()
    }
    classes = [
        {"class": item.name, "ap": None if item.ap < 0 else item.ap, "objects": item.objects}
        for item in row.classes
    ]
    return {**content, "classes": classes}


def lost_lines(found: Sequence[LostClass]) -> list[str]:
    """The classes that base loses most of, a line for each precision."""
    lines = []
    for precision in dict.fromkeys(item.precision for item in found):
        mine = [item for item in found if item.precision == precision]
        words = [
            f"{shown(item.name, 60)} {item.super:.1f} to {item.base:.1f} ({item.objects} objects)"
            for item in mine[:LOST]
        ]
        lines.append(
            f"{precision}: AP falls most from super to base in {'; '.join(words)}; in "
            f"{len(mine)} classes in all"
        )
    return lines


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


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{value:.1f}"

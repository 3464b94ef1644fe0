"""``ladder``: the depths that a device and a data set support, measured and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    EXECUTION,
    PICTURES,
    AnnotatedOrientation,
    BundlePath,
    Json,
    LayoutOption,
    MatchByRank,
    MaxPixels,
    Panel,
    Runtime,
    TargetOption,
    Threads,
    WeightsOption,
    check_pictures,
    words_of,
)
from anydepth_deploy.console import bar, print_json, print_line, print_note
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import CheckFailedError, ImageError, ResultError, UsageError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:
    from anydepth_deploy.bundle.bundle import Bundle
    from anydepth_deploy.ladders.diagnose import Diagnosis
    from anydepth_deploy.ladders.scores import Scores
    from anydepth_deploy.ladders.subject import Subject
    from anydepth_deploy.progress import Progress

__all__ = ["ladder"]

SEARCH = Panel("Search")
DIAGNOSIS = Panel("Diagnosis")


def ladder(
    path: BundlePath,
    data: Annotated[
        Path | None,
        PICTURES.option("Annotations (COCO); without them, agreement with super is measured."),
    ] = None,
    images: Annotated[
        Path | None,
        PICTURES.option("Folder of pictures; of --data, by default where the annotations are."),
    ] = None,
    orientation: AnnotatedOrientation = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    count: Annotated[
        int, PICTURES.option("Pictures that agreement is measured on, at most.", min=1)
    ] = 128,
    match_by_rank: MatchByRank = False,
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: Annotated[str, ARTIFACTS.option("fp32, fp16, int8 or bf16.")] = "fp32",
    target: TargetOption = None,
    runtime: Runtime = "onnxruntime",
    threads: Threads = None,
    batch: Annotated[int, EXECUTION.option("Pictures of a timed call.", min=1, max=1024)] = 1,
    rounds: Annotated[int, SEARCH.option("Rounds that predicted times are made of.", min=5)] = 30,
    calls: Annotated[
        int, SEARCH.option("Timed calls of each rung: 59 for a p95, 299 for a p99.", min=5)
    ] = 100,
    most: Annotated[int, SEARCH.option("Depths to score, at most.", min=2)] = 64,
    seed: Annotated[int, SEARCH.option("Of orders and of pictures.", min=0)] = 0,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside", help="Keep the ladder in use: levels stay, this one is kept beside it."
        ),
    ] = False,
    diagnose: Annotated[
        bool,
        DIAGNOSIS.option(
            "Look into the depths between base and super, and write nothing; exit 1 on a cliff. "
            "Needs layout stages.",
            "--diagnose",
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        DIAGNOSIS.option(
            "Percent of score that a depth may fall short; default: half of what lies between "
            "base and super, 3 at least and 15 at most.",
            min=0,
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it: .png, .pdf or .svg.")] = None,
    json: Json = False,
) -> None:
    """Measure which depths are worth having on this device, and write them as the ladder.

    Times are predicted for all depths from a few that take turns, accuracy is measured along the
    front. Only the manifest changes.
    """
    _check(data, images, precision, match_by_rank, beside, diagnose, layout, tolerance)
    format_of(runtime)  # refuses an unknown one

    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.bundle.choose import Choice, choose_artifacts
    from anydepth_deploy.pictures.figures import drawing_format

    if plot is not None:
        drawing_format(plot, "picture")
        try_to_write(plot, "picture", ResultError)
    if data is not None and not data.exists():
        raise ImageError(f"annotations {data} do not exist")
    for note in check_pictures(images):
        print_note(note)
    opened = open_bundle(path)
    chosen = "stages" if diagnose else layout
    choose_artifacts(opened, chosen, precision, weights, target, runtime)
    if not diagnose:
        opened.try_to_write()

    from anydepth_deploy.ladders.subject import open_subject

    with bar("ladder", quiet=json, still=True) as progress:
        subject = open_subject(opened, Choice(runtime, precision, chosen, weights, target, threads))
        try:
            scores = _scores(
                subject,
                data,
                images,
                orientation=orientation,
                max_pixels=max_pixels,
                by_rank=match_by_rank,
                count=count,
                seed=seed,
                progress=progress,
            )
            batches = _batches(opened, batch, images, orientation, max_pixels, seed)
            if diagnose:
                from anydepth_deploy.ladders.diagnose import diagnose as look

                health = look(
                    subject,
                    scores,
                    batches.prepared,
                    most=most,
                    tolerance=tolerance,
                    seed=seed,
                    progress=progress,
                )
            else:
                from anydepth_deploy.ladders.measure import Pace, measure_ladder

                pace = Pace(rounds, calls, most, seed)
                found = measure_ladder(subject, scores, batches, pace, progress)
        finally:
            subject.close()
    title = f"{path.name}, {runtime} {precision}"
    if diagnose:
        _tell_health(health, scores, title, plot, as_json=json)
        return
    from anydepth_deploy.ladders.tables import ladder_content, show_ladder

    before = opened.table.ladder
    opened.put_ladder(found.ladder, use=not beside)
    if plot is not None:
        from anydepth_deploy.ladders.plot import draw_ladder

        draw_ladder(found, plot, title)
    if json:
        print_json(ladder_content(found, opened, used=not beside))
        return
    show_ladder(found, title)
    used = [str(depth) for depth in opened.table.ladder]
    if beside:
        print_line(f"kept beside the ladder in use, which stays {shorten(used, 12)}")
    elif opened.table.ladder == before:
        print_line("these levels were in use before; their figures are written")
    else:
        print_line(
            f"in use from now on, on all devices: level:0 to level:{len(used) - 1} mean "
            f"{shorten(used, 12)} (before: {shorten(before, 12)})"
        )
    if plot is not None:
        print_line(f"picture: {plot}")


def _check(
    data: Path | None,
    images: Path | None,
    precision: str,
    by_rank: bool,
    beside: bool,
    diagnose: bool,
    layout: str | None,
    tolerance: float | None,
) -> None:
    """What does not go together."""
    if data is None and images is None:
        raise UsageError(
            "neither --data nor --images is given: a ladder takes annotated pictures, or a folder "
            "of unlabelled ones to measure agreement with super"
        )
    if len(words_of(precision)) != 1:
        raise UsageError(f"--precision names {len(words_of(precision))} values: a ladder is of one")
    if by_rank and data is None:
        raise UsageError("--match-by-rank is for --data: without annotations nothing is matched")
    if diagnose and beside:
        raise UsageError("--beside is for ladders that are written: --diagnose writes none")
    if diagnose and layout not in (None, "stages"):
        raise UsageError(
            f"--diagnose needs layout stages, not {layout}: it looks at what flows between them"
        )
    if tolerance is not None and not diagnose:
        raise UsageError("--tolerance is for --diagnose")


def _scores(
    subject: Subject,
    data: Path | None,
    images: Path | None,
    *,
    orientation: Orientation | None,
    max_pixels: int,
    by_rank: bool,
    count: int,
    seed: int,
    progress: Progress,
) -> Scores:
    from anydepth_deploy.ladders.scores import average_precision, super_agreement

    bundle, precision = subject.bundle, subject.choice.precision
    if data is None:
        assert images is not None
        return super_agreement(
            bundle,
            subject.scored,
            precision,
            images,
            count=count,
            seed=seed,
            orientation=orientation,
            max_pixels=max_pixels,
            progress=progress,
        )
    scores, coco = average_precision(
        bundle,
        subject.scored,
        precision,
        data,
        images,
        orientation=orientation,
        max_pixels=max_pixels,
        by_rank=by_rank,
    )
    for line in (*(item.text for item in coco.findings), *coco.annotated.notes):
        print_note(line)
    return scores


def _batches(
    bundle: Bundle,
    batch: int,
    images: Path | None,
    orientation: Orientation | None,
    max_pixels: int,
    seed: int,
) -> Any:
    from anydepth_deploy.bench.workloads.pictures import load_batches

    return load_batches(
        bundle.manifest.preprocess,
        batch,
        source=images,
        seed=seed,
        orientation=orientation or "upright",
        max_pixels=max_pixels,
    )


def _tell_health(
    found: Diagnosis, scores: Scores, what: str, plot: Path | None, *, as_json: bool
) -> None:
    from anydepth_deploy.ladders.tables import health_content, show_health

    data = scores.described
    if plot is not None:
        from anydepth_deploy.ladders.diagnosis_plot import draw_diagnosis

        draw_diagnosis(found, plot, what, data.kind)
    if as_json:
        print_json(health_content(found, scores))
    else:
        show_health(found, what, "AP" if data.kind == "ap" else "agreement")
        if plot is not None:
            print_line(f"picture: {plot}")
    if not found.sound:
        stages = list(dict.fromkeys(cliff.stage for cliff in found.cliffs))
        raise CheckFailedError(
            f"{len(found.cliffs)} of {len(found.scores)} depths between base and super are cliffs, "
            f"the worst {found.cliffs[0].depth} ({-found.cliffs[0].fall:+.1f}): look at "
            f"{shorten(stages)}"
        )

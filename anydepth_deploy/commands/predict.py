"""``predict``: objects in pictures and videos at a chosen depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    EXECUTION,
    PICTURES,
    BundlePath,
    Json,
    LayoutOption,
    MaxPixels,
    OrientationOption,
    PrecisionOption,
    Runtime,
    Threads,
    WeightsOption,
    one_of,
    words_of,
)
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import AnyDepthError, ImageError, UsageError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS

if TYPE_CHECKING:
    from anydepth_deploy.predict.run import Prediction, Run, Skipped

__all__ = ["predict"]

Form = Literal["table", "json", "coco", "csv", "yolo"]


def predict(
    bundle: BundlePath,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Pictures, folders, patterns, videos, addresses, or the number of a camera.",
        ),
    ],
    depth: Annotated[str | None, ARTIFACTS.option("One depth; default: super.")] = None,
    compare: Annotated[
        str | None,
        ARTIFACTS.option("Depths to draw side by side, joined by commas: base,super."),
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score shown.")] = 0.5,
    only: Annotated[
        str | None, typer.Option(help="Classes shown, by name, joined by commas; default: all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture or video to write (a folder for several); default: NAME.pred.png, "
            "NAME.pred.mp4."
        ),
    ] = None,
    no_draw: Annotated[
        bool, typer.Option("--no-draw", help="Only tell what was found; draw nothing.")
    ] = False,
    format: Annotated[
        str,
        one_of(get_args(Form), help="What is printed; yolo: a label file a picture, in --out."),
    ] = "table",
    data: Annotated[
        Path | None,
        typer.Option(help="coco: the annotation file whose ids of pictures and classes to use."),
    ] = None,
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = "fp32",
    runtime: Runtime = "onnxruntime",
    threads: Threads = None,
    batch: Annotated[int, EXECUTION.option("Pictures of a call, at most.", min=1)] = 1,
    timeout: Annotated[
        float,
        EXECUTION.option("Seconds that an address may take to answer.", min=0.1, max=3600),
    ] = 30.0,
    font: Annotated[
        Path | None,
        PICTURES.option("File of the font of captions; default: one that has their letters."),
    ] = None,
    orientation: OrientationOption = "upright",
    max_pixels: MaxPixels = MAX_PIXELS,
    json: Json = False,
) -> None:
    """Detect objects at a chosen depth and draw them, in pictures, videos and cameras.

    What cannot be used of several sources is skipped and named, and a video
    that is cut ends where it is cut; the exit status is 2 then.
    """
    form = _format(format, json)
    depths = _depths(depth, compare, form)
    if data is not None and form != "coco":
        raise UsageError("--data is for --format coco")
    names = None if only is None else words_of(only)
    if names == []:
        raise UsageError(f"--only '{only}' names no class")

    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.predict.run import Options, Run

    skipped: list[Skipped] = []
    opened = open_bundle(bundle)
    notes = _folder_notes(source)
    if form in ("json", "coco", "csv") and out is None and not no_draw and _is_one_file(source):
        try:
            try_to_write(Path("drawing.pred.png"), "picture", ImageError)
        except ImageError:
            no_draw = True
            console.print_note(
                "the working folder cannot be written, so nothing is drawn: --out names another "
                "place"
            )
    options = Options(
        threshold=threshold,
        only=names,
        batch=batch,
        out=out,
        draw=not no_draw,
        label=form == "yolo",
        font=font,
        layout=layout,
        weights=weights,
        precision=precision,
        runtime=runtime,
        threads=threads,
        orientation=orientation,
        max_pixels=max_pixels,
        timeout=timeout,
    )
    run = Run(opened, source, depths, options, skipped)
    output = _output(form, run, data)
    interrupted = _printed(run, output, skipped)
    for note in (*notes, *run.notes):  # in JSON, too
        console.print_note(note)
    if interrupted:
        raise KeyboardInterrupt
    if skipped:
        raise _incomplete(run, source, skipped)


def _format(form: str, json: bool) -> str:
    if json and form not in ("table", "json"):
        raise UsageError(f"--json is --format json: leave it out, or --format {form}")
    return "json" if json else form


def _depths(depth: str | None, compare: str | None, form: str) -> list[str]:
    if compare is None:
        if depth is not None and "," in depth:
            raise UsageError(f"--depth takes one: --compare '{depth}' takes several")
        return [depth or "super"]
    if depth is not None:
        raise UsageError("--compare names the depths: leave --depth out")
    depths = words_of(compare)
    if len(depths) < 2:
        raise UsageError(
            f"--compare '{compare}' names {len(depths)} depth: expected two or more, as "
            "base,super; --depth takes one"
        )
    if len({*depths}) < len(depths):
        raise UsageError(f"--compare '{compare}' names a depth twice")
    if form in ("coco", "yolo"):
        raise UsageError(f"--format {form} has no place for several depths: use csv or json")
    return depths


def _is_one_file(sources: Sequence[str]) -> bool:
    from anydepth_deploy.pictures.folders import is_file

    return len(sources) == 1 and is_file(Path(sources[0]))


def _folder_notes(sources: Sequence[str]) -> list[str]:
    """What folders hold that is no picture."""
    from anydepth_deploy.pictures.folders import contents_of, is_folder

    folders = [Path(source) for source in sources if source and is_folder(Path(source))]
    found = [contents_of(folder, partial=True).note for folder in folders]
    return [note for note in found if note is not None]


class Output(Protocol):
    """Prints predictions as they come; ``end`` what is left."""

    def add(self, item: Prediction) -> None: ...

    def end(self) -> None: ...


def _output(form: str, run: Run, data: Path | None) -> Output:
    from anydepth_deploy import console, streams
    from anydepth_deploy.predict import formats

    if form == "json":
        return _JsonObject()
    if form == "csv":
        return formats.CsvRows(streams.output().write)
    if form == "coco":
        ids = formats.ImageIds(run.items, data)
        if ids.note is not None:
            run.notes.append(ids.note)
        categories = formats.category_ids(data, run.bundle.classes)
        return formats.CocoResults(streams.output().write, ids, categories)
    if form == "yolo":
        return formats.YoloLabels(dict(run.places.labels))
    return _Tables(console)


class _JsonObject:
    """Kept until the end: one document."""

    def __init__(self) -> None:
        self.predictions: list[dict[str, Any]] = []

    def add(self, item: Prediction) -> None:
        self.predictions.append(item.to_json())

    def end(self) -> None:
        pass


class _Tables:
    """A table for each picture; of a video one for all of its frames, which is printed behind the
    last of them."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self._video: dict[str, _Seen] = {}
        self._name = ""

    def add(self, item: Prediction) -> None:
        if item.source != self._name:
            self.end()
            self._name = item.source
        if item.frame is not None:
            self._video.setdefault(item.depth, _Seen()).add(item)
            return
        rows = [
            [one["class"], f"{one['score']:.3f}", *(f"{side:.1f}" for side in one["box"])]
            for one in item.detections
        ]
        self._console.print_table(
            f"{item.image} at {item.depth}", ["class", "score", "x1", "y1", "x2", "y2"], rows
        )
        if item.drawn:
            self._console.print_line(item.drawn)

    def end(self) -> None:
        drawn = ""
        for depth, seen in self._video.items():
            rows = [
                [name, seen.detections[name], count, f"{seen.best[name]:.3f}"]
                for name, count in seen.frames.most_common()
            ]
            self._console.print_table(
                f"{self._name} at {depth}: {seen.count} frames, {seen.time:.2f} s",
                ["class", "detections", "in frames", "best score"],
                rows,
            )
            drawn = seen.drawn
        if drawn:
            self._console.print_line(drawn)
        self._video.clear()


class _Seen:
    """What was found in a video so far."""

    def __init__(self) -> None:
        self.count, self.time, self.drawn = 0, 0.0, ""
        self.frames: Counter[str] = Counter()
        self.detections: Counter[str] = Counter()
        self.best: dict[str, float] = {}

    def add(self, item: Prediction) -> None:
        self.count, self.time, self.drawn = self.count + 1, item.time or 0.0, item.drawn
        self.frames.update({one["class"] for one in item.detections})
        for one in item.detections:
            self.detections[one["class"]] += 1
            self.best[one["class"]] = max(self.best.get(one["class"], 0.0), one["score"])


def _printed(run: Run, output: Output, skipped: Sequence[Skipped]) -> bool:
    """Run, and print; whether it was interrupted, which is how cameras and streams end: what came
    before is printed, too."""
    from anydepth_deploy import console

    quiet = not isinstance(output, _Tables)
    interrupted = False
    with console.bar("predict", quiet=quiet, rate=True) as progress:
        try:
            for item in run.predictions(progress):
                output.add(item)
        except KeyboardInterrupt:
            interrupted = True
        except AnyDepthError:
            if run.count:
                output.end()  # what came before
            raise
    output.end()
    rate = run.count / run.seconds if run.seconds > 0 else None
    if isinstance(output, _JsonObject):
        console.print_json(
            {
                "predictions": output.predictions,
                "skipped": [asdict(failure) for failure in skipped],
                "pictures": run.count,
                "seconds": round(run.seconds, 3),
                "pictures_per_second": None if rate is None else round(rate, 2),
            }
        )
        return interrupted
    if isinstance(output, _Tables):
        for failure in skipped:
            console.print_line(f"skipped: {failure.error}")
        console.print_line(_speed(run, rate))
    elif run.places.labels:
        folder = next(iter(run.places.labels.values())).parent
        console.print_line(f"{folder}: {run.count} label files")
    return interrupted


def _speed(run: Run, rate: float | None) -> str:
    what = "1 picture" if run.count == 1 else f"{run.count} pictures"
    return f"{what} in {run.seconds:.2f} s{'' if rate is None else f': {rate:.1f} a second'}"


def _incomplete(run: Run, sources: Sequence[str], skipped: Sequence[Skipped]) -> ImageError:
    errors = shorten([item.error for item in skipped], 3)
    videos = {item.name for item in run.items if getattr(item, "source", None) is not None}
    if all(item.image in videos for item in skipped):
        return ImageError(errors)
    return ImageError(
        f"{len(skipped)} of {run.count + len(skipped)} pictures in {shorten(sources, 2)} were "
        f"skipped: {errors}"
    )

"""``predict``: objects in pictures at a chosen depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    BundlePath,
    Json,
    LayoutOption,
    MaxPixels,
    OrientationOption,
    PrecisionOption,
    Runtime,
    WeightsOption,
)
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS

if TYPE_CHECKING:
    from anydepth_deploy.predict import Prediction, Skipped

__all__ = ["predict"]


def predict(
    bundle: BundlePath,
    image: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    depth: Annotated[str, ARTIFACTS.option("One depth.")] = "super",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score shown.")] = 0.5,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write (a folder for several); default: NAME.pred.png."),
    ] = None,
    no_draw: Annotated[
        bool, typer.Option("--no-draw", help="Only tell what was found; write nothing.")
    ] = False,
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = "fp32",
    runtime: Runtime = "onnxruntime",
    orientation: OrientationOption = "upright",
    max_pixels: MaxPixels = MAX_PIXELS,
    json: Json = False,
) -> None:
    """Detect objects at a chosen depth and draw them.

    A picture of a folder that cannot be used is skipped and named; the exit status is 2 then.
    """
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.pictures.folders import contents_of
    from anydepth_deploy.predict import predict as run

    skipped: list[Skipped] = []
    opened = open_bundle(bundle)
    note = contents_of(image, partial=True).note
    if json and out is None and not no_draw and image.is_file():
        try:
            try_to_write(Path("drawing.pred.png"), "picture", ImageError)
        except ImageError:
            no_draw = True
            console.print_note(
                "the working folder cannot be written, so nothing is drawn: --out names another "
                "place"
            )
    with console.bar("predict", quiet=json) as progress:
        found = run(
            opened,
            image,
            depth,
            threshold=threshold,
            out=out,
            layout=layout,
            weights=weights,
            precision=precision,
            runtime=runtime,
            orientation=orientation,
            max_pixels=max_pixels,
            skipped=skipped,
            draw=not no_draw,
            progress=progress,
        )
    if note is not None:
        console.print_note(note)
    if json:
        drawn = [{**asdict(item), "drawn": item.drawn or None} for item in found]
        failures = [asdict(failure) for failure in skipped]
        console.print_json({"predictions": drawn, "skipped": failures})
    else:
        _show(found, skipped)
    if skipped:
        raise ImageError(
            f"{len(skipped)} of {len(found) + len(skipped)} pictures in {image} were skipped: "
            f"{shorten([item.error for item in skipped], 3)}"
        )


def _show(found: Sequence[Prediction], skipped: Sequence[Skipped]) -> None:
    from anydepth_deploy import console

    for item in found:
        rows = [
            [one["class"], f"{one['score']:.3f}", *(f"{side:.1f}" for side in one["box"])]
            for one in item.detections
        ]
        console.print_table(
            f"{item.image} at {item.depth}", ["class", "score", "x1", "y1", "x2", "y2"], rows
        )
        if item.drawn:
            console.print_line(item.drawn)
    for failure in skipped:
        console.print_line(f"skipped: {failure.error}")

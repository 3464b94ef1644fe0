"""``predict``: objects in pictures at a chosen depth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    BundlePath,
    Json,
    LayoutOption,
    PrecisionOption,
    Runtime,
    WeightsOption,
)

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
    layout: LayoutOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = "fp32",
    runtime: Runtime = "onnxruntime",
    json: Json = False,
) -> None:
    """Detect objects at a chosen depth and draw them."""
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.predict import predict as run

    with console.bar("predict", quiet=json) as progress:
        found = run(
            open_bundle(bundle),
            image,
            depth,
            threshold=threshold,
            out=out,
            layout=layout,
            weights=weights,
            precision=precision,
            runtime=runtime,
            progress=progress,
        )
    if json:
        console.print_json([asdict(item) for item in found])
        return
    for item in found:
        rows = [
            [one["class"], f"{one['score']:.3f}", *(f"{side:.1f}" for side in one["box"])]
            for one in item.detections
        ]
        console.print_table(
            f"{item.image} at {item.depth}", ["class", "score", "x1", "y1", "x2", "y2"], rows
        )
        console.print_line(item.drawn)

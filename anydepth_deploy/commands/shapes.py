"""``shapes``: generated pictures with annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anydepth_deploy.commands.options import Json
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import UsageError

__all__ = ["shapes"]


def shapes(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and annotations.json.")],
    count: Annotated[int, typer.Option(min=1)] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    size: Annotated[int, typer.Option(min=32, help="Side of the pictures in pixels.")] = 160,
    json: Json = False,
) -> None:
    """Generate pictures of shapes with COCO annotations (what the tiny detector knows)."""
    from anydepth_deploy import console
    from anydepth_deploy.pictures.shapes import write_coco

    try_to_write(out / "annotations.json", "annotation file", UsageError)
    annotations = write_coco(out, count, seed, "val", size=size)
    if json:
        console.print_json({"annotations": str(annotations), "pictures": count, "seed": seed})
    else:
        console.print_line(f"{count} pictures: {annotations}")

"""``inspect``: what a checkpoint or a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.options import Json, size_of

__all__ = ["inspect"]


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint or a bundle.")],
    every: Annotated[bool, typer.Option(help="List every depth, not only the ladder.")] = False,
    size: Annotated[
        str | None,
        typer.Option(help="Input size for multiply-adds, HEIGHTxWIDTH (checkpoints)."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what a checkpoint or a bundle holds."""
    chosen = size_of(size)
    if not path.is_dir():
        check_present(path)

    from anydepth_deploy import describe

    if path.is_dir():
        found = describe.describe_bundle(path)
    else:
        found = describe.describe_checkpoint(path, chosen)
    describe.show(found, every=every, as_json=json)

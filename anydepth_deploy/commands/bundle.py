"""``bundle edit``: what a bundle calls things, changed without a new export."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from anydepth_deploy.commands.options import BundlePath, Json

__all__ = ["bundle"]


def bundle(
    action: Annotated[Literal["edit"], typer.Argument(help="What to do with it.")],
    path: BundlePath,
    classes: Annotated[
        str | None,
        typer.Option(help="Class names by label, joined by commas, or a file with one a line."),
    ] = None,
    default_ladder: Annotated[
        str | None,
        typer.Option(help="Rungs from base to super, joined by commas, or a file with them."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the bundle: 'inspect' shows it, Triton's models are called so."),
    ] = None,
    json: Json = False,
) -> None:
    """Change class names, the ladder in use or the name of a bundle, without a new export.

    Graphs and engines keep their bytes and their verdicts.
    """
    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.bundle.edit import edit_bundle, listed_classes

    assert action == "edit"
    opened = open_bundle(path)
    found = edit_bundle(
        opened,
        classes=None if classes is None else listed_classes(classes),
        ladder=default_ladder,
        name=name,
    )
    if json:
        console.print_json(asdict(found))
        return
    if not found.changed:
        console.print_line(f"{path}: it is so already, nothing is changed")
    for what, (before, after) in found.changed.items():
        console.print_line(f"{what}: {_shown(before)} -> {_shown(after)}")
    for note in found.notes:
        console.print_line(note)


def _shown(value: Any) -> str:
    from anydepth_deploy.errors import shorten

    if value is None:
        return "none"
    return shorten([value] if isinstance(value, str) else value, 12)

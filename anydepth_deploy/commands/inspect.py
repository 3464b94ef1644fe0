"""``inspect``: what a checkpoint or a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anydepth_deploy.checkpoints.present import check_present, is_bundle
from anydepth_deploy.commands.options import (
    ActivationOption,
    FineCosformerOption,
    FinePositionOption,
    FineUpsamplingOption,
    Json,
    SamplingOption,
    size_of,
)
from anydepth_deploy.families.shared.settling import Said

__all__ = ["inspect"]


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint or a bundle.")],
    every: Annotated[bool, typer.Option(help="List every depth, not only the ladder.")] = False,
    size: Annotated[
        str | None,
        typer.Option(help="Input size for multiply-adds, HEIGHTxWIDTH (checkpoints)."),
    ] = None,
    decoder_activation: ActivationOption = None,
    sampling: SamplingOption = None,
    fine_position: FinePositionOption = None,
    fine_cosformer: FineCosformerOption = None,
    fine_upsampling: FineUpsamplingOption = None,
    json: Json = False,
) -> None:
    """Show what a checkpoint or a bundle holds."""
    chosen = size_of(size)
    said = Said(decoder_activation, sampling, fine_position, fine_cosformer, fine_upsampling)
    bundle = is_bundle(path)
    if not bundle:
        check_present(path)
    elif said.words:
        raise said.refusal()

    from anydepth_deploy import describe

    if bundle:
        found = describe.describe_bundle(path)
    else:
        found = describe.describe_checkpoint(path, chosen, said)
    describe.show(found, every=every, as_json=json)

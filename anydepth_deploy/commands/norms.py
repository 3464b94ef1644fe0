"""``norms``: accuracy that lay unused in the statistics of norms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.options import (
    PICTURES,
    ActivationOption,
    CheckpointPath,
    FineCosformerOption,
    FinePositionOption,
    FineUpsamplingOption,
    Json,
    SamplingOption,
    SizeOption,
    size_of,
)
from anydepth_deploy.documents import try_to_write, write_or_refuse
from anydepth_deploy.errors import CheckFailedError, CheckpointError
from anydepth_deploy.families.shared.settling import Said

__all__ = ["norms"]


def norms(
    checkpoint: CheckpointPath,
    images: Annotated[
        Path, typer.Option(help="Folder of pictures like those to come; labels are not needed.")
    ],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    data: Annotated[
        Path | None,
        PICTURES.option(
            "Annotations (COCO or data.yaml) that accuracy is measured on; default: agreement of "
            "each depth with super."
        ),
    ] = None,
    data_images: Annotated[Path | None, PICTURES.option("Folder of those pictures.")] = None,
    count: Annotated[
        int, PICTURES.option("Pictures that statistics are measured on, at most.", min=1)
    ] = 512,
    seed: Annotated[int, PICTURES.option("Which of them, where there are more.", min=0)] = 0,
    size: SizeOption = None,
    decoder_activation: ActivationOption = None,
    sampling: SamplingOption = None,
    fine_position: FinePositionOption = None,
    fine_cosformer: FineCosformerOption = None,
    fine_upsampling: FineUpsamplingOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write it even where it does not help.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure the statistics of norms anew, for super and for base; no weight changes."""
    chosen_size = size_of(size)
    check_present(checkpoint)
    try_to_write(out, "checkpoint", CheckpointError)

    from anydepth_deploy import console
    from anydepth_deploy.train.norms import reestimate

    with console.bar("norms", quiet=json) as progress:
        found = reestimate(
            checkpoint,
            images,
            data=data,
            data_images=data_images,
            count=count,
            seed=seed,
            size=chosen_size,
            said=Said(decoder_activation, sampling, fine_position, fine_cosformer, fine_upsampling),
            progress=progress,
        )
    gains = found.gains
    written = gains.helps or force
    if written:
        import torch

        write_or_refuse(
            out, lambda file: torch.save(found.content, file), "checkpoint", CheckpointError
        )
    if json:
        console.print_json(
            {
                "checkpoint": str(out) if written else None,
                "norms": found.norms,
                "second_sets_added": found.added,
                "pictures": found.pictures,
                "pictures_sha256": found.pictures_sha256,
                "measure": gains.measure,
                "mean_gain": round(gains.mean, 3),
                "helps": gains.helps,
                "depths": [
                    {"depth": depth, "before": gains.before[depth], "after": gains.after[depth]}
                    for depth in gains.before
                ],
                "notes": [*found.notes],
            }
        )
    else:
        rows = [
            [
                depth,
                f"{gains.before[depth]:.1f}",
                f"{gains.after[depth]:.1f}",
                f"{gains.after[depth] - gains.before[depth]:+.2f}",
            ]
            for depth in gains.before
        ]
        title = f"{gains.measure} of {found.norms} norms measured over {found.pictures} pictures"
        console.print_table(title, ["depth", "before", "after", "gain"], rows)
        for note in found.notes:
            console.print_note(note)
        if written:
            console.print_line(f"written: {out}")
    if not gains.helps:
        told = (
            f"statistics measured anew do not help {checkpoint}: mean {gains.measure} "
            f"{gains.mean:+.2f} over {len(gains.before)} depths"
        )
        if not force:
            raise CheckFailedError(f"{told}; nothing was written")
        if not json:
            console.print_note(f"{told}; {out} was written all the same")

"""``train``: a tiny network, by self-distillation on generated shapes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.options import PICTURES, FamilyOption, Json, Panel

__all__ = ["train"]

RUN = Panel("Run")


def train(
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    family: FamilyOption = "anydepth-detr",
    model: Annotated[str, RUN.option("Size of the network, of its family's.")] = "tiny",
    steps: Annotated[int, RUN.option(min=1)] = 5000,
    seed: Annotated[int, RUN.option(min=0)] = 0,
    data_seed: Annotated[int, PICTURES.option("Which generated pictures.", min=0)] = 0,
    learning_rate: Annotated[
        float | None, RUN.option("At its peak; by default what suits the family.")
    ] = None,
    initial: Annotated[
        Path | None, RUN.option("A checkpoint to start from, for a second round.")
    ] = None,
    ground_truth_share: Annotated[
        float, RUN.option("Share of the run before distillation begins.", min=0, max=1)
    ] = 0.1,
    pictures: Annotated[int, PICTURES.option("Generated training pictures.", min=1)] = 16000,
    batch: Annotated[int, PICTURES.option(min=1)] = 16,
    threads: Annotated[int, RUN.option("0: torch's own choice.", min=0)] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a tiny network on generated shapes by self-distillation."""
    from anydepth_deploy import console
    from anydepth_deploy.train.config import Progress, TrainConfig

    chosen: dict[str, Any] = {} if learning_rate is None else {"learning_rate": learning_rate}
    config = TrainConfig.for_family(
        family,
        output=str(out),
        model=model,
        initial="" if initial is None else str(initial),
        steps=steps,
        seed=seed,
        data_seed=data_seed,
        ground_truth_share=ground_truth_share,
        pictures=pictures,
        batch=batch,
        threads=threads,
        **chosen,
    )
    if initial is not None:
        check_present(initial)

    from anydepth_deploy.train import train as run

    with console.bar("train", quiet=json) as progress:

        def report(state: Progress) -> None:
            losses = f"super {state.super_loss:.2f} base {state.base_loss:.2f}"
            progress(f"{losses} {state.pictures_per_second:.0f}/s", state.step, steps)

        result = run(config, progress=report, resume=resume)
    content = {**asdict(result), "checkpoint": str(result.checkpoint)}
    if json:
        console.print_json(content)
    else:
        console.print_table("trained", list(content), [list(content.values())])

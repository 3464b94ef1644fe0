"""``train``: a detector whose depth is a choice, from a checkpoint and pictures of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.commands.options import (
    NETWORK,
    PICTURES,
    ActivationOption,
    FamilyOption,
    FineCosformerOption,
    FinePositionOption,
    FineUpsamplingOption,
    Json,
    Panel,
    SamplingOption,
    SizeOption,
    size_of,
)
from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.settling import Said

__all__ = ["train"]

RUN = Panel("Run")
LEARNING = Panel("Learning")
NORMS = Panel("Norms")
TEACHER = Panel("Teacher")

EPOCHS = 24
"""Over pictures of one's own, where nobody says how many."""


def train(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="A folder for the run, or, ending in .pth, the checkpoint alone.")
    ],
    data: Annotated[
        Path | None,
        PICTURES.option(
            "Annotations in COCO format (JSON), or a data.yaml in the YOLO format; default: "
            "generated shapes."
        ),
    ] = None,
    images: Annotated[
        Path | None, PICTURES.option("Folder of the pictures; default: where the annotations are.")
    ] = None,
    val_data: Annotated[
        Path | None,
        PICTURES.option("What accuracy is measured on after each epoch; default: data.yaml's val."),
    ] = None,
    val_images: Annotated[Path | None, PICTURES.option("Folder of those pictures.")] = None,
    initial: Annotated[
        Path | None,
        NETWORK.option(
            "A checkpoint to start from: any-depth, or an RT-DETR or D-FINE that becomes so."
        ),
    ] = None,
    family: FamilyOption = "anydepth-detr",
    model: Annotated[
        str, NETWORK.option("Size of the network, of its family's, where there is no checkpoint.")
    ] = "tiny",
    static: Annotated[bool, NETWORK.option("Leave the network without gates.", "--static")] = False,
    size: SizeOption = None,
    decoder_activation: ActivationOption = None,
    sampling: SamplingOption = None,
    fine_position: FinePositionOption = None,
    fine_cosformer: FineCosformerOption = None,
    fine_upsampling: FineUpsamplingOption = None,
    epochs: Annotated[
        int | None, RUN.option(f"Over all pictures; default: {EPOCHS}, with --data.", min=1)
    ] = None,
    steps: Annotated[
        int | None, RUN.option("In place of epochs; default: 5000, of generated shapes.", min=1)
    ] = None,
    batch: Annotated[int, RUN.option("Pictures a step, in all processes together.", min=1)] = 16,
    accumulate: Annotated[
        int, RUN.option("Parts of a batch that are computed one after the other.", min=1)
    ] = 1,
    device: Annotated[
        str | None, RUN.option("cpu or cuda:0; default: the first GPU, if there is one.")
    ] = None,
    precision: Annotated[
        str, RUN.one_of(("fp32", "bf16", "fp16"), "Of the passes; losses are in FP32.")
    ] = "fp32",
    workers: Annotated[int, RUN.option("Processes that read pictures.", min=0)] = 2,
    threads: Annotated[
        int | None, RUN.option("Of torch; 0: its own choice; default: 1 for shapes.", min=0)
    ] = None,
    seed: Annotated[int, RUN.option(min=0)] = 0,
    resume: Annotated[
        bool, RUN.option("Go on with an interrupted run, with its settings.", "--resume")
    ] = False,
    save_every: Annotated[
        int, RUN.option("Steps between two writings of the unfinished run.", min=0)
    ] = 250,
    evaluate_every: Annotated[
        int, RUN.option("Epochs between two measurements of accuracy.", min=1)
    ] = 1,
    base_weight: Annotated[
        float,
        RUN.option("How much base counts in choosing the best checkpoint.", min=0, max=1),
    ] = 0.5,
    learning_rate: Annotated[
        float | None, LEARNING.option("At its peak; by default what suits the family.")
    ] = None,
    backbone_scale: Annotated[
        float | None, LEARNING.option("Rate of the backbone, as a share of the others'.", min=0)
    ] = None,
    weight_decay: Annotated[
        float | None, LEARNING.option("Of weights; norms and biases do not decay.", min=0)
    ] = None,
    warmup: Annotated[int | None, LEARNING.option("Steps of rising rate.", min=0)] = None,
    clip: Annotated[
        float | None,
        LEARNING.option("Largest norm of a step's gradient; 0: gradients are not clipped.", min=0),
    ] = None,
    ground_truth_share: Annotated[
        float | None,
        LEARNING.option(
            "Share of the run before distillation begins; default: 0.1 from nothing, 0 from a "
            "checkpoint.",
            min=0,
            max=1,
        ),
    ] = None,
    train_norms: Annotated[
        bool | None,
        NORMS.option(
            "Whether norms learn that the checkpoint holds frozen; second sets always do.",
            "--train-norms/--freeze-norms",
        ),
    ] = None,
    augment: Annotated[
        bool, PICTURES.option("Change pictures at random.", "--augment/--no-augment")
    ] = True,
    plain_epochs: Annotated[
        int, PICTURES.option("Epochs at the end in which pictures are only flipped.", min=0)
    ] = 0,
    pictures: Annotated[int, PICTURES.option("Generated training pictures.", min=1)] = 16000,
    data_seed: Annotated[int, PICTURES.option("Which generated pictures.", min=0)] = 0,
    teacher: Annotated[
        Path | None,
        TEACHER.option("Folder of a vision transformer, whose features super learns from, too."),
    ] = None,
    semantic_weight: Annotated[
        float | None, TEACHER.option("Of the teacher's term at the start.", min=0)
    ] = None,
    semantic_share: Annotated[
        float | None,
        TEACHER.option("Percent of the gradient that attention is to get; moves the weight."),
    ] = None,
    semantic_band: Annotated[
        float | None, TEACHER.option("How far from that share the weight is left alone, percent.")
    ] = None,
    json: Json = False,
) -> None:
    """Train an any-depth detector, from a checkpoint and pictures of yours or from nothing.

    Under torchrun, on as many GPUs and machines as it starts.
    """
    given = {
        name: value
        for name, value in locals().items()
        if name not in ("context", "json", "resume") and _is_given(context, name)
    }
    if epochs is not None and steps is not None:
        raise UsageError("--epochs and --steps: two lengths of one run; name one of them")
    if not resume:  # where the settings of the run say the rest
        _check_together(given)
    chosen_size = size_of(size)

    from anydepth_deploy.train.config import TrainConfig

    chosen = {name: value for name, value in given.items() if name in TrainConfig.__annotations__}
    for name in ("data", "images", "val_data", "val_images", "initial", "teacher"):
        if name in given:
            chosen[name] = str(given[name])
    chosen["output"] = str(out)
    said = Said(decoder_activation, sampling, fine_position, fine_cosformer, fine_upsampling).words
    if said:
        chosen["said"] = said
    if chosen_size is not None:
        chosen["input_size"] = chosen_size
    config = _config(chosen, resume)
    if config.initial:
        check_present(Path(config.initial))

    from anydepth_deploy import console
    from anydepth_deploy.train import train as run
    from anydepth_deploy.train.processes import is_main_process

    talks = is_main_process()
    total = config.steps

    with console.bar("train", quiet=json or not talks) as progress:

        def report(state: Any) -> None:
            losses = f"super {state.super_loss:.2f}"
            if not config.static:
                losses += f" base {state.base_loss:.2f}"
            progress(
                f"{losses} {state.pictures_per_second:.0f}/s", state.step, state.steps or total
            )
            if state.accuracy and talks and not json:
                console.print_note(_accuracy_line(state.step, state.accuracy))

        def tell(text: str) -> None:
            if talks and not json:
                console.print_note(text)

        try:
            result = run(config, progress=report, note=tell, resume=resume)
        except KeyboardInterrupt as error:
            if str(error) and talks:
                console.print_note(str(error))
            raise
    if not talks:
        return
    content = {**asdict(result), "checkpoint": str(result.checkpoint), "notes": [*result.notes]}
    if json:
        console.print_json(content)
        return
    columns = ["checkpoint", "steps", "seconds", "pictures/s", "super loss", "base loss"]
    cells = [
        str(result.checkpoint),
        result.steps,
        f"{result.seconds:.0f}",
        f"{result.pictures_per_second:.1f}",
        f"{result.super_loss:.3f}",
        "-" if config.static else f"{result.base_loss:.3f}",
    ]
    console.print_table("trained", columns, [cells])
    if result.accuracy:
        rows = [[depth, f"{value:.1f}"] for depth, value in result.accuracy.items()]
        console.print_line("average precision of that checkpoint:")
        console.print_table("", ["depth", "AP"], rows)
    if result.skipped:
        names = [f"{name}: {why}" for name, why in result.skipped.items()]
        count = len(names)
        console.print_note(
            f"{count} picture{'s' * (count > 1)} could not be read: {'; '.join(names[:3])}"
            + ("; ..." if count > 3 else "")
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


USELESS = (
    ("images", "data", True, "pictures of --data, which is not there"),
    ("val_images", "val_data", True, "pictures of --val-data, which is not there"),
    ("semantic_weight", "teacher", True, "of --teacher, which is not there"),
    ("semantic_share", "teacher", True, "of --teacher, which is not there"),
    ("semantic_band", "teacher", True, "of --teacher, which is not there"),
    ("model", "initial", False, "--initial says which network it is"),
    ("pictures", "data", False, "of generated shapes, which --data replaces"),
    ("data_seed", "data", False, "of generated shapes, which --data replaces"),
)
"""Options that say nothing without another one, or with it (False), and why."""


def _check_together(given: Mapping[str, Any]) -> None:
    """Raises :class:`UsageError` for options that would change nothing."""
    for name, other, needed, why in USELESS:
        if name in given and (other in given) != needed:
            advice = f"name --{other.replace('_', '-')}, too, or leave it out"
            raise UsageError(
                f"--{name.replace('_', '-')}: {why}; {advice if needed else 'leave it out'}"
            )
    for name, other in (("images", "data"), ("val_images", "val_data")):
        if name in given and _is_yaml(str(given[other])):
            raise UsageError(
                f"--{name.replace('_', '-')}: {given[other]} says itself where its pictures are; "
                "leave it out"
            )


def _config(chosen: dict[str, Any], resume: bool) -> Any:
    """The settings of the run: those of the interrupted one, where it goes on, then what is named
    here, then what suits the network."""
    from anydepth_deploy.train.config import TrainConfig

    if resume:
        from anydepth_deploy.train.checkpointing import resumed_settings

        bare = TrainConfig.for_family(output=chosen["output"])
        return resumed_settings(bare.partial, chosen)
    if "val_data" not in chosen and _is_yaml(chosen.get("data")):
        chosen["val_data"] = chosen["data"]
    if "data" in chosen:
        chosen = {"threads": 0, **chosen}
        if "epochs" not in chosen and "steps" not in chosen:
            chosen["epochs"] = EPOCHS
    family = chosen.pop("family", None)
    if "initial" in chosen:
        family, usual = _of_checkpoint(chosen, family)
        if "data" in chosen:
            chosen = {"input_size": usual, **chosen}
    elif "model" in chosen and "data" in chosen:
        from anydepth_deploy.families.registry import find_family

        sizes: Mapping[str, Any] = find_family(family or "anydepth-detr").sizes
        if chosen["model"] in sizes:
            chosen = {"input_size": sizes[chosen["model"]].input_size, **chosen}
    chosen.setdefault("device", "auto")
    return TrainConfig.for_family(family or "anydepth-detr", **chosen)


def _is_yaml(path: str | None) -> bool:
    return path is not None and Path(path).suffix.lower() in (".yaml", ".yml")


def _of_checkpoint(chosen: Mapping[str, Any], family: str | None) -> tuple[str, tuple[int, int]]:
    """Family and usual input size of the checkpoint to start from."""
    path = check_present(Path(chosen["initial"]))

    from anydepth_deploy.checkpoints.checkpoint import read_checkpoint

    found = read_checkpoint(path, Said.of(chosen.get("said", {})))
    return family or found.family.name, found.usual_size()


def _accuracy_line(step: int, accuracy: Mapping[str, float]) -> str:
    """Of one measurement, for a person."""
    told = ", ".join(f"{depth} {value:.1f}" for depth, value in accuracy.items())
    return f"step {step}: AP {told}"

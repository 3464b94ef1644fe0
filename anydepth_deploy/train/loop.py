"""A whole training run: pictures, model, steps, files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anydepth_deploy.checkpoints.checkpoint import read_checkpoint
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import CheckpointError, UsageError, missing_extra
from anydepth_deploy.families.registry import find_family, find_training
from anydepth_deploy.families.shared.recipe import Recipe, RecipeSettings
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train.checkpointing import Done, load_partial, save_checkpoint, save_partial
from anydepth_deploy.train.config import Progress, TrainConfig, TrainResult
from anydepth_deploy.train.data.order import Order, step_generator
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.schedule import learning_rate_factor, parameter_groups
from anydepth_deploy.train.step import StepLosses, training_step
from anydepth_deploy.train.weights import load_stored_state

__all__ = ["make_recipe", "train"]


@usual_state()
def make_recipe(config: TrainConfig) -> Recipe[Any]:
    """The recipe of the configuration's family, with a fresh model, the same for the same seed,
    channels last in memory.

    Raises :class:`UsageError` for an unknown family or model name, and :class:`MissingExtraError`
    for a package that the family needs to train and that is not installed.
    """
    family, training = find_family(config.family), find_training(config.family)
    if config.model not in family.sizes:
        raise UsageError(
            f"unknown model {config.model!r}: choose one of {', '.join(sorted(family.sizes))}"
        )
    size = replace(
        family.sizes[config.model],
        classes=config.classes,
        input_size=(config.input_size, config.input_size),
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = family.build(size)
            training.initialise(model)
        recipe = training.recipe(model, RecipeSettings(denoising=config.denoising))
    except ModuleNotFoundError as error:
        raise (missing_extra(error, "training", extra="train") or error) from error
    recipe.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return recipe


@usual_state()
def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    pictures: TrainingPictures | None = None,
) -> TrainResult:
    """Train a model on generated shapes and write its checkpoint.

    The same settings give the same weights on the same machine. ``resume``: continue the unfinished
    run at ``config.partial``. ``progress``: called after every step. ``pictures``: train on these
    instead of generating them.

    Raises :class:`UsageError` for settings that no run can use, and :class:`CheckpointError` if
    ``resume`` is set and the unfinished run is missing or does not fit, if ``config.initial`` is
    of another network, or, before any work, if ``config.output`` cannot be written.
    """
    try_to_write(Path(config.output), "checkpoint", CheckpointError)
    before = torch.get_num_threads()
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    try:
        return _train(config, resume, progress, pictures)
    finally:
        torch.set_num_threads(before)


def _train(
    config: TrainConfig,
    resume: bool,
    progress: Callable[[Progress], None] | None,
    pictures: TrainingPictures | None,
) -> TrainResult:
    recipe = make_recipe(config)
    model = recipe.model
    if config.initial:
        _load_initial(config, recipe)
    model.train()
    ema = Ema(model, decay=config.ema_decay, warmup=config.ema_warmup)
    optimizer = _optimizer(config, model)
    earlier = load_partial(config, recipe, ema, optimizer) if resume else Done()
    if pictures is None:
        drawn = render_many(
            config.pictures,
            config.data_seed,
            "train",
            size=config.input_size,
            processes=config.processes,
        )
        pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
    order = Order(len(pictures), config.batch, config.seed)
    clock = _Clock(config, earlier.step, earlier.seconds)
    recent = _Recent(earlier.losses)
    while not clock.finished:
        step, fraction = clock.step, clock.fraction
        factor = learning_rate_factor(step, fraction, warmup=config.warmup, final=config.final_rate)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        generator = step_generator(config.seed, step)
        images, targets = pictures.batch(order.indices(step), generator)
        losses = training_step(
            recipe,
            optimizer,
            ema,
            images,
            targets,
            distill=fraction >= config.ground_truth_share,
            clip=config.clip,
            generator=generator,
        )
        clock.advance()
        report = _report(config, clock, config.learning_rate * factor, losses)
        recent.add(report)
        if progress is not None:
            progress(report)
        if config.save_every and clock.step % config.save_every == 0 and not clock.finished:
            save_partial(
                config,
                recipe,
                ema,
                optimizer,
                Done(clock.step, clock.seconds, recent.losses),
                epoch=order.epoch(clock.step),
                class_names=CLASS_NAMES,
            )
    result = TrainResult(
        checkpoint=Path(config.output),
        steps=clock.step,
        seconds=clock.seconds,
        pictures_per_second=clock.pictures_per_second,
        super_loss=recent.super_loss,
        base_loss=recent.base_loss,
    )
    save_checkpoint(
        result.checkpoint,
        config,
        recipe,
        ema,
        epoch=order.epoch(clock.step),
        class_names=CLASS_NAMES,
        figures={
            "steps": float(result.steps),
            "seconds": result.seconds,
            "pictures_per_second": result.pictures_per_second,
            "super_loss": result.super_loss,
            "base_loss": result.base_loss,
        },
    )
    config.partial.unlink(missing_ok=True)
    return result


def _load_initial(config: TrainConfig, recipe: Recipe[Any]) -> None:
    """Start from ``config.initial``. Raises :class:`CheckpointError` where it is of another
    network."""
    found = read_checkpoint(config.initial)
    wanted: Any = getattr(recipe.model, "config", found.config)
    one, other = (
        f"{family} {network.name} with {network.classes} classes"
        for family, network in ((found.family.name, found.config), (config.family, wanted))
    )
    if one != other:
        raise CheckpointError(
            f"checkpoint {config.initial} is of {one}, this run trains {other}: name one of the "
            "same network, or leave --initial out"
        )
    try:
        load_stored_state(recipe.model, found.state, recipe.stores)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {config.initial}: {error}") from None


class _Clock:
    """How far a run is, in steps or in minutes."""

    def __init__(self, config: TrainConfig, step: int, earlier: float) -> None:
        self.step = step
        self._config = config
        self._earlier = earlier
        self._start = time.monotonic()

    def advance(self) -> None:
        self.step += 1

    @property
    def seconds(self) -> float:
        """Of training, those before an interruption included."""
        return self._earlier + time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        if self._config.minutes is not None:
            return min(1.0, self.seconds / (60 * self._config.minutes))
        return min(1.0, self.step / self._config.steps)

    @property
    def finished(self) -> bool:
        return self.fraction >= 1.0

    @property
    def pictures_per_second(self) -> float:
        """Over the whole run, as its seconds are."""
        return self.step * self._config.batch / max(self.seconds, 1e-9)


class _Recent:
    """Mean losses of the last steps, those before an interruption (``losses``) included."""

    def __init__(self, losses: Sequence[tuple[float, float]] = (), keep: int = 100) -> None:
        self._last = deque(losses, keep)

    def add(self, report: Progress) -> None:
        self._last.append((report.super_loss, report.base_loss))

    @property
    def losses(self) -> tuple[tuple[float, float], ...]:
        """Super's and base's of each step."""
        return tuple(self._last)

    @property
    def super_loss(self) -> float:
        return sum(pair[0] for pair in self._last) / max(1, len(self._last))

    @property
    def base_loss(self) -> float:
        return sum(pair[1] for pair in self._last) / max(1, len(self._last))


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups(
        model,
        learning_rate=config.learning_rate,
        backbone_scale=config.backbone_scale,
        weight_decay=config.weight_decay,
    )
    # Fused: hundreds of small tensors, whose updates one by one would cost as much as a layer.
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _report(
    config: TrainConfig, clock: _Clock, learning_rate: float, losses: StepLosses
) -> Progress:
    super_terms = {name: float(term) for name, term in losses.super_terms.items()}
    base_terms = {name: float(term) for name, term in losses.base_terms.items()}
    return Progress(
        step=clock.step,
        steps=None if config.minutes is not None else config.steps,
        fraction=clock.fraction,
        seconds=clock.seconds,
        learning_rate=learning_rate,
        super_loss=sum(super_terms.values()),
        base_loss=sum(base_terms.values()),
        super_terms=super_terms,
        base_terms=base_terms,
        pictures_per_second=clock.pictures_per_second,
    )

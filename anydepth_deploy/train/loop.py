"""A whole training run: pictures, network, steps, measurements, files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anydepth_deploy.errors import DivergedError, shorten
from anydepth_deploy.families.shared.augmentation import PLAIN
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.pictures.shapes import CLASS_NAMES
from anydepth_deploy.train.checkpointing import (
    Best,
    Done,
    State,
    load_partial,
    save_checkpoint,
    save_partial,
)
from anydepth_deploy.train.checks import check_batch, check_objects, check_output, lacks_val
from anydepth_deploy.train.clock import Clock, Recent, progress_of
from anydepth_deploy.train.config import Progress, TrainConfig, TrainResult
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.interruption import StoppedTraining, stopping
from anydepth_deploy.train.processes import Processes, device_for, joined
from anydepth_deploy.train.records import Records
from anydepth_deploy.train.schedule import learning_rate_factor, make_optimizer
from anydepth_deploy.train.semantics.open import open_semantics
from anydepth_deploy.train.semantics.teachers import SemanticTeacher
from anydepth_deploy.train.source import FileSource, ShapesSource, Source, Step
from anydepth_deploy.train.start import Start, open_start
from anydepth_deploy.train.step import StepLosses, Stepper
from anydepth_deploy.train.validation import Example, Validation, best_score

__all__ = ["StoppedTraining", "make_recipe", "train"]

USUAL_DECAY, SHORTEST = 0.9999, 10.0
"""Of the average: the authors' decay in long runs; in short ones the average is that of the last
tenth of a hundredth of the steps, as in those of the tiny networks."""


def make_recipe(config: TrainConfig) -> Any:
    """The recipe of the configuration's network, from nothing, for generated shapes; see
    :func:`~anydepth_deploy.train.start.open_start`."""
    return open_start(config, CLASS_NAMES).recipe


@usual_state()
def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
    pictures: TrainingPictures | None = None,
    teacher: SemanticTeacher | None = None,
    prepare: Callable[[AnyDepthModel], None] | None = None,
) -> TrainResult:
    """Train a network and write its checkpoint.

    The same settings give the same weights on the same machine. ``resume``: continue the unfinished
    run at ``config.partial``. ``progress``: called after every step; ``note``: before the first,
    with each of :attr:`TrainResult.notes`. ``pictures``: train on these instead of generating them,
    an epoch of which they are. ``teacher``: what super learns from beside the objects, in place of
    the folder ``config.teacher``. ``prepare``: may change the network before it learns, in training
    form and on its device; what it does is in no file, and a resumed run needs it again. In every
    process that torchrun started, this is to be called with the same arguments; the files are the
    first one's.

    Raises :class:`UsageError` for settings that no run can use, and :class:`CheckpointError` if
    ``resume`` is set and the unfinished run is missing or does not fit, if ``config.initial``
    cannot be started from, or, before any work, if ``config.output`` cannot be written;
    :class:`ImageError` for data that cannot be used, :class:`DivergedError` when losses are no
    longer numbers. Ctrl-C and SIGTERM end a run with :class:`StoppedTraining`, once its state is
    written.
    """
    device = device_for(config.device)
    before = torch.get_num_threads()
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    try:
        with joined(device) as processes:
            if processes.is_main:
                check_output(config, resume)
            check_batch(config, processes.world)
            with contextlib.ExitStack() as stack:
                run = _Run(config, device, processes, pictures, teacher, prepare)
                stack.enter_context(run.source)
                return run.run(resume, progress, note)
    finally:
        torch.set_num_threads(before)


class _Run:
    """One run, in this process."""

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        processes: Processes,
        pictures: TrainingPictures | None,
        teacher: SemanticTeacher | None,
        prepare: Callable[[AnyDepthModel], None] | None,
    ) -> None:
        self.config, self.device, self.processes = config, device, processes
        data = validation = None
        if config.data:
            data = read_data_set(config.data, config.images or None)
        names = CLASS_NAMES if data is None else data.classes
        unmeasured = lacks_val(config)
        if config.val_data and not unmeasured:
            found = read_data_set(config.val_data, config.val_images or None, which="val")
            validation, _ = found.matched(names)
        self.start: Start = open_start(config, names, processes)
        self.notes = list(self.start.notes)
        if unmeasured:
            self.notes.append(f"{config.data} names no val: accuracy is not measured")
        if data is not None:
            check_objects(data, self.start)
        self.model = self.start.model.to(device)
        if processes.world > 1 and device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        self.steps = config.steps
        if config.epochs is not None:
            # As many as there are, not as many as are asked for.
            given: TrainingPictures | DetectionSet | None = pictures if data is None else data
            count = config.pictures if given is None else len(given)
            self.steps = -(-config.epochs * count // config.batch)
        self.source: Source
        if data is None:
            self.source = ShapesSource(config, processes, pictures)
        else:
            training = self.start.family.training
            assert training is not None
            self.source = FileSource(
                config,
                processes,
                device,
                data,
                training.augmentation if config.augment else PLAIN,
                self.model.resize,
                self.steps,
                self.model.check_size,
            )
        if prepare is not None:
            prepare(self.model)
        self.notes += self.source.notes
        if validation is not None:
            self.notes += [f"validation set: {finding.text}" for finding in validation.findings]
        self.semantics = open_semantics(config, self.model, processes, teacher)
        if self.semantics is not None and self.start.projector:
            self.notes.append(self.semantics.take_over(self.start.projector))
        self.validation: Validation | None = None
        if validation is not None:
            build = self.start.family.build
            self.validation = Validation(
                self.model, build, validation, config.input_size, processes
            )
        self.model.train()
        self.records: Records | None = None

    def run(
        self,
        resume: bool,
        progress: Callable[[Progress], None] | None,
        note: Callable[[str], None] | None,
    ) -> TrainResult:
        config, source = self.config, self.source
        stepper = Stepper(
            self.start.recipe,
            self.processes,
            static=config.static,
            precision=config.precision,
            semantics=self.semantics,
        )
        decay, warmup = self._averaging()
        ema = Ema(self.model, decay=decay, warmup=warmup)
        beside = [] if self.semantics is None else list(self.semantics.parameters())
        optimizer = make_optimizer(config, self.model, beside)
        self.state = State(
            config,
            self.start,
            ema,
            optimizer,
            stepper.scaler,
            source.class_names,
            source.pictures,
            has_teacher=self.semantics is not None,
        )
        done = load_partial(self.state) if resume else Done()
        self.best, skipped = done.best, dict(done.skipped)
        if self.semantics is not None and done.step:
            self.semantics.load_state_dict(done.semantics, str(config.partial))
        if config.is_folder and self.processes.is_main:
            self.records = Records(config, source.class_names, done.step, done.unwritten)
        if note is not None:
            for text in self.notes:
                note(text)
        clock = Clock(config, self.steps, done.step, done.seconds)
        recent = Recent(done.losses)
        waited = done.waited
        report: Progress | None = None
        with stopping() as stop:
            for step in source.steps(done.step):
                if clock.finished:
                    break
                waited += step.waited
                rate = self._set_rate(optimizer, clock)
                losses = self._step(stepper, optimizer, ema, step, clock, stop.asked)
                clock.advance()
                recent.add(losses)
                report = progress_of(self.steps, clock, rate, losses, waited)
                skipped |= source.skipped
                done = Done(
                    clock.step, clock.seconds, recent.losses, self.best, skipped, waited=waited
                )
                if self.semantics is not None and self._ends_epoch(clock):
                    self.semantics.end_of_epoch(last_stage=self._is_plain(clock))
                if self.records is not None:
                    self.records.add(report)
                done, report = self._after(done, report, clock)
                skipped |= done.skipped
                if progress is not None:
                    progress(report)
                if losses.stopping and not clock.finished:
                    self._save(done)
                    raise StoppedTraining(clock.step, config.partial)
        return self._finish(done, recent, clock)

    def _averaging(self) -> tuple[float, float]:
        """Decay and warm-up of the average, where the settings leave them to the length."""
        config = self.config
        steps = 5000 if config.minutes is not None else self.steps
        decay, warmup = config.ema_decay, config.ema_warmup
        if decay is None:
            decay = min(USUAL_DECAY, max(0.0, 1 - SHORTEST / steps))
        return decay, max(1.0, steps / 50) if warmup is None else warmup

    def _set_rate(self, optimizer: torch.optim.Optimizer, clock: Clock) -> float:
        config = self.config
        warmup = min(config.warmup, max(1, self.steps // 10))
        factor = learning_rate_factor(
            clock.step, clock.fraction, warmup=warmup, final=config.final_rate
        )
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return config.learning_rate * factor

    def _step(
        self,
        stepper: Stepper,
        optimizer: torch.optim.Optimizer,
        ema: Ema,
        step: Step,
        clock: Clock,
        stop: bool,
    ) -> StepLosses:
        """Raises :class:`DivergedError`, which names the pictures; nothing is updated then."""
        config = self.config
        pairs = [
            (images.to(self.device, non_blocking=True), targets.to(self.device))
            for images, targets in step.batches
        ]
        try:
            losses = stepper.step(
                optimizer,
                ema,
                pairs,
                distill=clock.fraction >= config.ground_truth_share,
                clip=config.clip,
                generator=step.generator,
                stop=stop,
            )
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._where(step, clock)}") from error
        if not losses.is_finite:
            wrong = [
                name
                for terms in (losses.super_terms, losses.base_terms)
                for name, term in terms.items()
                if not bool(term.isfinite())
            ]
            raise DivergedError(
                f"the loss is no number any more ({shorten(wrong) or 'in another process'}); "
                f"{self._where(step, clock)}"
            )
        return losses

    def _where(self, step: Step, clock: Clock) -> str:
        """When it was, with which pictures, and what to do."""
        pictures = f", pictures {shorten(step.names, 64)}" if step.names else ""
        kept = self.config.partial
        saved = f"{kept} holds the run before it" if kept.exists() else "nothing was saved yet"
        return (
            f"at step {clock.step + 1}{pictures}; {saved}: look at these pictures and their boxes, "
            "or lower --learning-rate"
        )

    def _after(self, done: Done, report: Progress, clock: Clock) -> tuple[Done, Progress]:
        """What follows a step: measure and write, where it ends an epoch or is the last."""
        config, (before, epoch) = self.config, self._epochs(clock)
        due = bool(config.save_every) and clock.step % config.save_every == 0
        # A step may end several epochs at once.
        measures = epoch // config.evaluate_every > before // config.evaluate_every
        examples: Sequence[Example] = []
        if self.validation is not None and (measures or clock.finished):
            done, report = self._measure(done, report)
            examples, due = self.validation.examples, True
        if self.records is not None and (epoch > before or clock.finished):
            self.records.epoch(epoch, report, report.accuracy or {}, examples)
            due = due or measures
        if due and not clock.finished:
            self._save(done)
        return done, report

    def _epochs(self, clock: Clock) -> tuple[int, int]:
        """How many epochs were whole before the last step, and are after it."""
        count, batch = self.source.pictures, self.config.batch
        return (clock.step - 1) * batch // count, clock.step * batch // count

    def _ends_epoch(self, clock: Clock) -> bool:
        """Whether the last step took the last picture of an epoch."""
        before, epoch = self._epochs(clock)
        return epoch > before

    def _is_plain(self, clock: Clock) -> bool:
        """Whether pictures are hardly changed any more."""
        left = (self.steps - clock.step) * self.config.batch
        return left < self.config.plain_epochs * self.source.pictures

    def _measure(self, done: Done, report: Progress) -> tuple[Done, Progress]:
        assert self.validation is not None
        ema = self.state.ema
        self.processes.share(ema.state)
        accuracy = self.validation.run(self.start.stored(ema.state))
        report = replace(report, accuracy=accuracy)
        score = best_score(accuracy, 0.0 if self.config.static else self.config.base_weight)
        if self.best is None or score > self.best.score:
            self.best = Best(score, done.step, accuracy)
            if self.config.is_folder and self.processes.is_main:
                path = Path(self.config.output) / "best.pth"
                figures = {"steps": float(done.step), "score": score, "ap": dict(accuracy)}
                save_checkpoint(path, self.state, step=done.step, figures=figures)
        skipped = {**done.skipped, **self.validation.skipped}
        return replace(done, best=self.best, measured=accuracy, skipped=skipped), report

    def _save(self, done: Done) -> None:
        if self.processes.is_main:
            save_partial(self.state, self._kept(done), {"seconds": done.seconds})

    def _kept(self, done: Done) -> Done:
        """With what else a run goes on from."""
        if self.semantics is not None:
            done = replace(done, semantics=self.semantics.state_dict())
        if self.records is not None:
            done = replace(done, unwritten=self.records.unwritten)
        return done

    def _finish(self, done: Done, recent: Recent, clock: Clock) -> TrainResult:
        config, best = self.config, self.best
        skipped: dict[str, str] = {}
        for part in self.processes.gather(dict(done.skipped)):  # each came upon others
            skipped |= part
        done = replace(done, skipped=skipped)
        kept = config.is_folder and best is not None
        result = TrainResult(
            checkpoint=Path(config.output) / "best.pth" if kept else config.checkpoint,
            steps=clock.step,
            seconds=clock.seconds,
            pictures_per_second=clock.pictures_per_second,
            super_loss=recent.super_loss,
            base_loss=recent.base_loss,
            accuracy=best.accuracy if kept and best is not None else done.measured,
            skipped=skipped,
            notes=tuple(self.notes),
        )
        if self.processes.is_main:
            figures: dict[str, Any] = {
                "steps": float(result.steps),
                "seconds": result.seconds,
                "pictures_per_second": result.pictures_per_second,
                "super_loss": result.super_loss,
                "base_loss": result.base_loss,
            }
            if done.measured:
                figures["ap"] = dict(done.measured)
            if config.is_folder:
                save_partial(self.state, self._kept(done), figures)
            else:
                save_checkpoint(config.checkpoint, self.state, step=clock.step, figures=figures)
                config.partial.unlink(missing_ok=True)
        if self.records is not None:
            self.records.close()
        self.processes.wait()
        return result

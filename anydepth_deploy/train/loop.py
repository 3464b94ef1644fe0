"""A whole training run: pictures, network, steps, measurements, files."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import CheckpointError, DivergedError, UsageError, shorten
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
from anydepth_deploy.train.config import Progress, TrainConfig, TrainResult
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.data.yolo_files import has_part
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.processes import Processes, device_for, joined
from anydepth_deploy.train.records import Records
from anydepth_deploy.train.schedule import learning_rate_factor, parameter_groups
from anydepth_deploy.train.semantics.distillation import SemanticDistillation
from anydepth_deploy.train.semantics.modulation import SemanticSettings
from anydepth_deploy.train.semantics.teachers import SemanticTeacher
from anydepth_deploy.train.semantics.vision_transformers import open_vision_transformer
from anydepth_deploy.train.source import FileSource, ShapesSource, Source, Step
from anydepth_deploy.train.start import Start, open_start
from anydepth_deploy.train.step import StepLosses, Stepper
from anydepth_deploy.train.validation import Example, Validation, best_score

__all__ = ["StoppedTraining", "make_recipe", "train"]

USUAL_DECAY, SHORTEST = 0.9999, 10.0
"""Of the average: the authors' decay in long runs; in short ones the average is that of the last
tenth of a hundredth of the steps, as in those of the tiny networks."""


class StoppedTraining(KeyboardInterrupt):
    """A run that was interrupted, after its state was written to ``path``."""

    def __init__(self, step: int, path: Path) -> None:
        super().__init__(f"stopped after step {step}; {path} holds it: --resume goes on")
        self.step, self.path = step, path


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
                _check_output(config, resume)
            parts = config.accumulate * processes.world
            if config.batch % parts:
                raise UsageError(
                    f"a batch of {config.batch} cannot be shared by {processes.world} processes in "
                    f"{config.accumulate} parts each: choose a multiple of {parts}"
                )
            height, width = config.input_size
            if config.batch // parts * (height // 32) * (width // 32) < 2:
                raise UsageError(
                    f"one picture of {height}x{width} in a pass is one cell of the coarsest map, "
                    "and norms need more: a larger --size, or a larger --batch"
                )
            with contextlib.ExitStack() as stack:
                run = _Run(config, device, processes, pictures, teacher, prepare)
                stack.enter_context(run.source)
                return run.run(resume, progress, note)
    finally:
        torch.set_num_threads(before)


def _check_output(config: TrainConfig, resume: bool) -> None:
    if resume and not config.partial.exists():  # before the data is read, or drawn
        raise CheckpointError(
            f"there is no unfinished run at {config.partial}: train without --resume"
        )
    try_to_write(config.checkpoint, "checkpoint", CheckpointError)
    if resume:
        return
    if config.partial.exists():
        held = config.output if config.is_folder else config.partial
        raise UsageError(
            f"{held} holds a run already: --resume goes on with it, or name another "
            f"{'folder' if config.is_folder else 'file'} with --out"
        )
    if config.is_folder and (best := Path(config.output) / "best.pth").exists():
        raise UsageError(
            f"{best} is of an earlier run, which this one would overwrite: name another folder "
            "with --out, or move the file away"
        )


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
        lacks_val = _lacks_val(config)
        if config.val_data and not lacks_val:
            found = read_data_set(config.val_data, config.val_images or None, which="val")
            validation, _ = found.matched(names)
        self.start: Start = open_start(config, names, processes)
        self.notes = list(self.start.notes)
        if lacks_val:
            self.notes.append(f"{config.data} names no val: accuracy is not measured")
        if data is not None:
            _check_objects(data, self.start)
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
        self.semantics = _open_semantics(config, self.model, processes, teacher)
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
        optimizer = _optimizer(config, self.model, self.semantics)
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
        clock = _Clock(config, self.steps, done.step, done.seconds)
        recent = _Recent(done.losses)
        waited = done.waited
        report: Progress | None = None
        with _stopping() as stop:
            for step in source.steps(done.step):
                if clock.finished:
                    break
                waited += step.waited
                rate = self._set_rate(optimizer, clock)
                losses = self._step(stepper, optimizer, ema, step, clock, stop.asked)
                clock.advance()
                recent.add(losses)
                report = _report(self.steps, clock, rate, losses, waited)
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

    def _set_rate(self, optimizer: torch.optim.Optimizer, clock: _Clock) -> float:
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
        clock: _Clock,
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

    def _where(self, step: Step, clock: _Clock) -> str:
        """When it was, with which pictures, and what to do."""
        pictures = f", pictures {shorten(step.names, 64)}" if step.names else ""
        kept = self.config.partial
        saved = f"{kept} holds the run before it" if kept.exists() else "nothing was saved yet"
        return (
            f"at step {clock.step + 1}{pictures}; {saved}: look at these pictures and their boxes, "
            "or lower --learning-rate"
        )

    def _after(self, done: Done, report: Progress, clock: _Clock) -> tuple[Done, Progress]:
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

    def _epochs(self, clock: _Clock) -> tuple[int, int]:
        """How many epochs were whole before the last step, and are after it."""
        count, batch = self.source.pictures, self.config.batch
        return (clock.step - 1) * batch // count, clock.step * batch // count

    def _ends_epoch(self, clock: _Clock) -> bool:
        """Whether the last step took the last picture of an epoch."""
        before, epoch = self._epochs(clock)
        return epoch > before

    def _is_plain(self, clock: _Clock) -> bool:
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

    def _finish(self, done: Done, recent: _Recent, clock: _Clock) -> TrainResult:
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


def _lacks_val(config: TrainConfig) -> bool:
    """Whether what is trained on and measured on is one data.yaml, which has no such part: not
    every data set has pictures to spare."""
    source = Path(config.data)
    yaml = source.suffix.lower() in (".yaml", ".yml")
    return yaml and config.val_data == config.data and not has_part(source, "val")


def _check_objects(data: DetectionSet, start: Start) -> None:
    """Refuse a picture with more objects than the network can find, before it is met by chance."""
    queries = getattr(start.model.config, "queries", None)
    owners = data.objects.owner[~data.objects.crowd]
    counts = np.bincount(owners, minlength=len(data))
    if queries is not None and counts.max() > queries:
        many = np.flatnonzero(counts > queries)
        raise UsageError(
            f"data set {data.source}: {len(many)} of {len(data)} pictures have more objects than "
            f"the network has queries ({queries}); the first: {data.paths[many[0]]} with "
            f"{counts[many[0]]}; cut these pictures into parts, leave them out, or train a network "
            "with more queries"
        )


class _Stop:
    """Whether somebody asked for the end."""

    asked = False

    def __call__(self, number: int, frame: object) -> None:
        if self.asked:  # a second time: at once
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def _stopping() -> Iterator[_Stop]:
    """Take Ctrl-C and SIGTERM as a wish to end after this step; in threads they are not ours."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Clock:
    """How far a run is, in steps or in minutes."""

    def __init__(self, config: TrainConfig, steps: int, step: int, earlier: float) -> None:
        self.step = step
        self.steps = None if config.minutes is not None else steps
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
        if self.steps is None:
            assert self._config.minutes is not None
            return min(1.0, self.seconds / (60 * self._config.minutes))
        return min(1.0, self.step / self.steps)

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

    def add(self, report: StepLosses | Progress) -> None:
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


def _open_semantics(
    config: TrainConfig,
    model: AnyDepthModel,
    processes: Processes,
    teacher: SemanticTeacher | None,
) -> SemanticDistillation | None:
    if not config.teacher and teacher is None:
        return None
    usual = SemanticSettings.nearest(sum(value.numel() for value in model.parameters()))
    named = {
        "weight": config.semantic_weight,
        "rho": config.semantic_share,
        "delta": config.semantic_band,
    }
    return SemanticDistillation(
        model,
        teacher or open_vision_transformer(config.teacher),
        replace(usual, **{name: value for name, value in named.items() if value is not None}),
        seed=config.seed,
        average=processes.average,
    )


def _optimizer(
    config: TrainConfig, model: nn.Module, semantics: SemanticDistillation | None
) -> torch.optim.Optimizer:
    groups = parameter_groups(
        model,
        learning_rate=config.learning_rate,
        backbone_scale=config.backbone_scale,
        weight_decay=config.weight_decay,
    )
    if semantics is not None:
        rate, decay = config.learning_rate, config.weight_decay
        learning = list(semantics.parameters())
        groups.append({"params": learning, "lr": rate, "base_lr": rate, "weight_decay": decay})
    # Fused: hundreds of small tensors, whose updates one by one would cost as much as a layer.
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _report(
    steps: int, clock: _Clock, learning_rate: float, losses: StepLosses, waited: float
) -> Progress:
    return Progress(
        step=clock.step,
        steps=None if clock.steps is None else steps,
        fraction=clock.fraction,
        seconds=clock.seconds,
        learning_rate=learning_rate,
        super_loss=losses.super_loss,
        base_loss=losses.base_loss,
        super_terms={name: float(term) for name, term in losses.super_terms.items()},
        base_terms={name: float(term) for name, term in losses.base_terms.items()},
        pictures_per_second=clock.pictures_per_second,
        waited=waited / max(clock.seconds, 1e-9),
    )

"""Writing checkpoints in the authors' format, and unfinished runs that can be continued."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.reading.regular import open_regular
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.start import Start
from anydepth_deploy.train.weights import load_stored_state

__all__ = [
    "Best",
    "Done",
    "State",
    "load_partial",
    "resumed_settings",
    "save_checkpoint",
    "save_partial",
]

_FREE = frozenset(
    {
        "output", "threads", "processes", "save_every", "ema_only", "workers", "device",
        "data", "images", "val_data", "val_images", "initial", "teacher", "evaluate_every",
    }
)  # fmt: skip
"""Settings that may differ between the two parts of an interrupted run: files may have moved."""


@dataclass(frozen=True)
class Best:
    """The best measurement so far: its score, the step after which it was, and average precision
    by depth, in percent."""

    score: float
    step: int
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Done:
    """What of a run is done, besides what its weights hold.

    ``seconds``: that ``step`` steps took. ``losses``: the last steps' totals, super's and base's;
    none in files of versions that did not keep them. ``skipped``: pictures that could not be read.
    ``semantics``: state of a teacher's term. ``measured``: average precision of these very weights
    by depth, where it is known. ``waited``: of the seconds, those without a picture. ``unwritten``:
    steps since the last row of metrics, and the sums of super's and base's losses in them.
    """

    step: int = 0
    seconds: float = 0.0
    losses: tuple[tuple[float, float], ...] = ()
    best: Best | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    semantics: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    waited: float = 0.0
    unwritten: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class State:
    """All that a run changes, and what its files say of it.

    ``pictures``: how many an epoch has; ``scaler``: of half precision. ``has_teacher``: whether
    super learns from one beside the objects.
    """

    config: TrainConfig
    start: Start
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    class_names: Sequence[str]
    pictures: int
    has_teacher: bool = False


def save_checkpoint(path: Path, state: State, *, step: int, figures: Mapping[str, Any]) -> None:
    """Write the averaged weights: plain types and tensors only, so it loads with weights_only.

    Entries: ``ema`` (``module``, ``updates``), ``model`` unless the configuration leaves it
    out, ``last_epoch``, ``class_names``, ``input_size`` (height, width), ``network`` (what no key
    reveals) and ``train`` (settings, the call that repeats the run, versions, figures). Raises
    :class:`CheckpointError` where there is no room; what was there before is whole.
    """
    content = _content(state, step, figures)
    if not state.config.ema_only:
        content["model"] = state.start.stored(state.start.model.state_dict())
    _write(path, content)


def save_partial(state: State, done: Done, figures: Mapping[str, Any]) -> None:
    """Write an unfinished run to ``config.partial``. Raises as :func:`save_checkpoint`.

    The file is a checkpoint itself, so its average can be evaluated as it is. Randomness is
    drawn from (seed, step), hence there is none to store.
    """
    content = _content(state, done.step, {"steps": float(done.step), **figures})
    content["model"] = state.start.stored(state.start.model.state_dict())
    content["optimizer"] = state.optimizer.state_dict()
    content["scaler"] = state.scaler.state_dict()
    content["pictures"] = state.pictures
    content["step"] = done.step
    content["seconds"] = done.seconds
    content["losses"] = [list(pair) for pair in done.losses]
    content["skipped"] = dict(done.skipped)
    content["semantics"] = dict(done.semantics)
    content["measured"] = dict(done.measured)
    content["waited"] = done.waited
    content["unwritten"] = list(done.unwritten)
    if done.best is not None:
        best = done.best
        content["best"] = {
            "score": best.score, "step": best.step, "accuracy": dict(best.accuracy)
        }  # fmt: skip
    _write(state.config.partial, content)


def resumed_settings(path: Path, changes: Mapping[str, Any]) -> TrainConfig:
    """The settings of the unfinished run at ``path``, with ``changes``; those that only other
    versions know are left out.

    Raises :class:`CheckpointError` where there is no such run, or its settings are no run's.
    """
    settings = _read(path)["train"]["settings"]
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} names no settings of its run: train without --resume")
    known = {name: settings[name] for name in TrainConfig.__annotations__ if name in settings}
    try:
        return TypeAdapter(TrainConfig).validate_python({**known, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "one of them"
        raise CheckpointError(
            f"{path} holds settings that no run has ({shorten([name])}: {first['msg']}); delete it "
            "and train without --resume"
        ) from None


def load_partial(state: State) -> Done:
    """Continue an unfinished run: fill model, average and optimiser from ``config.partial``, and
    return what is done.

    Raises :class:`CheckpointError` if the file is missing, unreadable, of other settings or of
    other data.
    """
    path = state.config.partial
    content = _read(path)
    with _readable(path):
        found, wanted = content["train"]["settings"], asdict(state.config)
        changed = [
            f"{name} ({_plain(found.get(name))!r}, now {_plain(value)!r})"
            for name, value in wanted.items()
            if name not in _FREE and _plain(found.get(name)) != _plain(value)
        ]
        if changed:
            raise CheckpointError(
                f"{path} was started with other settings: {shorten(changed)}; use those, or "
                "delete the file to start anew"
            )
        before = content.get("pictures", state.pictures), list(content["class_names"])
        if before != (state.pictures, list(state.class_names)):
            raise CheckpointError(
                f"{path} was started with other data: {before[0]} pictures of the classes "
                f"{shorten(before[1])}, found {state.pictures} of {shorten(state.class_names)}; "
                "use those, or delete the file to start anew"
            )
        if bool(content.get("semantics")) != state.has_teacher:
            started, now = ("without", "with") if state.has_teacher else ("with", "without")
            raise CheckpointError(
                f"{path} was started {started} a teacher, and is to go on {now} one: go on as it "
                "was started, or delete the file to start anew"
            )
        model = state.start.model
        load_stored_state(model, content["model"], state.start.recipe.stores)
        averages = content["ema"]
        state.ema.load(averages["module"], int(averages["updates"]))
        step = int(content["step"])
        if step < 0:
            raise CheckpointError(
                f"{path} says that {step} steps are done, expected no fewer than 0; delete it and "
                "train without --resume"
            )
        state.optimizer.load_state_dict(content["optimizer"])
        _check_moments(path, state.optimizer)
        if scaler := content.get("scaler"):
            state.scaler.load_state_dict(scaler)
        losses = tuple((float(one), float(other)) for one, other in content.get("losses", ()))
        best = content.get("best")
        steps, super_sum, base_sum = content.get("unwritten", (0, 0, 0))
        return Done(
            step,
            float(content["seconds"]),
            losses,
            None if best is None else Best(**best),
            dict(content.get("skipped", {})),
            dict(content.get("semantics", {})),
            dict(content.get("measured", {})),
            float(content.get("waited", 0.0)),
            (float(steps), float(super_sum), float(base_sum)),
        )


def _check_moments(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """What torch does not: that moments have the shapes of their weights."""
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if name != "step" and isinstance(value, Tensor) and value.shape != weight.shape:
                raise CheckpointError(
                    f"{path}: the optimiser's {shorten([name])} has the shape {list(value.shape)}, "
                    f"expected {list(weight.shape)} as its weight; delete it and train without "
                    "--resume"
                )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        with _readable(path), open_regular(path) as file:
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            content["train"]["settings"], content["class_names"]
            return content
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no unfinished run at {path}: train without --resume"
        ) from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, FileNotFoundError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as an unfinished run ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); delete it and train "
            "without --resume"
        ) from error


def _content(state: State, step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    config, ema = state.config, state.ema
    return {
        **state.start.content(ema.state, ema.updates, config.input_size),
        "last_epoch": step * config.batch // state.pictures,
        "class_names": list(state.class_names),
        "train": {
            "settings": asdict(config),
            "call": f"train({config!r})",
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
            },
            "figures": dict(figures),
        },
    }


class _Watched:
    """A file that remembers what went wrong: torch says only that something did."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    watched = _Watched(file)
    try:
        torch.save(content, watched)  # type: ignore[arg-type]
    except Exception:
        if watched.error is not None:
            raise watched.error from None
        raise


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_or_refuse(path, lambda file: _save(content, file), "checkpoint", CheckpointError)

"""Writing checkpoints in the authors' format, and unfinished runs that can be continued."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.families.shared.recipe import Recipe
from anydepth_deploy.reading.regular import open_regular
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.ema import Ema
from anydepth_deploy.train.weights import load_stored_state, stored_state

__all__ = ["Done", "load_partial", "save_checkpoint", "save_partial"]

# Settings that may differ between the two parts of an interrupted run.
_FREE = frozenset({"output", "threads", "processes", "save_every", "ema_only"})


@dataclass(frozen=True)
class Done:
    """What of a run is done, besides what its weights hold.

    ``seconds``: that ``step`` steps took. ``losses``: the last steps' totals, super's and base's;
    none in files of versions that did not keep them.
    """

    step: int = 0
    seconds: float = 0.0
    losses: tuple[tuple[float, float], ...] = ()


def save_checkpoint(
    path: Path,
    config: TrainConfig,
    recipe: Recipe[Any],
    ema: Ema,
    *,
    epoch: int,
    class_names: Sequence[str],
    figures: dict[str, float],
) -> None:
    """Write a finished run: plain types and tensors only, so it loads with weights_only.

    Entries: ``ema`` (``module``, ``updates``), ``model`` unless the configuration leaves it
    out, ``last_epoch``, ``class_names``, ``input_size`` (height, width) and ``train`` (settings,
    the call that repeats the run, versions, figures). Written to a temporary file and renamed.
    """
    content = _content(config, recipe, ema, epoch=epoch, class_names=class_names, figures=figures)
    if not config.ema_only:
        content["model"] = _dense(stored_state(recipe.model.state_dict(), recipe.stores))
    _write(path, content)


def save_partial(
    config: TrainConfig,
    recipe: Recipe[Any],
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    done: Done,
    *,
    epoch: int,
    class_names: Sequence[str],
) -> None:
    """Write an unfinished run to ``config.partial``.

    The file is a checkpoint itself, so its average can be evaluated as it is. Randomness is
    drawn from (seed, step), hence there is none to store.
    """
    figures = {"steps": float(done.step), "seconds": done.seconds}
    content = _content(config, recipe, ema, epoch=epoch, class_names=class_names, figures=figures)
    content["model"] = _dense(stored_state(recipe.model.state_dict(), recipe.stores))
    content["optimizer"] = optimizer.state_dict()
    content["step"] = done.step
    content["seconds"] = done.seconds
    content["losses"] = [list(pair) for pair in done.losses]
    _write(config.partial, content)


def load_partial(
    config: TrainConfig, recipe: Recipe[Any], ema: Ema, optimizer: torch.optim.Optimizer
) -> Done:
    """Continue an unfinished run: fill model, average and optimiser from ``config.partial``, and
    return what is done.

    Raises :class:`CheckpointError` if the file is missing, unreadable, or of other settings.
    """
    path = config.partial
    try:
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        found, wanted = content["train"]["settings"], _settings(config)
        changed = [
            f"{name} ({found.get(name)!r}, now {value!r})"
            for name, value in wanted.items()
            if name not in _FREE and found.get(name) != value
        ]
        if changed:
            raise CheckpointError(
                f"{path} was started with other settings: {shorten(changed)}; use those, or "
                "delete the file to start anew"
            )
        load_stored_state(recipe.model, content["model"], recipe.stores)
        averages = content["ema"]
        ema.load(averages["module"], int(averages["updates"]))
        optimizer.load_state_dict(content["optimizer"])
        losses = tuple((float(one), float(other)) for one, other in content.get("losses", ()))
        return Done(int(content["step"]), float(content["seconds"]), losses)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no unfinished run at {path}: train without --resume"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as an unfinished run ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); delete it and train "
            "without --resume"
        ) from error


def _settings(config: TrainConfig) -> dict[str, Any]:
    return asdict(config)


def _content(
    config: TrainConfig,
    recipe: Recipe[Any],
    ema: Ema,
    *,
    epoch: int,
    class_names: Sequence[str],
    figures: dict[str, float],
) -> dict[str, Any]:
    return {
        "ema": {
            "module": _dense(stored_state(ema.state, recipe.stores)),
            "updates": ema.updates,
        },
        "last_epoch": epoch,
        "class_names": list(class_names),
        "input_size": [config.input_size, config.input_size],
        "train": {
            "settings": _settings(config),
            "call": f"train({config!r})",
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
            },
            "figures": figures,
        },
    }


def _dense(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in plain memory order: channels last is a matter of this run only."""
    return {name: value.cpu().contiguous() for name, value in state.items()}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()

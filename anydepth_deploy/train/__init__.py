"""Training by self-distillation, small: generated shapes in, a checkpoint out.

Names are looked up on first use, so that the generated set (``shapes``) stays usable where
torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from anydepth_deploy.errors import MissingExtraError

if TYPE_CHECKING:
    from anydepth_deploy.train.config import Progress, TrainConfig, TrainResult
    from anydepth_deploy.train.loop import train

__all__ = ["Progress", "TrainConfig", "TrainResult", "train"]

_HOMES = {"Progress": "config", "TrainConfig": "config", "TrainResult": "config", "train": "loop"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("scipy", "torch"):
            raise
        raise MissingExtraError(package, "train", "training") from error

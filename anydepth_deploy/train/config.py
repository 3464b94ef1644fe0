"""Settings and results of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.registry import find_training
from anydepth_deploy.pictures.shapes import CLASS_NAMES

__all__ = ["Progress", "TrainConfig", "TrainResult"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a run; ``repr`` of it is the Python call that repeats the run.

    :meth:`for_family` fills in what suits a family.

    ``family``: of networks. ``output``: where the checkpoint goes; ``<output>.partial`` beside it
    holds an unfinished run. ``model``: name of a size. ``initial``: a checkpoint of the same
    network to start from instead of random weights, for a second round on other pictures; empty for
    none. ``steps``: length of the run; ignored if ``minutes`` is given, a wall-clock length. The
    schedule then follows the clock, so that two runs are not the same; prefer ``steps``. ``seed``:
    of the initial weights, the order of the pictures and their augmentation.

    ``input_size``: side of the square pictures in pixels, a multiple of 32. ``pictures``: how many
    are generated, in memory; ``data_seed``: which set; ``batch``: how many a step sees.

    ``learning_rate``: of AdamW, at its peak; the rate of what is named ``backbone.`` is
    ``backbone_scale`` times that. ``weight_decay``: of weights; norms and biases do not decay.
    ``warmup``: steps of linear rise; a cosine then falls to ``final_rate`` times the peak.
    ``clip``: largest norm of the gradient of a step. ``ema_decay``, ``ema_warmup``: the average's
    decay is ``ema_decay * (1 - exp(-n / ema_warmup))``. ``denoising``: about how many denoising
    queries there are, in families that have such. ``ground_truth_share``: share of the run in which
    base learns from the objects only, because super has nothing to teach yet.

    ``threads``: for torch; 0 leaves the number as it is. ``processes``: that draw the pictures.
    ``save_every``: steps between two writings of the partial file, 0 for none. ``ema_only``: leave
    the last raw weights out of the checkpoint; it halves the file.
    """

    family: str
    output: str
    model: str = "tiny"
    initial: str = ""
    steps: int = 5000
    minutes: float | None = None
    seed: int = 0
    input_size: int = 160
    pictures: int = 16000
    data_seed: int = 0
    batch: int = 16
    learning_rate: float
    backbone_scale: float = 1.0
    weight_decay: float
    warmup: int
    final_rate: float = 0.01
    clip: float
    ema_decay: float = 0.998
    ema_warmup: float = 100.0
    denoising: int = 40
    ground_truth_share: float = 0.1
    threads: int = 1
    processes: int = 2
    save_every: int = 250
    ema_only: bool = True

    @classmethod
    def for_family(cls, family: str = "anydepth-detr", **settings: Any) -> TrainConfig:
        """The settings that suit ``family``, but for those that are given.

        Raises :class:`UsageError` for a family that is not known or cannot be trained, and for a
        value that no run can use.
        """
        training = find_training(family)
        suiting: dict[str, Any] = {
            "output": f"checkpoints/{family}-tiny-shapes.pth",
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "warmup": training.warmup,
            "clip": training.clip,
        }
        return cls(family=family, **{**suiting, **settings})

    def __post_init__(self) -> None:
        """Raises :class:`UsageError` for a value that no run can use."""
        if self.input_size <= 0 or self.input_size % 32:
            raise UsageError(f"input_size must be a multiple of 32, found {self.input_size}")
        for name in ("steps", "pictures", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not self.learning_rate >= 0:
            raise UsageError(f"learning_rate must not be negative, found {self.learning_rate}")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"minutes must be positive, found {self.minutes}")
        if not 0 <= self.ground_truth_share <= 1:
            raise UsageError(
                f"ground_truth_share must be within 0..1, found {self.ground_truth_share}"
            )

    @property
    def classes(self) -> int:
        """How many there are in the generated pictures."""
        return len(CLASS_NAMES)

    @property
    def partial(self) -> Path:
        """Where an unfinished run is kept."""
        return Path(self.output + ".partial")


@dataclass(frozen=True)
class Progress:
    """State of a run after a step.

    ``fraction`` is the share of the run done, 0..1; ``super_loss`` and ``base_loss`` are the
    totals of the step by pass, and ``super_terms``, ``base_terms`` what they consist of;
    ``pictures_per_second`` counts both passes and the optimiser as one.
    """

    step: int
    steps: int | None
    fraction: float
    seconds: float
    learning_rate: float
    super_loss: float
    base_loss: float
    super_terms: dict[str, float]
    base_terms: dict[str, float]
    pictures_per_second: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the checkpoint, its steps, seconds of training and last mean losses."""

    checkpoint: Path
    steps: int
    seconds: float
    pictures_per_second: float
    super_loss: float
    base_loss: float

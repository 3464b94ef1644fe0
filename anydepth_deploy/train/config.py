"""Settings and results of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.registry import find_training

__all__ = ["Precision", "Progress", "TrainConfig", "TrainResult"]

Precision = Literal["fp32", "bf16", "fp16"]


def size_text(size: tuple[int, int]) -> str:
    """``480x640`` for 480 rows and 640 columns."""
    return f"{size[0]}x{size[1]}"


SUFFIXES = (".pth", ".pt")
"""Of an output that is one file."""

OTHER_FILES = (".safetensors", ".ckpt", ".bin", ".onnx", ".json", ".pkl", ".tar", ".zip")
"""Suffixes of files that nobody means a folder by."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a run; ``repr`` of it is the Python call that repeats the run.

    :meth:`for_family` fills in what suits a family.

    ``family``: of networks. ``output``: a folder for the checkpoints ``best.pth`` and ``last.pth``,
    curves and settings; or, ending in .pth, one checkpoint, beside which ``<output>.partial`` holds
    an unfinished run. ``model``: name of a size, where there is no ``initial``: a checkpoint to
    start from, any-depth or not. ``said``: what no key of it reveals, by the fields of
    :class:`~anydepth_deploy.families.shared.settling.Said`. ``static``: leave the network without
    gates.

    ``data``, ``images``: annotations in COCO's format and the folder of their pictures, or a
    ``data.yaml`` in the YOLO format; ``val_data``, ``val_images``: those that accuracy is measured
    on. Without ``data``, ``pictures`` of generated shapes are drawn by ``processes`` processes,
    kept in memory; ``data_seed``: which. ``augment``: change the pictures at random, but for the
    last ``plain_epochs``. ``workers``: processes that read pictures.

    ``epochs``: over all pictures; or ``steps``, where there are none; ignored if ``minutes`` is
    given, a wall-clock length. The schedule then follows the clock, so that two runs are not the
    same; prefer the others. ``seed``: of the initial weights, the order of the pictures and their
    augmentation.

    ``input_size``: height and width in pixels, multiples of 32. ``batch``: how many pictures a step
    sees, in all processes together; ``accumulate``: in how many parts, one after the other.

    ``learning_rate``: of AdamW, at its peak; the rate of what is named ``backbone.`` is
    ``backbone_scale`` times that. ``weight_decay``: of weights; norms and biases do not decay.
    ``warmup``: steps of linear rise; a cosine then falls to ``final_rate`` times the peak.
    ``clip``: largest norm of the gradient of a step, 0 for any. ``ema_decay``, ``ema_warmup``: the
    average's decay is ``ema_decay * (1 - exp(-n / ema_warmup))``; None for what suits the number of
    steps. ``denoising``: about how many denoising queries there are, in families that have such;
    None for two thirds of the queries, at most 100. ``ground_truth_share``: share of the run in
    which base learns from the objects only, because super has nothing to teach yet.
    ``train_norms``: whether norms that the initial network holds frozen learn; None: those of a
    file in which they did.

    ``device``: ``cpu``, ``cuda:0`` or ``auto``; ``precision``: of the passes. ``threads``: for
    torch; 0 leaves the number as it is.

    ``evaluate_every``: epochs between two measurements of accuracy. ``base_weight``: of base's
    average precision in the score that the best checkpoint is kept by, where super's weighs the
    rest. ``save_every``: steps between two writings of the unfinished run, 0 for none but after
    each measurement. ``ema_only``: leave the last raw weights out of the checkpoint; it halves
    the file.

    ``teacher``: a folder with a vision transformer whose features super learns from, too;
    ``semantic_weight``, ``semantic_share``, ``semantic_band``: weight, rho and delta of
    :class:`~anydepth_deploy.train.semantics.modulation.SemanticSettings`; None for the published
    ones of the nearest size.
    """

    family: str
    output: str
    model: str = "tiny"
    initial: str = ""
    said: Mapping[str, str] = field(default_factory=dict)
    static: bool = False
    data: str = ""
    images: str = ""
    val_data: str = ""
    val_images: str = ""
    augment: bool = True
    plain_epochs: int = 0
    workers: int = 2
    steps: int = 5000
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    input_size: tuple[int, int] = (160, 160)
    pictures: int = 16000
    data_seed: int = 0
    batch: int = 16
    accumulate: int = 1
    learning_rate: float
    backbone_scale: float = 1.0
    weight_decay: float
    warmup: int
    final_rate: float = 0.01
    clip: float
    ema_decay: float | None = None
    ema_warmup: float | None = None
    denoising: int | None = None
    ground_truth_share: float = 0.1
    train_norms: bool | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int = 1
    processes: int = 2
    evaluate_every: int = 1
    base_weight: float = 0.5
    save_every: int = 250
    ema_only: bool = True
    teacher: str = ""
    semantic_weight: float | None = None
    semantic_share: float | None = None
    semantic_band: float | None = None

    @classmethod
    def for_family(cls, family: str = "anydepth-detr", **settings: Any) -> TrainConfig:
        """The settings that suit ``family``, but for those that are given; ``input_size`` may be
        one number, of a square.

        Raises :class:`UsageError` for a family that is not known or cannot be trained, and for a
        value that no run can use.
        """
        training = find_training(family)
        initial = bool(settings.get("initial"))
        suiting: dict[str, Any] = {
            "output": f"checkpoints/{family}-tiny-shapes.pth",
            "learning_rate": training.tuning_rate if initial else training.learning_rate,
            "backbone_scale": training.backbone_scale if initial else 1.0,
            "weight_decay": training.weight_decay,
            "warmup": training.warmup,
            "clip": training.clip,
            "ground_truth_share": 0.0 if initial else 0.1,
        }
        side = settings.get("input_size")
        if isinstance(side, int):
            settings = {**settings, "input_size": (side, side)}
        return cls(family=family, **{**suiting, **settings})

    def __post_init__(self) -> None:
        """Raises :class:`UsageError` for a value that no run can use."""
        suffix = Path(self.output).suffix
        if suffix not in SUFFIXES and suffix.lower() in (*SUFFIXES, *OTHER_FILES):
            raise UsageError(
                f"output {self.output} ends in {suffix}: expected a folder, or one file that ends "
                "in .pth"
            )
        if any(side <= 0 or side % 32 for side in self.input_size):
            size = size_text(self.input_size)
            raise UsageError(f"input_size must be two multiples of 32, found {size}")
        if not self.data and len(set(self.input_size)) > 1:
            raise UsageError(
                f"generated shapes are square, found the size {size_text(self.input_size)}: name "
                "two equal sides, or pictures with --data"
            )
        least = {"steps": 1, "pictures": 1, "batch": 1, "accumulate": 1, "evaluate_every": 1}
        least |= {"epochs": 1, "processes": 1, "workers": 0, "plain_epochs": 0, "save_every": 0}
        least |= {"warmup": 0, "threads": 0, "denoising": 0, "seed": 0, "data_seed": 0}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                raise UsageError(f"{name} must be at least {number}, found {value}")
        for name in ("learning_rate", "backbone_scale", "weight_decay", "final_rate", "clip"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be a number of at least 0, found {value}")
        if self.minutes is not None and not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise UsageError(f"minutes must be positive, found {self.minutes}")
        for name in ("ground_truth_share", "base_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be within 0..1, found {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise UsageError(
                f"a batch of {self.batch} cannot be cut into {self.accumulate} equal parts: choose "
                "a multiple"
            )
        if self.precision not in get_args(Precision):
            raise UsageError(
                f"unknown precision '{self.precision}': expected {', '.join(get_args(Precision))}"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise UsageError("fp16 is for GPUs; on a CPU train in fp32 or bf16")
        if self.data and self.minutes is not None:
            raise UsageError("minutes are for generated pictures: name epochs or steps")

    @property
    def is_folder(self) -> bool:
        """Whether :attr:`output` is a folder of several files."""
        return Path(self.output).suffix not in SUFFIXES

    @property
    def partial(self) -> Path:
        """Where an unfinished run is kept."""
        if self.is_folder:
            return Path(self.output) / "last.pth"
        return Path(self.output + ".partial")

    @property
    def checkpoint(self) -> Path:
        """Where a finished run is."""
        return Path(self.output) / "last.pth" if self.is_folder else Path(self.output)


@dataclass(frozen=True)
class Progress:
    """State of a run after a step.

    ``fraction`` is the share of the run done, 0..1; ``super_loss`` and ``base_loss`` are the
    totals of the step by pass, and ``super_terms``, ``base_terms`` what they consist of;
    ``pictures_per_second`` counts both passes and the optimiser as one. ``waited``: share of the
    seconds so far in which there was no picture to train on. ``accuracy``: average precision by
    depth, in percent, where it was measured after this step.
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
    waited: float = 0.0
    accuracy: Mapping[str, float] | None = None


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the checkpoint, its steps, seconds of training and last mean losses.

    ``checkpoint``: the best one where accuracy was measured, else the last. ``accuracy``: its
    average precision by depth, in percent. ``skipped``: pictures that could not be read, by name,
    and why. ``notes``: what a person has to know of the network that was started from, and of the
    data.
    """

    checkpoint: Path
    steps: int
    seconds: float
    pictures_per_second: float
    super_loss: float
    base_loss: float
    accuracy: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

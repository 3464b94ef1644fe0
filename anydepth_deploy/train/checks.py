"""What is refused before a run reads, draws or computes anything, or overwrites another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.yolo_files import has_part
from anydepth_deploy.train.start import Start

__all__ = ["check_batch", "check_objects", "check_output", "lacks_val"]


def check_output(config: TrainConfig, resume: bool) -> None:
    """Raises :class:`CheckpointError` for nothing to resume and for a file that cannot be written,
    :class:`UsageError` where another run would be overwritten."""
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


def check_batch(config: TrainConfig, world: int) -> None:
    """Refuse a batch that ``world`` processes cannot share, or whose parts are too small for norms.

    Raises :class:`UsageError`.
    """
    parts = config.accumulate * world
    if config.batch % parts:
        raise UsageError(
            f"a batch of {config.batch} cannot be shared by {world} processes in "
            f"{config.accumulate} parts each: choose a multiple of {parts}"
        )
    height, width = config.input_size
    if config.batch // parts * (height // 32) * (width // 32) < 2:
        raise UsageError(
            f"one picture of {height}x{width} in a pass is one cell of the coarsest map, "
            "and norms need more: a larger --size, or a larger --batch"
        )


def lacks_val(config: TrainConfig) -> bool:
    """Whether what is trained on and measured on is one data.yaml, which has no such part: not
    every data set has pictures to spare."""
    source = Path(config.data)
    yaml = source.suffix.lower() in (".yaml", ".yml")
    return yaml and config.val_data == config.data and not has_part(source, "val")


def check_objects(data: DetectionSet, start: Start) -> None:
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

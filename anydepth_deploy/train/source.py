"""Where the pictures of a run come from: what the loop asks of it, and the generated shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data import TrainingPictures, epoch_order, step_generator
from anydepth_deploy.train.processes import Processes

__all__ = ["Batch", "ShapesSource", "Source", "Step"]


@dataclass(frozen=True)
class Batch:
    """Images float32 [N, 3, H, W] in 0..1, channels last in memory, their objects, and what the
    pictures are called. ``waited``: seconds until it was there."""

    images: Tensor
    targets: Targets
    names: tuple[str, ...] = ()
    waited: float = 0.0


@dataclass(frozen=True)
class Step:
    """This process's batches of one step, and the source of what else is random in it."""

    batches: Sequence[Batch]
    generator: torch.Generator


class Source(Protocol):
    """Pictures for any step: a function of the settings and the step alone."""

    @property
    def class_names(self) -> Sequence[str]:
        """By label."""

    @property
    def pictures(self) -> int:
        """How many there are, of an epoch."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Pictures that could not be read so far, by name, and why."""

    @property
    def notes(self) -> Sequence[str]:
        """What there is to say of the data."""

    def steps(self, start: int) -> Iterator[Step]:
        """The steps from ``start`` on, without end."""

    def close(self) -> None:
        """Stop what reads ahead."""


class ShapesSource:
    """Generated shapes, in memory, mirrored and recoloured at random."""

    class_names: Sequence[str] = CLASS_NAMES
    skipped: Mapping[str, str] = {}
    notes: Sequence[str] = ()

    def __init__(
        self, config: TrainConfig, processes: Processes, pictures: TrainingPictures | None = None
    ) -> None:
        if pictures is None:
            drawn = render_many(
                config.pictures,
                config.data_seed,
                "train",
                size=config.input_size[0],
                processes=config.processes,
            )
            pictures = TrainingPictures.from_arrays(drawn.images, drawn.boxes, drawn.labels)
        self._config, self._processes, self._all = config, processes, pictures
        self._order = _Order(len(pictures), config.batch, config.seed)

    @property
    def pictures(self) -> int:
        return len(self._all)

    def steps(self, start: int) -> Iterator[Step]:
        """See :meth:`Source.steps`."""
        config, rank = self._config, self._processes.rank
        share = config.batch // self._processes.world
        part = share // config.accumulate
        step = start
        while True:
            generator = step_generator(config.seed, step)
            # All of it, also what others take: then each picture is the same in any number of
            # processes.
            images, targets = self._all.batch(self._order.indices(step), generator)
            batches = []
            for first in range(rank * share, (rank + 1) * share, part):
                chosen = slice(first, first + part)
                own = Targets(targets.labels[chosen], targets.boxes[chosen])
                batches.append(Batch(images[chosen], own))
            yield Step(batches, generator if rank == 0 else step_generator(config.seed, step, rank))
            step += 1

    def close(self) -> None:
        """Nothing reads ahead."""


class _Order:
    """Which pictures a step sees: a new random order every epoch, a function of the step."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count = count
        self.batch = batch
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Int64 [batch]; a batch may reach into the next epoch."""
        places = range(step * self.batch, (step + 1) * self.batch)
        return torch.stack([self._at(place) for place in places])

    def _at(self, place: int) -> Tensor:
        epoch, index = divmod(place, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.count, self.seed, epoch)
        return self._order[index]

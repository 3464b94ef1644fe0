"""Where the pictures of a run come from: what the loop asks of it, generated shapes, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

import torch
from torch import Tensor

from anydepth_deploy.errors import InputError
from anydepth_deploy.families.shared.augmentation import Augmentation
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render_many
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.data.augment import step_sizes
from anydepth_deploy.train.data.batches import Batches
from anydepth_deploy.train.data.colours import check_able
from anydepth_deploy.train.data.detection_set import DetectionSet
from anydepth_deploy.train.data.order import Order, step_generator
from anydepth_deploy.train.data.shapes import TrainingPictures
from anydepth_deploy.train.processes import Processes

__all__ = ["FileSource", "ShapesSource", "Source", "Step"]


@dataclass(frozen=True)
class Step:
    """What this process sees of one step.

    ``batches``: images float32 [N, 3, H, W] in 0..1, channels last in memory, and their objects.
    ``generator``: of what else is random in it. ``names``: of the pictures, where they have some.
    ``waited``: seconds until they were there.
    """

    batches: Sequence[tuple[Tensor, Targets]]
    generator: torch.Generator
    names: tuple[str, ...] = ()
    waited: float = 0.0


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

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what reads ahead."""


class ShapesSource:
    """Generated shapes, in memory, mirrored and recoloured at random where pictures are changed."""

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
        self._order = Order(len(pictures), config.batch, config.seed)

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
            chosen = self._order.indices(step)
            images, targets = self._all.batch(chosen, generator if config.augment else None)
            batches = []
            for first in range(rank * share, (rank + 1) * share, part):
                these = slice(first, first + part)
                own = Targets(targets.labels[these], targets.boxes[these])
                batches.append((images[these], own))
            yield Step(batches, generator if rank == 0 else step_generator(config.seed, step, rank))
            step += 1

    def __enter__(self) -> ShapesSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing reads ahead."""


def _smallest(
    size: tuple[int, int],
    augmentation: Augmentation,
    check_size: Callable[[tuple[int, int]], None],
) -> int:
    """The smallest height of a step's pictures that the network can take: a DETR selects its
    queries from as many cells at least."""
    for found in step_sizes(size, augmentation.sizes):
        try:
            check_size(found)
        except InputError:
            continue
        return found[0]
    return size[0]


class FileSource:
    """Pictures of a data set, read and augmented by other processes.

    ``resize``: how pictures are fitted to the input; see
    :class:`~anydepth_deploy.pictures.images.Preprocess`. ``check_size``: raises
    :class:`InputError` for a size that the network cannot take; none of the steps has one. Raises
    :class:`MissingExtraError` for a package that ``augmentation`` needs.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        device: torch.device,
        data: DetectionSet,
        augmentation: Augmentation,
        resize: Literal["stretch", "letterbox"],
        steps: int,
        check_size: Callable[[tuple[int, int]], None],
    ) -> None:
        self._config, self._processes, self._data = config, processes, data
        check_able(augmentation)
        calm = steps - -(-config.plain_epochs * len(data) // config.batch)
        self._batches = Batches(
            data,
            augmentation,
            size=config.input_size,
            resize=resize,
            batch=config.batch,
            seed=config.seed,
            workers=config.workers,
            rank=processes.rank,
            world=processes.world,
            accumulate=config.accumulate,
            calm_from=calm if config.plain_epochs else None,
            smallest=_smallest(config.input_size, augmentation, check_size),
            device=device,
        )

    @property
    def class_names(self) -> Sequence[str]:
        return self._data.classes

    @property
    def pictures(self) -> int:
        return len(self._data)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Those that this process came upon."""
        return {
            self._data.paths[place]: reason for place, reason in self._batches.unreadable.items()
        }

    @property
    def notes(self) -> Sequence[str]:
        return [finding.text for finding in self._data.findings]

    def steps(self, start: int) -> Iterator[Step]:
        """See :meth:`Source.steps`."""
        batches = self._batches.batches(start)
        step = start
        while True:
            parts = [next(batches) for _ in range(self._batches.parts)]
            yield Step(
                [(part.images, part.targets) for part in parts],
                step_generator(self._config.seed, step, self._processes.rank),
                tuple(name for part in parts for name in part.names),
                sum(part.waited for part in parts),
            )
            step += 1

    def __enter__(self) -> FileSource:
        self._batches.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes that read."""
        self._batches.__exit__(kind, error, trace)

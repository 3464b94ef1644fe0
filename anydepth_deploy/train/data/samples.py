"""What a process that loads pictures does: the pictures of a batch, read, augmented and stacked.

A picture that cannot be read is no reason to end a run of days: another one takes its place, and
what is wrong with it goes along with the batch to where it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.shared.augmentation import Augmentation
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.train.data.augment import (
    Annotated,
    Example,
    make_example,
    step_size,
    step_sizes,
)
from anydepth_deploy.train.data.detection_set import DetectionSet, most_unreadable
from anydepth_deploy.train.data.order import picture_randomness, size_randomness

__all__ = ["Key", "Loaded", "Samples"]


class Key(NamedTuple):
    """One picture of a batch: of which step and part of it, in which epoch, and its place in
    the data set."""

    step: int
    part: int
    epoch: int
    picture: int


class Loaded(NamedTuple):
    """A batch as it comes from another process: plain tensors, so that they travel in shared
    memory, bytes for pixels, which are a quarter of floats.

    ``images``: uint8 [N, H, W, 3]. ``labels`` int64 [N, T], -1 where there is no object, ``boxes``
    float32 [N, T, 4] as cx, cy, w, h in shares. ``failures``: what is wrong with pictures by their
    index; where there are too many of them there are no images.
    """

    step: int
    part: int
    images: Tensor
    labels: Tensor
    boxes: Tensor
    names: list[str]
    failures: dict[int, str]


@dataclass(frozen=True)
class Samples:
    """Batches of ``pictures`` by their keys: a data set as torch's loader takes one.

    ``size``: height and width asked for; ``resize``: as in
    :class:`~anydepth_deploy.pictures.images.Preprocess`; ``calm_from``: the step from which on
    augmentation is calm (:meth:`~anydepth_deploy.families.shared.augmentation.Augmentation.calm`).
    ``smallest``: height below which none of the sizes of steps may be, unless ``size`` is.
    """

    pictures: DetectionSet
    augmentation: Augmentation
    size: tuple[int, int]
    resize: Literal["stretch", "letterbox"]
    seed: int
    calm_from: int | None = None
    smallest: int = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, keys: Sequence[Key]) -> Loaded:
        """The pictures of one batch, whose keys are of the same step and part."""
        step, part = keys[0].step, keys[0].part
        calm = self.calm_from is not None and step >= self.calm_from
        augmentation = self.augmentation.calm() if calm else self.augmentation
        sizes = step_sizes(self.size, augmentation.sizes)
        sizes = [size for size in sizes if size[0] >= self.smallest] or [self.size]
        size = step_size(sizes, size_randomness(self.seed, step))
        recipe = Preprocess.of(self.resize, size)
        reader = _Reader(self.pictures, self.seed)
        examples: list[Example] = []
        for key in keys:
            try:
                examples.append(self._example(reader, key, augmentation, recipe))
            except _TooManyError:
                break
        names = [Path(self.pictures.paths[index]).name for index in reader.used]
        if len(examples) < len(keys):
            nothing = torch.empty(0)
            return Loaded(step, part, nothing, nothing, nothing, names, reader.failures)
        images = torch.from_numpy(np.stack([item.image for item in examples]))
        longest = max(1, max(len(item.labels) for item in examples))
        labels = torch.full((len(examples), longest), -1, dtype=torch.int64)
        boxes = torch.zeros(len(examples), longest, 4, dtype=torch.float32)
        for row, item in enumerate(examples):
            labels[row, : len(item.labels)] = torch.from_numpy(item.labels)
            boxes[row, : len(item.labels)] = torch.from_numpy(item.boxes)
        return Loaded(step, part, images, labels, boxes, names, reader.failures)

    def _example(
        self, reader: _Reader, key: Key, augmentation: Augmentation, recipe: Preprocess
    ) -> Example:
        randomness = picture_randomness(self.seed, key.epoch, key.picture)

        def first() -> Annotated:
            found, index = reader.read(key.picture, key.epoch)
            reader.used.append(index)
            return found

        def other(_: int) -> Annotated:
            return reader.read(int(randomness.integers(len(self.pictures))), key.epoch)[0]

        return make_example(first, other, augmentation, recipe, randomness)


class _TooManyError(Exception):
    """More pictures cannot be read than may be."""


class _Reader:
    """Reads pictures, and others in the place of those that cannot be read.

    ``failures``: what is wrong with these, by index. ``used``: the first picture of each example.
    """

    def __init__(self, pictures: DetectionSet, seed: int) -> None:
        self._pictures = pictures
        self._seed = seed
        self.failures: dict[int, str] = {}
        self.used: list[int] = []

    def read(self, index: int, epoch: int) -> tuple[Annotated, int]:
        """The picture ``index`` or its substitute, and which it is; the same one whenever it is
        asked for."""
        substitutes = np.random.default_rng([self._seed, 4, epoch, index])
        while True:
            try:
                return self._pictures.annotated(index), index
            except ImageError as error:
                self.failures[index] = str(error)
            if len(self.failures) > most_unreadable(len(self._pictures)):
                raise _TooManyError
            index = int(substitutes.integers(len(self._pictures)))

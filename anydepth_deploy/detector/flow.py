"""Pictures through the network: read, prepared, computed in batches, in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.ahead import mapped
from anydepth_deploy.detector.frames import AnyItem, FramePicture, VideoItem
from anydepth_deploy.detector.items import Item, Picture, Reading
from anydepth_deploy.detector.result import Result
from anydepth_deploy.detector.sources import Skips
from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.pictures.images import Geometry, prepare
from anydepth_deploy.videos.reader import VideoEndsError

__all__ = ["Flow"]

READERS = 4
"""Threads that prepare pictures ahead, at most."""


@dataclass(frozen=True)
class _Asked:
    """A picture that is to be had, at these depths."""

    item: Item
    depths: tuple[Depth, ...]


@dataclass(frozen=True)
class _Failed:
    """What cannot be used, in its place in the order. ``fatal``: it ends the run."""

    name: str
    error: ImageError
    fatal: bool


@dataclass(frozen=True)
class _Prepared:
    picture: Picture
    depths: tuple[Depth, ...]
    inputs: NDArray[np.float32]
    geometry: Geometry


@dataclass
class Flow:
    """How pictures are read and computed: ``batch`` at a time, ``ahead`` of them read while others
    are computed. What is left out goes to ``skips``."""

    bundle: Bundle
    session: Session
    reading: Reading
    threshold: float
    batch: int
    ahead: int
    skips: Skips
    class_names: tuple[str, ...]

    def results(
        self, asked: Iterable[tuple[AnyItem, tuple[Depth, ...]]]
    ) -> Iterator[tuple[Result, ...]]:
        """Of every picture, and of every frame of a video, a result for each of its depths.

        What raises :class:`ImageError` does so behind the results of what came before.
        """
        ready = mapped(self._prepare, self._pictures(asked), self.ahead, _readers(self.ahead))
        with contextlib.closing(ready):  # type: ignore[type-var]  # a generator
            yield from self._batches(ready)

    def _batches(self, ready: Iterator[_Prepared | _Failed]) -> Iterator[tuple[Result, ...]]:
        fatal: BaseException | None = None
        while fatal is None:
            chunk: list[_Prepared] = []
            ended = True
            try:
                for found in ready:
                    if isinstance(found, _Prepared):
                        chunk.append(found)
                    elif found.fatal:
                        raise found.error
                    else:
                        self.skips.add(found.name, str(found.error))
                    del found
                    if len(chunk) == self.batch:
                        ended = False
                        break
            except Exception as error:
                fatal = error
            if chunk:
                rows = self._run(chunk)
                del chunk  # or what the caller has let go of would stay until the next one is read
                rows.reverse()
                while rows:
                    row = rows.pop()
                    picture = row[0].picture
                    yield row
                    del row
                    if isinstance(picture, FramePicture):
                        picture.let_go()
                    del picture
            if ended:
                break
        if fatal is not None:
            raise fatal

    def _pictures(
        self, asked: Iterable[tuple[AnyItem, tuple[Depth, ...]]]
    ) -> Iterator[_Asked | _Failed]:
        """Videos taken apart."""
        for item, depths in asked:
            if not isinstance(item, VideoItem):
                yield _Asked(item, depths)
                del item
                continue
            frames = item.frames(self.reading)
            with contextlib.closing(frames):  # type: ignore[type-var]  # a generator
                while True:
                    try:
                        frame = next(frames, None)
                    except VideoEndsError as error:
                        yield _Failed(item.name, error, fatal=False)
                        break
                    except ImageError as error:
                        yield _Failed(item.name, error, fatal=not item.found)
                        break
                    if frame is None:
                        break
                    yield _Asked(frame, depths)
                    del frame

    def _prepare(self, asked: _Asked | _Failed) -> _Prepared | _Failed:
        if isinstance(asked, _Failed):
            return asked
        how = self.reading
        try:
            picture = asked.item.had(how)
            pixels = picture.pixels(how)
            inputs, geometry = prepare(pixels, how.recipe, max_pixels=how.max_pixels)
        except ImageError as error:
            return _Failed(asked.item.name, error, fatal=not asked.item.found)
        return _Prepared(picture, asked.depths, inputs, geometry)

    @usual_arithmetic()
    def _run(self, chunk: Sequence[_Prepared]) -> list[tuple[Result, ...]]:
        images = np.stack([item.inputs for item in chunk])
        columns = []
        for place in range(len(chunk[0].depths)):
            depths = [item.depths[place] for item in chunk]
            if len(set(depths)) == 1:
                found = self.session.run(self.session.padded(images), depths[0])
            else:
                found = self.session.run(images, depths)
            columns.append(
                [
                    self._result(item, depths[row], found.image(row, self.threshold))
                    for row, item in enumerate(chunk)
                ]
            )
        return list(zip(*columns, strict=True))

    def _result(self, item: _Prepared, depth: Depth, one: Detections) -> Result:
        for label in np.unique(one.labels[0]):
            self.bundle.class_name(int(label))  # raises where there is none
        return Result(
            item.geometry.to_picture(one.boxes[0]),
            one.scores[0],
            one.labels[0],
            self.class_names,
            str(depth),
            item.geometry.size,
            item.picture,
            self.reading,
        )


def _readers(ahead: int) -> int:
    """A core is left to the network."""
    return max(1, min(ahead, READERS, (os.cpu_count() or 1) - 1))

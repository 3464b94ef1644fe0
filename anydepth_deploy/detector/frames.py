"""Videos, cameras and streams as pictures: one frame after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.detector.items import Item, Reading
from anydepth_deploy.errors import ImageError
from anydepth_deploy.videos.live import Newest
from anydepth_deploy.videos.reader import Frame, Video, VideoSource, open_video

__all__ = ["AnyItem", "FramePicture", "LiveFrame", "VideoItem", "is_live"]


@dataclass(frozen=True)
class VideoItem:
    """A video of a source, whose frames have still to be had."""

    source: VideoSource
    found: bool = False

    @property
    def name(self) -> str:
        return self.source.name

    def frames(self, how: Reading) -> Iterator[FramePicture | LiveFrame]:
        """The frames in order; of a live source the newest each time, unless ``how`` says all.

        Closed, it gives back what reads them. Raises :class:`ImageError`, and
        :class:`~anydepth_deploy.videos.reader.VideoEndsError` behind the last frame of a video that
        is cut or damaged.
        """
        if self.source.live and how.latest:
            with contextlib.closing(Newest(lambda: _read(self.source, how))) as newest:
                for frame in newest:
                    yield LiveFrame(self.source, frame.number, frame.time, frame.rate, frame.pixels)
            return
        for frame in _read(self.source, how):
            if self.source.live:
                yield LiveFrame(self.source, frame.number, frame.time, frame.rate, frame.pixels)
            else:
                yield FramePicture(
                    self.source,
                    frame.number,
                    frame.time,
                    frame.rate,
                    frame.pixels,
                    frame.stamp,
                    frame.expected,
                )


AnyItem = Item | VideoItem


def is_live(item: AnyItem) -> bool:
    """Whether it gives frames as they come, without an end."""
    return isinstance(item, VideoItem) and item.source.live


def _read(source: VideoSource, how: Reading) -> Iterator[Frame]:
    with _opened(source, how) as video:
        yield from video.frames()


def _opened(source: VideoSource, how: Reading) -> Video:
    return open_video(source, upright=how.upright, max_pixels=how.max_pixels, timeout=how.timeout)


@dataclass(eq=False)
class LiveFrame:
    """A frame that is not to be had again, and is kept."""

    video: VideoSource
    frame: int
    time: float
    rate: Fraction | None
    array: NDArray[np.uint8] = field(repr=False)
    found: bool = False
    expected: None = None

    @property
    def path(self) -> str:
        return f"{self.video.name}#{self.frame}"

    name = path

    def had(self, how: Reading) -> LiveFrame:
        return self

    def pixels(self, how: Reading) -> NDArray[np.uint8]:
        return self.array


@dataclass(eq=False)
class FramePicture:
    """A frame of a file. Its pixels are kept until :meth:`let_go`, and read again from then on, so
    that the results of a long video take no more memory than those of as many pictures."""

    video: VideoSource
    frame: int
    time: float
    rate: Fraction | None
    array: NDArray[np.uint8] | None = field(repr=False)
    stamp: int | None = None
    expected: int | None = None
    found: bool = False

    @property
    def path(self) -> str:
        return f"{self.video.name}#{self.frame}"

    name = path

    def had(self, how: Reading) -> FramePicture:
        return self

    def let_go(self) -> None:
        self.array = None

    def pixels(self, how: Reading) -> NDArray[np.uint8]:
        held = self.array
        return self._again(how) if held is None else held

    def _again(self, how: Reading) -> NDArray[np.uint8]:
        for seek in (True, False):
            with _opened(self.video, how) as video:
                found = video.frame_at(self.frame, self.stamp, seek=seek)
            if found is not None:
                return found
        raise ImageError(
            f"{self.video.what} has changed since it was looked at: it has no frame {self.frame} "
            "any more"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": None}

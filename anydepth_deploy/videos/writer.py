"""Frames into a video that browsers and players show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.documents import beside, name_anew, refusing, take_after
from anydepth_deploy.errors import ImageError
from anydepth_deploy.videos.reader import require_video

__all__ = ["CONTAINERS", "VideoWriter"]

CONTAINERS = frozenset({".mp4", ".m4v", ".mov", ".mkv"})
"""Suffixes of videos that are written: they take H.264."""

ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""H.264 where FFmpeg was built with it; MPEG-4 plays in fewer places."""

TICKS = 10_000
"""Of a second, at least."""

NEAR = Fraction(1, 1000)
"""Seconds by which a container that counts in milliseconds is off: frames whose times are that near
to a steady rate have it."""

QUALITY = "20"
"""x264's constant rate factor: the difference is hard to see."""


class VideoWriter:
    """Writes frames of one size into ``path``, beside it until :meth:`finish`.

    ``rate``: frames a second; the times of frames that keep no steady rate are kept all the same.
    Raises :class:`ImageError` where it cannot be written, and :class:`MissingExtraError` without
    PyAV.
    """

    def __init__(self, path: Path, rate: Fraction | None = None) -> None:
        self.path = path
        self._av = require_video("writing a video")
        self._rate = rate or Fraction(25)
        times = -(-TICKS // self._rate.numerator)
        self._unit = Fraction(1, self._rate.numerator * times)
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._temporary: Path | None = None
        self._last: int | None = None
        self._step = round(1 / (self._rate * self._unit))
        self.count = 0

    def add(self, pixels: NDArray[np.uint8], time: float) -> None:
        """A frame, RGB uint8 [H, W, 3], at ``time`` seconds; of an odd side the last row or column
        is repeated, since H.264 stores colour for pairs of pixels."""
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        with self._refusing():
            if self._container is None:
                self._open(pixels.shape[0], pixels.shape[1])
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            steady, moment = self.count / self._rate, Fraction(time)
            stamp = round((steady if abs(steady - moment) <= NEAR else moment) / self._unit)
            if self._last is not None:
                stamp = max(stamp, self._last + 1)  # players want times that rise
            self._last, frame.pts, frame.time_base = stamp, stamp, self._unit
            for packet in self._stream.encode(frame):
                packet.duration = packet.duration or self._step
                self._container.mux(packet)
            self.count += 1

    def _open(self, height: int, width: int) -> None:
        self._temporary = self._stack.enter_context(beside(self.path))
        kind = {".mkv": "matroska", ".mov": "mov"}.get(self.path.suffix.lower(), "mp4")
        options = {} if kind == "matroska" else {"movflags": "+faststart"}
        self._container = self._av.open(
            f"file:{self._temporary}", "w", format=kind, options=options
        )
        encoder = next(name for name in ENCODERS if name in self._av.codec.codecs_available)
        self._stream = self._container.add_stream(encoder, rate=self._rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"  # the one that every player shows
        self._stream.codec_context.time_base = self._unit
        self._stream.options = {"crf": QUALITY, "preset": "veryfast"} if "264" in encoder else {}

    def finish(self, *, replace: bool = True) -> Path:
        """End the video, and put it where it belongs; where a file of that name is there and not to
        be replaced, under a name with a number. Its path."""
        if self._container is None:
            raise ImageError(f"video {self.path} cannot be written: it has no frame")
        with self._refusing():
            for packet in self._stream.encode(None):
                packet.duration = packet.duration or self._step
                self._container.mux(packet)
            self._container.close()
            temporary, self._container = self._temporary, None
            assert temporary is not None
            if replace:
                take_after(self.path, temporary)
                temporary.replace(self.path)
                return self.path
            return name_anew(temporary, self.path)

    def close(self) -> None:
        """Let go of what was not finished."""
        if self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()
        self._container = None
        self._stack.close()

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        with refusing(self.path, "video", ImageError):
            try:
                yield
            except OSError:
                raise
            except ValueError as error:  # FFmpeg's, of which some are no OSError
                raise OSError(str(error)) from None

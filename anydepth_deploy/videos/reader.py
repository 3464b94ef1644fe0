"""Frames of a video, one by one, upright, with their times.

PyAV, which is FFmpeg: it tells an error from the end of a file, knows the time and the rotation of
each frame, and says what a container promised.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import ImageError, missing_extra
from anydepth_deploy.pictures.budget import MAX_PIXELS, check_picture
from anydepth_deploy.videos.display import displayed

__all__ = [
    "READING",
    "Frame",
    "Video",
    "VideoEndsError",
    "VideoSource",
    "camera_device",
    "open_video",
    "require_video",
]

FORMATS = (
    "asf,avi,flv,h264,hevc,matroska,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,ogg,webm"
)
"""FFmpeg's readers of files; others open further files or addresses that a file names."""

PROMISING = frozenset({"avi", "matroska", "webm", "mov", "mp4"})
"""Containers whose beginning says how long they are."""

SLACK = 0.5
"""Seconds that a container may promise too much: tracks do not end together."""

READING = "reading a video, a stream or a camera"

BAD_PACKETS = 250
"""In a row, of a live source, which goes on after damage: more is no picture at all."""

MICROSECONDS = 1_000_000


class VideoEndsError(ImageError):
    """A video that ends before its end; the frames before are sound."""


@dataclass(frozen=True)
class VideoSource:
    """A file, an address or a camera. ``name``: for people; ``camera``: its number."""

    address: str
    name: str
    live: bool = False
    camera: int | None = None

    @property
    def what(self) -> str:
        if self.camera is not None:
            return f"camera {self.name}"
        return f"{'stream' if self.live else 'video'} {self.name}"


@dataclass(frozen=True)
class Frame:
    """``pixels``: RGB, uint8 [H, W, 3]. ``number``: from 0. ``time``: seconds since the first
    frame. ``stamp``: its time in the units of the file, where it has one. ``rate`` and
    ``expected``: of the video, see :class:`Video`."""

    number: int
    time: float
    stamp: int | None
    pixels: NDArray[np.uint8] = field(repr=False)
    rate: Fraction | None = None
    expected: int | None = None


@dataclass
class Video:
    """An open video. ``rate``: frames a second, where it is known; ``expected``: about how many
    frames there are, None where nothing says."""

    source: VideoSource
    container: Any
    stream: Any
    upright: bool
    max_pixels: int
    timeout: float

    @property
    def rate(self) -> Fraction | None:
        found = self.stream.average_rate or self.stream.guessed_rate
        return Fraction(found) if found else None

    @property
    def expected(self) -> int | None:
        if self.source.live:
            return None
        if self.stream.frames:
            return int(self.stream.frames)
        duration, rate = self.container.duration, self.rate
        return round(duration * rate / MICROSECONDS) if duration and rate else None

    def frames(self) -> Iterator[Frame]:
        """All of them, in order; not a second time.

        Raises :class:`ImageError` where there is none or one is over the budget of pixels, and
        :class:`VideoEndsError` where the file is cut or damaged behind the last of them; a live
        source goes on after damage.
        """
        progress = _Progress()
        try:
            for image in self._decoded(progress):
                if image.width * image.height > self.max_pixels:
                    check_picture(image.height, image.width, self.max_pixels, self.source.what)
                yield self._frame(image, progress)
        except ImageError:
            raise
        except Exception as error:  # whatever FFmpeg says, which is no class of its own
            raise self._ended(progress, _words(error, self.timeout)) from None
        if self._is_short(progress):
            raise self._ended(progress, "the file ends there, and says that it is longer")
        if not progress.count:
            raise ImageError(f"{self.source.what} holds no frame")

    def frame_at(self, number: int, stamp: int | None, *, seek: bool) -> NDArray[np.uint8] | None:
        """The pixels of frame ``number``, whose time in the file is ``stamp``; None where it is not
        found. ``seek``: from a key frame before it, which not every container finds, rather than
        from the begin."""
        with contextlib.suppress(Exception):
            if seek and stamp is not None:
                self.container.seek(stamp, stream=self.stream)
        with contextlib.suppress(ImageError):
            for frame in self.frames():
                if stamp is None:
                    if frame.number == number:
                        return frame.pixels
                elif frame.stamp is not None and frame.stamp >= stamp:
                    return frame.pixels if frame.stamp == stamp else None
        return None

    def _decoded(self, progress: _Progress) -> Iterator[Any]:
        """The frames as FFmpeg has them."""
        timed = [self.stream]
        if not self.source.live:
            timed += self.container.streams.audio  # how far a file goes shows in its sound, too
        bad = 0
        for packet in self.container.demux(timed):
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                progress.reached = max(progress.reached, end)
            if packet.stream.index != self.stream.index:
                continue
            try:
                found = packet.decode()
            except Exception:
                bad += 1
                if not self.source.live or bad > BAD_PACKETS:
                    raise
                continue
            bad = 0
            yield from found

    def _frame(self, image: Any, progress: _Progress) -> Frame:
        number, stamp = progress.count, image.pts
        if number == 0:
            progress.first = stamp
        if stamp is not None and progress.first is not None and image.time_base is not None:
            moment = float((stamp - progress.first) * image.time_base)
        else:
            moment = float(number / self.rate) if self.rate else 0.0
        progress.count, progress.moment = number + 1, moment
        pixels = image.to_ndarray(format="rgb24")
        if self.upright:
            pixels = displayed(pixels, image)
        return Frame(number, moment, stamp, pixels, self.rate, self.expected)

    def _is_short(self, progress: _Progress) -> bool:
        kinds = {*self.container.format.name.split(",")}
        if self.source.live or not kinds & PROMISING or not self.container.duration:
            return False
        # Matroska counts from zero, the others from where they start.
        from_zero = "matroska" in kinds
        start = Fraction(0 if from_zero else self.container.start_time or 0, MICROSECONDS)
        slack = max(Fraction(SLACK), 2 / self.rate if self.rate else Fraction(0))
        promised = Fraction(self.container.duration, MICROSECONDS)
        return progress.reached - start + slack < promised

    def _ended(self, progress: _Progress, why: str) -> ImageError:
        if not progress.count:
            return ImageError(f"{self.source.what} holds no frame that can be read: {why}")
        return VideoEndsError(
            f"{self.source.what} ends at frame {progress.count} ({progress.moment:.2f} s): {why}"
        )

    def close(self) -> None:
        with contextlib.suppress(Exception):  # what is closed has given all that it had
            self.container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Progress:
    """``count``: frames so far. ``reached``: where the last of what was read ends, in seconds."""

    count: int = 0
    moment: float = 0.0
    first: int | None = None
    reached: Fraction = Fraction(0)


def require_video(purpose: str) -> Any:
    """PyAV. Raises :class:`MissingExtraError` where it is not installed."""
    try:
        import av
    except ModuleNotFoundError as error:
        friendly = missing_extra(error, purpose)
        if friendly is None:
            raise
        raise friendly from None
    return av


def open_video(
    source: VideoSource,
    *,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
    timeout: float = 30.0,
) -> Video:
    """Open a video, a stream or a camera. ``upright``: frames are turned as players show them.
    ``timeout``: seconds that an address may take to answer, and then between two frames.

    Raises :class:`ImageError` where there is none, nobody answers, or it holds no pictures, and
    :class:`MissingExtraError` without PyAV.
    """
    av = require_video(READING)
    address, options = source.address, {}
    kind = None
    if source.camera is not None:
        kind, address = camera_device(source)
    elif "://" not in address:
        _check_file(source)
        # What a file names is not opened: playlists can name other files and addresses.
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        address = f"file:{address}"
    elif address.lower().startswith("rtsp"):
        options = {"rtsp_transport": "tcp"}  # no frame is damaged because a packet is lost
    begin = time.monotonic()
    try:
        container = av.open(
            address,
            format=kind,
            options=options,
            timeout=(timeout, timeout),
            metadata_errors="replace",
        )
    except Exception as error:  # FFmpeg's errors have many classes
        late = "://" in address and time.monotonic() - begin >= timeout
        raise _refused(source, timeout if late else None, error) from None
    try:
        return _opened(source, container, upright, max_pixels, timeout)
    except BaseException:
        container.close()
        raise


def _opened(
    source: VideoSource, container: Any, upright: bool, max_pixels: int, timeout: float
) -> Video:
    # A cover of music is a picture, and no video.
    streams = [item for item in container.streams.video if not _is_cover(item)]
    if not streams:
        held = "only sound" if container.streams.audio else "no track that can be read"
        raise ImageError(f"{source.what} holds no pictures: {held}")
    stream = streams[0]
    check_picture(stream.height or 0, stream.width or 0, max_pixels, source.what)
    return Video(source, container, stream, upright, max_pixels, timeout)


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _check_file(source: VideoSource) -> None:
    path = Path(source.address)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ImageError(f"{source.what} cannot be read: {error.strerror or error}") from None
    if path.is_file() and not size:
        raise ImageError(f"{source.what} is empty")


def camera_device(source: VideoSource) -> tuple[str, str]:
    """FFmpeg's name of the system's cameras, and its address of this one. Raises
    :class:`ImageError` where there is none."""
    system: str = sys.platform
    if system.startswith("linux"):
        device = f"/dev/video{source.camera}"
        if not Path(device).exists():
            there = sorted(Path("/dev").glob("video[0-9]*"))
            held = ", ".join(map(str, there)) or "no camera"
            raise ImageError(f"{source.what} is not there ({device}): this machine has {held}")
        return "v4l2", device
    if system == "darwin":
        return "avfoundation", f"{source.camera}:none"
    raise ImageError(
        f"{source.what} cannot be opened by its number on this system: give its frames as arrays "
        "uint8 [H, W, 3], from an iterator"
    )


def _refused(source: VideoSource, late: float | None, error: Exception) -> ImageError:
    if late is not None:
        return ImageError(
            f"{source.what} did not answer in {late:g} s; try again, or raise timeout"
        )
    words = _words(error, 0)
    if source.camera is not None:
        return ImageError(f"{source.what} cannot be opened: {words}")
    if source.live or "://" in source.address:
        return ImageError(f"{source.what} cannot be opened: {words}; is the address right?")
    return ImageError(
        f"{source.what} is not a video of a kind that is read, or it is cut or damaged: {words}"
    )


def _words(error: Exception, timeout: float) -> str:
    """What FFmpeg says, without its numbers and addresses, which may hold a password."""
    if type(error).__name__ == "ExitError":
        return f"nothing came in {timeout:g} s"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:200]

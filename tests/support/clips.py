"""Videos that tests make: tiny, of a few frames that can be told apart."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["cut", "displayed", "level_of", "make_clip", "moments", "streamed", "turned"]

STEP = 8
"""Grey levels between frames: H.264 moves them by one or two."""


def make_clip(
    path: Path,
    count: int = 12,
    size: tuple[int, int] = (48, 64),
    *,
    rate: Fraction | int = 10,
    codec: str = "libx264",
    noise: bool = False,
    times: Sequence[Fraction] | None = None,
    key_every: int = 5,
) -> Path:
    """A video of `count` frames of `size` (height, width): frame n is grey of level 8 n + 16, its
    left half is brighter by 40. `noise`: in a band below, so that each frame takes room. `times`:
    of the frames, in seconds, where they keep no rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    options = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = key_every
        unit = Fraction(1, 10_000) if times else 1 / Fraction(rate)
        stream.codec_context.time_base = unit
        for number in range(count):
            pixels = frame_pixels(number, size)
            if noise:
                band = pixels[size[0] // 2 :]
                band[:] = rng.integers(0, 256, band.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times is None else round(times[number] / unit)
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_pixels(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = np.full((*size, 3), 16 + STEP * number % 200, np.uint8)
    pixels[:, : size[1] // 2] += 40
    return pixels


def level_of(pixels: NDArray[np.uint8]) -> int:
    """Which frame this is, by its right upper corner."""
    return round((float(pixels[2:8, -8:-2].mean()) - 16) / STEP)


def cut(path: Path, share: float) -> Path:
    """A copy that ends early."""
    content = path.read_bytes()
    found = path.with_name(f"cut-{path.name}")
    found.write_bytes(content[: int(len(content) * share)])
    return found


def turned(path: Path, quarter: int) -> Path:
    """The MP4 `path`, marked so that players turn it by `quarter` quarters clockwise."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter % 4]
    return displayed(path, (cos, sin, -sin, cos))


def displayed(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The MP4 `path` with a b c d in the matrix of its track's header (ISO 14496-12, 8.3.2), as
    phones write it: point (p, q) is shown at (a p + c q, b p + d q), moved to where it fits."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2 * 4
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    found = path.with_name(f"displayed-{'_'.join(map(str, matrix))}-{path.name}")
    found.write_bytes(content)
    return found


def moments(path: Path) -> tuple[list[float], tuple[int, int], Fraction, str]:
    """What a player sees of a video: times of its frames, height and width, rate, and codec."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [float(frame.time) for frame in container.decode(stream) if frame.time is not None]
        size = (stream.height, stream.width)
        return times, size, Fraction(stream.average_rate or 0), stream.codec_context.name


@contextlib.contextmanager
def streamed(content: bytes) -> Iterator[str]:
    """Where one client is sent `content`, at once: `HOST:PORT`, for an address of the kind tcp."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()

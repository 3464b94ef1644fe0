"""Frames of videos: all of them, in order, upright; and one line where there is none."""

from __future__ import annotations

import socket
import sys
import threading
import time
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import cut, displayed, frame_pixels, level_of, make_clip, turned

from anydepth_deploy.detector.frames import FramePicture
from anydepth_deploy.detector.items import Reading
from anydepth_deploy.errors import ImageError, MissingExtraError
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.videos.reader import Frame, VideoEndsError, VideoSource, open_video

HOW = Reading(Preprocess.of("stretch", (32, 32)))


def of(path: Path) -> VideoSource:
    return VideoSource(str(path), path.name)


def frames(path: Path, **options: bool) -> list[Frame]:
    with open_video(of(path), **options) as video:
        return list(video.frames())


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_every_frame_in_order_with_its_time(tmp_path: Path, name: str, codec: str) -> None:
    path = make_clip(tmp_path / name, 12, (48, 64), rate=10, codec=codec)
    with open_video(of(path)) as video:
        assert video.rate == 10
        assert video.expected is not None
        found = list(video.frames())
    assert [frame.number for frame in found] == list(range(12))
    assert [level_of(frame.pixels) for frame in found] == list(range(12))
    assert [frame.time for frame in found] == pytest.approx([n / 10 for n in range(12)], abs=1e-3)
    for frame in found:
        assert frame.pixels.shape == (48, 64, 3)
        expected = frame_pixels(frame.number, (48, 64)).astype(int)
        assert np.abs(frame.pixels.astype(int) - expected)[:, 8:24].max() <= 6


def test_times_that_keep_no_rate(tmp_path: Path) -> None:
    times = [Fraction(n, 100) for n in (0, 10, 15, 50, 51, 200)]
    path = make_clip(tmp_path / "a.mp4", 6, times=times)
    assert [frame.time for frame in frames(path)] == pytest.approx([*map(float, times)], abs=2e-4)


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_videos_of_phones_are_upright(tmp_path: Path, quarter: int) -> None:
    """Turned clockwise, as players turn them; `np.rot90` turns the other way."""
    plain = make_clip(tmp_path / "a.mp4", 3)
    path = turned(plain, quarter)
    stored = [frame.pixels for frame in frames(plain)]
    expected = [np.rot90(pixels, -quarter) for pixels in stored]
    found = [frame.pixels for frame in frames(path)]
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    found = [frame.pixels for frame in frames(path, upright=False)]
    assert all(np.array_equal(*pair) for pair in zip(found, stored, strict=True))


@pytest.mark.parametrize(
    "matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (-1, 0, 0, -1)]
)
def test_mirrored_videos_are_mirrored(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Point by point, from the corner that the matrix moves there."""
    plain = make_clip(tmp_path / "a.mp4", 1)
    ((stored,), (found,)) = (
        [frame.pixels for frame in frames(path)] for path in (plain, displayed(plain, matrix))
    )
    a, b, c, d = matrix
    rows, columns = np.mgrid[: stored.shape[0], : stored.shape[1]]
    across, down = a * columns + c * rows, b * columns + d * rows
    expected = np.empty_like(found)
    expected[down - down.min(), across - across.min()] = stored
    assert np.array_equal(found, expected)


def test_a_matroska_that_begins_late_is_whole(tmp_path: Path) -> None:
    times = [5 + Fraction(n, 25) for n in range(10)]
    found = frames(make_clip(tmp_path / "a.mkv", 10, times=times))
    assert len(found) == 10  # and nothing is raised: it is not cut
    assert found[-1].time == pytest.approx(9 / 25, abs=2e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_video_that_is_cut_ends_there(tmp_path: Path, name: str, share: float) -> None:
    path = cut(make_clip(tmp_path / name, 40, noise=True), share)
    found: list[Frame] = []
    with open_video(of(path)) as video, pytest.raises(VideoEndsError) as caught:
        found.extend(video.frames())
    assert [level_of(frame.pixels) for frame in found] == [n % 25 for n in range(len(found))]
    assert 10 < len(found) < 38
    last = found[-1].time
    assert str(caught.value).startswith(
        f"video cut-{name} ends at frame {len(found)} ({last:.2f} s): "
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_a_whole_video_with_sound_that_is_longer_is_not_cut(tmp_path: Path, name: str) -> None:
    import av

    path = tmp_path / name
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("mp2", rate=16000)
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(frame_pixels(number, (48, 64)), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(40):
            samples = np.zeros((1, 1152), np.int16)
            noise = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            noise.sample_rate, noise.pts = 16000, number * 1152
            container.mux(sound.encode(noise))
        container.mux(sound.encode(None))
    assert len(frames(path)) == 5


def test_what_is_no_video(tmp_path: Path) -> None:
    text, empty, sound = tmp_path / "t.mp4", tmp_path / "e.mp4", tmp_path / "s.wav"
    text.write_text("#EXTM3U\n/etc/passwd\n" * 20)
    empty.touch()
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    index = cut(make_clip(tmp_path / "i.mp4", 3), 0.1)
    for path, told in (
        (text, "video t.mp4 is not a video of a kind that is read, or it is cut or damaged: "),
        (empty, "video e.mp4 is empty"),
        (sound, "video s.wav"),
        (index, "video cut-i.mp4"),
        (tmp_path / "none.mp4", "video none.mp4 cannot be read: No such file"),
        (tmp_path, "cannot be read: |is not a video"),
    ):
        with pytest.raises(ImageError, match=told) as caught:
            frames(path)
        assert "\n" not in str(caught.value)


def test_sound_alone(tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp2", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match=r"video song.mp4 holds no pictures: only sound"):
        frames(path)


def test_a_video_without_a_frame(tmp_path: Path) -> None:
    import av

    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(ImageError, match=r"video none.mkv (holds no frame|is not a video)"):
        frames(path)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    """What FFmpeg would do with a list of files that is called like a video."""
    other = make_clip(tmp_path / "other.ts", 3)
    for content in (f"ffconcat version 1.0\nfile {other.name}\n", f"#EXTM3U\n{other.name}\n"):
        path = tmp_path / "list.mp4"
        path.write_text(content)
        with pytest.raises(ImageError, match="is not a video of a kind that is read"):
            frames(path)


def test_a_video_over_the_budget(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 2, (48, 64))
    with pytest.raises(ImageError, match=r"video a\.mp4 of 64 x 48 pixels is over the budget"):
        open_video(of(path), max_pixels=48 * 64 - 1)


def test_one_frame_again(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts"):
        path = make_clip(tmp_path / name, 12)
        for frame in reversed(frames(path)):
            again = FramePicture(of(path), frame.number, frame.time, None, None, frame.stamp)
            assert np.array_equal(again.pixels(HOW), frame.pixels)
        gone = FramePicture(of(path), 99, 9.9, None, None, 1 << 40)
        with pytest.raises(ImageError, match=f"video {name} has changed .*: it has no frame 99"):
            gone.pixels(HOW)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "a.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[video\]'"):
        open_video(of(path))


# --- addresses ---------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtsp", "tcp", "http"])
def test_nobody_answers_in_time(silent: int, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{silent}/a.mp4"
    begin = time.monotonic()
    with pytest.raises(ImageError, match=r"did not answer in 0\.3 s; try again, or raise timeout"):
        open_video(VideoSource(url, url, live=scheme != "http"), timeout=0.3)
    assert time.monotonic() - begin < 5


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"rtsp://127.0.0.1:{port}/live"
    with pytest.raises(ImageError, match=f"stream {url} cannot be opened: Connection refused"):
        open_video(VideoSource(url, url, live=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras of Linux have paths")
def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(ImageError, match=r"camera 987 is not there \(/dev/video987\): this mach"):
        open_video(VideoSource("987", "987", live=True, camera=987))


def test_a_stream_that_falls_silent(tmp_path: Path) -> None:
    """Frames come, and then none for longer than the timeout."""
    content = make_clip(tmp_path / "a.ts", 30, noise=True, rate=10).read_bytes()
    released = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)
                released.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        found: list[Frame] = []
        with (
            open_video(VideoSource(url, url, live=True), timeout=1.0) as video,
            pytest.raises(VideoEndsError, match=r"ends at frame \d+ .*: nothing came in 1 s"),
        ):
            found.extend(video.frames())
        released.set()
        thread.join()
    assert len(found) > 20

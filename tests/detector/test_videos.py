"""Videos and streams as sources of a detector."""

from __future__ import annotations

import io
import logging
import pickle
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import cut, level_of, make_clip, streamed, turned
from listening import ListeningSession, listening_detector
from PIL import Image

from anydepth_deploy.detector.detector import Detector
from anydepth_deploy.detector.sources import Skipped
from anydepth_deploy.errors import DepthError, ImageError, UsageError


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return listening_detector(tmp_path)[0]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", 12)
    return Path("clip.mp4")


def ours() -> list[str]:
    return [item.name for item in threading.enumerate() if item.name.startswith("anydepth-")]


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_frame_is_a_result(detector: Detector, clip: Path, ahead: int, batch: int) -> None:
    found = detector(clip, batch=batch, ahead=ahead)
    assert [result.path for result in found] == [f"clip.mp4#{n}" for n in range(12)]
    assert [result.frame for result in found] == list(range(12))
    assert [result.time for result in found] == pytest.approx([n / 10 for n in range(12)])
    assert found[3].to_json()["image"] == "clip.mp4#3"
    assert (found[3].to_json()["frame"], found[3].to_json()["time"]) == (3, 0.3)
    assert [level_of(result.image) for result in found] == list(range(12))
    assert ours() == []


def test_the_network_sees_the_frames(tmp_path: Path, clip: Path) -> None:
    """The numbers of each, as those of a picture with the same pixels."""
    detector, session = listening_detector(tmp_path)
    found = detector("clip.mp4")
    inputs, session.calls[:] = session.inputs, []
    detector([result.image for result in found])
    assert all(np.array_equal(*pair) for pair in zip(inputs, session.inputs, strict=True))


def test_results_of_a_video_hold_no_pixels(detector: Detector, clip: Path) -> None:
    stream = detector.stream(str(clip))
    first = next(stream)
    assert first.picture.array is not None  # type: ignore[attr-defined]
    image = first.image
    second = next(stream)
    assert first.picture.array is None  # type: ignore[attr-defined]
    assert np.array_equal(first.image, image)  # read again
    assert second.plot().size[0] % 64 == 0
    stream.close()  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(second))
    assert np.array_equal(again.image, second.image)
    clip.unlink()
    with pytest.raises(ImageError, match=r"video clip\.mp4 cannot be read: No such file"):
        _ = first.image


def test_a_list_of_a_long_video_takes_no_more_memory(detector: Detector, tmp_path: Path) -> None:
    """150 frames of 230 kB: 34 MB, were they kept."""
    make_clip(tmp_path / "long.mp4", 150, (240, 320), key_every=50)
    for ahead in (0, 4):
        tracemalloc.start()
        found = detector(tmp_path / "long.mp4", ahead=ahead)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found) == 150
        assert peak < 8_000_000


def test_phones_are_turned_like_photos(tmp_path: Path, clip: Path) -> None:
    path = turned(clip, 1)
    assert {result.size for result in listening_detector(tmp_path)[0](path)} == {(64, 48)}
    stored = listening_detector(tmp_path, orientation="stored")[0]
    assert {result.size for result in stored(path)} == {(48, 64)}


def test_videos_among_others(detector: Detector, clip: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "b.MKV", 2)
    Image.new("RGB", (9, 9)).save("a.png")
    (tmp_path / "clip.pred.mp4").write_bytes(clip.read_bytes())
    found = detector(["a.png", "b.MKV", np.zeros((8, 8, 3), np.uint8), "b.MKV"])
    assert [item.path for item in found] == [
        *("a.png", "b.MKV#0", "b.MKV#1"),
        *(None, "b.MKV#0", "b.MKV#1"),
    ]
    assert len(detector("*.mp4")) == 12  # drawings of earlier runs are none
    assert len(detector(iter(["a.png", "clip.mp4"]))) == 13
    assert [item.path for item in detector("*")] == ["a.png"]  # pictures, unless told otherwise


def test_a_depth_for_each_video(detector: Detector, clip: Path) -> None:
    Image.new("RGB", (9, 9)).save("a.png")
    found = detector([clip, "a.png"], depth=["base", "super"])
    assert [result.depth for result in found] == ["TT-1"] * 12 + ["FF-2"]
    with pytest.raises(UsageError, match="1 depths for 2 pictures"):
        detector([clip, "a.png"], depth=["base"])


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_video_that_is_cut(
    detector: Detector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ahead: int,
    batch: int,
) -> None:
    """What came before is kept, and so is what comes behind it."""
    monkeypatch.chdir(tmp_path)
    cut(make_clip(Path("long.mp4"), 40, noise=True), 0.5)
    Image.new("RGB", (9, 9)).save("a.png")
    skipped: list[Skipped] = []
    found = detector(["cut-long.mp4", "a.png"], batch=batch, ahead=ahead, skipped=skipped)
    count = len(found) - 1
    assert 10 < count < 38
    assert [item.path for item in found[:-1]] == [f"cut-long.mp4#{n}" for n in range(count)]
    assert found[-1].path == "a.png"
    (item,) = skipped
    assert item.image == "cut-long.mp4"
    assert item.error.startswith(f"video cut-long.mp4 ends at frame {count} (")
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        assert len(detector("cut-long.mp4")) == count
    assert [record.getMessage() for record in caplog.records] == [f"skipped: {item.error}"]


def test_what_is_no_video(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "t.mp4").write_text("no video")
    with pytest.raises(ImageError, match=r"t\.mp4 is not a video of a kind that is read"):
        detector(tmp_path / "t.mp4")
    make_clip(tmp_path / "u.mp4", 2)
    skipped: list[Skipped] = []
    assert len(detector(str(tmp_path / "*.mp4"), skipped=skipped)) == 2
    assert [Path(item.image).name for item in skipped] == ["t.mp4"]


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_came_before_an_error_is_given(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Also where it shares a batch with what cannot be used."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.png")
    Path("b.png").write_text("no picture")
    stream = detector.stream(["a.png", "b.png", "a.png"], batch=8, ahead=ahead)
    assert next(stream).path == "a.png"
    with pytest.raises(ImageError, match=r"b\.png is not a picture"):
        next(stream)
    assert ours() == []


@pytest.mark.parametrize("ahead", [1, 6])
def test_closing_a_stream_early(detector: Detector, clip: Path, ahead: int) -> None:
    stream = detector.stream([clip] * 50, ahead=ahead)
    assert [result.frame for result in islice(stream, 5)] == list(range(5))
    stream.close()  # type: ignore[attr-defined]
    assert ours() == []
    with pytest.raises(UsageError, match="ahead is -1: expected 0 pictures"):
        detector.stream(clip, ahead=-1)


def test_reading_ahead_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(9):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "4.jpg").write_text("no picture")
    (tmp_path / "7.jpg").write_text("no picture")

    def finds(image: Any) -> list[tuple[int, float, tuple[float, ...]]]:
        return [(1, float(image.mean()), (1.0, 2.0, 30.0, 40.0))]

    runs = []
    for ahead, batch in ((0, 1), (3, 1), (20, 1), (4, 3)):
        detector, _ = listening_detector(tmp_path, ListeningSession(finds))
        skipped: list[Skipped] = []
        pictures = str(tmp_path / "*.*g")
        found = detector(pictures, "base", 0.0, batch, ahead=ahead, skipped=skipped)
        runs.append(([result.to_json() for result in found], skipped))
    assert len(runs[0][0]) == 9
    assert [Path(item.image).name for item in runs[0][1]] == ["4.jpg", "7.jpg"]
    assert all(run == runs[0] for run in runs)


# --- several depths ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
def test_every_picture_at_several_depths(tmp_path: Path, clip: Path, batch: int) -> None:
    detector, session = listening_detector(tmp_path)
    rows = list(detector.compare(clip, ["base", "level:1", "super"], batch=batch))
    assert [[result.depth for result in row] for row in rows] == [["TT-1", "FF-1", "FF-2"]] * 12
    assert all(len({result.path for result in row}) == 1 for row in rows)
    assert len(session.inputs) == 36
    assert sum(len(images) for images, depth in session.calls if str(depth) == "FF-1") == 12
    with pytest.raises(UsageError, match="compare takes a list of depths"):
        detector.compare(clip, "base")
    with pytest.raises(DepthError, match="unknown depth 'deep'"):
        detector.compare(clip, ["base", "deep"])


# --- streams -----------------------------------------------------------------------------------


@pytest.fixture
def broadcast(tmp_path: Path) -> Iterator[str]:
    """The address of a stream that sends 60 frames at once, and then ends."""
    content = make_clip(tmp_path / "live.ts", 60, noise=True).read_bytes()
    with streamed(content) as place:
        yield f"tcp://name:secret@{place}"


def test_a_stream_gives_its_newest_frame(tmp_path: Path, broadcast: str) -> None:
    """Frames that come while the network computes are let go."""

    def slowly(image: Any) -> list[tuple[int, float, tuple[float, ...]]]:
        time.sleep(0.05)
        return []

    detector, _ = listening_detector(tmp_path, ListeningSession(slowly))
    found = list(detector.stream(broadcast, ahead=4))
    numbers = [result.frame for result in found if result.frame is not None]
    assert numbers == sorted(numbers)
    assert len(numbers) < 30
    assert numbers[-1] >= 58
    assert all("secret" not in str(result.path) for result in found)
    assert level_of(found[-1].image) == numbers[-1] % 25
    assert ours() == []


def test_a_stream_gives_every_frame_if_told_to(tmp_path: Path, broadcast: str) -> None:
    detector, _ = listening_detector(tmp_path, latest=False)
    found = list(detector.stream(broadcast))
    assert [result.frame for result in found] == list(range(len(found)))
    assert len(found) >= 59


def test_the_pictures_of_a_camera_with_a_web_server(tmp_path: Path) -> None:
    """JPEGs in a multipart answer that does not end by itself."""
    parts = []
    for level in (40, 120, 200):
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (level,) * 3).save(file, "JPEG")
        parts.append(b"--part\r\nContent-Type: image/jpeg\r\n\r\n" + file.getvalue() + b"\r\n")
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=part\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(head + b"".join(parts) + b"--part--\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        detector, _ = listening_detector(tmp_path, latest=False, timeout=5)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/video.mjpg"
        found = list(detector.stream(url, skipped=[]))
        thread.join()
    levels = [round(float(result.image.mean())) for result in found]
    assert levels == [pytest.approx(level, abs=3) for level in (40, 120, 200)][: len(levels)]
    assert len(levels) >= 2


def test_closing_a_live_stream(detector: Detector, broadcast: str) -> None:
    stream = detector.stream(broadcast)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert ours() == []


def test_a_list_of_what_has_no_end(detector: Detector) -> None:
    with pytest.raises(UsageError, match=r"rtsp://h/live has no end: use stream, which gives"):
        detector("rtsp://user:secret@h/live")


def test_nobody_answers(tmp_path: Path) -> None:
    detector, _ = listening_detector(tmp_path, timeout=0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = detector.stream(f"rtsp://a:secret@127.0.0.1:{server.getsockname()[1]}/x")
        with pytest.raises(ImageError, match=r"did not answer in 0\.3 s") as caught:
            next(stream)
    assert "secret" not in str(caught.value)
    assert ours() == []

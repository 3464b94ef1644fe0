"""What a detector takes, in which order, and what it says of everything else."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listening import listening_detector
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.detector.detector import Detector
from anydepth_deploy.detector.sources import Skipped
from anydepth_deploy.errors import AnyDepthError, DepthError, ImageError, UsageError


def picture(level: int) -> NDArray[np.uint8]:
    return np.full((8, 8, 3), level, np.uint8)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return listening_detector(tmp_path)[0]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures and other things, beside which tests run."""
    folder = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "sub/c.webp", "sub/deep/d.bmp", "odd[1].png", "a.pred.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(9)).save(path)
    (folder / "notes.txt").write_text("no picture")
    (folder / "clip.mp4").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return folder


def paths(detector: Detector, source: Any) -> list[str]:
    return [str(result.path).replace(os.sep, "/") for result in detector(source)]


def test_paths_folders_and_patterns(detector: Detector, photos: Path) -> None:
    whole = ["a.JPG", "b.png", "odd[1].png", "sub/c.webp", "sub/deep/d.bmp"]
    assert paths(detector, "photos/b.png") == ["photos/b.png"]
    assert paths(detector, Path("photos/b.png")) == ["photos/b.png"]
    assert paths(detector, str(photos / "b.png")) == [str(photos / "b.png")]
    assert paths(detector, "photos") == [f"photos/{name}" for name in whole]
    assert paths(detector, Path("photos/")) == [f"photos/{name}" for name in whole]
    assert paths(detector, "photos/*.png") == ["photos/b.png", "photos/odd[1].png"]
    assert paths(detector, "photos/*") == ["photos/a.JPG", "photos/b.png", "photos/odd[1].png"]
    assert paths(detector, "photos/?.*") == ["photos/a.JPG", "photos/b.png"]
    assert paths(detector, "photos/**/*.[bw]*") == ["photos/sub/c.webp", "photos/sub/deep/d.bmp"]
    assert paths(detector, "photos/*.pred.png") == ["photos/a.pred.png"]  # it is asked for
    assert paths(detector, "photos/a.pred.png") == ["photos/a.pred.png"]
    assert paths(detector, str(photos / "**" / "d.*")) == [str(photos / "sub/deep/d.bmp")]
    assert paths(detector, "photos/odd[1].png") == ["photos/odd[1].png"]  # a file before a pattern


class Named:
    def __init__(self, name: bytes | str) -> None:
        self.name = name

    def __fspath__(self) -> bytes | str:
        return self.name


def test_what_is_like_a_path(detector: Detector, photos: Path) -> None:
    assert paths(detector, Named("photos/b.png")) == ["photos/b.png"]
    assert paths(detector, Named(b"photos/b.png")) == ["photos/b.png"]
    with os.scandir("photos/sub/deep") as entries:
        assert paths(detector, list(entries)) == ["photos/sub/deep/d.bmp"]


def test_lists_within_lists_and_iterators(detector: Detector, photos: Path) -> None:
    source = ["photos/b.png", ("photos/sub", picture(3)), ["photos/?.png"]]
    expected = ["photos/b.png", "photos/sub/c.webp", "photos/sub/deep/d.bmp", "None"]
    expected.append("photos/b.png")
    assert paths(detector, source) == expected
    assert paths(detector, (item for item in source)) == expected
    assert paths(detector, Path("photos/sub").glob("*.webp")) == ["photos/sub/c.webp"]
    assert paths(detector, iter([])) == []
    frames: Any = [torch.zeros(3, 8, 8)] * 5
    loader: Any = torch.utils.data.DataLoader(frames, batch_size=2)
    assert len(detector(loader)) == 5


REFUSED: dict[str, tuple[Any, str]] = {
    "missing": ("nothing.png", "nothing.png is neither a picture nor a folder"),
    "pattern": ("photos/*.gif", r"the pattern photos/\*.gif finds nothing: expected \.bmp, "),
    "texts": ("photos/*.txt", r"finds no picture among its 1 files \(\.txt\)"),
    "no video": (Path("Clip.MKV"), "Clip.MKV is neither a picture nor a folder"),
    "camera": (987, r"camera 987 is not there \(/dev/video987\): this machine has "),
    "a camera of NumPy": (np.int64(987), "camera 987 is not there"),
    "a camera by its device": ("/dev/video987", "camera /dev/video987 is not there"),
    "a camera as text": ("987", "camera 987 is not there"),
    "a camera below zero": (-1, "no camera has the number -1: expected 0 or more, or /dev/videoN"),
    "ftp": ("ftp://host/a.png", "is an address of the kind ftp: expected http, https, rtsp or"),
    "file": ("file:///a.png", "is an address of the kind file"),
    "empty text": ("", "an empty text names no picture"),
    "empty list": ([], "a list without a picture"),
    "list within": (["photos/b.png", []], "a list without a picture"),
    "none": (None, "no picture is of type NoneType: expected a path, a folder"),
    "bool": (True, "no picture is of type bool"),
    "float": (0.5, "no picture is of type float"),
    "bytes": (b"\x89PNG", "no picture is of type bytes"),
    "dict": ({"a": "photos/b.png"}, "no picture is of type dict"),
    "set": ({"photos/b.png"}, "no picture is of type set"),
    "numbers": ([[987, 1], [2, 3]], "camera 987 is not there"),
    "no tensor": (torch.zeros(0, 3, 4, 4), r"a tensor \[0, 3, 4, 4\] holds no picture"),
    "no byte": ("a\0b.png", r"a\\x00b.png is neither a picture nor a folder"),
    "no pattern": ("a\0*.png", r"the pattern a\\x00\*\.png finds nothing"),
    "lines": ("a\nb\x1b[31m\u202e.png", r"a\\nb\\x1b\[31m\\u202e.png"),
    "long": ("x" * 5000, "characters left out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_source(detector: Detector, photos: Path, case: str) -> None:
    source, told = REFUSED[case]
    with pytest.raises((ImageError, UsageError), match=told) as caught:
        detector.stream(source)  # before anything is asked for
    assert "\n" not in str(caught.value)
    with pytest.raises(AnyDepthError, match=told):
        detector(item for item in [source])


def test_a_folder_of_drawings(detector: Detector, photos: Path) -> None:
    (photos / "old").mkdir()
    (photos / "a.pred.png").rename(photos / "old" / "a.pred.png")
    with pytest.raises(ImageError, match="holds only drawings of earlier runs"):
        detector("photos/old")


def test_names_that_are_not_utf8(detector: Detector, photos: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("file systems of macOS have no such names")
    name = os.fsdecode(b"photos/\xff\n.png")
    Image.fromarray(picture(5)).save(photos / "plain.png")
    (photos / "plain.png").rename(name)
    (found,) = detector(name)
    assert found.path == name
    assert "\n" not in repr(found)
    repr(found).encode()
    assert (found.image == 5).all()


# --- pictures that cannot be used ---------------------------------------------------------------


@pytest.fixture
def damaged(photos: Path) -> Path:
    """The folder with three pictures more, which are none."""
    (photos / "b1.png").write_text("no picture")
    (photos / "cut.jpg").write_bytes((photos / "a.JPG").read_bytes()[:-100])
    Image.new("RGB", (100, 101)).save(photos / "large.png")
    return photos


@pytest.mark.parametrize("source", ["photos", "photos/**/*", ["photos/*", "photos/sub"]])
@pytest.mark.parametrize("batch", [1, 4])
def test_what_of_a_folder_cannot_be_used_is_skipped(
    tmp_path: Path, damaged: Path, source: Any, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    detector, _ = listening_detector(tmp_path, max_pixels=10_000)
    skipped: list[Skipped] = []
    found = detector(source, batch=batch, skipped=skipped)
    assert [Path(str(item.path)).name for item in found] == [
        "a.JPG",
        "b.png",
        "odd[1].png",
        "c.webp",
        "d.bmp",
    ]
    assert [Path(item.image).name for item in skipped] == ["b1.png", "cut.jpg", "large.png"]
    for item, told in zip(skipped, ["is not a picture", "cannot be read", "budget"], strict=True):
        assert told in item.error
        assert item.image in item.error
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        assert len(detector(source, batch=batch)) == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped: {item.error}" for item in skipped
    ]


def test_a_picture_that_was_named_ends_the_run(detector: Detector, damaged: Path) -> None:
    skipped: list[Skipped] = []
    stream = detector.stream(["photos/b.png", "photos/b1.png", "photos/a.JPG"], skipped=skipped)
    assert next(stream).path == "photos/b.png"
    with pytest.raises(ImageError, match=r"b1\.png is not a picture"):
        next(stream)
    assert skipped == []


# --- a depth for each picture -------------------------------------------------------------------


def test_a_depth_for_each_picture(tmp_path: Path, photos: Path) -> None:
    detector, session = listening_detector(tmp_path)
    depths: list[str | int] = ["base", "level:1", 2, "super", "FT-2"]
    names = ["TT-1", "FF-1", "FF-2", "FF-2", "FT-2"]
    for source in ("photos", iter(["photos"]), [picture(1), "photos/*.[pJ]*", picture(2)]):
        session.calls.clear()
        assert [result.depth for result in detector(source, depths, batch=2)] == names
        asked = [depth if isinstance(depth, list) else [depth] for _, depth in session.calls]
        assert (
            [[str(depth) for depth in call] for call in asked]
            == [
                names[:2],
                ["FF-2"],  # both pictures: one depth for all
                names[4:],
            ]
        )
    array = np.array([0, 2])
    assert [result.depth for result in detector([picture(1)] * 2, array)] == ["TT-1", "FF-2"]


def test_depths_of_damaged_pictures_are_skipped_with_them(tmp_path: Path, damaged: Path) -> None:
    detector, _ = listening_detector(tmp_path, max_pixels=10_000)
    skipped: list[Skipped] = []
    depths = [0, 1, 2, 0, 2, 1, 0, 1]  # a b b1 cut large odd c d
    found = detector("photos", depths, skipped=skipped, batch=3)
    assert [result.depth for result in found] == ["TT-1", "FF-1", "FF-1", "TT-1", "FF-1"]


def test_other_numbers_of_depths(detector: Detector, photos: Path) -> None:
    for count, told in ((4, "4 depths for 5 pictures"), (6, "6 depths for 5 pictures")):
        with pytest.raises(UsageError, match=f"{told}: expected one for each, or a single one"):
            detector.stream("photos", ["base"] * count)
    with pytest.raises(UsageError, match="4 depths for more pictures"):
        detector(iter(["photos"]), ["base"] * 4)
    with pytest.raises(UsageError, match="6 depths for 5 pictures"):
        detector(iter(["photos"]), ["base"] * 6)
    for depth in ("deep", "level:9", 99, ["base", "deep"]):
        with pytest.raises(DepthError):
            detector.stream("photos", depth)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5"])
def test_thresholds_that_are_none(detector: Detector, threshold: Any) -> None:
    with pytest.raises(UsageError, match="expected a score from 0 to 1"):
        detector(picture(1), threshold=threshold)


def test_batches_that_are_none(detector: Detector) -> None:
    with pytest.raises(UsageError, match=r"batch is 1\.5: expected at least 1 picture per call"):
        detector(picture(1), batch=1.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch is 0: expected at least 1 picture per call"):
        detector(picture(1), batch=0)


# --- streams -----------------------------------------------------------------------------------


def test_an_endless_source(tmp_path: Path) -> None:
    detector, session = listening_detector(tmp_path)

    def frames() -> Iterator[NDArray[np.uint8]]:
        for count in itertools.count():
            yield picture(count % 256)

    stream = detector.stream(frames(), batch=4)
    found = list(itertools.islice(stream, 10))
    assert [result.image[0, 0, 0] for result in found] == list(range(10))
    assert [len(images) for images, _ in session.calls] == [4, 4, 4]
    stream.close()  # type: ignore[attr-defined]


class Counted(np.ndarray):
    """An array that counts how many there are of those that were made, views aside."""

    alive = 0
    most = 0
    counted = False

    @classmethod
    def made(cls, level: int) -> Counted:
        found = np.full((8, 8, 3), level, np.uint8).view(cls)
        found.counted = True
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return found

    def __del__(self) -> None:
        Counted.alive -= self.counted


@pytest.mark.parametrize("batch", [1, 3])
def test_a_stream_holds_no_more_than_a_batch(tmp_path: Path, batch: int) -> None:
    detector, _ = listening_detector(tmp_path)
    Counted.alive = Counted.most = 0
    stream = detector.stream((Counted.made(level) for level in range(60)), batch=batch)
    count = 0
    for result in stream:
        assert result.image[0, 0, 0] == count
        count += 1
    del result
    assert count == 60
    # A batch that is read while the last result of the one before is still the caller's, and what
    # the loop over the source holds.
    assert Counted.most <= batch + 2
    del stream
    assert Counted.alive == 0


def test_results_of_files_hold_no_pixels(tmp_path: Path, photos: Path) -> None:
    detector, _ = listening_detector(tmp_path)
    found = detector("photos")
    before = [result.image for result in found]
    for result in found:
        Image.fromarray(picture(77)).save(str(result.path))
    assert all((image != 77).all() for image in before)
    assert all(
        (result.image // 8 == 77 // 8).all() for result in found
    )  # JPEG's and WebP's is near

"""Results: selected, drawn, written, and handed on to others."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import ListeningSession, listening_detector
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.annotations.coco import read_coco
from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.result import Found, Result
from anydepth_deploy.errors import ImageError, MissingExtraError, UsageError
from anydepth_deploy.pictures.draw import draw_detections

CLASSES = ["circle", "square", "star"]
FOUND: list[tuple[int, float, tuple[float, ...]]] = [
    (2, 0.9, (8.0, 16.0, 40.0, 48.0)),
    (0, 0.75, (-9.0, 2.0, 70.0, 20.0)),
    (2, 0.625, (0.0, 0.0, 64.0, 64.0)),
    (1, 0.5, (1.0, 2.0, 3.0, 4.0)),
    (0, 0.25, (10.0, 10.0, 20.0, 20.0)),
]
"""In an input of 64 x 64; that of the last is below the threshold."""

BOXES = [[16, 8, 80, 24], [0, 1, 128, 10], [0, 0, 128, 32], [2, 1, 6, 2]]
"""The same in a picture of 128 x 32."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 128, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def result(tmp_path: Path, photo: Path) -> Result:
    detector, _ = listening_detector(tmp_path, ListeningSession(lambda _: FOUND))
    (found,) = detector(photo, "level:1")
    return found


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_what_a_result_is(result: Result, photo: Path) -> None:
    assert result.boxes.dtype == result.scores.dtype == np.float32
    assert result.boxes.tolist() == BOXES
    assert result.scores.tolist() == [np.float32(item[1]) for item in FOUND[:4]]
    assert result.labels.dtype == np.int64
    assert result.labels.tolist() == [2, 0, 2, 1]
    assert result.names == ["star", "circle", "star", "square"]
    assert result.class_names == tuple(CLASSES)
    assert (result.depth, result.path, result.size) == ("FF-1", str(photo), (32, 128))
    assert len(result) == 4
    assert repr(result) == (f"<Result {photo} 128x32 pixels at FF-1: 2 star, 1 circle, 1 square>")
    assert np.array_equal(result.image, pixels(photo))
    first = result[0]
    assert isinstance(first, Found)
    assert (first.label, first.name, first.box.tolist()) == (2, "star", BOXES[0])
    assert [item.score for item in result] == result.scores.tolist()
    assert [item.name for item in result] == result.names
    assert result[-1].name == "square"
    with pytest.raises(IndexError):
        result[4]


def test_a_result_does_not_change(result: Result) -> None:
    with pytest.raises(FrozenInstanceError):
        result.depth = "base"  # type: ignore[misc]
    for array in (result.boxes, result.scores, result.labels, result[:2].boxes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    result.image[:] = 0
    assert result.image.any()


def test_nothing_is_found(tmp_path: Path, photo: Path) -> None:
    detector, _ = listening_detector(tmp_path)
    (empty,) = detector(photo)
    assert len(empty) == 0
    assert not empty
    assert (empty.boxes.shape, empty.names, list(empty)) == ((0, 4), [], [])
    assert repr(empty).endswith("at FF-2: nothing>")
    assert empty.to_coco(1) == []
    assert empty.to_json()["detections"] == []
    assert len(empty.filter(0.5, ["star"])) == 0
    assert np.array_equal(np.asarray(empty.plot().resize((128, 32), 0))[0, 0], empty.image[0, 0])


def test_selecting(result: Result) -> None:
    """Against lists, element by element."""
    rows = list(zip(result.boxes.tolist(), result.scores.tolist(), result.names, strict=True))
    rng = np.random.default_rng(0)
    choices: list[Any] = [slice(1, 3), slice(None, None, -1), [3, 0], [], [True, False] * 2]
    choices += [rng.random(4) < 0.5 for _ in range(10)] + [rng.integers(-4, 4, 3)]
    for chosen in choices:
        if isinstance(chosen, slice):
            expected = rows[chosen]
        elif len(chosen) and isinstance(chosen[0], bool | np.bool_):
            expected = [row for row, kept in zip(rows, chosen, strict=True) if kept]
        else:
            expected = [rows[place] for place in chosen]
        found = result[chosen]
        assert isinstance(found, Result)
        assert [*zip(found.boxes.tolist(), found.scores.tolist(), found.names, strict=True)] == (
            expected
        )
        assert (found.path, found.size, found.depth) == (result.path, result.size, result.depth)
        assert np.array_equal(found.image, result.image)
    for wrong in ([True, False], [7], np.zeros(5, bool)):
        with pytest.raises(IndexError):
            result[wrong]


@pytest.mark.parametrize("threshold", [None, 0.0, 0.5, 0.625, 0.7, 1.0])
@pytest.mark.parametrize("names", [None, "star", ["circle", "square"], [], ("star", "star")])
def test_filtering(result: Result, threshold: float | None, names: Any) -> None:
    wanted = [names] if isinstance(names, str) else names
    expected = [
        item.score
        for item in result
        if (threshold is None or item.score >= threshold)
        and (wanted is None or item.name in wanted)
    ]
    assert result.filter(threshold, names).scores.tolist() == expected
    again = result.filter(threshold=threshold).filter(names=names)
    assert again.scores.tolist() == expected


def test_filtering_by_classes_that_are_not_there(result: Result) -> None:
    told = "unknown classes: stars; near is star; this network has circle, square, star"
    with pytest.raises(UsageError, match=told):
        result.filter(names=["star", "stars"])


def test_drawings(result: Result, photo: Path, tmp_path: Path) -> None:
    expected = draw_detections(
        pixels(photo),
        Detections(
            np.array([[2, 0, 2, 1]]),
            np.array([BOXES], np.float32),
            np.array([[item[1] for item in FOUND[:4]]], np.float32),
        ),
        CLASSES,
        enlarge=5,
    )
    assert np.array_equal(np.asarray(result.plot()), np.asarray(expected))
    saved = pixels(result.save(tmp_path / "new" / "drawn.png"))
    assert np.array_equal(saved, np.asarray(expected))
    with Image.open(io.BytesIO(result._repr_png_())) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert not np.array_equal(np.asarray(result[:1].plot()), np.asarray(expected))


def test_showing(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image.size))
    result.show()
    assert shown == [(640, 160)]


def test_where_drawings_cannot_go(result: Result, photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    for name, error, told in (
        ("photo.png", UsageError, "would replace the picture itself"),
        ("link.png", UsageError, "would replace the picture itself"),
        ("new/../photo.png", UsageError, "would replace the picture itself"),
        ("drawn", UsageError, r"expected a name that ends in \.bmp, "),
        ("drawn.gif", UsageError, "cannot be written as"),
        ("file/drawn.png", ImageError, "cannot be written"),
        ("folder.png", ImageError, "cannot be written"),
        ("x" * 300 + ".png", ImageError, "cannot be written"),
        ("a\nb\x1b[31m.txt", UsageError, r"a\\nb\\x1b\[31m\.txt: expected a name"),
    ):
        with pytest.raises(error, match=told) as caught:
            result.save(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert photo.read_bytes() == before
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"blind", "file", "folder.png", "link.png", "photo.png"}


@pytest.mark.parametrize("name", ["a b.png", "a\nb.jpg", "-o.png", "ä三.webp", "'; rm -rf *.bmp"])
def test_hostile_names_of_pictures_and_drawings(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.new("RGB", (64, 64), "white").save(path)
    detector, _ = listening_detector(tmp_path, ListeningSession(lambda _: FOUND))
    (found,) = detector(path)
    assert "\n" not in repr(found)
    json.dumps(found.to_json())
    target = tmp_path / "out" / name
    assert found.save(target) == target
    assert pixels(target).shape == (640, 640, 3)


def test_hostile_names_of_classes(tmp_path: Path) -> None:
    detector, _ = listening_detector(tmp_path, ListeningSession(lambda _: FOUND))
    detector._class_names = ("a\n\x1b[2J", "\u202e" + "x" * 400, "🔺")
    (found,) = detector(np.zeros((64, 64, 3), np.uint8))
    assert found.plot().size == (640, 640)
    assert found.names[1] == "a\n\x1b[2J"
    told = repr(found)
    assert r"a\n\x1b[2J" in told
    assert "\n" not in told
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert len(told) < 600


def test_a_picture_that_has_changed_or_gone(result: Result, photo: Path) -> None:
    Image.new("RGB", (128, 33)).save(photo)
    told = "photo.png has changed since it was looked at: it was 128 x 32 pixels, now it is 128 x 3"
    with pytest.raises(ImageError, match=told):
        result.plot()
    photo.unlink()
    with pytest.raises(ImageError, match=r"photo\.png does not exist"):
        result.save(photo.with_name("drawn.png"))
    assert not photo.with_name("drawn.png").exists()


def test_as_json(result: Result, photo: Path) -> None:
    found = json.loads(json.dumps(result.to_json()))
    assert found == {
        "image": str(photo),
        "frame": None,
        "time": None,
        "depth": "FF-1",
        "drawn": None,
        "detections": [
            {"class": CLASSES[label], "label": label, "score": score, "box": box}
            for (label, score, _), box in zip(FOUND, BOXES, strict=False)
        ],
    }


def test_results_of_memory(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    detector, _ = listening_detector(tmp_path, ListeningSession(lambda _: FOUND))
    (found,) = detector(picture)
    assert (found.path, found.size) == (None, (20, 30))
    assert found.to_json()["image"] is None
    assert repr(found).startswith("<Result 30x20 pixels at FF-2: ")
    assert np.array_equal(found.image, picture)
    (turned,) = detector(picture, bgr=True)
    assert np.array_equal(turned.image, picture[..., ::-1])
    assert pixels(turned.save(tmp_path / "drawn.png")).shape == (20 * 21, 30 * 21, 3)


def test_results_can_be_sent_to_other_processes(result: Result) -> None:
    found = pickle.loads(pickle.dumps(result))
    assert np.array_equal(found.boxes, result.boxes)
    assert found.names == result.names
    assert np.array_equal(found.image, result.image)


# --- COCO ---------------------------------------------------------------------------------------


def test_as_coco(result: Result) -> None:
    found = json.loads(json.dumps(result.to_coco(7)))
    assert [item["image_id"] for item in found] == [7] * 4
    assert [item["category_id"] for item in found] == [3, 1, 3, 2]
    assert [item["score"] for item in found] == result.scores.tolist()
    for item, (left, top, right, bottom) in zip(found, BOXES, strict=True):
        assert item["bbox"] == [left, top, right - left, bottom - top]


def annotated(path: Path, names: dict[int, str]) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "photo.png", "width": 128, "height": 32}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": next(iter(names)), "bbox": [1, 2, 3, 4]}
        ],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }
    path.write_text(json.dumps(content))
    return path


def test_ids_of_categories(result: Result, tmp_path: Path) -> None:
    path = annotated(tmp_path / "a.json", {90: "circle", 1: "star", 5: "Square", 6: "other"})
    for categories in (path, str(path), [90, 5, 1], {"star": 1, "circle": 90, "square": 5, "x": 2}):
        assert [item["category_id"] for item in result.to_coco(7, categories)] == [1, 90, 1, 5]
    with pytest.raises(UsageError, match="2 category ids for 3 classes: expected one for each"):
        result.to_coco(7, [1, 2])
    with pytest.raises(UsageError, match="categories name no id of square"):
        result.to_coco(7, {"star": 1, "circle": 90})
    with pytest.raises(ImageError, match="which have no category of their name: circle, square"):
        result.to_coco(7, annotated(tmp_path / "b.json", {1: "star"}))
    with pytest.raises(ImageError, match="do not exist"):
        result.to_coco(7, tmp_path / "c.json")


def test_a_round_trip_through_a_file_of_annotations(result: Result, tmp_path: Path) -> None:
    """Results written as annotations are read by the strict reader, and are the boxes they were."""
    path = tmp_path / "written.json"
    content = {
        "images": [{"id": 7, "file_name": "photo.png", "width": 128, "height": 32}],
        "annotations": [{"id": n, **item} for n, item in enumerate(result.to_coco(7), 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(result.class_names, 1)],
    }
    path.write_text(json.dumps(content))
    found = read_coco(path)
    assert result.to_coco(7, path) == result.to_coco(7)
    corners = [
        [x, y, x + width, y + height]
        for x, y, width, height in (item["bbox"] for item in found["annotations"])
    ]
    assert corners == result.boxes.tolist()
    labels = [item["category_id"] - 1 for item in found["annotations"]]
    assert labels == result.labels.tolist()


# --- supervision --------------------------------------------------------------------------------


def test_as_supervision(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that takes what the package does."""
    module = types.ModuleType("supervision")

    class Stand:
        def __init__(self, *, xyxy: Any, confidence: Any, class_id: Any, data: Any) -> None:
            self.xyxy, self.confidence, self.class_id, self.data = xyxy, confidence, class_id, data

    module.Detections = Stand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", module)
    found = result.to_supervision()
    assert np.array_equal(found.xyxy, result.boxes)
    assert np.array_equal(found.confidence, result.scores)
    assert found.class_id.dtype == np.dtype(int)
    assert np.array_equal(found.class_id, result.labels)
    assert found.data["class_name"].tolist() == result.names
    found.xyxy += 1  # it is theirs
    assert result.boxes.tolist() == BOXES


def test_without_supervision(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    told = "to_supervision needs the package 'supervision', which is not installed: pip install sup"
    with pytest.raises(MissingExtraError, match=told):
        result.to_supervision()

"""The generated set: deterministic, tight boxes, valid COCO files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anydepth_deploy.errors import UsageError
from anydepth_deploy.pictures import paint as drawing
from anydepth_deploy.pictures import shapes
from anydepth_deploy.pictures.shapes import CLASS_NAMES, render, render_many, write_coco


def test_a_picture_depends_only_on_seed_split_and_index() -> None:
    many = render_many(6, seed=3, split="val")
    for index in (0, 5):
        one = render(index, 3, "val")
        np.testing.assert_array_equal(one.image, many.images[index])
        np.testing.assert_array_equal(one.boxes, many.boxes[index])
        np.testing.assert_array_equal(one.labels, many.labels[index])
    later = render_many(2, seed=3, split="val", start=4)
    np.testing.assert_array_equal(later.images, many.images[4:])


def test_seeds_and_splits_give_other_pictures() -> None:
    first = render(0, 0, "train").image
    assert not np.array_equal(first, render(0, 1, "train").image)
    assert not np.array_equal(first, render(0, 0, "val").image)
    assert not np.array_equal(first, render(1, 0, "train").image)


def test_processes_do_not_change_the_pictures() -> None:
    count = shapes._CHUNK + 3
    done: list[tuple[int, int]] = []
    one = render_many(count, seed=1, size=32)
    two = render_many(
        count, seed=1, size=32, processes=2, progress=lambda n, of: done.append((n, of))
    )
    np.testing.assert_array_equal(one.images, two.images)
    assert all(np.array_equal(a, b) for a, b in zip(one.boxes, two.boxes, strict=True))
    assert done == [(shapes._CHUNK, count), (count, count)]


def test_types_ranges_and_limits() -> None:
    pictures = render_many(60, seed=0)
    assert pictures.images.shape == (60, 160, 160, 3)
    assert pictures.images.dtype == np.uint8
    seen: set[int] = set()
    for boxes, labels in zip(pictures.boxes, pictures.labels, strict=True):
        assert boxes.dtype == np.float32
        assert labels.dtype == np.int64
        assert boxes.shape == (len(labels), 4)
        assert 1 <= len(labels) <= 8
        assert (boxes >= 0).all()
        assert (boxes <= 160).all()
        longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        assert (longer > 8).all()
        assert (longer < 70.01).all()
        seen |= set(labels.tolist())
        for i in range(len(boxes)):
            for j in range(i):
                # Boxes are compared before the edge cuts them tighter, hence the slack.
                assert drawing._overlap(boxes[i], boxes[j]) < 0.6
    assert seen == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)), ids=CLASS_NAMES)
@pytest.mark.parametrize("place", [(80.3, 75.6), (8.0, 81.0), (155.5, 3.25)])
def test_boxes_are_tight_on_the_drawn_pixels(label: int, place: tuple[float, float]) -> None:
    rng = np.random.default_rng(label)
    for _ in range(4):
        outline = drawing._rotate(drawing._outline(rng, label), rng.uniform(0, 6.3))
        outline = outline * 40 / np.ptp(outline, axis=0).max() + np.array(place)
        item = drawing._object(rng, label, outline, 40.0, 160)
        alpha = np.zeros((160, 160))
        x, y = item.corner
        alpha[y : y + item.mask.shape[0], x : x + item.mask.shape[1]] = item.mask
        rows, columns = np.nonzero(alpha.max(axis=1))[0], np.nonzero(alpha.max(axis=0))[0]
        drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        # Whole pixels touched by the shape; a sharp tip may leave its last pixel empty.
        assert np.abs(drawn - item.box).max() < 1.3, (drawn, item.box)


def test_clipping_a_polygon_matches_the_pixels_left() -> None:
    diamond = np.array([[0.0, -10.0], [10.0, 0.0], [0.0, 10.0], [-10.0, 0.0]])
    diamond += np.array([4.0, 50.0])
    clipped = drawing._clip(diamond, 160)
    np.testing.assert_allclose(clipped.min(axis=0), [0, 40])
    np.testing.assert_allclose(clipped.max(axis=0), [14, 60])
    # Cut in its left half, the diamond no longer reaches its full height.
    clipped = drawing._clip(diamond - np.array([6.0, 0.0]), 160)
    np.testing.assert_allclose(clipped.min(axis=0), [0, 42])


def test_hidden_objects_are_left_out() -> None:
    rng = np.random.default_rng(0)
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    objects = [drawing._object(rng, 1, square * half + 80, 2.0 * half, 160) for half in (8, 30, 5)]
    solid = [
        drawing.PlacedObject(o.label, o.outline, o.box, 0.0, *drawing._mask(o.outline, 0.0, 160))
        for o in objects
    ]
    kept = drawing.visible(solid, 160)
    assert [item.box[2] - item.box[0] for item in kept] == [60, 10]


def test_pixels_are_frozen() -> None:
    """The committed checkpoint was trained on exactly these pictures."""
    picture = render(0, 0, "train")
    assert [CLASS_NAMES[label] for label in picture.labels] == ["circle"]
    np.testing.assert_allclose(picture.boxes, [[24.47, 94.3, 45.55, 115.38]], atol=0.02)
    np.testing.assert_allclose(picture.image.mean(axis=(0, 1)), [99.74, 43.76, 42.78], atol=0.1)
    picture = render(1, 0, "train")
    assert picture.labels.tolist() == [5, 1, 1, 5, 3, 1, 2, 1]
    np.testing.assert_allclose(picture.boxes[0], [108.35, 74.58, 159.04, 125.27], atol=0.02)
    np.testing.assert_allclose(picture.image.mean(axis=(0, 1)), [90.36, 139.94, 90.4], atol=0.1)


def test_write_coco(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "set", 3, seed=5, split="calib", size=64)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "set" / "annotations.json"
    assert [c["name"] for c in document["categories"]] == list(CLASS_NAMES)
    assert [c["id"] for c in document["categories"]] == list(range(1, len(CLASS_NAMES) + 1))
    assert len({a["id"] for a in document["annotations"]}) == len(document["annotations"])
    for index, entry in enumerate(document["images"]):
        picture = render(index, 5, "calib", size=64)
        with Image.open(path.parent / entry["file_name"]) as image:
            np.testing.assert_array_equal(np.asarray(image), picture.image)
        own = [a for a in document["annotations"] if a["image_id"] == entry["id"]]
        assert [a["category_id"] - 1 for a in own] == picture.labels.tolist()
        for annotation, box in zip(own, picture.boxes, strict=True):
            x, y, width, height = annotation["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], box, atol=2e-3)
            assert annotation["area"] == pytest.approx(width * height, abs=1e-2)
            assert annotation["iscrowd"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "unknown split"),
        ({"seed": -1}, "must not be negative"),
        ({"index": -1}, "must not be negative"),
        ({"size": 16}, "at least 32"),
    ],
)
def test_bad_arguments(arguments: dict[str, int | str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(**{"index": 0, "seed": 0, **arguments})  # type: ignore[arg-type]


def test_torch_is_not_imported() -> None:
    code = "import sys, anydepth_deploy.pictures.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

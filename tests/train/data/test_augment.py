"""What is done to a picture is done to its boxes: pixels of solid rectangles are the witness."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from data_sets import COLOURS, drawn, pixel_box
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anydepth_deploy.families.shared.augmentation import DETR, PLAIN, YOLO, Augmentation
from anydepth_deploy.pictures.images import Preprocess, prepare
from anydepth_deploy.train.data.augment import Annotated, make_example, step_size, step_sizes
from anydepth_deploy.train.data.colours import recolour

Resize = Literal["stretch", "letterbox"]

DRAWS = 20
"""Of each kind of resizing and size: 80 of each augmentation."""

OBJECTS = ((0, (20, 30, 80, 90)), (1, (120, 20, 190, 70)), (2, (215, 95, 270, 180)))

MOSAIC = replace(YOLO, colour=0.0, fill=0)

KINDS = {
    "nothing": PLAIN,
    "flip": Augmentation(flip=0.5),
    "zoom out": Augmentation(zoom_out=1.0),
    "crop": Augmentation(crop=1.0, centre_stays=True),
    "scale": Augmentation(scale=0.5, translate=0.1),
    "mosaic": Augmentation(mosaic=1.0),
    "detr": replace(DETR, colour=0.0),
    "yolo": MOSAIC,
    "yolo without mosaic": replace(MOSAIC, mosaic=0.0),
}


def annotated(size: tuple[int, int], objects: object) -> Annotated:
    listed = list(objects)  # type: ignore[call-overload]
    boxes = np.array([box for _, box in listed], np.float64).reshape(-1, 4)
    labels = np.array([label for label, _ in listed], np.int64)
    return drawn(size, listed), boxes, labels


PICTURE = annotated((200, 300), OBJECTS)

CORNERS = [
    annotated((200, 300), [(0, (40, 60, 140, 150))]),
    annotated((150, 120), [(1, (30, 20, 90, 110))]),
    annotated((90, 250), [(2, (100, 20, 220, 75))]),
    annotated((260, 180), [(3, (50, 80, 130, 230))]),
]


def recipe(resize: Resize, size: tuple[int, int]) -> Preprocess:
    return Preprocess.of(resize, size)


@pytest.mark.parametrize("size", [(96, 160), (160, 96)], ids=str)
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_where_the_pixels_are(kind: str, resize: Resize, size: tuple[int, int]) -> None:
    augmentation = replace(KINDS[kind], fill=0)
    seen: set[tuple[int, ...]] = set()
    kept = lost = 0
    for draw in range(DRAWS):
        first, *others = CORNERS if augmentation.mosaic else [PICTURE] * 4
        example = make_example(
            lambda first=first: first,  # type: ignore[misc]
            lambda number, others=others: others[number],  # type: ignore[misc]
            augmentation,
            recipe(resize, size),
            np.random.default_rng([3, draw]),
        )
        assert example.image.shape == (*size, 3)
        assert example.boxes.dtype == np.float32
        found = dict(zip(example.labels.tolist(), corners(example.boxes, size), strict=True))
        assert len(found) == len(example.labels)
        for label in range(len(COLOURS)):
            box = pixel_box(example.image, label)
            if label in found:
                assert box is not None, (kind, draw, label, found[label])
                np.testing.assert_allclose(found[label], box, atol=1.5, err_msg=f"{draw} {label}")
                kept += 1
            elif box is not None:
                # Something was dropped though it shows: it is cut, or hardly there.
                small = min(box[2] - box[0], box[3] - box[1]) <= 3
                assert small or is_cut(box, example.image), (kind, draw, label, box)
                lost += 1
        seen.add(tuple(np.round(example.boxes, 3).ravel().tolist()))
    objects = len(CORNERS) if augmentation.mosaic else len(OBJECTS)
    assert kept > 0.4 * objects * DRAWS
    if kind in ("nothing", "flip"):
        assert len(seen) == (1 if kind == "nothing" else 2)
        assert lost == 0
    else:
        assert len(seen) > 0.7 * DRAWS


def corners(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    scaled = boxes * np.array([size[1], size[0]] * 2, np.float32)
    centres, halves = scaled[:, :2], scaled[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def is_cut(box: tuple[int, ...], image: NDArray[np.uint8]) -> bool:
    """Whether a rectangle touches the edge of the canvas: pictures of this test are cut nowhere
    else but where a mosaic is and a letterbox leaves room."""
    height, width = image.shape[:2]
    rows, columns = np.nonzero(image.any(axis=2))
    edges = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return any(
        abs(side - edge) <= 1 or abs(side - end) <= 1
        for side, edge, end in zip(box, edges, (0, 0, width, height), strict=True)
    )


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (224, 320)], ids=str)
def test_without_augmentation_a_picture_is_prepared_as_for_inference(
    resize: Resize, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (123, 87, 3), np.uint8)
    boxes = np.array([[10.0, 20.0, 60.0, 100.0]])
    example = make_example(
        lambda: (image, boxes, np.array([4])), no_other, PLAIN, recipe(resize, size), seeded()
    )
    expected, geometry = prepare(image, recipe(resize, size))
    pixels = example.image.astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), expected)
    back = geometry.to_picture(corners(example.boxes, size))
    np.testing.assert_allclose(back, boxes, atol=1e-3)


def no_other(_: int) -> Annotated:
    raise AssertionError("no other picture is needed")


def seeded(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(entropy or (0,))


@given(st.integers(0, 2**32), st.sampled_from([DETR, replace(YOLO, mosaic=0.0)]))
@settings(max_examples=40, deadline=None)
def test_boxes_stay_within_the_picture_and_background_has_none(
    seed: int, augmentation: Augmentation
) -> None:
    image = np.full((37, 91, 3), 200, np.uint8)
    boxes = np.array([[0.0, 0.0, 91.0, 37.0], [3.0, 5.0, 3.5, 5.4], [80.0, 30.0, 91.0, 37.0]])
    for given_boxes in (boxes, np.empty((0, 4))):
        labels = np.arange(len(given_boxes))
        example = make_example(
            lambda found=(image, given_boxes, labels): found,  # type: ignore[misc]
            no_other,
            augmentation,
            recipe("stretch", (64, 96)),
            seeded(seed),
        )
        assert set(example.labels.tolist()) <= set(labels.tolist())
        found = corners(example.boxes, (64, 96))
        assert (found >= -1e-3).all()
        assert (found <= np.array([96, 64, 96, 64]) + 1e-3).all()
        assert (example.boxes[:, 2:] > 0).all()


def test_a_box_of_which_little_is_left_is_dropped() -> None:
    image, boxes = np.zeros((100, 100, 3), np.uint8), np.array([[90.0, 10.0, 110.0, 30.0]])
    # Clipped to the picture by the data set: what reaches beyond it is not there any more.
    boxes[:, 2] = 100
    moved = Augmentation(translate=0.5)
    shares = []
    for seed in range(60):
        example = make_example(
            lambda: (image, boxes, np.array([0])),
            no_other,
            moved,
            recipe("stretch", (100, 100)),
            seeded(seed),
        )
        shares += [float(example.boxes[0, 2] * 100 / 10)] if len(example.labels) else [0.0]
    assert 0.0 in shares
    assert min(share for share in shares if share) >= 0.1


def test_sizes_are_multiples_of_32_and_keep_their_shape() -> None:
    assert step_sizes((640, 640), (0.75, 1.25)) == [(side, side) for side in range(480, 801, 32)]
    wide = step_sizes((160, 320), (0.75, 1.25))
    assert wide == [(128, 256), (160, 320), (192, 384)]
    assert {step_size(wide, seeded(step)) for step in range(100)} == {*wide}
    assert step_sizes((100, 70), (1.0, 1.0)) == [(100, 70)]


def test_colours_change_by_their_definition() -> None:
    image = np.random.default_rng(0).integers(60, 180, (20, 30, 3), np.uint8)
    grey = np.array([0.299, 0.587, 0.114])
    for name in ("brightness", "contrast", "saturation", "hue"):
        augmentation = Augmentation(**{name: 0.2})  # type: ignore[arg-type]
        changed, again = (recolour(image, augmentation, seeded(25)) for _ in range(2))
        np.testing.assert_array_equal(changed, again)
        assert changed.dtype == np.uint8
        assert np.abs(changed.astype(int) - image).max() > 3
        before, after = image @ grey, changed @ grey
        if name == "brightness":
            ratio = changed / image
            np.testing.assert_allclose(ratio, np.median(ratio), atol=0.02)
        elif name == "contrast":
            np.testing.assert_allclose(after.mean(), before.mean(), atol=0.5)
            slope = np.polyfit(before.ravel(), after.ravel(), 1)[0]
            np.testing.assert_allclose(slope, after.std() / before.std(), rtol=0.01)
        else:
            np.testing.assert_allclose(after, before, atol=1.5)
    untouched = recolour(image, replace(DETR, colour_each=0.0), seeded(25))
    np.testing.assert_array_equal(untouched, image)


def test_hue_turns_through_the_circle() -> None:
    image = np.full((2, 2, 3), (180, 110, 110), np.uint8)
    found = set()
    for seed in range(40):
        changed = recolour(image, replace(PLAIN, hue=0.5), seeded(seed))
        found.add(int(np.argmax(changed[0, 0])))
    assert found == {0, 1, 2}

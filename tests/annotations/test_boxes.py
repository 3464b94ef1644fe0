"""Boxes held against their pictures: wrong formats are refused or named, sound data never is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.annotations.boxes import check_areas, check_boxes, check_pictures
from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError

PATH = Path("val.json")
Rows = Sequence[Sequence[float]]


def content(boxes: Rows, images: Sequence[int] | None = None, **fields: Any) -> dict[str, Any]:
    """A COCO file as it is once it was read, boxes on picture 1 if nothing else is said."""
    where = list(images or [1] * len(boxes))
    return {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in sorted({1, *where})],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": index + 1,
                "image_id": image,
                "category_id": 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                **fields,
            }
            for index, (image, box) in enumerate(zip(where, boxes, strict=True))
        ],
    }


def held(boxes: Rows, size: tuple[float, float] = (160, 120), **fields: Any) -> list[Finding]:
    return check_boxes(PATH, content(boxes, **fields), {1: size})


SOUND = [[10 + 12 * k, 5 + 9 * k, 30 - k, 20 + k] for k in range(8)]


def counted(found: Sequence[Finding]) -> dict[str, int]:
    return {item.kind: item.count for item in found}


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        # Each of these scores 0 to 2 with a perfect detector.
        (
            [[x, y, x + w, y + h] for x, y, w, h in SOUND],
            r"3 of 8 boxes reach beyond .* in 1\.png of 160 x 120; as x1, y1, x2, y2 all",
        ),
        (
            [[x / 160, y / 120, w / 160, h / 120] for x, y, w, h in SOUND],
            "8 of 8 boxes are no larger than a pixel.*shares of the picture",
        ),
        ([[0, 0, 0, 0]] * 8, r"8 of 8 boxes are empty .*annotations\[0\], bbox \[0, 0, 0, 0\]"),
        (
            [[125, 15 + 9 * k, 50, 20] for k in range(3)]
            + [[30, 15 + 9 * k, 40, 20] for k in range(5)],
            "3 of 8 boxes reach .* as centre x, centre y, width, height all of them would fit",
        ),
        ([[4 * side for side in box] for box in SOUND], "7 of 8 boxes .* in the same pixels"),
        (
            [*SOUND[:3], [0, 0, 0, 0], [1, 1, 0.5, 0.5], [500, 5, 9, 9], [9, 500, 9, 9]],
            "4 of 7 boxes are empty, below a pixel or beyond",
        ),
        ([[100, 100, 80, 80]], "1 of 1 box reaches beyond the picture"),
    ],
)
def test_what_no_reading_makes_true_is_refused(boxes: Rows, told: str) -> None:
    with pytest.raises(ImageError, match=told) as caught:
        held(boxes)
    text = str(caught.value)
    assert text.startswith("annotations val.json: ")
    assert "expected x, y, width, height in pixels" in text
    assert "\n" not in text


def test_polygons_beside_empty_boxes_are_named() -> None:
    outline = [[1, 1, 9, 1, 9, 9]]
    with pytest.raises(ImageError, match="6 of the annotations have a segmentation, which is not"):
        held([[0, 0, 0, 0]] * 6, segmentation=outline)


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ([], {}),
        ([[3, 3, 0, 9], [3, 3, 9, 0], [7, 7, 0, 0]], {"empty": 3}),
        ([[5, 5, 0.4, 0.9]], {"below a pixel": 1}),
        ([[5, 5, 0.4, 9]], {}),  # narrow is not small
        ([[170, 5, 9, 9], [5, -20, 9, 9]], {"outside": 2}),
        ([[150, 5, 12.5, 9], [-3, 5, 20, 20], [5, 117, 9, 6]], {"beyond the edge": 3}),
        ([[150, 5, 12, 9], [-2, -2, 20, 20], [160, 120, 1, 1]], {}),  # rounded, counted from 1
        ([*SOUND[:3], SOUND[0]], {"twice": 4}),
        ([[x + 0.2, y, w, h] for x, y, w, h in SOUND], {}),  # beside another
    ],
)
def test_single_odd_boxes_are_counted(more: Rows, kinds: dict[str, int]) -> None:
    found = held([*SOUND, *more])
    assert counted(found) == kinds
    for item in found:
        assert item.of == len(SOUND) + len(more)
        assert item.text.startswith(f"{item.count} of {item.of} box")
        assert "annotations[" in item.text
        assert "\n" not in item.text


def test_a_box_on_two_pictures_or_of_two_kinds_is_not_there_twice() -> None:
    boxes = [[5, 5, 20, 20]] * 2
    sizes = {1: (90, 90), 2: (90, 90)}
    assert check_boxes(PATH, content(boxes, [1, 2]), sizes) == []
    other = content(boxes)
    other["annotations"][1]["category_id"] = 2
    assert check_boxes(PATH, other, sizes) == []
    crowd = content(boxes)
    crowd["annotations"][1]["iscrowd"] = 1
    assert check_boxes(PATH, crowd, sizes) == []


def test_each_box_is_held_against_its_own_picture() -> None:
    boxes = [[50, 10, 40, 20], [10, 50, 20, 40], [5, 5, 9, 9], [6, 6, 9, 9]]
    sizes = {1: (100, 50), 2: (50, 100)}
    assert check_boxes(PATH, content(boxes, [1, 2, 1, 2]), sizes) == []
    turned = check_boxes(PATH, content(boxes, [2, 1, 1, 2]), sizes)
    assert counted(turned) == {"outside": 2}
    assert "in 2.png of 50 x 100" in turned[0].text
    # A picture whose size is not known has no edges.
    assert check_boxes(PATH, content(boxes, [2, 1, 1, 2]), {}) == []


# --- areas and pictures ----------------------------------------------------------------------


def test_areas_that_nobody_computed_are_those_of_the_boxes() -> None:
    given_ = content(SOUND)
    for index, area in ((1, 0), (2, 0.0), (4, 0.02), (6, 5000), (7, 7.5)):
        given_["annotations"][index]["area"] = area
    annotations, found = check_areas(given_)
    assert counted(found) == {"no area": 3, "area beyond box": 1}
    assert "3 of 8 areas are below a pixel" in found[0].text
    width, height = SOUND[1][2:]
    assert annotations[1]["area"] == width * height
    assert given_["annotations"][1]["area"] == 0  # what was given is left alone
    assert [annotations[6]["area"], annotations[7]["area"]] == [5000, 7.5]
    plain, none = check_areas(content([*SOUND, [5, 5, 0, 0], [5, 5, 0.5, 0.5]]))
    assert none == []
    assert plain == content([*SOUND, [5, 5, 0, 0], [5, 5, 0.5, 0.5]])["annotations"]


def test_a_file_under_two_ids_is_named() -> None:
    images = [
        {"id": id_, "file_name": name}
        for id_, name in (
            (1, "a.png"),
            (2, "b.png"),
            (7, "./a.png"),
            (9, "x/../a.png"),
            (11, "c/b.png"),
        )
    ]
    (found,) = check_pictures(images)
    assert (found.kind, found.count, found.of) == ("picture twice", 1, 3)
    assert "a.png, ids 1, 7, 9" in found.text
    assert check_pictures(images[:2]) == []


# --- every wrong format, and sound data, at random -------------------------------------------


def draw(seed: int, count: int, pictures: int, smallest: float, largest: float) -> dict[str, Any]:
    """``count`` boxes in pictures of random sizes, each side a share of its picture's; the frames
    are under ``"frames"``."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(64, 2000, (pictures, 2)).astype(float)
    owner = rng.integers(0, pictures, count)
    edges = sizes[owner]
    size = np.maximum(edges * rng.uniform(smallest, largest, (count, 2)), 1.01)
    near = (edges - size) * rng.random((count, 2))
    found = content(np.concatenate([near, size], axis=1).tolist(), (owner + 1).tolist())
    found["frames"] = {index + 1: (w, h) for index, (w, h) in enumerate(sizes.tolist())}
    return found


def check(found: dict[str, Any]) -> list[Finding]:
    annotations, areas = check_areas(found)
    boxes = check_boxes(PATH, {**found, "annotations": annotations}, found["frames"])
    return [*boxes, *areas]


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    pictures=st.integers(1, 9),
    largest=st.sampled_from([0.02, 0.2, 1.0]),
)
@examples(150)
def test_sound_data_is_never_named(seed: int, count: int, pictures: int, largest: float) -> None:
    found = draw(seed, count, pictures, 0.0, largest)
    rng = np.random.default_rng([seed, 1])
    whole = set()
    for item in found["annotations"]:
        x, y, width, height = item["bbox"]
        frame = found["frames"][item["image_id"]]
        kind = rng.integers(0, 5)
        if kind == 0:  # up to the edge, but for what floats and files round
            item["bbox"] = [frame[0] - width + rng.normal(0, 1e-3), y, width, height]
        elif kind == 1:
            item["bbox"] = [x, -1e-9, width, frame[1] + 1e-6]
        elif kind == 2:
            item["iscrowd"] = 1
        elif kind == 3:  # of a mask
            item["area"] = width * height * rng.uniform(0.3, 1.0)
        else:  # in whole pixels, both ends counted in the area
            sides = [float(round(side)) for side in (x, y, width + 0.5, height + 0.5)]
            place = (item["image_id"], *sides)
            if place not in whole:
                whole.add(place)
                item |= {"bbox": sides, "area": (sides[2] + 1) * (sides[3] + 1)}
    assert check(found) == []


def as_corners(box: np.ndarray, frame: np.ndarray) -> list[float]:
    return [*box[:2], *(box[:2] + box[2:])]


def as_centres(box: np.ndarray, frame: np.ndarray) -> list[float]:
    return [*(box[:2] + box[2:] / 2), *box[2:]]


def as_shares(box: np.ndarray, frame: np.ndarray) -> list[float]:
    return [*(box / np.tile(frame, 2))]


def as_shares_of_corners(box: np.ndarray, frame: np.ndarray) -> list[float]:
    return as_shares(np.asarray(as_corners(box, frame)), frame)


def as_shares_of_centres(box: np.ndarray, frame: np.ndarray) -> list[float]:
    return as_shares(np.asarray(as_centres(box, frame)), frame)


def as_zeros(box: np.ndarray, frame: np.ndarray) -> list[float]:
    return [0, 0, 0, 0]


def as_larger(box: np.ndarray, frame: np.ndarray) -> list[float]:
    """In pixels of a picture that was made smaller afterwards."""
    return [*(4 * box)]


REFUSED = [
    as_corners,
    as_shares,
    as_shares_of_corners,
    as_shares_of_centres,
    as_zeros,
    as_larger,
]


@pytest.mark.parametrize("format_", [*REFUSED, as_centres], ids=lambda found: found.__name__)
@given(seed=st.integers(0, 2**32), count=st.integers(30, 60), pictures=st.integers(1, 9))
@examples(40)
def test_every_wrong_format_is_refused_or_named(
    format_: Any, seed: int, count: int, pictures: int
) -> None:
    found = draw(seed, count, pictures, 0.05, 0.5)
    assert check(found) == []
    for item in found["annotations"]:
        frame = np.array(found["frames"][item["image_id"]])
        item["bbox"] = [float(side) for side in format_(np.array(item["bbox"]), frame)]
    if format_ in REFUSED:
        with pytest.raises(ImageError, match="expected x, y, width, height in pixels"):
            check(found)
        return
    try:
        named = check(found)
    except ImageError:
        return
    assert "beyond the edge" in counted(named)
    assert "as centre x, centre y, width, height all would fit" in named[0].text


@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.45))
@examples(60)
def test_odd_boxes_among_sound_ones_are_counted_by_kind(seed: int, share: float) -> None:
    found = draw(seed, 40, 3, 0.05, 0.3)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(40)[: max(1, int(40 * share))]
    made: dict[str, int] = {}
    sound = [index for index in range(40) if index not in set(chosen.tolist())]
    for index in chosen:
        item = found["annotations"][index]
        x, y, width, height = item["bbox"]
        kind = str(rng.choice(["empty", "below a pixel", "outside", "beyond the edge", "twice"]))
        made[kind] = made.get(kind, 0) + 1
        if kind == "empty":
            item["bbox"] = [x, y, width, 0]
        elif kind == "below a pixel":
            item["bbox"] = [x, y, 0.5, 0.5]
        elif kind == "outside":
            item["bbox"] = [-2 * width - 3, y, width, height]
        elif kind == "beyond the edge":
            item["bbox"] = [-3.5, y, width + 3.5, height]
        else:
            like = found["annotations"][sound.pop()]
            item |= {"bbox": list(like["bbox"]), "image_id": like["image_id"]}
        item["area"] = item["bbox"][2] * item["bbox"][3]
    assert counted(check(found)) == made

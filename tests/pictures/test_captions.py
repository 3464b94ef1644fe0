"""Captions of drawings: near their boxes, in the picture, and not over each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.detections import Detections
from anydepth_deploy.pictures import draw as draw_module
from anydepth_deploy.pictures.captions import place_captions
from anydepth_deploy.pictures.draw import class_colour, draw_detections

WIDTH, HEIGHT = 120, 90
Rectangle = tuple[int, int, int, int]


def rectangles(
    boxes: list[tuple[float, ...]], sizes: list[tuple[int, int]], width: int, height: int
) -> list[Rectangle]:
    places = place_captions(boxes, sizes, width, height)
    return [(x, y, x + w, y + h) for (x, y), (w, h) in zip(places, sizes, strict=True)]


def overlap(one: Rectangle, other: Rectangle) -> bool:
    return not (
        one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    )


def is_room(placed: list[Rectangle], size: tuple[int, int], width: int, height: int) -> bool:
    """Whether a caption fits anywhere, found pixel by pixel: the windows of a summed-area table
    that hold nothing."""
    taken = np.zeros((height + 1, width + 1), int)
    for x1, y1, x2, y2 in placed:
        taken[y1 + 1 : y2 + 1, x1 + 1 : x2 + 1] = 1
    total = taken.cumsum(0).cumsum(1)
    w, h = size
    if w > width or h > height:
        return False
    inside = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    return bool((inside == 0).any())


sizes = st.tuples(st.integers(1, 60), st.integers(1, 25))
boxes = st.tuples(
    *(st.floats(-20, WIDTH + 20), st.floats(-20, HEIGHT + 20)),
    *(st.floats(0, WIDTH + 20), st.floats(0, HEIGHT + 20)),
).map(lambda box: (min(box[0], box[2]), min(box[1], box[3]), box[2], box[3]))


@given(st.lists(st.tuples(boxes, sizes), min_size=1, max_size=14))
def test_no_caption_hides_another_where_there_is_room(
    given: list[tuple[tuple[float, ...], tuple[int, int]]],
) -> None:
    found = rectangles([box for box, _ in given], [size for _, size in given], WIDTH, HEIGHT)
    for count, one in enumerate(found):
        assert 0 <= one[0] < one[2] <= WIDTH
        assert 0 <= one[1] < one[3] <= HEIGHT
        if is_room(found[:count], given[count][1], WIDTH, HEIGHT):
            assert not any(overlap(one, other) for other in found[:count])


def test_the_usual_places() -> None:
    (above,) = place_captions([(20, 40, 60, 80)], [(30, 10)], 200, 200)
    assert above == (20, 30)
    (below,) = place_captions([(20, 3, 60, 80)], [(30, 10)], 200, 200)
    assert below == (20, 81)
    (inside,) = place_captions([(20, 3, 60, 198)], [(30, 10)], 200, 200)
    assert inside == (20, 3)
    (shifted,) = place_captions([(190, 40, 200, 80)], [(30, 10)], 200, 200)
    assert shifted == (170, 30)
    # The best has the place of its choice, the next one is moved.
    best, next_ = place_captions([(20, 40, 90, 80)] * 2, [(30, 10)] * 2, 200, 200)
    assert best == (20, 30)
    assert next_ == (60, 30)


def test_many_captions_stay_in_the_picture_and_take_no_time() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1000, (300, 4))
    given = [
        tuple(map(float, (*np.minimum(c[:2], c[2:]), *np.maximum(c[:2], c[2:])))) for c in corners
    ]
    found = rectangles(given, [(90, 18)] * 300, 1920, 1080)
    assert all(x1 >= 0 and x2 <= 1920 and y1 >= 0 and y2 <= 1080 for x1, y1, x2, y2 in found)
    hidden = sum(overlap(*pair) for pair in itertools.combinations(found, 2))
    assert hidden <= 10


def test_captions_larger_than_the_picture() -> None:
    (place,) = place_captions([(0, 0, 5, 5)], [(50, 20)], 10, 10)
    assert place == (0, 0)


# --- in a drawing ------------------------------------------------------------------------------


def found_in(boxes: Sequence[tuple[float, ...]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        np.array([labels]), np.array([boxes], np.float32), np.array([scores], np.float32)
    )


def caption_boxes(monkeypatch: pytest.MonkeyPatch) -> list[Rectangle]:
    """Where captions are drawn from now on."""
    drawn: list[Rectangle] = []

    def note(
        boxes: list[tuple[float, ...]], sizes: list[tuple[int, int]], width: int, height: int
    ) -> list[tuple[int, int]]:
        places = place_captions(boxes, sizes, width, height)
        drawn.extend((x, y, x + w, y + h) for (x, y), (w, h) in zip(places, sizes, strict=True))
        return places

    monkeypatch.setattr(draw_module, "place_captions", note)
    return drawn


def test_captions_of_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve boxes over each other: every caption is whole and has the colour of its class."""
    places = caption_boxes(monkeypatch)
    boxes = [(100.0 + n, 100.0 + n, 300.0 + n, 220.0 + n) for n in range(12)]
    scores = [0.9 - n / 20 for n in range(12)]
    picture = np.full((480, 640, 3), 127, np.uint8)
    drawing = draw_detections(
        picture, found_in(boxes, scores, list(range(12))), [f"class {n}" for n in range(12)]
    )
    pixels = np.asarray(drawing)
    assert len(places) == 12
    assert not any(overlap(*pair) for pair in itertools.combinations(places, 2))
    for label, (x1, y1, x2, y2) in enumerate(places):
        part = pixels[y1:y2, x1:x2]
        own = (part == class_colour(label)).all(-1)
        assert own.mean() > 0.5
        # Its edges are its own: neither a box nor another caption crosses it.
        assert own[0].all()
        assert own[-1].all()
        assert own[:, 0].all()
        assert own[:, -1].all()


@pytest.mark.parametrize("size", [(40, 40), (30, 400), (400, 60)])
def test_names_are_cut_to_the_picture(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    places = caption_boxes(monkeypatch)
    picture = np.zeros((*size, 3), np.uint8)
    found = found_in([(0.0, 0.0, float(size[1]), float(size[0]))], [0.5], [0])
    draw_detections(picture, found, ["a very long name of a class" * 3])
    ((x1, y1, x2, y2),) = places
    assert 0 <= x1 < x2 <= size[1]
    assert 0 <= y1 < y2 <= size[0]


@pytest.mark.parametrize("label", range(12))
def test_boxes_are_seen_on_their_own_colour(label: int) -> None:
    picture = np.full((200, 200, 3), class_colour(label), np.uint8)
    found = found_in([(50.0, 50.0, 150.0, 150.0)], [0.5], [label])
    drawing = np.asarray(draw_detections(picture, found, [f"{n}" for n in range(12)]))
    column = drawing[100, 30:170].astype(int)
    away = np.abs(column - picture[0, 0].astype(int)).sum(-1)
    assert (away[15:25] > 150).any()
    assert (away[115:125] > 150).any()


def test_letters_contrast_with_their_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    """WCAG's ratio of at least 4.5, computed from what was drawn."""
    places = caption_boxes(monkeypatch)
    for label in range(40):
        places.clear()
        picture = np.full((200, 200, 3), 127, np.uint8)
        found = found_in([(50.0, 50.0, 150.0, 150.0)], [0.5], [label])
        names = [f"{n}" for n in range(40)]
        drawing = np.asarray(draw_detections(picture, found, names, enlarge=3)) / 255
        ((x1, y1, x2, y2),) = places
        part = drawing[y1:y2, x1:x2].reshape(-1, 3)
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        light = linear @ [0.2126, 0.7152, 0.0722]
        ground = linear[0] @ [0.2126, 0.7152, 0.0722]
        letters = light[np.argmax(np.abs(light - ground))]
        ratio = (max(letters, ground) + 0.05) / (min(letters, ground) + 0.05)
        assert ratio >= 4.5

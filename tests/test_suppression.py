"""Non-maximum suppression: on the host, in torch and in ONNX, against brute force."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import oracle_nms
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from anydepth_deploy.depth import DepthSpace, Gate
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.families.shared.stages import AnyDepthModel, Size, Stage
from anydepth_deploy.families.shared.suppress import Suppress
from anydepth_deploy.families.shared.suppress import kept_scores as kept_scores_torch
from anydepth_deploy.graph.assemble import assemble_static
from anydepth_deploy.graph.pieces import export_pieces
from anydepth_deploy.suppression import Suppression, kept_scores, suppress

Array = NDArray[np.float32]
Kept = list[tuple[int, tuple[float, ...], float]]
"""Label, box and score of each detection, best first."""

CLASSES, ANCHORS = 3, 12

QUICK = examples(150)


# --- the ways that must agree ----------------------------------------------------------------


class Only(AnyDepthModel):
    """A network that is nothing but suppression: its picture's first channel is the predictions."""

    family = "only"
    raw_outputs = {"predictions": "predictions"}  # noqa: RUF012

    def __init__(self, rule: Suppression, count: int) -> None:
        super().__init__()
        self.space = DepthSpace((Gate("none", 0),), (1,))
        self.ladder = (self.space.base, self.space.super)
        self.suppression, self.max_detections = rule, count

    def check_size(self, size: Size) -> None:
        """Any will do."""

    def build_stages(self, size: Size, device: torch.device) -> list[Stage]:
        assert self.suppression is not None
        stage = Suppress(self.suppression, self.max_detections)
        found = ("labels", "detections", "scores")
        return [
            Stage("head", "head", ("images",), ("predictions",), {"full": First()}),
            Stage("postprocess", "postprocess", ("predictions",), found, {"full": stage}),
        ]


class First(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0]


@functools.cache
def exported(rule: Suppression, count: int, classes: int, anchors: int) -> ort.InferenceSession:
    model = Only(rule, count)
    pieces = export_pieces(model, (4 + classes, anchors))
    graph = ir.to_proto(assemble_static(pieces, model.space.super))
    assert [node.op_type for node in graph.graph.node].count("NonMaxSuppression") == 1
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def by_host(predictions: Array, rule: Suppression, count: int) -> Detections:
    return suppress(predictions, rule, count)


def by_torch(predictions: Array, rule: Suppression, count: int) -> Detections:
    labels, boxes, scores = Suppress(rule, count)(torch.from_numpy(predictions))
    return Detections(labels.numpy(), boxes.numpy(), scores.numpy())


def by_onnx(predictions: Array, rule: Suppression, count: int) -> Detections:
    session = exported(rule, count, predictions.shape[1] - 4, predictions.shape[2])
    images = np.repeat(predictions[:, None], 3, axis=1)
    labels, boxes, scores = session.run(["labels", "boxes", "scores"], {"images": images})
    return Detections(labels, boxes, scores)


Way = Callable[[Array, Suppression, int], Detections]
WAYS: dict[str, Way] = {"host": by_host, "torch": by_torch, "onnx": by_onnx}
OF_WAYS = pytest.mark.parametrize("way", list(WAYS))


def corners(predictions: Array) -> Array:
    """x1, y1, x2, y2 [A, 4] of one image, in single precision."""
    cx, cy, w, h = predictions[:4]
    half = np.float32(0.5)
    return np.stack([cx - w * half, cy - h * half, cx + w * half, cy + h * half], -1)


def expected(predictions: Array, rule: Suppression, count: int) -> list[Kept]:
    """What brute force keeps, by image."""
    found = []
    for image in predictions:
        boxes = corners(image)
        kept = oracle_nms.suppress(
            boxes, image[4:], iou=rule.iou_threshold, score=rule.score_threshold, limit=count
        )
        found.append(
            [(label, tuple(boxes[anchor].tolist()), score) for label, anchor, score in kept]
        )
    return found


def listed(found: Detections, index: int) -> Kept:
    one = found.image(index)
    boxes = map(tuple, one.boxes[0].tolist())
    return list(zip(one.labels[0].tolist(), boxes, one.scores[0].tolist(), strict=True))


def check(predictions: Array, rule: Suppression, count: int, *ways: str) -> list[Kept]:
    """Each way keeps what brute force keeps; the order of equal scores is left to torch."""
    wanted = expected(predictions, rule, count)
    batch, rows, anchors = predictions.shape
    places = min(count, (rows - 4) * anchors)
    for way in ways or WAYS:
        found = WAYS[way](predictions, rule, count)
        assert found.labels.dtype == np.int64
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert found.labels.shape == found.scores.shape == (batch, places)
        assert found.boxes.shape == (batch, places, 4)
        for n in range(batch):
            one = listed(found, n)
            if way == "torch":
                assert_same_but_for_ties(one, wanted[n], predictions[n], rule)
            else:
                assert one == wanted[n], way
            # Detections come first; a place without one is marked and otherwise zero.
            assert (found.labels[n, : len(one)] != NOTHING).all()
            assert (found.labels[n, len(one) :] == NOTHING).all()
            assert not found.boxes[n, len(one) :].any()
            assert not found.scores[n, len(one) :].any()
    return wanted


def assert_same_but_for_ties(
    one: Kept, wanted: Kept, predictions: Array, rule: Suppression
) -> None:
    assert [score for *_, score in one] == [score for *_, score in wanted]
    last = wanted[-1][2] if wanted else 0.0
    assert sorted(item for item in one if item[2] > last) == sorted(
        item for item in wanted if item[2] > last
    )
    # Which of equally good ones get the last places is open, but each is one of the kept.
    (every,) = expected(predictions[None], rule, predictions.size)
    assert Counter(one) <= Counter(every)


# --- random boxes ----------------------------------------------------------------------------

# Quarters: every corner, area and intersection is exact, and near-duplicates, touching and empty
# boxes come up by themselves. Few scores: so do ties.
SIDES = st.sampled_from([0.0, 0.5, 2.0, 4.0, 4.25, 5.0, 8.0])
PLACES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 20.0])
SCORES = st.sampled_from([0.0, 0.0, 0.001, 0.1, 0.25, 0.25000003, 0.5, 0.75, 1.0])


@st.composite
def images(draw: st.DrawFn, anchors: int | None = None, classes: int | None = None) -> Array:
    batch = draw(st.integers(1, 3))
    classes = classes or draw(st.integers(1, 4))
    anchors = anchors or draw(st.integers(1, 14))
    found = np.zeros((batch, 4 + classes, anchors), np.float32)
    for n in range(batch):
        for anchor in range(anchors):
            found[n, :4, anchor] = [draw(PLACES), draw(PLACES), draw(SIDES), draw(SIDES)]
            found[n, 4:, anchor] = [draw(SCORES) for _ in range(classes)]
    return found


THRESHOLDS = st.builds(
    Suppression,
    score_threshold=st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.6, 0.99]),
    iou_threshold=st.sampled_from([0.05, 0.25, 0.5, 0.7, 0.9, 1.0]),
)


@QUICK
@given(images(), THRESHOLDS, st.integers(1, 20))
def test_host_and_torch_keep_what_brute_force_keeps(
    predictions: Array, rule: Suppression, count: int
) -> None:
    check(predictions, rule, count, "host", "torch")


RULES = [
    (Suppression(), 5),
    (Suppression(score_threshold=0.0, iou_threshold=0.5), 40),
    (Suppression(score_threshold=0.25, iou_threshold=0.05), 36),
    (Suppression(score_threshold=0.1, iou_threshold=1.0), 7),
]


@pytest.mark.parametrize(("rule", "count"), RULES)
def test_onnx_keeps_what_brute_force_keeps(rule: Suppression, count: int) -> None:
    @QUICK
    @given(images(ANCHORS, CLASSES))
    def run(predictions: Array) -> None:
        check(predictions, rule, count)

    run()


def crowd(seed: int, batch: int, classes: int, anchors: int) -> Array:
    """A few objects, each under many boxes that differ by rounding-sized to large amounts."""
    rng = np.random.default_rng(seed)
    objects = rng.random((batch, 6, 4)) * [600, 600, 200, 200] + [0, 0, 4, 4]
    chosen = np.take_along_axis(objects, rng.integers(0, 6, (batch, anchors, 1)), 1)
    spread = 10 ** rng.uniform(-6, 1.5, (batch, anchors, 1))
    boxes = chosen + rng.normal(size=(batch, anchors, 4)) * spread
    boxes[..., 2:] = np.abs(boxes[..., 2:])
    scores = rng.random((batch, classes, anchors)) ** 4
    return np.concatenate([boxes.transpose(0, 2, 1), scores], 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rule", "count"), [(Suppression(), 300), (RULES[2][0], 30)])
def test_crowds(seed: int, rule: Suppression, count: int) -> None:
    """Boxes of any numbers: every step of the intersection over union is rounded alike."""
    kept = check(crowd(seed, 2, 3, 200), rule, count)
    assert all(0 < len(one) <= min(count, 599) for one in kept)


# --- by hand ---------------------------------------------------------------------------------


def predicted(
    *items: tuple[tuple[float, float, float, float], tuple[float, ...]], anchors: int = ANCHORS
) -> Array:
    """One image of (x1, y1, x2, y2) boxes with the scores of their classes, filled up with
    boxes of score 0."""
    found = np.zeros((1, 4 + CLASSES, anchors), np.float32)
    for anchor, ((x1, y1, x2, y2), scores) in enumerate(items):
        found[0, :4, anchor] = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        found[0, 4 : 4 + len(scores), anchor] = scores
    return found


def found_by(
    way: str, predictions: Array, rule: Suppression, count: int = 5
) -> list[tuple[int, float]]:
    check(predictions, rule, count, way)
    kept = listed(WAYS[way](predictions, rule, count), 0)
    return [(label, round(score, 6)) for label, _, score in kept]


HALF = Suppression(iou_threshold=0.5)
SQUARE, LOWER_HALF, FAR = (0, 0, 2, 2), (0, 0, 2, 1), (5, 5, 7, 7)


@OF_WAYS
def test_at_the_threshold_exactly_nothing_goes(way: str) -> None:
    pair = predicted((SQUARE, (0.9,)), (LOWER_HALF, (0.8,)))
    assert found_by(way, pair, HALF) == [(0, 0.9), (0, 0.8)]  # overlap 1/2, limit 1/2
    below = Suppression(iou_threshold=0.49)
    assert found_by(way, pair, below) == [(0, 0.9)]
    third = predicted((SQUARE, (0.9,)), ((1, 0, 3, 2), (0.8,)))  # overlap 1/3
    assert len(found_by(way, third, Suppression(iou_threshold=float(np.float32(1 / 3))))) == 2
    under = math.nextafter(float(np.nextafter(np.float32(1 / 3), np.float32(0))), 0)
    assert len(found_by(way, third, Suppression(iou_threshold=under))) == 1
    twice = predicted((SQUARE, (0.9,)), (SQUARE, (0.8,)))
    assert len(found_by(way, twice, Suppression(iou_threshold=1.0))) == 2
    assert len(found_by(way, twice, HALF)) == 1


@OF_WAYS
def test_a_score_at_the_threshold_is_too_low(way: str) -> None:
    rule = Suppression(score_threshold=0.25)
    above = float(np.nextafter(np.float32(0.25), np.float32(1)))
    pair = predicted((SQUARE, (0.25,)), (FAR, (above,)))
    assert found_by(way, pair, rule) == [(0, round(above, 6))]
    # 0.001 is no number of single precision: score and threshold are rounded alike.
    pair = predicted((SQUARE, (0.001,)), (FAR, (0.0011,)))
    assert found_by(way, pair, Suppression()) == [(0, 0.0011)]
    nothing = predicted((SQUARE, (0.0,)))
    assert found_by(way, nothing, Suppression(score_threshold=0.0)) == []


@OF_WAYS
def test_classes_do_not_suppress_each_other(way: str) -> None:
    items = predicted((SQUARE, (0.9, 0.7, 0.0)), (SQUARE, (0.8, 0.75, 0.1)))
    assert found_by(way, items, HALF) == [(0, 0.9), (1, 0.75), (2, 0.1)]


@OF_WAYS
def test_a_suppressed_box_suppresses_nothing(way: str) -> None:
    items = predicted(((0, 0, 4, 1), (0.9,)), ((1, 0, 5, 1), (0.8,)), ((2, 0, 6, 1), (0.7,)))
    assert found_by(way, items, HALF) == [(0, 0.9), (0, 0.7)]


@OF_WAYS
def test_of_equal_scores_the_first_box_wins(way: str) -> None:
    items = predicted(((1, 0, 3, 2), (0.5,)), (SQUARE, (0.5,)), ((2, 0, 4, 2), (0.5,)))
    rule = Suppression(iou_threshold=0.25)
    check(items, rule, 5, way)
    (box,) = [box for _, box, _ in listed(WAYS[way](items, rule, 5), 0)]
    assert box == (1, 0, 3, 2)


@OF_WAYS
def test_boxes_without_area_suppress_nothing(way: str) -> None:
    point, line = (1, 1, 1, 1), (0, 1, 2, 1)
    items = predicted((point, (0.9,)), (point, (0.8,)), (line, (0.7,)), (line, (0.6,)))
    assert len(found_by(way, items, Suppression(iou_threshold=0.01))) == 4
    items = predicted((SQUARE, (0.9,)), (line, (0.8,)), (point, (0.7,)))
    assert len(found_by(way, items, Suppression(iou_threshold=0.01))) == 3


@OF_WAYS
def test_boxes_that_touch_do_not_overlap(way: str) -> None:
    items = predicted((SQUARE, (0.9,)), ((2, 0, 4, 2), (0.8,)), ((0, 2, 2, 4), (0.7,)))
    assert len(found_by(way, items, Suppression(iou_threshold=0.01))) == 3


@OF_WAYS
def test_the_limit_is_of_all_classes_together(way: str) -> None:
    boxes = [(10.0 * n, 0.0, 10.0 * n + 5, 5.0) for n in range(ANCHORS)]
    items = predicted(*((box, (0.9 - n / 50, 0.89 - n / 50, 0.5)) for n, box in enumerate(boxes)))
    assert found_by(way, items, Suppression()) == [
        (0, 0.9), (1, 0.89), (0, 0.88), (1, 0.87), (0, 0.86)
    ]  # fmt: skip
    assert len(found_by(way, items, Suppression(), count=36)) == 36
    one_class = predicted(*((box, (0.0, 0.9 - n / 50)) for n, box in enumerate(boxes)))
    assert [label for label, _ in found_by(way, one_class, Suppression())] == [1] * 5


@OF_WAYS
def test_more_places_than_candidates(way: str) -> None:
    items = predicted((SQUARE, (0.9,)), (FAR, (0.0, 0.3)))
    found = WAYS[way](items, Suppression(), 5)
    assert found.labels.tolist() == [[0, 1, -1, -1, -1]]
    assert found.boxes[0, 1].tolist() == list(FAR)
    assert not found.boxes[0, 2:].any()
    assert found.scores[0, 2:].tolist() == [0, 0, 0]
    # No more places than there are pairs of a box and a class.
    assert WAYS[way](items, Suppression(), 1000).labels.shape == (1, CLASSES * ANCHORS)


@OF_WAYS
def test_nothing_found(way: str) -> None:
    items = np.concatenate([predicted((SQUARE, (0.0005,))), predicted((SQUARE, (0.5,)))] * 2)
    found = WAYS[way](items, Suppression(), 5)
    assert [len(one.labels[0]) for one in found] == [0, 1, 0, 1]
    silent = WAYS[way](items[::2], Suppression(), 5)
    assert (silent.labels == NOTHING).all()
    assert not silent.boxes.any()
    assert not silent.scores.any()


@OF_WAYS
def test_thresholds_are_obeyed(way: str) -> None:
    items = [((n / 4, 0, n / 4 + 4, 4), (n / 16, 0.9)) for n in range(ANCHORS)]
    predictions = predicted(*items)

    def count(**thresholds: Any) -> int:
        return len(found_by(way, predictions, Suppression(**thresholds), count=36))

    counts = count(iou_threshold=1.0), count(), count(iou_threshold=1.0, score_threshold=0.5)
    assert counts == (23, 8, 15)


@OF_WAYS
def test_numbers_that_are_none_are_no_detections(way: str) -> None:
    items = predicted((SQUARE, (math.nan, 0.4)), (FAR, (0.9,)))
    found = WAYS[way](items, Suppression(), 5)
    assert listed(found, 0) == [
        (0, FAR, float(np.float32(0.9))),
        (1, SQUARE, float(np.float32(0.4))),
    ]


# --- the pieces ------------------------------------------------------------------------------


@QUICK
@given(images(), THRESHOLDS, st.integers(1, 20))
def test_kept_scores(predictions: Array, rule: Suppression, limit: int) -> None:
    boxes = np.stack([corners(image) for image in predictions])
    scores = predictions[:, 4:]
    options: dict[str, Any] = {"iou": rule.iou_threshold, "score": rule.score_threshold}
    found = kept_scores(boxes, scores, **options, limit=limit)
    assert found.shape == scores.shape
    assert found.dtype == np.float32
    wanted = np.zeros_like(scores)
    for n, label in np.ndindex(scores.shape[:2]):
        rows = np.zeros_like(scores[n])  # a class alone, so that the limit is its own
        rows[label] = scores[n, label]
        for _, anchor, score in oracle_nms.suppress(boxes[n], rows, **options, limit=limit):
            wanted[n, label, anchor] = score
    assert np.array_equal(found, wanted)
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
    values = kept_scores_torch(*tensors, rule.iou_threshold, rule.score_threshold, limit)
    assert np.array_equal(values.numpy(), wanted)


def test_corners_may_be_in_any_order() -> None:
    """As in ONNX."""
    boxes = np.array([[[0, 0, 4, 4], [4, 4, 0, 0.5], [0, 4, 4, 0]]], np.float32)
    scores = np.array([[[0.9, 0.8, 0.7]]], np.float32)
    found = kept_scores(boxes, scores, iou=0.5, score=0.0, limit=9)
    assert found.tolist() == [[[np.float32(0.9), 0, 0]]]


def test_the_operator_keeps_torchs_rules() -> None:
    arguments = (torch.rand(2, 7, 4), torch.rand(2, 3, 7), 0.5, 0.1, 4)
    torch.library.opcheck(torch.ops.anydepth.kept_scores.default, arguments)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_of_the_exported_piece_is_free(batch: int) -> None:
    check(crowd(batch, batch, CLASSES, ANCHORS), *RULES[0])


def test_an_image_leaves_empty_places_out() -> None:
    items = predicted((SQUARE, (0.9,)), (FAR, (0.0, 0.3)))
    found = suppress(np.concatenate([items, items * 0]), Suppression(), 4)
    assert found.labels.shape == (2, 4)
    first, second = found
    assert (first.labels.shape, first.boxes.shape, first.scores.shape) == (
        (1, 2),
        (1, 2, 4),
        (1, 2),
    )
    assert (second.labels.shape, second.boxes.shape) == ((1, 0), (1, 0, 4))
    assert found.image(0, 0.3000001).labels.tolist() == [[0]]
    assert found.image(0, float(np.float32(0.3))).labels.tolist() == [[0, 1]]
    # A network without suppression may give a score of 0: that place holds a detection.
    full = Detections(
        np.array([[2]]), np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32)
    )
    assert full.image(0).labels.tolist() == [[2]]


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings_",
    [
        {"score_threshold": -0.1},
        {"score_threshold": 1.0},
        {"iou_threshold": 0.0},
        {"iou_threshold": 1.1},
        {"iou_threshold": math.nan},
        {"where": "nowhere"},
        {"limit": 3},
    ],
)
def test_settings_that_cannot_be(settings_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Suppression.model_validate(settings_)


def test_settings_survive_json() -> None:
    rule = Suppression(where="host", score_threshold=0.25, iou_threshold=0.45)
    assert Suppression.model_validate_json(rule.model_dump_json()) == rule
    assert Suppression() == Suppression(where="graph", score_threshold=0.001, iou_threshold=0.7)

"""The judge judged: the oracles of AnyDepth-YOLO and of suppression."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle_nms import overlap, suppress
from oracle_yolo import (
    BASE,
    GATED,
    SCALES,
    SUPER,
    Walk,
    multiply_adds,
    parameters_used,
    predictions,
    random_state,
    shapes,
)
from torch import Tensor

# The authors count the constant bins of the head as parameters.
BINS = 16
SQUARE = (640, 640)


def hollow(scale: str, **kinds: object) -> dict[str, Tensor]:
    """A checkpoint of shapes only."""
    table = shapes(scale, **kinds)  # type: ignore[arg-type]
    return {key: torch.empty(shape, device="meta") for key, shape in table.items()}


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    return random_state("tiny", classes=5, seed=1)


# Counts.


def test_counts_are_the_published_ones() -> None:
    state = hollow("l")
    assert parameters_used(state, SUPER) + BINS == 26_506_496
    assert parameters_used(state, BASE) + BINS == 19_145_472
    learned = [key for key in state if key.endswith(("weight", "bias", "gamma"))]
    assert sum(state[key].numel() for key in learned) == 27_347_712
    for dfl in (False, True):  # the figures do not tell whether it was counted
        assert round(multiply_adds(state, SQUARE, SUPER, dfl=dfl) / 1e6) == 44_473
        assert round(multiply_adds(state, SQUARE, BASE, dfl=dfl) / 1e6) == 31_013
    assert multiply_adds(state, SQUARE, SUPER) == 44_472_627_200
    assert multiply_adds(state, SQUARE, BASE) == 31_012_761_600


@pytest.mark.parametrize(
    ("layout", "inner", "parameters", "giga"),
    [
        ("skippable", (2, 4, 20), 18_757_504, 29.951),
        ("skippable", (11, 14, 17), 18_480_640, 29.597),
        ("skippable", (2, 4, 11, 14, 17, 20), 18_092_672, 28.536),
        ("switchable", (), 20_308_224, 34.499),
        ("switchable", (2, 4, 20), 19_532_288, 32.376),
        ("switchable", (2, 4, 11, 14, 17, 20), 18_867_456, 30.960),
    ],
)
def test_no_other_layout_has_the_published_base(
    layout: str, inner: tuple[int, ...], parameters: int, giga: float
) -> None:
    state = hollow("l", layout=layout, c3k_inner_skips=inner)
    assert parameters_used(state, SUPER) + BINS == 26_506_496
    assert parameters_used(state, BASE) + BINS == parameters
    assert round(multiply_adds(state, SQUARE, BASE) / 1e9, 3) == giga


def test_a_slice_is_counted_as_its_own_second_weight() -> None:
    own, sliced = hollow("l"), hollow("l", conv_skip=False)
    assert parameters_used(own, BASE) == parameters_used(sliced, BASE)
    assert multiply_adds(own, SQUARE, BASE) == multiply_adds(sliced, SQUARE, BASE)
    added = {key: value for key, value in own.items() if key not in sliced}
    assert {key: tuple(value.shape) for key, value in added.items()} == {
        "model.6.cv2.conv_skip.weight": (512, 768, 1, 1),
        "model.8.cv2.conv_skip.weight": (512, 768, 1, 1),
    }


def test_super_reads_everything_but_the_second_set() -> None:
    state = hollow("n")
    learned = {key for key in state if key.endswith(("weight", "bias", "gamma"))}
    first = {key for key in learned if "_skip" not in key} - {"model.21.dfl.conv.weight"}
    assert parameters_used(state, SUPER) == sum(state[key].numel() for key in first)


# The network.


@pytest.mark.parametrize(
    ("scale", "layout"),
    [*((scale, "skippable") for scale in SCALES), ("n", "switchable"), ("l", "switchable")],
)
def test_every_scale_runs(scale: str, layout: str) -> None:
    state = random_state(
        scale, layout=layout, conv_skip=layout == "skippable", c3k_inner_skips=layout != "skippable"
    )
    full, base = (predictions(state, images(), skip) for skip in (SUPER, BASE))
    cells = 8 * 12 + 4 * 6 + 2 * 3
    for output in (full, base):
        assert output.shape == (2, 84, cells)
        assert output.isfinite().all()
        assert (output[:, 2:4] > 0).all()
        assert ((output[:, 4:] > 0) & (output[:, 4:] < 1)).all()
        assert 0.05 < output[:, 4:].std() < 0.45  # alive and not saturated
    assert (full - base)[:, 4:].abs().mean() > 0.01
    double = {key: value.double() for key, value in state.items()}
    exact = predictions(double, images().double(), SUPER)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(full.double(), exact, rtol=1e-4, atol=1e-3)


def test_every_flag_and_every_image_counts(tiny: dict[str, Tensor]) -> None:
    skips: list[tuple[bool, ...]] = [SUPER, BASE, (True, False) * 4, (False, True) * 4]
    skips += [tuple(other == flag for other in range(8)) for flag in range(8)]
    outputs = [predictions(tiny, images(), skip) for skip in skips]
    for index, one in enumerate(outputs):
        assert (one[0] - one[1]).abs().max() > 1e-3
        for other in outputs[:index]:
            assert (one - other).abs().max() > 1e-3
    for number in range(2):
        alone = predictions(tiny, images()[number : number + 1], BASE)
        torch.testing.assert_close(outputs[1][number : number + 1], alone, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="8 skip flags"):
        predictions(tiny, images(), (True,))


@pytest.mark.parametrize(
    ("layout", "inner", "refinement"),
    [
        ("skippable", False, ["2.m.1", "6.m.2", "8.m.3", "11.m.1", "20.m.1"]),
        ("skippable", True, ["2.m.1", "20.m.0.m.1", "20.m.1"]),
        ("switchable", True, ["8.m.2", "17.m.1", "20.m.0.m.1", "20.m.1.m.1"]),
    ],
)
def test_base_ignores_the_refinement(layout: str, inner: bool, refinement: list[str]) -> None:
    state = random_state("tiny", layout=layout, c3k_inner_skips=inner, classes=3)
    full, base = predictions(state, images(), SUPER), predictions(state, images(), BASE)
    for block in refinement:
        layer = GATED.index(int(block.split(".")[0]))
        only = tuple(index == layer for index in range(8))
        part = predictions(state, images(), only)
        other = {
            key: value * 2 if key.startswith(f"model.{block}.") else value
            for key, value in state.items()
        }
        assert torch.equal(predictions(other, images(), BASE), base)
        assert torch.equal(predictions(other, images(), only), part)
        assert not torch.equal(predictions(other, images(), SUPER), full)


@pytest.mark.parametrize(
    ("layout", "inner", "kept"),
    [
        ("skippable", False, ["2.m.0", "20.m.0.m.1", "17.m.0.m.1"]),
        ("switchable", False, ["2.m.1", "20.m.1.m.0", "20.m.1.m.1"]),
        ("switchable", True, ["4.m.1", "20.m.1.m.0"]),
    ],
)
def test_base_runs_what_has_a_second_norm(layout: str, inner: bool, kept: list[str]) -> None:
    state = random_state("tiny", layout=layout, c3k_inner_skips=inner, classes=3)
    base = predictions(state, images(), BASE)
    for block in kept:
        other = {
            key: value * 2
            if key.startswith(f"model.{block}.") and key.endswith(".conv.weight")
            else value
            for key, value in state.items()
        }
        assert not torch.equal(predictions(other, images(), BASE), base)


def test_a_second_weight_equal_to_the_slice_is_the_slice(tiny: dict[str, Tensor]) -> None:
    keys = [key for key in tiny if "conv_skip" in key]
    assert keys == ["model.6.cv2.conv_skip.weight", "model.8.cv2.conv_skip.weight"]
    sliced = {key: value for key, value in tiny.items() if key not in keys}
    own = dict(sliced)
    for key in keys:
        own[key] = tiny[key.replace("conv_skip", "conv")][:, : tiny[key].shape[1]].clone()
    expected = predictions(sliced, images(), BASE)
    torch.testing.assert_close(predictions(own, images(), BASE), expected, rtol=1e-4, atol=1e-3)
    assert (predictions(tiny, images(), BASE) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("skip", [False, True])
def test_convolution_is_torchs(tiny: dict[str, Tensor], skip: bool) -> None:
    """Layer 3: four groups, and a norm for either depth."""
    weight = tiny["model.3.conv.weight"]
    conv = torch.nn.Conv2d(4 * weight.shape[1], len(weight), 3, 2, 1, groups=4, bias=False)
    conv.load_state_dict({"weight": weight})
    norm = torch.nn.BatchNorm2d(len(weight), eps=1e-3).eval()
    prefix = "model.3.bn_skip." if skip else "model.3.bn."
    norm.load_state_dict(
        {key[len(prefix) :]: value for key, value in tiny.items() if key.startswith(prefix)}
    )
    x = torch.randn(2, 4 * weight.shape[1], 6, 8)
    expected = torch.nn.functional.silu(norm(conv(x)))
    walk = Walk(tiny, (False, skip) + (False,) * 6)
    torch.testing.assert_close(walk.down(3, x), expected)
    assert walk.multiply_adds == 2 * len(weight) * 3 * 4 * weight.shape[1] * 9


@pytest.mark.parametrize("area", [1, 4])
def test_attention_token_by_token(area: int) -> None:
    """Two heads of 32 channels over a map of 4 rows and 6 columns."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}
    for name, shape in {
        "qk": (128, 64, 1, 1),
        "v": (64, 64, 1, 1),
        "pe": (64, 1, 5, 5),
        "proj": (64, 64, 1, 1),
    }.items():
        state[f"a.{name}.conv.weight"] = torch.randn(shape, generator=generator).double() / 4
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"a.{name}.bn.{part}"] = torch.rand(shape[0], generator=generator).double() + 0.5
    x = torch.randn(1, 64, 4, 6, generator=generator).double()

    def conv(name: str, y: Tensor) -> Tensor:
        return Walk(state, SUPER).conv(f"a.{name}", y, act=False)

    qk, v = conv("qk", x)[0].flatten(1), conv("v", x)
    pe, value = conv("pe", v), v[0].flatten(1)
    run = 24 // area
    attended = torch.zeros(64, 24, dtype=torch.float64)
    for token in range(24):
        first = token // run * run
        for head in range(2):
            channels = range(32 * head, 32 * head + 32)
            scores = [
                sum(float(qk[c, token] * qk[64 + c, other]) for c in channels) / math.sqrt(32)
                for other in range(first, first + run)
            ]
            exponentials = [math.exp(score - max(scores)) for score in scores]
            for c in channels:
                attended[c, token] = sum(
                    part / sum(exponentials) * float(value[c, first + i])
                    for i, part in enumerate(exponentials)
                )
    expected = conv("proj", attended.reshape(1, 64, 4, 6) + pe)
    walk = Walk(state, SUPER)
    torch.testing.assert_close(walk.attention("a", x, False, area), expected)
    convolutions = 24 * (128 * 64 + 64 * 64 + 64 * 25 + 64 * 64)
    assert walk.multiply_adds == convolutions + 2 * area * run * run * 64


def test_spikes_decode_to_exact_boxes(tiny: dict[str, Tensor]) -> None:
    """All the weight of a distribution in one bin is that many strides."""
    x = torch.full((1, 64, 2, 3), -1000.0)
    left, top, right, bottom = 3, 1, 7, 15
    for side, cells in enumerate((left, top, right, bottom)):
        x[:, 16 * side + cells] = 1000
    walk = Walk(tiny, SUPER)
    boxes = walk.decode(x, 8)
    assert walk.expectation == 64 * 6
    for row in range(2):
        for column in range(3):
            cx, cy, w, h = boxes[0, :, row * 3 + column].tolist()
            assert cx - w / 2 == 8 * (column + 0.5 - left)
            assert cx + w / 2 == 8 * (column + 0.5 + right)
            assert cy - h / 2 == 8 * (row + 0.5 - top)
            assert cy + h / 2 == 8 * (row + 0.5 + bottom)


def test_levels_follow_each_other_rows_first(tiny: dict[str, Tensor]) -> None:
    """With no distance learned every box is the square of 15 strides about its cell."""
    state = {
        key: torch.zeros_like(value)
        if key.startswith("model.21.cv2.") and key.endswith((".2.weight", ".2.bias"))
        else value
        for key, value in tiny.items()
    }
    output = predictions(state, images(1), SUPER)[0, :4].T
    expected = [
        [stride * (column + 0.5), stride * (row + 0.5), stride * 15, stride * 15]
        for stride in (8, 16, 32)
        for row in range(64 // stride)
        for column in range(96 // stride)
    ]
    torch.testing.assert_close(output, torch.tensor(expected), rtol=1e-5, atol=1e-4)


# Suppression.


def boxes(
    *rows: tuple[float, float, float, float],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32)


def test_overlap() -> None:
    one, half, far, point = boxes((0, 0, 2, 2), (0, 0, 2, 1), (5, 5, 6, 6), (1, 1, 1, 1))
    assert overlap(one, one) == 1
    assert overlap(one, half) == overlap(half, one) == 0.5
    assert overlap(one, far) == overlap(one, point) == overlap(point, point) == 0


def test_suppression_by_hand() -> None:
    found = boxes((0, 0, 2, 2), (0, 0, 2, 1), (5, 5, 6, 6), (5, 5, 6, 6))
    scores = np.array([[0.9, 0.95, 0.2, 0.2], [0.9, 0.1, 0.0, 0.3]])

    def run(iou: float, score: float = 0.1, limit: int = 9) -> list[tuple[int, int]]:
        kept = suppress(found, scores, iou=iou, score=score, limit=limit)
        return [(label, anchor) for label, anchor, _ in kept]

    # At the threshold exactly neither an overlap suppresses nor a score suffices; of equal scores
    # the lower label and the lower anchor come first.
    assert run(0.5) == [(0, 1), (0, 0), (1, 0), (1, 3), (0, 2)]
    assert run(0.49) == [(0, 1), (1, 0), (1, 3), (0, 2)]
    assert run(1.0)[-2:] == [(0, 2), (0, 3)]
    assert run(0.5, score=0.25) == [(0, 1), (0, 0), (1, 0), (1, 3)]
    assert run(0.5, limit=2) == [(0, 1), (0, 0)]
    assert run(0.5, score=0.95) == []


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = boxes((0, 0, 4, 1), (1, 0, 5, 1), (2, 0, 6, 1))
    kept = suppress(chain, np.array([[0.9, 0.8, 0.7]]), iou=0.5, score=0, limit=9)
    assert [anchor for _, anchor, _ in kept] == [0, 2]

"""Comparing raw outputs item by item: queries by their tokens, choices, and likeness to depths."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import random_detr, random_images, random_yolo

from anydepth_deploy.detections import Detections
from anydepth_deploy.families.registry import engine_tolerances, find_outputs, tolerances
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.yolo.outputs import YoloOutputs
from anydepth_deploy.verifying import parity
from anydepth_deploy.verifying.items import choice_gap, pair, resemblance, resemblance_limit
from anydepth_deploy.verifying.parity import Difference


def test_nothing_here_needs_torch_or_onnx() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnx_ir')));"
        "import anydepth_deploy.verifying.engines, anydepth_deploy.verifying.parity;"
        "from anydepth_deploy.families import registry;"
        "[registry.find_family(name).outputs for name in registry.BUILT_IN]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("make", [random_detr, random_yolo])
def test_quantities_are_those_of_the_models(make: Callable[[], AnyDepthModel]) -> None:
    model = make()
    outputs = find_outputs(model.family)
    with torch.inference_mode():
        raw = {key: x.numpy() for key, x in model(torch.rand(2, 3, 96, 160), "base").items()}
    found = outputs.quantities(raw)
    if isinstance(outputs, YoloOutputs):
        assert found.keys() == {"boxes", "scores"}
        both = np.concatenate([found["boxes"], found["scores"]], 1)
        assert np.array_equal(both, raw["predictions"])
    else:
        assert found.keys() == raw.keys()
        assert all(found[name] is array for name, array in raw.items())
    items = outputs.items(raw)
    for precision in ("fp32", "fp16", "int8"):
        limits = engine_tolerances(model.family, (96, 160), precision)
        assert limits.raw.keys() == items.values.keys() == found.keys() - {"queries"}
        assert (limits.selection > 0) == ("queries" in found) == (outputs.choice == "queries")
        assert limits.approximate == (precision != "fp32")


@pytest.mark.parametrize("make", [random_detr, random_yolo])
def test_every_quantity_has_a_limit_at_every_precision(make: Callable[[], AnyDepthModel]) -> None:
    model = make()
    with torch.inference_mode():
        raw = {key: x.numpy() for key, x in model(torch.rand(1, 3, 96, 160), "super").items()}
    found = find_outputs(model.family).quantities(raw)
    for precision in ("fp32", "fp16", "bf16", "int8"):
        limits = tolerances(model.family, (320, 640), precision)
        assert limits.raw.keys() == found.keys()
        assert limits.approximate == (precision != "fp32")


@pytest.mark.parametrize("make", [random_detr, random_yolo])
def test_detections_follow_from_raw_outputs(make: Callable[[], AnyDepthModel]) -> None:
    model = make()
    with torch.inference_mode():
        images = torch.from_numpy(random_images(2, 96, 160))
        raw = {key: x.numpy() for key, x in model(images, "base").items()}
        wanted = Detections(**{key: x.numpy() for key, x in model.detect(images, "base").items()})
    found = find_outputs(model.family).detections(
        raw, (96, 160), model.max_detections, model.suppression
    )
    for image in range(2):
        # torch.topk leaves open which of two equal scores comes first.
        ours, theirs = (
            np.lexsort((some.boxes[image, :, 0], some.labels[image], -some.scores[image]))
            for some in (found, wanted)
        )
        assert np.array_equal(found.labels[image, ours], wanted.labels[image, theirs])
        scores = found.scores[image, ours], wanted.scores[image, theirs]
        assert np.allclose(*scores, rtol=0, atol=1e-6)
        boxes = found.boxes[image, ours], wanted.boxes[image, theirs]
        assert np.allclose(*boxes, rtol=0, atol=1e-3)


def test_differences() -> None:
    found = Difference()
    found.add(np.array([[1.0, 2.0]], np.float32), np.array([[1.0, 4.0]], np.float32))
    found.add(np.array([[0.0]], np.float32), np.array([[3.0]], np.float32))
    assert found.largest == 3.0
    assert found.relative == pytest.approx(math.sqrt((4 + 9) / (1 + 16 + 9)))
    found.add(np.array([np.nan]), np.array([1.0]))
    assert found.largest == found.relative == math.inf
    assert parity.Difference().relative == 0.0
    shape = Difference()
    shape.add(np.zeros((1, 2)), np.zeros((2, 1)))
    assert shape.relative == shape.largest == math.inf


def queries(tokens: list[list[int]], offset: float = 0.0) -> Items:
    """Items whose values say which image and token they are of."""
    array = np.array(tokens, np.int64)
    values = array + 1000.0 * np.arange(len(tokens))[:, None] + offset
    return Items({"logits": values[..., None].astype(np.float32)}, array)


def test_queries_are_paired_by_token_in_their_image() -> None:
    found, wanted = queries([[3, 1, 2], [7, 8, 9]], 0.5), queries([[2, 5, 3], [9, 7, 8]])
    pairs = pair(found, wanted)
    # By brute force: each token that both lists of an image hold.
    expected = {
        1000.0 * image + token
        for image in (0, 1)
        for token in range(10)
        if token in found.tokens[image] and token in wanted.tokens[image]  # type: ignore[index]
    }
    assert set(pairs.wanted["logits"][:, 0]) == expected == {3, 2, 1007, 1008, 1009}
    assert np.array_equal(pairs.found["logits"], pairs.wanted["logits"] + 0.5)


def test_cells_are_paired_where_they_are() -> None:
    predictions = np.arange(2 * 6 * 5, dtype=np.float32).reshape(2, 6, 5)
    items_of = YoloOutputs().items
    one, other = items_of({"predictions": predictions}), items_of({"predictions": predictions + 1})
    pairs = pair(one, other)
    assert pairs.found["boxes"].shape == (10, 4)
    assert pairs.found["scores"].shape == (10, 2)
    assert np.array_equal(pairs.found["boxes"][7], predictions[1, :4, 2])
    assert np.array_equal(pairs.found["scores"] + 1, pairs.wanted["scores"])


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([0, 1], 0.0),
        ([1, 0], 0.0),  # the order is nobody's promise
        ([0, 2], 0.25),  # the second best is left out for one that is 0.25 worse
        ([0, 3], 7.75),
        ([2, 3], 8.0),
        ([0, 0], math.inf),
        ([0, 4], math.inf),
        ([-1, 0], math.inf),
    ],
)
def test_a_choice_is_as_bad_as_what_it_passed_over(tokens: list[int], expected: float) -> None:
    choice = np.array([[3.0, 2.75, 2.5, -5.0]], np.float32)
    assert choice_gap(np.array([tokens], np.int64), choice) == expected
    both = np.concatenate([choice, choice[:, ::-1]])
    assert choice_gap(np.array([tokens, [3, 2]], np.int64), both) == expected
    assert choice_gap(np.array([[0, 1]]), np.full((1, 4), np.nan)) == math.inf


def test_likeness_to_another_depth() -> None:
    rng = np.random.default_rng(0)
    own, step = rng.normal(size=(2, 500, 3)), 0.05 * rng.normal(size=(2, 500, 3))
    noise = 0.02 * rng.normal(size=own.shape)

    def items(array: np.ndarray) -> Items:
        return Items({"scores": array})

    other = items(own + step)
    assert resemblance(items(own + noise), items(own), other) < 0.1
    assert resemblance(items(own + step + noise), items(own), other) > 0.9
    # Noise that drowns the difference: chance decides.
    assert 0.4 < resemblance(items(own + 50 * noise), items(own), other) < 0.6
    assert resemblance(items(own + noise), items(own), items(own)) == 0.0
    # A few that are far off the other way weigh no more than others.
    far = own + noise
    far[0, :10] += 1e4 * step[0, :10]
    assert resemblance(items(far), items(own), other) < 0.1


def test_many_pairs_leave_less_to_chance() -> None:
    limits = [resemblance_limit(pairs) for pairs in (1, 4, 16, 256)]
    assert limits == sorted(limits, reverse=True)
    assert all(0.5 < limit <= 0.65 for limit in limits)

"""Sampling in blocks, in few bits and by OpenCV, held against the formula written out; and what a
picture is made into after it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from anydepth_deploy.pictures import images, opencv, resize
from anydepth_deploy.pictures.images import Preprocess, prepare, prepare_batch
from anydepth_deploy.pictures.resize import resize_averaging, resize_bilinear

Image8 = NDArray[np.uint8]


def picture(height: int, width: int, kind: str = "noise") -> Image8:
    values = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    if kind == "extremes":  # the largest sums, and ties
        return np.where(values > 127, np.uint8(255), np.uint8(0))
    return values


def formula(image: Image8, size: tuple[int, int]) -> Image8:
    """Both passes in 64 bits, every place of the whole picture at once."""
    sums: Any = image.astype(np.int64)
    for axis in (0, 1):
        old = image.shape[axis]
        at = np.clip((np.arange(size[axis]) + 0.5) * (old / size[axis]) - 0.5, 0, old - 1)
        first = np.floor(at).astype(int)
        weights = np.rint((at - first) * 2048).astype(int)
        weights = weights.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        second = np.minimum(first + 1, old - 1)
        sums = sums.take(first, axis) * (2048 - weights) + sums.take(second, axis) * weights
    return ((sums + 2**21) >> 22).astype(np.uint8)


@pytest.fixture(params=["OpenCV", "NumPy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "NumPy":
        monkeypatch.setattr(opencv, "_module", lambda: None)
    return str(request.param)


SIZES = [
    ((270, 480), (90, 160)),  # a third: no weights
    ((180, 320), (90, 160)),  # a half: all weights a half
    ((540, 960), (90, 160)),  # a sixth
    ((180, 480), (90, 160)),  # a half and a third
    ((180, 160), (90, 160)),  # a half, and as wide as it was
    ((225, 400), (90, 160)),  # 2.5: weights of a quarter
    ((90, 160), (180, 320)),  # doubled: weights of a quarter
    ((2, 2), (3, 3)),  # a half between two clamped places
    ((101, 203), (91, 157)),
    ((101, 203), (157, 401)),
    ((90, 3000), (45, 160)),  # columns are left out first
    ((90, 3001), (45, 160)),
    ((4000, 30), (7, 50)),
    ((1, 1), (64, 96)),
    ((1, 400), (64, 3)),
    ((333, 1), (64, 1)),
    ((64, 96), (1, 1)),
    ((64, 96), (64, 96)),
]


@pytest.mark.parametrize("kind", ["noise", "extremes"])
@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("at_once", [1, 4096, 2**17])
def test_to_the_last_bit(
    source: tuple[int, int],
    target: tuple[int, int],
    kind: str,
    at_once: int,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resize, "VALUES_AT_ONCE", at_once)
    monkeypatch.setattr(opencv, "SERIAL", 4 * at_once + 2 * target[1])
    image = picture(*source, kind)
    before = image.copy()
    found = resize_bilinear(image, target)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, formula(image, target))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("target", [(45, 80), (30, 40), (47, 83), (90, 160)])
def test_pictures_that_lie_in_memory_in_other_ways(target: tuple[int, int], engine: str) -> None:
    whole = picture(90, 160)
    for image in (
        np.asfortranarray(whole),
        whole[::-1, ::-1],
        whole[..., ::-1],
        np.broadcast_to(whole[:1], whole.shape),
        picture(180, 320)[::2, 1::2],
        picture(160, 90).transpose(1, 0, 2),
    ):
        fixed = image.view()
        fixed.flags.writeable = False
        assert np.array_equal(resize_bilinear(fixed, target), formula(image, target))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels(channels: int, engine: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 60, channels), np.uint8)
    for target in ((20, 30), (23, 31)):
        assert np.array_equal(resize_bilinear(values, target), formula(values, target))


# --- OpenCV ------------------------------------------------------------------------------------


def test_opencv_is_asked_where_it_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """For whole parts with halves, and nowhere else: there it is off."""
    for source, target in SIZES:
        down, across = source[0] // target[0], source[1] // target[1]
        whole = source == (down * target[0], across * target[1])
        asked = whole and (down % 2 == 0 or across % 2 == 0)
        assert opencv.resizes(picture(*source), target) is asked, (source, target)
    image = picture(101, 203)
    other = cv2.resize(image, (157, 91), interpolation=cv2.INTER_LINEAR)
    assert (other != formula(image, (91, 157))).any()  # else it could be asked more often


def fake(change: int) -> SimpleNamespace:
    """An OpenCV whose results are another by ``change``, where they are no extremes."""

    def off(image: Image8, size: tuple[int, int], interpolation: int) -> Image8:
        found = cv2.resize(image, size, interpolation=interpolation)
        between = (found > 100) & (found < 110)
        return np.asarray(np.where(between, found + change, found), np.uint8)

    return SimpleNamespace(resize=off, INTER_LINEAR=cv2.INTER_LINEAR)


def test_an_opencv_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    opencv._module.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", fake(0))
    assert opencv.resizes(picture(180, 320), (90, 160))
    for module in (fake(1), SimpleNamespace(), None):  # None: as if it were not installed
        opencv._module.cache_clear()
        monkeypatch.setitem(sys.modules, "cv2", module)
        image = picture(180, 320)
        assert not opencv.resizes(image, (90, 160))
        assert np.array_equal(resize_bilinear(image, (90, 160)), formula(image, (90, 160)))
    opencv._module.cache_clear()


SCRIPT = """
import os, sys
import numpy as np
from anydepth_deploy.pictures import opencv
from anydepth_deploy.pictures.resize import resize_bilinear

image = np.zeros((2160, 3840, 3), np.uint8)
for index in range(opencv.WORTH_IT):
    resize_bilinear(image[:4, :4], (2, 2))
assert "cv2" not in sys.modules  # a few pictures do not pay for it
resize_bilinear(image[:4, :4], (2, 2))
assert opencv._module() is not None
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
for size in ((360, 640), (1080, 1920), (2160, 1920)):
    resize_bilinear(image, size)
print(threads() - before)
import cv2
cv2.setNumThreads(4)
cv2.resize(image, (1921, 1081))
print(threads() - before > 0, cv2.getNumThreads())
"""


def test_opencv_takes_no_threads_of_its_own_and_is_imported_where_it_pays() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120
    )
    # The last line shows that its threads would have been seen.
    assert run.stdout.split() == ["0", "True", "4"]


# --- the rest of the way to an input -----------------------------------------------------------


def old_formula(image: Image8, recipe: Preprocess) -> NDArray[np.float32]:
    top, left, rows, columns = recipe.placed(*image.shape[:2])
    canvas = np.full((*recipe.size, 3), recipe.padding, np.uint8)
    by = resize_averaging if recipe.antialias else formula
    canvas[top : top + rows, left : left + columns] = by(image, (rows, columns))
    array = canvas.astype(np.float32) * np.float32(recipe.scale)
    if any(recipe.mean) or any(value != 1.0 for value in recipe.std):
        array = (array - np.asarray(recipe.mean, np.float32)) / np.asarray(recipe.std, np.float32)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


RECIPES: list[dict[str, Any]] = [
    {},
    {"antialias": False},
    {"resize": "letterbox"},
    {"resize": "letterbox", "antialias": False, "padding": 255, "scale": 1.0},
    {"resize": "letterbox", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    {"resize": "letterbox", "mean": (0.0, 0.1, 0.0), "padding": 7},
    {"std": (1.0, 1.0, 3.0), "scale": 0.017},
]


@pytest.mark.parametrize("at_once", [1, 700, 2**17])
@pytest.mark.parametrize("changes", RECIPES)
def test_inputs_to_the_last_bit(
    changes: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "VALUES_AT_ONCE", at_once)
    recipe = Preprocess(size=(48, 64), **changes)
    pictures = [
        picture(*size) for size in ((48, 64), (96, 128), (90, 50), (20, 333), (1, 1), (500, 2))
    ]
    pictures.append(picture(64, 48).transpose(1, 0, 2))
    together, ways = prepare_batch(pictures, recipe)
    assert together.flags.c_contiguous
    for image, of_batch, way in zip(pictures, together, ways, strict=True):
        alone, geometry = prepare(image, recipe)
        expected = old_formula(image, recipe)
        assert alone.dtype == np.float32
        assert alone.flags.c_contiguous
        assert alone.tobytes() == of_batch.tobytes() == expected.tobytes()
        assert geometry == way

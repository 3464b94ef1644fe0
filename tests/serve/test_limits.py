"""What one request may bring; needs no server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.errors import InputError
from anydepth_deploy.pictures.images import Preprocess, prepare_batch
from anydepth_deploy.serve import limits
from anydepth_deploy.serve.limits import (
    LimitError,
    check_images,
    check_pictures,
    check_resizing,
    check_text,
)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ([9, 1, 1, 3], "9 pictures in one request are more than the 8 that"),
        ([12000, 1, 1, 3], "12000 pictures in one request are more than the 8 that"),
        ([2**40, 0, 0, 3], "1099511627776 pictures in one request are more than the 8 that"),
        ([1, 101, 10, 3], "1 x 101 x 10 = 1010 pixels in one request are more than the 1000 that"),
        ([8, 1, 126, 3], "8 x 1 x 126 = 1008 pixels in one request are more than the 1000 that"),
        # As NumPy multiplies them, these sides give 0.
        ([1, 2**32, 2**32, 3], "= 18446744073709551616 pixels in one request are more than"),
    ],
)
def test_more_than_a_request_may_bring(shape: list[int], told: str) -> None:
    with pytest.raises(LimitError) as refused:
        check_pictures(shape, 8, 1000)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, InputError)


@pytest.mark.parametrize(
    "shape", [[8, 1, 1, 3], [8, 5, 25, 3], [1, 1000, 1, 3], [0, 9, 9, 3], [8, 0, 5000, 3]]
)
def test_what_is_within_the_limits_or_refused_elsewhere(shape: list[int]) -> None:
    check_pictures(shape, 8, 1000)


@given(
    shape=st.tuples(*[st.integers(0, 1 << 62)] * 3) | st.tuples(*[st.integers(0, 40)] * 3),
    most=st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 62)),
)
@examples(100)
def test_what_passes_is_bounded(shape: Sequence[int], most: tuple[int, int]) -> None:
    count, height, width = shape
    fits = count <= most[0] and count * height * width <= most[1]
    try:
        check_pictures([*shape, 3], *most)
    except LimitError:
        assert not fits
    else:
        assert fits


def test_images_and_texts() -> None:
    check_images(8, 8)
    with pytest.raises(LimitError, match="9 images in one request are more than the 8"):
        check_images(9, 8)
    check_text("parameters", "x" * limits.MAX_TEXT)
    with pytest.raises(LimitError, match="input 'depth': 4097 characters are more than the 4096"):
        check_text("input 'depth'", b"x" * (limits.MAX_TEXT + 1))


SIZE = (640, 640)
KINDS: tuple[Literal["stretch", "letterbox"], ...] = ("stretch", "letterbox")


def resizing(kind: Literal["stretch", "letterbox"], height: int, width: int) -> None:
    taken = Preprocess.of(kind, SIZE).resizing_pixels(height, width)
    check_resizing(height, width, taken, SIZE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (640, 640), (9000, 9900), (200_000, 320), (7680, 2), (1, 1_200_000), (600, 140_000)],
)
def test_pictures_that_people_send_are_resized(
    kind: Literal["stretch", "letterbox"], height: int, width: int
) -> None:
    resizing(kind, height, width)


@pytest.mark.parametrize(
    ("height", "width", "taken", "most"),
    [
        (139_810, 2, 89_478_400, 4_915_200),
        (7681, 100, 4_915_840, 4_915_200),
        (20_000, 300, 12_800_000, 12_000_000),
        (1, 1_300_000, 5_200_000, 4_915_200),
        (1_300_000, 1, 5_200_000, 4_915_200),
    ],
)
def test_a_small_request_cannot_grow_much(height: int, width: int, taken: int, most: int) -> None:
    """With the pixels that are taken unless told otherwise, all of these are few."""
    check_pictures([1, height, width, 3], 8, limits.MAX_PIXELS)
    with pytest.raises(LimitError) as refused:
        resizing("stretch", height, width)
    assert str(refused.value) == (
        f"a picture of {width} x {height} pixels takes {taken} while it is resized, more than the "
        f"{most} that are taken here for one of this size: send parts of it, or a picture that is "
        "less narrow"
    )
    resizing("letterbox", height, width)  # which looks at no more rows than it needs


@pytest.mark.parametrize("kind", KINDS)
def test_one_pixel_may_come_and_is_resized(kind: Literal["stretch", "letterbox"]) -> None:
    """Which takes more than one on the way."""
    check_pictures([1, 1, 1, 3], 1, 1)
    budget = limits.preparing_pixels(1, SIZE)
    images, _ = prepare_batch(
        [np.zeros((1, 1, 3), np.uint8)], Preprocess.of(kind, SIZE), max_pixels=budget
    )
    assert images.shape == (1, 3, *SIZE)


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from anydepth_deploy.pictures.images import Preprocess, prepare_batch

def memory(name):
    return int(re.search(name + ":\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]) * 1024

kind, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
prepare_batch([np.zeros((8, 9, 3), np.uint8)], Preprocess.of(kind, (32, 32)))
image, before = np.ones((height, width, 3), np.uint8), memory("VmRSS")
prepare_batch([image], Preprocess.of(kind, (640, 640)))
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(7680, 100), (30_000, 320), (1300, 1300)])
def test_what_resizing_takes_is_in_the_formula(kind: str, height: int, width: int) -> None:
    words = [sys.executable, "-c", MEASURE, kind, str(height), str(width)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    image = 12 * 640 * 640
    two, one = (
        limits.request_memory(SIZE, 1, pixels=height * width, workers=workers) for workers in (2, 1)
    )
    assert int(done.stdout) < two - one + 2**22
    assert two - one == 11 * image + 12 * height * width


@pytest.mark.parametrize(
    ("max_batch", "instances", "under_way", "waiting"),
    [(1, 1, 32, 64), (16, 1, 32, 64), (17, 1, 34, 64), (64, 1, 128, 128), (8, 4, 64, 64)],
)
def test_places_grow_with_the_largest_request(
    max_batch: int, instances: int, under_way: int, waiting: int
) -> None:
    assert limits.in_flight(max_batch, instances) == under_way
    assert limits.waiting(max_batch) == waiting
    own = 4 * max_batch + max_batch + 7 + 2 * (2 * under_way + waiting) + under_way
    given = {"pixels": 5, "workers": 1, "instances": instances}
    assert limits.request_memory((1, 1), max_batch, **given) == 12 * own + 12 * 5
    fewer = limits.request_memory((1, 1), max_batch, waiting - 1, **given)
    assert fewer == 12 * (own - 2) + 12 * 5

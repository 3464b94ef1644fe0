"""What one request may bring; needs no server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.errors import InputError
from anydepth_deploy.serve import limits
from anydepth_deploy.serve.limits import LimitError, check_images, check_pictures, check_text


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

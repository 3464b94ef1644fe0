"""Pictures that are equal or of one colour, told from those that show something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.variety import FLAT, Looks, Variety


def variety(*images: np.ndarray) -> Variety:
    looks = Looks()
    for image in images:
        looks.add(image)
    return looks.variety


def filled(*colour: int, size: tuple[int, int] = (6, 9)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def test_a_picture_of_one_colour_shows_nothing() -> None:
    """Whatever the colour, and with the noise of a camera or of JPEG."""
    noise = np.random.default_rng(0).integers(0, FLAT + 1, (6, 9, 3), np.uint8)
    images = [
        filled(0, 0, 0),
        filled(255, 255, 255),
        filled(200, 10, 90),
        filled(9, 90, 200) + noise,
    ]
    assert variety(*images) == Variety(count=4, flat=4, repeated=0, telling=0)
    one = filled(100, 100, 100)
    one[2, 3, 1] += FLAT + 1
    assert variety(one) == Variety(count=1, flat=0, repeated=0, telling=1)


def test_pictures_of_equal_pixels_are_one() -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert variety(picture, picture.copy(), picture) == Variety(3, 0, 2, 1)
    # The same bytes in another shape, and a view of them from the other side, are other pictures.
    assert variety(picture, picture.reshape(6, 4, 3), picture[::-1]) == Variety(3, 0, 0, 3)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
@examples(50)
def test_counts_are_those_of_the_pictures_drawn(drawn: list[int]) -> None:
    """Of ten pictures, four of which are of one colour; counted by hand."""
    rng = np.random.default_rng(1)
    known = [filled(index, index, 3) for index in range(4)]
    known += [rng.integers(0, 256, (5, 7, 3), np.uint8) for _ in range(6)]
    different = set(drawn)
    assert variety(*(known[index] for index in drawn)) == Variety(
        count=len(drawn),
        flat=sum(index < 4 for index in drawn),
        repeated=len(drawn) - len(different),
        telling=sum(index >= 4 for index in different),
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm"])
def test_what_counts_is_what_is_decoded(tmp_path: Path, suffix: str) -> None:
    """Not the file: the same pixels in another format are the same picture."""
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (8, 5, 3), np.uint8))
    picture.save(tmp_path / "one.png", compress_level=0)
    picture.save(tmp_path / f"two.{suffix}")
    Image.fromarray(filled(0, 0, 0)).save(tmp_path / "zero.png")
    assert choose_pictures(tmp_path, 9).variety == Variety(3, 1, 1, 1)

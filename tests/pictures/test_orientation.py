"""One rule for every reader: pictures are turned as viewers turn them, or left as stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from marked_pictures import EDGES, save_marked, shown
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.bench.workloads.pictures import load_batches
from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare, read_header
from anydepth_deploy.pictures.samples import verification_batches

KINDS: dict[str, dict[str, Any]] = {
    "png": {},
    "webp": {},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
    "jpg": {"quality": 95, "subsampling": 0},
}


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def check(path: Path, stored: NDArray[np.uint8], orientation: int | None) -> None:
    """Read in every way, pixels and headers."""
    if path.suffix == ".jpg":  # which changes pixels; without a mark nobody turns them
        with Image.open(
            save_marked(path.with_suffix(".plain.jpg"), stored, None, **KINDS["jpg"])
        ) as p:
            stored = np.asarray(p)
    upright = shown(stored, orientation or 1)
    assert np.array_equal(load_image(path), upright)
    assert np.array_equal(load_image(path, upright=True), upright)
    assert np.array_equal(load_image(path, upright=False), stored)
    header = read_header(path)
    assert header.orientation == (orientation or 1)
    assert header.stored == stored.shape[:2]
    assert header.upright == upright.shape[:2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [None, *EDGES])
def test_every_orientation_of_every_kind(
    tmp_path: Path, kind: str, orientation: int | None
) -> None:
    stored = noise(5, 8)
    path = save_marked(tmp_path / f"x.{kind}", stored, orientation, **KINDS[kind])
    check(path, stored, orientation)


@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.sampled_from([None, *EDGES]),
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 99),
)
@examples(60)
def test_random_orientations_of_random_sizes(
    tmp_path: Path, height: int, width: int, orientation: int | None, kind: str, seed: int
) -> None:
    stored = noise(height, width, seed)
    path = save_marked(tmp_path / f"x.{kind}", stored, orientation, **KINDS[kind])
    check(path, stored, orientation)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_is_none(tmp_path: Path, value: int) -> None:
    path = save_marked(tmp_path / "x.png", noise(4, 6), value)
    assert np.array_equal(load_image(path), noise(4, 6))
    assert read_header(path).orientation == 1


def chunks(content: bytes) -> list[bytes]:
    """The chunks of a PNG, whole."""
    found, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big") + 12
        found.append(content[at : at + length])
        at += length
    return found


def test_a_png_may_say_it_after_its_pixels(tmp_path: Path) -> None:
    stored = noise(4, 6)
    path = save_marked(tmp_path / "x.png", stored, 6)
    content = path.read_bytes()
    *others, end = [chunk for chunk in chunks(content) if chunk[4:8] != b"eXIf"]
    (late,) = [chunk for chunk in chunks(content) if chunk[4:8] == b"eXIf"]
    path.write_bytes(content[:8] + b"".join([*others, late, end]))
    check(path, stored, 6)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_headers_are_read_without_the_pixels(tmp_path: Path, kind: str) -> None:
    path = save_marked(tmp_path / f"x.{kind}", noise(64, 96), 8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(ImageError):
        load_image(path)
    if kind != "webp":  # whose reader wants the whole file
        assert read_header(path).upright == (96, 64)


def test_headers_of_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_header(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("x")
    with pytest.raises(ImageError, match=r"text\.png is not a picture"):
        read_header(tmp_path / "text.png")


@pytest.mark.parametrize("orientation", EDGES)
def test_verify_and_bench_read_as_predict_does(tmp_path: Path, orientation: int) -> None:
    recipe = Preprocess(size=(24, 32))
    stored = noise(20, 28)
    path = save_marked(tmp_path / "x.png", stored, orientation)
    for words, picture in (
        ({}, shown(stored, orientation)),
        ({"orientation": "upright"}, shown(stored, orientation)),
        ({"orientation": "stored"}, stored),
    ):
        expected, _ = prepare(picture, recipe)
        one, three = verification_batches(recipe, path, **words)  # type: ignore[arg-type]
        (batch,) = load_batches(recipe, 1, source=path, count=1, **words).prepared  # type: ignore[arg-type]
        for found in (one[0], three[0], three[1], batch[0]):
            assert np.array_equal(found, expected)

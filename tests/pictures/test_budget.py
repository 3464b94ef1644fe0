"""The budget of pixels: what is refused, in which words, and what is resized within it."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odd_pictures import png_bytes, png_chunk
from PIL import Image

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.budget import MAX_PIXELS, averaging_pixels, sampling_pixels
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.formats import FORMATS, SUFFIXES
from anydepth_deploy.pictures.images import (
    Preprocess,
    load_image,
    prepare,
    prepare_batch,
    read_header,
)
from anydepth_deploy.pictures.resize import resize_averaging, resize_bilinear
from anydepth_deploy.pictures.samples import verification_batches

Pixels = NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, image: Pixels, **how: Any) -> Path:
    Image.fromarray(image).save(path, **how)
    return path


def claims(height: int, width: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    rest = png_bytes(packed=png_chunk(b"IDAT", zlib.compress(b"")))
    header = height.to_bytes(4, "big"), width.to_bytes(4, "big")
    return rest[:8] + png_chunk(b"IHDR", b"".join((header[1], header[0], rest[24:29]))) + rest[33:]


def refusal(call: Callable[..., object], *words: Any, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        call(*words, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".jpe", ".jfif", ".tiff"}))
def test_a_picture_is_judged_by_its_header(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", noise(6, 9))
    said = (
        f"picture {path} of 9 x 6 pixels is over the budget of 53 pixels: make it smaller, or "
        "raise --max-pixels (max_pixels)"
    )
    assert refusal(lambda: load_image(path, max_pixels=53)) == said
    assert refusal(lambda: read_header(path, max_pixels=53)) == said
    assert load_image(path, max_pixels=54).shape == (6, 9, 3)
    assert read_header(path, max_pixels=54).stored == (6, 9)


def test_nothing_is_made_of_what_a_header_claims(tmp_path: Path) -> None:
    """Also where Pillow would refuse it by itself, in other words."""
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS == 89_478_485
    for height, width in ((65535, 65535), (1, 2**32 - 1), (9460, 9459)):
        path = tmp_path / "bomb.png"
        path.write_bytes(claims(height, width))
        said = f"picture {path} of {width} x {height} pixels is over the budget of {MAX_PIXELS} "
        assert refusal(load_image, path).startswith(said)
    path.write_bytes(claims(9459, 9459))
    assert read_header(path).stored == (9459, 9459)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".ppm", ".tif"])
def test_pillows_limit_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    image = np.full((60, 70, 3), 99, np.uint8)
    path = save(tmp_path / f"a{suffix}", image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert refusal(lambda: load_image(path, max_pixels=4199)).endswith("(max_pixels)")
    assert read_header(path, max_pixels=4200).stored == (60, 70)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2100)  # from where Pillow only warns
    assert np.array_equal(load_image(path, max_pixels=4200), image)
    assert Image.MAX_IMAGE_PIXELS == 2100


RECIPES = {
    "averaging": Preprocess.of("stretch", (16, 24)),
    "sampling": Preprocess.of("letterbox", (16, 24)),
    "boxed": Preprocess(size=(16, 24), resize="letterbox"),
}


def test_what_resizing_takes_is_refused_by_the_pictures_name(tmp_path: Path) -> None:
    recipe = RECIPES["averaging"]
    path = save(tmp_path / "tall.png", noise(300, 2))
    said = (
        " of 2 x 300 pixels takes 7200 while it is resized, over the budget of 7199 pixels: "
        "make it smaller, or raise --max-pixels (max_pixels)"
    )
    image = load_image(path, max_pixels=7199)
    for call, name in (
        (lambda: load_image(path, max_pixels=7199, recipe=recipe), f"picture {path}"),
        (lambda: verification_batches(recipe, path, max_pixels=7199), f"picture {path}"),
        (lambda: prepare(image, recipe, max_pixels=7199), "a picture"),
        (lambda: prepare_batch([image], recipe, max_pixels=7199), "a picture"),
    ):
        assert refusal(call) == name + said
    load_image(path, max_pixels=7200, recipe=recipe)
    prepare(image, recipe, max_pixels=7200)
    assert "over the budget" in refusal(lambda: choose_pictures(path, 1, max_pixels=599))


def test_a_turned_picture_is_judged_as_it_is_used(tmp_path: Path) -> None:
    """What is stored wide becomes tall."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", noise(2, 300), exif=exif)
    recipe = RECIPES["averaging"]
    assert "of 2 x 300 pixels takes" in refusal(
        lambda: load_image(path, max_pixels=7199, recipe=recipe)
    )
    load_image(path, upright=False, max_pixels=7199, recipe=recipe)


@examples(300)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    name=st.sampled_from(sorted(RECIPES)),
)
def test_the_budget_says_what_resizing_takes(height: int, width: int, name: str) -> None:
    """By its description, step by step."""
    recipe = RECIPES[name]
    _, _, rows, columns = recipe.placed(height, width)
    if (rows, columns) == (height, width):
        expected = 0
    elif recipe.antialias:
        steps = [0]
        if width > 1 and columns != width:
            steps += [height * columns, 4 * width]
        if rows != height:
            steps += [4 * height]
        expected = max(steps)
    else:
        expected = min(height, 2 * rows) * columns
    taken = averaging_pixels if recipe.antialias else sampling_pixels
    assert taken((height, width), (rows, columns)) == expected
    image = np.zeros((height, width, 3), np.uint8)
    least = max(height * width, expected)
    prepare(image, recipe, max_pixels=least)
    refusal(lambda: prepare(image, recipe, max_pixels=least - 1))


# --- the same pixels as ever -----------------------------------------------------------------


def averaged(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Two whole passes by Pillow, along rows first."""
    wide = Image.fromarray(image).resize((size[1], image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(wide.resize((size[1], size[0]), Image.Resampling.BILINEAR))


SIDES = (1, 2, 3, 7, 30)


@pytest.mark.parametrize(("height", "width"), list(itertools.product(SIDES, SIDES)))
def test_averaging_in_a_cheaper_order_or_in_parts(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(height, width)
    for part in (1, 5 * width, 2**20):
        monkeypatch.setattr("anydepth_deploy.pictures.resize.ROWS_AT_ONCE", part)
        for size in itertools.product((1, 2, 5, 7, 41), (1, 3, 7, 30)):
            assert np.array_equal(resize_averaging(image, size), averaged(image, size)), size


@pytest.mark.parametrize("long", [999, 4096])
def test_one_pixel_wide_or_high(long: int) -> None:
    for image in (noise(long, 1), noise(1, long)):
        for size in ((16, 24), (1, 1), (long, 3), (3, long)):
            assert np.array_equal(resize_averaging(image, size), averaged(image, size))


def sampled(image: Pixels, size: tuple[int, int]) -> Pixels:
    """All rows first made wide, as it was once done; in whole numbers no order matters."""

    def places(old: int, new: int) -> tuple[Any, Any]:
        at = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
        return np.floor(at).astype(int), np.rint((at - np.floor(at)) * 2048).astype(np.int64)

    (rows, down), (columns, along) = (
        places(old, new) for old, new in zip(image.shape, size, strict=False)
    )
    whole = image.astype(np.int64)
    right = whole[:, np.minimum(columns + 1, image.shape[1] - 1)]
    wide = whole[:, columns] * (2048 - along)[:, None] + right * along[:, None]
    below = wide[np.minimum(rows + 1, image.shape[0] - 1)]
    tall = wide[rows] * (2048 - down)[:, None, None] + below * down[:, None, None]
    found: Pixels = ((tall + 2**21) >> 22).astype(np.uint8)
    return found


@examples(200)
@given(*[st.integers(1, 60)] * 4, st.integers(0, 99))
def test_sampling_only_looks_at_the_rows_it_needs(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    image = noise(height, width, seed)
    expected = sampled(image, (rows, columns))
    assert np.array_equal(resize_bilinear(image, (rows, columns)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK"])
def test_pictures_are_converted_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(noise(23, 9)).convert(mode).save(path, exif=exif)
    expected = {upright: load_image(path, upright=upright) for upright in (True, False)}
    monkeypatch.setattr("anydepth_deploy.pictures.orientation.ROWS_AT_ONCE", 30)
    for upright, image in expected.items():
        assert np.array_equal(load_image(path, upright=upright), image)
    with Image.open(path) as image:
        assert np.array_equal(expected[False], np.asarray(image.convert("RGB")))


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_that_is_named_is_read_by_any_name(tmp_path: Path, suffix: str) -> None:
    (form,) = (name for name, suffixes in FORMATS.items() if suffix in suffixes)
    assert Image.registered_extensions()[suffix] == form
    image = np.full((8, 8, 3), 77, np.uint8)
    for name in (f"a{suffix}", "a.png", "without"):
        Image.fromarray(image).save(tmp_path / name, form)
        assert np.abs(load_image(tmp_path / name).astype(int) - image).max() <= 2


@pytest.mark.parametrize("form", ["GIF", "TGA", "ICO", "PCX", "DDS", "SGI", "EPS", "PDF"])
def test_other_formats_are_refused_by_any_name(tmp_path: Path, form: str) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(file, form)
    for name in ("a.jpg", "a.png", "a"):
        path = tmp_path / name
        path.write_bytes(file.getvalue())
        said = f"picture {path} is not a picture of a kind that is read; expected one of .bmp, "
        assert refusal(load_image, path).startswith(said)


def test_no_picture_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As EPS would, in Pillow's hands: there, Ghostscript draws it."""
    mark, programs = tmp_path / "mark", tmp_path / "programs"
    programs.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {mark}\nexit 0\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "x.jpg"
    file = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(file, "EPS")
    path.write_bytes(file.getvalue())
    reading = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    subprocess.run([sys.executable, "-c", reading, path], capture_output=True, check=False)
    assert mark.exists(), "Pillow alone starts nothing: another picture is needed"
    mark.unlink()
    refusal(lambda: load_image(path))
    refusal(lambda: read_header(path))
    assert not mark.exists()


# --- memory ----------------------------------------------------------------------------------

MEASURE = """
import re, sys
from pathlib import Path
from PIL import Image
from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare

def peak():  # of this program; what getrusage tells begins with that of the one that started it
    return int(re.search("VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1])

small, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
recipe = Preprocess(size=(size, size))
prepare(load_image(small), recipe)
before = peak()
try:
    prepare(load_image(path, recipe=recipe), recipe)
except ImageError as error:
    print(error, file=sys.stderr)
print(peak() - before)
"""


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")


def memory(small: Path, path: Path, size: int = 64) -> tuple[int, str]:
    """Bytes that reading and preparing a picture takes beside a small one's, and what is said."""
    command = [sys.executable, "-c", MEASURE, str(small), str(path), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout) * 1024, done.stderr


def flat_png(height: int, width: int) -> bytes:
    """A large picture of a few bytes."""
    pressed, chunks = zlib.compressobj(1), []
    for _ in range(height):
        chunks.append(pressed.compress(bytes(1 + 3 * width)))
    whole = b"".join((*chunks, pressed.flush()))
    made = claims(height, width)
    return made[:33] + png_chunk(b"IDAT", whole) + png_chunk(b"IEND")


@LINUX
def test_what_a_picture_costs(tmp_path: Path) -> None:
    """Seven bytes a pixel: four that Pillow needs, and three of the array."""
    small = save(tmp_path / "small.png", noise(8, 8))
    path = tmp_path / "large.png"
    path.write_bytes(flat_png(3000, 4000))
    taken, said = memory(small, path)
    assert said == ""
    assert taken < 8 * 3000 * 4000 + 2**23


@LINUX
@pytest.mark.parametrize(
    ("height", "width", "limit", "refused"),
    [
        (3_000_000, 1, 140_000_000, False),
        (3_000_000, 2, 110_000_000, True),
        (65535, 65535, 10_000_000, True),
    ],
)
def test_tall_pictures_are_refused_or_done(
    tmp_path: Path, height: int, width: int, limit: int, refused: bool
) -> None:
    small = save(tmp_path / "small.png", noise(8, 8))
    path = tmp_path / "tall.png"
    rows = zlib.compress(bytes(height * (1 + 3 * width)) if width < 9 else b"", 1)
    made = claims(height, width)
    path.write_bytes(made[:33] + png_chunk(b"IDAT", rows) + png_chunk(b"IEND"))
    taken, said = memory(small, path)
    assert ("over the budget" in said) is refused
    assert taken < limit

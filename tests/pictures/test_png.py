"""PNG files, read back by Pillow and taken apart by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anydepth_deploy.pictures import png
from anydepth_deploy.pictures.drawings import write_drawing
from anydepth_deploy.pictures.shapes import render

MODES = ("L", "RGB", "RGBA")


def noise(height: int, width: int, mode: str) -> Image.Image:
    shape = (height, width, len(mode)) if mode != "L" else (height, width)
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (37, 41), (64, 64)])
@pytest.mark.parametrize("at_once", [1, 500, 2**20])
def test_pixels_come_back(
    mode: str, size: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "BYTES_AT_ONCE", at_once)
    for image in (noise(*size, mode), Image.new(mode, size[::-1])):
        file = io.BytesIO()
        png.save_png(image, file)
        with Image.open(file) as found:
            assert (found.format, found.mode, found.size) == ("PNG", mode, image.size)
            assert np.array_equal(np.asarray(found), np.asarray(image))


def test_every_chunk_is_as_the_standard_says() -> None:
    image = noise(700, 900, "RGB")  # more than one piece
    file = io.BytesIO()
    png.save_png(image, file)
    content = file.getvalue()
    assert content[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    names, data, at = [], b"", 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        end = at + 8 + length
        assert content[end : end + 4] == struct.pack(">I", zlib.crc32(name + body))
        names.append(name.decode())
        data += body if name == b"IDAT" else b""
        at = end + 4
    assert names[0] == "IHDR"
    assert names[-1] == "IEND"
    assert set(names[1:-1]) == {"IDAT"}
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(700, 1 + 900 * 3)
    assert (rows[:, 0] == 1).all()
    sums = np.add.accumulate(rows[:, 1:].reshape(700, 900, 3), axis=1, dtype=np.uint8)
    assert np.array_equal(sums, np.asarray(image))


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode CMYK: expected L, RGB, RGBA"):
        png.save_png(Image.new("CMYK", (3, 3)), io.BytesIO())


def test_a_drawing_is_no_larger_than_it_was(tmp_path: Path) -> None:
    picture = Image.fromarray(render(3, 7, "val", size=243).image)
    usual = io.BytesIO()
    picture.save(usual, "PNG")
    found = write_drawing(picture, tmp_path / "a.png", replace=False)
    assert found.stat().st_size < 1.3 * len(usual.getvalue())


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".webp", "WEBP"), (".bmp", "BMP")])
def test_the_suffix_says_what_is_written(suffix: str, kind: str, tmp_path: Path) -> None:
    """And where that loses something, it is less than what Pillow loses unless told otherwise."""
    picture = Image.fromarray(render(3, 7, "val", size=243).image)
    usual = io.BytesIO()
    picture.save(usual, kind)
    found = write_drawing(picture, tmp_path / f"a{suffix}", replace=False)
    lost = []
    for file in (found, usual):
        with Image.open(file) as drawing:
            assert drawing.format == kind
            lost.append(np.abs(np.asarray(drawing.convert("RGB"), int) - np.asarray(picture)).sum())
    assert lost[0] < lost[1] or lost == [0, 0]

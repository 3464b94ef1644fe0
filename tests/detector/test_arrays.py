"""Pictures in memory are what their files are: the same pixels, the same way up."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from listening import listening_detector
from marked_pictures import EDGES, save_marked, shown
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anydepth_deploy.detector.arrays import (
    array_pixels,
    is_tensor,
    pillow_pixels,
    tensor_pixels,
)
from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.images import decode_image, load_image


def noise(height: int, width: int, *channels: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)


def rgb(picture: NDArray[np.uint8], bgr: bool) -> NDArray[np.uint8]:
    """What a picture of 1, 3 or 4 channels, or none, looks like, pixel by pixel."""
    height, width = picture.shape[:2]
    found = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            values = np.atleast_1d(picture[row, column])
            if len(values) == 1:
                found[row, column] = values[0]
            elif bgr:
                found[row, column] = values[2], values[1], values[0]
            else:
                found[row, column] = values[0], values[1], values[2]
    return found


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([(), (1,), (3,), (4,)]),
    st.booleans(),
    st.integers(0, 99),
)
@examples(60)
def test_arrays_of_any_channels(
    height: int, width: int, channels: tuple[int, ...], bgr: bool, seed: int
) -> None:
    picture = noise(height, width, *channels, seed=seed)
    before = picture.copy()
    assert np.array_equal(array_pixels(picture, bgr=bgr), rgb(picture, bgr))
    assert np.array_equal(picture, before)
    # Views in any order of memory are the same pictures.
    turned = np.asfortranarray(picture[::-1, ::-1])
    assert np.array_equal(array_pixels(turned, bgr=bgr), rgb(before[::-1, ::-1], bgr))


def test_arrays_of_rgb_are_not_copied() -> None:
    picture = noise(5, 7, 3)
    assert np.shares_memory(array_pixels(picture), picture)
    assert np.shares_memory(array_pixels(picture, bgr=True), picture)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3, 4]),
    st.booleans(),
    st.sampled_from([torch.uint8, torch.float32, torch.float64]),
    st.integers(0, 99),
)
@examples(60)
def test_tensors_are_what_their_pictures_were(
    height: int, width: int, channels: int, bgr: bool, dtype: torch.dtype, seed: int
) -> None:
    picture = noise(height, width, channels, seed=seed)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    if dtype is not torch.uint8:
        tensor = tensor.to(dtype) / 255
    assert np.array_equal(tensor_pixels(tensor, bgr=bgr), rgb(picture, bgr))
    batch = torch.stack([tensor.flip(2), tensor])
    assert np.array_equal(tensor_pixels(batch, 1, bgr=bgr), rgb(picture, bgr))


def test_every_level_of_floats_is_the_byte_that_it_was() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    # 8 bits of precision are just enough below 1: half a step is 255/512 of a level.
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        tensor = (torch.from_numpy(levels).double() / 255).to(dtype)
        assert np.array_equal(tensor_pixels(tensor)[..., 0], levels[0])


def test_a_tensor_that_records_gradients() -> None:
    picture = noise(4, 6, 3)
    tensor = (torch.from_numpy(picture).permute(2, 0, 1) / 255).requires_grad_()
    assert np.array_equal(tensor_pixels(tensor), picture)


class OnlyDlpack:
    """A tensor of a library that speaks no NumPy."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: int) -> OnlyDlpack:
        return OnlyDlpack(self._array[index])

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_tensors_of_other_libraries() -> None:
    picture = noise(4, 6, 3)
    tensor = OnlyDlpack(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    assert is_tensor(tensor)
    assert np.array_equal(tensor_pixels(tensor), picture)
    batch = OnlyDlpack(np.ascontiguousarray(picture.transpose(2, 0, 1))[None])
    assert np.array_equal(tensor_pixels(batch, 0), picture)


class OnAGpu:
    """As torch has it: its memory cannot be read from here."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.copied = 0

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self) -> NDArray[Any]:
        self.copied += 1
        return self.array


def test_a_tensor_on_a_gpu_is_copied() -> None:
    picture = noise(4, 6, 3)
    tensor = OnAGpu(picture.transpose(2, 0, 1))
    assert np.array_equal(tensor_pixels(tensor), picture)
    assert tensor.copied == 1


REFUSED_ARRAYS: dict[str, tuple[Any, str]] = {
    "float32": (np.zeros((4, 6, 3), np.float32), r"cannot be float32 \[4, 6, 3\]: expected uint8"),
    "uint16": (np.zeros((4, 6, 3), np.uint16), "cannot be uint16"),
    "bool": (np.zeros((4, 6), bool), "cannot be bool"),
    "object": (np.array([None]), "cannot be object"),
    "empty": (np.zeros((0, 6, 3), np.uint8), r"cannot be uint8 \[0, 6, 3\]"),
    "line": (np.zeros(6, np.uint8), r"cannot be uint8 \[6\]"),
    "first": (np.zeros((3, 40, 60), np.uint8), r"looks like \[C, H, W\]: transpose\(1, 2, 0\)"),
    "several": (np.zeros((2, 4, 6, 3), np.uint8), "give several pictures as a list"),
    "channels": (np.zeros((4, 6, 2), np.uint8), r"cannot be uint8 \[4, 6, 2\]"),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_arrays_that_are_no_pictures(case: str) -> None:
    array, told = REFUSED_ARRAYS[case]
    with pytest.raises(ImageError, match=told) as caught:
        array_pixels(array)
    assert "\n" not in str(caught.value)


REFUSED_TENSORS: dict[str, tuple[Any, str]] = {
    "last": (torch.zeros(40, 60, 3), r"looks like \[H, W, C\]: permute\(2, 0, 1\)"),
    "int64": (torch.zeros(3, 4, 6, dtype=torch.int64), "cannot be int64"),
    "grey": (torch.zeros(4, 6), r"cannot be float32 \[4, 6\]"),
    "number": (torch.zeros(()), r"cannot be float32 \[\]"),
    "empty": (torch.zeros(3, 0, 6), r"cannot be float32 \[3, 0, 6\]"),
    "normalised": (torch.full((3, 4, 6), -2.0), "values from -2 to -2: expected 0..1"),
    "levels": (torch.full((3, 4, 6), 255.0), "values from 255 to 255: expected 0..1"),
    "nan": (torch.full((3, 4, 6), torch.nan), "values from nan to nan"),
    "infinite": (torch.full((3, 4, 6), torch.inf), "values from inf to inf"),
    "sparse": (torch.zeros(3, 4, 6).to_sparse(), "a Tensor cannot be read as an array"),
    "nowhere": (torch.zeros(3, 4, 6, device="meta"), "a Tensor cannot be read as an array"),
}


@pytest.mark.parametrize("case", REFUSED_TENSORS)
def test_tensors_that_are_no_pictures(case: str) -> None:
    tensor, told = REFUSED_TENSORS[case]
    with pytest.raises(ImageError, match=told) as caught:
        tensor_pixels(tensor)
    assert "\n" not in str(caught.value)


KINDS: dict[str, dict[str, Any]] = {"png": {}, "webp": {}, "tif": {}, "jpg": {"quality": 95}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [None, *EDGES])
def test_every_orientation(tmp_path: Path, kind: str, orientation: int | None) -> None:
    path = save_marked(tmp_path / f"x.{kind}", noise(5, 8, 3), orientation, **KINDS[kind])
    expected = load_image(path)
    if kind != "jpg":
        assert np.array_equal(expected, shown(noise(5, 8, 3), orientation or 1))
    content = io.BytesIO(path.read_bytes())
    assert np.array_equal(decode_image(content, "picture x"), expected)
    with Image.open(path) as image:  # not decoded yet
        assert np.array_equal(pillow_pixels(image), expected)
        assert np.array_equal(pillow_pixels(image), expected)  # nor turned
    with Image.open(path) as image:
        image.load()
        assert np.array_equal(pillow_pixels(image), expected)
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
    assert np.array_equal(pillow_pixels(turned), expected)
    if kind != "tif":  # of which Pillow forgets how it was stored
        with Image.open(path) as image:
            assert np.array_equal(
                pillow_pixels(image, upright=False), load_image(path, upright=False)
            )


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "ppm"])
def test_bytes_that_pillow_finds_too_large(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is of the whole process; ours is the budget: of bytes as of files."""
    path = tmp_path / "x"
    Image.fromarray(noise(20, 30, 3)).save(path, format=kind)
    content, expected = path.read_bytes(), load_image(path)
    with pytest.raises(ImageError, match="picture x of 30 x 20 pixels is over the budget of 599"):
        decode_image(io.BytesIO(content), "picture x", max_pixels=599)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    if kind in ("webp", "tiff"):  # whose decoders ask it again
        for source in (path, io.BytesIO(content)):
            with pytest.raises(ImageError, match="This limit is Pillow's own: raise PIL"):
                decode_image(source, "picture x")
    else:
        assert np.array_equal(decode_image(io.BytesIO(content), "picture x"), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "RGB", "YCbCr"])
def test_modes_of_pillow(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(9, 7, 3)).convert(mode)
    assert np.array_equal(pillow_pixels(image), np.asarray(image.convert("RGB")))
    assert image.mode == mode


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_modes_of_more_than_8_bits(mode: str) -> None:
    with pytest.raises(ImageError, match=r"a picture of Pillow has more than 8 bits a channel"):
        pillow_pixels(Image.new(mode, (4, 4)))


def test_pictures_of_pillow_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="of 8 x 5 pixels is over the budget of 39 pixels"):
        pillow_pixels(Image.new("RGB", (8, 5)), max_pixels=39)
    with pytest.raises(ImageError, match="has 0 x 5 pixels"):
        pillow_pixels(Image.new("RGB", (0, 5)))
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise(200, 200, 3)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with (
        Image.open(path) as image,
        pytest.raises(ImageError, match=r"of Pillow .* cannot be read: .*truncated"),
    ):
        pillow_pixels(image)
    closed = Image.open(path)
    closed.close()
    with pytest.raises(ImageError, match=r"of Pillow .* cannot be read"):
        pillow_pixels(closed)


@pytest.mark.parametrize("size", [(64, 64), (33, 90), (90, 33)])
def test_all_forms_of_one_picture_give_one_input(tmp_path: Path, size: tuple[int, int]) -> None:
    """Whatever a picture is given as, the network is given the same numbers."""
    picture = noise(*size, 3)
    path = tmp_path / "x.png"
    Image.fromarray(picture).save(path)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    opaque = np.concatenate([picture, noise(*size, 1, seed=1)], 2)
    detector, session = listening_detector(tmp_path)
    detector([path, str(path), Image.open(path), picture, opaque, tensor, tensor / 255])
    detector([tensor[None], (tensor / 255)[None], Image.fromarray(opaque)])
    detector([picture[..., ::-1], tensor.flip(0), opaque[..., [2, 1, 0, 3]]], bgr=True)
    detector([path, Image.fromarray(picture)], bgr=True)  # these say what their colours are
    assert len(session.inputs) == 15
    for found in session.inputs[1:]:
        assert np.array_equal(found, session.inputs[0])
    detector(picture, bgr=True)
    assert np.array_equal(session.inputs[-1], session.inputs[0][::-1])

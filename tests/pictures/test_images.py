"""Pictures in, network input out, boxes back to the picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.images import (
    SUFFIXES,
    Geometry,
    Preprocess,
    find_images,
    load_image,
    prepare,
    prepare_batch,
)
from anydepth_deploy.pictures.resize import resize_bilinear
from anydepth_deploy.pictures.samples import verification_batches


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """A different slope in each channel."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slopes: NDArray[np.float64] = np.stack([255 * x, 255 * y, 255 * (1 - x) * y], -1)
    return np.asarray(slopes.round(), np.uint8)


def triangle(source: int, target: int) -> NDArray[np.float64]:
    """Weights [target, source] of bilinear resizing, widened when it shrinks (antialias)."""
    scale = source / target
    width = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / width
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(1, keepdims=True))


# --- the network's input ---------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_only_scaled() -> None:
    image = picture(64, 96)
    array, geometry = prepare(image, Preprocess(size=(64, 96)))
    expected = image.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    assert array.dtype == np.float32
    assert array.shape == (3, 64, 96)
    assert array.flags.c_contiguous
    np.testing.assert_allclose(array, expected, rtol=1e-7)
    assert (array.min(), array.max()) == (0, 1)
    assert geometry == Geometry((1.0, 1.0), (0.0, 0.0), (64, 96))


@pytest.mark.parametrize(
    ("source", "target"),
    [((50, 70), (64, 96)), ((200, 333), (64, 96)), ((30, 400), (96, 64)), ((1, 1), (32, 32))],
)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_resizing(source: tuple[int, int], target: tuple[int, int], kind: str) -> None:
    image = picture(*source) if kind == "noise" else smooth(*source)
    array, _ = prepare(image, Preprocess(size=target))
    rows, columns = triangle(source[0], target[0]), triangle(source[1], target[1])
    expected = np.einsum("yh,hwc,xw->cyx", rows, image.astype(np.float64), columns, optimize=True)
    expected /= 255
    # Eight bits after each of two passes: half a step each.
    assert np.abs(array - expected).max() < 1.05 / 255
    floats = [
        np.asarray(
            Image.fromarray(image[..., channel].astype(np.float32)).resize(
                target[::-1], Image.Resampling.BILINEAR
            )
        )
        for channel in range(3)
    ]
    assert np.abs(array - np.stack(floats) / 255).max() < 1.05 / 255


def test_mean_and_deviation() -> None:
    image = picture(32, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    array, _ = prepare(image, Preprocess(size=(32, 32), mean=mean, std=std))
    expected = (image / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(array, expected.transpose(2, 0, 1), atol=1e-5)


def test_a_batch_of_pictures_of_any_size() -> None:
    recipe = Preprocess(size=(32, 64))
    images = [picture(32, 64), picture(100, 20, 1), picture(5, 5, 2)]
    batch, geometries = prepare_batch(images, recipe)
    assert batch.shape == (3, 3, 32, 64)
    for image, array, geometry in zip(images, batch, geometries, strict=True):
        alone, expected = prepare(image, recipe)
        assert np.array_equal(array, alone)
        assert geometry == expected


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_picture(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match=r"a picture must be uint8 \[H, W, 3\] in RGB") as caught:
        prepare(image, Preprocess(size=(32, 32)))
    assert str(image.dtype) in str(caught.value)
    assert str(list(image.shape)) in str(caught.value)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (None, r"NoneType \[\]"),
        ([[0, 0, 0]], r"list \[\]"),
        ("picture.png", r"str \[\]"),
        (Image.new("RGB", (8, 8)), r"Image \[\]"),
    ],
)
def test_what_is_no_array(image: Any, found: str) -> None:
    with pytest.raises(ImageError, match=rf"must be uint8 \[H, W, 3\] in RGB; found {found}"):
        prepare(image, Preprocess(size=(32, 32)))


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 8, 8, 3), np.uint8)])
def test_a_batch_of_none(nothing: Any) -> None:
    with pytest.raises(ImageError, match="give at least one"):
        prepare_batch(nothing, Preprocess(size=(32, 32)))


# --- boxes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(480, 640), (33, 1000), (64, 64)])
def test_boxes_come_back_to_the_picture(size: tuple[int, int]) -> None:
    height, width = size
    _, geometry = prepare(picture(height, width), Preprocess(size=(160, 96)))
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((5, 7, 2, 2)), axis=-2) * [width, height]
    expected = corners.reshape(5, 7, 4).astype(np.float32)
    shrunk = expected * np.array([96 / width, 160 / height] * 2, np.float32)
    found = geometry.to_picture(shrunk)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_boxes_are_cut_at_the_edge_of_the_picture() -> None:
    _, geometry = prepare(picture(200, 100), Preprocess(size=(50, 50)))
    boxes = np.array([[-5, -5, 60, 60], [10, 20, 30, 40]], np.float32)
    assert geometry.to_picture(boxes).tolist() == [[0, 0, 100, 200], [20, 80, 60, 160]]
    assert boxes[0, 0] == -5
    assert geometry.to_picture(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_an_object_is_where_its_box_is() -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    image[30:60, 80:100] = 255
    array, geometry = prepare(image, Preprocess(size=(60, 60)))
    y, x = np.nonzero(array[0] > 0.5)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    np.testing.assert_allclose(geometry.to_picture(box), [[80, 30, 100, 60]], atol=1.6)


# --- resizing as OpenCV does it ----------------------------------------------------------------


def sampled(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear sampling by torch in double precision, not rounded."""
    tensor = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(
        tensor, size=size, mode="bilinear", align_corners=False, antialias=False
    )
    return np.asarray(found[0].permute(1, 2, 0).numpy())


SIZES = [
    ((50, 70), (64, 96)),
    ((200, 333), (64, 96)),
    ((333, 200), (640, 384)),
    ((1, 1), (5, 7)),
    ((1, 400), (1, 64)),
    ((300, 2), (64, 1)),
    ((64, 96), (128, 48)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_sampling_equals_torchs(
    source: tuple[int, int], target: tuple[int, int], kind: str
) -> None:
    image = picture(*source) if kind == "noise" else smooth(*source)
    found = resize_bilinear(image, target)
    assert found.dtype == np.uint8
    assert found.shape == (*target, 3)
    expected = sampled(image, target)
    # Two weights rounded to 1/2048, each times up to 255 levels, and one rounding at the end.
    assert np.abs(found - expected).max() <= 0.5 + 2 * 255 / 4096
    assert np.abs(found.astype(int) - np.rint(expected)).max() <= 1


def by_fractions(image: NDArray[np.uint8], size: tuple[int, int]) -> list[list[list[int]]]:
    """Pixel by pixel, in whole numbers, from the sentence that describes it."""

    def places(old: int, new: int) -> list[tuple[int, int, int]]:
        found = []
        for i in range(new):
            at = Fraction(2 * i + 1, 2) * Fraction(old, new) - Fraction(1, 2)
            at = min(max(at, Fraction(0)), Fraction(old - 1))
            first = at.numerator // at.denominator
            found.append((first, min(first + 1, old - 1), round((at - first) * 2048)))
        return found

    rows, columns = places(image.shape[0], size[0]), places(image.shape[1], size[1])
    pixels = image.astype(object)
    return [
        [
            [
                (
                    (pixels[y, x, c] * (2048 - b) + pixels[y, x2, c] * b) * (2048 - a)
                    + (pixels[y2, x, c] * (2048 - b) + pixels[y2, x2, c] * b) * a
                    + 2**21
                )
                >> 22
                for c in range(image.shape[2])
            ]
            for x, x2, b in columns
        ]
        for y, y2, a in rows
    ]


SIDE = st.integers(1, 9)


@examples(120)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 99), st.booleans())
def test_sampling_to_the_last_bit(
    height: int, width: int, rows: int, columns: int, seed: int, extreme: bool
) -> None:
    image = picture(height, width, seed)
    if extreme:  # only black and white: the largest sums
        image = np.where(image > 127, np.uint8(255), np.uint8(0))
    assert resize_bilinear(image, (rows, columns)).tolist() == by_fractions(image, (rows, columns))


def test_sampling_to_the_same_size_changes_nothing() -> None:
    for size in ((1, 1), (7, 5), (64, 96)):
        image = picture(*size)
        assert np.array_equal(resize_bilinear(image, size), image)


def test_sampling_halves_and_doubles() -> None:
    """Halving is the mean of four, doubling has the weights 1/4 and 3/4."""
    row = np.array([[[0], [100], [200], [40]]], np.uint8)
    assert resize_bilinear(row, (1, 2)).ravel().tolist() == [50, 120]
    assert resize_bilinear(row, (1, 8)).ravel().tolist() == [0, 25, 75, 125, 175, 160, 80, 40]
    # Where a picture shrinks to a quarter, two of four pixels are never looked at.
    assert resize_bilinear(row, (1, 1)).ravel().tolist() == [150]


# --- letterbox -------------------------------------------------------------------------------


def letterbox(height: int, width: int, **changes: Any) -> Preprocess:
    return Preprocess.of("letterbox", (height, width)).model_copy(update=changes)


# Picture, input, and where in the input the picture lies: top, left, height, width.
BOXED = [
    ((480, 640), (640, 640), (80, 0, 480, 640)),  # wide; not resized
    ((960, 640), (640, 640), (0, 106, 640, 427)),  # tall; the odd column of grey is on the right
    ((100, 300), (64, 96), (16, 0, 32, 96)),
    ((64, 96), (64, 96), (0, 0, 64, 96)),  # exact
    ((128, 192), (64, 96), (0, 0, 64, 96)),  # of the same shape
    ((1, 40), (64, 96), (31, 0, 2, 96)),
    ((1, 1000), (64, 96), (31, 0, 1, 96)),  # the scaled height would be 0.1
    ((500, 1), (64, 96), (0, 47, 64, 1)),
    ((1, 1), (64, 96), (0, 16, 64, 64)),
    ((30, 40), (96, 64), (24, 0, 48, 64)),
]


@pytest.mark.parametrize(("source", "target", "place"), BOXED)
def test_where_a_letterboxed_picture_lies(
    source: tuple[int, int], target: tuple[int, int], place: tuple[int, int, int, int]
) -> None:
    image = picture(*source)
    recipe = letterbox(*target)
    assert not recipe.antialias
    array, geometry = prepare(image, recipe)
    assert array.dtype == np.float32
    assert array.shape == (3, *target)
    assert array.flags.c_contiguous
    top, left, rows, columns = place
    expected = np.full((*target, 3), 114, np.uint8)
    inside = (slice(top, top + rows), slice(left, left + columns))
    expected[inside] = resize_bilinear(image, (rows, columns))
    found = np.rint(array.transpose(1, 2, 0) * 255)
    assert np.array_equal(found, expected)
    np.testing.assert_allclose(array.transpose(1, 2, 0), expected / 255, atol=1e-7)
    outside = np.ones(target, bool)
    outside[inside] = False
    assert (array[:, outside] == np.float32(114) * np.float32(1 / 255)).all()
    # The shape is kept, the picture is as large as it can be and lies in the middle.
    assert geometry == Geometry((source[1] / columns, source[0] / rows), (left, top), source)
    assert rows == target[0] or columns == target[1]
    assert 0 <= target[0] - rows - 2 * top <= 1
    assert 0 <= target[1] - columns - 2 * left <= 1


@pytest.mark.parametrize(("source", "target", "place"), BOXED)
def test_boxes_go_into_a_letterbox_and_come_back(
    source: tuple[int, int], target: tuple[int, int], place: tuple[int, int, int, int]
) -> None:
    height, width = source
    top, left, rows, columns = place
    _, geometry = prepare(picture(height, width), letterbox(*target))
    rng = np.random.default_rng(1)
    corners = np.sort(rng.random((9, 2, 2)), axis=-2) * [width, height]
    boxes = corners.reshape(9, 4)
    boxes[0] = [0, 0, width, height]
    inside = boxes * ([columns / width, rows / height] * 2) + [left, top] * 2
    assert inside[0].tolist() == [left, top, left + columns, top + rows]
    found = geometry.to_picture(inside.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, boxes, rtol=1e-5, atol=2e-4 * max(1, width / columns))
    # What lies in the grey is cut at the edge of the picture.
    everything = np.array([[0, 0, target[1], target[0]]], np.float32)
    assert geometry.to_picture(everything).tolist() == [[0, 0, width, height]]


def test_an_object_in_a_letterbox_is_where_its_box_is() -> None:
    image = np.zeros((90, 180, 3), np.uint8)
    image[30:60, 120:160] = 255
    array, geometry = prepare(image, letterbox(64, 64))
    y, x = np.nonzero(array[0] > 0.8)
    assert y.min() > 16
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    np.testing.assert_allclose(geometry.to_picture(box), [[120, 30, 160, 60]], atol=2.9)


def test_letterbox_with_another_grey_or_antialias() -> None:
    image = picture(100, 300)
    dark, _ = prepare(image, letterbox(64, 96, padding=0))
    light, _ = prepare(image, letterbox(64, 96, padding=255))
    assert not dark[:, :16].any()
    assert (light[:, :16] == 1).all()
    assert np.array_equal(dark[:, 16:48], light[:, 16:48])
    soft, geometry = prepare(image, letterbox(64, 96, antialias=True))
    pillow = Image.fromarray(image).resize((96, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(np.rint(soft[:, 16:48] * 255), np.asarray(pillow).transpose(2, 0, 1))
    assert geometry == prepare(image, letterbox(64, 96))[1]


def test_recipes_by_family() -> None:
    assert Preprocess.of("stretch", (64, 96)) == Preprocess(size=(64, 96))
    boxed = Preprocess.of("letterbox", (64, 96))
    assert (boxed.resize, boxed.antialias, boxed.padding) == ("letterbox", False, 114)
    again = Preprocess.model_validate_json(boxed.model_dump_json())
    assert again == boxed
    assert again.size == (64, 96)
    # A manifest of a version that knew one way of resizing still means it.
    old = Preprocess.model_validate({"size": [64, 96], "resize": "stretch"})
    assert old == Preprocess(size=(64, 96))
    assert old.antialias


@pytest.mark.parametrize(
    "changes",
    [{"padding": -1}, {"padding": 256}, {"padding": 1.5}, {"resize": "crop"}, {"fill": 3}],
)
def test_recipes_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preprocess.model_validate({"size": [64, 96], **changes})


# --- files -----------------------------------------------------------------------------------


def test_kinds_of_pictures(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]]], np.uint8)
    rgb = Image.fromarray(colours.repeat(8, 0).repeat(8, 1))
    gray = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    clear = rgb.convert("RGBA")
    clear.putalpha(gray)
    for name, image, expected in (
        ("rgb.png", rgb, np.asarray(rgb)),
        ("rgb.bmp", rgb, np.asarray(rgb)),
        ("gray.png", gray, np.asarray(gray)[..., None].repeat(3, 2)),
        ("alpha.png", clear, np.asarray(rgb)),
        ("palette.png", rgb.convert("P", palette=Image.Palette.ADAPTIVE), np.asarray(rgb)),
        ("cmyk.tif", rgb.convert("CMYK"), np.asarray(rgb)),
        ("bits.png", rgb.convert("1", dither=Image.Dither.NONE), None),
        ("cmyk.jpg", rgb.convert("CMYK"), None),
        ("alpha.webp", clear, None),
    ):
        image.save(tmp_path / name)
        found = load_image(tmp_path / name)
        assert (str(found.dtype), found.shape) == ("uint8", (16, 16, 3)), name
        if expected is not None:
            assert np.array_equal(found, expected), name


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_pictures_are_turned_unless_told_not_to(
    tmp_path: Path, orientation: int, turns: int
) -> None:
    image = Image.fromarray(picture(10, 20))
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    assert np.array_equal(load_image(path, upright=False), picture(10, 20))
    for found in (load_image(path), load_image(path, upright=True)):
        assert np.array_equal(found, np.rot90(picture(10, 20), turns))


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM"]
)
def test_files_that_are_no_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_truncated_pictures(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(picture(64, 64)).save(path)
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_damaged_pictures_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "tif"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(picture(16, 16)).save(path)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            try:
                found = load_image(path)
            except ImageError:
                continue
            assert found.shape[2] == 3


def test_more_than_eight_bits(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 4096, np.uint16)).save(path)
    assert "more than 8 bits a channel" in refused(path)
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "deep.tif")
    assert "convert it to 8 bits" in refused(tmp_path / "deep.tif")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing.png")
    assert "cannot be read" in refused(tmp_path)


def test_finding_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt", "no_suffix"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == [
        tmp_path / "a.JPG",
        tmp_path / "b.png",
        tmp_path / "sub" / "c.webp",
    ]
    assert find_images(tmp_path / "no_suffix") == [tmp_path / "no_suffix"]
    with pytest.raises(ImageError, match="neither a picture nor a folder"):
        find_images(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no picture") as caught:
        find_images(tmp_path / "empty")
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)


# --- pictures to verify with -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "used"),
    [(1, [0, 0, 0]), (2, [0, 0, 1]), (3, [0, 1, 2]), (4, [0, 1, 3]), (11, [0, 5, 10])],
)
def test_pictures_to_verify_with_are_spread(tmp_path: Path, count: int, used: list[int]) -> None:
    for index in range(count):
        gray = Image.new("RGB", (8, 8), (index, index, index))
        gray.save(tmp_path / f"{index:02d}.png")
    recipe = Preprocess(size=(32, 32))
    one, three = verification_batches(recipe, tmp_path)
    assert (one.shape, three.shape) == ((1, 3, 32, 32), (3, 3, 32, 32))
    pictures = np.concatenate([one, three[:2]])
    assert (pictures * 255).mean((1, 2, 3)).round().tolist() == used
    assert three[2].std() > 0.2  # the last is noise
    again = verification_batches(recipe, tmp_path / "00.png")
    assert not np.concatenate([again[0], again[1][:2]]).any()

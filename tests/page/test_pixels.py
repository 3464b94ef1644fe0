"""The page's arithmetic on pixels and boxes, in a real browser, against that of the package."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from web_site import PIXELS, opened, read_pixels

from anydepth_deploy.pictures.images import Preprocess, load_image, prepare
from anydepth_deploy.pictures.resize import resize_averaging, resize_bilinear
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.suppression import Suppression, suppress

if TYPE_CHECKING:
    from playwright.sync_api import Page

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Page]:
    with opened(site) as found:
        yield found


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return render(0, 3, "val", size=max(height, width, 32)).image[:height, :width]


def see_through() -> Image.Image:
    """With every level of opacity, at random; where it is 0, colours are there all the same."""
    alpha = np.random.default_rng(0).integers(0, 256, (60, 90, 1), np.uint8)
    return Image.fromarray(np.concatenate([picture(60, 90), alpha], 2))


def marked(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def gamma(value: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", value))
    return info


def odd_profile() -> bytes:
    """sRGB with red and green exchanged."""
    found = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = found.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    assert exchanged != found
    return exchanged


COLOURS: dict[str, Callable[[], tuple[Image.Image, dict[str, Any]]]] = {
    "rgb": lambda: (Image.fromarray(picture(60, 90)), {}),
    "one-pixel-high": lambda: (Image.fromarray(picture(1, 90)), {}),
    "rgba": lambda: (see_through(), {}),
    "grey": lambda: (Image.fromarray(picture(60, 90)).convert("L"), {}),
    "grey-and-alpha": lambda: (see_through().convert("LA"), {}),
    "palette": lambda: (Image.fromarray(picture(60, 90)).quantize(64), {}),
    "see-through-colour": lambda: (
        Image.fromarray(picture(60, 90)).quantize(64),
        {"transparency": 5},
    ),
    "black-and-white": lambda: (Image.fromarray(picture(60, 90)).convert("1"), {}),
    # What browsers otherwise convert.
    "gamma": lambda: (Image.fromarray(picture(60, 90)), {"pnginfo": gamma(100_000)}),
    "profile": lambda: (Image.fromarray(picture(60, 90)), {"icc_profile": odd_profile()}),
}


@pytest.mark.parametrize("name", COLOURS)
def test_pixels_of_a_png_are_those_that_python_reads(page: Page, site: Path, name: str) -> None:
    image, options = COLOURS[name]()
    image.save(site / f"{name}.png", **options)
    found = read_pixels(page.evaluate(PIXELS, f"{name}.png"))
    np.testing.assert_array_equal(found, load_image(site / f"{name}.png"))


@pytest.mark.parametrize("kind", ["png", "rgba.png", "webp", "rgba.webp"])
def test_all_orientations_are_turned_and_nothing_is_lost(page: Page, site: Path, kind: str) -> None:
    image = see_through() if "rgba" in kind else Image.fromarray(picture(60, 90))
    for orientation in range(1, 9):
        path = site / f"turned{orientation}.{kind}"
        # An odd length of what is written about it is padded, as RIFF wants it.
        image.save(path, exif=marked(orientation), lossless=True, exact=True)
        found = read_pixels(page.evaluate(PIXELS, path.name))
        np.testing.assert_array_equal(found, load_image(path), f"orientation {orientation}")


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}], ids=str
)
def test_jpegs_are_turned_and_differ_by_no_more_than_their_decoders(
    page: Page, site: Path, options: dict[str, Any]
) -> None:
    """On the machine where this was written, both decoders gave the same pixels."""
    for orientation in (1, 4, 6, 7):
        path = site / f"turned{orientation}.jpg"
        Image.fromarray(picture(61, 93)).save(path, exif=marked(orientation), **options)
        found = read_pixels(page.evaluate(PIXELS, path.name))
        wanted = load_image(path)
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= 3


def header_of_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, all black, of which a few kilobytes make any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*item) for item in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )


def test_what_is_no_picture_is_a_sentence(page: Page, site: Path) -> None:
    (site / "words.png").write_text("no picture at all")
    (site / "empty.png").write_bytes(b"")
    (site / "drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    )
    (site / "large.png").write_bytes(header_of_png(10_000, 5_001))
    (site / "largest.png").write_bytes(header_of_png(1_000, 1_000))
    expected = "This is no picture that the browser can read: use a JPEG, PNG or WebP file."
    for name in ("words.png", "empty.png", "drawing.svg"):
        assert page.evaluate(PIXELS, name) == expected
    assert page.evaluate(PIXELS, "large.png") == (
        "This picture has 10000 x 5001 pixels, more than 50 million: make it smaller."
    )
    assert read_pixels(page.evaluate(PIXELS, "largest.png")).shape == (1000, 1000, 3)
    assert page.evaluate(PIXELS, "gone.png") == ("gone.png cannot be loaded: its server says 404.")
    assert page.evaluate(PIXELS, "http://127.0.0.1:9/a.png") == (
        "http://127.0.0.1:9/a.png cannot be loaded: there is no such address, or its server does "
        "not let other pages read its pictures. Save the picture and drop the file here."
    )


def test_a_video_shows_its_frame(page: Page) -> None:
    found = page.evaluate(
        """async () => {
          const { pixelsOf } = await import("/assets/picture.mjs");
          const video = document.createElement("video");
          const early = await pixelsOf(video).catch((error) => error.message);
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [48, 32];
          const context = canvas.getContext("2d");
          video.srcObject = canvas.captureStream(20);
          video.muted = true;
          const timer = setInterval(() => {
            context.fillStyle = "#ff0000";
            context.fillRect(0, 0, 48, 32);
          }, 20);
          await video.play();
          await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
          const { width, height, data } = await pixelsOf(video);
          clearInterval(timer);
          return [early, width, height, ...data.slice(0, 3)];
        }"""
    )
    assert found[:3] == ["The camera has no picture yet.", 48, 32]
    assert np.abs(np.subtract(found[3:], [255, 0, 0])).max() <= 3


RESIZE = """async ([method, width, height, rows, columns, data]) => {
  const resize = await import("/assets/resize.mjs");
  const pixels = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const found = resize[method]({ data: pixels, width, height }, rows, columns);
  return btoa(String.fromCharCode(...found));
}"""

SIZES = [
    ((160, 160), (160, 160)),
    ((60, 90), (16, 16)),
    ((7, 11), (40, 33)),
    ((1, 1), (5, 3)),
    ((400, 1), (9, 8)),
    ((1, 400), (8, 9)),
    ((48, 96), (16, 32)),
    ((97, 31), (97, 16)),
    ((31, 97), (15, 97)),
    ((64, 64), (32, 32)),
    ((33, 500), (32, 32)),
    ((255, 129), (101, 103)),
]


@pytest.mark.parametrize("method", ["resizeAveraging", "resizeSampling"])
def test_resizing_gives_the_same_bits(page: Page, method: str) -> None:
    oracle = resize_averaging if method == "resizeAveraging" else resize_bilinear
    generator = np.random.default_rng(1)
    drawn = generator.integers(1, 130, (12, 4)).tolist()
    for (height, width), size in SIZES + [((a, b), (c, d)) for a, b, c, d in drawn]:
        image = generator.integers(0, 256, (height, width, 4), np.uint8)
        image[::2] = np.where(image[::2] > 127, 255, 0)  # sums at the ends of the range
        text = base64.b64encode(image.tobytes()).decode()
        found = page.evaluate(RESIZE, [method, width, height, *size, text])
        np.testing.assert_array_equal(
            np.frombuffer(base64.b64decode(found), np.uint8).reshape(*size, 3),
            oracle(np.ascontiguousarray(image[..., :3]), size),
            f"{height} x {width} to {size}",
        )


PREPARE = """async ([recipe, width, height, data]) => {
  const { inPicture, prepare } = await import("/assets/prepare.mjs");
  const pixels = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const { input, geometry } = prepare({ data: pixels, width, height }, recipe);
  const boxes = Float32Array.of(-9, 3.3, 17.7, 61, 1.1, 2.2, 3.3, 4.4, 0, 0, 0, 0);
  const scores = Float32Array.of(0.7, 0.3, 0.2);
  const found = inPicture({ boxes, scores, labels: Int32Array.of(1, 0, 2) }, geometry, 0.3, 100);
  return [[...input], [...found.boxes], [...found.scores], [...found.labels]];
}"""

RECIPES = {
    "stretched": Preprocess(size=(24, 40)),
    "letterboxed": Preprocess.of("letterbox", (24, 40)),
    "letterboxed on black, averaging": Preprocess.of("stretch", (24, 40), "letterbox"),
    "normalised": Preprocess(
        size=(24, 40), scale=1 / 127, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_inputs_and_ways_back_are_the_same(page: Page, name: str) -> None:
    recipe = RECIPES[name]
    boxes = np.array([[-9, 3.3, 17.7, 61], [1.1, 2.2, 3.3, 4.4]], np.float32)
    # Halves are rounded to even sides of a letterbox: 25 x 80 has 12.5 rows, 35 x 80 17.5.
    for height, width in ((24, 40), (30, 90), (90, 30), (25, 80), (35, 80), (1, 77), (77, 1)):
        image = picture(height, width)
        opaque = np.concatenate([image, np.full((height, width, 1), 255, np.uint8)], 2)
        text = base64.b64encode(opaque.tobytes()).decode()
        described = recipe.model_dump(mode="json")
        found = page.evaluate(PREPARE, [described, width, height, text])
        inputs, geometry = prepare(image, recipe)
        np.testing.assert_array_equal(np.float32(found[0]).reshape(inputs.shape), inputs)
        wanted = geometry.to_picture(boxes)
        np.testing.assert_array_equal(np.float32(found[1]).reshape(-1, 4), wanted)
        # A score of just the threshold counts, in float32.
        assert (np.float32(found[2]).tolist(), found[3]) == (
            np.array([0.7, 0.3], np.float32).tolist(),
            [1, 0],
        )


SUPPRESS = """async ([classes, rule, maximum, data]) => {
  const { suppress } = await import("/assets/suppress.mjs");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const found = suppress(new Float32Array(bytes.buffer), classes, rule, maximum);
  return [[...found.labels], [...found.boxes], [...found.scores]];
}"""


@pytest.mark.parametrize("maximum", [7, 300])
def test_suppression_keeps_the_same_boxes(page: Page, maximum: int) -> None:
    generator = np.random.default_rng(2)
    rule = Suppression(where="host", score_threshold=0.1, iou_threshold=0.5)
    classes, anchors = 3, 150
    for round_ in range(4):
        predictions = np.empty((1, 4 + classes, anchors), np.float32)
        predictions[:, :2] = generator.uniform(10, 50, (1, 2, anchors))
        predictions[:, 2:4] = generator.uniform(-2 if round_ == 3 else 5, 40, (1, 2, anchors))
        predictions[:, 4:] = generator.random((1, classes, anchors), np.float32)
        if round_ == 1:  # many of equal scores, of which the first ones win
            predictions[:, 4:] = np.round(predictions[:, 4:], 1)
        if round_ == 2:  # whole numbers, whose overlaps are exactly the limit now and then
            predictions[:, :4] = np.round(predictions[:, :4] / 8) * 8
        wanted = suppress(predictions, rule, maximum).image(0)
        text = base64.b64encode(predictions.tobytes()).decode()
        labels, boxes, scores = page.evaluate(SUPPRESS, [classes, rule.model_dump(), maximum, text])
        assert len(labels) > (6 if maximum == 7 else 40)
        assert labels == wanted.labels[0].tolist()
        np.testing.assert_array_equal(np.float32(scores), wanted.scores[0])
        np.testing.assert_array_equal(np.float32(boxes).reshape(-1, 4), wanted.boxes[0])

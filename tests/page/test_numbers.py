"""Detections of the page's modules, in a real browser, against those of ``predict``."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import web_runtime
from numpy.typing import NDArray
from once import once
from PIL import Image
from web_site import add_bundle, opened

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.trained import checkpoint_of

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

THRESHOLD = 0.05
"""Low, so that there is much to compare."""

WIDE = (96, 192)

MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "detr": ("anydepth-detr", {}),
    "yolo": ("anydepth-yolo", {"input_size": WIDE, "raw": True}),
}

RECIPES = {
    "detr": Preprocess.of("stretch", (160, 160)),
    "detr-letterboxed": Preprocess.of("stretch", (160, 160), "letterbox"),
    "yolo": Preprocess.of("letterbox", WIDE),
    "yolo-stretched-host": Preprocess.of("letterbox", WIDE, "stretch"),
}
"""How pictures meet the input, by family and what is unusual: the graph is the family's."""

MIXED = {"detr": ("FTFT-F-2", "FFFF-T-1", "TTFF-F-2"), "yolo": ("FTFTFTFT", "FFTTFFTT")}
"""Depths that are no rungs, those of one family each."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The trained networks by what :data:`RECIPES` call them."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name, (family, options) in MADE.items():
            export_bundle(checkpoint_of(family), folder / name, **options)

    folder = once(tmp_path_factory, "bundles-page", make)
    found = {}
    for name, recipe in RECIPES.items():
        made = open_bundle(folder / name.partition("-")[0])
        changes: dict[str, Any] = {"preprocess": recipe}
        if name.endswith("-host"):
            changes["suppression"] = Suppression(where="host", score_threshold=0.01)
        found[name] = Bundle(made.path, made.manifest.model_copy(update=changes))
    return found


PICTURES = ("square.png", "wide.png", "tall.png", "small.png", "grey.png", "rgba.png", "photo.jpg")


@pytest.fixture(scope="module")
def site(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for name, bundle in bundles.items():
        add_bundle(folder, name, bundle)
    for place, name in enumerate(PICTURES):
        draw(place, folder / name)
    return folder


def draw(place: int, path: Path) -> None:
    """A picture of shapes, in a file that its name describes."""
    pixels = render(place, 5, "val", size=400).image
    image = Image.fromarray(pixels)
    match path.stem:
        case "square":
            image = image.resize((160, 160))
        case "wide":
            image = image.crop((0, 60, 400, 260))
        case "tall":
            image = image.crop((100, 0, 290, 400))
        case "small":
            image = image.resize((90, 70))
        case "grey":
            image = image.convert("L")
        case "rgba":
            alpha = np.random.default_rng(0).integers(0, 256, (*pixels.shape[:2], 1), np.uint8)
            image = Image.fromarray(np.concatenate([pixels, alpha], 2))
    exif = Image.Exif()
    if path.suffix == ".jpg":
        exif[0x0112] = 6
    image.save(path, exif=exif)


OPEN = """async ([name, threads]) => {
  const { Detector } = await import("/assets/detector.mjs");
  const options = { runtime: "/runtime", threads };
  (globalThis.detectors ??= {})[name] = await Detector.open(`/${name.split("@")[0]}`, options);
  return globalThis.detectors[name].threads;
}"""

DETECT = """async ([name, picture, rows, threshold, maximum]) => {
  const { pixelsOf } = await import("/assets/picture.mjs");
  const pixels = await pixelsOf(`/${picture}`);
  const found = [];
  for (const row of rows) {
    const options = { row, threshold, maximum: maximum ?? undefined };
    const { boxes, scores, labels } = await globalThis.detectors[name].detect(pixels, options);
    found.push([[...labels], [...boxes], [...scores]]);
  }
  return found;
}"""

Found = tuple[list[int], NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Page]:
    with opened(site, web_runtime()) as found:
        yield found


@pytest.fixture(scope="module")
def detectors(page: Page, bundles: dict[str, Bundle]) -> Iterator[dict[str, ad.Detector]]:
    """Opened in Python, and under the same names on the page."""
    with contextlib.ExitStack() as stack:
        found = {
            name: stack.enter_context(ad.load(bundle, threads=1))
            for name, bundle in bundles.items()
        }
        for name in found:
            assert page.evaluate(OPEN, [name, 1]) == 1
        yield found


def detect(page: Page, name: str, picture: str, rows: list[int], *more: Any) -> list[Found]:
    found = page.evaluate(DETECT, [name, picture, rows, *(more or (THRESHOLD, None))])
    return [
        (labels, np.float32(boxes).reshape(-1, 4), np.float32(scores))
        for labels, boxes, scores in found
    ]


def compare(found: Found, wanted: ad.Result, pixels: float = 0.01, score: float = 1e-5) -> int:
    """Every detection has its counterpart; how many there are. Those whose scores are as far apart
    as is allowed may be in another order, or on the other side of the threshold."""
    labels, boxes, scores = found
    left = set(range(len(labels)))
    for box, value, label in zip(wanted.boxes, wanted.scores, wanted.labels, strict=True):
        near = [
            place
            for place in left
            if labels[place] == label
            and abs(scores[place] - value) <= score
            and np.abs(boxes[place] - box).max() <= pixels
        ]
        assert near or value < THRESHOLD + score, (box, value, label, found)
        left -= set(near[:1])
    assert all(scores[place] < THRESHOLD + score for place in left), [boxes[i] for i in left]
    assert (np.diff(scores) <= 0).all()
    return len(labels)


@pytest.mark.parametrize("name", RECIPES)
def test_every_picture_has_the_boxes_of_predict_at_both_ends(
    page: Page, site: Path, detectors: dict[str, ad.Detector], name: str
) -> None:
    detector = detectors[name]
    ends = [0, len(detector.ladder) - 1]
    count = 0
    for picture in PICTURES:
        # What is read back from a JPEG is up to its decoder; here both give the same.
        limits = (0.05, 1e-3) if picture.endswith(".jpg") else (0.01, 1e-5)
        for row, found in zip(ends, detect(page, name, picture, ends), strict=True):
            wanted = detector(site / picture, depth=row, threshold=THRESHOLD)[0]
            count += compare(found, wanted, *limits)
    assert count > 50


@pytest.mark.parametrize("name", ["detr", "yolo", "yolo-stretched-host"])
def test_every_rung_and_mixed_depths_have_the_boxes_of_predict(
    page: Page, site: Path, detectors: dict[str, ad.Detector], name: str
) -> None:
    detector = detectors[name]
    table = detector.session.table
    mixed = [table.row(depth) for depth in MIXED[name.partition("-")[0]]]
    rows = [*range(len(detector.ladder)), *mixed]
    scores = set()
    for row, found in zip(rows, detect(page, name, "wide.png", rows), strict=True):
        wanted = detector(site / "wide.png", depth=row, threshold=THRESHOLD)[0]
        assert compare(found, wanted)
        scores.add(tuple(found[2].round(4)))
    assert len(scores) == len(rows)  # or depths were not told apart


def test_threshold_and_maximum(page: Page, site: Path, detectors: dict[str, ad.Detector]) -> None:
    wanted = detectors["detr"](site / "wide.png", depth=0, threshold=0)[0]
    (found,) = detect(page, "detr", "wide.png", [0], 0, None)
    assert len(found[2]) == len(wanted) == 100  # a DETR fills all places
    (few,) = detect(page, "detr", "wide.png", [0], 0, 7)
    np.testing.assert_array_equal(few[1], found[1][:7])
    (none,) = detect(page, "detr", "wide.png", [0], 1, None)
    assert none[0] == []
    # A score of just the threshold counts.
    (some,) = detect(page, "detr", "wide.png", [0], float(found[2][4]), None)
    assert len(some[2]) == 5


def test_threads_change_no_numbers(
    page: Page, site: Path, detectors: dict[str, ad.Detector]
) -> None:
    assert page.evaluate(OPEN, ["yolo@2", 2]) == 2
    (found,) = detect(page, "yolo@2", "tall.png", [4])
    assert compare(found, detectors["yolo"](site / "tall.png", depth=4, threshold=THRESHOLD)[0])
    page.evaluate("globalThis.detectors['yolo@2'].close()")


def test_a_picture_is_prepared_once_for_all_depths(
    page: Page, detectors: dict[str, ad.Detector]
) -> None:
    found = page.evaluate(
        """async () => {
          const { pixelsOf } = await import("/assets/picture.mjs");
          const detector = globalThis.detectors.detr;
          const [one, other] = [await pixelsOf("/wide.png"), await pixelsOf("/tall.png")];
          const found = [];
          for (const [pixels, row] of [[one, 3], [one, 0], [other, 0], [one, 0]]) {
            const { milliseconds, boxes } = await detector.detect(pixels, { row, threshold: 0.3 });
            found.push([milliseconds, [...boxes]]);
          }
          // A failed call leaves no picture behind that the next one could take for its own.
          const wrong = await detector.detect(other, { row: 96 }).catch((error) => error.message);
          const { boxes } = await detector.detect(other, { row: 0, threshold: 0.3 });
          return [...found, wrong, [...boxes]];
        }"""
    )
    times = [found[place][0]["preprocess"] for place in range(4)]
    assert [time > 0 for time in times] == [True, False, True, True]
    assert all(found[place][0]["network"] > 0 for place in range(4))
    assert found[1][1] == found[3][1] != found[2][1]
    assert found[4] == "There is no depth 96: expected a row from 0 to 95."
    assert found[5] == found[2][1]


def test_the_page_goes_on_while_the_network_warms_up(
    page: Page, detectors: dict[str, ad.Detector]
) -> None:
    calls, taken, found, order = page.evaluate(
        """async () => {
          const { pixelsOf } = await import("/assets/picture.mjs");
          const detector = globalThis.detectors.yolo;
          const pixels = await pixelsOf("/wide.png");
          const [calls, order] = [[], []];
          const warm = detector.warmUp(0, { calls: 6, onCall: (call) => calls.push(call) });
          warm.then(() => order.push("warm"));
          const found = await detector.detect(pixels, { row: 0 });
          order.push("found");
          return [calls, await warm, found.scores.length, order];
        }"""
    )
    assert [call["milliseconds"] for call in calls] == taken
    assert [(call["index"], call["calls"]) for call in calls] == [(i, 6) for i in range(6)]
    assert min(taken) > 0
    assert found > 0
    assert order[0] == "found"  # not behind all six calls


def test_closing_answers_whoever_waits(page: Page, detectors: dict[str, ad.Detector]) -> None:
    page.evaluate(OPEN, ["yolo@closed", 1])
    found = page.evaluate(
        """async () => {
          const detector = globalThis.detectors["yolo@closed"];
          const pixels = new ImageData(40, 30);
          const waiting = detector.detect(pixels, { row: 0 }).catch((error) => error.message);
          detector.close();
          detector.close();
          const later = detector.detect(pixels, { row: 0 }).catch((error) => error.message);
          return [await waiting, await later];
        }"""
    )
    assert found == ["The network was closed.", "The network was closed."]


FAIL = """async ([base, runtime]) => {
  const { Detector } = await import("/assets/detector.mjs");
  return Detector.open(base, { runtime }).then(() => "opened", (error) => error.message);
}"""


def test_what_cannot_be_opened_is_a_sentence(
    page: Page, site: Path, bundles: dict[str, Bundle]
) -> None:
    address = page.url.removesuffix("/")

    def made(name: str, **changes: Any) -> str:
        add_bundle(site, name, bundles["detr"], **changes)
        found: str = page.evaluate(FAIL, [f"/{name}", "/runtime"])
        return found

    assert page.evaluate(FAIL, ["/nowhere", "/runtime"]) == (
        f"{address}/nowhere/page.json cannot be loaded: the server says 404."
    )
    recipe = RECIPES["detr"].model_dump(mode="json")
    assert made("odd", preprocess={**recipe, "resize": "crop"}) == (
        'This page cannot run the network: its resize is "crop", expected stretch or letterbox.'
    )
    bare = Suppression(where="none").model_dump()
    assert made("bare", suppression=bare) == (
        'This page cannot run the network: its suppression is "none", expected graph or host.'
    )
    add_bundle(site, "broken", bundles["detr"])
    (site / "broken" / "model.onnx").unlink()
    assert page.evaluate(FAIL, ["/broken", "/runtime"]) == (
        f"{address}/broken/model.onnx cannot be loaded: the server says 404."
    )
    whole = (bundles["detr"].path / bundles["detr"].manifest.artifacts[0].file).read_bytes()
    (site / "broken" / "model.onnx").write_bytes(whole[:100_000])
    found = page.evaluate(FAIL, ["/broken", "/runtime"])
    assert found.startswith("The network cannot be opened in this browser: ")
    assert page.evaluate(FAIL, ["/detr", "/nowhere"]).startswith(
        f"ONNX Runtime Web cannot be loaded from {address}/nowhere/ort.wasm.min.mjs: "
    )
    (site / "broken" / "page.json").write_text("{")
    found = page.evaluate(FAIL, ["/broken", "/runtime"])
    assert found.startswith("page.json cannot be read: ")
    (site / "broken" / "page.json").write_text("[]")
    assert page.evaluate(FAIL, ["/broken", "/runtime"]) == (
        "page.json does not describe a network: write the page again."
    )
    shutil.rmtree(site / "broken")
    newer = add_bundle(site, "newer", bundles["detr"])
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "schema_version": 2}))
    assert page.evaluate(FAIL, ["/newer", "/runtime"]) == (
        "page.json is of another version than this page (schema_version 2, expected 1): write the "
        "page again."
    )


def test_of_a_compressed_download_nobody_knows_the_size(
    page: Page, site: Path, bundles: dict[str, Bundle]
) -> None:
    """What the server says is the size of the compressed file."""

    def answer(route: Route) -> None:
        # What is handed in here is decoded already.
        content = (site / "detr" / "model.onnx").read_bytes()
        route.fulfill(body=content, headers={"Content-Encoding": "gzip"})

    page.context.route("**/compressed/model.onnx", answer)
    add_bundle(site, "compressed", bundles["detr"])
    told = page.evaluate(
        """async () => {
          const { Detector } = await import("/assets/detector.mjs");
          const found = [];
          const onProgress = ({ part, loaded, total }) => found.push([part, loaded, total]);
          (await Detector.open("/compressed", { runtime: "/runtime", onProgress })).close();
          return found;
        }"""
    )
    totals = [total for part, _, total in told if part == "model"]
    assert totals
    assert {*totals} == {0}

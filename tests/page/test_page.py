"""The page in a real browser: what people do with it, and what they see then."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import random
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import browser, web_runtime
from once import once
from PIL import Image
from scipy.optimize import linear_sum_assignment

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.control.controller import Controller
from anydepth_deploy.control.rungs import guessed_rungs
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.page import runtime
from anydepth_deploy.page.server import page_server
from anydepth_deploy.page.site import PageOptions, write_page
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.trained import checkpoint_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FAMILIES = ("anydepth-detr", "anydepth-yolo")

HOSTILE = "<img src=x onerror=\"document.title='injected'\">"
"""A name that would run a script where it became markup."""

LATE = 20_000
"""Milliseconds until a page on a slow machine must have done something."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    def make(folder: Path) -> None:
        folder.mkdir()
        for family in FAMILIES:
            export_bundle(checkpoint_of(family), folder / family)

    folder = once(tmp_path_factory, "bundles-page-whole", make)
    return [folder / family for family in FAMILIES]


@pytest.fixture(scope="module")
def detectors(bundles: list[Path]) -> Iterator[list[ad.Detector]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ad.load(path, threads=1)) for path in bundles]


@pytest.fixture(scope="module")
def site(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of both networks, with pictures whose file names are hostile."""
    folder = tmp_path_factory.mktemp("page")
    pictures = folder / "pictures"
    pictures.mkdir()
    for place, name in enumerate((f"1 {HOSTILE}.png".replace("/", ""), "2.png")):
        Image.fromarray(render(place, 9, "val", size=200).image).save(pictures / name)
    options = PageOptions(runtime=web_runtime(), samples=pictures)
    return write_page([open_bundle(path) for path in bundles], folder / "site", options).path


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as found:
        yield found


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    with page_server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


@pytest.fixture(scope="module")
def program() -> Iterator[Browser]:
    with browser("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream") as found:
        yield found


@contextlib.contextmanager
def shown(program: Browser, address: str, **settings: Any) -> Iterator[Page]:
    """The page, opened in a context of its own; scripts that fail and what the policy forbids are
    failures of the test."""
    problems: list[str] = []
    context = program.new_context(**settings)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda told: problems.extend([told.text] * (told.type == "error")))
    page.goto(address)
    try:
        yield page
        expected = getattr(page, "expected_problem", "nothing")
        assert [text for text in problems if expected not in text] == []
        assert page.title() == "Depth you can see"  # or a name has become a script
    finally:
        context.close()


@pytest.fixture(scope="module")
def page(program: Browser, address: str) -> Iterator[Page]:
    with shown(program, f"{address}?threads=1") as found:
        ready(found)
        yield found


def ready(page: Page) -> None:
    """Wait for the network and the warm-up."""
    within(page, "#warming", re.compile("^Warm: "))


def within(page: Page, selector: str, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text, timeout=LATE)


def choose(page: Page, place: int) -> None:
    """One of the networks, at super and with the usual least score, as a page begins."""
    if FAMILIES[place] not in page.inner_text("#subtitle"):
        page.select_option("#model", index=place)
        within(page, "#subtitle", re.compile(re.escape(FAMILIES[place])))
        ready(page)
    page.fill("#threshold", "0.4")
    page.fill("#depth", page.get_attribute("#depth", "max") or "")


def drop(page: Page, path: Path, name: str | None = None, kind: str = "image/png") -> None:
    data = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """async ([data, name, type]) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name, { type }));
          const stage = document.getElementById("stage");
          const given = { dataTransfer, bubbles: true, cancelable: true };
          stage.dispatchEvent(new DragEvent("drop", given));
        }""",
        [data, name or path.name, kind],
    )


def paste(page: Page, text: str, selector: str = "body") -> None:
    page.evaluate(
        """([text, selector]) => {
          const clipboardData = new DataTransfer();
          clipboardData.setData("text", text);
          const given = { clipboardData, bubbles: true };
          document.querySelector(selector).dispatchEvent(new ClipboardEvent("paste", given));
        }""",
        [text, selector],
    )


def table(page: Page) -> list[tuple[str, list[float]]]:
    """The objects of the table: name; score, x1, y1, x2, y2 as they are written."""
    rows = page.eval_on_selector_all(
        "#found-rows tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return [(row[0], [float(cell) for cell in row[1:]]) for row in rows if len(row) > 1]


def hold(page: Page, wanted: list[tuple[str, list[float]]]) -> None:
    """Wait until the table says what Python found."""
    deadline = LATE // 50
    for _ in range(deadline):
        found = table(page)
        if agree(found, wanted):
            return
        page.wait_for_timeout(50)
    assert found == wanted


def agree(found: list[tuple[str, list[float]]], wanted: list[tuple[str, list[float]]]) -> bool:
    """As far as the digits that are written tell."""
    return [name for name, _ in found] == [name for name, _ in wanted] and all(
        np.allclose(one, other, rtol=0, atol=[6e-4, *[0.06] * 4])
        for (_, one), (_, other) in zip(found, wanted, strict=True)
    )


def of_python(
    detector: ad.Detector, picture: Path, depth: str, threshold: float = 0.4
) -> list[tuple[str, list[float]]]:
    result = detector(picture, depth=depth, threshold=threshold)[0]
    rows = zip(result.names, result.scores, result.boxes, strict=True)
    return [(label, [float(score), *(float(v) for v in box)]) for label, score, box in rows]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide, with many objects."""
    path = tmp_path_factory.mktemp("pictures") / "wide.png"
    parts = [render(place, 5, "val", size=200).image for place in range(2)]
    Image.fromarray(np.concatenate(parts, 1)).save(path)
    return path


@pytest.mark.parametrize("place", [0, 1], ids=FAMILIES)
def test_a_dropped_picture_has_the_boxes_of_predict_at_each_level(
    page: Page, bundles: list[Path], detectors: list[ad.Detector], picture: Path, place: int
) -> None:
    bundle = open_bundle(bundles[place])
    choose(page, place)
    drop(page, picture, HOSTILE)
    detector = detectors[place]
    seen = set()
    for level, depth in enumerate(detector.ladder):
        page.fill("#depth", str(level))
        wanted = of_python(detector, picture, str(depth))
        hold(page, wanted)
        seen.add(repr(wanted))
        text = page.inner_text("#depth-name")
        assert str(depth) in text
        macs = bundle.macs(depth)["total"] / 1e6
        assert page.inner_text("#macs") == f"{macs:.1f} M"
        assert float(page.inner_text("#milliseconds")) > 0
    assert len(seen) > 1
    assert page.inner_text("#caption") == f"{HOSTILE}, 400 x 200"
    assert HOSTILE in (page.get_attribute("#canvas", "aria-label") or "")
    # The curve has a point for each rung, and each is a measured time.
    titles = page.eval_on_selector_all("#curve .point title", "all => all.map(t => t.textContent)")
    assert len(titles) == len(detector.ladder)
    assert all(re.search(r": \d+\.\d ms, ", title) for title in titles)


def test_gates_make_depths_that_are_on_no_ladder(
    page: Page, detectors: list[ad.Detector], picture: Path
) -> None:
    choose(page, 0)
    page.evaluate("delete Array.prototype.with")  # browsers of 2022 have none
    drop(page, picture)
    detector = detectors[0]
    page.fill("#depth", str(len(detector.ladder) - 1))
    switches = page.locator("#gates input[role=switch]")
    assert switches.count() == 5
    assert all(switches.nth(place).is_checked() for place in range(5))
    page.click("#gates label:has-text('layer2')")
    page.click("#gates label:has-text('encoder')")
    page.select_option("#gates select", "2")
    hold(page, of_python(detector, picture, "FTFF-T-2"))
    assert page.inner_text("#depth-name") == "FTFF-T-2, not on the ladder"
    assert "not on the ladder" in (page.get_attribute("#depth", "aria-valuetext") or "")
    page.fill("#depth", "0")  # the slider takes the switches with it
    assert not any(switches.nth(place).is_checked() for place in range(5))
    assert page.input_value("#gates select") == "3"
    hold(page, of_python(detector, picture, "base"))


def test_the_least_score(page: Page, detectors: list[ad.Detector], picture: Path) -> None:
    choose(page, 0)
    drop(page, picture)
    page.fill("#threshold", "0.1")
    many = of_python(detectors[0], picture, "super", 0.1)
    assert len(many) > len(of_python(detectors[0], picture, "super"))
    hold(page, many)
    page.fill("#threshold", "0.4")
    hold(page, of_python(detectors[0], picture, "super"))


def test_what_base_lacks_is_named(page: Page, detectors: list[ad.Detector], picture: Path) -> None:
    """Against the best assignment of what Python finds."""
    choose(page, 0)
    drop(page, picture)
    page.fill("#threshold", "0.3")
    ends = [of_python(detectors[0], picture, depth, 0.3) for depth in ("super", "base")]
    hold(page, ends[0])
    for name, (one, other) in (("super", (ends[0], ends[1])), ("base", (ends[1], ends[0]))):
        pairs = np.array(
            [
                [overlap(values[1:], box[1:]) * (label == old) for old, box in other]
                for label, values in one
            ]
        )
        pairs[pairs < 0.5] = 0
        rows, columns = linear_sum_assignment(-pairs)
        paired = {row for row, column in zip(rows, columns, strict=True) if pairs[row, column] > 0}
        lacked = [
            f"only {name} finds: {label}, {values[0]:.2f}"
            for place, (label, values) in enumerate(one)
            if place not in paired
        ]
        items = page.locator(f"#only-{name} li")
        from playwright.sync_api import expect

        expect(items).to_have_count(len(lacked), timeout=LATE)
        texts = items.all_inner_texts()
        # Which of two boxes of one object is the one too many, an assignment may see otherwise.
        assert sorted(text.rpartition(",")[0] for text in texts) == sorted(
            text.rpartition(",")[0] for text in lacked
        )
        told = [f"only {name} finds: {label}, {values[0]:.2f}" for label, values in one]
        assert {*texts} <= {*told}
    page.fill("#threshold", "0.4")


def overlap(one: list[float], other: list[float]) -> float:
    (a, b, c, d), (e, f, g, h) = one, other
    both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return both / ((c - a) * (d - b) + (g - e) * (h - f) - both)


def test_by_keyboard_alone(page: Page, detectors: list[ad.Detector], picture: Path) -> None:
    choose(page, 1)
    drop(page, picture)
    hold(page, of_python(detectors[1], picture, "super"))
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate("[document.activeElement.id, document.activeElement.localName]")
        if found[0] == "depth" and "depth" not in reached:
            page.keyboard.press("Home")
            hold(page, of_python(detectors[1], picture, "base"))
            page.keyboard.press("ArrowRight")
            hold(page, of_python(detectors[1], picture, "level:1"))
        reached |= {*found}
    assert {"model", "file", "camera", "address", "depth", "threshold", "hold", "rate"} <= reached
    page.focus("#gates input >> nth=0")
    before = page.is_checked("#gates input >> nth=0")
    page.keyboard.press("Space")
    assert page.is_checked("#gates input >> nth=0") is not before
    # Whatever takes a value has a name for screen readers.
    nameless = page.eval_on_selector_all(
        "input, select, button, canvas, svg[role], table",
        """all => all.filter(item => !(item.labels?.length || item.ariaLabel ||
             item.getAttribute("aria-labelledby") || item.textContent.trim())).map(x => x.id)""",
    )
    assert nameless == []
    assert "multiply-adds" in page.inner_text("#told")  # which is read out


def test_a_rate_moves_the_slider_and_a_hand_takes_it_back(
    page: Page, detectors: list[ad.Detector], picture: Path
) -> None:
    choose(page, 0)
    drop(page, picture)
    page.fill("#depth", "3")
    page.fill("#rate", "1000")  # more than anything can
    page.check("#hold", force=True)
    until(page, "() => document.getElementById('depth').value === '0'")
    within(page, "#rate-told", re.compile(r"Now .* frames a second. More than this device can"))
    page.fill("#rate", "0.5")  # which super keeps
    page.keyboard.press("Enter")
    for _ in range(LATE // 100):
        if page.input_value("#depth") == "3":
            break
        page.wait_for_timeout(100)
    assert page.input_value("#depth") == "3"
    page.fill("#depth", "1")
    assert not page.is_checked("#hold")
    assert page.input_value("#depth") == "1"
    hold(page, of_python(detectors[0], picture, "level:1"))
    page.fill("#rate", "-1")
    page.click("#hold")
    within(page, "#failure-text", "The frame rate must be a number above 0.")
    assert not page.is_checked("#hold")
    page.fill("#rate", "30")


def test_at_a_low_rate_everything_is_heard_at_once(
    page: Page, detectors: list[ad.Detector], picture: Path
) -> None:
    """Between two frames lie 100 seconds, which no wait here lasts."""
    choose(page, 0)
    drop(page, picture)
    hold(page, of_python(detectors[0], picture, "super"))
    page.fill("#rate", "0.01")
    page.check("#hold", force=True)
    hold(page, of_python(detectors[0], picture, "base"))  # the first frame is at base
    page.click("#samples button >> nth=1")
    within(page, "#caption", "2.png, 200 x 200")
    drop(page, picture)
    within(page, "#caption", "wide.png, 400 x 200")
    page.fill("#threshold", "0.1")
    many = of_python(detectors[0], picture, "super", 0.1)
    within(page, "#objects-super", f"super {len(many)}")
    words = re.compile(f"^super: {len(many)} objects")
    from playwright.sync_api import expect

    expect(page.locator("#super-canvas")).to_have_attribute("aria-label", words, timeout=LATE)
    page.fill("#threshold", "0.4")
    page.fill("#depth", "1")
    hold(page, of_python(detectors[0], picture, "level:1"))
    # Frames that were ended do not end others.
    page.check("#hold", force=True)
    page.uncheck("#hold", force=True)
    page.fill("#rate", "1000")
    page.check("#hold", force=True)
    within(page, "#rate-told", re.compile(r"^Now "))
    page.uncheck("#hold", force=True)
    page.fill("#rate", "30")


def test_many_changes_of_the_least_score_are_few_calls(
    page: Page, detectors: list[ad.Detector], picture: Path
) -> None:
    choose(page, 0)
    drop(page, picture)
    many = len(of_python(detectors[0], picture, "super"))
    within(page, "#objects-super", f"super {many}")
    page.fill("#depth", "0")
    hold(page, of_python(detectors[0], picture, "base"))
    page.evaluate(
        """() => {
          const post = Worker.prototype.postMessage;
          globalThis.calls = 0;
          Worker.prototype.postMessage = function (message, ...more) {
            calls += message.kind === "detect";
            return post.call(this, message, ...more);
          };
          globalThis.restore = () => { Worker.prototype.postMessage = post; };
          const threshold = document.getElementById("threshold");
          for (let step = 0; step < 12; step++) {
            threshold.value = String(0.9 - step / 20);
            threshold.dispatchEvent(new Event("input"));
          }
        }"""
    )
    assert page.input_value("#threshold") == "0.35"
    hold(page, of_python(detectors[0], picture, "base", 0.35))
    many = len(of_python(detectors[0], picture, "super", 0.35))
    within(page, "#objects-super", f"super {many}")
    # The depth of now, super and base; or each twice, where something was on its way.
    assert 3 <= page.evaluate("calls") <= 6
    page.evaluate("restore()")
    page.fill("#threshold", "0.4")


PACED = """async ([costs, rate, noise, timer, busy]) => {
  const { Frames, Rate } = await import("/assets/frames.mjs");
  // A clock that only passes where something takes time: nothing else on the machine counts.
  let time = 0;
  const later = (call, milliseconds) => {
    time += Math.max(timer, milliseconds);
    queueMicrotask(call);
  };
  const frames = new Frames({ now: () => time, later });
  const held = new Rate(costs.map((cost) => cost ** 1.3), rate);
  const [began, rungs] = [[], []];
  frames.start({
    rate: () => held,
    frame: async (rate) => {
      began.push(time);
      rungs.push(rate.choose());
      time += costs[rungs.at(-1)] * noise[rungs.length - 1];
      const alone = rungs.length > busy;
      if (!alone) time += 30; // a call for something else
      if (rungs.length === noise.length) frames.end();
      return alone;
    },
    onFailure: (error) => rungs.push(String(error)),
  });
  await frames.over;
  return [began, rungs];
}"""
"""Frames of a detector with known milliseconds at each rung, and timers that take some, too; for
as many frames as are ``busy`` it does something else besides."""


@pytest.mark.parametrize(
    ("target", "wanted", "used"),
    [
        (29, 29, {1, 2}),  # between 20 and 30 milliseconds and those of a timer
        (18, 18, {0, 1}),
        (90, 90, {3}),  # super keeps it, and it is not exceeded
        (5, 14, {0}),  # nothing keeps it: base makes as many as it can
    ],
)
def test_a_rate_between_two_rungs_is_held(
    page: Page, target: float, wanted: float, used: set[int]
) -> None:
    noise = random.Random(3)
    factors = [max(0.5, noise.gauss(1, 0.03)) for _ in range(600)]
    began, rungs = page.evaluate(PACED, [[10, 20, 30, 40], 1000 / target, factors, 4, 5])
    found = (began[-1] - began[199]) / (len(began) - 200)
    assert abs(found / wanted - 1) < 0.01
    often = {rung for rung in used if rungs[200:].count(rung) > 40}
    assert often == used
    assert sum(rung in used for rung in rungs[200:]) > 380


def test_a_stall_is_made_up_for_but_not_for_long(page: Page) -> None:
    """After five seconds without a frame, at most four follow at once."""
    factors = [*[1.0] * 100, 250.0, *[1.0] * 100]
    began, rungs = page.evaluate(PACED, [[20], 10.0, factors, 4, 0])
    assert {*rungs} == {0}
    gaps = np.diff(began)
    np.testing.assert_allclose(gaps[50:100], 100, atol=1e-6)
    assert gaps[100] > 5000
    hasty = int((gaps[101:] < 99).sum())
    assert 3 <= hasty <= 6
    np.testing.assert_allclose(gaps[110:], 100, atol=1e-6)
    # A frame before its time makes the next pause no longer.
    pauses = page.evaluate(
        """async () => {
          const { Rate } = await import("/assets/frames.mjs");
          const rate = new Rate([1, 2], 10);
          const pauses = [[0, 10], [20, 30], [40, 50], [140, 160]].map((times) => {
            rate.choose();
            return rate.report(...times);
          });
          // Of a frame beside which depths were compared, nothing is learned.
          const before = JSON.stringify(rate.pilot.estimator);
          rate.choose();
          pauses.push(rate.report(240, 320, false));
          return [pauses, before === JSON.stringify(rate.pilot.estimator)];
        }"""
    )
    assert pauses == [[90, 90, 90, 80, 20], True]


def test_the_pilot_decides_as_the_controller(page: Page) -> None:
    """On the same milliseconds: noise, strays, steps, and a rung that is slow alone."""
    noise = random.Random(7)
    macs = [140.9, 192.1, 206.1, 220.0]
    cases = []
    for rate in (30.0, 24.0, 19.0, 200.0, 5.0):
        controller = Controller(guessed_rungs("abcd", macs), fps=rate)
        taken, rungs = [], []
        for call in range(600):
            rung = "abcd".index(controller.choose())
            factor = 1.0 if call < 200 else 1.6 if call < 400 else 0.8
            took = 0.2 * macs[rung] * factor * noise.gauss(1, 0.03)
            took *= 3 if noise.random() < 0.02 else 1
            took *= 1.5 if rung == 1 and call > 500 else 1
            controller.report(took)
            taken.append(took)
            rungs.append(rung)
        cases.append((rate, taken, rungs))
    assert all(len({*rungs}) > 1 for _, _, rungs in cases[:3])
    found = page.evaluate(
        """async ([macs, cases]) => {
          const { Pilot } = await import("/assets/pilot.mjs");
          return cases.map(([rate, taken]) => {
            const pilot = new Pilot(macs, rate);
            return taken.map((took) => {
              const rung = pilot.choose();
              pilot.report(took);
              return rung;
            });
          });
        }""",
        [macs, [[rate, taken] for rate, taken, _ in cases]],
    )
    assert found == [rungs for _, _, rungs in cases]


def test_other_ways_to_give_a_picture(
    page: Page, site: Path, detectors: list[ad.Detector], picture: Path
) -> None:
    choose(page, 0)
    page.fill("#depth", "3")
    second = site / "samples" / "2.png"
    page.click("#samples button >> nth=1")
    hold(page, of_python(detectors[0], second, "super"))
    assert page.get_attribute("#samples button >> nth=1", "aria-pressed") == "true"
    page.set_input_files("#file", picture)
    hold(page, of_python(detectors[0], picture, "super"))
    first = page.evaluate("new URL('samples/1.png', document.baseURI).href")
    page.fill("#address", first)
    page.press("#address", "Enter")
    hold(page, of_python(detectors[0], site / "samples" / "1.png", "super"))
    paste(page, first.replace("1.png", "2.png"))
    hold(page, of_python(detectors[0], second, "super"))
    paste(page, first, "#depth")  # a slider takes no text
    hold(page, of_python(detectors[0], site / "samples" / "1.png", "super"))


@pytest.fixture
def cameras(page: Page) -> Iterator[None]:
    """Counts streams of the camera (``streams``) and bitmaps that are not closed (``bitmaps``)."""
    page.evaluate(
        """() => {
          const media = navigator.mediaDevices;
          const [asked, made, close] = [media.getUserMedia, createImageBitmap,
                                        ImageBitmap.prototype.close];
          globalThis.streams = [];
          media.getUserMedia = async (wanted) => {
            streams.push(await asked.call(media, wanted));
            return streams.at(-1);
          };
          globalThis.bitmaps = { made: 0, open: new Set() };
          globalThis.createImageBitmap = async (...given) => {
            const found = await made(...given);
            bitmaps.made++;
            bitmaps.open.add(found);
            return found;
          };
          ImageBitmap.prototype.close = function () {
            bitmaps.open.delete(this);
            close.call(this);
          };
          globalThis.live = () => streams.flatMap((stream) => stream.getTracks())
            .filter((track) => track.readyState === "live").length;
          globalThis.restore = () => {
            Object.assign(globalThis, { createImageBitmap: made });
            ImageBitmap.prototype.close = close;
            delete media.getUserMedia;
          };
        }"""
    )
    yield
    page.evaluate("restore()")


def until(page: Page, expression: str, given: Any = None) -> None:
    page.wait_for_function(expression, arg=given, timeout=LATE)


def changes(page: Page, selector: str) -> None:
    """Wait until a canvas is drawn anew."""
    before = page.evaluate(f"document.querySelector('{selector}').toDataURL()")
    until(page, f"old => document.querySelector('{selector}').toDataURL() !== old", before)


def test_the_camera(page: Page, cameras: None, detectors: list[ad.Detector], picture: Path) -> None:
    choose(page, 0)
    drop(page, picture)
    many = len(of_python(detectors[0], picture, "super"))
    within(page, "#objects-super", f"super {many}")
    page.click("#camera")
    within(page, "#caption", re.compile(r"^camera, \d+ x \d+$"))
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    # What super finds in an earlier picture says nothing of this one.
    until(page, "() => document.getElementById('objects-super').textContent === ''")
    until(  # both depths see the camera, too, and what is drawn anew fits its picture
        page,
        """() => {
          window.dispatchEvent(new Event("resize"));
          const [one, both] = ["canvas", "super-canvas"].map((id) => document.getElementById(id));
          return Math.abs(one.width / one.height - both.width / both.height) < 0.02;
        }""",
    )
    page.click("#compare")
    changes(page, "#super-canvas")
    until(page, "() => bitmaps.made > 20")
    # That of now, the next one, that which is shown, and that which is compared.
    assert page.evaluate("bitmaps.open.size") <= 5
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    assert page.evaluate("live()") == 0
    page.click("#samples button >> nth=1")
    within(page, "#caption", "2.png, 200 x 200")


def test_the_camera_is_asked_for_once_and_goes(page: Page, cameras: None) -> None:
    choose(page, 0)
    click = "document.getElementById('camera').click();"
    page.evaluate(f"() => {{ {2 * click} }}")
    until(page, "() => streams.length === 1 && live() === 0")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    page.evaluate(f"() => {{ {3 * click} }}")
    until(page, "() => streams.length === 3 && live() === 1")
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    within(page, "#caption", re.compile(r"^camera, "))
    changes(page, "#canvas")
    # Another network looks at it, too; it warms up when pictures do not move.
    page.select_option("#model", index=1)
    assert page.evaluate("document.getElementById('main').inert")
    within(page, "#subtitle", re.compile(FAMILIES[1]))
    changes(page, "#canvas")
    assert page.evaluate("live()") == 1
    within(page, "#warming", re.compile("^Paused while pictures move"))
    page.click("#camera")
    ready(page)
    titles = page.eval_on_selector_all("#curve .point title", "all => all.map(t => t.textContent)")
    assert len(titles) == int(page.get_attribute("#depth", "max") or "") + 1
    page.click("#camera")
    within(page, "#caption", re.compile(r"^camera, "))
    until(page, "() => live() === 1")
    page.evaluate(
        """() => {
          const [track] = streams.at(-1).getTracks();
          track.stop();
          track.dispatchEvent(new Event("ended")); // as one that is unplugged
        }"""
    )
    within(page, "#failure-text", re.compile("^The camera has gone"))
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#failure", state="hidden")


@pytest.mark.parametrize("case", ["no picture", "large", "text", "missing"])
def test_what_is_no_picture_is_told_in_a_sentence(page: Page, tmp_path: Path, case: str) -> None:
    page.expected_problem = "404"  # type: ignore[attr-defined]
    file = tmp_path / "file.png"
    if case == "missing":
        page.fill("#address", page.url.split("?")[0] + "none.png")
        page.click("#address-form button")
        told = "cannot be loaded: its server says 404."
    elif case == "text":
        paste(page, "hello")
        told = "neither a picture nor its address"
    else:
        file.write_bytes(b"<svg onload='document.title=1'>")
        if case == "large":
            Image.new("1", (8000, 7000)).save(file)
        drop(page, file)
        told = "more than 50 million" if case == "large" else "no picture that the browser can read"
    within(page, "#failure-text", re.compile(re.escape(told)))
    assert page.get_attribute("#failure", "role") == "alert"
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#failure", state="hidden")


SLOW = """
const own = globalThis.createImageBitmap;
let waits = true;
globalThis.createImageBitmap = async (source, ...more) => {
  if (source instanceof Blob && waits) {
    waits = false;
    await new Promise((resolve) => { globalThis.release = resolve; });
  }
  return own(source, ...more);
};
"""
"""The first picture is decoded when ``release`` is called."""


def test_a_picture_that_is_given_early_is_not_lost(
    program: Browser, address: str, detectors: list[ad.Detector], picture: Path
) -> None:
    with shown(program, f"{address}?threads=1") as page:
        page.add_init_script(SLOW)
        page.reload()
        drop(page, picture)  # before there is a network, and not decoded before it is there
        page.wait_for_selector("#main", timeout=LATE)
        within(page, "#subtitle", re.compile(FAMILIES[0]))
        page.fill("#rate", "1000")
        page.check("#hold", force=True)  # before there is a picture
        ready(page)
        assert page.inner_text("#caption") == ""
        page.evaluate("release()")
        within(page, "#caption", "wide.png, 400 x 200")
        within(page, "#rate-told", re.compile(r"^Now "))
        page.fill("#depth", "0")
        hold(page, of_python(detectors[0], picture, "base"))
        # Given just before another network is chosen.
        page.click("#samples button >> nth=1")
        within(page, "#caption", "2.png, 200 x 200")
        page.evaluate(
            """() => {
              document.querySelector("#samples button").click();
              const model = document.getElementById("model");
              model.selectedIndex = 1;
              model.dispatchEvent(new Event("change"));
            }"""
        )
        within(page, "#subtitle", re.compile(FAMILIES[1]))
        within(page, "#caption", re.compile(r"^1 <img.*, 200 x 200$"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(program: Browser, address: str, scheme: Any) -> None:
    settings = {"viewport": {"width": 375, "height": 740}, "is_mobile": True, "has_touch": True}
    with shown(program, f"{address}?threads=1", color_scheme=scheme, **settings) as page:
        page.wait_for_selector("#found-rows tr", timeout=LATE)
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths == [375, 375]
        # The slider is in sight together with the picture that it changes.
        slider = page.locator("#depth").bounding_box()
        assert slider is not None
        assert slider["y"] + slider["height"] < 740
        # What is written can be read: contrast of 4.5 at least, by the formula of WCAG.
        for selector in ("#subtitle", "#depth-name", "#macs-super", "#file", "legend", "th"):
            pair = page.eval_on_selector(selector, COLOURS)
            assert contrast(*pair) >= 4.5, (selector, pair)
        small = page.eval_on_selector_all(
            "button, select, .file, input[type=range], .switch",
            "all => all.filter(x => x.checkVisibility() && x.getBoundingClientRect().height < 24)"
            ".map(x => x.id || x.className)",
        )
        assert small == []  # for fingers


COLOURS = """item => {
  let back = item;
  const of = (one, what) => getComputedStyle(one)[what];
  while (of(back, "backgroundColor") === "rgba(0, 0, 0, 0)") back = back.parentElement;
  return [of(item, "color"), of(back, "backgroundColor")];
}"""


def contrast(*colours: str) -> float:
    def light(colour: str) -> float:
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    one, other = sorted(map(light, colours))
    return (other + 0.05) / (one + 0.05)


def test_hostile_names_stay_texts(
    program: Browser, site: Path, picture: Path, tmp_path: Path
) -> None:
    """Of classes, gates and bundles: whoever made the bundle."""
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    described = next(copy.glob("models/*detr/page.json"))
    content = json.loads(described.read_text())
    content["manifest"]["classes"] = [HOSTILE * 3] * len(content["classes"])
    content["name"] = HOSTILE
    for gate in content["gates"]:
        gate["name"] = HOSTILE
    described.write_text(json.dumps(content))
    everything = json.loads((copy / "site.json").read_text())
    for item in itertools.chain(everything["models"], everything["samples"]):
        item["name"] = HOSTILE
    (copy / "site.json").write_text(json.dumps(everything))
    with served(copy) as address, shown(program, f"{address}?threads=1") as page:
        page.wait_for_selector("#found-rows th", timeout=LATE)
        drop(page, picture, f"{HOSTILE}.png")
        within(page, "#caption", f"{HOSTILE}.png, 400 x 200")
        ready(page)
        assert page.inner_text("#subtitle").startswith(HOSTILE)
        assert page.inner_text("#found-rows th >> nth=0") == f"{(HOSTILE * 3)[:40]}…"
        assert page.locator("img:not([src^=samples])").count() == 0
        assert page.inner_text("#gates label >> nth=0") == HOSTILE


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("model", "The network cannot be opened in this browser"),
        ("no model", "model.onnx cannot be loaded: the server says 404."),
        ("runtime", "ONNX Runtime Web cannot be loaded"),
        ("site", "site.json, which says what this page shows, cannot be read"),
        ("no page", "site.json does not describe a page of anydepth-deploy"),
        ("depths", "page.json does not say which depths there are: write the page again."),
        ("simd", "This browser has no WebAssembly with SIMD"),
    ],
)
def test_what_cannot_start_says_why(
    program: Browser, site: Path, tmp_path: Path, damage: str, told: str
) -> None:
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    model = copy / "models" / FAMILIES[0] / "model.onnx"
    if damage == "model":
        model.write_bytes(b"no graph")
    elif damage == "no model":
        model.unlink()
    elif damage == "runtime":
        (copy / "runtime" / next(iter(runtime.FILES))).unlink()
    elif damage == "site":
        (copy / "site.json").write_text("{")
    elif damage == "no page":
        (copy / "site.json").write_text('{"title": "of somebody else"}')
    elif damage == "depths":
        described = model.with_name("page.json")
        content = json.loads(described.read_text())
        described.write_text(json.dumps({**content, "ladder": None}))
    else:  # a browser of before
        worker = copy / "assets" / "worker.mjs"
        worker.write_text("WebAssembly.validate = () => false;\n" + worker.read_text())
    with served(copy) as address, shown(program, address) as page:
        page.expected_problem = "404"  # type: ignore[attr-defined]
        within(page, "#failure-text", re.compile(re.escape(told)))
        assert page.is_visible("#failure")
        assert not page.is_visible("#main")
        assert not page.is_visible("#starting")

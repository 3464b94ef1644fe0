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


def paste(page: Page, text: str) -> None:
    page.evaluate(
        """text => {
          const clipboardData = new DataTransfer();
          clipboardData.setData("text", text);
          const given = { clipboardData, bubbles: true };
          document.body.dispatchEvent(new ClipboardEvent("paste", given));
        }""",
        text,
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


def test_a_rate_moves_the_slider_and_a_hand_takes_it_back(page: Page) -> None:
    choose(page, 0)
    page.fill("#depth", "3")
    page.fill("#rate", "1000")  # more than anything can
    page.check("#hold", force=True)
    within(page, "#rate-told", re.compile(r"Now .* frames a second. More than this device can"))
    assert page.input_value("#depth") == "0"
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
    page.fill("#rate", "-1")
    page.click("#hold")
    within(page, "#failure-text", "The frame rate must be a number above 0.")
    assert not page.is_checked("#hold")
    page.fill("#rate", "30")


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


def test_the_camera(page: Page) -> None:
    choose(page, 0)
    page.click("#camera")
    within(page, "#caption", re.compile(r"^camera, \d+ x \d+$"))
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    page.click("#samples button >> nth=1")
    within(page, "#caption", "2.png, 200 x 200")


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
    else:  # a browser of before
        worker = copy / "assets" / "worker.mjs"
        worker.write_text("WebAssembly.validate = () => false;\n" + worker.read_text())
    with served(copy) as address, shown(program, address) as page:
        page.expected_problem = "404"  # type: ignore[attr-defined]
        within(page, "#failure-text", re.compile(re.escape(told)))
        assert page.is_visible("#failure")
        assert not page.is_visible("#main")
        assert not page.is_visible("#starting")

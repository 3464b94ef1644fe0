"""The page of a report in a real browser: nothing is fetched, nothing runs, and it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import browser
from html_reports import differences, evaluation, hostile_page, two_results

from anydepth_deploy.bench.report.html import write_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def test_in_a_browser(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    told = differences(tmp_path / "d")
    write_html(two_results(), path, evaluation=evaluation(), differences=told)
    said: list[str] = []
    asked: list[str] = []
    page = chromium.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]

    # Styles are applied, and pictures are there.
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(251, 250, 248)"
    assert page.evaluate("[...document.images].map(x => x.naturalWidth)") == [20, 20]

    # A point says its figures where it is pointed at, and by keyboard.
    mark = page.locator("svg .mark").nth(2)
    tip = mark.locator(".tip")
    assert not tip.is_visible()
    mark.locator(".dot").hover()
    assert tip.is_visible()
    assert " ms" in (tip.text_content() or "")
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    mark.focus()
    assert tip.is_visible()

    # No width makes the page wider than its window; tables scroll by themselves.
    for width in (1200, 700, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # On A4, without its margins, every table is whole.
    page.set_viewport_size({"width": 687, "height": 900})
    wide = "[...document.querySelectorAll('.wide')].map(x => x.scrollWidth - x.clientWidth)"
    assert max(page.evaluate(wide)) <= 0
    page.emulate_media(media="screen")
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") <= 6
    assert said == []
    page.close()


def test_hostile_names_run_nothing(chromium: Browser, tmp_path: Path) -> None:
    path = hostile_page(tmp_path)
    page = chromium.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("typeof hit") == "undefined"
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.images.length") == 2
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    # And the policy would stop what a mistake of ours let through.
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'hit = 3';"
        " document.body.append(s); }"
    )
    assert page.evaluate("typeof hit") == "undefined"
    page.close()

"""Names of classes in any script: a font that has their letters, or a number that says which."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, features

from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import UsageError
from anydepth_deploy.pictures import fonts
from anydepth_deploy.pictures.draw import draw_detections


def make_font(path: Path, letters: str) -> Path:
    """A font of these letters: the n-th is a bar of its own height. What it lacks is a square."""
    names = [".notdef", "space", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({32: "space", **dict(zip(map(ord, letters), names[2:], strict=True))})
    glyphs = {}
    for place, name in enumerate(names):
        pen = TTGlyphPen(None)
        if name != "space":
            height = 500 if name == ".notdef" else 200 + 40 * place
            for number, corner in enumerate([(50, 0), (50, height), (450, height), (450, 0)]):
                (pen.moveTo if number == 0 else pen.lineTo)(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (500, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100)
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Nothing is remembered of another test."""
    caches = (fonts.system_font, fonts._files, fonts._say_once)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without fontconfig, and its folder of fonts."""
    folder = tmp_path / "fonts"
    monkeypatch.setattr(fonts, "FOLDERS", {})
    monkeypatch.setattr(fonts, "ELSEWHERE", (str(folder),))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return folder


def drawn(name: str, font: Path | None = None) -> bytes:
    picture = np.full((200, 600, 3), 255, np.uint8)
    found = Detections(
        np.array([[2]]), np.array([[[20, 60, 120, 90]]], np.float32), np.array([[0.5]], np.float32)
    )
    path = None if font is None else str(font)
    return draw_detections(picture, found, ["a", "b", name], font=path).tobytes()


def test_a_known_file_of_the_system(bare: Path) -> None:
    number = drawn("class 2")
    assert drawn("三角形") == number
    fonts.system_font.cache_clear()
    fonts._files.cache_clear()
    make_font(bare / "deep" / "NotoSansCJK-Regular.ttc", "三角形0123456789.")
    assert drawn("三角形") != number
    assert drawn("三角") != drawn("三形")  # letters, not boxes for what is lacking
    assert drawn("さんかく") == number


def test_the_font_that_is_named(bare: Path, tmp_path: Path) -> None:
    path = make_font(tmp_path / "mine.ttf", "三角形0123456789.")
    assert drawn("三角形", path) not in (drawn("class 2"), drawn("三角形"))
    # What it lacks is taken from Pillow's own.
    assert drawn("dog", path) == drawn("dog")


def test_fontconfig_is_asked(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_font(tmp_path / "odd name.ttf", "三角形0123456789.")
    program = tmp_path / "fc-list"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\necho "/nowhere/none.ttf"\necho "{path}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    assert drawn("三角形") != drawn("class 2")
    assert ":charset=4e09 5f62 89d2" in (tmp_path / "asked").read_text()
    program.write_text("#!/bin/sh\nexit 1\n")
    fonts.system_font.cache_clear()
    assert drawn("三角形") == drawn("class 2")


def test_it_is_said_once(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        for _ in range(3):
            drawn("三角形")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "no font of this machine has the letters of the class '三角形': drawn as 'class 2'; --font"
    )


def test_letters_that_are_joined_need_a_shaper(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arabic and Hindi would be readable by nobody, letter by letter."""
    make_font(bare / "DejaVuSans.ttf", "مثلترिोणक0123456789.")
    monkeypatch.setattr(features, "check", lambda name: False)
    assert drawn("مثلث") == drawn("class 2")
    assert drawn("तरण") == drawn("class 2")
    assert fonts.needs_shaping("שלום")
    assert not fonts.needs_shaping("tam giác треугольник 三角形")


def test_what_is_no_font(tmp_path: Path) -> None:
    path = tmp_path / "none.ttf"
    for content in (None, b"", b"no font" * 50):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=r"font .*none\.ttf cannot be read: ") as caught:
            fonts.check_font(path)
        assert "\n" not in str(caught.value)
    fonts.check_font(None)


def test_a_picture_as_a_font(tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.ttf")
    with pytest.raises(UsageError, match="cannot be read"):
        fonts.check_font(tmp_path / "a.ttf")

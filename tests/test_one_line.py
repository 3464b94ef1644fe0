"""What files and arguments say reaches a terminal in one line, escaped and of bounded length."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, fails
from conftest import write_training_file
from handmade import manifest
from PIL import Image
from plain import ODD_CATEGORIES, is_plain

from anydepth_deploy import console
from anydepth_deploy.bundle.files import MANIFEST, read_manifest, write_manifest
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import (
    AnyDepthError,
    BundleError,
    CheckFailedError,
    UsageError,
    in_one_line,
    shorten,
    shown,
)
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.pictures.draw import draw_detections, side_by_side

SPACES = "\u00a0\u2003\u202f\u3000"
"""In names of files: a Mac's screenshots have the third before AM and PM."""

ODD = {
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\0": r"\x00",
    "\x1b[31m": r"\x1b[31m",
    "\x7f": r"\x7f",
    "\x9b2J": r"\x9b2J",
    "\u2028": r"\u2028",
    "\u2029": r"\u2029",
    "\u202e": r"\u202e",
    "\u2066": r"\u2066",
    "\u200b": r"\u200b",
    "\ufeff": r"\ufeff",
    "\U000e0041": r"\U000e0041",
    chr(0xDCE9): r"\xe9",  # a byte of a name that is not UTF-8
    chr(0xD800): r"\ud800",
}
"""What moves a cursor, ends a line, turns its direction or is not seen at all."""

ORDINARY = "Ä é ñ 三角 треугольник مثلث שלום 🙂 'quoted' C:\\folder [bold]"


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_what_a_terminal_would_obey_is_escaped(text: str) -> None:
    assert shown(f"a{text}b") == f"a{ODD[text]}b"
    assert str(BundleError(f"a{text}b")) == f"a{ODD[text]}b"
    assert shorten([f"a{text}b", "c"]) == f"'a{ODD[text]}b', c"


def test_ordinary_text_stays_as_it_is() -> None:
    assert shown(ORDINARY) == in_one_line(ORDINARY) == shorten([ORDINARY]) == ORDINARY


@pytest.mark.parametrize("letter", ["k", "三", "\n", "\u202e", "\udce9", "\U000e0041"])
def test_long_texts_are_cut_in_the_middle(letter: str) -> None:
    text = f"begin{letter * 100_000}end"
    for cut, most in ((shown(text), 300), (in_one_line(text), 1000)):
        assert cut.startswith("begin")
        assert cut.endswith("end")
        assert most - 60 <= len(cut) <= most
        head, _, rest = cut.partition("… (")
        count, _, tail = rest.partition(" characters left out) …")
        one = len(shown(letter))
        kept = len(head.removeprefix("begin")) + len(tail.removesuffix("end"))
        assert kept % one == 0  # no escape is cut in two
        raw = 100_000 * (4 if letter == "\udce9" else 1)  # a byte is read as what stands for it
        assert int(count) == raw - kept // (1 if letter == "\udce9" else one)
    assert in_one_line(in_one_line(text)) == in_one_line(text)


@pytest.mark.parametrize("size", range(290, 312))
def test_texts_of_about_the_most(size: int) -> None:
    text = "".join(map(str, range(size)))[:size]
    assert shown(text) == text if size <= 300 else len(shown(text)) <= 300


def test_errors_are_one_line_however_they_are_raised() -> None:
    for error in (AnyDepthError("a\nb"), UsageError("a\nb"), CheckFailedError("a\nb")):
        assert str(error) == r"a\nb"
        assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == r"a\nb"
    assert str(AnyDepthError()) == ""


def test_so_is_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("anydepth_deploy").warning("%s\n%d", "a\x1b\u202e" + "k" * 100_000, 3)
    (record,) = caplog.records
    assert record.getMessage().startswith(r"a\x1b\u202ekkk")
    assert record.getMessage().endswith(r"\n3")
    assert len(record.getMessage()) <= 1000


def test_tables_lines_and_notes(capfd: pytest.CaptureFixture[str]) -> None:
    odd = "".join([*ODD][:-1])
    console.print_table(f"t{odd}", [f"c{odd}"], [[f"r{odd}"], ["k" * 100_000]])
    console.print_line(f"l{odd}")
    console.print_note(f"n{odd}")
    told = capfd.readouterr()
    assert all(is_plain(letter) or letter == "\n" for letter in told.out + told.err)
    escaped = "".join([*ODD.values()][:-1])
    lines = told.out.splitlines()
    assert f"l{escaped}" in lines
    assert told.err == f"note: n{escaped}\n"
    assert any(line.strip() == f"r{escaped}" for line in lines)
    assert len(told.out) < 6000


def test_json_is_exact(capfd: pytest.CaptureFixture[str]) -> None:
    exact = {text: [text * 3, "k" * 100_000] for text in ODD if text[0] < "\ud7ff"}
    console.print_json(exact)
    told = capfd.readouterr().out
    assert told.isascii()
    assert "\x1b" not in told
    assert json.loads(told) == {"schema_version": 1, **exact}


# --- files that say such things --------------------------------------------------------------


def test_a_manifest_with_odd_keys(tmp_path: Path) -> None:
    content = manifest().model_dump(mode="json")
    for key in (*(f"a{text}b" for text in [*ODD][:-2]), "k" * 100_000):
        (tmp_path / MANIFEST).write_text(json.dumps({**content, key: 1}))
        with pytest.raises(BundleError) as caught:
            read_manifest(tmp_path)
        message = str(caught.value)
        assert is_plain(message)
        assert message.startswith(
            f"{tmp_path / MANIFEST} is not a valid manifest: {shorten([key])}: "
        )
        assert message.endswith("delete the folder and export the bundle again")
        assert len(message) <= 1000


def test_names_in_arguments_and_files(run: Run, tmp_path: Path, model: AnyDepthDETR) -> None:
    odd = "x\x1b[2J\nerror: forged\u202e"
    told = r"x\x1b[2J\nerror: forged\u202e"
    fails(run("inspect", tmp_path / odd), 2, told)
    fails(run("inspect", f"https://{odd}"), 2, told)
    fails(run("bench", tmp_path, "--runtime", odd), 2)
    fails(run("inspect", f"--{odd}"), 2)
    fails(run(odd), 2)
    fails(run("inspect", "k" * 100_000), 2, "characters left out")
    folder = tmp_path / odd
    write_training_file(folder / f"{odd}.pth", model, stale=model)
    found = run("inspect", folder / f"{odd}.pth")
    assert (found.code, found.err) == (0, "")
    assert is_plain(found.out.replace("\n", ""))
    assert run("inspect", folder / f"{odd}.pth", "--json").json["path"] == f"{folder}/{odd}.pth"
    write_manifest(tmp_path, manifest(classes=[odd, "b", "k" * 100_000], family=odd))
    found = run("inspect", tmp_path)
    assert (found.code, found.err) == (0, "")
    assert is_plain(found.out.replace("\n", ""))
    assert len(max(found.out.splitlines(), key=len)) <= 1000
    assert run("inspect", tmp_path, "--json").json["classes"][0] == odd


def test_captions(tmp_path: Path) -> None:
    """A class's name is one line of bounded width in a drawing, too."""
    picture = np.full((600, 600, 3), 255, np.uint8)
    box = np.array([[[200, 200, 500, 500]]], np.float32)
    found = Detections(np.zeros((1, 1), np.int64), box, np.ones((1, 1), np.float32))
    short, *others = (
        np.asarray(draw_detections(picture, found, [name]))
        for name in ("class 0", "two\nlines", "e\x1b[0m", "w" * 100_000)
    )
    assert all((drawn == short).all() for drawn in others[:2])
    rows = np.flatnonzero((others[2] != 255).any(-1).any(1))
    assert rows[0] >= 200 - 40
    sheet = side_by_side([Image.fromarray(picture)] * 2, ["a\nb", "k" * 100_000])
    assert sheet.height < 660


def test_spaces_of_any_width_stay() -> None:
    """Or a path that is printed names no file."""
    path = f"Screenshot 9.41{SPACES}AM.png"
    assert shown(path) == in_one_line(path) == shorten([path]) == path


def test_every_letter_is_shown_and_nothing_else() -> None:
    """Whatever this Python's Unicode has assigned."""
    for point in range(sys.maxunicode + 1):
        letter = chr(point)
        category = unicodedata.category(letter)
        if category != "Cn":
            assert (shown(letter) == letter) == (category not in ODD_CATEGORIES), hex(point)

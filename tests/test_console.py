"""What the command line prints: text is printed as it is, progress goes to standard error."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from anydepth_deploy import console
from anydepth_deploy.documents import utc_now

AWKWARD = ["[/b]", "a[b]c.png", "[red]stop[/red]", ":star:", "{task.id}", "\\[x]", "100%"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard output that are not blank: title, columns, a rule, rows."""
    lines = (line.strip() for line in capsys.readouterr().out.splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("text", AWKWARD)
def test_tables_print_text_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    console.print_table(f"title {text}", [f"column {text}"], [[text], [f"cell {text}"]])
    lines = printed(capsys)
    assert lines[:2] == [f"title {text}", f"column {text}"]
    assert lines[3:5] == [text, f"cell {text}"]


@pytest.mark.parametrize("text", AWKWARD)
def test_bars_print_text_as_it_is(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with console.bar(f"label {text}") as progress:
        progress(f"step {text}", 1, 3)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert f"label {text}: step {text}" in shown
    assert "1/3" in shown


@pytest.mark.parametrize("quiet", [False, True])
def test_bars_are_silent(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    with console.bar("label", quiet=quiet) as progress:
        progress("step", 1, 3)
    assert capsys.readouterr() == ("", "")


def test_numbers_are_aligned_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("t", ["name", "value"], [["a", 1], ["b", -1000]])
    lines = printed(capsys)
    assert lines[3].endswith("    1")
    assert lines[4].endswith("-1000")


def test_json_holds_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": [1.5, float("nan"), -float("inf")]})
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "a": [1.5, None, None]}


def test_times_are_in_utc() -> None:
    assert len(utc_now()) == 25
    assert utc_now().endswith("+00:00")

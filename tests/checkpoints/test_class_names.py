"""Class names from files and from what checkpoints say: read whatever wrote them, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.checkpoints.class_names import class_names, listed_names, read_names
from anydepth_deploy.errors import UsageError

MARKED = {
    "utf-8": "utf-8-sig",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
    "utf-32-le": "utf-32-le",
    "utf-32-be": "utf-32-be",
}
"""Encodings, and what Python calls them; all but the first write no mark by themselves."""


def encoded(text: str, codec: str) -> bytes:
    """``text`` behind a byte-order mark."""
    return ("\ufeff" + text).encode(codec)


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_names(path)
    message = str(caught.value)
    assert message.startswith(f"class names {path}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("codec", MARKED)
def test_a_mark_at_the_beginning_is_no_part_of_a_name(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(encoded("triangle\r\nsquare\r\n\r\ncafé\r\n", codec))
    assert read_names(path) == ["triangle", "square", "café"]
    assert class_names(3, file=path) == ["triangle", "square", "café"]


def test_marks_of_files_that_were_joined(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n" + b"\xef\xbb\xbftwo\r\n" + b"three")
    assert read_names(path) == ["one", "two", "three"]


names = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20
)


@examples(150)
@given(
    wanted=st.lists(names, min_size=1, max_size=8, unique=True),
    codec=st.sampled_from(sorted(MARKED)),
    marked=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank=st.sampled_from(["", "  ", "\t"]),
)
def test_whatever_wrote_the_file(
    tmp_path: Path, wanted: list[str], codec: str, marked: bool, end: str, blank: str
) -> None:
    text = "".join(f"{blank}{name}{end}{blank}{end}" for name in wanted)
    path = tmp_path / "names.txt"
    path.write_bytes(encoded(text, codec) if marked else text.encode("utf-8"))
    assert read_names(path) == wanted


@examples(100)
@given(data=st.data(), wanted=st.lists(names, min_size=1, max_size=8, unique=True))
def test_names_that_occur_twice(tmp_path: Path, data: Any, wanted: list[str]) -> None:
    again = data.draw(st.lists(st.sampled_from(wanted), min_size=1, max_size=4))
    lines = data.draw(st.permutations([*wanted, *again]))
    path = tmp_path / "names.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    message = refusal(path)
    first = next(name for name in lines if lines.count(name) > 1)
    places = ", ".join(str(place) for place, name in enumerate(lines, 1) if name == first)
    assert f"names that occur twice: '{first}' (lines {places})" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"one\n\x1b[31mtwo\n", r"line 2 ('\x1b[31mtwo')"),
        (b"one\ntwo\x00\n", r"line 2 ('two\x00')"),
        ("one\n\u202egnp\n".encode(), r"line 2 ('\u202egnp')"),
        ("one\ntwo\u2028three\n".encode(), r"line 2 ('two\u2028three')"),
        ("one\nt\ufeffwo\n".encode(), r"line 2 ('t\ufeffwo')"),
        (b"x" * 101, "more than 100"),
        ("one\ntwo".encode("utf-16-le"), "line 1 ("),
        ("café".encode("latin-1"), "cannot be read"),
        (b"\xff\xfeodd", "cannot be read"),
    ],
)
def test_names_that_cannot_be_shown(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert told in refusal(path)


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("x" * 100)
    assert read_names(path) == ["x" * 100]


def test_too_few_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="has 2 names, the network has 3 classes"):
        class_names(3, file=path)


WANTED = ["cat", "dog", "猫"]


@pytest.mark.parametrize(
    "said",
    [
        ["cat", "dog", "猫"],
        ("cat", "dog", "猫"),
        {0: "cat", 1: "dog", 2: "猫"},
        {2: "猫", 0: "cat", 1: "dog"},
        {"0": "cat", "1": "dog", "2": "猫"},
        {"dog": 1, "cat": 0, "猫": 2},
    ],
)
def test_forms_of_what_a_checkpoint_says(said: object) -> None:
    assert listed_names(said) == WANTED


@pytest.mark.parametrize(
    "said",
    [
        None,
        "cat",
        [],
        {},
        {1: "cat", 2: "dog"},
        {0: "cat", "0": "dog"},
        {"cat": 0, "dog": 0},
        {"cat": 1, "dog": 2},
        {0: ["nested"]},
        {(0,): "cat"},
        {True: "cat"},
        ["cat", None],
        ["cat", "\x07"],
        [["cat"], ["dog"]],
        {"00": "cat"},
    ],
)
def test_what_is_no_list_of_names(said: object) -> None:
    assert listed_names(said) is None

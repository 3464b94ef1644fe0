"""Tables meet widths without breaking words, numbers, or names of depths."""

from __future__ import annotations

import random
import re

import pytest
from rich.cells import cell_len

from anydepth_deploy import console
from anydepth_deploy.output.tables import lay_out, wrapped

COLUMNS = ["depth", "multiply-adds", "median ms", "p99.9", "verdict", "file"]
ROWS = [
    ["FFTT-F-6", "67.0 G", "3.21 [3.10, 3.30]", "4.5", "valid", "graphs/gated-fp32-shared.onnx"],
    ["TTTT-T-3", "9.5 M", "13.2 [12.1, 14.0]", "-", "throttled by the power cap", "a.onnx"],
]


def texts(columns: list[str], rows: list[list[str]], width: int, keys: int = 1) -> list[str]:
    numeric = [False, True, True, True, False, False, *[False] * 20][: len(columns)]
    return [line.text for line in lay_out(columns, rows, numeric, width, keys)]


def pieces(text: str) -> list[str]:
    """What a reader must find in one line: words, numbers with their units, intervals."""
    return re.findall(r"\[[^\]]*\]|[\d.]+ [GM]\b|\S+", text)


@pytest.mark.parametrize("width", [*range(20, 160, 7), 80, 60, 100])
def test_nothing_is_broken_at_any_width(width: int) -> None:
    lines = texts(COLUMNS, ROWS, width)
    for row in [COLUMNS, *ROWS]:
        for cell in row:
            for piece in pieces(cell):
                assert any(piece in line for line in lines), piece
    longest = max(cell_len(piece) for row in ROWS for cell in row for piece in pieces(cell))
    label = max(map(len, COLUMNS)) + 5
    assert max(map(cell_len, lines)) <= max(width, longest + label + 20)
    if width >= 60:
        assert max(map(cell_len, lines)) <= width


def test_wide_enough_is_one_line_a_row() -> None:
    lines = texts(COLUMNS, ROWS, 140)
    assert len(lines) == 4
    assert set(lines[1].strip()) == {"─"}
    assert lines[2].split()[0] == "FFTT-F-6"


def test_parts_repeat_the_names_of_rows() -> None:
    """Rows of numbers stay comparable: a part below has the keys again, and nothing twice else."""
    columns = ["artifact", "depth", *(f"column{number}" for number in range(12))]
    rows = [["gated", name, *(f"{row}.{number}" for number in range(12))] for row, name in
            enumerate(["FFFF-F-3", "TTTT-T-6"])]  # fmt: skip
    lines = texts(columns, rows, 60, keys=2)
    assert max(map(len, lines)) <= 60
    text = "\n".join(lines)
    parts = text.split("\n\n")
    assert len(parts) > 1
    for part in parts:
        head, _, *body = part.splitlines()
        assert head.split()[:2] == ["artifact", "depth"]
        assert [line.split()[:2] for line in body] == [["gated", "FFFF-F-3"], ["gated", "TTTT-T-6"]]
    for number in range(12):
        assert text.count(f"column{number} ") + text.count(f"column{number}\n") == 1


def test_a_list_where_no_two_columns_fit() -> None:
    path = "engines/" + "x" * 70 + ".onnx"
    lines = texts(["file", "depth", "size"], [[path, "FFFF", "1 MB"], ["b", "TTTT", "2 MB"]], 80)
    assert lines == [
        f" file: {path}",
        "   depth: FFFF",
        "   size: 1 MB",
        "",
        " file: b",
        "   depth: TTTT",
        "   size: 2 MB",
    ]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("67.0 G and 1.2 %", 6, ["67.0 G", "and", "1.2 %"]),
        ("3.2 [3.1, 3.3]", 10, ["3.2", "[3.1, 3.3]"]),
        ("12 ms, 5 MB", 6, ["12 ms,", "5 MB"]),
        ("unbreakable", 4, ["unbreakable"]),
        ("三角 形", 4, ["三角", "形"]),
        ("", 5, [""]),
    ],
)
def test_lines_end_between_words(text: str, width: int, expected: list[str]) -> None:
    assert wrapped(text, width) == expected


def test_random_tables_lose_nothing() -> None:
    """An oracle that only reads: all that is in cells is in the lines, and lines are within the
    width unless a word is longer."""
    source = random.Random(0)
    for _ in range(300):
        count = source.randint(1, 9)
        width = source.choice([40, 60, 80, 100])
        rows = [
            [
                " ".join("abcdefghij"[: source.randint(1, 10)] for _ in range(source.randint(0, 4)))
                for _ in range(count)
            ]
            for _ in range(source.randint(0, 5))
        ]
        columns = [f"n{number}" for number in range(count)]
        found = [*lay_out(columns, rows, [False] * count, width, source.randint(1, 2))]
        assert max(len(line.text) for line in found) <= width
        told = sorted(word for row in rows for cell in row for word in cell.split())
        seen = sorted(
            word
            for line in found
            if line.kind == "row"
            for word in line.text.split()
            if re.fullmatch("[a-j]+", word)
        )
        parts = sum(line.kind == "rule" for line in found)
        assert len(seen) >= len(told)
        assert parts > 1 or seen == told


@pytest.mark.parametrize("width", [60, 80, 100])
def test_columns_of_the_environment_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    title = "a title of many words " * 8
    console.print_table(title, COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert " ".join(lines).split()[: len(title.split())] == title.split()

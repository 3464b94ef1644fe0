"""What speaks against the pictures of a calibration, and that it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_exports import made_up
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anydepth_deploy.calibration.doubts import FEWEST, doubts, known_doubts, warning
from anydepth_deploy.calibration.table import RangeTable, read_table, write_table
from anydepth_deploy.errors import CalibrationError
from anydepth_deploy.pictures.variety import Variety

SOUND = Variety(count=512, telling=512)


@pytest.mark.parametrize(
    ("variety", "told"),
    [
        (
            Variety(3, 3, 2, 0),
            ["3 of 3 are of one colour", "2 of 3 equal another", ": 0, at least"],
        ),
        (Variety(3, 0, 0, 3), [": 3, at least"]),
        (Variety(1, 0, 0, 1), [": 1, at least"]),
        (Variety(200, 100, 0, 100), ["100 of 200 are of one colour"]),
        (Variety(200, 0, 150, 50), ["150 of 200 equal another"]),
        (Variety(200, 99, 99, 100), []),
        (SOUND, []),
        (Variety(FEWEST, 0, 0, FEWEST), []),
    ],
)
def test_what_is_said_of_pictures(variety: Variety, told: list[str]) -> None:
    found = doubts(variety)
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=60))
@examples(100)
def test_what_cannot_calibrate_is_doubted_and_nothing_else(drawn: list[tuple[int, bool]]) -> None:
    """Pictures by number, and whether that one is of one colour."""
    plain = dict(reversed(drawn))  # the first of a number says
    numbers = [number for number, _ in drawn]
    flat = sum(plain[number] for number in numbers)
    telling = len({number for number in numbers if not plain[number]})
    variety = Variety(len(numbers), flat, len(numbers) - len(set(numbers)), telling)
    mostly = max(flat, variety.repeated) * 2 >= len(numbers)
    assert bool(doubts(variety)) == (mostly or telling < FEWEST)


def test_a_table_keeps_what_was_said(checkpoint: Path, tmp_path: Path) -> None:
    reasons = doubts(Variety(3, 3, 2, 0))
    path = tmp_path / "t.json"
    write_table(path, made_up(checkpoint, warnings=reasons))
    found = read_table(path)
    assert known_doubts(found) == found.warnings == reasons
    told = warning(path, reasons)
    assert told.startswith(f"range table {path}: ")
    assert all(reason in told for reason in reasons)
    assert "\n" not in told


def test_tables_without_a_word_stay_what_they_were(checkpoint: Path, tmp_path: Path) -> None:
    """Older ones open, have the hash that bundles know them by, and are doubted by their count."""
    pictures = {"count": 512, "sha256": "0" * 64, "seed": 0}
    sound = made_up(checkpoint, pictures=pictures)
    path = tmp_path / "t.json"
    write_table(path, sound)
    assert "warnings" not in json.loads(path.read_text())
    assert read_table(path).sha256 == sound.sha256
    assert known_doubts(read_table(path)) == []
    few = made_up(checkpoint, pictures={**pictures, "count": 3})
    assert known_doubts(few) == [f"in all: 3, at least {FEWEST} expected"]


def test_what_a_table_says_is_shown_as_one_line(checkpoint: Path, tmp_path: Path) -> None:
    table = made_up(checkpoint, warnings=["one\ntwo \x1b[2J", *map(str, range(20))])
    told = warning("a\nb", known_doubts(table))
    assert told.isprintable()
    with pytest.raises(ValidationError):
        made_up(checkpoint, warnings=["x" * 201])
    path = tmp_path / "t.json"
    content = made_up(checkpoint).model_dump(mode="json")
    path.write_text(json.dumps({**content, "warnings": "text"}))
    with pytest.raises(CalibrationError, match="warnings"):
        read_table(path)
    assert isinstance(table, RangeTable)

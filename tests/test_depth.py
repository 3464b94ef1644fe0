"""Depths: text both ways, ladders, and the rows an exported graph counts."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import example, given
from hypothesis import strategies as st

from anydepth_deploy.depth import Depth, DepthSpace, DepthTable, Gate, parse_ladder
from anydepth_deploy.errors import DepthError
from anydepth_deploy.families.detr.config import CONFIGS

R50 = CONFIGS["r50"].depth_space
LADDER = ("TTTT-T-4", "FFTF-F-4", "FFTF-F-6", "FFFF-F-4", "FFFF-F-5", "FFFF-F-6")
TABLE = DepthTable(R50, tuple(R50.parse(text) for text in LADDER))
ALL_TEXTS = [
    f"{''.join(stages)}-{encoder}-{layers}"
    for stages in itertools.product("FT", repeat=4)
    for encoder in "FT"
    for layers in range(1, 7)
]
EIGHT_STAGES = DepthSpace(tuple(Gate(f"stage{index}", 0) for index in range(8)), (1,) * 8)


@pytest.mark.parametrize("text", ALL_TEXTS)
def test_every_depth_reads_as_it_is_written(text: str) -> None:
    skips = [int(letter == "T") for letter in text[:4] + text[5]]
    depth = R50.parse(text)
    assert depth.settings == (*skips, int(text[-1]))
    assert str(depth) == text
    assert R50.depth(depth.settings) == depth
    assert R50.parse(text.lower()) == R50.parse(f"  {text}\n") == depth
    assert TABLE.rows[TABLE.row(text)] == TABLE.find(depth) == depth


def test_one_group_of_gates_needs_no_dash() -> None:
    depth = EIGHT_STAGES.parse("ffttffff")
    assert depth.settings == (0, 0, 1, 1, 0, 0, 0, 0)
    assert str(depth) == "FFTTFFFF"
    assert str(EIGHT_STAGES.super) == "FFFFFFFF"
    assert str(EIGHT_STAGES.base) == "TTTTTTTT"
    assert len(EIGHT_STAGES.every) == 256


@pytest.mark.parametrize("groups", [(0,), (0, 1)])
def test_a_number_alone_is_no_depth(groups: tuple[int, ...]) -> None:
    """Digits are a row, everywhere; so layers get a letter where all gates count them."""
    gates = tuple(Gate(f"decoder{group}", group, layers=6) for group in groups)
    space = DepthSpace(gates, (4,) * len(gates))
    assert str(space.super) == "-".join(["L6"] * len(gates))
    assert str(space.base) == "-".join(["L4"] * len(gates))
    for depth in space.every:
        assert space.parse(str(depth)) == space.parse(str(depth).lower()) == depth
    table = DepthTable(space, (space.base, space.super))
    for row, depth in enumerate(table.rows):
        assert table.find(str(row)) == table.find(f" {row}\n") == table.find(row) == depth
        assert table.find(str(depth)) == depth
        assert table.select(f"{row},{depth}") == (depth,)
    for text in ("6", "LL6", "L", "L6-6", "6L", "F", "L7"):
        with pytest.raises(DepthError, match=f"unknown depth '{text}'"):
            space.parse(text)


@pytest.mark.parametrize("table", [TABLE, DepthTable(EIGHT_STAGES, EIGHT_STAGES.every[::-255])])
def test_digits_are_a_row(table: DepthTable) -> None:
    for row, depth in enumerate(table.rows):
        assert table.find(f"{row}") == table.find(f" 0{row} ") == depth
        assert table.row(f"{row}") == row
    for text in ("-1", str(len(table.rows)), "999999999"):
        with pytest.raises(DepthError, match=f"unknown depth row {text}: rows go from 0 to"):
            table.find(text)
    with pytest.raises(DepthError, match="written like"):
        table.find("1" * 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("super", "FFFF-F-6"),
        (" SUPER ", "FFFF-F-6"),
        ("base", "TTTT-T-4"),
        ("Base", "TTTT-T-4"),
        ("level:0", "TTTT-T-4"),
        ("level:2", "FFTF-F-6"),
        ("LEVEL:5", "FFFF-F-6"),
        (" level:3 ", "FFFF-F-4"),
    ],
)
def test_names_of_depths(text: str, expected: str) -> None:
    assert str(TABLE.find(text)) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FFFF-F", "written like 'FFFF-F-6'"),
        ("FFFF-F-6-6", "written like"),
        ("FFFFF6", "written like"),
        ("FFF-F-6", "written like"),
        ("FFFFF-F-6", "written like"),
        ("FFFF-FF-6", "written like"),
        ("FFXF-F-6", "written like"),
        ("0011-0-6", "written like"),
        ("FFFF-F-F", "written like"),
        ("FFFF-F-", "written like"),
        ("FFFF-F--1", "written like"),
        ("FFFF-F-1.5", "written like"),
        ("FFFF-F-٣", "written like"),
        ("", "written like"),
        ("sup er", "written like"),
        ("level", "written like"),
        ("level:", "written like"),
        ("level:one", "written like"),
        ("level:2:3", "written like"),
        ("FFFF-F-0", "gate 'decoder' cannot be 0"),
        ("FFFF-F-7", "gate 'decoder' cannot be 7"),
        ("FFFF-F-999", "gate 'decoder' cannot be 999"),
        ("level:6", "levels 0 to 5"),
        ("level:-1", "levels 0 to 5"),
        ("level:" + "9" * 5000, "written like"),
    ],
)
def test_texts_that_are_no_depth(text: str, told: str) -> None:
    with pytest.raises(DepthError) as caught:
        TABLE.find(text)
    message = str(caught.value)
    assert told in message
    assert message.startswith("unknown depth")
    assert "\n" not in message


@pytest.mark.parametrize("row", [-1, -192, 192, 10**9, np.int64(-1), np.int64(192)])
def test_rows_out_of_range(row: int) -> None:
    with pytest.raises(DepthError, match="rows go from 0 to 191, of which 0 to 5 are the ladder"):
        TABLE.find(row)


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint8])
def test_rows_of_any_integer_type(kind: type) -> None:
    assert TABLE.find(kind(0)) == R50.base
    assert TABLE.find(kind(5)) == R50.super
    assert TABLE.row(kind(191)) == 191


@pytest.mark.parametrize(
    "depth", [None, 1.0, b"super", True, False, np.True_, np.float32(1), np.array([1]), ("base",)]
)
def test_what_no_depth_can_be(depth: Any) -> None:
    for read in (TABLE.find, TABLE.row, TABLE.level):
        with pytest.raises(DepthError, match=f"cannot be of type {type(depth).__name__}: expected"):
            read(depth)


def test_a_depth_of_another_model() -> None:
    stranger = CONFIGS["tiny"].depth_space.parse("FFFF-F-1")
    assert TABLE.find(stranger) == R50.parse("FFFF-F-1")
    with pytest.raises(DepthError, match="not one of this model's 192"):
        TABLE.find(Depth((0, 0, 0, 0, 0, 9), "FFFF-F-9"))


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ((0, 0, 0, 0, 0), "sets 6 gates, 5 were given"),
        ((0, 0, 0, 0, 0, 6, 0), "sets 6 gates, 7 were given"),
        ((2, 0, 0, 0, 0, 6), "'backbone.layer1' cannot be 2"),
        ((0, 0, 0, 0, -1, 6), "'encoder' cannot be -1"),
        ((0, 0, 0, 0, 0, 0), "'decoder' cannot be 0"),
    ],
)
def test_settings_that_no_gate_has(chosen: tuple[int, ...], told: str) -> None:
    with pytest.raises(DepthError, match=told):
        R50.depth(chosen)


def test_table_holds_every_depth_once_and_the_ladder_first() -> None:
    rows = [str(depth) for depth in TABLE.rows]
    assert tuple(rows[: TABLE.levels]) == LADDER
    assert len(rows) == len(set(rows)) == 192
    assert set(rows) == set(ALL_TEXTS)
    assert [TABLE.row(text) for text in rows] == list(range(192))
    # Bundles of one network agree on their rows: the rest keeps the order of the settings.
    assert rows[TABLE.levels :] == [
        text
        for text in sorted(ALL_TEXTS, key=lambda text: (text[:6], -int(text[-1])))
        if text not in LADDER
    ]


def test_levels_are_the_rows_of_the_ladder() -> None:
    assert [TABLE.level(text) for text in LADDER] == [0, 1, 2, 3, 4, 5]
    assert TABLE.level("TTTT-T-6") is None
    assert TABLE.level("level:4") == TABLE.level(4) == 4
    assert TABLE.level(6) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", LADDER),
        (" ALL ", LADDER),
        ("super,base,super", ("FFFF-F-6", "TTTT-T-4")),
        ("level:1, FFTF-F-4 ,ffff-f-1", ("FFTF-F-4", "FFFF-F-1")),
        ("FFFF-F-1,all", ("FFFF-F-1", *LADDER)),
    ],
)
def test_selecting_several_depths(text: str, expected: tuple[str, ...]) -> None:
    assert tuple(str(depth) for depth in TABLE.select(text)) == expected


def test_selecting_every_depth() -> None:
    assert TABLE.select("every") == TABLE.rows
    assert TABLE.select("all,every") == TABLE.rows
    assert {str(depth) for depth in TABLE.select("every")} == set(ALL_TEXTS)


@pytest.mark.parametrize("text", ["", ",", "all,", "all,nothing", "level:9", "all;every"])
def test_selecting_what_is_not_there(text: str) -> None:
    with pytest.raises(DepthError, match="unknown depth"):
        TABLE.select(text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("base,super", ["TTTT-T-4", "FFFF-F-6"]),
        ("TTTT-T-4, ftft-f-2 ,FFFF-F-6", ["TTTT-T-4", "FTFT-F-2", "FFFF-F-6"]),
        (",".join(LADDER), list(LADDER)),
    ],
)
def test_ladders_from_the_command_line(source: str, expected: list[str]) -> None:
    assert [str(depth) for depth in parse_ladder(R50, source)] == expected


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("super", "from base"),
        ("super,base", "from base"),
        ("base,FFFF-F-5", "from base"),
        ("FFFF-F-1,super", "from base"),
        ("base,base", "from base"),
        ("base,FFFF-F-1,FFFF-F-1,super", "each depth once"),
        ("base,TTTT-T-4,super", "each depth once"),
        ("base,nonsense,super", "unknown depth 'nonsense'"),
        ("base,,super", "unknown depth ''"),
        ("base,level:1,super", "unknown depth 'level:1'"),
    ],
)
def test_ladders_that_are_none(source: str, told: str) -> None:
    with pytest.raises(DepthError, match="the ladder: ") as caught:
        parse_ladder(R50, source)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", json.dumps(["base", "FFFF-F-2", "super"])),
        ("object.json", json.dumps({"ladder": ["base", "FFFF-F-2", "super"], "by": "hand"})),
        ("UPPER.JSON", json.dumps(["base", "ffff-f-2", "super"])),
        ("ladder", json.dumps({"ladder": ["base", "FFFF-F-2", "super"]})),
        ("lines", "base\nFFFF-F-2\nsuper\n"),
        ("by,hand", "base\nFFFF-F-2\nsuper\n"),
        ("r50,v2.txt", "base\nFFFF-F-2\nsuper\n"),
        ("lines.txt", "# measured\nbase\n\n  FFFF-F-2  # cheap\r\nsuper\n"),
    ],
)
def test_ladder_files(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    found = parse_ladder(R50, str(path))
    assert [str(depth) for depth in found] == ["TTTT-T-4", "FFFF-F-2", "FFFF-F-6"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("half.json", b'["base", ', "not valid JSON"),
        ("deep.json", b"[" * 200_000, "not valid JSON"),
        ("long.json", b"1" * 5000, "not valid JSON"),
        ("number.json", b"3", "expected a list of depths"),
        ("numbers.json", b"[0, 1]", "expected a list of depths"),
        ("other.json", b'{"rungs": ["base", "super"]}', "expected a list of depths"),
        ("binary.txt", b"\xff\xfe\x00base", "cannot be read"),
        ("numbers", b"[0, 1]", "expected a list of depths"),
        ("empty.txt", b"# nothing\n", "from base"),
        ("wrong.txt", b"base\nwhat\nsuper\n", "unknown depth 'what'"),
    ],
)
def test_ladder_files_that_are_none(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DepthError) as caught:
        parse_ladder(R50, str(path))
    message = str(caught.value)
    assert told in message
    assert str(path) in message
    assert "\n" not in message


MARKS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


@examples(60)
@given(
    codec=st.sampled_from(MARKS),
    rungs=st.lists(st.sampled_from(ALL_TEXTS), unique=True, max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    form=st.sampled_from(["lines", "list", "object", "joined"]),
)
def test_ladder_files_with_a_byte_order_mark(
    tmp_path: Path, codec: str, rungs: list[str], end: str, form: str
) -> None:
    ends = {str(R50.base), str(R50.super)}
    words = ["base", *(rung for rung in rungs if rung not in ends), "super"]
    text = {
        "lines": end.join(words),
        "joined": f"{end}\ufeff".join(words),
        "list": json.dumps(words),
        "object": json.dumps({"ladder": words}),
    }[form]
    path = tmp_path / ("ladder.json" if form in ("list", "object") else "ladder.txt")
    path.write_bytes(f"\ufeff{text}".encode(codec))
    assert [*map(str, parse_ladder(R50, str(path)))] == [str(R50.parse(word)) for word in words]


def test_ladder_files_that_cannot_be_opened(tmp_path: Path) -> None:
    folder = tmp_path / "folder.json"
    folder.mkdir()
    for path in (folder, tmp_path / "missing.json"):
        with pytest.raises(DepthError, match="cannot be read") as caught:
            parse_ladder(R50, str(path))
        assert str(path) in str(caught.value)


def almost_depths() -> st.SearchStrategy[str]:
    """Texts near the grammar: where a parser that trusts its input breaks."""
    words = st.sampled_from(
        ["FFTT", "F", "T", "6", "0", "-", "--", "level:", "base", "٣", "ß", "ﬀ"]
    )
    return st.lists(words, max_size=6).map("".join) | st.from_regex(r"level:-?[0-9]{1,30}")


@examples(300)
@given(st.text() | almost_depths())
@example("level:" + "1" * 5000)
def test_no_text_raises_anything_else(text: str) -> None:
    for read in (TABLE.find, TABLE.select, R50.parse):
        with contextlib.suppress(DepthError):
            found = read(text)
            depths = (found,) if isinstance(found, Depth) else found
            assert {str(depth) for depth in depths} <= set(ALL_TEXTS)
    with contextlib.suppress(DepthError):
        assert parse_ladder(R50, f"base,{text},super")[0] == R50.base


# --- one depth -------------------------------------------------------------------------------

NO_GATES = DepthSpace((), ())
ONE_LAYER = DepthSpace((Gate("decoder", 0, layers=1),), (1,))


@pytest.mark.parametrize(("space", "text"), [(NO_GATES, "full"), (ONE_LAYER, "L1")])
def test_a_network_of_one_depth(space: DepthSpace, text: str) -> None:
    (depth,) = space.every
    assert str(depth) == space.example == text
    assert space.base == space.super == depth
    for source in (text, "super", "base"):
        assert parse_ladder(space, source) == (depth,)
    table = DepthTable(space, (depth,))
    assert table.rows == table.ladder == (depth,)
    assert table.levels == 1
    for name in (
        text,
        f" {text.upper()}\n",
        "super",
        "base",
        "level:0",
        "0",
        0,
        np.int64(0),
        depth,
    ):
        assert (table.find(name), table.row(name), table.level(name)) == (depth, 0, 0)
    for words in ("all", "every", f"base,{text},super,0"):
        assert table.select(words) == (depth,)


@pytest.mark.parametrize("space", [NO_GATES, ONE_LAYER])
def test_what_a_network_of_one_depth_does_not_have(space: DepthSpace) -> None:
    table = DepthTable(space, (space.super,))
    for row in (1, "1", -1, "-1"):
        with pytest.raises(DepthError, match=rf"unknown depth row {row}: the only row is 0$"):
            table.find(row)
    for text in ("level:1", "level:-1"):
        with pytest.raises(DepthError, match=rf"the ladder has one level, 0 \({space.super}\)$"):
            table.find(text)
    for ladder in ((), (space.super, space.super)):
        with pytest.raises(DepthError, match="a ladder"):
            DepthTable(space, ladder)


@pytest.mark.parametrize("text", ["", "-", "F", "T", "L1", "L0", "full-full", "fu ll", "level"])
def test_texts_that_are_no_depth_of_a_network_without_gates(text: str) -> None:
    with pytest.raises(DepthError) as caught:
        NO_GATES.parse(text)
    assert str(caught.value) == (
        f"unknown depth '{text}': this model has no gates, its one depth is 'full' "
        "('super', 'base' and 'level:0' name it, too)"
    )


def test_full_is_a_depth_only_where_there_are_no_gates() -> None:
    for space in (R50, EIGHT_STAGES, ONE_LAYER):
        with pytest.raises(DepthError, match="written like"):
            space.parse("full")


def test_a_ladder_of_one_rung_needs_base_to_be_super() -> None:
    whole = DepthSpace((Gate("decoder", 0, layers=3),), (3,))
    table = DepthTable(whole, (whole.super,))
    assert [str(depth) for depth in table.rows] == ["L3", "L2", "L1"]
    assert [table.level(row) for row in range(3)] == [0, None, None]
    with pytest.raises(DepthError, match=r"rows go from 0 to 2, of which 0 is the ladder$"):
        table.find(3)
    for space in (R50, EIGHT_STAGES):
        for ladder in ((space.super,), (space.base,), ()):
            with pytest.raises(DepthError, match="a ladder goes from base"):
                DepthTable(space, ladder)

"""Range tables: written, read back, and refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anydepth_deploy.calibration.table import (
    Entry,
    RangeTable,
    check_table,
    read_table,
    write_table,
)
from anydepth_deploy.errors import CalibrationError
from anydepth_deploy.pictures.images import Preprocess

MODEL, PICTURES = "a1" * 32, "b2" * 32


def entry(low: float, high: float, **changes: float) -> dict[str, float]:
    found = {"low": low, "high": high, "minimum": low, "maximum": high}
    return {**found, "error_own": 0.01, "error_merged": 0.02, **changes}


def content(**changes: Any) -> dict[str, Any]:
    """A table of three depths, one of them no rung."""
    return {
        "format": "anydepth-deploy range table",
        "version": 1,
        "tool_version": "0.1.0",
        "created": "2025-01-31T12:00:00+00:00",
        "checkpoint": {"file": "best.pth", "sha256": MODEL},
        "family": "anydepth-yolo",
        "config": "tiny",
        "size": [160, 224],
        "preprocess": {"size": [160, 224], "resize": "letterbox", "antialias": False},
        "pictures": {"count": 32, "sha256": PICTURES, "seed": 7},
        "method": "percentile",
        "percentile": 99.99,
        "ladder": ["TT", "FF"],
        "depths": ["TT", "FF", "FT"],
        "tensors": {
            "a.full/x": {"FF": entry(-1.25, 3.0), "FT": entry(-0.5, 6.0)},
            "a.skipped/x": {"TT": entry(0.0, 1 / 3)},
            "dead": {"TT": entry(0, 0), "FF": entry(0, 0), "FT": entry(-0.0, 0.5)},
            "always zero": {"TT": entry(0, 0)},
        },
        "stages": [
            {
                "stage": "a",
                "depth": "FT",
                "variant": "full-skipped",
                "error_own": 0.02,
                "error_merged": 0.03,
            }
        ],
        **changes,
    }


def table(**changes: Any) -> RangeTable:
    return RangeTable.model_validate(content(**changes))


def one_line(error: pytest.ExceptionInfo[CalibrationError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


# --- writing and reading ---------------------------------------------------------------------


def test_what_is_read_equals_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ranges.json"
    written = table()
    write_table(path, written)
    assert read_table(path) == written
    assert read_table(str(path)) == written
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [item.name for item in path.parent.iterdir()] == ["ranges.json"]


def test_a_table_of_before_pictures_had_a_way_up_keeps_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_table(path, table())
    assert "orientation" not in path.read_text()
    assert read_table(path).pictures.orientation is None
    assert read_table(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for word in ("upright", "stored"):
        write_table(path, table(pictures={**content()["pictures"], "orientation": word}))
        assert json.loads(path.read_text())["pictures"]["orientation"] == word
        assert read_table(path).pictures.orientation == word
        assert read_table(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    wrong = content(pictures={**content()["pictures"], "orientation": "sideways"})
    path.write_text(json.dumps(wrong))
    with pytest.raises(CalibrationError, match=r"pictures\.orientation"):
        read_table(path)


def test_a_table_has_a_line_for_each_tensor_and_depth(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_table(path, table())
    text = path.read_text()
    expected = content()
    lines = [line for line in text.splitlines() if '"low"' in line]
    assert len(lines) == sum(len(entries) for entries in expected["tensors"].values())
    assert all(line.count('"low"') == 1 for line in lines)
    found = json.loads(text)
    # Values as given, but for the seventh digit of 1/3, the sign of -0.0, and defaults filled in.
    expected["tensors"]["a.skipped/x"]["TT"] |= {"high": 0.3333333, "maximum": 0.3333333}
    expected["tensors"]["dead"]["FT"] |= {"low": 0.0, "minimum": 0.0}
    preprocess = found.pop("preprocess")
    assert expected.pop("preprocess").items() <= preprocess.items()
    assert found == expected
    assert "-0.0" not in text


@given(st.floats(-3.4e38, 0), st.floats(0, 3.4e38))
def test_numbers_are_rounded_once(low: float, high: float) -> None:
    found = Entry.model_validate(entry(low, high))
    again = Entry.model_validate_json(found.model_dump_json())
    assert again == found
    assert found.low == pytest.approx(low, rel=1e-6, abs=0)
    assert found.high == pytest.approx(high, rel=1e-6, abs=0)


def test_a_failure_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ranges.json"
    write_table(path, table())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CalibrationError, match=r"ranges\.json cannot be written: No space"):
            write_table(path, table(config="other"))
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["ranges.json"]
    write_table(path, table(config="other"))
    assert read_table(path).config == "other"


def test_who_reads_meanwhile_reads_one_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_table(path, table())
    before = path.read_bytes()
    with path.open("rb", buffering=0) as file:
        start = file.read(20)
        write_table(path, table(config="other", stages=[]))
        assert start + file.readall() == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot be written"):
        write_table(tmp_path / "file" / "ranges.json", table())


def test_a_table_is_readable_by_others_as_any_new_file(tmp_path: Path) -> None:
    write_table(tmp_path / "a.json", table())
    (tmp_path / "b.json").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "b.json")]
    assert modes[0] == modes[1]


# --- questions -------------------------------------------------------------------------------


def test_merged_ranges_hold_those_of_all_depths() -> None:
    found = table()
    assert found.merged("a.full/x") == (-1.25, 6.0)
    assert found.merged("dead") == (0.0, 0.5)
    assert found.at("a.full/x", "FT").high == 6.0
    with pytest.raises(CalibrationError, match="no tensor 'b'"):
        found.merged("b")
    with pytest.raises(CalibrationError, match="no tensor 'b'"):
        found.ratio("b")
    with pytest.raises(CalibrationError, match=r"'a.full/x' at depth TT.* at FF, FT"):
        found.at("a.full/x", "TT")


def test_the_ratio_compares_widths_over_depths() -> None:
    found = table()
    assert found.ratio("a.full/x") == pytest.approx(6.5 / 4.25)
    assert found.ratio("a.skipped/x") == 1.0
    assert found.ratio("dead") == 1.0
    assert found.ratio("always zero") == 1.0


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        table().family = "other"


# --- refusals --------------------------------------------------------------------------------


def check(found: RangeTable, **changes: Any) -> None:
    given: dict[str, Any] = {
        "checkpoint_sha256": MODEL,
        "preprocess": table().preprocess,
        "depths": ["TT", "FT"],
        **changes,
    }
    check_table(found, what="range table r.json", **given)


def test_a_table_that_fits_is_accepted() -> None:
    check(table())
    check(table(), depths=[])


def test_a_table_of_the_same_file_with_other_words_is_refused() -> None:
    """Its ranges are another network's, though the file is the same."""
    relu, silu = {"decoder_activation": "relu"}, {"decoder_activation": "silu"}
    check(table(said=silu), said=silu)
    with pytest.raises(CalibrationError) as error:
        check(table(said=relu), said=silu)
    text = one_line(error)
    assert "r.json was made from another network" in text
    assert "it has --decoder-activation relu, this export --decoder-activation silu" in text
    for found, said in ((table(said=relu), {}), (table(), relu)):
        with pytest.raises(CalibrationError, match="nothing"):
            check(found, said=said)


def test_words_are_kept_in_the_file_and_only_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for said in ({}, {"sampling": "discrete"}):
        write_table(path, table(said=said))
        assert ('"said"' in path.read_text()) == bool(said)
        assert read_table(path) == table(said=said)


def test_a_table_of_another_checkpoint_is_refused() -> None:
    with pytest.raises(CalibrationError) as error:
        check(table(), checkpoint_sha256="c3" * 32)
    text = one_line(error)
    assert "range table r.json was made from another checkpoint (best.pth" in text
    assert "a1a1a1a1a1a1…" in text
    assert "c3c3c3c3c3c3…" in text


def test_a_table_of_another_input_size_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"160x224 \(height x width\).*for 224x160"):
        check(table(), preprocess=table().preprocess.model_copy(update={"size": (224, 160)}))


def test_a_table_of_pictures_that_met_the_input_otherwise_is_refused() -> None:
    other = Preprocess.of("letterbox", (160, 224), "stretch")
    with pytest.raises(CalibrationError) as error:
        check(table(), preprocess=other)
    assert one_line(error) == (
        "range table r.json was made with '--resize letterbox', this export is with "
        "'--resize stretch': calibrate with that"
    )


def test_a_table_without_a_depth_is_refused() -> None:
    with pytest.raises(CalibrationError) as error:
        check(table(), depths=["TT", "TF", "XX"])
    text = one_line(error)
    assert "has no ranges of TF, XX; it has TT, FF, FT" in text
    assert "calibrate ... --depth all,TF,XX'" in text
    with pytest.raises(CalibrationError, match="--depth every'"):
        check(table(), depths=[f"T{number}" for number in range(100)])


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


def with_value(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


X = ("tensors", "a.full/x", "FF")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(0.5, *X, "low"), "tensors.a.full/x.FF.low.*less than or equal to 0"),
        (with_value(-0.5, *X, "high"), "tensors.a.full/x.FF.high.*greater than or equal to 0"),
        (with_value(math.nan, *X, "low"), "NaN is no number of JSON"),
        (with_value(math.inf, *X, "high"), "Infinity is no number of JSON"),
        (with_value(-math.inf, *X, "minimum"), "-Infinity is no number of JSON"),
        (with_value(10**400, *X, "maximum"), "a number is too large"),
        (with_value(9.0, *X, "minimum"), "minimum 9.0 is above maximum 3.0"),
        (with_value(-0.1, *X, "error_own"), "FF.error_own"),
        (with_value(-1e300, *X, "error_merged"), "FF.error_merged"),
        (with_value("wide", *X, "low"), "FF.low"),
        (without(*X, "high"), "FF.high.*required"),
        (with_value(1, *X, "scale"), "FF.scale.*not permitted"),
        (with_value({}, "tensors", "a.full/x"), "'a.full/x' has no ranges"),
        (with_value(entry(0, 1), "tensors", "dead", "ZZ"), "'dead' has ranges .*not listed: ZZ"),
        (with_value({}, "tensors"), "tensors"),
        (with_value([1], "tensors"), "tensors"),
        (with_value("ZZ", "stages", 0, "depth"), "'a' has errors of a depth .*: ZZ"),
        (with_value([], "ladder"), "ladder"),
        (with_value(["FF", "TT"], "ladder"), "begin with the ladder"),
        (with_value(["TT", "FF", "FT", "FT"], "depths"), "listed twice"),
        (with_value([160, 160], "size"), "not the one that pictures are prepared for"),
        (with_value(None, "percentile"), "percentile belongs"),
        (with_value("minmax", "method"), "percentile belongs"),
        (with_value("mse", "method"), "method"),
        (with_value(0, "percentile"), "percentile"),
        (with_value(101, "percentile"), "percentile"),
        (with_value("a1", "checkpoint", "sha256"), "checkpoint.sha256"),
        (with_value(0, "pictures", "count"), "pictures.count"),
        (with_value("1", "version"), "version"),
        (without("created"), "created.*required"),
        (with_value(1, "colour"), "colour.*not permitted"),
    ],
)
def test_damaged_tables_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    found = content()
    change(found)
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(found))
    with pytest.raises(CalibrationError, match=message) as error:
        read_table(path)
    assert str(path) in one_line(error)


def test_other_methods_have_no_percentile(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_table(path, table(method="entropy", percentile=None))
    assert read_table(path).percentile is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON .it is not text in UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"version": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"[]", "is not a range table"),
        (b'{"format": "anydepth-deploy bundle"}', "is not a range table"),
        (b'{"format": "anydepth-deploy range table"}', "damaged"),
        (
            b'{"format": "anydepth-deploy range table", "version": 2}',
            "has version 2, this anydepth-deploy reads version 1",
        ),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(text)
    with pytest.raises(CalibrationError, match=message) as error:
        read_table(path)
    assert str(path) in one_line(error)
    assert "calibrate'" in one_line(error)


def test_missing_tables_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="does not exist; make one with"):
        read_table(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_table(tmp_path)

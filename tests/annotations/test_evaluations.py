"""Recorded evaluations: read with care, told apart by their data."""

from __future__ import annotations

from typing import Any

from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.annotations.evaluations import DataSet, fullest, labels, read_evaluations

RECORD: dict[str, Any] = {
    "when": "2026-01-01T00:00:00+00:00",
    "runtime": "onnxruntime",
    "precision": "int8",
    "artifacts": [{"name": "gated", "sha256": "a" * 64}],
    "data": "val.json",
    "data_sha256": "b" * 64,
    "pictures": 50,
    "mapped_by": "name",
    "rows": [{"depth": "TT-1", "ap": 20.0}, {"depth": "FF-2", "ap": 30.5}],
}


def test_a_record_is_read() -> None:
    (found,) = read_evaluations({"eval": [RECORD], "verify": [{}]})
    assert found.data == DataSet("val.json", 50, "b" * 64)
    assert (found.precision, found.runtime, found.artifacts) == ("int8", "onnxruntime", ("gated",))
    assert found.hashes == {"a" * 64}
    assert found.rows == {"TT-1": 20.0, "FF-2": 30.5}


def test_records_of_before_are_read() -> None:
    old = {name: RECORD[name] for name in ("data", "pictures", "artifacts", "rows")}
    (found,) = read_evaluations({"eval": [old]})
    assert found.data == DataSet("val.json", 50)
    assert (found.precision, found.runtime) == ("fp32", "")
    assert read_evaluations({}) == []


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from([*RECORD]), JUNK, min_size=1, max_size=3))
@examples(200)
def test_records_that_are_none_are_passed_over(changes: dict[str, Any]) -> None:
    for item in read_evaluations({"eval": [{"ap": 1.0}, {**RECORD, **changes}, RECORD]}):
        assert isinstance(hash(item.data), int)
        assert all(isinstance(text, str) for text in (item.data.name, item.precision, item.runtime))
        assert all(f"{depth} {ap:.1f}" for depth, ap in item.rows.items())


def test_labels_say_what_tells_data_apart() -> None:
    one, other = DataSet("val.json", 50, "b" * 64), DataSet("test.json", 50, "c" * 64)
    assert labels([one, other, one]) == {one: "val.json", other: "test.json"}
    fewer, changed = DataSet("val.json", 9, "d" * 64), DataSet("val.json", 50, "e" * 64)
    old = DataSet("val.json", 50)
    found = labels([one, fewer, changed, old])
    assert found == {
        one: "val.json, 50 pictures, sha256 bbbbbbbbbbbb",
        fewer: "val.json, 9 pictures",
        changed: "val.json, 50 pictures, sha256 eeeeeeeeeeee",
        old: "val.json, 50 pictures, no sha256",
    }
    assert labels([DataSet("\x1b[31m", 1)])[DataSet("\x1b[31m", 1)].isprintable()


def test_the_fullest_is_the_first_of_equals() -> None:
    assert fullest({"a": 1, "b": 3, "c": 3}) == "b"
    assert fullest({}) is None

"""JSON read strictly: what Python's own parser takes and others do not, and what costs much."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy.reading.strict_json import BRACKETS, NotJsonError, OddJsonError, parse_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@examples(200)
@given(value=VALUES, ascii_only=st.booleans())
def test_what_is_json_is_read(value: Any, ascii_only: bool) -> None:
    found = parse_json(json.dumps(value, ensure_ascii=ascii_only))
    assert found == value
    assert repr(found) == repr(value)  # 1 is not 1.0, nor True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", 2.0**63),
        ("-9223372036854775809", -(2.0**63)),
        ("1" + "0" * 300, 1e300),
        ("-0", 0),
        ("-0.0", -0.0),
        ("1e-400", 0.0),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        ('"\\\\ud800"', "\\ud800"),
    ],
)
def test_odd_numbers_and_texts(text: str, value: object) -> None:
    found = parse_json(text)
    assert (found, type(found)) == (value, type(value))
    if isinstance(value, float):
        assert math.copysign(1, found) == math.copysign(1, value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1,]", '{"a" 1}', "NaN", "[Infinity]", "-Infinity", '"\\ud800"'),
        *('{"\\udfff": 1}', "1 2", "tru", "'a'", '"\t"', "01", "[1]\0", "\ufeff1"),
    ],
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(NotJsonError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        ('[{"b": {"": 1, "": 2}}]', "the key '' twice"),
        ('{"a": 1, "\\u0061": 1}', "the key 'a' twice"),
        ("1e309", "too large"),
        ("-1e309", "too large"),
        ("9" * 400, "too large"),
        ("9" * 100_000, "too large"),
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "deeper than 64"),
        ("[" * 1_000_000, "deeper than 64"),
        ("[" * 65 + '"' + "]" * 65, "deeper than 64"),
    ],
)
def test_what_no_document_has(text: str, told: str) -> None:
    with pytest.raises(OddJsonError, match=told):
        parse_json(text)


def test_brackets_in_texts_are_no_levels() -> None:
    text = json.dumps(["[" * 1000, '"[' * 100, "\\"])
    assert parse_json(text) == json.loads(text)
    with pytest.raises(NotJsonError):  # not: nested too deep
        parse_json(text + "}")
    assert parse_json("[" * 64 + "]" * 64)


def test_as_many_values_as_are_allowed() -> None:
    assert len(parse_json("[1,2,3]", most_values=4)) == 3
    for text, most in (("[1,2,3,4]", 4), ("[[1],[2]]", 4), ('{"a":{"b":{"c":{}}}}', 3)):
        with pytest.raises(OddJsonError, match=f"more than {most} values"):
            parse_json(text, most_values=most)


@pytest.mark.parametrize("end", ["", "\\q", '\\q"]', "\\"])
def test_a_text_that_does_not_end_is_looked_at_once(end: str) -> None:
    """Its quotes are no beginnings: with each of them tried, 32 kB took 14 seconds."""
    text = '["' + '\\"' * 500 + end
    assert len(BRACKETS.findall(text)) <= 3
    with pytest.raises(NotJsonError):
        parse_json(text)

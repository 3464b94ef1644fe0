"""Which depth a request to the router asks for; needs no server."""

from __future__ import annotations

import handmade
import pytest

from anydepth_deploy.depth import DepthSpace, DepthTable, Gate
from anydepth_deploy.errors import DepthError
from anydepth_deploy.serve.models.asked import Asked, asked_budget, asked_depth

TABLE = handmade.manifest().table()
DEFAULT = 1


def asked(inputs: dict[str, object], parameters: dict[str, object]) -> Asked:
    return asked_depth(TABLE, inputs, parameters, DEFAULT)


@pytest.mark.parametrize(
    ("inputs", "parameters", "row"),
    [
        ({}, {}, DEFAULT),
        ({}, {"priority": 3, "other": "text"}, DEFAULT),
        ({"depth": "super"}, {}, 2),
        ({"depth": " Base "}, {}, 0),
        ({"depth": "level:1"}, {}, 1),
        ({"depth": "ft-2"}, {}, 3),
        ({"depth": " 7 "}, {}, 7),
        ({"depth": 6}, {}, 6),
        ({"row": 5}, {}, 5),
        ({"row": "5"}, {}, 5),
        ({}, {"depth": "TT-2"}, 7),
        ({}, {"depth": 4}, 4),
        ({}, {"row": 0}, 0),
        ({"depth": "base", "row": 0}, {"depth": "level:0", "row": "0"}, 0),
        ({"depth": "auto"}, {}, "auto"),
        ({"depth": " AUTO "}, {"depth": "auto", "budget_ms": 3}, "auto"),
        ({}, {"budget_ms": 3}, DEFAULT),
    ],
)
def test_it_is_said_anywhere(
    inputs: dict[str, object], parameters: dict[str, object], row: Asked
) -> None:
    assert asked(inputs, parameters) == row


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ({"depth": "bose"}, {}, "unknown depth 'bose'"),
        ({"depth": ""}, {}, "unknown depth ''"),
        ({"depth": "level:3"}, {}, "levels 0 to 2"),
        ({"depth": "-1"}, {}, "unknown depth row -1"),
        ({"row": 8}, {}, "unknown depth row 8"),
        ({"row": "base"}, {}, "input 'row' is 'base': expected an integer"),
        ({"depth": "F" * 99}, {}, "input 'depth' is text of 99 characters"),
        ({}, {"depth": True}, "parameter 'depth' is True .bool."),
        ({}, {"depth": 1.5}, "parameter 'depth' is 1.5 .float."),
        ({}, {"row": None}, "parameter 'row' is None .NoneType."),
        ({}, {"row": ["base"] * 50}, "parameter 'row' is .{40} .list."),
        (
            {"depth": "base"},
            {"row": 2},
            "input 'depth' is 'base' .TT-1, row 0., parameter 'row' is '2' .FF-2, row 2.; give one",
        ),
        ({"row": "auto"}, {}, "input 'row' is 'auto': expected an integer"),
        (
            {"depth": "auto"},
            {"depth": "super"},
            "input 'depth' is 'auto', parameter 'depth' is 'super' .FF-2, row 2.; give one",
        ),
    ],
)
def test_what_is_no_depth_is_refused(
    inputs: dict[str, object], parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(DepthError, match=message) as refused:
        asked(inputs, parameters)
    assert "\n" not in str(refused.value)


def test_layers_alone_have_a_letter() -> None:
    space = DepthSpace((Gate("decoder", 0, layers=6),), (4,))
    table = DepthTable(space, (space.base, space.super))
    for text, row in (("L4", 0), ("l6", 1), ("4", 4), ("0", 0), ("L1", 5), ("super", 1)):
        assert asked_depth(table, {"depth": text}, {}, 0) == row
    for wrong in ("6", "L7"):
        with pytest.raises(DepthError, match="unknown depth"):
            asked_depth(table, {"depth": wrong}, {}, 0)
    with pytest.raises(DepthError, match="input 'row' is 'L4': expected an integer"):
        asked_depth(table, {"row": "L4"}, {}, 0)


def test_what_cannot_be_printed_stays_out_of_the_message() -> None:
    for place in ("depth", "row"):
        with pytest.raises(DepthError, match=r"text of 5 characters, which is no depth: 'FF\\n-2'"):
            asked({place: "FF\n-2"}, {})


def test_nothing_said_may_mean_auto() -> None:
    assert asked_depth(TABLE, {}, {}, "auto") == "auto"
    assert asked_depth(TABLE, {"depth": "base"}, {}, "auto") == 0


@pytest.mark.parametrize(
    ("parameters", "default", "budget"),
    [
        ({}, 7.5, 7.5),
        ({"budget_ms": 3}, 7.5, 3.0),
        ({"budget_ms": 0.25}, None, 0.25),
        ({"budget_ms": " 2.5e1 "}, None, 25.0),
    ],
)
def test_budgets(parameters: dict[str, object], default: float | None, budget: float) -> None:
    assert asked_budget(parameters, default) == budget


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "'0' .int."),
        (-1.5, "'-1.5' .float."),
        ("", "'' .str."),
        ("nan", "'nan' .str."),
        (float("inf"), "'inf' .float."),
        (10**400, "'1000000000000000000000000000000000000000' .int."),
        (True, "'True' .bool."),
        (None, "'None' .NoneType."),
        ([5], "'.5.' .list."),
        ("2\n5", r"'2\\n5' .str."),
    ],
)
def test_what_is_no_budget_is_refused(value: object, told: str) -> None:
    with pytest.raises(DepthError, match=f"parameter 'budget_ms' is {told}: expected") as refused:
        asked_budget({"budget_ms": value}, 5.0)
    assert "\n" not in str(refused.value)
    with pytest.raises(DepthError, match=r"'auto' needs a budget: .*'budget_ms'.* --budget-ms"):
        asked_budget({}, None)

"""What ``make aarch64`` compares, and what it says where it cannot run. The run itself takes
minutes and downloads; its result is in docs/unverified.md."""

from __future__ import annotations

import platform
import re
import shutil
from typing import Any

import pytest

from release.aarch64.compare import Difference, differences
from release.aarch64.packages import check_system
from release.environments import FailedError

LIMIT = Difference(boxes=0.5, scores=0.01)


def item(label: int, score: float, *box: float) -> dict[str, Any]:
    return {"label": label, "score": score, "box": list(box)}


FOUND = [item(1, 0.9, 10, 10, 20, 20), item(1, 0.8, 40, 10, 60, 20), item(2, 0.31, 0, 0, 5, 5)]


def test_the_largest_differences_are_told() -> None:
    other = [item(1, 0.895, 10.2, 10, 20, 20), *FOUND[1:]]
    assert (
        differences(other, FOUND, LIMIT, 0.3) == "3 detections, within 2.0e-01 pixels and 5.0e-03"
    )
    assert (
        differences(FOUND, FOUND, LIMIT, 0.3) == "3 detections, within 0.0e+00 pixels and 0.0e+00"
    )


def test_what_is_at_the_threshold_may_be_missing() -> None:
    """On either side."""
    assert differences([*FOUND[:2], item(1, 0.3, 0, 0, 9, 9)], FOUND[:2], LIMIT, 0.3).startswith(
        "3"
    )
    assert differences(FOUND, [*FOUND, item(3, 0.305, 0, 0, 9, 9)], LIMIT, 0.3).startswith("3")


@pytest.mark.parametrize(
    "other",
    [
        FOUND[1:],  # one is missing
        [*FOUND, item(4, 0.7, 0, 0, 9, 9)],  # one too many
        [item(2, 0.9, 10, 10, 20, 20), *FOUND[1:]],  # another class
        [item(1, 0.9, 10, 10, 20, 21), *FOUND[1:]],  # another place
        [item(1, 0.92, 10, 10, 20, 20), *FOUND[1:]],  # another score
        [],  # nothing
    ],
)
def test_what_differs_fails(other: list[dict[str, Any]]) -> None:
    for pair in ((other, FOUND), (FOUND, other)):
        if not pair[1]:
            continue  # the next test
        with pytest.raises(FailedError, match="has no equal"):
            differences(*pair, LIMIT, 0.3)


def test_nothing_found_shows_nothing() -> None:
    with pytest.raises(FailedError, match="nothing to compare"):
        differences([], [], LIMIT, 0.3)


def test_other_systems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bookworm = {"PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)", "VERSION_CODENAME": "bookworm"}
    for machine, system in (("aarch64", bookworm), ("x86_64", {"PRETTY_NAME": "Ubuntu 24.04"})):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda system=system: system)
        with pytest.raises(FailedError, match=f"this is {re.escape(system['PRETTY_NAME'])} on"):
            check_system()
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: bookworm)
    check_system()
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "cmake" else f"/x/{name}")
    with pytest.raises(FailedError, match="there is no cmake here"):
        check_system()

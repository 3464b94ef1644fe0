"""What a release promised is kept (docs/quickstart.md): names, parameters, options and results.

A name that goes on purpose is taken out of the files of releases before, after a minor version in
which it warned, and named in the changelog.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from conftest import ROOT
from kept_interface import interface

RELEASES = sorted((ROOT / "tests" / "support" / "data" / "kept").glob("*.json"))
NOW = interface()

POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")


def broken(before: list[list[Any]] | None, now: list[list[Any]] | None) -> str:
    """Why a call that was right is not any more; empty where all still are."""
    if before is None:
        return ""
    if now is None:
        return "it is not called any more"
    names = {name: kind for name, kind, _ in now}
    any_name = "VAR_KEYWORD" in names.values()
    for name, kind, _ in before:
        if kind.startswith("VAR_"):
            if kind not in names.values():
                return f"it takes no {name} any more"
        elif name not in names and not any_name:
            return f"it takes no {name} any more"
        elif kind in POSITIONAL and names.get(name) not in POSITIONAL:
            return f"{name} has to be named now"
    places = [[one for one, kind, _ in some if kind in POSITIONAL] for some in (before, now)]
    if places[1][: len(places[0])] != places[0]:
        return f"its places have changed from {places[0]} to {places[1]}"
    needed = {name for name, kind, must in now if must and not kind.startswith("VAR_")}
    asked = needed - {name for name, _, must in before if must}
    return f"it asks for {', '.join(sorted(asked))} now" if asked else ""


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_python(path: Path) -> None:
    release = json.loads(path.read_text(encoding="utf-8"))
    problems = []
    for name, before in release["python"].items():
        now = NOW["python"].get(name)
        if now is None:
            problems.append(f"{name} is gone")
            continue
        if why := broken(before["parameters"], now["parameters"]):
            problems.append(f"{name}: {why}")
        for member, parameters in before.get("members", {}).items():
            if member not in now.get("members", {}):
                problems.append(f"{name}.{member} is gone")
            elif why := broken(parameters, now["members"][member]):
                problems.append(f"{name}.{member}: {why}")
    assert not problems


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_commands(path: Path) -> None:
    release = json.loads(path.read_text(encoding="utf-8"))
    gone = [
        f"{command} {word}"
        for command, words in release["commands"].items()
        for word in words
        if word not in NOW["commands"].get(command, ())
    ]
    assert not gone


def test_the_version_is_the_same_everywhere() -> None:
    for name, line in (
        ("pyproject.toml", 'version = "{}"'),
        ("CITATION.cff", "version: {}"),
        ("CHANGELOG.md", "## {} "),
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert line.format(NOW["version"]) in text, name
    header = (ROOT / "cpp/include/anydepth/version.hpp").read_text(encoding="utf-8")
    parts = re.findall(r"^#define ANYDEPTH_VERSION_(?:MAJOR|MINOR|PATCH) ([0-9]+)$", header, re.M)
    assert ".".join(parts) == NOW["version"]
    assert f"anydepth_deploy-{NOW['version']}-py3" in (ROOT / "docs/quickstart.md").read_text()


def test_this_release_is_kept() -> None:
    """All of it, until it is released: its file is made anew (CONTRIBUTING.md, Release)."""
    (path,) = (path for path in RELEASES if path.stem == NOW["version"])
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(NOW))


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        ([["a", "POSITIONAL_OR_KEYWORD", True]], [], "no a any more"),
        ([["a", "POSITIONAL_OR_KEYWORD", True]], [["a", "KEYWORD_ONLY", True]], "has to be named"),
        ([["a", "KEYWORD_ONLY", False]], [["o", "VAR_KEYWORD", True]], ""),
        ([], [["a", "KEYWORD_ONLY", True]], "it asks for a now"),
        ([["a", "KEYWORD_ONLY", False]], [["a", "KEYWORD_ONLY", True]], "it asks for a now"),
        (
            [["a", "POSITIONAL_OR_KEYWORD", True]],
            [["b", "POSITIONAL_OR_KEYWORD", False], ["a", "POSITIONAL_OR_KEYWORD", True]],
            "places",
        ),
        ([], [["a", "POSITIONAL_OR_KEYWORD", False]], ""),
        ([["o", "VAR_KEYWORD", True]], [["a", "KEYWORD_ONLY", False]], "no o any more"),
        ([], None, "not called"),
    ],
)
def test_what_breaks_a_call(before: list[list[Any]], now: list[list[Any]] | None, why: str) -> None:
    found = broken(before, now)
    assert why in found
    assert bool(why) == bool(found)


def test_results_of_earlier_releases(run: Run, tmp_path: Path) -> None:
    """Those of ``bench``, written by 0.1.0, whose figures lie in ``benchmarks/results``."""
    earlier = sorted((ROOT / "benchmarks/results/curve-onnxruntime-fp32").glob("*.json"))
    assert {json.loads(path.read_text())["tool_version"] for path in earlier} == {"0.1.0"}
    told = run("report", *earlier, "--json")
    assert told.code == 0
    found = json.loads(told.out)
    assert found["schema_version"] >= 1
    medians = [row["median_ms"] for row in found["rows"]]
    for path in earlier:
        for depth in json.loads(path.read_text())["depths"]:
            begun, ended = (np.array(depth["samples"][name]) for name in ("started_ns", "ended_ns"))
            assert pytest.approx(float(np.median(ended - begun)) / 1e6, rel=1e-3) in medians

"""The rooms of the package and who may import whom: the picture in docs/architecture.md holds."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "anydepth_deploy"
PICTURE = re.compile(r"<!-- layers -->\s*```text\n(.*?)```", re.DOTALL)
VERBS = {"load", "export", "verify", "evaluate", "build", "benchmark", "doctor"}
"""Functions of the Python interface to come; a module of that name would hide one."""


@functools.cache
def layers() -> tuple[tuple[str, ...], ...]:
    """The rooms of each layer, the uppermost layer first."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = PICTURE.search(text)
    assert found is not None, "docs/architecture.md has no picture of the layers"
    return tuple(tuple(line.split()) for line in found[1].splitlines() if line.strip())


def module_name(path: Path) -> str:
    """``bench.run`` for anydepth_deploy/bench/run.py; that of a folder for its ``__init__``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """The most particular room of the picture that ``module`` is in."""
    parts = module.split(".")
    names = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    known = {name for layer in layers() for name in layer}
    return next((name for name in names if name in known), names[-1])


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in the file: at its top, in a function,
    for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from known(whole) or known(node.module or "")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from known(alias.name)


def known(name: str) -> list[str]:
    if name == PACKAGE.name:
        return ["__init__"]
    module = name.removeprefix(f"{PACKAGE.name}.")
    return [module] if module != name and module in modules() else []


def test_every_module_is_in_a_room_and_every_room_exists() -> None:
    drawn = [name for layer in layers() for name in layer]
    assert len(drawn) == len(set(drawn))
    assert {room(module) for module in modules()} == set(drawn)


def test_no_import_runs_upward_or_sideways() -> None:
    floor = {name: number for number, layer in enumerate(reversed(layers())) for name in layer}
    wrong = [
        f"{module} ({room(module)}) imports {other} ({room(other)})"
        for module, path in modules().items()
        # The door only says where the public names are.
        for other in ([] if module == "__init__" else imported(path))
        if room(other) != room(module) and floor[room(other)] >= floor[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {module: set(imported(path)) - {module} for module, path in modules().items()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_judge_sees_what_it_should() -> None:
    """Imports in functions, of modules and of names, and those for types only."""
    text = (
        "from anydepth_deploy.bench import run\n"
        "from anydepth_deploy.depth import Depth\n"
        "import anydepth_deploy.errors\n"
        "def f():\n"
        "    from anydepth_deploy.bundle.files import BundleFiles\n"
        "if TYPE_CHECKING:\n"
        "    from anydepth_deploy.manifest import Artifact\n"
    )

    class Text:
        def read_text(self, encoding: str) -> str:
            return text

    found = list(imported(Text()))  # type: ignore[arg-type]
    assert sorted(found) == ["bench.run", "bundle.files", "depth", "errors", "manifest"]
    assert room("families.yolo.training.recipe") == "families/yolo"
    assert room("families.registry") == "families"


def test_the_top_level_is_small_and_hides_no_verb() -> None:
    top = [name for name in modules() if "." not in name and not (PACKAGE / name).is_dir()]
    assert len([name for name in top if not name.startswith("__")]) <= 15
    assert not VERBS & {path.stem for path in PACKAGE.iterdir()}

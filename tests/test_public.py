"""The public names: documented, sorted, and all of them there."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import anydepth_deploy


def test_names_are_sorted_and_unique() -> None:
    assert anydepth_deploy.__all__ == sorted(set(anydepth_deploy.__all__))
    assert dir(anydepth_deploy) == anydepth_deploy.__all__


@pytest.mark.parametrize("name", anydepth_deploy.__all__)
def test_every_name_resolves(name: str) -> None:
    found = getattr(anydepth_deploy, name)
    if name != "__version__":
        assert inspect.isclass(found) or inspect.isfunction(found)
        assert found.__name__ == name
        assert found.__doc__
        assert found.__module__.startswith("anydepth_deploy.")


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(anydepth_deploy.__file__).read_text(encoding="utf-8"))
    imports = {
        alias.name: str(node.module)
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*imports, "__version__"} == set(anydepth_deploy.__all__)
    for name, module in imports.items():
        assert getattr(anydepth_deploy, name).__module__ == module


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_bundel'"):
        anydepth_deploy.open_bundel  # noqa: B018


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from anydepth_deploy import *", names)
    assert set(anydepth_deploy.__all__) <= set(names)

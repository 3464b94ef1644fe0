"""What the pages show exists: names, commands, options. Whether it works is for other tests."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ROOT

from anydepth_deploy.cli import app

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
SHELLS = {"sh", "bash", "shell", "console"}
PACKAGE = "anydepth_deploy"
ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>", "<"}
"""Of a command in a line of a shell."""

NOT_HERE = {"fiftyone"}
"""Packages that no extra brings; the page says that its lines are unverified."""

LEFT_OUT = "..."
"""Stands for words that a page has shown before."""


def blocks(page: Path, languages: set[str]) -> Iterator[str]:
    for indent, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def missing_names(source: str) -> list[str]:
    """What a program imports, or takes of this package by an attribute, that is not there. Of other
    packages only the module is looked for."""
    tree = ast.parse(source)
    ours: dict[str, Any] = {"ad": importlib.import_module(PACKAGE)}  # pages go on from their first
    missing = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if not _module_is_there(alias.name):
                    missing.append(alias.name)
                elif alias.name.split(".")[0] == PACKAGE:
                    name = alias.asname or PACKAGE
                    ours[name] = importlib.import_module(alias.name if alias.asname else PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            if not _module_is_there(module):
                missing.append(module)
            elif module.split(".")[0] == PACKAGE:
                found = importlib.import_module(module)
                names = [alias.name for alias in node.names]
                missing += [f"{module}.{name}" for name in names if not hasattr(found, name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = ours.get(node.value.id)
            if owner is not None and not hasattr(owner, node.attr):
                missing.append(f"{node.value.id}.{node.attr}")
    return missing


def _module_is_there(name: str) -> bool:
    if name.split(".")[0] in NOT_HERE:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def command_lines(text: str) -> Iterator[list[str]]:
    """The words behind each ``anydepth-deploy`` in a block of a shell."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        names = [word.rpartition("/")[2] for word in words]
        if "anydepth-deploy" in names:
            rest = words[names.index("anydepth-deploy") + 1 :]
            end = next((number for number, word in enumerate(rest) if word in ENDS), len(rest))
            yield rest[:end]


@functools.cache
def _group() -> Any:
    return typer.main.get_command(app)


def refusal(words: list[str]) -> str | None:
    """Why there is no such command, or no such option or choice of it; None where there is."""
    group = _group()
    above = typer.Context(group, info_name="anydepth-deploy")
    if not words or words[0].startswith("-"):
        return None
    try:
        # As a call would have it: the command is loaded, not only listed.
        _, command, rest = group.resolve_command(above, words)
        with typer.Context(command, info_name=words[0], parent=above) as context:
            if LEFT_OUT in rest:
                command.make_parser(context).parse_args([word for word in rest if word != LEFT_OUT])
            else:
                command.parse_args(context, list(rest))
    except Exception as error:  # what the library of the command line raises
        return f"{words[0]}: {getattr(error, 'message', error)}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_is_there(page: Path) -> None:
    assert {name for block in blocks(page, {"python"}) for name in missing_names(block)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_is_there(page: Path) -> None:
    lines = [line for block in blocks(page, SHELLS) for line in command_lines(block)]
    wrong = [why for line in lines if (why := refusal(line)) is not None]
    assert wrong == []


def test_the_judge_sees_what_it_should() -> None:
    text = "import anydepth_deploy as a\nimport nothing_at_all\na.loda()\nad.load()\n"
    assert missing_names(text) == ["nothing_at_all", "a.loda"]
    assert missing_names("from anydepth_deploy.ray import Detekt") == ["anydepth_deploy.ray.Detekt"]
    shell = (
        "$ sudo .venv/bin/anydepth-deploy predict a b \\\n   --depht base  # anydepth-deploy no\n"
        "anydepth-deploy predict a b --format csv > rows.csv\n"
        "torchrun --no-python anydepth-deploy trian\n"
        "anydepth-deploy predict a b --format cvs\n"
    )
    found = [refusal(words) for words in command_lines(shell)]
    assert found[1] is None
    assert [bool(why) for why in found] == [True, False, True, True]
    assert "--depht" in str(found[0])
    assert "trian" in str(found[2])
    assert "'cvs' is not one of" in str(found[3])
    pages = [page for page in PAGES if any(blocks(page, SHELLS))]
    assert len(pages) > 5
    assert sum(1 for page in PAGES for block in blocks(page, SHELLS) for _ in command_lines(block))

"""The site of the documentation: what is generated holds what it should. That every link and anchor
is there, `make docs` says, which builds strictly."""

from __future__ import annotations

import html
import importlib
import re

from conftest import ROOT

import anydepth_deploy as ad
import anydepth_deploy.ray as on_ray
from anydepth_deploy.cli import COMMANDS
from docs_site.commands import command_page


def test_every_option_of_every_command() -> None:
    page = html.unescape(command_page())
    sections = dict(re.findall(r"^## ([a-z]+)$\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert sorted(sections) == sorted(row.name for row in COMMANDS)
    for row in COMMANDS:
        assert row.help in sections[row.name]
        assert "--json" in sections[row.name]
    for name, option in (("export", "--depth"), ("export", "--nms"), ("bench", "--scenario")):
        assert option in sections[name]
    rows = [line for line in command_page().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {3}  # what is in a cell ends none


def test_every_public_name() -> None:
    """And none that is not there."""
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    found = re.findall(r"^::: anydepth_deploy\.([\w.]+)\.(\w+)$", page, re.MULTILINE)
    names = {name for name in ad.__all__ if not name.startswith("__")}
    assert sorted(name for _, name in found) == sorted([*names, *on_ray.__all__])
    for module, name in found:
        public = getattr(on_ray if name in on_ray.__all__ else ad, name)
        assert getattr(importlib.import_module(f"anydepth_deploy.{module}"), name) is public


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    generated = {"reference/commands.md", "changelog.md"}
    assert set(re.findall(r"([\w/-]+\.md)", menu)) == pages | generated

"""The reference of the command line, as the commands themselves tell it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from anydepth_deploy.cli import COMMANDS, app

__all__ = ["command_page", "every_command"]

OWN = frozenset("\\`*_<>&|[]")
"""Letters that mean something to Markdown."""

INTRODUCTION = """\
# Commands

What `anydepth-deploy COMMAND --help` prints. Exit status: 0; 1 where a check failed (an artifact
differs, a measurement regressed); 2 for bad use or input, with one line that says what to do; 3
for a bug of ours, which `--debug` shows. With `--json` the result, or the error, is one object on
standard output.
"""


def command_page() -> str:
    """Markdown: a section for each command, a table for each of its groups of options."""
    parts = [INTRODUCTION]
    for name, command, above in every_command():
        with typer.Context(command, info_name=name, parent=above) as context:
            parts.append("\n".join(_command(name, command, context)))
    return "\n".join(parts)


def every_command() -> Iterator[tuple[str, Any, Any]]:
    """Name, command and the context above it, as a call would have them: the command is loaded, not
    only listed."""
    group: Any = typer.main.get_command(app)
    above = typer.Context(group, info_name="anydepth-deploy")
    for row in COMMANDS:
        _, command, _ = group.resolve_command(above, [row.name])
        yield row.name, command, above


def _command(name: str, command: Any, context: Any) -> Iterator[str]:
    words = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"## {name}", "", f"    {words}", "", _escaped(command.help or ""), "")
    panels: dict[str, list[Any]] = {}
    for item in command.get_params(context):
        if getattr(item, "hidden", False):
            continue
        usual = "Options" if item.param_type_name == "option" else "Arguments"
        panels.setdefault(getattr(item, "rich_help_panel", None) or usual, []).append(item)
    for heading, items in panels.items():
        yield from ("", f"| {heading} | |", "| --- | --- |")
        for item in items:
            told = item.get_help_record(context)
            names, text = told if told is not None else (item.human_readable_name, item.help or "")
            yield f"| <code>{_escaped(names)}</code> | {_escaped(' '.join(text.split()))} |"
    yield ""


def _escaped(text: str) -> str:
    """Text as it stands, also in a table: what Markdown would read as its own is no letter here."""
    return "".join(f"&#{ord(letter)};" if letter in OWN else letter for letter in text)

"""The interfaces that a release promises: of Python, and of the command line, as plain data.

``python tests/support/kept_interface.py > tests/support/data/kept/VERSION.json`` at each release;
the files of earlier ones stay as they are.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import anydepth_deploy as ad
import anydepth_deploy.ray as on_ray
from docs_site.commands import every_command

__all__ = ["interface"]


def interface() -> dict[str, Any]:
    """``python``: of every public name its parameters (name, kind, whether it has a default) and of
    classes the public members, each with parameters where it is called; those of
    ``anydepth_deploy.ray`` begin with ``ray.``. ``commands``: of every command its options."""
    names = {name: getattr(ad, name) for name in ad.__all__ if name[0] != "_"}
    names |= {f"ray.{name}": getattr(on_ray, name) for name in on_ray.__all__}
    return {
        "version": ad.__version__,
        "python": {name: _described(found) for name, found in names.items()},
        "commands": _options(),
    }


def _described(found: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"parameters": _parameters(found)}
    if inspect.isclass(found):
        ours = [one for one in found.__mro__ if one.__module__.startswith("anydepth_deploy")]
        members = {
            name
            for one in ours
            for name in (*vars(one), *getattr(one, "__dataclass_fields__", ()))
            if not name.startswith("_")
        }
        described["members"] = {
            name: _parameters(member) if callable(member := getattr(found, name, None)) else None
            for name in sorted(members)
        }
    return described


def _parameters(found: Any) -> list[list[Any]] | None:
    """Name, kind and whether a value has to be given; None for what has no signature."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        [one.name, one.kind.name, one.default is one.empty]
        for one in parameters
        if one.name != "self"
    ]


def _options() -> dict[str, list[str]]:
    found = {}
    for name, command, _ in every_command():
        words = [one.opts + one.secondary_opts for one in command.params]
        found[name] = sorted({word for some in words for word in some if word[0] == "-"})
    return found


if __name__ == "__main__":
    lines = [f' "version": {json.dumps(ad.__version__)}']
    for part in ("python", "commands"):
        rows = [
            f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in interface()[part].items()
        ]
        lines.append(f' "{part}": {{\n' + ",\n".join(rows) + "\n }")
    print("{\n" + ",\n".join(lines) + "\n}")

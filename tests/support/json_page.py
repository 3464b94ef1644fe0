"""What docs/json.md says of the documents that commands print."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from conftest import ROOT

ROW = re.compile(r"^\| `([a-z]+)[^|]*\| ([^|]*) \|$", re.MULTILINE)


@functools.cache
def documented() -> dict[str, list[frozenset[str]]]:
    """The sets of keys that a command's document may have."""
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    found: dict[str, list[frozenset[str]]] = {}
    for command, told in ROW.findall(text):
        listed = told.split(":")[0]
        keys = set(re.findall(r"`([a-z_0-9]+)`", listed))
        for other in re.findall(r"those of `([a-z]+)", told):
            keys |= found[other][-1]
        found.setdefault(command, []).append(frozenset(keys))
    return found


def held_to_the_page(command: str, document: Mapping[str, Any]) -> None:
    """A document has the keys that the page lists, all of them and no others."""
    assert next(iter(document)) == "schema_version"
    assert isinstance(document["schema_version"], int)
    keys = set(document) - {"schema_version", "error"}
    if "error" in document:
        assert set(document["error"]) == {"kind", "message", "exit_status"}
        if not keys:
            return
    wanted = documented()[command]
    assert keys in wanted, f"{command}: {sorted(min((keys ^ one for one in wanted), key=len))}"

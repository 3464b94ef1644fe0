"""What `kubectl kustomize` makes of deploy/kubernetes, as far as the files there need it:
resources, components, and strategic merge patches by kind and name. Whatever else a kustomization
says is refused. Where kubectl is installed, its own result is held against this."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

KNOWN = {"apiVersion", "kind", "resources", "components", "patches"}

MERGED_BY = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
"""Lists of which a patch changes single entries, by what tells them apart; others it replaces."""


def documents(path: Path) -> list[Document]:
    """The documents of one file."""
    return [found for found in yaml.safe_load_all(path.read_text("utf-8")) if found is not None]


def build(folder: Path) -> list[Document]:
    """The documents of a folder with a ``kustomization.yaml``."""
    return _built(folder, [], "Kustomization")


def _built(folder: Path, given: list[Document], kind: str) -> list[Document]:
    (said,) = documents(folder / "kustomization.yaml")
    if said["kind"] != kind or not said.keys() <= KNOWN:
        raise ValueError(f"{folder}: a {said['kind']} of {sorted(said)}, expected a {kind}")
    found = list(given)
    for name in said.get("resources", ()):
        path = folder / name
        found += build(path) if path.is_dir() else documents(path)
    for name in said.get("components", ()):
        found = _built(folder / name, found, "Component")
    for entry in said.get("patches", ()):
        if set(entry) != {"path"}:
            raise ValueError(f"{folder}: a patch of {sorted(entry)}, expected a path")
        for patch in documents(folder / entry["path"]):
            (place,) = (i for i, item in enumerate(found) if identity(item) == identity(patch))
            found[place] = merged(found[place], patch)
    return found


def identity(document: Document) -> tuple[str, str, str]:
    return document["apiVersion"], document["kind"], document["metadata"]["name"]


def merged(base: Document, patch: Document) -> Document:
    """``base`` as ``patch`` changes it: null takes a key away."""
    found = deepcopy(base)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = merged(found.get(key, {}), value)
        elif key in MERGED_BY and isinstance(value, list):
            found[key] = _merged_list(found.get(key, []), value, MERGED_BY[key])
        else:
            found[key] = deepcopy(value)
    return found


def _merged_list(base: Iterable[Document], patch: Iterable[Document], by: str) -> list[Document]:
    patches = {entry[by]: entry for entry in patch}
    changed = [merged(entry, patches.pop(entry[by], {})) for entry in base]
    return [merged({}, entry) for entry in patches.values()] + changed


def one(found: Iterable[Document], kind: str) -> Document:
    """The only document of its kind."""
    (document,) = (item for item in found if item["kind"] == kind)
    return document

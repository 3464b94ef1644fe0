"""Which extras of this package are installed, in the versions that it was tried with.

From the metadata that ``pip`` keeps; nothing is imported. Form of requirements: PEP 508, of which
this package uses names, ranges of versions, and ``extra == "..."``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

__all__ = ["Extra", "Package", "extras", "installed", "within"]

PACKAGE = "anydepth-deploy"

COLLECTIONS = ("all", "dev")
"""Extras that only name others."""

REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")
CLAUSE = re.compile(r"\s*(===?|!=|<=|>=|<|>|~=)\s*([0-9][^\s,]*)\s*")

State = Literal["installed", "missing", "outside"]

INSTEAD = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")}
"""Other distributions that bring the same package."""


@dataclass(frozen=True)
class Package:
    """A package that an extra takes. ``version``: None where it is missing; ``wanted``: the range
    that this package declares, empty for any; ``state``: ``outside`` of it, if it is so."""

    name: str
    version: str | None
    wanted: str
    state: State


@dataclass(frozen=True)
class Extra:
    """An extra, and what it takes; its ``state`` is the worst of theirs."""

    name: str
    state: State
    packages: tuple[Package, ...]


def installed(name: str) -> str | None:
    """The version of a distribution; None where it is missing or its metadata cannot be read."""
    for candidate in (name, *INSTEAD.get(name, ())):
        try:
            version = metadata.version(candidate)
        except Exception:  # damaged metadata raises whatever reading it raises
            continue
        if version:
            return version
    return None


def extras(
    lines: Sequence[str] | None = None, version_of: Callable[[str], str | None] = installed
) -> list[Extra] | None:
    """The extras of this package in the order of its metadata.

    ``lines``: requirements, by default those of the installed package; None is returned where it is
    not installed (a folder of source). ``version_of``: gives the version of a distribution.
    """
    if lines is None:
        try:
            lines = metadata.requires(PACKAGE) or []
        except Exception:
            return None
    wanted = _by_extra(lines)
    found = []
    for name in wanted:
        if name in COLLECTIONS:
            continue
        packages = tuple(
            _package(package, clauses, version_of) for package, clauses in _closed(name, wanted)
        )
        states = {package.state for package in packages}
        state: State = (
            "missing" if "missing" in states else "outside" if "outside" in states else "installed"
        )
        found.append(Extra(name, state, packages))
    return found


def within(version: str, clauses: str) -> bool | None:
    """Whether ``version`` is in the range ``>=1.20,<2``; None where that cannot be judged.

    Versions are compared by the numbers they begin with.
    """
    for clause in filter(None, (part.strip() for part in clauses.split(","))):
        match = CLAUSE.fullmatch(clause)
        own, other = _release(version), _release(match[2]) if match else None
        if match is None or own is None or other is None or match[1] in ("===", "~="):
            return None
        size = max(len(own), len(other))
        left, right = (parts + (0,) * (size - len(parts)) for parts in (own, other))
        holds = {
            "==": left == right,
            "!=": left != right,
            "<=": left <= right,
            ">=": left >= right,
            "<": left < right,
            ">": left > right,
        }
        if not holds[match[1]]:
            return False
    return True


def _by_extra(lines: Iterable[str]) -> dict[str, list[tuple[str, list[str], str]]]:
    """Of each extra: packages, the extras of them that are meant, and ranges."""
    found: dict[str, list[tuple[str, list[str], str]]] = {}
    for line in lines:
        match = REQUIREMENT.fullmatch(line.strip())
        if match is None or (extra := EXTRA.search(match[4] or "")) is None:
            continue
        parts = [part.strip() for part in (match[2] or "").split(",") if part.strip()]
        clauses = ",".join(sorted(match[3].replace(" ", "").split(","), reverse=True))
        found.setdefault(extra[1], []).append((match[1], parts, clauses))
    return found


def _closed(
    name: str, wanted: dict[str, list[tuple[str, list[str], str]]], seen: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    """What an extra takes, also by other extras of this package that it names."""
    rows: dict[str, str] = {}
    for package, parts, clauses in wanted.get(name, ()):
        if package != PACKAGE:
            rows.setdefault(package, clauses)
            continue
        for part in parts:
            if part not in (*seen, name):
                rows.update(_closed(part, wanted, (*seen, name)))
    return [*rows.items()]


def _package(name: str, clauses: str, version_of: Callable[[str], str | None]) -> Package:
    version = version_of(name)
    state: State = "missing"
    if version is not None:
        state = "outside" if within(version, clauses) is False else "installed"
    return Package(name, version, clauses, state)


def _release(version: str) -> tuple[int, ...] | None:
    match = re.match(r"v?(?:[0-9]+!)?([0-9]+(?:\.[0-9]+)*)", version)
    return None if match is None else tuple(int(part) for part in match[1].split("."))

"""Recorded evaluations, and which data each is of: figures of different data are never mixed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from anydepth_deploy.errors import shorten

__all__ = ["DataSet", "Evaluation", "fullest", "labels", "read_evaluations"]

Key = TypeVar("Key", bound=Hashable)


class DataSet(NamedTuple):
    """What accuracy was measured on.

    ``name``: of the annotation file; ``sha256``: of annotations and pictures, None in records of
    before it was kept, which then are as different as their names and numbers of pictures.
    """

    name: str
    pictures: int
    sha256: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """One record of ``eval`` in a manifest: AP in percent by depth."""

    data: DataSet
    precision: str
    runtime: str
    artifacts: tuple[str, ...]
    hashes: frozenset[str]
    rows: Mapping[str, float]


def read_evaluations(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Evaluation]:
    """The evaluations among a manifest's results, newest last; records that are none are passed
    over."""
    found = (_read(record) for record in results.get("eval", []))
    return [item for item in found if item is not None]


def _read(record: Mapping[str, Any]) -> Evaluation | None:
    name, pictures, sha256 = record.get("data"), record.get("pictures"), record.get("data_sha256")
    artifacts, rows = record.get("artifacts", []), record.get("rows", [])
    words = (record.get("precision", "fp32"), record.get("runtime", ""))
    texts = (name, *words, "" if sha256 is None else sha256)
    if not all(isinstance(text, str) for text in texts) or not _is_number(pictures):
        return None
    if not (_maps(artifacts) and _maps(rows)):
        return None
    return Evaluation(
        DataSet(str(name), int(pictures or 0), sha256),
        *words,
        tuple(str(item["name"]) for item in artifacts if "name" in item),
        frozenset(str(item["sha256"]) for item in artifacts if "sha256" in item),
        {str(row.get("depth")): row["ap"] for row in rows if _is_number(row.get("ap"))},
    )


def _maps(items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def fullest(counts: Mapping[Key, int]) -> Key | None:
    """The key with the highest count, the first of several; None where there is none."""
    return max(counts, key=lambda key: counts[key], default=None)


def labels(data: Sequence[DataSet]) -> dict[DataSet, str]:
    """A short text for each, different for all: the name, and what is needed to tell them apart."""
    different = list(dict.fromkeys(data))
    found: dict[DataSet, str] = {}
    for item in different:
        name = shorten([item.name])
        same = [other for other in different if other.name == item.name]
        if len(same) > 1:
            name += f", {item.pictures} pictures"
        if sum(other.pictures == item.pictures for other in same) > 1:
            name += f", sha256 {shorten([item.sha256[:12]])}" if item.sha256 else ", no sha256"
        found[item] = name
    return found

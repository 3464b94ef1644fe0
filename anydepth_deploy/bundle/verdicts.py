"""Recorded verdicts of ``verify``, read with care: a manifest keeps what any version wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Verdict", "read_verdicts"]


@dataclass(frozen=True)
class Verdict:
    """What one comparison has found of one artifact's bytes.

    ``precision``: what it was computed in; None in records of before that was kept. ``when``: as
    :func:`anydepth_deploy.documents.utc_now` writes it.
    """

    sha256: str
    precision: str | None
    passed: bool
    when: str


def read_verdicts(record: Mapping[str, Any]) -> list[Verdict] | None:
    """The verdicts of one record of ``verify``; None for a record of another shape."""
    when, artifacts = record.get("when"), record.get("artifacts", [])
    if not isinstance(when, str) or not isinstance(artifacts, list):
        return None
    found = [_read(item, when) for item in artifacts]
    return None if None in found else [item for item in found if item is not None]


def _read(item: object, when: str) -> Verdict | None:
    if not isinstance(item, dict):
        return None
    sha256, precision, passed = item.get("sha256"), item.get("precision"), item.get("passed")
    if not isinstance(sha256, str) or not isinstance(passed, bool):
        return None
    if precision is not None and not isinstance(precision, str):
        return None
    return Verdict(sha256, precision, passed, when)

"""What ``eval --json`` printed, read back for a report: average precision by size and by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from anydepth_deploy.documents import Document
from anydepth_deploy.errors import ResultError

__all__ = ["EvaluatedClass", "EvaluatedRow", "Evaluation", "Lost", "read_evaluation"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class EvaluatedClass(_Model):
    name: str = Field(alias="class")
    ap: float | None
    objects: int


class EvaluatedRow(_Model):
    """One depth in one precision; AP in percent, None where the data has no such objects."""

    precision: str
    depth: str
    level: int | None
    macs: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    classes: Sequence[EvaluatedClass] = ()


class Lost(_Model):
    name: str = Field(alias="class")
    precision: str
    objects: int
    super: float
    base: float
    fall: float


class Evaluation(_Model):
    """The keys that a report needs; others are passed over."""

    schema_version: Literal[1]
    data: str
    data_sha256: str
    pictures: int
    rows: list[EvaluatedRow] = Field(min_length=1)
    lost: list[Lost]


_DOCUMENT = Document(
    Evaluation,
    "evaluation",
    ResultError,
    missing="evaluation {path} does not exist: 'anydepth-deploy eval --json > {path}' writes one",
    remedy="write it with 'anydepth-deploy eval BUNDLE --data FILE --json'",
    other_version="run eval again",
)


def read_evaluation(path: str | Path) -> Evaluation:
    """Read what ``eval --json`` printed into the file ``path``. Raises :class:`ResultError`."""
    return _DOCUMENT.read(Path(path))

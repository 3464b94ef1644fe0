"""The range table: what calibration found, validated and versioned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from anydepth_deploy.calibration.ranges import Method
from anydepth_deploy.documents import Document, write_or_refuse
from anydepth_deploy.errors import CalibrationError, shorten
from anydepth_deploy.families.shared.settling import option_of
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.orientation import Orientation

__all__ = [
    "CalibrationPictures",
    "CheckpointFile",
    "Entry",
    "RangeTable",
    "StageError",
    "check_table",
    "default_table",
    "read_table",
    "write_table",
]

FORMAT: Final = "anydepth-deploy range table"
MOST_BYTES = 1 << 26
MOST_VALUES = 5_000_000
"""More than a table has: a few numbers for each of thousands of tensors, at each of some depths."""
VERSION: Final = 1

FOLDER = Path("calib")
"""Where range tables go by default, relative to the working directory."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _rounded(value: float) -> float:
    return float(f"{value:.7g}") + 0.0  # no -0.0


Rounded = Annotated[FiniteFloat, AfterValidator(_rounded)]
"""Seven significant digits from the start, so that a table that was read equals the one written."""

Error = Annotated[Rounded, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckpointFile(_Model):
    """The checkpoint whose activations were observed."""

    file: str
    sha256: Sha256


class CalibrationPictures(_Model):
    """The pictures that were observed; names are not kept, ``sha256`` knows them as a set."""

    count: PositiveInt
    sha256: Sha256
    seed: int | None
    orientation: Orientation | None = None
    """Which way up they were read; None in tables of before it was a choice: as stored."""

    @model_serializer(mode="wrap")
    def _as_it_was_read(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The hash of a table is that of its file, also where the file does not say this.
        found: dict[str, Any] = serialise(self)
        if self.orientation is None:
            found.pop("orientation", None)
        return found


class Entry(_Model):
    """One tensor at one depth.

    ``low``, ``high``: the range for 8 bits, which holds zero. ``minimum``, ``maximum``: what was
    seen. ``error_own``, ``error_merged``: what 8 bits cost (relative root mean square, see
    :func:`anydepth_deploy.calibration.ranges.relative_error`) with this range, and with the one
    merged over all depths.
    """

    low: Annotated[Rounded, Field(le=0)]
    high: Annotated[Rounded, Field(ge=0)]
    minimum: Rounded
    maximum: Rounded
    error_own: Error
    error_merged: Error

    @model_validator(mode="after")
    def _ordered(self) -> Entry:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class StageError(_Model):
    """What 8 bits cost at the outputs of a whole stage, with ranges of this depth and merged."""

    stage: str
    depth: str
    variant: str
    error_own: Error
    error_merged: Error


class RangeTable(_Model):
    """The ranges of a network's activations, by tensor and depth.

    Tensors are named as in the exported graphs; a tensor has an entry for every depth at which it
    exists.
    """

    format: Literal["anydepth-deploy range table"] = FORMAT
    version: Literal[1] = VERSION
    tool_version: str
    created: str
    checkpoint: CheckpointFile
    family: str
    config: str
    size: tuple[PositiveInt, PositiveInt]
    """Height and width of the input in pixels."""
    preprocess: Preprocess
    pictures: CalibrationPictures
    method: Method
    percentile: Annotated[FiniteFloat, Field(gt=0, le=100)] | None = None
    """Per cent of the values kept; None for the other methods."""
    ladder: list[str] = Field(min_length=1)
    depths: list[str]
    """All that were calibrated: the ladder first, from base to super."""
    tensors: dict[str, dict[str, Entry]] = Field(min_length=1)
    stages: list[StageError] = Field(default_factory=list)
    said: dict[str, str] = Field(default_factory=dict)
    """What no key of the checkpoint reveals, as it was said or assumed; absent from the file where
    there is no such thing."""
    warnings: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list)
    """Why its pictures may not be enough, a clause each; absent from the file where there is
    nothing to say, as in tables of versions that did not look."""

    @model_validator(mode="after")
    def _consistent(self) -> RangeTable:
        if self.size != self.preprocess.size:
            raise ValueError("the input size is not the one that pictures are prepared for")
        if (self.method == "percentile") != (self.percentile is not None):
            raise ValueError("a percentile belongs to the method 'percentile', and to no other")
        if self.depths[: len(self.ladder)] != self.ladder:
            raise ValueError("the depths do not begin with the ladder")
        known = set(self.depths)
        if len(known) != len(self.depths):
            raise ValueError("a depth is listed twice")
        for tensor, entries in self.tensors.items():
            if not entries:
                raise ValueError(f"the tensor '{tensor}' has no ranges")
            if strangers := entries.keys() - known:
                raise ValueError(
                    f"the tensor '{tensor}' has ranges of depths that are not listed: "
                    f"{shorten(sorted(strangers))}"
                )
        for stage in self.stages:
            if stage.depth not in known:
                raise ValueError(
                    f"the stage '{stage.stage}' has errors of a depth that is not listed: "
                    f"{shorten([stage.depth])}"
                )
        return self

    @property
    def sha256(self) -> str:
        """Hash of the file that :func:`write_table` writes."""
        return hashlib.sha256(_text(self).encode()).hexdigest()

    def at(self, tensor: str, depth: str) -> Entry:
        """The entry of ``tensor`` at ``depth``; raises :class:`CalibrationError` without one."""
        entry = self._entries(tensor).get(depth)
        if entry is None:
            raise CalibrationError(
                f"the range table has no range of the tensor '{tensor}' at depth {depth}; it has "
                f"ranges at {shorten(self.tensors[tensor])}"
            )
        return entry

    def bounds(self, tensor: str, depth: str | None) -> tuple[float, float]:
        """The range (low, high) at ``depth``, or merged over all depths; raises as they do."""
        if depth is None:
            return self.merged(tensor)
        entry = self.at(tensor, depth)
        return entry.low, entry.high

    def merged(self, tensor: str) -> tuple[float, float]:
        """The range (low, high) that holds those of all depths at which ``tensor`` exists.

        Raises :class:`CalibrationError` for a tensor that is not in the table.
        """
        entries = self._entries(tensor).values()
        return min(entry.low for entry in entries), max(entry.high for entry in entries)

    def ratio(self, tensor: str) -> float:
        """How far the ranges of ``tensor`` differ over depths: widest / narrowest.

        Depths where the tensor is always zero do not count: every range represents it exactly.
        1.0 where fewer than two others are left. Raises as :meth:`merged` does.
        """
        widths = [entry.high - entry.low for entry in self._entries(tensor).values()]
        positive = [width for width in widths if width > 0]
        return max(positive) / min(positive) if positive else 1.0

    def _entries(self, tensor: str) -> dict[str, Entry]:
        entries = self.tensors.get(tensor)
        if entries is None:
            raise CalibrationError(
                f"the range table has no tensor '{tensor}', which this graph asks for: it was made "
                f"for another graph, or by an earlier version; {_REMEDY}"
            )
        return entries


_REMEDY = "make it again with 'anydepth-deploy calibrate'"
_DOCUMENT = Document(
    RangeTable,
    "range table",
    CalibrationError,
    missing="range table {path} does not exist; make one with 'anydepth-deploy calibrate'",
    remedy=_REMEDY,
    other_version=_REMEDY,
    format=FORMAT,
    version=VERSION,
    most=MOST_BYTES,
    most_values=MOST_VALUES,
)


def default_table(checkpoint: str | Path) -> Path:
    """Where the range table of ``checkpoint`` is, unless told otherwise."""
    return FOLDER / f"{Path(checkpoint).stem}.json"


def read_table(path: str | Path) -> RangeTable:
    """Read a range table; raises :class:`CalibrationError` for anything else."""
    return _DOCUMENT.read(Path(path))


def write_table(path: str | Path, table: RangeTable) -> None:
    """Write a range table in one step: whatever happens, ``path`` is the old file or the new one.

    One line for each tensor and depth. Raises :class:`CalibrationError` when it cannot be written.
    """
    content = _text(table).encode()
    write_or_refuse(Path(path), lambda file: file.write(content), "range table", CalibrationError)


def check_table(
    table: RangeTable,
    *,
    checkpoint_sha256: str,
    preprocess: Preprocess,
    depths: Sequence[str],
    said: Mapping[str, str] | None = None,
    what: str = "the range table",
) -> None:
    """Refuse a table of another network, of another input size, of pictures that met the input in
    another way, or without one of ``depths``.

    ``preprocess``: how pictures become inputs in the export. ``said``: what no key of the checkpoint reveals, as the export has it. ``what`` names the table
    in the message. Raises :class:`CalibrationError`.
    """
    if table.checkpoint.sha256 != checkpoint_sha256:
        raise CalibrationError(
            f"{what} was made from another checkpoint ({table.checkpoint.file}, sha256 "
            f"{table.checkpoint.sha256[:12]}…; this one has {checkpoint_sha256[:12]}…): calibrate "
            "this one"
        )
    if table.said != dict(said or {}):
        raise CalibrationError(
            f"{what} was made from another network: of what no key tells, it has "
            f"{_spoken(table.said)}, this export {_spoken(said or {})}: calibrate with the options "
            "of this export"
        )
    if table.size != preprocess.size:
        found, wanted = ("x".join(map(str, value)) for value in (table.size, preprocess.size))
        raise CalibrationError(
            f"{what} was made for inputs of {found} (height x width), this export is for "
            f"{wanted}: calibrate with that size"
        )
    if table.preprocess.resize != preprocess.resize:
        raise CalibrationError(
            f"{what} was made with '--resize {table.preprocess.resize}', this export is with "
            f"'--resize {preprocess.resize}': calibrate with that"
        )
    lacking = [depth for depth in depths if depth not in table.depths]
    if lacking:
        wanted = ",".join(["all", *lacking]) if len(lacking) <= 6 else "every"
        raise CalibrationError(
            f"{what} has no ranges of {shorten(lacking)}; it has {shorten(table.depths, 12)}: "
            f"make it again with 'anydepth-deploy calibrate ... --depth {wanted}'"
        )


def _spoken(said: Mapping[str, str]) -> str:
    return shorten(f"{option_of(name)} {word}" for name, word in sorted(said.items())) or "nothing"


def _text(table: RangeTable) -> str:
    absent = {name for name in ("said", "warnings") if not getattr(table, name)}
    content = table.model_dump(mode="json", exclude=absent)
    return _lines(content, {"tensors": 2, "stages": 1}) + "\n"


def _lines(content: dict[str, Any], expanded: dict[str, int]) -> str:
    """JSON with a line for each key; those in ``expanded`` spread over so many levels more."""
    rows = (
        f" {json.dumps(key)}: {_spread(value, expanded.get(key, 0), ' ')}"
        for key, value in content.items()
    )
    return "{\n" + ",\n".join(rows) + "\n}"


def _spread(value: Any, levels: int, indent: str) -> str:
    if not levels or not value:
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        rows = [
            f"{inner}{json.dumps(key)}: {_spread(item, levels - 1, inner)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    rows = [inner + _spread(item, levels - 1, inner) for item in value]
    return "[\n" + ",\n".join(rows) + f"\n{indent}]"

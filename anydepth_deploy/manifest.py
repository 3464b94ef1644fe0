"""``manifest.json``: what a bundle holds, validated and versioned.

How a field is added: give it a default that means what bundles without it mean, raise
:data:`MINOR` (here, and ``kKnownVersion`` of ``cpp/src/manifest_version.hpp``), read it in
``cpp/src/manifest_fields.cpp``, and write it down under its minor in
``tests/support/manifests.py``. Older versions then leave it out with a warning. What they must not
leave out raises :data:`MAJOR`: they refuse it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator, model_validator

from anydepth_deploy.depth import Depth, DepthSpace, DepthTable, Gate, Predicate
from anydepth_deploy.documents import version_of, written_version
from anydepth_deploy.errors import DepthError
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.suppression import Suppression

__all__ = [
    "DEPTH_METADATA",
    "LAYOUTS",
    "MAJOR",
    "MINOR",
    "MOST_BATCH",
    "PIECE_METADATA",
    "PRECISIONS",
    "PREDICTIONS",
    "RAW_METADATA",
    "SOURCE_METADATA",
    "TABLE_METADATA",
    "VERSION",
    "Artifact",
    "BatchProfile",
    "Calibration",
    "Condition",
    "Deformable",
    "DepthRow",
    "EngineSpec",
    "Format",
    "GateSpec",
    "GoldenFile",
    "Kept",
    "LadderData",
    "Layout",
    "Manifest",
    "MeasuredLadder",
    "Precision",
    "Quantisation",
    "Rung",
    "Source",
    "StagePiece",
    "Target",
    "Verification",
    "Weights",
    "depth_rows",
    "made_for",
    "rounds_to_half",
]

MAJOR = 1
MINOR = 3
VERSION: int | str = written_version(MAJOR, MINOR)
"""Of manifests that are written; see :mod:`anydepth_deploy.documents`."""

Precision = Literal["fp32", "fp16", "int8"]

Target = Literal["onnxruntime", "tensorrt", "openvino"]
"""What the pairs of a quantised graph are made for."""

Format = Literal["onnx", "tensorrt", "tensorrt-rtx"]
"""Of an artifact's file: a graph that runtimes read, or an engine of one runtime."""

Layout = Literal["gated", "set", "stages"]
"""How depths are packed: all in one graph, one graph each, or pieces to be chained."""

Weights = Literal["shared", "folded"]
"""How a gated graph stores its weights: once, or with the norms folded in."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Deformable = Literal["gridsample", "gather"]
"""How deformable attention samples: one operator, or the gathers it stands for."""

RAW_METADATA = "anydepth.raw_outputs"
"""ONNX metadata: public names of the raw outputs and the tensors of the graph that hold them."""

PREDICTIONS = "predictions"
"""The raw output that suppression outside a graph works on: float32 [N, 4 + classes, A], cx, cy, w,
h in input pixels, then scores."""

PIECE_METADATA = "anydepth.piece"
"""ONNX metadata: which link of a chain a graph is, a :class:`StagePiece` in JSON."""

TABLE_METADATA = "anydepth.depths"
"""ONNX metadata: the depths by row, so that a graph explains itself without its bundle."""

DEPTH_METADATA = "anydepth.depth"
"""ONNX metadata of a static graph: the depth it was made for."""

SOURCE_METADATA = "anydepth.source"
"""ONNX metadata: SHA-256 of the checkpoint's file, so that no graph passes for one of another."""


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Bytes, multiply-adds, pictures: what any program can hold."""
Small = Annotated[int, Field(ge=0, le=2**31 - 1)]
Opset = Annotated[int, Field(ge=1, le=1000)]
MOST_BATCH = 65536
Batch = Annotated[int, Field(ge=1, le=MOST_BATCH)]
Ratio = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name in the bundle's folder, never a path."""


class _Model(BaseModel):
    # Strict: a text is no number and 1 is no truth, as in C++.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Source(_Model):
    """The checkpoint a bundle was exported from."""

    file: str
    sha256: Digest
    """Of its bytes; of several files of weights, of their digests joined."""
    bytes: Count
    weights: str
    """The entry of the file that was used: ``ema``, ``model`` or ``state dict``."""


class GateSpec(_Model):
    """One gate: ``layers == 0`` for a skip gate, else the number of layers it counts."""

    name: str
    group: Small
    layers: int = Field(default=0, ge=0, le=999)


class DepthRow(_Model):
    """One row of the table that the gated graph's ``depth`` input counts."""

    index: Count
    depth: str
    level: Count | None
    macs: dict[str, Count]
    """As the published figures count them: ``total``, and by part of the network."""
    macs_executed: Count | None = None
    """What the graph computes; None in bundles of before this was told apart."""


def depth_rows(
    table: DepthTable,
    macs: Callable[[Depth], dict[str, int]],
    executed: Callable[[Depth], int],
) -> list[DepthRow]:
    """All rows of ``table``, with the multiply-adds that ``macs`` and ``executed`` give."""
    return [
        DepthRow(
            index=row,
            depth=str(depth),
            level=table.level(depth),
            macs=macs(depth),
            macs_executed=executed(depth),
        )
        for row, depth in enumerate(table.rows)
    ]


class Calibration(_Model):
    """The range table that a quantised graph took its scales from."""

    file: str
    sha256: Digest
    method: str
    pictures: Count
    depths: list[str] | None = None
    """Those that were calibrated; None in bundles of before this was written down."""


class Quantisation(_Model):
    """How a graph was quantised: two graphs with the same answer here have the same numbers."""

    target: Target
    """``onnxruntime``: asymmetric uint8 activations, for ONNX Runtime and OpenVINO on CPUs.
    ``tensorrt``: symmetric int8, the rest in FP16."""
    calibration: Calibration
    max_ratio: Ratio
    max_error: Ratio
    keep: list[str] = Field(default_factory=list)
    quantise: list[str] = Field(default_factory=list)


class Kept(_Model):
    """An operator that stays in a higher precision than its artifact's, and why."""

    node: str
    op: str
    reason: str


class Condition(_Model):
    """A gate's setting that a piece asks for; see :class:`anydepth_deploy.depth.Predicate`."""

    gate: Small
    layer: Small = 0
    runs: bool

    def holds(self, depth: Depth) -> bool:
        return Predicate(self.gate, self.layer).runs(depth) == self.runs


class StagePiece(_Model):
    """One link of the chain that a network becomes in layout ``stages``.

    At a depth, the pieces run whose conditions all hold, in rising ``order``; pieces of the same
    order exclude each other. A piece reads tensors of the flow and writes others; where none of an
    order runs, its tensors keep the values they had. The flow starts with ``images``.
    """

    order: Small
    total: int = Field(ge=1, le=2**31 - 1)
    """Pieces of the whole chain: fewer are a chain that is not complete."""
    stage: str
    variant: str
    when: list[Condition] = Field(default_factory=list)
    reads: dict[str, str]
    """Inputs of the graph by name, and the tensor of the flow each is fed with."""
    writes: dict[str, str]
    """Outputs of the graph by name, and the tensor of the flow each one sets."""

    def runs(self, depth: Depth) -> bool:
        return all(condition.holds(depth) for condition in self.when)


class BatchProfile(_Model):
    """Batch sizes an engine takes: the extremes, and the one it is fastest at."""

    smallest: Batch
    typical: Batch
    largest: Batch

    @model_validator(mode="after")
    def _rising(self) -> BatchProfile:
        if not self.smallest <= self.typical <= self.largest:
            raise ValueError(
                f"batch sizes {self.smallest}, {self.typical}, {self.largest} do not rise"
            )
        return self


class EngineSpec(_Model):
    """What a built engine was built from, by and for."""

    source: str
    """The ONNX artifact it was built from."""
    source_sha256: Digest
    version: str
    """Of TensorRT or TensorRT-RTX."""
    device: str | None = None
    """The GPU it was built on; None where it was built ahead of time."""
    capabilities: list[str] = Field(min_length=1)
    """Compute capabilities it runs on: ``sm75``."""
    batch: BatchProfile
    workspace: Count | None = None
    """Limit of the builder's scratch memory in bytes; None: the builder's own."""
    opset: Opset
    """Of the graph that the builder was given."""
    detections: bool = True
    """Whether it ends with detections, or before suppression with raw outputs."""
    layers: dict[str, Count] = Field(default_factory=dict)
    """Convolutions and matrix products by the type they compute in, as the builder reports."""


class Verification(_Model):
    """What comparing an engine with a graph of its bundle, or with golden outputs, has found."""

    when: str
    passed: bool
    reference: str
    """The artifact it was compared with, on ONNX Runtime; or the file of golden outputs."""
    device: str
    depths: Count
    batches: list[Batch]


class Artifact(_Model):
    """One file that a runtime can execute."""

    name: str
    file: FileName
    format: Format = "onnx"
    layout: Layout
    precision: Precision = "fp32"
    quantisation: Quantisation | None = None
    """None but for INT8."""
    quantised: Count = 0
    """Convolutions that compute in 8 bits, in all branches."""
    kept: list[Kept] = Field(default_factory=list)
    """Convolutions of an INT8 graph that do not; what of an FP16 body stays in FP32."""
    weights: Weights
    deformable: Deformable | None = None
    """How deformable attention samples; None for networks without it."""
    depth: str | None = None
    """The one depth of a static graph; None for a gated graph and for pieces."""
    piece: StagePiece | None = None
    """None but for layout ``stages``."""
    engine: EngineSpec | None = None
    """None for ONNX graphs."""
    verified: Verification | None = None
    """Of engines: the newest comparison of these bytes; None where there was none."""
    row: Count | None = None
    level: Count | None = None
    raw: bool = False
    """Whether the heads' raw outputs are among the outputs; the only ones where suppression is
    not in the graph."""
    opset: Opset
    bytes: Count
    sha256: Digest
    built_with: dict[str, str]
    build_seconds: Ratio


def made_for(artifact: Artifact, targets: Sequence[str]) -> bool:
    """Whether ``artifact`` is quantised for one of ``targets``, or not quantised."""
    return artifact.quantisation is None or artifact.quantisation.target in targets


def rounds_to_half(artifact: Artifact) -> bool:
    """Whether the body of ``artifact`` is FP16."""
    scheme = artifact.quantisation
    return artifact.precision == "fp16" or (scheme is not None and scheme.target == "tensorrt")


class GoldenFile(_Model):
    """Pictures and what the checkpoint's network makes of them, in a file of the bundle; see
    :mod:`anydepth_deploy.bundle.golden`."""

    file: FileName
    bytes: Count
    sha256: Digest
    pictures: Count
    depths: list[str] = Field(min_length=1)


class LadderData(_Model):
    """What the scores of a measured ladder were measured on."""

    kind: Literal["ap", "agreement"]
    """Average precision, or that of each depth against what super finds in unlabelled pictures."""
    name: str
    sha256: Digest
    pictures: Count


class Rung(_Model):
    """One depth of a measured ladder: how long a call takes, and how good what it finds is."""

    depth: str
    milliseconds: Ratio
    """The median."""
    p95: Ratio | None = None
    p99: Ratio | None = None
    """Percentiles in milliseconds; None of fewer calls than they need."""
    score: float = Field(ge=-1, le=100)
    """In percent; -1 where the data has nothing to find."""


class MeasuredLadder(_Model):
    """What ``ladder`` found on one device: the depths worth having there, from base to super.

    It holds for the artifacts with these hashes alone, computed as it says.
    """

    when: str
    device: str
    """The processor, or the GPU, as the system names it."""
    runtime: str
    precision: Literal["fp32", "fp16", "int8", "bf16"]
    layout: Layout
    artifacts: list[Digest] = Field(min_length=1)
    batch: Batch
    """Pictures of a call."""
    threads: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Inside one operator; None: the runtime's own choice."""
    calls: Count
    """That the times of each rung are of."""
    data: LadderData
    versions: dict[str, str]
    error: Ratio | None = None
    """Of predicted times at depths that the prediction had not seen: the median, in percent."""
    rungs: list[Rung] = Field(min_length=1)

    def replaces(self, other: MeasuredLadder) -> bool:
        """Whether ``other`` is an earlier one of the same: the newer one counts."""
        return all(
            getattr(self, field) == getattr(other, field)
            for field in ("device", "runtime", "precision", "layout", "batch", "threads")
        )


class Manifest(_Model):
    """Everything a program needs to run a bundle without the code that made it."""

    format: Literal["anydepth-deploy bundle"] = "anydepth-deploy bundle"
    version: int | str = VERSION
    """Major and minor, as :func:`anydepth_deploy.documents.version_of` reads them."""
    tool_version: str
    created: str
    source: Source
    family: str
    config: str
    parameters: Count
    classes: list[str] = Field(min_length=1)
    preprocess: Preprocess
    gates: list[GateSpec] = Field(max_length=1000)
    """Counted to make a table of depths."""
    base: list[Small]
    ladder: list[str]
    depths: Annotated[list[DepthRow], FailFast()]
    raw_outputs: dict[str, str]
    suppression: Suppression | None = None
    """How predictions become detections; None where the network gives detections by itself."""
    max_detections: int = Field(ge=1, le=1_000_000)
    artifacts: Annotated[list[Artifact], FailFast()] = Field(default_factory=list)
    results: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    """Records of verify, eval and bench, newest last."""
    said: dict[str, str] = Field(default_factory=dict)
    """What no key of the checkpoint reveals, as it was said or assumed."""
    measured: list[MeasuredLadder] = Field(default_factory=list)
    """Ladders that were measured, newest last. The one in use is :attr:`ladder`, on all devices."""
    name: str | None = None
    """What people call the bundle; None: nothing but its folder's name."""
    exported_classes: list[str] | None = Field(default=None, min_length=1)
    """The class names of the export, where others were given to them since."""
    golden: GoldenFile | None = None
    """None in bundles of before there were any."""

    @field_validator("version", mode="before")
    @classmethod
    def _version_is_known(cls, value: object) -> object:
        version = version_of(value)
        if version is None or version[0] != MAJOR:
            raise ValueError(f"Input should be {MAJOR}, or text like '{MAJOR}.1'")
        return value

    @property
    def is_newer(self) -> bool:
        """Whether it was written with fields that this package may not know, and leaves out."""
        version = version_of(self.version)
        return version is not None and version[1] > MINOR

    @model_validator(mode="after")
    def _depths_agree(self) -> Manifest:
        try:
            table = self.table()
        except DepthError as error:
            raise ValueError(str(error)) from None
        # Counted first: a damaged list of gates must not make a table of billions of rows.
        count = math.prod(len(gate.choices) for gate in table.space.gates)
        if len(self.depths) != count or any(
            str(depth) != row.depth for depth, row in zip(table.rows, self.depths, strict=True)
        ):
            raise ValueError("the depth table does not follow from the gates and the ladder")
        if any(row.index != index for index, row in enumerate(self.depths)):
            raise ValueError("the rows of the depth table are not numbered from 0")
        for row in self.depths:
            if row.level != table.level(row.index) or row.macs.get("total", 0) <= 0:
                raise ValueError(f"row {row.index} of the depth table has a wrong level or no macs")
        for artifact in self.artifacts:
            self._check_artifact(artifact, table)
        self._check_suppression()
        for place, measured in enumerate(self.measured):
            try:
                table.with_ladder([table.space.parse(rung.depth) for rung in measured.rungs])
            except DepthError as error:
                raise ValueError(f"the measured ladder {place}: {error}") from None
        return self

    def _check_suppression(self) -> None:
        """What is not in the graph works on predictions, which the graph must give."""
        if self.suppression is None or self.suppression.where == "graph":
            return
        if PREDICTIONS not in self.raw_outputs:
            raise ValueError(f"suppression outside the graph needs the raw output '{PREDICTIONS}'")
        for artifact in self.artifacts:
            if not artifact.raw:
                raise ValueError(
                    f"the artifact {artifact.name} gives no raw outputs, but suppression is not in "
                    "the graph"
                )

    @staticmethod
    def _check_artifact(artifact: Artifact, table: DepthTable) -> None:
        if artifact.depth is None:
            layout = "gated" if artifact.piece is None else "stages"
            consistent = artifact.layout == layout and artifact.row is None
        else:
            row = artifact.row
            consistent = artifact.layout == "set" and row is not None
            consistent = consistent and 0 <= (row or 0) < len(table.rows)
            consistent = consistent and str(table.rows[row or 0]) == artifact.depth
        if not consistent:
            raise ValueError(f"layout, depth and row of the artifact {artifact.name} do not agree")
        if artifact.piece is not None:
            gates = table.space.gates
            for condition in artifact.piece.when:
                if condition.gate >= len(gates) or condition.layer > gates[condition.gate].layers:
                    raise ValueError(f"the piece {artifact.name} asks for a gate that is not there")
        if (artifact.format == "onnx") != (artifact.engine is None):
            raise ValueError(
                f"the artifact {artifact.name} is {artifact.format}, which does not go with "
                f"{'its' if artifact.engine else 'no'} engine"
            )
        if (artifact.precision == "int8") != (artifact.quantisation is not None):
            raise ValueError(
                f"the artifact {artifact.name} is {artifact.precision}, which does not go with "
                f"{'its' if artifact.quantisation else 'no'} quantisation"
            )

    def with_ladder(self, ladder: Sequence[Depth]) -> Manifest:
        """This manifest with another ladder in use: levels change, rows do not. Raises
        :class:`DepthError`."""
        table = self.table().with_ladder(ladder)
        return self.model_copy(
            update={
                "ladder": [str(depth) for depth in ladder],
                "depths": [
                    row.model_copy(update={"level": table.level(row.index)}) for row in self.depths
                ],
                "artifacts": [
                    item
                    if item.row is None
                    else item.model_copy(update={"level": table.level(item.row)})
                    for item in self.artifacts
                ],
            }
        )

    def space(self) -> DepthSpace:
        gates = tuple(Gate(gate.name, gate.group, gate.layers) for gate in self.gates)
        return DepthSpace(gates, tuple(self.base))

    def table(self) -> DepthTable:
        space = self.space()
        ladder: tuple[Depth, ...] = tuple(space.parse(text) for text in self.ladder)
        return DepthTable(space, ladder, _first_rows(space, self.depths, ladder))


def _first_rows(
    space: DepthSpace, depths: Sequence[DepthRow], ladder: tuple[Depth, ...]
) -> tuple[Depth, ...]:
    """The ladder that the rows ``depths`` begin with, where it is another than ``ladder``: all down
    to super. None of them where there is no such ladder."""
    words = [row.depth for row in depths]
    if str(space.super) not in words:
        return ()
    try:
        first = tuple(space.parse(word) for word in words[: words.index(str(space.super)) + 1])
        return () if first == ladder else DepthTable(space, first).ladder
    except DepthError:
        return ()

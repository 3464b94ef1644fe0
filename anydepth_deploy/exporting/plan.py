"""What an export makes: which artifacts, in which precision, from which ranges.

Decided from the options before anything is traced, and compared with what a bundle has already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.calibration.keeping import KeepingRules
from anydepth_deploy.calibration.table import RangeTable, check_table, default_table, read_table
from anydepth_deploy.depth import Depth, DepthTable, names_whole_ladder
from anydepth_deploy.errors import readable
from anydepth_deploy.exporting.words import (
    check_layouts,
    check_precisions,
    check_ranges,
    check_weights,
)
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.manifest import (
    LAYOUTS,
    PRECISIONS,
    Artifact,
    Calibration,
    Deformable,
    Layout,
    Manifest,
    Precision,
    Quantisation,
    StagePiece,
    Target,
    Weights,
)

__all__ = [
    "Job",
    "Plan",
    "Scales",
    "check_options",
    "check_scales",
    "find_scales",
    "plan_jobs",
]

NAMED = ("tensorrt", "openvino", "gather")
"""What is not the usual thing appears in the names of artifacts."""


@dataclass(frozen=True)
class Job:
    """One artifact to make."""

    layout: Layout
    weights: Weights
    depth: Depth | None
    precision: Precision
    target: Target | None
    deformable: Deformable | None

    @property
    def name(self) -> str:
        if self.layout == "stages":
            return self._named("stages", "*")
        if self.depth is None:
            return self._named("gated", self.weights)
        return self._named("static", str(self.depth))

    def piece_name(self, piece: StagePiece) -> str:
        """Of one artifact, where the job makes several."""
        return self._named("stages", f"{piece.stage}.{piece.variant}")

    def _named(self, kind: str, what: str) -> str:
        words = [kind, self.precision, what]
        words += [word for word in (self.target, self.deformable) if word in NAMED]
        return "-".join(words)


@dataclass(frozen=True)
class Scales:
    """Where INT8 scales come from."""

    table: RangeTable
    file: str
    rules: KeepingRules

    def quantisation(self, target: Target) -> Quantisation:
        return Quantisation(
            target=target,
            calibration=Calibration(
                file=readable(self.file),
                sha256=self.table.sha256,
                method=self.table.method,
                pictures=self.table.pictures.count,
                depths=list(self.table.depths),
            ),
            max_ratio=self.rules.max_ratio,
            max_error=self.rules.max_error,
            keep=list(self.rules.keep),
            quantise=list(self.rules.quantise),
        )


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything is traced.

    ``size``: height and width of the input. ``jobs``: the artifacts that were asked for.
    ``raw``: add the heads' raw outputs. ``scales``: of INT8 graphs, None where there are none.
    """

    model: AnyDepthModel
    table: DepthTable
    size: tuple[int, int]
    jobs: Sequence[Job]
    raw: bool
    scales: Scales | None

    @property
    def detections(self) -> bool:
        """Whether graphs give detections, not only what the host makes them from."""
        rule = self.model.suppression
        return rule is None or rule.where == "graph"

    def quantisation(self, job: Job) -> Quantisation | None:
        """How the artifacts of ``job`` are quantised."""
        return self.scales.quantisation(job.target) if self.scales and job.target else None

    def made(self, writer: BundleWriter, job: Job) -> bool:
        """Whether everything that ``job`` would make is there."""
        if job.layout != "stages":
            return self.present(writer.find(job.name), job)
        found = [
            item
            for item in writer.manifest.artifacts
            if item.piece is not None
            and item.engine is None
            and item.name == job.piece_name(item.piece)
        ]
        whole = bool(found) and found[0].piece is not None and len(found) == found[0].piece.total
        return whole and all(self.present(writer.find(item.name), job) for item in found)

    def present(self, artifact: Artifact | None, job: Job) -> bool:
        """Whether ``artifact`` is what ``job`` would make.

        Raw outputs do no harm to who does not ask for them; their absence does.
        """
        if artifact is None or (self.raw and not artifact.raw):
            return False
        return _numbers(artifact.quantisation) == _numbers(self.quantisation(job))


def check_options(
    layouts: Sequence[str] | None,
    weights: Sequence[str],
    precision: Sequence[str],
    targets: Sequence[str],
    depth: str,
) -> list[str]:
    """The layouts to make, by these options; see :func:`export_bundle`.

    Raises :class:`UsageError` for words that are not known or do not go together.
    """
    check_layouts(layouts, depth)
    check_weights(weights)
    check_precisions(precision, targets)
    if layouts is None:
        return ["gated"] if names_whole_ladder(depth) else ["set"]
    return [layout for layout in LAYOUTS if layout in layouts]


def plan_jobs(
    table: DepthTable,
    layouts: Sequence[str],
    weights: Sequence[str],
    depth: str,
    precision: Sequence[str],
    targets: Sequence[str],
    deformable: Deformable | None,
) -> list[Job]:
    """The artifacts that these options name, as they are called there. ``deformable``: None for
    networks that sample nothing."""
    return [
        Job(layout, kind, found, lowered, target, deformable)
        for lowered, target in _precisions(precision, targets)
        for layout, kind, found in _graphs(table, layouts, weights, depth)
    ]


def find_scales(
    checkpoint: str | Path,
    precision: Sequence[str],
    path: str | Path | None,
    rules: KeepingRules | None,
) -> Scales | None:
    """The table and rules that ``precision`` needs, read. Raises :class:`UsageError` and
    :class:`CalibrationError`."""
    named = None if path is None else Path(path)
    check_ranges(Path(checkpoint), precision, named, rules=rules is not None)
    if "int8" not in precision:
        return None
    chosen = named or default_table(checkpoint)
    return Scales(read_table(chosen), chosen.name, rules or KeepingRules())


def check_scales(source: Scales, manifest: Manifest, jobs: Sequence[Job]) -> None:
    """The table is of this network, and knows every depth that is to be quantised."""
    quantised = [job for job in jobs if job.precision == "int8"]
    wanted = [str(job.depth) for job in quantised if job.depth is not None]
    if len(wanted) < len(quantised):
        rungs = [str(depth) for depth in manifest.table().exported]
        wanted = [*rungs, *(depth for depth in wanted if depth not in rungs)]
    check_table(
        source.table,
        checkpoint_sha256=manifest.source.sha256,
        preprocess=manifest.preprocess,
        depths=wanted,
        said=manifest.said,
        what=f"range table {source.file}",
    )


def _precisions(
    precision: Sequence[str], targets: Sequence[str]
) -> list[tuple[Precision, Target | None]]:
    """Precisions to make, INT8 once for each target."""
    found: list[tuple[Precision, Target | None]] = [
        (item, None) for item in PRECISIONS if item in precision and item != "int8"
    ]
    if "int8" in precision:
        found += [("int8", target) for target in get_args(Target) if target in targets]
    return found


def _graphs(
    table: DepthTable, layouts: Sequence[str], weights: Sequence[str], depth: str
) -> list[tuple[Layout, Weights, Depth | None]]:
    """Graphs to make in each precision: layout, weights, and the depth of a static one."""
    graphs: list[tuple[Layout, Weights, Depth | None]] = []
    if "gated" in layouts:
        graphs += [("gated", kind, None) for kind in get_args(Weights) if kind in weights]
    if "set" in layouts:
        graphs += [("set", "folded", chosen) for chosen in table.select(depth)]
    if "stages" in layouts:
        graphs.append(("stages", "folded", None))
    return graphs


def _numbers(scheme: Quantisation | None) -> Quantisation | None:
    """What decides the numbers of a graph: not what the table's file is called, and the hash says
    which depths were calibrated."""
    if scheme is None:
        return None
    calibration = scheme.calibration.model_copy(update={"file": "", "depths": None})
    return scheme.model_copy(update={"calibration": calibration})

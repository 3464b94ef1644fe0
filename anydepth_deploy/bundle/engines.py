"""From artifacts to a session: one engine for all depths, one each, or a chain of pieces."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.choose import export_words
from anydepth_deploy.bundle.graphs import check_engine, graph_file
from anydepth_deploy.bundle.measured import Measured
from anydepth_deploy.bundle.session import Engines, Finish, Session, checked_predictions
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, UsageError, shorten, shown
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.runtimes.engine import Compute, Engine, EngineOptions, Stages
from anydepth_deploy.runtimes.registry import (
    format_of,
    on_device,
    open_engine,
    open_stages,
    runs_on,
    runtime_targets,
)
from anydepth_deploy.runtimes.threads import limited_threads
from anydepth_deploy.suppression import suppress

if TYPE_CHECKING:
    from anydepth_deploy.bundle.files import BundleFiles


__all__ = ["open_artifacts"]


class _Gated:
    """One graph for all depths; the row goes in as an input."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine = engine
        self._feeds = [{"depth": np.asarray(row, np.int64)} for row in range(rows)]

    def at(self, row: int) -> tuple[Engine, dict[str, NDArray[np.generic]]]:
        return self._engine, dict(self._feeds[row])

    def depths(self) -> tuple[int, ...]:
        return tuple(range(len(self._feeds)))

    def opened(self) -> list[tuple[str, object]]:
        return [("gated", self._engine)]


class _Set:
    """One static graph per depth, each opened when it is first used."""

    def __init__(
        self,
        bundle: BundleFiles,
        artifacts: Mapping[int, Artifact],
        runtime: str,
        options: EngineOptions,
        check: bool,
    ) -> None:
        self._bundle, self._artifacts = bundle, dict(sorted(artifacts.items()))
        self._runtime, self._options, self._check = runtime, options, check
        self._engines: dict[int, Engine] = {}
        self._lock = threading.Lock()

    def at(self, row: int) -> tuple[Engine, dict[str, NDArray[np.generic]]]:
        engine = self._engines.get(row)
        if engine is None:
            with self._lock:
                engine = self._engines.get(row)
                if engine is None:
                    engine = self._open(row)
                    self._engines[row] = engine
        return engine, {}

    def depths(self) -> tuple[int, ...]:
        return tuple(self._artifacts)

    def opened(self) -> list[tuple[str, object]]:
        rows = self._bundle.table.rows
        return [(str(rows[row]), engine) for row, engine in list(self._engines.items())]

    def _open(self, row: int) -> Engine:
        artifact = self._artifacts.get(row)
        if artifact is None:
            rows = self._bundle.table.rows
            words = export_words(next(iter(self._artifacts.values())))
            raise BundleError(
                f"bundle {self._bundle.path} has no static graph of depth {rows[row]}; it has "
                f"{shorten(rows[found] for found in self._artifacts)}. Add it with 'export "
                f"--layout set --depth {rows[row]}{words}', or use the gated graph"
            )
        path = graph_file(self._bundle, artifact, check=self._check)
        engine = open_engine(self._runtime, path, replace(self._options, artifact=artifact))
        check_engine(path, engine, artifact, self._bundle.manifest)
        return engine


class _Chains:
    """Pieces of the network; the chain of a depth acts as one engine."""

    def __init__(self, stages: Stages, bundle: BundleFiles, artifacts: Sequence[Artifact]) -> None:
        self._stages, self._rows = stages, bundle.table.rows
        self._manifest = bundle.manifest
        # The chain ends early where one of its pieces does.
        self._last = min(artifacts, key=lambda item: item.engine is None or item.engine.detections)
        self._checked: set[int] = set()

    def at(self, row: int) -> tuple[Engine, dict[str, NDArray[np.generic]]]:
        chain = self._stages.at(self._rows[row])
        if row not in self._checked:
            name = f"the chain at depth {self._rows[row]}"
            check_engine(name, chain, self._last, self._manifest)
            self._checked.add(row)
        return chain, {}

    def depths(self) -> tuple[int, ...]:
        return tuple(range(len(self._rows)))

    def opened(self) -> list[tuple[str, object]]:
        return [("stages", self._stages)]


def open_artifacts(
    bundle: BundleFiles,
    artifacts: Sequence[Artifact],
    *,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    kept_depths: int | None = None,
    raw: bool = False,
    compute: Compute = "fp32",
    rounded: bool = False,
    check: bool = True,
    measured: Measured | None = None,
) -> Session:
    """A session over a gated graph, static graphs or pieces; see :meth:`Bundle.session`.

    Raises :class:`UsageError` for fewer than one thread or depth, and what runtimes raise.
    """
    for name, count in (("threads", threads), ("kept_depths", kept_depths)):
        if count is not None and count < 1:
            raise UsageError(
                f"{name} is {count}: expected at least 1, or none given for the runtime's own "
                "choice"
            )
    strange = next((item for item in artifacts if not runs_on(item, runtime)), None)
    if strange is not None:
        raise UsageError(_not_for(strange, runtime))
    options = EngineOptions(
        threads=limited_threads() if threads is None else threads,
        raw=raw,
        compute=compute,
        rounded=rounded,
        kept_depths=kept_depths,
    )
    engines: Engines
    if artifacts[0].layout == "gated":
        path = graph_file(bundle, artifacts[0], check=check)
        engine = open_engine(runtime, path, replace(options, artifact=artifacts[0]))
        check_engine(path, engine, artifacts[0], bundle.manifest)
        engines = _Gated(engine, len(bundle.table.rows))
    elif artifacts[0].layout == "stages":
        pieces = [
            # The last piece has raw outputs whether they were asked for or not.
            (
                graph_file(bundle, item, check=check),
                item.piece,
                replace(options, artifact=item, raw=False),
            )
            for item in artifacts
            if item.piece is not None
        ]
        engines = _Chains(open_stages(runtime, pieces), bundle, artifacts)
    else:
        by_row = {item.row: item for item in artifacts if item.row is not None}
        engines = _Set(bundle, by_row, runtime, options, check)
    manifest, rule = bundle.manifest, bundle.manifest.suppression
    precision = artifacts[0].precision if compute == "fp32" else compute
    return Session(
        bundle.table,
        bundle.size,
        tuple(bundle.manifest.raw_outputs),
        engines,
        _finish(bundle, artifacts),
        detects=rule is None or rule.where != "none",
        macs={row.depth: row.macs["total"] for row in bundle.manifest.depths},
        batch=artifacts[0].engine.batch if artifacts[0].engine else None,
        finite=not on_device(runtime),
        max_detections=bundle.manifest.max_detections,
        measured=measured,
        title=f"{shown(f'{manifest.family} {manifest.config}')}, "
        f"{runtime} {precision} {artifacts[0].layout}",
    )


def _not_for(artifact: Artifact, runtime: str) -> str:
    if artifact.format != format_of(runtime):
        kind = "an ONNX graph" if artifact.engine is None else f"an engine of {artifact.format}"
        return f"{artifact.name} is {kind}, which the runtime '{runtime}' does not execute"
    scheme = artifact.quantisation
    assert scheme is not None  # or any runtime of graphs would run it
    return (
        f"{artifact.name} is made for {scheme.target}, the runtime '{runtime}' would compute "
        "something else: choose another --runtime, or the INT8 artifacts for "
        f"{' or '.join(runtime_targets(runtime))}"
    )


def _finish(bundle: BundleFiles, artifacts: Sequence[Artifact]) -> Finish | None:
    """What the host does behind the graphs of ``bundle``; None where it does nothing."""
    rule = bundle.manifest.suppression
    cut = any(item.engine is not None and not item.engine.detections for item in artifacts)
    if rule is None or rule.where == "none" or (rule.where == "graph" and not cut):
        return None

    def finish(raw: dict[str, NDArray[np.generic]], images: int) -> Detections:
        predictions = checked_predictions(raw, images, len(bundle.manifest.classes))
        return suppress(predictions, rule, bundle.manifest.max_detections)

    return finish

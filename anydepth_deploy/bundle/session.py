"""Sessions: run images at a depth, whatever artifact lies underneath.

A gated graph and a set of static graphs answer the same calls. What no runtime checks reliably is
checked here: the depth's row, the images' type, shape and memory layout.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, InputError, UsageError, shorten
from anydepth_deploy.manifest import LAYOUTS, Artifact, BatchProfile
from anydepth_deploy.runtimes import (
    Compute,
    Engine,
    EngineOptions,
    Stages,
    device_capability,
    format_of,
    graph_targets,
    made_for,
    open_engine,
    open_stages,
    runs_on,
    runtime_targets,
)
from anydepth_deploy.suppression import suppress

if TYPE_CHECKING:
    from anydepth_deploy.bundle.files import Bundle
    from anydepth_deploy.runtimes.tensorrt.memory import MemoryUse

__all__ = [
    "PRECISIONS",
    "Session",
    "chains",
    "choose_artifacts",
    "open_artifacts",
    "other_devices",
    "stored_precision",
]

DETECTION_OUTPUTS = ("labels", "boxes", "scores")

PRECISIONS: dict[str, tuple[str, Compute]] = {
    "fp32": ("fp32", "fp32"),
    "fp16": ("fp16", "fp32"),
    "int8": ("int8", "fp32"),
    "bf16": ("fp32", "bf16"),
}
"""What a session can be asked for: the precision of the artifact, and what FP32 is computed in."""

Finish = Callable[[dict[str, NDArray[np.generic]]], Detections]
"""From raw outputs by name to detections, where the graph ends before them."""


class _Engines(Protocol):
    """Finds the engine for a depth, and what to feed it beside the images."""

    def at(self, row: int) -> tuple[Engine, dict[str, NDArray[np.generic]]]: ...

    def depths(self) -> tuple[int, ...]: ...

    def opened(self) -> list[tuple[str, object]]:
        """What is open, and a name for it."""
        ...


class Session:
    """An opened bundle that runs images at any depth its artifacts hold.

    May be called from several threads at once.
    """

    def __init__(
        self,
        table: DepthTable,
        size: tuple[int, int],
        raw_outputs: tuple[str, ...],
        engines: _Engines,
        finish: Finish | None = None,
        *,
        detects: bool = True,
        batch: BatchProfile | None = None,
    ) -> None:
        self.table = table
        self.size = size
        self._finish = finish
        self.detects = detects
        """Whether :meth:`run` works: not where suppression is left to the application."""
        self.batch = batch
        """Batch sizes that can be run; None where any can."""
        self._raw_names = tuple(f"raw_{name}" for name in raw_outputs)
        self._engines = engines

    @property
    def depths(self) -> tuple[Depth, ...]:
        """The depths that can be run, in the order of the table."""
        return tuple(self.table.rows[row] for row in self._engines.depths())

    def run(self, images: NDArray[np.float32], depth: Depth | str | int = "super") -> Detections:
        """Detect objects at ``depth``.

        ``images``: float32 [N, 3, H, W], prepared as the manifest says (see
        :func:`anydepth_deploy.pictures.images.prepare_batch`). ``depth``: text, ``super``,
        ``base``, ``level:k``, a row of the table or a :class:`Depth`.

        Raises :class:`InputError` and :class:`DepthError`, and :class:`BundleError` for a bundle
        exported with ``--nms none``.
        """
        self._check_detects()
        if self._finish is not None:
            return self._finish(self.run_raw(images, depth))
        return _detections(self._run(images, depth, DETECTION_OUTPUTS))

    def run_raw(
        self, images: NDArray[np.float32], depth: Depth | str | int = "super"
    ) -> dict[str, NDArray[np.generic]]:
        """The heads' raw outputs by name; needs artifacts exported with ``--raw``.

        AnyDepth-DETR: ``logits`` [N, Q, classes], ``boxes`` [N, Q, 4] (cx, cy, w, h in 0..1),
        ``queries`` int64 [N, Q] (the encoder token each query came from). AnyDepth-YOLO:
        ``predictions`` [N, 4 + classes, A] (cx, cy, w, h in input pixels, then class scores).
        """
        return _raw(self._run(images, depth, self._raw_names))

    def run_both(
        self, images: NDArray[np.float32], depth: Depth | str | int = "super"
    ) -> tuple[Detections, dict[str, NDArray[np.generic]]]:
        """Detections and raw outputs of one and the same execution."""
        self._check_detects()
        if self._finish is not None:
            raw = self.run_raw(images, depth)
            return self._finish(raw), raw
        found = self._run(images, depth, DETECTION_OUTPUTS + self._raw_names)
        return _detections(found), _raw(found)

    @property
    def memory(self) -> dict[str, MemoryUse]:
        """What the engines hold that are open, by the depth or layout they are for; empty where
        the runtime does not tell."""
        found = {name: getattr(item, "memory", None) for name, item in self._engines.opened()}
        return {name: use for name, use in found.items() if use is not None}

    def close(self) -> None:
        """Give back what a device holds; the session cannot be used any more. Without it, that
        happens when nothing refers to the session."""
        for _, item in self._engines.opened():
            close = getattr(item, "close", None)
            if close is not None:
                close()

    def padded(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """``images``, the last one repeated where engines take no batch as small."""
        lacking = 0 if self.batch is None else self.batch.smallest - len(images)
        return images if lacking <= 0 else np.concatenate([images, *[images[-1:]] * lacking])

    @property
    def captured(self) -> bool | None:
        """Whether everything that is open launches runs as CUDA graphs; None where the runtime has
        no such thing."""
        found = [getattr(item, "captured", None) for _, item in self._engines.opened()]
        known = [bool(sizes) for sizes in found if sizes is not None]
        return all(known) if known else None

    def load(self, depths: Iterable[Depth] | None = None) -> None:
        """Open everything that ``depths`` need, or any depth of this session, instead of when it is
        needed."""
        rows = self._engines.depths() if depths is None else map(self.table.row, depths)
        for row in rows:
            self._engines.at(row)

    def warm(self, depth: Depth | str | int = "super", batch: int = 1) -> None:
        """Load the engine of ``depth`` and run it once on zeros."""
        run = self.run if self.detects else self.run_raw
        run(np.zeros((batch, 3, *self.size), np.float32), depth)

    def _run(
        self, images: NDArray[np.float32], depth: Depth | str | int, outputs: tuple[str, ...]
    ) -> dict[str, NDArray[np.generic]]:
        self._check(images)
        engine, feeds = self._engines.at(self.table.row(depth))
        missing = [name for name in outputs if name not in engine.outputs]
        if missing:
            raise BundleError(
                f"this artifact has no outputs {shorten(missing)}: export the bundle with --raw, "
                "or open the session with raw=True"
            )
        return engine.run({"images": np.ascontiguousarray(images), **feeds}, outputs)

    def _check_detects(self) -> None:
        if not self.detects:
            raise BundleError(
                "this bundle was exported with --nms none, so it gives predictions, not "
                "detections: use run_raw, or export with --nms graph or host"
            )

    def _check(self, images: NDArray[np.float32]) -> None:
        height, width = self.size
        shape: tuple[int, ...] = getattr(images, "shape", ())
        dtype = getattr(images, "dtype", None)
        if (
            dtype != np.float32
            or len(shape) != 4
            or shape[1:] != (3, height, width)
            or not shape[0]
        ):
            raise InputError(
                f"images must be float32 [N, 3, {height}, {width}] with N >= 1; "
                f"found {dtype if dtype is not None else type(images).__name__} {list(shape)}"
            )


def _detections(found: Mapping[str, NDArray[np.generic]]) -> Detections:
    return Detections(
        labels=found["labels"].astype(np.int64, copy=False),
        boxes=found["boxes"].astype(np.float32, copy=False),
        scores=found["scores"].astype(np.float32, copy=False),
    )


def _raw(found: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    raw = {name: array for name, array in found.items() if name.startswith("raw_")}
    return {
        # Engines of TensorRT 8.6 give 32 bits where the graph says 64.
        name.removeprefix("raw_"): array.astype(np.int64) if array.dtype == np.int32 else array
        for name, array in raw.items()
    }


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
        bundle: Bundle,
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
            raise BundleError(
                f"bundle {self._bundle.path} has no static graph of depth {rows[row]}; it has "
                f"{shorten(rows[found] for found in self._artifacts)}. Add it with 'export "
                f"--layout set --depth {rows[row]}', or use the gated graph"
            )
        path = self._bundle.file(artifact, check=self._check)
        return open_engine(self._runtime, path, replace(self._options, artifact=artifact))


class _Chains:
    """Pieces of the network; the chain of a depth acts as one engine."""

    def __init__(self, stages: Stages, rows: Sequence[Depth]) -> None:
        self._stages, self._rows = stages, rows

    def at(self, row: int) -> tuple[Engine, dict[str, NDArray[np.generic]]]:
        return self._stages.at(self._rows[row]), {}

    def depths(self) -> tuple[int, ...]:
        return tuple(range(len(self._rows)))

    def opened(self) -> list[tuple[str, object]]:
        return [("stages", self._stages)]


def stored_precision(precision: str) -> tuple[str, Compute]:
    """What :data:`PRECISIONS` says of ``precision``. Raises :class:`UsageError`."""
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}': expected {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def choose_artifacts(
    bundle: Bundle,
    layout: str | None,
    precision: str,
    weights: str | None,
    target: str = "onnxruntime",
    runtime: str = "onnxruntime",
) -> list[Artifact]:
    """The artifacts that one session will run: a gated graph, all static graphs, or the pieces of
    one chain.

    ``precision``: one of :data:`PRECISIONS`. ``target``: what INT8 graphs were made for, where
    ``runtime`` takes several kinds. Of engines, those for the device at hand are chosen. Raises
    :class:`UsageError` for an unknown precision or runtime, :class:`BundleError` when the bundle
    has no artifact of that kind, and :class:`DeviceError` for engines where there is no device.
    """
    stored, _ = stored_precision(precision)
    kind = format_of(runtime)
    targets = graph_targets(runtime, target) if kind == "onnx" else runtime_targets(runtime)
    for choice in LAYOUTS if layout is None else (layout,):
        candidates = bundle.artifacts(choice, stored, weights=weights, format=kind)
        artifacts = [item for item in candidates if made_for(item, targets)]
        if artifacts:
            return _alike(_for_device(bundle, artifacts, runtime))
    raise _nothing_like(bundle, layout, stored, weights, targets, runtime)


def _for_device(bundle: Bundle, artifacts: list[Artifact], runtime: str) -> list[Artifact]:
    """Of engines, those for the device at hand; of graphs, all."""
    if artifacts[0].engine is None:
        return artifacts
    here = device_capability(runtime)
    fitting = [item for item in artifacts if item.engine and here in item.engine.capabilities]
    if not fitting:
        raise BundleError(other_devices(bundle, artifacts, runtime, here))
    return fitting


def other_devices(
    bundle: Bundle, engines: Iterable[Artifact], runtime: str, here: str | None
) -> str:
    """What to say where all ``engines`` are for other devices than the one at hand."""
    built = sorted({name for item in engines if item.engine for name in item.engine.capabilities})
    return (
        f"bundle {bundle.path} has engines for {shorten(built)}, this device is {here}: "
        f"'build {bundle.path} --runtime {runtime}' adds its own"
    )


def _alike(artifacts: list[Artifact]) -> list[Artifact]:
    """The first artifact and those that belong to it: the static graphs of the other depths, or the
    other pieces of its chain, made in the same way."""
    first = artifacts[0]
    if first.layout == "gated":
        return [first]
    return [item for item in artifacts if _make(item) == _make(first)]


def chains(artifacts: Iterable[Artifact]) -> list[list[Artifact]]:
    """Graphs and engines one by one, and pieces with the others of their chain, in the order of
    ``artifacts``: what is opened, and right or wrong, as a whole."""
    found: dict[object, list[Artifact]] = {}
    for item in artifacts:
        found.setdefault(item.name if item.piece is None else _make(item), []).append(item)
    return list(found.values())


def _make(artifact: Artifact) -> tuple[object, ...]:
    """What artifacts that belong together have in common."""
    engine, scheme = artifact.engine, artifact.quantisation
    return (
        artifact.format,
        artifact.precision,
        artifact.weights,
        # Bundles of before do not name what is no gather.
        artifact.deformable == "gather",
        scheme and scheme.target,
        engine and (engine.version, *engine.capabilities),
    )


def _nothing_like(
    bundle: Bundle,
    layout: str | None,
    stored: str,
    weights: str | None,
    targets: Sequence[str],
    runtime: str,
) -> BundleError:
    has = sorted({_kind(item) for item in bundle.artifacts()})
    engines = format_of(runtime) != "onnx"
    purpose = f"for {targets[0]}" if stored == "int8" or engines else None
    wanted = " ".join(word for word in (layout, stored, weights, purpose) if word)
    given = {"precision": stored, "layout": layout, "weights": weights}
    options = " ".join(f"--{name} {word}" for name, word in given.items() if word)
    command = f"build {bundle.path} --runtime {runtime}" if engines else "export"
    return BundleError(
        f"bundle {bundle.path} has no artifact '{wanted}'; it has: {shorten(has) or 'none'}. "
        f"'{command} {options}' adds it"
    )


def _kind(artifact: Artifact) -> str:
    purpose = f" for {artifact.quantisation.target}" if artifact.quantisation else ""
    if artifact.engine is not None:
        purpose = f" for {artifact.format} on {'+'.join(artifact.engine.capabilities)}"
    return f"{artifact.layout} {artifact.precision} {artifact.weights}{purpose}"


def open_artifacts(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    *,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    raw: bool = False,
    compute: Compute = "fp32",
    rounded: bool = False,
    check: bool = True,
) -> Session:
    """A session over a gated graph, static graphs or pieces; see :meth:`Bundle.session`.

    Raises :class:`UsageError` for fewer than one thread, and what runtimes raise.
    """
    if threads is not None and threads < 1:
        raise UsageError(
            f"threads is {threads}: expected at least 1, or none given for the runtime's own choice"
        )
    strange = next((item for item in artifacts if not runs_on(item, runtime)), None)
    if strange is not None:
        raise UsageError(_not_for(strange, runtime))
    options = EngineOptions(threads=threads, raw=raw, compute=compute, rounded=rounded)
    engines: _Engines
    if artifacts[0].layout == "gated":
        path = bundle.file(artifacts[0], check=check)
        engine = open_engine(runtime, path, replace(options, artifact=artifacts[0]))
        engines = _Gated(engine, len(bundle.table.rows))
    elif artifacts[0].layout == "stages":
        pieces = [
            # The last piece has raw outputs whether they were asked for or not.
            (bundle.file(item, check=check), item.piece, replace(options, artifact=item, raw=False))
            for item in artifacts
            if item.piece is not None
        ]
        engines = _Chains(open_stages(runtime, pieces), bundle.table.rows)
    else:
        by_row = {item.row: item for item in artifacts if item.row is not None}
        engines = _Set(bundle, by_row, runtime, options, check)
    rule = bundle.manifest.suppression
    return Session(
        bundle.table,
        bundle.size,
        tuple(bundle.manifest.raw_outputs),
        engines,
        _finish(bundle, artifacts),
        detects=rule is None or rule.where != "none",
        batch=artifacts[0].engine.batch if artifacts[0].engine else None,
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


def _finish(bundle: Bundle, artifacts: Sequence[Artifact]) -> Finish | None:
    """What the host does behind the graphs of ``bundle``; None where it does nothing."""
    rule = bundle.manifest.suppression
    cut = any(item.engine is not None and not item.engine.detections for item in artifacts)
    if rule is None or rule.where == "none" or (rule.where == "graph" and not cut):
        return None

    def finish(raw: dict[str, NDArray[np.generic]]) -> Detections:
        predictions = raw["predictions"].astype(np.float32, copy=False)
        return suppress(predictions, rule, bundle.manifest.max_detections)

    return finish

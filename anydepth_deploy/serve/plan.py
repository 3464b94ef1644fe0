"""Which models serve a bundle, decided before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import choose_artifacts
from anydepth_deploy.bundle.graphs import graph_file
from anydepth_deploy.bundle.session import DETECTION_OUTPUTS
from anydepth_deploy.bundle.trust import check_trust
from anydepth_deploy.errors import BundleError, UsageError, shorten
from anydepth_deploy.manifest import PRECISIONS, PREDICTIONS, Artifact, made_for
from anydepth_deploy.runtimes.registry import graph_targets
from anydepth_deploy.serve.budgets import AUTO, budget_of, is_auto
from anydepth_deploy.serve.limits import MAX_BATCH, MAX_PIXELS, in_flight, waiting
from anydepth_deploy.serve.names import Names, check_name, safe_name
from anydepth_deploy.serve.signature import Signature, read_signature

__all__ = [
    "RUNTIMES",
    "Device",
    "Plan",
    "Runtime",
    "ServeOptions",
    "Served",
    "check_options",
    "plan",
]

Runtime = Literal["onnxruntime", "tensorrt"]
Device = Literal["cpu", "gpu"]

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
"""What Triton has a backend for; TensorRT-RTX is not among them."""


@dataclass(frozen=True)
class ServeOptions:
    """How a bundle is served.

    ``layouts``: ``gated``, ``set`` or both; None for what the bundle has. ``weights``: of the
    gated graph. ``target``: the compute capability (``sm89``) of the engines, where a bundle has
    them for several. ``default_depth``: of requests that name none. ``max_batch``: images that a
    model of one depth takes at once, and that one request may bring, to the gated graph as well.
    ``budget_ms``: that requests at depth ``auto`` may take where they do not say, None where they
    have to. ``max_pixels``: that the pictures of one request may have together. ``max_queue``:
    images that wait in the router beside those that are under way, None for
    :func:`~anydepth_deploy.serve.limits.waiting`; it refuses more.
    ``queue_delay_us``: how long a model of one depth waits for more images, in microseconds.
    ``instances``: of each model with weights. ``workers``: of pre- and postprocessing, each a
    process. ``threads``: inside one operator of ONNX Runtime on a CPU, None for its own choice.
    """

    runtime: str = "onnxruntime"
    device: str = "auto"
    layouts: tuple[str, ...] | None = None
    precision: str = "fp32"
    weights: str | None = None
    target: str | None = None
    default_depth: str = "super"
    budget_ms: float | None = None
    max_batch: int = MAX_BATCH
    max_pixels: int = MAX_PIXELS
    max_queue: int | None = None
    queue_delay_us: int = 0
    instances: int = 1
    workers: int = 2
    threads: int | None = None


@dataclass(frozen=True)
class Served:
    """A model that a backend executes. ``signature``: None for an engine, which only TensorRT can
    read. ``max_batch``: 0 for a gated graph, whose batch shares one depth."""

    name: str
    artifact: Artifact
    file: Path
    signature: Signature | None
    max_batch: int
    preferred: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """``levels``: by row of the depth table. ``raw_output``: what the router suppresses on the
    host, or nothing."""

    names: Names
    bundle: Bundle
    options: ServeOptions
    device: Device
    gated: Served | None
    levels: dict[int, Served]
    raw_output: str

    @property
    def served(self) -> list[Served]:
        return [*([self.gated] if self.gated else []), *self.levels.values()]

    @property
    def max_images(self) -> int:
        """The most images that one request may bring."""
        levels = [item.max_batch for item in self.levels.values()]
        return min([self.options.max_batch, *([] if self.gated else levels)])

    @property
    def in_flight(self) -> int:
        """Images that the router has under way at once."""
        return in_flight(self.max_images, self.options.instances)

    @property
    def max_queue(self) -> int:
        """Images that wait in the router beside those."""
        chosen = self.options.max_queue
        return waiting(self.max_images) if chosen is None else chosen

    @property
    def warm_rows(self) -> list[int]:
        """Rows whose depths run every part of the gated graph between them, and skip it."""
        table = self.bundle.table
        return sorted({table.row(name) for name in ("base", "super")})

    @property
    def measured(self) -> dict[str, object]:
        """What a ladder has to be measured of for the router to know costs by it. Nothing for ONNX
        Runtime on a GPU: its ladders are of the processor."""
        options, artifacts = self.options, [item.artifact.name for item in self.served]
        if options.runtime == "onnxruntime" and self.device == "gpu":
            artifacts = []
        return {
            "runtime": options.runtime,
            "precision": options.precision,
            "threads": options.threads,
            "artifacts": artifacts,
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the models give that the router reads."""
        return (self.raw_output,) if self.raw_output else DETECTION_OUTPUTS


def plan(bundle: Bundle, name: str | None, options: ServeOptions) -> Plan:
    """The models that serve ``bundle``. Files are compared with the manifest here.

    Raises :class:`UsageError` for options that do not go together, :class:`DepthError` for an
    unknown depth, and :class:`BundleError` for what the bundle does not have, or may not be
    trusted.
    """
    device = check_options(options)
    rule = bundle.manifest.suppression
    if rule is not None and rule.where == "none":
        raise BundleError(
            f"bundle {bundle.path} was exported with --nms none, so it gives predictions, not "
            "detections, and Triton would, too: export it with --nms graph or host"
        )
    chosen = _choose(bundle, options)
    check_trust([artifact for artifacts in chosen.values() for artifact in artifacts])
    called = safe_name(bundle.manifest.name or bundle.path.resolve().name)
    names = Names(check_name(called if name is None else name))
    gated, levels = None, {}
    for artifact in chosen.get("gated", []):
        gated = _served(bundle, names.gated, artifact, 0)
    for artifact in sorted(chosen.get("set", []), key=lambda item: item.row or 0):
        assert artifact.row is not None  # the manifest sees to it
        levels[artifact.row] = _static(bundle, names, artifact, options.max_batch)
    found = Plan(names, bundle, options, device, gated, levels, _raw_output(bundle, chosen))
    _check_default(found)
    return found


def check_options(options: ServeOptions) -> Device:
    """The device that is asked for. Raises :class:`UsageError` for options that do not go
    together, whatever the bundle."""
    if options.runtime not in RUNTIMES:
        raise UsageError(
            f"Triton has no backend '{options.runtime}': expected {' or '.join(RUNTIMES)}"
        )
    if options.precision not in PRECISIONS:
        raise UsageError(
            f"Triton's backends do not compute in {options.precision}: expected --precision "
            f"{', '.join(PRECISIONS)}"
        )
    if options.device not in ("auto", "cpu", "gpu"):
        raise UsageError(f"unknown device '{options.device}': expected auto, cpu or gpu")
    engines = options.runtime == "tensorrt"
    if engines and options.device == "cpu":
        raise UsageError("engines of TensorRT run on no CPU: leave --device out, or serve graphs")
    strange = [item for item in options.layouts or () if item not in ("gated", "set")]
    if strange:
        raise UsageError(
            f"layout {shorten(strange)} cannot be served: expected gated, set or gated,set"
        )
    if options.layouts is not None and not options.layouts:
        raise UsageError("no layout was given: expected gated, set or gated,set")
    if engines and "gated" in (options.layouts or ()):
        raise UsageError(
            "Triton's TensorRT backend takes no scalar inputs, as 'depth' of a gated engine is: "
            "serve --layout set, or the gated graph with --runtime onnxruntime"
        )
    if options.target is not None and not engines:
        raise UsageError("--target is for engines: leave it out, or choose --runtime tensorrt")
    if options.threads is not None and engines:
        raise UsageError("--threads is for ONNX Runtime on CPUs: leave it out")
    if options.budget_ms is not None and budget_of(options.budget_ms) is None:
        raise UsageError(
            f"--budget-ms is {options.budget_ms}: expected a positive number of milliseconds"
        )
    if is_auto(options.default_depth) and options.budget_ms is None:
        raise UsageError(
            f"--default-depth {AUTO} needs a budget: say with --budget-ms what a request may take"
        )
    for option, value, least in (
        ("--max-batch", options.max_batch, 1),
        ("--max-pixels", options.max_pixels, 1),
        ("--max-queue", options.max_queue, 1),
        ("--queue-delay-us", options.queue_delay_us, 0),
        ("--instances", options.instances, 1),
        ("--workers", options.workers, 1),
        ("--threads", options.threads, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{option} is {value}: expected at least {least}")
    if options.device == "auto":
        return "gpu" if engines else "cpu"
    return "gpu" if options.device == "gpu" else "cpu"


def _choose(bundle: Bundle, options: ServeOptions) -> dict[str, list[Artifact]]:
    """The artifacts of each layout that is served."""
    if options.runtime == "tensorrt":
        return {"set": _engines(bundle, options)}
    found: dict[str, list[Artifact]] = {}
    for layout in options.layouts or ("gated", "set"):
        weights = options.weights if layout == "gated" else None
        held = bundle.artifacts(layout, options.precision, weights=weights, format="onnx")
        has = [item for item in held if made_for(item, graph_targets("onnxruntime", "onnxruntime"))]
        if has or options.layouts is not None:
            found[layout] = choose_artifacts(bundle, layout, options.precision, weights)
    if not found:  # one line about what there is, and what makes the rest
        choose_artifacts(bundle, "gated", options.precision, options.weights)
    return found


def _engines(bundle: Bundle, options: ServeOptions) -> list[Artifact]:
    """The engines of one kind of device, one for each depth; the device need not be here."""
    has = bundle.artifacts("set", options.precision, format="tensorrt")
    kinds = sorted({"+".join(item.engine.capabilities) for item in has if item.engine})
    fitting = [
        item
        for item in has
        if item.engine and (options.target is None or options.target in item.engine.capabilities)
    ]
    command = f"'build {bundle.path} --runtime tensorrt --layout set"
    if not fitting:
        raise BundleError(
            f"bundle {bundle.path} has no TensorRT engines 'set {options.precision}"
            f"{f' {options.target}' if options.target else ''}'; it has them for: "
            f"{shorten(kinds) or 'nothing'}. {command} --precision {options.precision}' adds them"
        )
    if len({item.engine.capabilities[0] for item in fitting if item.engine}) > 1:
        raise UsageError(
            f"bundle {bundle.path} has engines for {shorten(kinds)}: say which with --target"
        )
    versions = sorted({item.engine.version for item in fitting if item.engine})
    if len(versions) > 1:
        raise BundleError(
            f"bundle {bundle.path} has engines of TensorRT {shorten(versions)}, and a server has "
            "one version: build all of them with the server's"
        )
    return list({item.row: item for item in fitting}.values())


def _served(
    bundle: Bundle, name: str, artifact: Artifact, max_batch: int, preferred: Sequence[int] = ()
) -> Served:
    path = graph_file(bundle, artifact)
    signature = None if artifact.engine is not None else read_signature(path)
    return Served(name, artifact, path, signature, max_batch, tuple(preferred))


def _static(bundle: Bundle, names: Names, artifact: Artifact, max_batch: int) -> Served:
    assert artifact.row is not None
    name, engine = names.static(artifact.row, artifact.level), artifact.engine
    if engine is None:
        preferred = [max_batch] if max_batch > 1 else []
        return _served(bundle, name, artifact, max_batch, preferred)
    if engine.batch.smallest > 1:
        raise BundleError(
            f"the engine {artifact.name} takes batches of {engine.batch.smallest} and more, a "
            "request may bring one image: build it again with --batch 1,"
            f"{engine.batch.typical},{engine.batch.largest}"
        )
    largest = min(max_batch, engine.batch.largest)
    preferred = sorted({min(engine.batch.typical, largest), largest} - {1})
    return _served(bundle, name, artifact, largest, preferred)


def _raw_output(bundle: Bundle, chosen: dict[str, list[Artifact]]) -> str:
    """The raw output that the host suppresses, or nothing."""
    rule = bundle.manifest.suppression
    artifacts = [artifact for artifacts in chosen.values() for artifact in artifacts]
    raw = {
        rule is not None
        and (rule.where == "host" or (item.engine is not None and not item.engine.detections))
        for item in artifacts
    }
    if len(raw) > 1:
        raise BundleError(
            f"some engines of bundle {bundle.path} end with detections, others before suppression: "
            "build them again together, with --force"
        )
    return f"raw_{PREDICTIONS}" if raw == {True} else ""


def _check_default(found: Plan) -> None:
    if is_auto(found.options.default_depth):
        return
    row = found.bundle.table.row(found.options.default_depth)
    if found.gated is None and row not in found.levels:
        rows = found.bundle.table.rows
        raise UsageError(
            f"the default depth {found.options.default_depth} ({rows[row]}) would not be served; "
            f"the models are for {shorten(rows[item] for item in found.levels)}: choose one of "
            "them with --default-depth, or serve the gated graph, too"
        )

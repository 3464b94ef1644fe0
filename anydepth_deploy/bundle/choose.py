"""Which artifacts of a bundle one session runs.

For a layout, a precision and a runtime: a gated graph, all static graphs, or the pieces of one
chain; of engines, those for the device at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anydepth_deploy.errors import BundleError, UsageError, shorten
from anydepth_deploy.manifest import LAYOUTS, Artifact, made_for
from anydepth_deploy.runtimes.engine import Compute
from anydepth_deploy.runtimes.registry import (
    device_capability,
    format_of,
    graph_targets,
    runtime_targets,
)

if TYPE_CHECKING:
    from anydepth_deploy.bundle.files import BundleFiles


__all__ = [
    "SESSION_PRECISIONS",
    "Choice",
    "chains",
    "choose_artifacts",
    "export_words",
    "other_devices",
    "stored_precision",
]

SESSION_PRECISIONS: dict[str, tuple[str, Compute]] = {
    "fp32": ("fp32", "fp32"),
    "fp16": ("fp16", "fp32"),
    "int8": ("int8", "fp32"),
    "bf16": ("fp32", "bf16"),
}
"""What a session can be asked for: the precision of the artifact, and what FP32 is computed in."""


def stored_precision(precision: str) -> tuple[str, Compute]:
    """What :data:`SESSION_PRECISIONS` says of ``precision``. Raises :class:`UsageError`."""
    if precision not in SESSION_PRECISIONS:
        raise UsageError(
            f"unknown precision '{precision}': expected {', '.join(SESSION_PRECISIONS)}"
        )
    return SESSION_PRECISIONS[precision]


@dataclass(frozen=True)
class Choice:
    """Which artifacts of a bundle, and what runs them; as in :meth:`Bundle.session`."""

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    layout: str | None = None
    weights: str | None = None
    target: str | None = None
    threads: int | None = None


def choose_artifacts(
    bundle: BundleFiles,
    layout: str | None,
    precision: str,
    weights: str | None,
    target: str | None = None,
    runtime: str = "onnxruntime",
) -> list[Artifact]:
    """The artifacts that one session will run: a gated graph, all static graphs, or the pieces of
    one chain.

    ``precision``: one of :data:`SESSION_PRECISIONS`. ``target``: what INT8 graphs were made for;
    by default what ``runtime`` likes best, but for static graphs of which rungs are missing where
    those for another target are all there. Of engines, those for the device at hand are chosen.
    Raises :class:`UsageError` for an unknown precision or runtime, :class:`BundleError` when the
    bundle has no artifact of that kind, and :class:`DeviceError` for engines where there is no
    device.
    """
    stored, _ = stored_precision(precision)
    kind = format_of(runtime)
    targets = graph_targets(runtime, target) if kind == "onnx" else runtime_targets(runtime)
    for choice in LAYOUTS if layout is None else (layout,):
        candidates = bundle.artifacts(choice, stored, weights=weights, format=kind)
        found: list[list[Artifact]] = []
        for liked in targets:  # the best first
            artifacts = [item for item in candidates if made_for(item, (liked,))]
            if artifacts:
                found.append(_alike(_for_device(bundle, artifacts, runtime)))
        if found:
            return next((group for group in found if _holds_the_ladder(bundle, group)), found[0])
    raise _nothing_like(bundle, layout, stored, weights, targets, runtime)


def _holds_the_ladder(bundle: BundleFiles, artifacts: Sequence[Artifact]) -> bool:
    """Whether static graphs are there for every rung; what is no set holds all depths."""
    rungs = {bundle.table.row(depth) for depth in bundle.table.ladder}
    return artifacts[0].layout != "set" or rungs <= {item.row for item in artifacts}


def _for_device(bundle: BundleFiles, artifacts: list[Artifact], runtime: str) -> list[Artifact]:
    """Of engines, those for the device at hand; of graphs, all."""
    if artifacts[0].engine is None:
        return artifacts
    here = device_capability(runtime)
    fitting = [item for item in artifacts if item.engine and here in item.engine.capabilities]
    if not fitting:
        raise BundleError(other_devices(bundle, artifacts, runtime, here))
    return fitting


def other_devices(
    bundle: BundleFiles, engines: Iterable[Artifact], runtime: str, here: str | None
) -> str:
    """What to say where all ``engines`` are for other devices than the one at hand."""
    built = sorted({name for item in engines if item.engine for name in item.engine.capabilities})
    return (
        f"bundle {bundle.path} has engines for {shorten(built)}, this device is {here}: "
        f"'build {bundle.path} --runtime {runtime}' adds its own"
    )


def export_words(artifact: Artifact) -> str:
    """What ``export`` is to be told, beside a layout and depths, to make others like this graph:
    `` --precision int8 --target openvino``; nothing for an FP32 one."""
    scheme = artifact.quantisation
    words = "" if artifact.precision == "fp32" else f" --precision {artifact.precision}"
    if scheme is not None and scheme.target != "onnxruntime":
        words += f" --target {scheme.target}"
    return words


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
    bundle: BundleFiles,
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
    if stored == "int8" and not engines and targets[0] != "onnxruntime":
        given["target"] = targets[0]
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

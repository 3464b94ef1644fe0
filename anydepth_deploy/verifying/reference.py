"""The graph that an engine is compared with, executed by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.graphs import graph_file
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, MissingExtraError
from anydepth_deploy.families.registry import find_outputs
from anydepth_deploy.manifest import RAW_METADATA, Artifact, rounds_to_half
from anydepth_deploy.runtimes.engine import Engine, EngineOptions
from anydepth_deploy.runtimes.onnx_file import load_model
from anydepth_deploy.runtimes.registry import open_engine

__all__ = ["CHOICE", "Reference", "choose_reference"]

CHOICE = "choice"
"""Name under which a reference gives the score (a logit) of every encoder token, float32 [N, T]:
the best of its classes, which is what the queries are chosen by."""


def choose_reference(bundle: Bundle, artifact: Artifact) -> Artifact:
    """The graph of ``bundle`` to compare an engine with.

    FP32: the graph it was built from. FP16: the FP32 graph, because two FP16 executions differ from
    it by one rounding error each, and from each other by both: against FP32 the honest error is
    smaller, and an overflow shows that both would share. INT8: the graph of the very same scales,
    because the loss of 8 bits would hide all else; ONNX Runtime computes it with FP16 rounded as
    the graph says. Where that graph is gone, or was exported again, another graph of the same
    precision (for INT8: and of the same scales) that holds the engine's depths takes its place.

    Raises :class:`BundleError` when there is none.
    """
    engine = artifact.engine
    assert engine is not None
    graphs = [item for item in bundle.artifacts(format="onnx") if _holds(item, artifact)]
    source = next(
        (
            item
            for item in graphs
            if item.name == engine.source and item.sha256 == engine.source_sha256
        ),
        None,
    )
    named = next((item for item in bundle.artifacts() if item.name == engine.source), None)
    alike = [
        item
        for item in graphs
        if item.precision == artifact.precision
        and item.quantisation == artifact.quantisation
        # A static graph has the scales of its depth; a gated one, and pieces, those of all depths.
        and (
            artifact.quantisation is None
            or (named is not None and (named.depth is None) == (item.depth is None))
        )
    ]
    exact = [item for item in graphs if item.precision == "fp32"]
    candidates = [source] if source is not None else []
    if artifact.precision == "fp16":
        candidates = [*exact, *candidates]
    for item in [*candidates, *alike]:
        if (bundle.path / item.file).is_file():
            return item
    if named is not None and named.piece is not None:
        target = f" --target {scheme.target}" if (scheme := artifact.quantisation) else ""
        raise BundleError(
            f"bundle {bundle.path} has no whole graph to compare {artifact.name} with, only pieces "
            f"of one: 'export --layout gated --precision {artifact.precision}{target}' adds it"
        )
    raise BundleError(
        f"bundle {bundle.path} has no graph to compare {artifact.name} with: {engine.source}, from "
        "which it was built, is gone or was exported again; build the engine again"
    )


def _holds(graph: Artifact, artifact: Artifact) -> bool:
    """Whether ``graph`` is whole and holds every depth of ``artifact``."""
    return graph.piece is None and graph.depth in (None, artifact.depth)


class Reference:
    """A whole graph on ONNX Runtime that also gives the scores which queries are chosen by."""

    def __init__(self, bundle: Bundle, artifact: Artifact, *, threads: int | None = None) -> None:
        """Raises :class:`BundleError` for a file that is damaged, :class:`MissingExtraError`
        without the packages ``onnx`` and ``onnxruntime``."""
        self.artifact = artifact
        self.table = bundle.table
        self._raw = tuple(bundle.manifest.raw_outputs)
        options = EngineOptions(
            threads=threads, raw=True, rounded=rounds_to_half(artifact), artifact=artifact
        )
        path = graph_file(bundle, artifact)
        choice = find_outputs(bundle.manifest.family).choice
        if choice is not None:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / artifact.file
                _name_choice(path, copy, choice)
                self._engine: Engine = open_engine("onnxruntime", copy, options)
            self._raw = (*self._raw, CHOICE)
        else:
            self._engine = open_engine("onnxruntime", path, options)

    def depths(self) -> tuple[Depth, ...]:
        """What it can be run at."""
        if self.artifact.depth is not None:
            return (self.table.find(self.artifact.depth),)
        return self.table.rows

    def run(self, images: NDArray[np.float32], depth: Depth) -> dict[str, NDArray[np.generic]]:
        """Raw outputs by name, and :data:`CHOICE` where there are queries, for float32
        [N, 3, H, W]; image by image, so that nothing depends on their number."""
        feeds: dict[str, NDArray[np.generic]] = {}
        if "depth" in self._engine.inputs:
            feeds["depth"] = np.asarray(self.table.row(depth), np.int64)
        names = [f"raw_{name}" for name in self._raw]
        found = [
            self._engine.run({"images": images[index : index + 1], **feeds}, names)
            for index in range(len(images))
        ]
        return {
            name.removeprefix("raw_"): np.concatenate([item[name] for item in found])
            for name in names
        }


def _name_choice(path: Path, copy: Path, choice: str) -> None:
    """Write the graph to ``copy``, with what its queries, the raw output ``choice``, are chosen by
    among the raw outputs."""
    try:
        import onnx
    except ImportError:
        purpose = "comparing an engine with its graph"
        raise MissingExtraError("onnx", "export", purpose) from None
    model = load_model(path)
    for entry in model.metadata_props:
        if entry.key == RAW_METADATA:
            tensors = json.loads(entry.value)
            makers = {name: node for node in model.graph.node for name in node.output}
            node = makers.get(tensors.get(choice, ""))
            if node is None or node.op_type != "TopK":
                break
            entry.value = json.dumps({**tensors, CHOICE: node.input[0]})
            onnx.save(model, str(copy))
            return
    raise BundleError(f"{path} does not say how its queries are chosen: export it again")

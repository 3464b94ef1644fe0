"""What graphs and engines say of themselves, held against the manifest before they are run.

A hash only says that a file is the one that the manifest names. A graph carries its own table of
depths, its depth or its place in a chain, and names and shapes of what it takes and gives; an
engine has the last of these. Where both speak of the same thing they have to agree. Graphs of
before that lack an entry are held against the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from anydepth_deploy.bundle.session import DETECTION_OUTPUTS
from anydepth_deploy.errors import BundleError, shown
from anydepth_deploy.manifest import (
    DEPTH_METADATA,
    PIECE_METADATA,
    PREDICTIONS,
    RAW_METADATA,
    SOURCE_METADATA,
    TABLE_METADATA,
    Artifact,
    Manifest,
    StagePiece,
)
from anydepth_deploy.runtimes.engine import Port
from anydepth_deploy.runtimes.onnx_file import OnnxFile, read_onnx_file

if TYPE_CHECKING:
    from anydepth_deploy.bundle.files import BundleFiles

__all__ = ["check_engine", "check_graph", "graph_file"]

IMAGES, DEPTH = "images", "depth"
CLASSES = {"raw_logits": (2, 0), f"raw_{PREDICTIONS}": (1, 4)}
"""Raw outputs that tell the number of classes: the axis, and what else lies on it. See
:func:`_tells_classes`."""


def graph_file(bundle: BundleFiles, artifact: Artifact, *, check: bool = True) -> Path:
    """The path of an artifact that is about to be run or built; with ``check`` its bytes are
    compared with the manifest. Graphs are always held against it, see :func:`check_graph`.

    Raises :class:`BundleError`.
    """
    path = bundle.file(artifact, check=check)
    if artifact.format == "onnx":
        check_graph(path, read_onnx_file(path), artifact, bundle.manifest)
    return path


def check_graph(path: Path, found: OnnxFile, artifact: Artifact, manifest: Manifest) -> None:
    """Hold what the graph ``path`` says of itself against what ``manifest`` says of ``artifact``.

    Raises :class:`BundleError`, with what both say, where they differ.
    """
    check = _Check(path, "graph", "export it again")
    source = found.metadata.get(SOURCE_METADATA)
    if source is not None:
        check.same("the checkpoint", source[:12], manifest.source.sha256[:12])
    if artifact.piece is not None:
        check.piece(found.metadata, artifact.piece)
    elif artifact.depth is not None:
        check.same("the depth", found.metadata.get(DEPTH_METADATA, artifact.depth), artifact.depth)
    else:
        check.table(found.metadata, [row.depth for row in manifest.depths])
    raw = check.raw_outputs(found.metadata)
    inputs, outputs = found.inputs, found.outputs
    if artifact.piece is None:
        check.names(inputs, outputs, artifact, manifest)
    else:
        reads = artifact.piece.reads
        inputs = tuple(replace(port, name=reads.get(port.name, port.name)) for port in inputs)
    named = {port.name for port in outputs}
    hidden = [
        replace(found.tensors[tensor], name=f"raw_{name}")
        for name, tensor in raw.items()
        if tensor in found.tensors and f"raw_{name}" not in named
    ]
    check.shapes(inputs, [*outputs, *hidden], manifest)


def check_engine(
    name: str | Path,
    engine: object,
    artifact: Artifact,
    manifest: Manifest,
) -> None:
    """Hold inputs and outputs of an opened engine (of pieces: those of a whole chain) against
    ``manifest``, where its runtime tells them.

    Raises :class:`BundleError`, with what both say, where they differ; the engine is closed then.
    """
    ports: tuple[Sequence[Port], Sequence[Port]] | None = getattr(engine, "ports", None)
    if ports is None:
        return
    check = _Check(name, "engine", "build it again")
    try:
        check.names(*ports, artifact, manifest)
        check.shapes(*ports, manifest)
    except BundleError:
        close = getattr(engine, "close", None)
        if close is not None:
            close()
        raise


class _Check:
    """``path``: of the file, which is a ``kind``; ``remedy``: what to do where it differs."""

    def __init__(self, path: str | Path, kind: str, remedy: str) -> None:
        self._path, self._kind, self._remedy = path, kind, remedy

    def same(self, what: str, found: str, expected: str) -> None:
        if found != expected:
            raise BundleError(
                f"{self._path} does not go with its manifest: {what} is {shown(found)} in the "
                f"{self._kind}, {shown(expected)} in the manifest: {self._remedy}"
            )

    def table(self, metadata: Mapping[str, str], rows: Sequence[str]) -> None:
        """The depths by row."""
        content = self._json(metadata, TABLE_METADATA)
        if content is None:
            return
        depths = content.get("rows")
        if not isinstance(depths, list) or not all(isinstance(item, str) for item in depths):
            self._damaged(TABLE_METADATA)
        self.same("the number of depths", str(len(depths)), str(len(rows)))
        for row, (found, expected) in enumerate(zip(depths, rows, strict=True)):
            self.same(f"row {row} of the depth table", found, expected)

    def piece(self, metadata: Mapping[str, str], expected: StagePiece) -> None:
        """The place in a chain."""
        content = self._json(metadata, PIECE_METADATA)
        if content is None:
            return
        known = {name: content[name] for name in StagePiece.model_fields if name in content}
        try:
            found = StagePiece.model_validate(known, strict=True)
        except ValidationError:
            self._damaged(PIECE_METADATA)
        for word in ("order", "total", "stage", "variant"):
            self.same(
                f"the piece's {word}", str(getattr(found, word)), str(getattr(expected, word))
            )
        self._lists("condition", _conditions(found), _conditions(expected))
        self._lists("input", _links(found.reads), _links(expected.reads))
        self._lists("output", _links(found.writes), _links(expected.writes))

    def raw_outputs(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """The tensors that hold the raw outputs, by their public names."""
        content = self._json(metadata, RAW_METADATA)
        if content is None:
            return {}
        if not all(isinstance(tensor, str) for tensor in content.values()):
            self._damaged(RAW_METADATA)
        return content

    def names(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        artifact: Artifact,
        manifest: Manifest,
    ) -> None:
        """The inputs, and the outputs that a session may ask for."""
        given, made = {port.name for port in inputs}, {port.name for port in outputs}
        names = [DEPTH, IMAGES] if artifact.layout == "gated" else [IMAGES]
        self.same("the list of inputs", _listed(sorted(given)), _listed(names))
        expected = _outputs(artifact, manifest)
        present = [name for name in expected if name in made]
        self.same("the list of outputs", _listed(present), _listed(expected))

    def shapes(self, inputs: Sequence[Port], outputs: Sequence[Port], manifest: Manifest) -> None:
        """Types and shapes, and what they tell."""
        height, width = manifest.preprocess.size
        for port in inputs:
            if port.name == IMAGES:
                self._port(port, ("float32",), (None, 3, height, width))
            elif port.name == DEPTH:
                self._port(port, ("int64", "int32"), ())
        for port in outputs:
            if port.name == "scores":
                self._detections(port, manifest)
            elif port.name in CLASSES and _tells_classes(port.name, manifest):
                axis, others = CLASSES[port.name]
                count = len(manifest.classes)
                self._size("the number of classes", port, 3, axis, count, others)

    def _detections(self, port: Port, manifest: Manifest) -> None:
        """Suppression gives as many as it may, or all that there are of each class."""
        count = port.shape[1] if port.shape is not None and len(port.shape) == 2 else None
        whole = (
            manifest.suppression is not None
            and count is not None
            and 0 < count < manifest.max_detections
            and count % len(manifest.classes) == 0
        )
        if not whole:
            what = "the number of detections in a picture"
            self._size(what, port, 2, 1, manifest.max_detections)

    def _size(
        self, what: str, port: Port, rank: int, axis: int, expected: int, others: int = 0
    ) -> None:
        """One axis of an output of ``rank`` axes, where it is fixed; ``others`` lie on it, too."""
        size = port.shape[axis] if port.shape is not None and len(port.shape) == rank else None
        if size is not None:
            self.same(what, str(size - others), str(expected))

    def _port(self, port: Port, dtypes: Sequence[str], shape: tuple[int | None, ...]) -> None:
        fits = port.shape is None or (
            len(port.shape) == len(shape)
            and all(
                None in pair or pair[0] == pair[1] for pair in zip(port.shape, shape, strict=True)
            )
        )
        if not fits or (port.dtype and port.dtype not in dtypes):
            self.same(
                f"the input {port.name}",
                _described(port.dtype, port.shape),
                _described(dtypes[0], shape),
            )

    def _lists(self, what: str, found: Sequence[str], expected: Sequence[str]) -> None:
        for place in range(max(len(found), len(expected))):
            pair = [words[place] if place < len(words) else "none" for words in (found, expected)]
            self.same(f"the piece's {what} {place}", *pair)

    def _json(self, metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
        """An entry of the metadata, an object in JSON; None where there is none."""
        if key not in metadata:
            return None
        try:
            content = json.loads(metadata[key])
        except (ValueError, RecursionError):
            self._damaged(key)
        if not isinstance(content, dict):
            self._damaged(key)
        return content

    def _damaged(self, key: str) -> NoReturn:
        raise BundleError(
            f"{self._path} is damaged: its entry {key} is not what this project writes there: "
            f"{self._remedy}"
        )


def _tells_classes(output: str, manifest: Manifest) -> bool:
    """Other families may call anything so: predictions are what suppression takes where there is
    one, logits are of queries where the network says which tokens those are, as all DETRs do."""
    if output == "raw_logits":
        return "queries" in manifest.raw_outputs
    return manifest.suppression is not None


def _outputs(artifact: Artifact, manifest: Manifest) -> list[str]:
    """The outputs that a session may ask for."""
    engine, rule = artifact.engine, manifest.suppression
    ends_early = (rule is not None and rule.where != "graph") or (
        engine is not None and not engine.detections
    )
    raw = [f"raw_{name}" for name in manifest.raw_outputs] if artifact.raw else []
    return [*([] if ends_early else DETECTION_OUTPUTS), *raw]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _conditions(piece: StagePiece) -> list[str]:
    return [
        f"gate {item.gate} layer {item.layer} {'runs' if item.runs else 'is skipped'}"
        for item in piece.when
    ]


def _links(names: Mapping[str, str]) -> list[str]:
    return sorted(f"{name} of {tensor}" for name, tensor in names.items())


def _described(dtype: str, shape: tuple[int | None, ...] | None) -> str:
    """``float32 [N, 3, 160, 160]``; a number that is not fixed is the batch's N, or a ?."""
    if shape is None:
        return dtype
    words = [
        "N" if not axis and size is None else "?" if size is None else str(size)
        for axis, size in enumerate(shape)
    ]
    return f"{dtype} [{', '.join(words)}]"

"""Bundles of graphs of one node and of engines that nobody reads: what a Triton repository is made
of, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import handmade
from onnx import TensorProto, helper

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.manifest import Artifact, BatchProfile, EngineSpec, Layout, Verification

SIDE = 64
PLACES = 5
HOST = {"where": "host", "score_threshold": 0.1}


def graph(*, gated: bool, raw: bool = False) -> bytes:
    """An ONNX graph with the inputs and outputs of a real one."""
    value = helper.make_tensor_value_info
    inputs = [value("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
    if gated:
        inputs.append(value("depth", TensorProto.INT64, []))
    values = [
        value("labels", TensorProto.INT64, ["N", PLACES]),
        value("boxes", TensorProto.FLOAT, ["N", PLACES, 4]),
        value("scores", TensorProto.FLOAT, ["N", PLACES]),
    ]
    if raw:
        values = [value("raw_predictions", TensorProto.FLOAT, ["N", 7, 20])]
    nodes = [helper.make_node("Unknown", ["images"], [item.name]) for item in values]
    model = helper.make_model(helper.make_graph(nodes, "made", inputs, values))
    return bytes(model.SerializeToString())


def engine(
    depth: str | None,
    row: int | None,
    *,
    batch: tuple[int, int, int] = (1, 2, 4),
    capabilities: Sequence[str] = ("sm89",),
    version: str = "10.5.0.18",
    detections: bool = True,
    passed: bool | None = True,
) -> dict[str, Any]:
    """What the manifest says of an engine beside what it says of a graph."""
    smallest, typical, largest = batch
    spec = EngineSpec(
        source="static",
        source_sha256="0" * 64,
        version=version,
        capabilities=list(capabilities),
        batch=BatchProfile(smallest=smallest, typical=typical, largest=largest),
        opset=18,
        detections=detections,
    )
    verified = Verification(
        when="2024-01-01T00:00:00+00:00",
        passed=bool(passed),
        reference="static",
        device="a GPU",
        depths=1,
        batches=[1],
    )
    return {
        "format": "tensorrt",
        "engine": spec,
        "verified": None if passed is None else verified,
        "depth": depth,
        "row": row,
    }


def bundle_of(
    path: Path, artifacts: Sequence[tuple[str, bytes, dict[str, Any]]], **changes: Any
) -> Bundle:
    """A bundle of files by name, with what the manifest says of each; ``changes`` to the rest."""
    with BundleWriter(path, handmade.manifest(**changes)) as writer:
        for name, content, described in artifacts:
            writer.add(name, _writes(name, content, described))
    return open_bundle(path)


def _writes(name: str, content: bytes, changes: dict[str, Any]) -> Any:
    described = {
        "name": name,
        "file": "filled-in-later.onnx",
        "layout": "gated",
        "weights": "shared",
        "opset": 18,
        "bytes": 0,
        "sha256": "0" * 64,
        "built_with": {},
        "build_seconds": 0.0,
    }

    def write(path: Path) -> Artifact:
        path.write_bytes(content)
        return Artifact.model_validate({**described, **changes})

    return write


def graphs(
    path: Path, *, layouts: Sequence[Layout] = ("gated", "set"), host: bool = False, **changes: Any
) -> Bundle:
    """A gated graph and the static graphs of the ladder, made of ``changes`` to the manifest."""
    if host:
        changes = {"suppression": HOST, "raw_outputs": {"predictions": "p"}, **changes}
    made: list[tuple[str, bytes, dict[str, Any]]] = []
    if "gated" in layouts:
        made.append(("gated-fp32-shared", graph(gated=True, raw=host), {"raw": host}))
    if "set" in layouts:
        for row, depth in enumerate(handmade.LADDER):
            what = {"layout": "set", "depth": depth, "row": row, "level": row, "raw": host}
            made.append((f"static-{row}", graph(gated=False, raw=host), what))
    return bundle_of(path, made, **changes)


def engines(path: Path, *, host: bool = False, **options: Any) -> Bundle:
    """One engine for each rung of the ladder; ``options``: of :func:`engine`."""
    changes = {"suppression": HOST, "raw_outputs": {"predictions": "p"}} if host else {}
    made = [
        (
            f"static-{row}",
            b"plan",
            {**engine(depth, row, **options), "layout": "set", "level": row, "raw": True},
        )
        for row, depth in enumerate(handmade.LADDER)
    ]
    return bundle_of(path, made, **changes)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }

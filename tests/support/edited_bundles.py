"""Bundles that a test changes, or that must stay as they are, file by file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.documents import file_sha256


def edit_artifact(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change an artifact of a bundle, and make the manifest agree with it."""
    content = json.loads((folder / MANIFEST).read_text())
    (item,) = (item for item in content["artifacts"] if item["name"] == name)
    path = folder / item["file"]
    graph = onnx.load(path)
    change(graph)
    onnx.save(graph, path)
    item.update(bytes=path.stat().st_size, sha256=file_sha256(path))
    (folder / MANIFEST).write_text(json.dumps(content))


def answer_with(folder: Path, name: str, answers: Mapping[str, NDArray[np.generic]]) -> None:
    """Make a graph of a bundle give these arrays, whatever it is fed; it promises no shapes."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for repeated in (graph.node, graph.initializer, graph.value_info):
            del repeated[:]
        for output in graph.output:
            value = onnx.numpy_helper.from_array(answers[output.name])
            graph.node.append(onnx.helper.make_node("Constant", [], [output.name], value=value))
            for place, side in enumerate(output.type.tensor_type.shape.dim):
                side.dim_param = f"{output.name}_{place}"

    edit_artifact(folder, name, change)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file, by name."""
    return {item.name: (item.read_bytes(), item.stat().st_mtime_ns) for item in folder.iterdir()}

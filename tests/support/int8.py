"""Trained networks with range tables, their INT8 graphs, and ways to read those as plain ONNX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from once import once
from onnx import numpy_helper
from PIL import Image
from trained_networks import CHECKPOINTS, FAMILIES, SIZES, trained_pieces

from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.calibration.keeping import KeepingRules
from anydepth_deploy.calibration.table import RangeTable, read_table
from anydepth_deploy.depth import Depth
from anydepth_deploy.exporting.lower import Lowered, Recipe, lower
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.graph.pieces import Pieces
from anydepth_deploy.manifest import Precision, Target
from anydepth_deploy.pictures.images import Preprocess
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.torch_runtime.session import TorchSession

Array = NDArray[Any]

PICTURES = 8
EVERYTHING = KeepingRules(max_ratio=1e9, max_error=1e9)
"""Only the structure keeps convolutions in float then."""

TINY_HALF = 2.0**-14


@dataclass
class Network:
    """A trained network, its pieces, the table of its ranges, and pictures it has not seen."""

    model: AnyDepthModel
    pieces: Pieces
    ranges: RangeTable
    images: NDArray[np.float32]
    _lowered: dict[tuple[Any, ...], tuple[Lowered, onnx.ModelProto]] = field(default_factory=dict)

    @property
    def family(self) -> str:
        return self.model.family

    @property
    def rungs(self) -> tuple[Depth, ...]:
        return self.model.table.ladder

    def depths(self) -> list[Depth]:
        """All that were calibrated."""
        return [self.model.table.find(text) for text in self.ranges.depths]

    def lower(
        self,
        weights: str = "folded",
        depth: Depth | None = None,
        target: Target = "onnxruntime",
        rules: KeepingRules = EVERYTHING,
        precision: Precision = "int8",
        ranges: RangeTable | None = None,
    ) -> tuple[Lowered, onnx.ModelProto]:
        """The graph up to the raw outputs, made once."""
        key = (weights, depth, target, rules, precision, ranges and ranges.sha256)
        if key not in self._lowered:
            recipe = Recipe(
                precision=precision,
                target=target,
                ranges=(ranges or self.ranges) if precision == "int8" else None,
                rules=rules,
                weights=weights,  # type: ignore[arg-type]
                depth=depth,
                raw=True,
                detections=False,
            )
            made = lower(self.pieces, self.model.table, recipe)
            self._lowered[key] = made, ir.to_proto(made.model)
        return self._lowered[key]

    @functools.cached_property
    def oracle(self) -> TorchSession:
        return TorchSession(self.model)

    def errors(self, raw: Mapping[str, Array], depth: Depth) -> dict[str, float]:
        """Relative L2 of each quantity of the raw outputs from torch, which follows the
        artifact's choice of queries."""
        found = {name.removeprefix("raw_"): array for name, array in raw.items()}
        expected, _, _ = self.oracle.compare(self.images, depth, found)
        mine = self.oracle.outputs.quantities(found)
        return {
            name: relative(mine[name], array)
            for name, array in expected.items()
            if array.dtype == np.float32
        }


def relative(found: Array, expected: Array) -> float:
    """||found - expected|| / ||expected||; not a number counts as infinite."""
    difference = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64))
    error = float(difference / np.linalg.norm(expected.astype(np.float64)))
    return error if np.isfinite(error) else float("inf")


_made: dict[str, Network] = {}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Network]:
    """The trained DETR for 96 x 192 and the trained YOLO for 160 x 160, calibrated."""
    if not _made:
        made = once(tmp_path_factory, "ranges", _write_ranges)
        for family in FAMILIES:
            model, pieces = trained_pieces(family)
            recipe = Preprocess.of(model.resize, pieces.size)
            _made[family] = Network(
                model,
                pieces,
                read_table(made / f"{family}.json"),
                verification_batches(recipe, seed=5)[1][:2],  # without the noise
            )
    return _made


def _write_ranges(folder: Path) -> None:
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for index in range(PICTURES):
        Image.fromarray(render(index, 7).image).save(pictures / f"{index}.png")
    for family, size in SIZES.items():
        out = folder / f"{family}.json"
        calibrate(CHECKPOINTS[family], pictures, out, input_size=size, probe=0, batch=8, threads=1)


def made_up_table(
    tensors: Mapping[str, Mapping[str, tuple[float, float] | tuple[float, float, float, float]]],
    depths: Sequence[str],
) -> RangeTable:
    """A table of these ranges: (low, high) or (low, high, own error, merged error)."""
    entries: dict[str, dict[str, dict[str, float]]] = {}
    for tensor, found in tensors.items():
        entries[tensor] = {}
        for depth, numbers in found.items():
            low, high, own, merged = (*numbers, 0.0, 0.0)[:4]
            entries[tensor][depth] = {
                "low": low,
                "high": high,
                "minimum": low,
                "maximum": high,
                "error_own": own,
                "error_merged": merged,
            }
    return RangeTable.model_validate(
        {
            "tool_version": "0",
            "created": "now",
            "checkpoint": {"file": "c.pth", "sha256": "0" * 64},
            "family": "imaginary",
            "config": "small",
            "size": (8, 8),
            "preprocess": {"size": (8, 8)},
            "pictures": {"count": 1, "sha256": "0" * 64, "seed": 0},
            "method": "minmax",
            "ladder": list(depths),
            "depths": list(depths),
            "tensors": entries,
        }
    )


# --- plain ONNX ------------------------------------------------------------------------------


@dataclass
class Scope:
    """One graph of a model and those around it."""

    graph: onnx.GraphProto
    outer: Scope | None = None

    def __post_init__(self) -> None:
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def own(self, name: str) -> bool:
        return name in self.initializers or name in self.makers

    def array(self, name: str) -> Array | None:
        """The initialiser of this name, here or around."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        return None if self.outer is None else self.outer.array(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Nodes of this graph that read a value."""
        return [node for node in self.graph.node if name in node.input]


def scopes(graph: onnx.GraphProto, outer: Scope | None = None) -> Iterator[Scope]:
    """A graph and, after it, its branches and theirs."""
    found = Scope(graph, outer)
    yield found
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from scopes(attribute.g, found)


def nodes(model: onnx.ModelProto, *kinds: str) -> Iterator[tuple[Scope, onnx.NodeProto]]:
    """Nodes of these types in all graphs."""
    for scope in scopes(model.graph):
        for node in scope.graph.node:
            if node.op_type in kinds:
                yield scope, node


def quantised_convolutions(
    model: onnx.ModelProto,
) -> dict[str, tuple[Scope, onnx.NodeProto, onnx.NodeProto]]:
    """By name: convolutions whose weight comes out of a DequantizeLinear, and that."""
    found = {}
    for scope, node in nodes(model, "Conv"):
        maker = scope.makers.get(node.input[1])
        if maker is not None and maker.op_type == "DequantizeLinear":
            found[node.name] = scope, node, maker
    return found


def float_convolutions(model: onnx.ModelProto) -> dict[str, tuple[Scope, onnx.NodeProto]]:
    """By name: convolutions whose weight is an initialiser."""
    return {
        node.name: (scope, node)
        for scope, node in nodes(model, "Conv")
        if scope.array(node.input[1]) is not None
    }


def dequantised(scope: Scope, node: onnx.NodeProto) -> tuple[Array, Array]:
    """The constant that a DequantizeLinear gives in float64, per channel, and its scale."""
    levels, scale, zero = (scope.array(name) for name in node.input)
    assert levels is not None
    assert scale is not None
    assert zero is not None
    shape = (-1, *([1] * (levels.ndim - 1)))
    steps = scale.astype(np.float64).reshape(shape)
    return (levels.astype(np.float64) - zero.reshape(shape)) * steps, steps


def edited(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> onnx.ModelProto:
    """A copy in which ``change`` was applied to the initialiser ``name``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (scope,) = (scope for scope in scopes(copy.graph) if name in scope.initializers)
    tensor = scope.initializers[name]
    before = numpy_helper.to_array(tensor)
    after = change(before.copy()).astype(before.dtype)
    tensor.CopyFrom(numpy_helper.from_array(after, name))
    return copy

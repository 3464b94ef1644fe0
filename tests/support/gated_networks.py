"""Gated graphs for the passes that take one depth, a chain or a flat graph out of them.

As files hold them (FP32 with random weights), and lowered (the trained networks).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from int8 import EVERYTHING, Network
from trained_networks import FAMILIES

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.exporting.lower import Recipe, lower
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.yolo.model import AnyDepthYOLO

LAYOUTS = ("shared", "folded")
LOWERED = (("fp16", "onnxruntime"), ("int8", "tensorrt"), ("int8", "onnxruntime"))


@pytest.fixture(params=FAMILIES)
def exported(
    request: pytest.FixtureRequest,
    bundle: Bundle,
    model: AnyDepthDETR,
    yolo_bundle: Bundle,
    yolo_model: AnyDepthYOLO,
) -> tuple[Bundle, AnyDepthModel]:
    """FP32 graphs with detections, and the network that they are of."""
    return (bundle, model) if request.param == "anydepth-detr" else (yolo_bundle, yolo_model)


def covering(table: DepthTable) -> list[int]:
    """Rows, base and super among them, that show each setting of every two gates together.

    So whatever follows a stage, or joins it further on, is seen behind each of its variants.
    """

    def pairs(depth: Depth) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(depth.settings), 2))

    found = [0, table.levels - 1]
    wanted = set().union(*map(pairs, table.rows))
    wanted -= set().union(*(pairs(table.rows[row]) for row in found))
    while wanted:
        found.append(
            max(range(len(table.rows)), key=lambda row: len(wanted & pairs(table.rows[row])))
        )
        wanted -= pairs(table.rows[found[-1]])
    return found


def odd(depth: Depth) -> bool:
    """Parts the depths in halves that both hold every setting of each gate."""
    return sum(depth.settings) % 2 == 1


def gated_file(bundle: Bundle, weights: str) -> Path:
    """Of the FP32 graph in this layout of weights."""
    (artifact,) = bundle.artifacts("gated", "fp32", weights=weights)
    return bundle.file(artifact)


_MADE: dict[tuple[str, ...], ir.Model] = {}


def lowered(network: Network, precision: Any, target: Any, weights: Any) -> ir.Model:
    """A gated graph with detections and without raw outputs, as files usually are; made once for
    all modules, and given as a copy."""
    key = (network.family, precision, target, weights)
    if key not in _MADE:
        recipe = Recipe(
            precision=precision,
            target=target,
            ranges=network.ranges if precision == "int8" else None,
            rules=EVERYTHING,
            weights=weights,
        )
        _MADE[key] = lower(network.pieces, network.model.table, recipe).model
    return _MADE[key].clone()

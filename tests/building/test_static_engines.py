"""Engines of DETRs whose decoder alone can stop early, built by TensorRT-RTX ahead of time."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from static_bundles import KINDS, quantised_bundle, static_bundle

from anydepth_deploy.building.build import build_bundle
from anydepth_deploy.bundle.bundle import Bundle, open_bundle

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'anydepth-deploy[rtx]'")


def built(bundle: Bundle, folder: Path, target: str, precision: str, layouts: list[str]) -> Bundle:
    path = Path(shutil.copytree(bundle.path, folder / "bundle"))
    build_bundle(
        path,
        runtime="tensorrt-rtx",
        capabilities=[target],
        precision=[precision],
        layouts=layouts,
    )
    return open_bundle(path)


def layers(bundle: Bundle, layout: str) -> Counter[str]:
    """Convolutions and products of all engines of a layout, by what they compute in."""
    found: Counter[str] = Counter()
    for item in bundle.artifacts(layout, format="tensorrt-rtx"):
        assert item.engine is not None
        assert item.engine.detections
        found.update(item.engine.layers)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No product is FP32; a layer of the decoder is a piece of its own."""
    bundle = static_bundle(kind, tmp_path_factory)
    found = built(bundle, tmp_path, "sm75", "fp16", ["gated", "stages"])
    gated, chain = layers(found, "gated"), layers(found, "stages")
    assert set(gated) == set(chain) == {"fp16"}
    assert gated["fp16"] > 100
    # One product of many queries and another of few may be merged in one form alone.
    assert abs(gated["fp16"] - chain["fp16"]) <= 0.1 * gated["fp16"]
    pieces = found.artifacts("stages", format="tensorrt-rtx")
    assert [(item.piece.stage, item.piece.variant) for item in pieces if item.piece] == [
        ("backbone", "full"),
        ("decoder2", "full"),
        ("decoder3", "full"),
        ("postprocess", "full"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bits(kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = quantised_bundle(kind, tmp_path_factory)
    found = built(bundle, tmp_path, "sm89", "int8", ["gated"])
    (source,) = {item.quantised for item in bundle.artifacts("gated")}
    count = layers(found, "gated")
    assert set(count) == {"int8", "fp16"}
    assert 0.9 * source <= count["int8"] <= source

"""RT-DETR against transformers: every exit, square and not, batch of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oracle_transformers import assert_every_exit_equals, open_transformers
from static_detrs import static_detr

from anydepth_deploy.families.shared.detr.backbones import ResNetConfig

BOTTLENECKS = ResNetConfig((1, 2, 1, 1), (16, 32, 64, 128), True, (8, 16), frozen=True)

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "v1": ("tiny", "v1", {}),
    "v1, bottlenecks": ("tiny", "v1", {"backbone": BOTTLENECKS}),
    "v1, narrower decoder": (
        "tiny",
        "v1",
        {"decoder_hidden": 32, "position": (64,), "aifi_layers": 2},
    ),
    "v2, one point": ("tiny", "v2", {"points": (1, 1, 1), "csp_channels": 64}),
    "v2, HGNetv2": ("tiny-hgnetv2", "v2", {}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_exit_equals_transformers(case: str, tmp_path: Path) -> None:
    size, layout, changes = CASES[case]
    model = static_detr("rt-detr", size, **changes)
    network = open_transformers(tmp_path / "folder", model, layout)
    assert_every_exit_equals(model, network)


def test_discrete_sampling_equals_transformers(tmp_path: Path) -> None:
    """In float64: where a place is rounded to another cell, all that follows differs."""
    model = static_detr("rt-detr", sampling="discrete").double()
    network = open_transformers(tmp_path / "folder", model, "v2").double()
    assert_every_exit_equals(model, network)


@pytest.mark.parametrize(("size", "layout"), [("r18", "v1"), ("v2-r50-m", "v2")])
def test_published_sizes_equal_transformers(size: str, layout: str, tmp_path: Path) -> None:
    model = static_detr("rt-detr", size)
    assert_every_exit_equals(model, open_transformers(tmp_path / "folder", model, layout))

"""D-FINE against transformers: every exit, square and not, batch of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oracle_transformers import assert_every_exit_equals, open_transformers
from static_detrs import static_detr

CASES: dict[str, dict[str, Any]] = {
    "as S": {},
    "as N": {"points": (6, 6), "csp_channels": 11, "csp_blocks": 2, "queries": 40},
    "as X": {"hidden": 96, "csp_channels": 48, "reach": 8.0},
    "as DEIM and RT-DETRv4": {"decoder_activation": "silu"},
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_exit_equals_transformers(case: str, tmp_path: Path) -> None:
    """The first exit is layer 1 of the deeper network, not what its box head precedes."""
    model = static_detr("d-fine", **CASES[case])
    activation = model.config.decoder_activation
    network = open_transformers(tmp_path / "folder", model, "d-fine", activation)
    assert_every_exit_equals(model, network)


def test_discrete_sampling_equals_transformers(tmp_path: Path) -> None:
    """In float64: where a place is rounded to another cell, all that follows differs."""
    model = static_detr("d-fine", sampling="discrete").double()
    network = open_transformers(tmp_path / "folder", model, "d-fine").double()
    assert_every_exit_equals(model, network)


@pytest.mark.parametrize(("size", "queries"), [("n", 60), ("x", 300)])
def test_published_sizes_equal_transformers(size: str, queries: int, tmp_path: Path) -> None:
    """N has two levels: small pictures give fewer tokens than its usual queries."""
    model = static_detr("d-fine", size, queries=queries)
    assert_every_exit_equals(model, open_transformers(tmp_path / "folder", model, "d-fine"))

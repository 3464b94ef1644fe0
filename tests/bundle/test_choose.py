"""Which artifacts a session runs, of manifests without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import LADDER, manifest
from manifests import artifact, quantised, static

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import choose_artifacts, export_words
from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import Artifact


def a_set(target: str, *depths: str) -> list[dict[str, Any]]:
    return [
        artifact(f"{target}-{depth}", **static(depth, LADDER.index(depth)), **quantised(target))
        for depth in depths
    ]


def bundle_of(*artifacts: dict[str, Any]) -> Bundle:
    return Bundle(Path("nowhere"), manifest(artifacts=list(artifacts)))


def targets_chosen(bundle: Bundle, **given: Any) -> set[str]:
    found = choose_artifacts(bundle, "set", "int8", None, runtime="openvino", **given)
    return {item.quantisation.target for item in found if item.quantisation}


@pytest.mark.parametrize(
    ("openvino", "onnxruntime", "expected"),
    [
        (LADDER, LADDER, "openvino"),
        (LADDER[:2], LADDER, "onnxruntime"),
        (LADDER[::2], LADDER, "onnxruntime"),
        (LADDER, LADDER[:1], "openvino"),
        (LADDER[:1], LADDER[1:], "openvino"),
        (LADDER[:1], (), "openvino"),
        ((), LADDER[:1], "onnxruntime"),
    ],
)
def test_a_set_that_lacks_rungs_hides_no_whole_one(
    openvino: tuple[str, ...], onnxruntime: tuple[str, ...], expected: str
) -> None:
    """The liked target first, but for rungs that only the other has; who names one gets it."""
    items = [*a_set("openvino", *openvino), *a_set("onnxruntime", *onnxruntime)]
    for order in (items, items[::-1]):
        bundle = bundle_of(*order)
        assert targets_chosen(bundle) == {expected}
        for target, depths in (("openvino", openvino), ("onnxruntime", onnxruntime)):
            if depths:
                assert targets_chosen(bundle, target=target) == {target}


def test_a_gated_graph_holds_every_rung() -> None:
    bundle = bundle_of(
        artifact("ov", **quantised("openvino")),
        artifact("ort", **quantised("onnxruntime")),
        *a_set("onnxruntime", *LADDER),
    )
    for layout in ("gated", None):
        (found,) = choose_artifacts(bundle, layout, "int8", None, runtime="openvino")
        assert found.name == "ov"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"precision": "fp16"}, " --precision fp16"),
        (quantised("onnxruntime"), " --precision int8"),
        (quantised("openvino"), " --precision int8 --target openvino"),
        (quantised("tensorrt"), " --precision int8 --target tensorrt"),
    ],
)
def test_what_adds_others_like_a_graph(fields: dict[str, Any], words: str) -> None:
    assert export_words(Artifact.model_validate(artifact("a", **fields))) == words


def test_a_missing_rung_of_int8_is_added_for_the_same_target() -> None:
    bundle = bundle_of(*a_set("openvino", *LADDER[:2]))
    session = bundle.session("openvino", "set", "int8")
    advice = f"--layout set --depth {LADDER[2]} --precision int8 --target openvino'"
    with pytest.raises(BundleError, match=advice):
        session.run(np.zeros((1, 3, 64, 64), np.float32), LADDER[2])

"""What a router knows of costs before the first request: measured, guessed, of what is served."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import handmade
import pytest
from manifests import measured
from triton_bundle import bundle_of, graph, graphs

from anydepth_deploy.bundle import measured as measured_module
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import MeasuredLadder
from anydepth_deploy.serve import configs
from anydepth_deploy.serve.models.autopilot import Autopilot
from anydepth_deploy.serve.models.first_costs import start_autopilot
from anydepth_deploy.serve.models.routes import Routes
from anydepth_deploy.serve.plan import ServeOptions, plan

pytest.importorskip("tritonclient")

TF_2 = len(handmade.LADDER) + handmade.REST.index("TF-2")
"""A row of the table, and no rung of the ladder in use."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_module, "device_name", lambda runtime: f"here for {runtime}")


def started(bundle: Bundle, **options: Any) -> Autopilot:
    """As a router does that the repository's writer configured."""
    found = plan(bundle, "b", ServeOptions(**options))
    given = {key: value.string_value for key, value in configs.router(found).parameters.items()}
    return start_autopilot(bundle.manifest, Routes(bundle.manifest, given), given)


def measure(bundle: Bundle, layout: str, **changes: Any) -> Bundle:
    """With a ladder that was measured of its artifacts: TT-1, TF-2, FF-2 at 3.5, 5.25 and 6 ms."""
    content = {"device": "here for onnxruntime", "threads": None, **changes}
    content.setdefault("artifacts", [item.sha256 for item in bundle.artifacts(layout)])
    ladder = MeasuredLadder.model_validate(measured(**content))
    bundle.put_ladder(ladder, use=False)
    return bundle


def test_the_measured_ladder_of_what_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = measure(graphs(tmp_path / "b"), "gated")
    pilot = started(bundle)
    assert pilot.rows == (0, TF_2, 2)
    assert pilot.predicted(1) == pytest.approx({0: 4, TF_2: 6, 2: 6 * 1.1})
    assert pilot.predicted(2) == pytest.approx({0: 8, TF_2: 12, 2: 12 * 1.1})
    assert not caplog.records


def test_a_ladder_of_another_number_of_images_counts_for_each(tmp_path: Path) -> None:
    pilot = started(measure(graphs(tmp_path / "b"), "gated", batch=4))
    assert pilot.predicted(4)[0] == pytest.approx(4)
    assert pilot.predicted(1)[0] == pytest.approx(1)


def test_a_ladder_of_another_device_is_better_than_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        pilot = started(measure(graphs(tmp_path / "b"), "gated", device="Orin"))
    assert pilot.predicted(1)[0] == pytest.approx(4)
    (record,) = caplog.records
    assert "measured on Orin, this is here for onnxruntime" in record.getMessage()


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"artifacts": ["d" * 64]}, {}),
        ({"runtime": "openvino"}, {}),
        ({"precision": "bf16"}, {}),
        ({}, {"layouts": ("set",)}),
        ({}, {"device": "gpu"}),
    ],
)
def test_otherwise_costs_are_learned(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    pilot = started(measure(graphs(tmp_path / "b"), "gated", **changes), **options)
    assert pilot.rows == (0, 1, 2)
    assert pilot.predicted(1) == {}
    pilot.end(pilot.choose(1, 1000.0), answered=True)
    macs = [handmade.MACS[depth] for depth in handmade.LADDER]
    predicted = pilot.predicted(1)
    for row in (1, 2):
        assert predicted[row] / predicted[0] == pytest.approx(macs[row] / macs[0])


def test_depths_without_a_model_are_left_out(tmp_path: Path) -> None:
    of_two = bundle_of(
        tmp_path / "two",
        [
            (f"static-{row}", graph(gated=False), {"layout": "set", "depth": depth, "row": row})
            for row, depth in enumerate(handmade.LADDER)
            if row != 1
        ],
    )
    assert started(of_two).rows == (0, 2)
    # Where no depth of the ladder has a model, those that have one, the cheapest first.
    beside = bundle_of(
        tmp_path / "beside",
        [
            (
                f"static-{row}",
                graph(gated=False),
                {"layout": "set", "depth": handmade.REST[row - 3], "row": row},
            )
            for row in (3, TF_2, 7)
        ],
    )
    found = started(beside, default_depth="TF-2")
    depths = [str(beside.table.rows[row]) for row in found.rows]
    assert depths == sorted(depths, key=handmade.MACS.__getitem__)
    assert set(found.rows) == {3, TF_2, 7}


def test_old_repositories_guess(tmp_path: Path) -> None:
    manifest = measure(graphs(tmp_path / "b"), "gated").manifest
    given = {"gated": "b_gated"}
    pilot = start_autopilot(manifest, Routes(manifest, given), given)
    assert (pilot.rows, pilot.predicted(1)) == ((0, 1, 2), {})


@pytest.mark.parametrize("text", ["{", "[]", "7", "{}", json.dumps({"artifacts": 3})])
def test_what_is_damaged_is_said(tmp_path: Path, text: str) -> None:
    manifest = graphs(tmp_path / "b").manifest
    given = {"gated": "b_gated", "measured": text}
    with pytest.raises(BundleError, match=r"parameter 'measured' is .*: expected JSON") as told:
        start_autopilot(manifest, Routes(manifest, given), given)
    assert "\n" not in str(told.value)

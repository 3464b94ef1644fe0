"""Pilots of sessions in the C++ library against Python's: the same ladder taken, from this device
or another, with the same warnings, decisions and refusals."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import misplaced_graphs
import pytest
from cpp_build import PATIENT, CppError, Probe, open_probe
from manifests import measured
from misplaced_graphs import PLACES, SIDE, edit_manifest

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.control.rungs import Rung
from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.reading.processor import processor_name

pytestmark = PATIENT

COSTS = {"TT-1": 3.0, "FT-1": 4.5, "TF-2": 5.0, "FF-1": 5.5, "FF-2": 7.0}
"""Milliseconds of a call; measured ladders name some of these depths."""
HERE = processor_name()


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return misplaced_graphs.make(tmp_path_factory.mktemp("sound") / "bundle", "anydepth-detr")


def ladder(bundle: Bundle, *depths: str, **changes: Any) -> dict[str, Any]:
    """Measured of the gated graph, 10 % faster than calls are."""
    times = {depth: 0.9 * COSTS[depth] for depth in depths}
    rungs = [
        {"depth": depth, "milliseconds": took, "p95": 1.2 * took, "p99": None, "score": 50}
        for depth, took in times.items()
    ]
    (gated,) = bundle.artifacts("gated")
    return measured(
        **{"device": HERE, "threads": 1, "artifacts": [gated.sha256], "rungs": rungs, **changes}
    )


def trace(calls: int = 120) -> list[dict[str, Any]]:
    draw = random.Random(1)
    steps = []
    for call in range(calls):
        by = draw.gauss(1.6 if 50 <= call < 80 else 1, 0.02)
        steps.append({"costs": {depth: by * cost for depth, cost in COSTS.items()}})
    return steps


def flown(pilot: ad.Pilot, steps: list[dict[str, Any]]) -> dict[str, Any]:
    depths, reasons = [], []
    for step in steps:
        depth = pilot.choose()
        reasons.append(str(pilot.explain()))
        pilot.report(step["costs"][depth])
        depths.append(depth)
    return {"depths": depths, "reasons": reasons}


def ladders(bundle: Bundle) -> dict[str, list[dict[str, Any]]]:
    """What a manifest may hold, by what is special about it."""
    own = ladder(bundle, "TT-1", "TF-2", "FF-2")
    elsewhere = ladder(bundle, "TT-1", "FT-1", "FF-1", "FF-2", device="Orin")
    return {
        "nothing": [],
        "here": [own],
        "elsewhere": [ladder(bundle, "TT-1", "FF-2", device="T4"), elsewhere],
        "both": [own, elsewhere],
        "of another batch": [ladder(bundle, "TT-1", "FF-1", "FF-2", batch=4)],
        "of other artifacts": [ladder(bundle, "TT-1", "FF-2", artifacts=["d" * 64])],
        "of another runtime": [ladder(bundle, "TT-1", "FF-2", runtime="openvino")],
    }


@pytest.mark.parametrize("policy", ["mean", "deadline"])
def test_the_same_ladder_and_the_same_decisions(
    probe: Probe, sound: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    steps = trace()
    taken = {}
    for kind, held in ladders(sound).items():
        folder = tmp_path / kind
        shutil.copytree(sound.path, folder)
        edit_manifest(folder, lambda found, held=held: found.update(measured=held))  # type: ignore[misc]
        options: dict[str, Any] = {"target_ms": 6.4, "policy": policy, "ceiling": "level:3"}
        caplog.clear()
        with caplog.at_level(logging.WARNING, "anydepth_deploy"):
            session = open_bundle(folder).session(artifact="gated", threads=1)
            expected = flown(ad.Pilot(session, warm=False, **options), steps)
        found = probe.call(
            "pilot",
            folder=str(folder),
            layout="gated",
            options={**options, "warm": False},
            trace=steps,
        )
        assert {key: found[key] for key in expected} == expected
        assert found["said"] == [record.getMessage() for record in caplog.records]
        taken[kind] = found
    assert {len(found["counters"][3]) for found in taken.values()} == {3, 4}
    assert not taken["here"]["said"]
    assert not taken["both"]["said"]
    assert "measured on Orin, this is" in taken["elsewhere"]["said"][0]
    assert "with 4 image(s) a call, these have 1" in taken["of another batch"]["said"][0]
    for kind in ("of other artifacts", "of another runtime"):
        assert taken[kind] == taken["nothing"]


def test_calls_go_through_the_session(probe: Probe, sound: Bundle) -> None:
    found = probe.call("fly", folder=str(sound.path), layout="gated", images=[2, 3, SIDE, SIDE])
    assert found == [1, 2, PLACES]
    with pytest.raises(CppError, match="this pilot has no session: name one in run"):
        probe.call("fly", rungs=[asdict(Rung("TT-1", 1.0))], images=[1, 3, SIDE, SIDE])
    with pytest.raises(CppError, match="images must be"):
        probe.call("fly", folder=str(sound.path), layout="gated", images=[2, 3, SIDE, 8])


REFUSED: list[tuple[str, dict[str, Any], list[Rung] | None]] = [
    ("set", {"target_ms": 4.0}, [Rung("TT-1", 1.0), Rung("TF-2", 2.0), Rung("FF-2", 3.0)]),
    ("set", {"target_ms": 4.0}, [Rung("TT-1", 1.0), Rung("TTT", 2.0)]),
    ("gated", {"target_ms": 4.0, "floor": "level:9"}, None),
    ("gated", {"target_ms": 4.0, "ceiling": "TTT"}, None),
    ("gated", {"target_ms": 4.0, "floor": "TF-1"}, None),
    ("gated", {"target_ms": 4.0, "floor": "level:2", "ceiling": "base"}, None),
    ("gated", {"target_ms": 4.0, "strict": True}, None),
    ("gated", {}, None),
    ("gated", {"target_ms": 4.0}, []),
]


@pytest.mark.parametrize(("layout", "options", "rungs"), REFUSED)
def test_the_same_words_of_what_is_refused(
    probe: Probe, sound: Bundle, layout: str, options: dict[str, Any], rungs: list[Rung] | None
) -> None:
    session = sound.session(artifact=layout, threads=1)
    with pytest.raises(AnyDepthError) as expected:
        ad.Pilot(session, rungs=rungs, warm=False, **options)
    given = {} if rungs is None else {"rungs": [asdict(rung) for rung in rungs]}
    with pytest.raises(CppError) as found:
        probe.call(
            "pilot",
            folder=str(sound.path),
            layout=layout,
            options={**options, "warm": False},
            trace=[],
            **given,
        )
    assert (found.value.kind, found.value.message) == (
        type(expected.value).__name__,
        str(expected.value),
    )

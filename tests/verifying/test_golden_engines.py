"""Engines where ONNX Runtime is not there to run their graphs: golden outputs judge them.

No GPU is needed: the engines are ONNX graphs behind a runtime of the tests' own.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from numpy.typing import NDArray

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.trust import check_trust
from anydepth_deploy.errors import BundleError, DeviceError, MissingExtraError, UsageError
from anydepth_deploy.manifest import BatchProfile, EngineSpec
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.onnxruntime.engine import OnnxRuntimeEngine
from anydepth_deploy.runtimes.registry import RUNTIMES
from anydepth_deploy.verbs import verify as verb
from anydepth_deploy.verifying.golden import verify_golden

RUNTIME = "tensorrt-rtx"
NAME = "gated-fp32-shared-rtx"


class Engine:
    """A graph that acts as an engine; ``fault``: what it does to the row of a depth."""

    fault: str | None = None

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.engine = OnnxRuntimeEngine(path, dataclasses.replace(options, threads=1))
        self.inputs: Sequence[str] = self.engine.inputs
        self.outputs: Sequence[str] = self.engine.outputs

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        if Engine.fault == "does not run":
            raise DeviceError("out of memory")
        given = dict(feeds)
        if Engine.fault == "one depth for all":
            given["depth"] = np.zeros_like(given["depth"])
        return dict(self.engine.run(given, outputs))


@pytest.fixture(params=[(1, 1, 3), (4, 4, 4)], ids=str)
def engines(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A bundle with an engine, for batches of this profile."""
    module = types.ModuleType("engines_beside_golden_outputs")
    module.open_engine = Engine  # type: ignore[attr-defined]
    module.device_capability = lambda: "sm89"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = dataclasses.replace(RUNTIMES[RUNTIME], opener=module.__name__, chains=False)
    monkeypatch.setitem(RUNTIMES, RUNTIME, row)
    monkeypatch.setattr(Engine, "fault", None)
    (graph,) = bundle.artifacts("gated", weights="shared")
    smallest, typical, largest = request.param
    spec = EngineSpec(
        source=graph.name,
        source_sha256=graph.sha256,
        version="1.7.1",
        capabilities=["sm89"],
        batch=BatchProfile(smallest=smallest, typical=typical, largest=largest),
        opset=18,
    )
    engine = graph.model_copy(update={"name": NAME, "format": RUNTIME, "engine": spec})
    folder = tmp_path / "engines"
    folder.mkdir()
    assert bundle.manifest.golden is not None
    for file in (graph.file, bundle.manifest.golden.file):
        os.link(bundle.path / file, folder / file)
    manifest = bundle.manifest.model_copy(update={"artifacts": [graph, engine], "results": {}})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without ONNX Runtime."""
    monkeypatch.setattr(verb, "_lacking", lambda _: "onnxruntime")


@pytest.mark.usefixtures("alone")
def test_a_sound_engine_is_marked_with_what_it_was_compared_with(engines: Path, run: Run) -> None:
    told = run("verify", engines, "--runtime", RUNTIME)
    assert told.code == 0
    assert "engines of tensorrt-rtx and golden outputs, batches of " in told.out
    assert "agrees with the golden outputs" in told.out
    assert "not with the graphs: there is no onnxruntime" in told.out
    bundle = open_bundle(engines)
    (engine,) = bundle.artifacts(format=RUNTIME)
    assert engine.engine is not None
    assert engine.verified is not None
    assert engine.verified.passed
    assert engine.verified.reference == "golden.safetensors"
    assert engine.verified.depths == len(bundle.golden().depths)
    profile = engine.engine.batch
    assert {profile.smallest, profile.largest} <= {*engine.verified.batches}
    assert bundle.manifest.results["verify"][-1]["compared_with"] == "golden outputs"
    found = run("verify", engines, "--runtime", RUNTIME, "--json").json
    assert (found["compared_with"], found["passed"]) == ("golden outputs", True)
    check_trust([engine])


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("fault", ["one depth for all", "does not run"])
def test_a_wrong_engine_is_not_run_any_more(
    engines: Path, run: Run, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(Engine, "fault", fault)
    told = run("verify", engines, "--runtime", RUNTIME)
    assert told.code == 1
    assert f"{NAME} failed: " in told.err
    assert "rows differ from the golden outputs. The bundle says so" in told.err
    assert len(told.err.strip().splitlines()) == 1
    (engine,) = open_bundle(engines).artifacts(format=RUNTIME)
    assert engine.verified is not None
    assert not engine.verified.passed
    with pytest.raises(BundleError, match=r"does not compute what golden\.safetensors does"):
        check_trust([engine])


def test_with_onnx_runtime_the_graphs_judge(engines: Path) -> None:
    report = ad.verify(engines, runtime=RUNTIME, depth="base", threads=1)
    assert report.passed
    assert report.compared_with == "graphs"
    (engine,) = open_bundle(engines).artifacts(format=RUNTIME)
    assert engine.verified is not None
    assert engine.verified.reference == "gated-fp32-shared"


@pytest.mark.usefixtures("alone")
def test_pictures_and_old_bundles(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="golden outputs are of pictures of their own"):
        ad.verify(engines, runtime=RUNTIME, images="somewhere")
    bundle = open_bundle(engines)
    old = Bundle(engines, bundle.manifest.model_copy(update={"golden": None}))
    import_module = __import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == "onnxruntime":
            raise ModuleNotFoundError("no", name="onnxruntime")
        return import_module(name, *rest, **options)

    monkeypatch.setattr("builtins.__import__", without)
    with pytest.raises(MissingExtraError, match="onnxruntime"):  # what is lacking is named
        ad.verify(old, runtime=RUNTIME, depth="base", record=False)


def test_which_package_is_lacking(bundle: Bundle, yolo_bundle: Bundle) -> None:
    assert verb._lacking(bundle) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        assert verb._lacking(bundle) == "onnx"  # which queries are chosen by is read with it
        assert verb._lacking(yolo_bundle) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        assert verb._lacking(yolo_bundle) == "onnxruntime"
    assert verify_golden is not None

"""OpenVINO as a runtime: the same answers at every depth and batch size, in FP32 and in BF16."""

from __future__ import annotations

import builtins
import dataclasses
import itertools
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import assert_close
from conftest import random_images
from onnx_graphs import onnx_file
from trained_networks import FAMILIES

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, InputError, MissingExtraError, UsageError
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.runtimes.engine import Engine, EngineOptions
from anydepth_deploy.runtimes.registry import open_engine
from anydepth_deploy.verifying.graphs import verify

ov = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

from anydepth_deploy.runtimes import openvino as module  # noqa: E402

SIDE = 160
HAS_BF16 = "bf16" in module.computes_here()
ONE_THREAD = EngineOptions(threads=1)


@dataclasses.dataclass(frozen=True)
class Family:
    bundle: Bundle
    checkpoint: Path
    model: AnyDepthModel


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    prefix = "" if request.param == FAMILIES[0] else "yolo_"
    names = (f"{prefix}bundle", f"{prefix}checkpoint", f"{prefix}model")
    return Family(*(request.getfixturevalue(name) for name in names))


@pytest.fixture
def gated(bundle: Bundle) -> Engine:
    return open_engine("openvino", onnx_file(bundle, "gated", "shared"), ONE_THREAD)


def feeds(row: int, batch: int = 1, seed: int = 0) -> dict[str, Any]:
    return {"images": random_images(batch, SIDE, SIDE, seed), "depth": np.asarray(row)}


def torch_detections(model: AnyDepthModel, images: np.ndarray, row: int) -> Detections:
    with torch.inference_mode():
        found = model.detect(torch.from_numpy(images), row)
    return Detections(*(found[name].numpy() for name in ("labels", "boxes", "scores")))


# --- parity ----------------------------------------------------------------------------------


def test_every_artifact_equals_its_checkpoint(family: Family) -> None:
    """Both weight layouts at every rung, and the static graphs; batches of 1 and 3."""
    batches = verification_batches(family.bundle.manifest.preprocess)
    assert [len(batch) for batch in batches] == [1, 3]
    report = verify(
        family.bundle,
        str(family.checkpoint),
        batches,
        runtime="openvino",
        record=False,
        threads=1,
    )
    assert [row for row in report.rows if not row.passed] == []
    assert len(report.rows) == 3 * family.bundle.table.levels
    # Exactly 0 would mean that nothing was compared.
    assert all(max(row.differences.values()) > 0 for row in report.rows)


@pytest.mark.parametrize("weights", ["shared", "folded"])
def test_any_order_of_depths_and_batch_sizes(family: Family, weights: str) -> None:
    """With a dynamic batch OpenVINO's If gives wrong results when either changes, first run
    included: none may be left. Each order starts with a new session."""
    draw = random.Random(0)
    rows = range(0, len(family.bundle.table.rows), 7)
    tried = list(itertools.product(rows, (1, 3)))
    expected: dict[tuple[int, int], Detections] = {}
    for _ in range(2):
        session = family.bundle.session("openvino", "gated", weights=weights, threads=1)
        for row, batch in draw.sample(tried, 14):
            images = random_images(batch, SIDE, SIDE)
            if (row, batch) not in expected:
                expected[row, batch] = torch_detections(family.model, images, row)
            found = session.run(images, row)
            assert found.labels.dtype == np.int64
            assert found.labels.shape == (batch, 100)
            assert_close(found, expected[row, batch])


def rows_compiled(engine: Engine) -> list[int]:
    assert isinstance(engine, module.OpenVinoEngine)
    return list(engine.compiled)


@pytest.mark.parametrize("layout", ["gated", "set"])
def test_a_batch_size_compiles_nothing(
    family: Family, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size: one model runs all of them."""
    session = family.bundle.session("openvino", layout, threads=1)
    expected = family.bundle.session(artifact=layout, threads=1)
    session.load([session.depths[0]])
    monkeypatch.setattr(module.OpenVinoEngine, "_compile", lambda *_: pytest.fail("compiled"))
    for batch in (1, 5, 2, 7, 3, 1):
        images = random_images(batch, SIDE, SIDE, seed=batch)
        assert_close(session.run(images, 0), expected.run(images, 0))


def test_more_depths_than_are_kept(bundle: Bundle) -> None:
    path = onnx_file(bundle, "gated", "shared")
    engine = open_engine("openvino", path, EngineOptions(threads=1, kept_depths=2))
    session = bundle.session(artifact="gated", weights="shared", threads=1)
    assert rows_compiled(engine) == [bundle.table.levels - 1]  # super
    for row in (0, 40, 1, 40, 0):
        found: Any = engine.run(feeds(row, 2), ["scores"])["scores"]
        expected: Any = session.run(random_images(2, SIDE, SIDE), row).scores
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert rows_compiled(engine) == [40, 0]


def test_loading_compiles_the_ladder(bundle: Bundle) -> None:
    session = bundle.session("openvino", "gated", threads=1)
    ((_, engine),) = session._engines.opened()
    assert isinstance(engine, module.OpenVinoEngine)
    session.load(["base"])
    assert set(rows_compiled(engine)) == {0, bundle.table.levels - 1}
    session.load()
    assert set(rows_compiled(engine)) == set(range(bundle.table.levels))


def test_who_runs_a_compiled_depth_waits_for_nobody(
    gated: Engine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another thread compiles; and a third one that wants the same waits for that one."""
    began, go = threading.Event(), threading.Event()
    compile_depth = module.OpenVinoEngine._compile
    compiled: list[int] = []

    def slowly(engine: module.OpenVinoEngine, row: int) -> Any:
        compiled.append(row)
        began.set()
        assert go.wait(60)
        return compile_depth(engine, row)

    monkeypatch.setattr(module.OpenVinoEngine, "_compile", slowly)
    found: list[Any] = []

    def run() -> None:
        found.append(gated.run(feeds(0), ["scores"]))

    others = [threading.Thread(target=run) for _ in range(2)]
    for other in others:
        other.start()
    assert began.wait(60)
    gated.run(feeds(bundle.table.levels - 1), ["scores"])
    assert not found
    go.set()
    for other in others:
        other.join(60)
    assert len(found) == 2
    assert compiled == [0]


def test_a_compilation_that_failed_is_tried_again(
    gated: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(module.OpenVinoEngine, "_compile", fails)
        with pytest.raises(InputError, match="no memory"):
            gated.run(feeds(0), ["scores"])
    assert gated.run(feeds(0), ["scores"])["scores"].shape == (1, 100)


def test_an_openvino_that_keeps_ifs_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any batch size they give wrong results."""
    monkeypatch.setattr(module.OpenVinoEngine, "_fix_depth", lambda *_: None)
    with pytest.raises(UsageError, match=r"does not resolve the depths of gated-fp32-shared\.onnx"):
        open_engine("openvino", onnx_file(bundle, "gated", "shared"), ONE_THREAD)


def test_types_of_raw_outputs(bundle: Bundle) -> None:
    path = onnx_file(bundle, "gated", "shared")
    engine = open_engine("openvino", path, EngineOptions(threads=1, raw=True))
    raw = [f"raw_{name}" for name in bundle.manifest.raw_outputs]
    assert sorted(engine.outputs) == sorted(["labels", "boxes", "scores", *raw])
    assert list(engine.inputs) == ["images", "depth"]
    found = engine.run(feeds(0), engine.outputs)
    assert {name: array.dtype.name for name, array in found.items()} == {
        "labels": "int64",
        "boxes": "float32",
        "scores": "float32",
        "raw_logits": "float32",
        "raw_boxes": "float32",
        "raw_queries": "int64",
    }


# --- one engine, many callers ----------------------------------------------------------------


def test_results_outlive_the_next_run(gated: Engine) -> None:
    first = gated.run(feeds(3, seed=1), gated.outputs)
    before = {name: array.copy() for name, array in first.items()}
    second = gated.run(feeds(0, seed=2), gated.outputs)
    for name, array in first.items():
        assert np.array_equal(array, before[name])
        assert array.flags.owndata
        assert not np.array_equal(array, second[name]), name


def test_inputs_may_change_after_the_run(gated: Engine) -> None:
    given = feeds(3)
    expected = gated.run(given, ["scores"])["scores"]
    images = given["images"].copy()
    assert np.array_equal(gated.run({**given, "images": images}, ["scores"])["scores"], expected)
    images[:] = 0
    assert np.array_equal(gated.run(given, ["scores"])["scores"], expected)
    images[:] = given["images"]
    images.flags.writeable = False
    assert np.array_equal(gated.run({**given, "images": images}, ["scores"])["scores"], expected)


def test_threads_with_mixed_depths_and_batches(family: Family) -> None:
    session = family.bundle.session("openvino", "gated", threads=1)
    levels = family.bundle.table.levels
    work = [(level, batch) for level in range(levels) for batch in (1, 2)]
    images = {batch: random_images(batch, SIDE, SIDE) for batch in (1, 2)}
    expected = {key: torch_detections(family.model, images[key[1]], key[0]) for key in work}
    found: list[tuple[tuple[int, int], Detections]] = []

    def call(seed: int) -> None:
        for key in random.Random(seed).sample(work, len(work)):
            found.append((key, session.run(images[key[1]], key[0])))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4 * len(work)
    for key, detections in found:
        assert_close(detections, expected[key])


# --- precision -------------------------------------------------------------------------------


def test_the_precision_is_never_left_to_openvino(bundle: Bundle) -> None:
    """Its own choice is BF16 on every CPU that has it."""
    path = onnx_file(bundle, "set")
    for compute in ("fp32", "bf16") if HAS_BF16 else ("fp32",):
        options = EngineOptions(threads=1, compute=compute)
        settings = open_engine("openvino", path, options)._settings  # type: ignore[attr-defined]
        assert settings["INFERENCE_PRECISION_HINT"] == {"fp32": "f32", "bf16": "bf16"}[compute]
        assert settings["INFERENCE_NUM_THREADS"] == 1


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")
def test_bf16_is_another_computation(bundle: Bundle) -> None:
    path = onnx_file(bundle, "gated", "shared")
    scores: dict[str, Any] = {
        compute: open_engine("openvino", path, EngineOptions(1, compute=compute)).run(
            feeds(3), ["scores"]
        )["scores"]
        for compute in ("fp32", "bf16")
    }
    difference = np.abs(scores["fp32"] - scores["bf16"]).max()
    assert 1e-5 < difference < 0.1  # FP32 differs from torch by 1e-6


def test_a_precision_that_a_runtime_does_not_have(bundle: Bundle) -> None:
    path = onnx_file(bundle, "set")
    with pytest.raises(UsageError, match="'onnxruntime' cannot compute in bf16: expected fp32"):
        open_engine("onnxruntime", path, EngineOptions(compute="bf16"))
    options = EngineOptions(compute="fp8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot compute in fp8: expected fp32 or bf16"):
        open_engine("openvino", path, options)


class _Other:
    """OpenVINO's core on another machine: other properties, the rest as it is."""

    def __init__(self, core: Any, changes: dict[str, Any]) -> None:
        self.core, self.changes = core, changes

    def get_property(self, device: str, name: str) -> Any:
        return self.changes.get(name, self.core.get_property(device, name))

    def compile_model(self, *arguments: Any) -> Any:
        compiled = self.core.compile_model(*arguments)
        return SimpleNamespace(
            get_property=lambda name: self.changes.get(name, compiled.get_property(name)),
            outputs=compiled.outputs,
            create_infer_request=compiled.create_infer_request,
        )


@pytest.mark.parametrize(
    ("changes", "compute", "message"),
    [
        ({"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"]}, "bf16", "no BF16 instructions"),
        ({"INFERENCE_PRECISION_HINT": ov.Type.bf16}, "fp32", "in bf16 although f32 was asked"),
    ],
)
def test_a_precision_that_is_not_delivered(
    bundle: Bundle,
    changes: dict[str, Any],
    compute: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = _Other(module._core(), changes)
    monkeypatch.setattr(module, "_core", lambda: other)
    with pytest.raises(UsageError, match=message):
        open_engine("openvino", onnx_file(bundle, "set"), EngineOptions(compute=compute))


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.openvino import open_engine

seen = []
signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
options = EngineOptions(threads=1)
first, second = (open_engine(Path(sys.argv[1]), options) for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGINT)
print(len(seen))
"""


def test_a_signal_is_survived_when_sessions_are_gone(bundle: Bundle) -> None:
    """Closed in the order in which they were opened: see ``_core``."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(onnx_file(bundle, "set"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["1"]), done.stderr


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [-1, -96, 96, 97, 2**31, -(2**40), 2**40])
def test_rows_out_of_range_are_refused_by_the_engine(gated: Engine, row: int) -> None:
    """OpenVINO itself takes a row past the end for a row of zeros, and 2**40 for row 0."""
    with pytest.raises(InputError, match=rf"depth is int64 {row}; expected one integer, a row"):
        gated.run(feeds(row), gated.outputs)


def test_other_bad_feeds(gated: Engine) -> None:
    good = feeds(0)
    with pytest.raises(InputError, match=r"depth is float64 0\.5"):
        gated.run({**good, "depth": np.asarray(0.5)}, gated.outputs)
    with pytest.raises(InputError, match=r"depth is int64 \[0\]"):
        gated.run({**good, "depth": np.asarray([0])}, gated.outputs)
    with pytest.raises(InputError, match="expected the inputs images, depth; found images"):
        gated.run({"images": good["images"]}, gated.outputs)
    for images in (good["images"][..., :96], good["images"][0], np.asarray(0.0, np.float32)):
        with pytest.raises(InputError, match=r"gated-fp32-shared\.onnx: "):
            gated.run({**good, "images": images}, gated.outputs)
    gated.run(good, gated.outputs)  # nothing of that broke it


@pytest.mark.parametrize("content", [b"", b"not a graph", None], ids=["empty", "text", "cut"])
def test_files_that_are_no_graphs(bundle: Bundle, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "graph.onnx"
    whole = onnx_file(bundle, "set").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BundleError, match=r"OpenVINO \S+ cannot load .*graph\.onnx: \w") as caught:
        open_engine("openvino", path, ONE_THREAD)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing\.onnx does not exist: expected an ONNX file"):
        open_engine("openvino", tmp_path / "nothing.onnx", ONE_THREAD)


@pytest.mark.parametrize(
    ("key", "raw", "message"),
    [
        ("anydepth.raw_outputs", True, "where its raw outputs are: export it again"),
        ("anydepth.depths", False, "which depths it holds: export it again"),
    ],
)
def test_graphs_that_do_not_explain_themselves(
    bundle: Bundle, tmp_path: Path, key: str, raw: bool, message: str
) -> None:
    import onnx

    model = onnx.load(str(onnx_file(bundle, "gated", "shared")))
    kept = [entry for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, str(tmp_path / "graph.onnx"))
    with pytest.raises(BundleError, match=message):
        open_engine("openvino", tmp_path / "graph.onnx", EngineOptions(threads=1, raw=raw))


def test_without_the_package(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "openvino":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[openvino\]'"):
        bundle.session("openvino")


def test_neither_the_package_nor_onnx_is_imported_early(bundle: Bundle) -> None:
    code = (
        "import sys, anydepth_deploy as ad, anydepth_deploy.runtimes.openvino\n"
        "assert 'openvino' not in sys.modules\n"
        f"ad.open_bundle({str(bundle.path)!r}).session('openvino', raw=True, threads=1)\n"
        "assert 'openvino' in sys.modules\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

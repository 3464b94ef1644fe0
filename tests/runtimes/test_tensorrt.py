"""Engines of TensorRT on a stand-in for a GPU: the results, the memory, what is refused."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import random_images
from fake_cuda import FakeCuda, Status
from fake_tensorrt import SCRATCH, VERSIONS, FakeTensorRt, write_engine
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small_chain import DEPTHS, GRAPHS, PIECES, assert_arrays, at, by_hand, pictures

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import (
    BundleError,
    DeviceError,
    InputError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.manifest import Artifact, BatchProfile, EngineSpec
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.registry import open_engine as open_any
from anydepth_deploy.runtimes.tensorrt import memory as engine_io
from anydepth_deploy.runtimes.tensorrt.cuda import (
    CaptureError,
    DeviceMemory,
    Event,
    PinnedMemory,
    Stream,
    load_cuda,
)
from anydepth_deploy.runtimes.tensorrt.library import load_library
from anydepth_deploy.runtimes.tensorrt.open import RTX, TENSORRT

KINDS = [(name, version) for name, versions in VERSIONS.items() for version in versions]
OUTPUTS = ("labels", "boxes", "scores")
MODULES: dict[str, Any] = {"tensorrt": TENSORRT, "tensorrt_rtx": RTX}
FORMATS: dict[str, Any] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


class Machine:
    """An imaginary machine with a GPU and a TensorRT."""

    def __init__(
        self, patch: pytest.MonkeyPatch, name: str = "tensorrt", version: str = "10.3.0", **gpu: Any
    ) -> None:
        self.cuda = FakeCuda(**gpu).install(patch)
        self.trt = FakeTensorRt(self.cuda, version, name).install(patch)
        self.module, self.version, self.name = MODULES[name], version, name

    def options(self, **changes: Any) -> EngineOptions:
        spec = EngineSpec(
            source="graph",
            source_sha256="0" * 64,
            version=changes.pop("version", self.version),
            capabilities=changes.pop("capabilities", ["sm87"]),
            batch=changes.pop("batch", BatchProfile(smallest=1, typical=1, largest=4)),
            opset=18,
        )
        artifact = Artifact(
            name="engine",
            file="x.engine",
            format=FORMATS[self.name],
            layout="gated",
            weights="shared",
            engine=spec,
            opset=18,
            bytes=1,
            sha256="0" * 64,
            built_with={},
            build_seconds=0,
        )
        return EngineOptions(artifact=artifact)

    def write(self, path: Path, model: onnx.ModelProto | Path, **extra: Any) -> Path:
        return write_engine(path, model, self.version, **extra)

    def stages(self, folder: Path, **options: Any) -> Any:
        """The chain of small_chain.py."""
        folder.mkdir(exist_ok=True)
        pieces = [
            (self.write(folder / name, GRAPHS[name], name=name), spec, self.options())
            for name, spec in PIECES.items()
        ]
        return self.module.open_stages(pieces, **options)

    def nothing_left(self) -> None:
        gc.collect()
        assert self.cuda.live == {}
        assert len(self.trt.engines) == 0
        assert len(self.trt.contexts) == 0


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    load_library.cache_clear()
    yield
    load_library.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def toy(batch: str | int = "batch") -> onnx.ModelProto:
    """`images` [batch, 3, 4, 4] -> `scores` = 2 images + 1, `labels` = round(3 images)."""
    shape = [batch, 3, 4, 4]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["images", "two"], ["double"]),
            helper.make_node("Add", ["double", "one"], ["scores"]),
            helper.make_node("Mul", ["images", "three"], ["triple"]),
            helper.make_node("Cast", ["triple"], ["labels"], to=TensorProto.INT64),
        ],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("labels", TensorProto.INT64, shape),
        ],
        [
            helper.make_tensor(name, TensorProto.FLOAT, [], [value])
            for name, value in (("one", 1), ("two", 2), ("three", 3))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def toy_by_hand(images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    return {"scores": images * 2 + 1, "labels": (images * 3).astype(np.int64)}


def open_toy(machine: Machine, folder: Path, **extra: Any) -> Any:
    path = machine.write(folder / "toy.engine", toy(), **extra)
    return machine.module.open_engine(path, machine.options())


def assert_same(
    found: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.generic]]
) -> None:
    """Bit by bit, integers of whichever width."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype.kind == array.dtype.kind
        assert np.array_equal(found[name], array), name


# Results


@pytest.mark.parametrize(
    ("family", "name", "version"),
    # Libraries differ in how they are called, not in which network they run.
    [("bundle", *kind) for kind in KINDS]
    + [("yolo_bundle", *KINDS[0]), ("yolo_bundle", *KINDS[-1])],
)
def test_a_gated_engine_answers_as_onnx_runtime_does(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    family: str,
    name: str,
    version: str,
) -> None:
    """At every rung, and with batches that grow and shrink."""
    bundle: Bundle = request.getfixturevalue(family)
    machine = Machine(monkeypatch, name, version)
    (artifact,) = bundle.artifacts("gated", weights="shared")
    graph = bundle.file(artifact)
    engine = machine.module.open_engine(
        machine.write(tmp_path / "gated.engine", graph), machine.options()
    )
    reference = open_any("onnxruntime", graph, EngineOptions(threads=1))
    assert list(engine.inputs) == ["images", "depth"]
    for row in range(bundle.table.levels):
        for batch in (1, 3, 1):
            feeds = {
                "images": random_images(batch, *bundle.size, seed=10 * row + batch),
                "depth": np.asarray(row, np.int64),
            }
            assert_same(engine.run(feeds, OUTPUTS), reference.run(feeds, OUTPUTS))
    assert engine.captured == ()
    assert engine.capture_failure == "its depth is an input"
    assert machine.cuda.calls["cudaStreamBeginCapture"] == 0
    engine.close()
    machine.nothing_left()


@pytest.mark.parametrize("family", ["bundle", "yolo_bundle"])
def test_static_engines_answer_as_onnx_runtime_does(
    request: pytest.FixtureRequest, machine: Machine, tmp_path: Path, family: str
) -> None:
    """At every rung; launched one by one, while recorded, and as a graph."""
    bundle: Bundle = request.getfixturevalue(family)
    for artifact in bundle.artifacts("set"):
        graph = bundle.file(artifact)
        engine = machine.module.open_engine(
            machine.write(tmp_path / f"{artifact.name}.engine", graph), machine.options()
        )
        reference = open_any("onnxruntime", graph, EngineOptions(threads=1))
        for turn, batch in enumerate((1, 3, 1, 3, 1, 3, 1)):
            feeds = {"images": random_images(batch, *bundle.size, seed=turn)}
            assert_same(engine.run(feeds, OUTPUTS), reference.run(feeds, OUTPUTS))
        assert engine.captured == (1, 3)
        engine.close()
    machine.nothing_left()


@pytest.mark.parametrize(("name", "version"), KINDS)
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_chain_answers_what_its_depth_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, version: str, cuda_graphs: bool
) -> None:
    machine = Machine(monkeypatch, name, version)
    stages = machine.stages(tmp_path, cuda_graphs=cuda_graphs)
    for turn, batch in enumerate((1, 3, 1, 3, 1)):
        for depth in DEPTHS:
            images = pictures(batch, seed=turn)
            engine = stages.at(depth)
            assert list(engine.inputs) == ["images"]
            found = engine.run({"images": images}, ["boxes", "scores"])
            assert_arrays(found, by_hand(images, depth))
    assert {stages.at(depth).captured for depth in DEPTHS} == {(1, 3) if cuda_graphs else ()}
    assert machine.cuda.calls["cudaGraphLaunch"] == (3 - 2 + 2 - 2) * 8 * cuda_graphs
    stages.close()
    machine.nothing_left()


def test_only_the_pieces_that_outputs_need_run(machine: Machine, tmp_path: Path) -> None:
    stages = machine.stages(tmp_path)
    images = pictures(2)
    found = stages.at(at("super")).run({"images": images}, ["scores"])
    expected = {"scores": by_hand(images, at("super"))["scores"]}
    assert_arrays(found, expected)
    assert machine.trt.executed == ["stem", "one.full", "two.full", "layer1", "layer2"]
    found = stages.at(at("super")).run({"images": images}, ["side", "side"])
    assert_arrays(found, {"side": images.mean((2, 3))})


def test_outputs_belong_to_the_caller(machine: Machine, tmp_path: Path) -> None:
    """A later run changes nothing, nor does closing."""
    engine = open_toy(machine, tmp_path)
    kept = []
    for seed in range(5):
        images = pictures(2, seed)
        kept.append((images, engine.run({"images": images}, ["scores", "labels"])))
        assert all(array.flags.owndata for array in kept[-1][1].values())
    engine.close()
    for images, found in kept:
        assert_same(found, toy_by_hand(images))


def test_inputs_may_be_overwritten_after_the_call(machine: Machine, tmp_path: Path) -> None:
    engine = open_toy(machine, tmp_path)
    images = pictures(1)
    for seed in range(4):
        images[...] = pictures(1, seed)
        assert_same(engine.run({"images": images}, ["scores", "labels"]), toy_by_hand(images))


def test_input_arrays_need_not_be_contiguous(machine: Machine, tmp_path: Path) -> None:
    engine = open_toy(machine, tmp_path)
    images = pictures(4)[::2, ::-1].transpose(0, 1, 3, 2)
    assert_same(engine.run({"images": images}, ["scores", "labels"]), toy_by_hand(images))


def test_eight_threads_get_their_own_results(machine: Machine, tmp_path: Path) -> None:
    engine = open_toy(machine, tmp_path)
    stages = machine.stages(tmp_path / "chain")
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            for turn in range(6):
                images = pictures(1 + (seed + turn) % 4, seed=100 * seed + turn)
                found = engine.run({"images": images}, ["labels", "scores"])
                assert_same(found, toy_by_hand(images))
                depth = DEPTHS[(seed + turn) % len(DEPTHS)]
                found = stages.at(depth).run({"images": images}, ["boxes", "scores"])
                assert_arrays(found, by_hand(images, depth))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_applications_context_is_used_from_any_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stand-in refuses work in any other, and asserts that nobody chooses a device."""
    machine = Machine(monkeypatch, context=99)
    engine = open_toy(machine, tmp_path)
    found: list[Any] = []
    images = pictures(1)

    def work() -> None:
        for _ in range(3):
            found.append(engine.run({"images": images}, ["scores", "labels"]))
        found.append(machine.cuda.driver.cuCtxGetCurrent()[1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    *results, context = found
    assert len(results) == 3
    for result in results:
        assert_same(result, toy_by_hand(images))
    assert context == 0, "the thread has no context of its own, as before"
    assert machine.cuda.driver.cuCtxGetCurrent()[1] == 99
    engine.close()
    machine.nothing_left()


def test_a_fixed_batch_is_the_only_one(machine: Machine, tmp_path: Path) -> None:
    path = machine.write(tmp_path / "toy.engine", toy(batch=2), batch=(2, 2, 2))
    engine = machine.module.open_engine(path, EngineOptions())
    images = pictures(2)
    assert_same(engine.run({"images": images}, ["scores", "labels"]), toy_by_hand(images))
    with pytest.raises(InputError, match=r"images is float32 \[1, 3, 4, 4\], expected float32 \[2"):
        engine.run({"images": images[:1]}, ["scores"])


def _selects(count: int = 48) -> onnx.ModelProto:
    """`images` [batch, 3, 4, 4] -> `found`: those numbers that exceed 0.5."""
    graph = helper.make_graph(
        [
            helper.make_node("Greater", ["images", "half"], ["mask"]),
            helper.make_node("Compress", ["flat", "bits"], ["found"], axis=0),
        ],
        "selects",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["some"])],
        [
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("all", TensorProto.INT64, [1], [-1]),
        ],
    )
    graph.node.insert(1, helper.make_node("Reshape", ["images", "all"], ["flat"]))
    graph.node.insert(2, helper.make_node("Reshape", ["mask", "all"], ["bits"]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_an_output_may_have_a_shape_that_depends_on_the_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, version: str
) -> None:
    machine = Machine(monkeypatch, name, version)
    path = machine.write(tmp_path / "e", _selects(), unknown=["found"], largest=4 * 48 * 4)
    engine = machine.module.open_engine(path, machine.options())
    for seed, batch in enumerate((1, 3, 1, 1)):
        images = pictures(batch, seed)
        found = engine.run({"images": images}, ["found"])["found"]
        assert np.array_equal(found, images[images > 0.5])
    empty = engine.run({"images": np.zeros((1, 3, 4, 4), np.float32)}, ["found"])["found"]
    assert empty.shape == (0,)
    assert engine.captured == ()
    assert engine.capture_failure == "the shape of an output depends on what is computed"
    engine.close()
    machine.nothing_left()


def test_an_output_beyond_its_announced_size_is_an_error(machine: Machine, tmp_path: Path) -> None:
    path = machine.write(tmp_path / "e", _selects(), unknown=["found"], largest=8)
    engine = machine.module.open_engine(path, machine.options())
    with pytest.raises(DeviceError, match="found needs more memory than the 8 bytes"):
        engine.run({"images": np.ones((1, 3, 4, 4), np.float32)}, ["found"])


def test_an_engine_may_want_its_depth_on_the_host(
    bundle: Bundle, machine: Machine, tmp_path: Path
) -> None:
    """As TensorRT does with numbers that shapes are computed from."""
    (artifact,) = bundle.artifacts("gated", weights="shared")
    graph = bundle.file(artifact)
    path = machine.write(tmp_path / "e", graph, host=["depth"])
    engine = machine.module.open_engine(path, machine.options())
    reference = open_any("onnxruntime", graph, EngineOptions(threads=1))
    for row in (0, 3, 1):
        feeds = {"images": random_images(2, *bundle.size), "depth": np.asarray(row, np.int64)}
        assert_same(engine.run(feeds, OUTPUTS), reference.run(feeds, OUTPUTS))


# Memory


def test_nothing_is_allocated_by_later_runs(machine: Machine, tmp_path: Path) -> None:
    engine = open_toy(machine, tmp_path)
    before = machine.cuda.allocations
    for seed in range(5):
        for batch in (1, 4, 2):
            engine.run({"images": pictures(batch, seed)}, ["scores"])
    assert machine.cuda.allocations == before


def test_changing_the_depth_allocates_nothing_once_it_has_run(
    machine: Machine, tmp_path: Path
) -> None:
    stages = machine.stages(tmp_path)
    for depth in DEPTHS:
        stages.at(depth).run({"images": pictures(1)}, ["boxes", "scores"])
    before = machine.cuda.allocations
    loaded = machine.trt.deserialised
    assert loaded == len(PIECES), "what depths share is there once"
    for _ in range(3):
        for depth in DEPTHS:
            for batch in (4, 1):
                stages.at(depth).run({"images": pictures(batch)}, ["boxes", "scores"])
    assert machine.cuda.allocations == before
    assert machine.trt.deserialised == loaded


def test_pieces_are_loaded_when_a_depth_needs_them(machine: Machine, tmp_path: Path) -> None:
    stages = machine.stages(tmp_path)
    assert machine.trt.deserialised == 0
    stages.at(at("base"))
    assert machine.trt.deserialised == 4
    stages.at(at("super"))
    assert machine.trt.deserialised == 7
    assert machine.trt.executed == []


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_the_memory_report_is_what_the_device_has_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, version: str
) -> None:
    machine = Machine(monkeypatch, name, version)
    engine = open_toy(machine, tmp_path)
    memory = engine.memory
    assert memory.activations == SCRATCH
    # Images, scores and labels of four pictures; labels are half as wide in 8.6.
    one = 4 * 3 * 4 * 4 * 4
    wide = 1 if version.startswith("8.") else 2
    assert memory.io == one * (2 + wide)
    assert memory.pinned == one * (2 + wide)
    assert memory.activations + memory.io == machine.cuda.used
    graph = len(toy().SerializeToString())
    exact = machine.trt.has_stats
    assert memory.engines == (graph if exact else (tmp_path / "toy.engine").stat().st_size)
    assert memory.device == memory.engines + machine.cuda.used


def test_pieces_share_memory(machine: Machine, tmp_path: Path) -> None:
    stages = machine.stages(tmp_path)
    for depth in DEPTHS:
        stages.at(depth).run({"images": pictures(4)}, ["boxes", "scores"])
    memory = stages.memory
    assert memory.activations == SCRATCH
    assert memory.activations + memory.io == machine.cuda.used
    picture = 4 * 3 * 4 * 4 * 4
    # Pictures stay to the end; beside them what a piece reads and writes, and the small ones.
    assert memory.io < 4 * picture
    assert memory.engines >= sum(len(g.SerializeToString()) for g in GRAPHS.values())
    assert stages.at(DEPTHS[0]).memory == memory


def test_closing_gives_everything_back_and_running_is_an_error(
    machine: Machine, tmp_path: Path
) -> None:
    engine, stages = open_toy(machine, tmp_path), machine.stages(tmp_path / "chain")
    chain = stages.at(DEPTHS[0])
    for _ in range(3):
        engine.run({"images": pictures(1)}, ["scores"])
        chain.run({"images": pictures(1)}, ["scores"])
    assert engine.captured == chain.captured == (1,)
    for closed in (engine, stages, engine, stages):
        closed.close()
    machine.nothing_left()
    for run in (engine.run, chain.run):
        with pytest.raises(UsageError, match="closed: open the bundle again"):
            run({"images": pictures(1)}, ["scores"])
    with pytest.raises(UsageError, match="closed: open the bundle again"):
        stages.at(DEPTHS[1])
    machine.nothing_left()


def test_what_is_no_longer_referred_to_is_given_back(machine: Machine, tmp_path: Path) -> None:
    engine, stages = open_toy(machine, tmp_path), machine.stages(tmp_path / "chain")
    for _ in range(3):
        engine.run({"images": pictures(1)}, ["scores"])
        stages.at(DEPTHS[0]).run({"images": pictures(1)}, ["scores"])
    del engine, stages
    machine.nothing_left()


def test_memory_that_grows_leaves_no_graph_behind(machine: Machine, tmp_path: Path) -> None:
    """A deeper chain moves the buffers: what was recorded before must not be launched."""
    stages = machine.stages(tmp_path)
    base, full = at("base"), at("super")
    for _ in range(3):
        found = stages.at(base).run({"images": pictures(2)}, ["boxes"])
    assert stages.at(base).captured == (2,)
    launches = machine.cuda.calls["cudaGraphLaunch"]
    names = [name for name in stages.at(full).outputs if name != "images"]
    before = machine.cuda.calls["cudaFree"]
    stages.at(full).run({"images": pictures(4)}, names)
    assert machine.cuda.calls["cudaFree"] > before, "this must have moved something"
    for seed in range(3):
        images = pictures(2, seed)
        found = stages.at(base).run({"images": images}, ["boxes"])
        assert_arrays(found, {"boxes": by_hand(images, base)["boxes"]})
    assert machine.cuda.calls["cudaGraphLaunch"] > launches
    stages.close()
    machine.nothing_left()


# CUDA graphs


def test_the_third_run_of_a_batch_is_a_graph(machine: Machine, tmp_path: Path) -> None:
    engine = open_toy(machine, tmp_path)
    states = []
    for seed in range(4):
        images = pictures(2, seed)
        assert_same(engine.run({"images": images}, ["scores", "labels"]), toy_by_hand(images))
        states.append((engine.captured, machine.cuda.calls["cudaGraphLaunch"]))
    assert states == [((), 0), ((2,), 0), ((2,), 1), ((2,), 2)]
    assert engine.capture_failure is None


def test_graphs_can_be_left_out(machine: Machine, tmp_path: Path) -> None:
    path = machine.write(tmp_path / "toy.engine", toy())
    engine = machine.module.open_engine(path, machine.options(), cuda_graphs=False)
    for seed in range(4):
        images = pictures(2, seed)
        assert_same(engine.run({"images": images}, ["scores", "labels"]), toy_by_hand(images))
    assert engine.captured == ()
    assert engine.capture_failure == "CUDA graphs are not wanted"
    assert machine.cuda.calls["cudaStreamBeginCapture"] == 0


@pytest.mark.parametrize(("name", "version"), [KINDS[1], KINDS[3]])
@pytest.mark.parametrize("cause", ["engine", "cuda"])
def test_what_cannot_be_captured_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, version: str, cause: str
) -> None:
    """And is not tried again."""
    machine = Machine(monkeypatch, name, version)
    engine = open_toy(machine, tmp_path, uncapturable=cause == "engine")
    machine.cuda.deny_capture = cause == "cuda"
    for seed in range(5):
        images = pictures(2, seed)
        assert_same(engine.run({"images": images}, ["scores", "labels"]), toy_by_hand(images))
    assert engine.captured == ()
    assert "captured" in engine.capture_failure or "Capture" in engine.capture_failure
    assert machine.cuda.calls["cudaStreamBeginCapture"] <= 1
    engine.close()
    machine.nothing_left()


def test_there_is_an_end_to_graphs(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydepth_deploy.runtimes.tensorrt import pieces as tensorrt_pieces

    monkeypatch.setattr(tensorrt_pieces, "KEPT_GRAPHS", 3)
    stages = machine.stages(tmp_path)
    for _ in range(4):
        for depth in DEPTHS:
            images = pictures(1)
            found = stages.at(depth).run({"images": images}, ["boxes", "scores"])
            assert_arrays(found, by_hand(images, depth))
    assert len(machine.cuda.executables) == 3


# Refusals


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "rtx")])
def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, extra: str
) -> None:
    import sys

    FakeCuda().install(monkeypatch)
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"'{name}'.*anydepth-deploy\[{extra}\]"
    with pytest.raises(MissingExtraError, match=message):
        MODULES[name].open_engine(tmp_path / "e", EngineOptions())
    with pytest.raises(MissingExtraError, match=message):
        MODULES[name].device_capability()


def test_a_library_that_is_broken_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib

    def fail(_: str) -> None:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(DeviceError, match=r"TensorRT is installed but cannot be loaded: libnvinf"):
        TENSORRT.open_engine(tmp_path / "e", EngineOptions())


def test_without_cudas_bindings_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    machine = Machine(monkeypatch)
    for name in ("cuda.bindings.runtime", "cuda.bindings.driver", "cuda.cudart", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"'cuda-bindings'.*anydepth-deploy\[tensorrt\]"):
        open_toy(machine, tmp_path)


def test_the_older_names_of_cudas_bindings_do_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    machine = Machine(monkeypatch)
    for new in ("cuda.bindings.runtime", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, new, None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", machine.cuda.runtime)
    monkeypatch.setitem(sys.modules, "cuda.cuda", machine.cuda.driver)
    images = pictures(1)
    found = open_toy(machine, tmp_path).run({"images": images}, ["scores", "labels"])
    assert_same(found, toy_by_hand(images))


def test_without_a_gpu_no_runtime_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in's Runtime asserts that there is one, as the real one may crash."""
    machine = Machine(monkeypatch, devices=0)
    with pytest.raises(DeviceError, match="no NVIDIA GPU can be used here"):
        open_toy(machine, tmp_path)
    with pytest.raises(DeviceError, match="no NVIDIA GPU can be used here"):
        machine.module.device_capability()
    with pytest.raises(DeviceError, match="no NVIDIA GPU can be used here"):
        machine.stages(tmp_path / "chain")


def test_the_capability_of_the_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, capability=(12, 0))
    assert machine.module.device_capability() == "sm120"
    assert machine.cuda.live == {}


@pytest.mark.parametrize(
    ("name", "version", "changes", "message"),
    [
        ("tensorrt", "10.3.0", {"capabilities": ["sm86", "sm89"]}, "for sm86, sm89, this device"),
        ("tensorrt", "10.3.0", {"version": "10.3.1"}, "with TensorRT 10.3.1, installed is 10.3.0"),
        ("tensorrt", "10.3.0", {"version": "8.6.1"}, "with TensorRT 8.6.1, installed is 10.3.0"),
        ("tensorrt_rtx", "1.7.1.116", {"version": "1.6.1.116"}, "with TensorRT-RTX 1.6.1.116"),
        ("tensorrt_rtx", "1.7.1.116", {"capabilities": ["sm120"]}, "Imaginary GPU. is sm87"),
    ],
)
def test_engines_for_other_machines_are_refused_before_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    version: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    machine = Machine(monkeypatch, name, version)
    path = machine.write(tmp_path / "e", toy())
    with pytest.raises(BundleError, match=message):
        machine.module.open_engine(path, machine.options(**changes))
    assert machine.trt.deserialised == 0
    machine.nothing_left()


@pytest.mark.parametrize(
    ("name", "here", "built"),
    [
        ("tensorrt", "10.3.0.26", "10.3.0"),
        ("tensorrt", "10.3.0", "10.3.0.26"),
        ("tensorrt_rtx", "1.7.1.116", "1.7.0.2"),
    ],
)
def test_versions_that_agree_in_what_matters_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, here: str, built: str
) -> None:
    machine = Machine(monkeypatch, name, here)
    path = machine.write(tmp_path / "e", toy())
    assert machine.module.open_engine(path, machine.options(version=built)).inputs == ["images"]


@pytest.mark.parametrize("batch", [1, 5, 9])
def test_batches_outside_the_profile_are_refused(
    machine: Machine, tmp_path: Path, batch: int
) -> None:
    path = machine.write(tmp_path / "e", toy(), batch=(2, 2, 4))
    profile = BatchProfile(smallest=2, typical=2, largest=4)
    engine = machine.module.open_engine(path, machine.options(batch=profile))
    with pytest.raises(InputError, match=rf"the batch is {batch}, the engine takes 2 to 4"):
        engine.run({"images": pictures(batch)}, ["scores"])
    # The profile in the file counts where no manifest says it.
    bare = machine.module.open_engine(path, EngineOptions())
    with pytest.raises(InputError, match=rf"the batch is {batch}, the engine takes 2 to 4"):
        bare.run({"images": pictures(batch)}, ["scores"])
    assert bare.run({"images": pictures(3)}, ["scores"])["scores"].shape[0] == 3


@pytest.mark.parametrize(
    ("feeds", "outputs", "message"),
    [
        ({}, ["scores"], "expected the inputs images; found none"),
        ({"image": pictures(1)}, ["scores"], "expected the inputs images; found image"),
        ({"images": pictures(1)[0]}, ["scores"], r"images is float32 \[3, 4, 4\], expected"),
        ({"images": np.zeros((1, 3, 4, 5), np.float32)}, ["scores"], r"\[1, 3, 4, 5\], expected"),
        ({"images": np.zeros((1, 3, 4, 4), complex)}, ["scores"], "images is complex128"),
        ({"images": pictures(1)}, ["boxes"], "no outputs boxes"),
    ],
)
def test_wrong_arrays_are_refused(
    machine: Machine, tmp_path: Path, feeds: Any, outputs: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_toy(machine, tmp_path).run(feeds, outputs)


def test_a_depth_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tmp_path: Path
) -> None:
    """In 8.6, where the input has 32 bits."""
    machine = Machine(monkeypatch, "tensorrt", "8.6.1")
    (artifact,) = bundle.artifacts("gated", weights="shared")
    path = machine.write(tmp_path / "e", bundle.file(artifact))
    engine = machine.module.open_engine(path, machine.options())
    feeds = {"images": random_images(1, *bundle.size), "depth": np.asarray(1 << 32, np.int64)}
    with pytest.raises(InputError, match="depth does not fit into int32"):
        engine.run(feeds, OUTPUTS)


def test_an_engine_larger_than_the_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, memory=100)
    with pytest.raises(DeviceError, match=r"toy.engine: not enough memory on Imaginary GPU: need"):
        open_toy(machine, tmp_path)
    assert machine.trt.deserialised == 0
    machine.nothing_left()


def test_activations_larger_than_the_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, memory=10_000_000)
    with pytest.raises(DeviceError, match=r"needed 20\.0 MB, free 10\.0 MB"):
        open_toy(machine, tmp_path, scratch=20_000_000)
    assert machine.cuda.calls["cudaMalloc"] == 0
    machine.nothing_left()


def test_memory_that_somebody_else_takes_meanwhile_is_an_error(
    machine: Machine, tmp_path: Path
) -> None:
    """And once there is room again, the same engine goes on."""
    stages = machine.stages(tmp_path)
    stages.at(at("base"))
    total = machine.cuda.total

    def shrink(name: str) -> None:
        if name == "cudaMalloc":
            machine.cuda.total = machine.cuda.used

    machine.cuda.before = shrink
    full = stages.at(at("super"))
    names = list(full.outputs)
    with pytest.raises(DeviceError, match=r"not enough memory: needed .* of the GPU, free on the"):
        full.run({"images": pictures(1)}, names)
    machine.cuda.before, machine.cuda.total = None, total
    images = pictures(3)
    for depth in (at("super"), at("base")):
        found = stages.at(depth).run({"images": images}, ["boxes", "scores"])
        assert_arrays(found, by_hand(images, depth))


def test_an_integrated_gpu_counts_the_hosts_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where CUDA says that little is free, the page cache gives way."""
    from anydepth_deploy.runtimes.tensorrt import cuda

    machine = Machine(monkeypatch, memory=1 << 30, integrated=True)
    honest = machine.cuda.runtime.cudaMemGetInfo
    monkeypatch.setattr(
        machine.cuda.runtime, "cudaMemGetInfo", lambda: (honest()[0], 10, honest()[2])
    )
    monkeypatch.setattr(cuda, "_available", lambda: 1 << 29)
    images = pictures(1)
    found = open_toy(machine, tmp_path).run({"images": images}, ["scores", "labels"])
    assert_same(found, toy_by_hand(images))


def test_files_that_are_no_engines_are_refused(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "e.engine"
    with pytest.raises(BundleError, match=r"e.engine does not exist: expected an engine of Tens"):
        machine.module.open_engine(path, EngineOptions())
    path.write_bytes(b"not an engine")
    with pytest.raises(BundleError, match=r"cannot load .*e.engine: magicTagRead: the magic tag"):
        machine.module.open_engine(path, machine.options())
    write_engine(path, toy(), "9.9.9")
    with pytest.raises(BundleError, match="the version tag does not match"):
        machine.module.open_engine(path, machine.options())
    machine.nothing_left()


def test_a_piece_of_another_type_is_refused(machine: Machine, tmp_path: Path) -> None:
    half = onnx.ModelProto()
    half.CopyFrom(GRAPHS["head"])
    half.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    half.graph.node[0].input[0] = "wide"
    half.graph.node.insert(0, helper.make_node("Cast", ["in"], ["wide"], to=TensorProto.FLOAT))
    stages = machine.stages(tmp_path)
    machine.write(tmp_path / "head", half)
    with pytest.raises(BundleError, match=r"head takes in as float16 on the device, .* float32 on"):
        stages.at(DEPTHS[0])


def test_a_chain_that_is_not_complete_is_refused(machine: Machine, tmp_path: Path) -> None:
    pieces = [
        (machine.write(tmp_path / name, GRAPHS[name]), spec, machine.options())
        for name, spec in list(PIECES.items())[1:]
    ]
    with pytest.raises(BundleError, match="the chain has 6 pieces, expected 7"):
        machine.module.open_stages(pieces)
    machine.nothing_left()


def test_a_device_that_fails_says_so(machine: Machine, tmp_path: Path) -> None:
    engine = open_toy(machine, tmp_path)
    machine.cuda.sticky = Status.cudaErrorIllegalAddress
    with pytest.raises(DeviceError, match=r"on the GPU: cudaErrorIllegalAddress \(error 700"):
        engine.run({"images": pictures(1)}, ["scores"])


# The layers below


def test_placed_tensors_do_not_meet() -> None:
    """Random plans, against every pair; and no larger than they have to be in three known ones."""
    random = np.random.default_rng(0)
    for _ in range(200):
        spans = []
        for _ in range(int(random.integers(1, 12))):
            first = int(random.integers(-1, 6))
            spans.append(
                engine_io.Interval(
                    int(random.integers(0, 2000)), first, first + int(random.integers(0, 4))
                )
            )
        offsets, total = engine_io.pack(spans)
        taken = [
            (offset, offset + max(1, span.size))
            for offset, span in zip(offsets, spans, strict=True)
        ]
        assert all(start >= 0 and end <= total and start % 256 == 0 for start, end in taken)
        for one in range(len(spans)):
            for other in range(one):
                steps = {*range(spans[one].first, spans[one].last + 1)}
                if steps & {*range(spans[other].first, spans[other].last + 1)}:
                    assert taken[one][1] <= taken[other][0] or taken[other][1] <= taken[one][0]
    line = [engine_io.Interval(512, step, step + 1) for step in range(9)]
    assert engine_io.pack(line)[1] == 1024
    assert engine_io.pack([engine_io.Interval(512, 0, 9)] * 3)[1] == 1536
    assert engine_io.pack([])[1] == 0


def test_work_is_done_when_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda().install(monkeypatch)
    context = load_cuda().adopt()
    with (
        DeviceMemory(context, 16) as device,
        PinnedMemory(context, 32) as host,
        Stream(context) as stream,
        Event(context) as begin,
        Event(context) as end,
    ):
        dtype = np.dtype(np.int32)
        source, target = host.array(0, (4,), dtype), host.array(16, (2, 2), dtype)
        source[:] = [1, 2, 3, 4]
        begin.record(stream)
        stream.upload(device.address, host.address, 16)
        stream.download(host.address + 16, device.address, 16)
        end.record(stream)
        assert not np.array_equal(target.ravel(), source)
        end.synchronise()
        assert np.array_equal(target.ravel(), source)
        assert end.seconds_since(begin) > 0
        with pytest.raises(IndexError):
            host.array(20, (4,), dtype)
        with pytest.raises(DeviceError, match="cudaMemcpyAsync failed"):
            stream.upload(device.address, np.zeros(4).ctypes.data, 16)
        with stream.capture() as capture:
            stream.upload(device.address, host.address, 16)
        source[:] = 7
        capture.graph.launch(stream)
        stream.download(host.address + 16, device.address, 16)
        stream.synchronise()
        assert np.array_equal(target.ravel(), source)
        with pytest.raises(CaptureError), stream.capture(), pytest.raises(DeviceError):
            DeviceMemory(context, 16)
        capture.graph.close()
    assert fake.live == {}


@pytest.mark.parametrize("make", [DeviceMemory, PinnedMemory])
def test_memory_is_given_back_once(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[Any, int], Any]
) -> None:
    fake = FakeCuda().install(monkeypatch)
    memory = make(load_cuda().adopt(), 100)
    memory.close()
    memory.close()
    assert fake.live == {}
    make(load_cuda().adopt(), 100)
    gc.collect()
    assert fake.live == {}


def test_importing_touches_no_device() -> None:
    import subprocess
    import sys

    code = (
        "import sys, anydepth_deploy.runtimes.tensorrt.open\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('cuda', 'tensorrt', 'tensorrt_rtx', 'onnx', 'torch')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

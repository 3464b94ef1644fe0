"""Engines end to end, as their first user: from a bundle's graphs through builders to detections.

CUDA and TensorRT are stand-ins: an "engine" is the very graph that the builder was given, executed
by ONNX Runtime in memory of an imaginary device. So all that this project does to a graph on its
way to an engine, and to images on theirs through it, is judged against the graph of the bundle on
ONNX Runtime. What NVIDIA's own software does with such graphs is **unverified** here.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import MAGIC, FakeTensorRt, write_engine
from fake_tensorrt_api import NAMES, Script
from fake_tensorrt_api import fake_tensorrt as builder_module
from numpy.typing import NDArray
from processors import refuses_int8
from trained_networks import CHECKPOINTS, FAMILIES, lowered_bundle

from anydepth_deploy.bench.combinations import Request, bench_all
from anydepth_deploy.bench.options import Options
from anydepth_deploy.building import build as build_module
from anydepth_deploy.building.backend import Backend
from anydepth_deploy.building.build import BuildReport, build_bundle
from anydepth_deploy.building.compile import BuildSettings, Built
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import NOTHING, Detections
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import (
    BuildError,
    BundleError,
    DeviceError,
    InputError,
    PrecisionError,
    UsageError,
)
from anydepth_deploy.evaluation import CocoData, evaluate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import Artifact, BatchProfile, Verification
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.predict.run import predict
from anydepth_deploy.runtimes.tensorrt.library import load_library
from anydepth_deploy.verifying.engines import EngineReport, verify_engines
from anydepth_deploy.verifying.reference import choose_reference

PRECISIONS = ("fp32", "fp16", "int8")
LAYOUTS = ("gated", "set", "stages")
BATCHES = (1, 3, 4)
VERSION = "10.3.0"
OTHERS = {"8.6.1": PRECISIONS, "11.4.0.106": ("fp16",), "rtx": ("fp32", "int8")}
"""Other versions, and precisions in which each differs from 10.3."""
RTX_VERSION = "1.7.1.116"

ELSEWHERE = {"anydepth-detr": ("TFFT-T-1", "FTFT-F-2"), "anydepth-yolo": ("TFTFTFTF", "FFTTTFTT")}
"""Depths that are no rungs; the YOLO's take all branches of its nested Ifs together with them."""

ERRORS: dict[str, dict[str, float]] = {
    "same": {"boxes": 0, "logits": 0, "scores": 0},
    "fp32": {"boxes": 2e-6, "logits": 3e-6, "scores": 3e-6},
    "fp16": {"boxes": 0.001, "logits": 0.015, "scores": 0.003},
    "int8": {"boxes": 0.04, "logits": 0.08, "scores": 0.2},
}
"""Relative errors of raw outputs, about three times what was measured: another fusion rounds
elsewhere, and where 8 bits are involved rounding becomes whole steps. The very graph that ONNX
Runtime is given elsewhere differs by nothing."""

SHARED = {"same": 1.0, "fp32": 1.0, "fp16": 0.95, "int8": 0.85}
"""Queries that both sides choose."""

Raw = Mapping[str, NDArray[Any]]
Arrays = NDArray[np.float32]


# --- an imaginary machine ---------------------------------------------------------------------


class Machine:
    """A GPU, a TensorRT that runs engines and one that builds them.

    ``built``: graphs that the builder was given, by the name of their engine. ``before``: called
    with that name before each build; ``edit`` changes the graph that becomes the engine.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        version: str = VERSION,
        capability: tuple[int, int] = (8, 7),
        *,
        notes: Sequence[str] = (),
    ) -> None:
        load_library.cache_clear()
        rtx = version == "rtx"
        self.runtime = "tensorrt-rtx" if rtx else "tensorrt"
        self.backend = _rtx() if rtx else _proper(version)
        self.capability = f"sm{capability[0]}{capability[1]}"
        self.cuda = FakeCuda(capability=capability).install(patch)
        name = self.runtime.replace("-", "_")
        self.trt = FakeTensorRt(self.cuda, self.backend.version, name).install(patch)
        self.built: dict[str, onnx.ModelProto] = {}
        self.settings: dict[str, BuildSettings] = {}
        self.before: Callable[[str], None] = lambda name: None
        self.edit: Callable[[str, onnx.ModelProto], None] = lambda name, model: None
        self.salt = ""
        self.notes = tuple(notes)
        patch.setattr(build_module, "load", lambda runtime: self.backend)
        patch.setattr(build_module, "compile_engine", self._compile)
        patch.setattr(fake_tensorrt, "ort", _runtime_of_engines())

    def _compile(self, graph: Path, engine: Path, settings: BuildSettings) -> Built:
        name = graph.stem
        engine.write_bytes(b"half of an engine")
        self.before(name)
        model = onnx.load(str(graph))
        check_graph(model, self.backend, settings)
        self.built[name], self.settings[name] = model, settings
        given = onnx.ModelProto()
        given.CopyFrom(model)
        self.edit(name, given)
        profile = settings.batch
        batch = profile.smallest, profile.typical, profile.largest
        write_engine(engine, given, self.backend.version, batch, name=name, salt=self.salt)
        return Built(
            version=self.backend.version,
            device=None if self.backend.ahead_of_time else "Imaginary GPU",
            capabilities=settings.capabilities or (self.capability,),
            seconds=0.0,
            layers={settings.precision: 1},
            strongly_typed=self.backend.strongly_typed,
            peak_memory=1,
            notes=self.notes,
        )

    def build(self, bundle: Bundle | Path, layouts: Sequence[str] = LAYOUTS, **options: Any) -> Any:
        path = bundle if isinstance(bundle, Path) else bundle.path
        self.built.clear()
        if self.backend.ahead_of_time:
            options.setdefault("capabilities", [self.capability])
        return build_bundle(path, runtime=self.runtime, layouts=layouts, **options)

    def session(self, bundle: Bundle | Path, layout: str, precision: str = "fp32", **o: Any) -> Any:
        found = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        return found.session(runtime=self.runtime, artifact=layout, precision=precision, **o)


def _proper(version: str) -> Backend:
    """TensorRT; of a version that there is no stand-in for, what 10.3 is but for its number."""
    module: Any = builder_module(version if version in NAMES else VERSION, Script())[0]
    module.__version__ = version
    return Backend("tensorrt", module)


def _rtx() -> Backend:
    module: Any = SimpleNamespace(
        __version__=RTX_VERSION,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ComputeCapability=IntEnum("ComputeCapability", ["CURRENT", "SM75", "SM86", "SM89"]),
    )
    return Backend("tensorrt-rtx", module)


def _runtime_of_engines() -> Any:
    """ONNX Runtime without the optimisation that goes wrong where scales are FP16."""

    def open_graph(*arguments: Any, **options: Any) -> Any:
        return ort.InferenceSession(
            *arguments, disabled_optimizers=["WeightBiasQuantization"], **options
        )

    return SimpleNamespace(SessionOptions=ort.SessionOptions, InferenceSession=open_graph)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g)


def check_graph(model: onnx.ModelProto, backend: Backend, settings: BuildSettings) -> None:
    """As strict as what reads and builds it."""
    onnx.checker.check_model(model, full_check=True)
    opset = next(item.version for item in model.opset_import if item.domain == "")
    assert opset <= backend.largest_opset
    names: list[str] = []
    halves = 0
    for graph in graphs_of(model.graph):
        for node in graph.node:
            names.append(node.name)
            assert node.op_type != "NonMaxSuppression" or backend.non_max_suppression
            if node.op_type == "If" and not backend.nested_ifs:
                inner = [child for item in node.attribute for child in item.g.node]
                assert all(child.op_type != "If" for child in inner), "nested Ifs"
            casts = [item.i for item in node.attribute if item.name == "to"]
            halves += casts.count(onnx.TensorProto.FLOAT16)
        halves += sum(item.data_type == onnx.TensorProto.FLOAT16 for item in graph.initializer)
    assert len(set(names)) == len(names), "names of nodes are not unique"
    if backend.strongly_typed:
        assert not settings.float32
        assert (settings.precision == "fp32") == (halves == 0)
    else:
        assert halves == 0, "a weakly typed builder chooses halves by itself"
        assert set(settings.float32) <= set(names)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    load_library.cache_clear()
    yield
    load_library.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


# --- bundles ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lowered(family: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    return lowered_bundle(family, tmp_path_factory)


@pytest.fixture(scope="module")
def graphs(lowered: tuple[Bundle, Path]) -> Bundle:
    """Gated and static graphs in all precisions. Read only."""
    return lowered[0]


def subset(bundle: Bundle, folder: Path, keep: Callable[[Artifact], bool]) -> Path:
    """A bundle in a folder of its own with some of the artifacts, and without results."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [item for item in bundle.manifest.artifacts if keep(item)]
    for item in kept:
        shutil.copy(bundle.path / item.file, folder / item.file)
    if golden := bundle.manifest.golden:
        shutil.copy(bundle.path / golden.file, folder / golden.file)
    manifest = bundle.manifest.model_copy(update={"artifacts": kept, "results": {}})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def gated_only(*precisions: str) -> Callable[[Artifact], bool]:
    return lambda item: (
        item.engine is None
        and item.layout == "gated"
        and item.precision in precisions
        and (item.quantisation is None or item.quantisation.target == "tensorrt")
    )


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """For what is the same for both families. Read only."""
    return lowered_bundle("anydepth-detr", tmp_path_factory)[0]


@pytest.fixture(scope="module")
def inputs(detr: Bundle) -> Arrays:
    """`images` for `detr`."""
    return np.concatenate(verification_batches(detr.manifest.preprocess))


@pytest.fixture
def small(detr: Bundle, tmp_path: Path) -> Path:
    """The gated graph in FP32, alone."""
    return subset(detr, tmp_path / "bundle", gated_only("fp32"))


@pytest.fixture(scope="module")
def built(graphs: Bundle, family: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Engines of all layouts and precisions by TensorRT 10.3, and the gated graphs. Read only."""
    folder = subset(graphs, tmp_path_factory.mktemp("built") / family, gated_only(*PRECISIONS))
    depths = ",".join([*map(str, graphs.table.ladder), *ELSEWHERE[family]])
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch)
        machine.build(folder, depth=depths)
    return open_bundle(folder)


@pytest.fixture
def copied(built: Bundle, tmp_path: Path) -> Path:
    """All that `built` has in FP32, to be damaged."""
    return subset(built, tmp_path / "bundle", lambda item: item.precision == "fp32")


@pytest.fixture(scope="module")
def images(graphs: Bundle) -> Arrays:
    """Three generated pictures and noise."""
    return np.concatenate(verification_batches(graphs.manifest.preprocess))


def depths_of(bundle: Bundle, family: str) -> list[Depth]:
    """Rungs and others, in no order: each is followed by one that differs much."""
    found = [*bundle.table.ladder, *map(bundle.table.find, ELSEWHERE[family])]
    return found[::2] + found[1::2]


class Oracle:
    """The gated graph of the bundle on ONNX Runtime; its answers are kept."""

    def __init__(self, bundle: Bundle, precision: str, images: Arrays) -> None:
        self._session = bundle.session(
            artifact="gated", precision=precision, target="tensorrt", raw=True, threads=1
        )
        self._images = images
        self._found: dict[tuple[str, int], tuple[Detections, Raw]] = {}

    def at(self, depth: Depth, batch: int) -> tuple[Detections, Raw]:
        key = str(depth), batch
        if key not in self._found:
            self._found[key] = self._session.run_both(self._images[:batch], depth)
        return self._found[key]


@pytest.fixture(scope="module")
def oracles(graphs: Bundle, images: Arrays) -> Mapping[str, Oracle]:
    return {precision: Oracle(graphs, precision, images) for precision in PRECISIONS}


# --- comparing --------------------------------------------------------------------------------


def assert_near(found: Raw, wanted: Raw, kind: str, what: str) -> None:
    """Raw outputs agree; queries by their tokens, of which nearly all must be the same."""
    assert found.keys() == wanted.keys(), what
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    if "queries" in wanted:
        assert found["queries"].dtype == np.int64
        shared = 0
        for image, tokens in enumerate(wanted["queries"]):
            where = {int(token): place for place, token in enumerate(found["queries"][image])}
            assert len(where) == len(tokens), what
            for place, token in enumerate(tokens):
                if int(token) in where:
                    shared += 1
                    for name in ("logits", "boxes"):
                        other = found[name][image, where[int(token)]]
                        pairs.setdefault(name, []).append((other, wanted[name][image, place]))
        assert shared >= SHARED[kind] * wanted["queries"].size, (
            what,
            shared,
            wanted["queries"].size,
        )
    else:
        one, other = found["predictions"], wanted["predictions"]
        assert one.shape == other.shape, what
        pairs = {"boxes": [(one[:, :4], other[:, :4])], "scores": [(one[:, 4:], other[:, 4:])]}
    for name, both in pairs.items():
        ours, theirs = (np.array(side, np.float64) for side in zip(*both, strict=True))
        error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        assert error <= ERRORS[kind][name], f"{what}: {name} is off by {error}"


def nearness(layout: str, precision: str, version: str = VERSION) -> str:
    """How near an engine is to the gated graph, as a key of `ERRORS`."""
    if precision == "fp32":
        return "same" if layout == "gated" else "fp32"
    if version == "8.6.1":
        return precision  # the graph it is given is in FP32
    if layout == "gated":
        return "same"
    # Pieces have the scales of the gated graph; a folded norm moves those of static ones.
    return "fp16" if layout == "stages" else precision


def assert_same_detections(found: Detections, wanted: Detections, what: str) -> None:
    """Both find the same, up to rounding: which of two equals comes first may differ."""
    assert found.labels.shape == wanted.labels.shape, what
    assert found.labels.dtype == np.int64, what
    for image in range(len(wanted.labels)):
        free = list(range(found.labels.shape[1]))
        for place in range(wanted.labels.shape[1]):
            partner = next(
                (
                    other
                    for other in free
                    if found.labels[image, other] == wanted.labels[image, place]
                    and abs(found.scores[image, other] - wanted.scores[image, place]) < 1e-4
                    and np.abs(found.boxes[image, other] - wanted.boxes[image, place]).max() < 1e-2
                ),
                None,
            )
            # What has the last place of all may differ by rounding.
            last = wanted.scores[image, place] < wanted.scores[image].min() + 1e-4
            assert partner is not None or last, f"{what}: no partner of {place} in image {image}"
            if partner is not None:
                free.remove(partner)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


# --- what engines answer ----------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_engines_answer_as_their_graph_does(
    built: Bundle,
    family: str,
    images: Arrays,
    oracles: Mapping[str, Oracle],
    machine: Machine,
    layout: str,
    precision: str,
) -> None:
    """At every rung and at other depths, changing from call to call, in batches of 1, 3 and 4."""
    session = machine.session(built, layout, precision)
    depths = depths_of(built, family)
    assert set(depths) <= set(session.depths)
    for batch in BATCHES:
        for depth in depths:
            what = f"{layout} {precision} at {depth}, {batch} images"
            found, raw = session.run_both(images[:batch], depth)
            wanted, wanted_raw = oracles[precision].at(depth, batch)
            assert_near(raw, wanted_raw, nearness(layout, precision), what)
            if precision == "fp32":
                assert_same_detections(found, wanted, what)
            if batch != 3:
                continue
            again = session.run(images[:batch], depth)
            for name in ("labels", "boxes", "scores"):
                one, other = getattr(found, name), getattr(again, name)
                np.testing.assert_array_equal(one, other, err_msg=what)
            only = session.run_raw(images[:batch], depth)
            for name, array in raw.items():
                np.testing.assert_array_equal(only[name], array, err_msg=what)
    assert found.labels.dtype == np.int64
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert (found.labels != NOTHING).any()


@pytest.mark.parametrize("version", OTHERS)
def test_every_version_gets_a_graph_that_it_can_build(
    graphs: Bundle,
    family: str,
    images: Arrays,
    oracles: Mapping[str, Oracle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    """Opset, types, Ifs and suppression are within what it knows, and the answers are the same."""
    machine = Machine(monkeypatch, version, capability=(8, 9))
    folder = subset(graphs, tmp_path / "bundle", gated_only(*OTHERS[version]))
    report = machine.build(folder, ["gated", "stages"])
    assert set(report.built) == set(machine.built)
    opened = open_bundle(folder)
    yolo = family == "anydepth-yolo"
    assert {item.engine.detections for item in opened.artifacts("gated") if item.engine} == {
        not (yolo and version == "rtx")
    }
    for precision in OTHERS[version]:
        for layout in ("gated", "stages"):
            session = machine.session(opened, layout, precision)
            for depth, batch in zip(depths_of(opened, family), (1, 3, 4, 3, 1, 4), strict=False):
                what = f"{version} {layout} {precision} at {depth}, {batch} images"
                found, raw = session.run_both(images[:batch], depth)
                wanted, wanted_raw = oracles[precision].at(depth, batch)
                assert_near(raw, wanted_raw, nearness(layout, precision, version), what)
                if precision == "fp32":
                    assert_same_detections(found, wanted, what)
    kept = {name: item.float32 for name, item in machine.settings.items()}
    half = [item.float32 for item in machine.settings.values() if item.precision != "fp32"]
    assert any(half) == (version == "8.6.1"), kept


def test_gathers_in_place_of_grid_sample(
    graphs: Bundle,
    family: str,
    images: Arrays,
    oracles: Mapping[str, Oracle],
    tmp_path: Path,
    machine: Machine,
) -> None:
    """Every layout of them is a whole, also beside the same without gathers."""
    folder = subset(graphs, tmp_path / "bundle", gated_only("fp32"))
    if family == "anydepth-yolo":
        with pytest.raises(Exception, match=r"no graph of .* has a GridSample") as error:
            machine.build(folder, deformable="gather")
        one_line(error)
        return
    machine.build(folder, depth="base", deformable="gather")
    kinds = {node.op_type for model in machine.built.values() for node in model.graph.node}
    assert "GridSample" not in kinds
    for beside in (False, True):
        if beside:
            machine.build(folder, depth="base")
        for layout in LAYOUTS:
            session = machine.session(folder, layout)
            machine.trt.executed.clear()
            raw = session.run_raw(images[:3], "base")
            assert all("gather" in name for name in machine.trt.executed)
            assert_near(raw, oracles["fp32"].at(graphs.table.ladder[0], 3)[1], "fp32", layout)


def test_halves_flow_between_pieces(built: Bundle, images: Arrays, machine: Machine) -> None:
    for precision, kind in (("fp32", np.float32), ("fp16", np.float16), ("int8", np.float16)):
        session = machine.session(built, "stages", precision, preload=True)
        between = {
            tensor.dtype
            for piece in session._engines._stages._pieces
            for tensor in piece.engine.inputs
            if tensor.name != "images" and tensor.dtype.kind == "f"
        }
        assert np.dtype(kind) in between
        assert precision != "fp32" or between == {np.dtype(np.float32)}
        session.run(images[:1], "super")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graphs_of_cuda_are_launched_but_for_gated_engines(
    built: Bundle, images: Arrays, machine: Machine, layout: str
) -> None:
    session = machine.session(built, layout)
    first = session.run(images[:2], "base")
    for _ in range(3):
        found = session.run(images[:2], "base")
        np.testing.assert_array_equal(found.scores, first.scores)
        np.testing.assert_array_equal(found.boxes, first.boxes)
    session.run(images[:2], "super")
    again = session.run(images[:2], "base")
    np.testing.assert_array_equal(again.scores, first.scores)
    launched = machine.cuda.calls["cudaGraphLaunch"]
    assert launched == (0 if layout == "gated" else 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_get_their_own_answers(
    built: Bundle, images: Arrays, machine: Machine, layout: str
) -> None:
    session = machine.session(built, layout)
    tasks = [
        (depth, batch, start)
        for start, batch in ((0, 1), (1, 3), (0, 4))
        for depth in built.table.ladder
    ]
    alone = [session.run(images[start : start + batch], d) for d, batch, start in tasks]
    wrong: list[object] = []

    def work(turn: int) -> None:
        try:
            for step in range(len(tasks)):
                index = (step * (1 + turn) + turn) % len(tasks)
                depth, batch, start = tasks[index]
                found = session.run(images[start : start + batch], depth)
                if not np.array_equal(found.boxes, alone[index].boxes):
                    wrong.append(tasks[index])
        except BaseException as error:  # or it would be lost with its thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_counts_the_weights_of_a_piece_once(
    built: Bundle, images: Arrays, machine: Machine
) -> None:
    pieces = [item for item in built.artifacts("stages", "fp32") if item.engine]
    session = machine.session(built, "stages")
    assert machine.trt.deserialised == 0
    session.run(images[:1], "super")
    some = session.memory["stages"].engines
    assert 0 < some < sum(item.bytes for item in pieces)
    session.load()
    assert machine.trt.deserialised == len(pieces)
    memory = session.memory["stages"]
    assert memory.engines == sum(item.bytes for item in pieces)
    assert memory.device == memory.engines + machine.cuda.used
    one = session._engines._stages.at(built.table.ladder[0])
    assert one.memory == memory
    static = [item for item in built.artifacts("set", "fp32") if item.engine]
    assert memory.engines < sum(item.bytes for item in static)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_closed_session_has_given_everything_back(
    built: Bundle, images: Arrays, machine: Machine, layout: str
) -> None:
    session = machine.session(built, layout)
    for depth in (built.table.ladder[0], built.table.ladder[-1]):
        session.run(images[:1], depth)
    assert machine.cuda.used > 0
    names = {"gated": {"gated"}, "stages": {"stages"}}
    rungs = {str(built.table.ladder[0]), str(built.table.ladder[-1])}
    assert session.memory.keys() == names.get(layout, rungs)
    session.close()
    assert machine.cuda.used == 0
    with pytest.raises(UsageError, match=r"closed: open the bundle again"):
        session.run(images[:1], built.table.ladder[0])


def test_batches_below_the_profile_are_filled_up(
    small: Path, inputs: Arrays, machine: Machine, tmp_path: Path
) -> None:
    """By `eval` and `predict`; an application is told."""
    machine.build(small, ["gated"], batch=BatchProfile(smallest=2, typical=2, largest=3))
    bundle = open_bundle(small)
    data = CocoData(write_coco(tmp_path / "shapes", 4, 5, "val"))  # 3 and 1 in the last call
    depth = [bundle.table.ladder[-1]]
    runtime = machine.runtime
    (found,) = evaluate(bundle, data, depth, runtime=runtime, record=False)
    (wanted,) = evaluate(bundle, data, depth, threads=1, record=False)
    assert found.ap == pytest.approx(wanted.ap, abs=0.1)
    picture = data.folder / data.images[0]["file_name"]
    assert predict(bundle, picture, runtime=runtime, out=tmp_path / "one.png")
    session = machine.session(bundle, "gated")
    assert session.batch is not None
    assert len(session.padded(inputs[:1])) == 2
    with pytest.raises(InputError, match="takes 2 to 3"):
        session.run(inputs[:1], "base")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_preload_opens_everything(
    built: Bundle, images: Arrays, machine: Machine, layout: str
) -> None:
    count = len([item for item in built.artifacts(layout, "fp32") if item.engine])
    session = machine.session(built, layout, preload=True)
    assert machine.trt.deserialised == count
    for depth in session.depths[:3]:
        session.run(images[:1], depth)
    assert machine.trt.deserialised == count


# --- for which device -------------------------------------------------------------------------


def test_the_engine_of_this_device_is_chosen(
    small: Path, inputs: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    for capability in ((8, 7), (8, 9)):
        Machine(monkeypatch, capability=capability).build(small, ["gated", "stages"])
    for capability in ((8, 9), (8, 7)):
        machine = Machine(monkeypatch, capability=capability)
        for layout in ("gated", "stages"):
            machine.session(small, layout).run(inputs[:1])
        assert machine.trt.executed
        assert all(name.endswith(f"-{machine.capability}") for name in machine.trt.executed)
    machine = Machine(monkeypatch, capability=(9, 0))
    with pytest.raises(BundleError) as error:
        machine.session(small, "gated")
    assert "has engines for sm87, sm89, this device is sm90: 'build" in one_line(error)
    with pytest.raises(BundleError) as error:
        check(machine, open_bundle(small))
    assert "has engines for sm87, sm89, this device is sm90: 'build" in one_line(error)


def test_one_engine_may_serve_several_devices(
    small: Path, inputs: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Machine(monkeypatch, "rtx", capability=(12, 0))
    report = builder.build(small, ["gated"], capabilities=["sm75", "sm89"])
    assert report.capabilities == ("sm75", "sm89")
    for capability in ((7, 5), (8, 9)):
        machine = Machine(monkeypatch, "rtx", capability=capability)
        machine.session(small, "gated").run(inputs[:1])
        assert machine.trt.executed == ["gated-fp32-shared-rtx-sm75-sm89"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_version_of_tensorrt_is_refused(
    built: Bundle, images: Arrays, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    machine = Machine(monkeypatch, "10.4.0")
    with pytest.raises(BundleError) as error:
        machine.session(built, layout).run(images[:1])
    expected = "was built with TensorRT 10.3.0, installed is 10.4.0: build it again"
    assert expected in one_line(error)
    assert machine.trt.deserialised == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_beyond_the_profile_is_refused(
    built: Bundle, images: Arrays, machine: Machine, layout: str
) -> None:
    session = machine.session(built, layout)
    with pytest.raises(InputError) as error:
        session.run(np.concatenate([images, images])[:5], "base")
    assert "the batch is 5, the engine takes 1 to 4" in one_line(error)
    assert len(session.run(images, "base").labels) == 4


def test_without_engines_the_command_is_named(small: Path, machine: Machine) -> None:
    with pytest.raises(BundleError) as error:
        machine.session(small, "stages", "fp16")
    text = one_line(error)
    assert "has no artifact 'stages fp16 for tensorrt'" in text
    assert f"'build {small} --runtime tensorrt --precision fp16 --layout stages' adds it" in text


def test_without_a_gpu_it_says_so(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.cuda.count = 0
    with pytest.raises(DeviceError) as error:
        machine.session(built, "gated")
    one_line(error)


# --- parity before trust ----------------------------------------------------------------------


def check(machine: Machine, bundle: Bundle, *depths: str, **options: Any) -> EngineReport:
    batches = verification_batches(bundle.manifest.preprocess)
    chosen = [bundle.table.find(text) for text in depths] or None
    return verify_engines(
        bundle, batches, runtime=machine.runtime, depths=chosen, threads=1, **options
    )


def engines_of(
    bundle: Bundle, layout: str | None = None, precision: str | None = None
) -> list[Artifact]:
    return [item for item in bundle.artifacts(layout, precision) if item.engine is not None]


def test_sound_engines_are_marked_and_trusted(
    built: Bundle,
    family: str,
    tmp_path: Path,
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In all layouts and precisions; the pieces of a chain share its verdict."""
    opened = open_bundle(subset(built, tmp_path / "bundle", lambda item: True))
    tried = ("base",)
    report = check(machine, opened, *tried)
    assert report.passed, [row for row in report.rows if not row.passed]
    found = open_bundle(opened.path)
    assert {item.layout for item in engines_of(found) if item.verified} == set(LAYOUTS)
    for item in engines_of(found):
        if item.depth in (None, *(str(found.table.find(text)) for text in tried)):
            assert item.verified is not None
            assert item.verified.passed
            assert item.verified.device == "sm87"
            assert item.verified.batches == [1, 3, 4]
            graph = {"fp16": "fp32"}.get(item.precision, item.precision)
            assert item.verified.reference.startswith(f"gated-{graph}-shared")
        else:
            assert item.verified is None
    for precision in PRECISIONS:
        verdicts = [item.verified for item in engines_of(found, "stages", precision)]
        assert all(verdict == verdicts[0] for verdict in verdicts)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        machine.session(found, "gated")
        machine.session(found, "stages", "int8")
    assert caplog.records == []


def test_engines_that_nobody_has_verified_are_warned_of_once(
    built: Bundle,
    machine: Machine,
    images: Arrays,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = CocoData(write_coco(tmp_path / "shapes", 2, 5, "val"))
    picture = data.folder / data.images[0]["file_name"]
    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        for layout in LAYOUTS:
            caplog.clear()
            session = machine.session(built, layout, preload=True)
            session.run(images[:1], "super")
            session.run(images[:1], "base")
            warnings = [record.getMessage() for record in caplog.records]
            assert len(warnings) == 1, warnings
            assert "never verified" in warnings[0]
            assert "--runtime tensorrt" in warnings[0]
            assert "\n" not in warnings[0]
            caplog.clear()
            predict(
                built, picture, layout=layout, runtime=machine.runtime, out=tmp_path / "drawn.png"
            )
            assert len(caplog.records) == 1
            caplog.clear()
            evaluate(
                built,
                data,
                [built.table.ladder[0]],
                layout=layout,
                runtime=machine.runtime,
                batch=2,
                record=False,
            )
            assert len(caplog.records) == 1
        caplog.clear()
        built.session(threads=1)
        assert caplog.records == []  # graphs need no such word


def test_predict_and_eval_give_what_the_graph_gives(
    built: Bundle, machine: Machine, tmp_path: Path
) -> None:
    """As a user calls them, without a word about batches."""
    data = CocoData(write_coco(tmp_path / "shapes", 11, 5, "val"))
    picture = data.folder / data.images[0]["file_name"]
    depths = [built.table.ladder[0], built.table.ladder[-1]]
    wanted = evaluate(built, data, depths, threads=1, record=False)
    drawn = predict(built, picture, out=tmp_path / "graph.png")
    for layout in LAYOUTS:
        runtime = machine.runtime
        found = evaluate(built, data, depths, layout=layout, runtime=runtime, record=False)
        for one, other in zip(found, wanted, strict=True):
            assert one.ap == pytest.approx(other.ap, abs=0.1)
        (seen,) = predict(
            built, picture, layout=layout, runtime=runtime, out=tmp_path / f"{layout}.png"
        )
        assert [item["class"] for item in seen.detections] == [
            item["class"] for item in drawn[0].detections
        ]


# --- faults -----------------------------------------------------------------------------------


def read_engine(path: Path) -> tuple[dict[str, Any], onnx.ModelProto]:
    head, graph = path.read_bytes()[len(MAGIC) :].split(b"\n", 1)
    return json.loads(head), onnx.load_from_string(graph)


def replace_engine(bundle: Bundle, artifact: Artifact, model: onnx.ModelProto) -> None:
    """Other bytes in place of an engine, of which the manifest knows: so it was built."""
    path = bundle.path / artifact.file
    head, _ = read_engine(path)
    del head["version"], head["batch"]
    assert artifact.engine is not None
    batch = artifact.engine.batch
    sizes = batch.smallest, batch.typical, batch.largest
    write_engine(path, model, artifact.engine.version, sizes, **head)
    update = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    _update(bundle.path, {artifact.name: update})


def _update(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    for item in content["artifacts"]:
        item.update(changes.get(item["name"], {}))
    (folder / MANIFEST).write_text(json.dumps(content))


def piece_named(bundle: Bundle, stage: str, variant: str, precision: str) -> Artifact:
    (found,) = (
        item
        for item in engines_of(bundle, "stages")
        if item.precision == precision
        and item.piece is not None
        and (item.piece.stage, item.piece.variant) == (stage, variant)
    )
    return found


def swap_pieces(folder: Path, stage: str, precision: str) -> None:
    """Each of the two pieces of a stage gets what the other computes, under its own names."""
    opened = open_bundle(folder)
    pair = [piece_named(opened, stage, variant, precision) for variant in ("full", "skipped")]
    models = [read_engine(folder / item.file)[1] for item in pair]
    for mine, other, model in zip(pair, reversed(pair), reversed(models), strict=True):
        assert mine.piece is not None
        assert other.piece is not None
        names = {flow: name for name, flow in mine.piece.writes.items()}
        for value in model.graph.output:
            new = names[other.piece.writes[value.name]]
            model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [f"as/{new}"]))
            value.name = f"as/{new}"
        _rename_outputs(model)
        replace_engine(open_bundle(folder), mine, model)


def _rename_outputs(model: onnx.ModelProto) -> None:
    """`as/name` becomes `name`, and what had that name before gets out of the way."""
    taken = {value.name.removeprefix("as/") for value in model.graph.output}
    for graph in graphs_of(model.graph):
        for node in graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name.startswith("as/"):
                        names[place] = name.removeprefix("as/")
                    elif name in taken:
                        names[place] = f"{name}/before"
        for item in [*graph.value_info, *graph.initializer]:
            if item.name in taken:
                item.name += "/before"
    for value in model.graph.output:
        value.name = value.name.removeprefix("as/")


def damage_weight(model: onnx.ModelProto) -> None:
    """The largest constant by a tenth too large."""
    tensors = [item for graph in graphs_of(model.graph) for item in graph.initializer]
    tensor = max(tensors, key=lambda item: int(np.prod(item.dims)))
    array = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((array * 1.1).astype(array.dtype), tensor.name))


def assert_refused(machine: Machine, folder: Path, layout: str, precision: str, data: Path) -> None:
    opened = open_bundle(folder)
    coco = CocoData(data)
    picture = coco.folder / coco.images[0]["file_name"]
    options: Any = {"layout": layout, "precision": precision, "runtime": machine.runtime}
    machine.trt.executed.clear()
    for call in (
        lambda: machine.session(opened, layout, precision),
        lambda: predict(opened, picture, out=folder / "drawn.png", **options),
        lambda: evaluate(opened, coco, [opened.table.ladder[0]], batch=1, **options),
    ):
        with pytest.raises(BundleError, match="failed its verification") as error:
            call()
        assert "build it again" in one_line(error)
    assert machine.trt.executed == []
    assert not (folder / "drawn.png").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bench_says_how_engines_were_run(
    copied: Path, machine: Machine, layout: str, tmp_path: Path
) -> None:
    """Copies are timed, graphs of CUDA are labelled, and memory is that of the device."""
    options = Options(duration=0, count=10, warmup=0)
    asked = Request(copied, runtimes=(machine.runtime,), layout=layout, pictures=2, options=options)
    ((_, result),) = bench_all(asked, tmp_path / "r.json")
    ladder = open_bundle(copied).table.ladder
    assert [row.depth for row in result.depths] == [str(depth) for depth in ladder]
    assert (result.subject.device, result.subject.layout) == ("cuda", layout)
    # A gated engine waits for the host to read a condition: nothing of it can be recorded.
    assert result.subject.cuda_graph == (layout != "gated")
    assert result.settings.transfers is True
    assert result.boundaries["copies to the device"] == "timed"
    assert result.boundaries["copies to the host"] == "timed"
    assert result.memory.device["engines"] > 0
    assert result.devices[0].kind == "nvidia"
    # There is no driver here, so nothing tells of throttling.
    assert result.verdict.word in ("unknown", "unstable")
    with pytest.raises(UsageError, match="always timed"):
        bench_all(replace(asked, transfers=False), tmp_path / "r.json")


def test_bench_keeps_to_the_batches_and_verdicts_of_engines(
    small: Path, machine: Machine, tmp_path: Path
) -> None:
    machine.build(small, ["gated"], batch=BatchProfile(smallest=1, typical=1, largest=2))
    options = Options(duration=0, count=10, warmup=0)
    asked = Request(small, depth="base", runtimes=(machine.runtime,), batches=(2,), options=options)
    ((_, result),) = bench_all(asked, tmp_path / "r.json")
    assert result.subject.verified is None
    with pytest.raises(UsageError, match=r"a batch of 3: the engines of .* take 1 to 2"):
        bench_all(replace(asked, batches=(3,)), tmp_path / "other.json")
    (engine,) = engines_of(open_bundle(small))
    facts = {"when": "now", "reference": "x", "device": "sm87", "depths": 1, "batches": [1]}
    good = Verification.model_validate({**facts, "passed": True})
    open_bundle(small).mark({(engine.name, engine.sha256): good})
    ((_, result),) = bench_all(asked, tmp_path / "r.json")
    assert result.subject.verified == "now"
    open_bundle(small).mark(
        {(engine.name, engine.sha256): good.model_copy(update={"passed": False})}
    )
    with pytest.raises(BundleError, match="failed its verification"):
        bench_all(asked, tmp_path / "r.json")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stage", [0, 1])
def test_swapped_pieces_are_found_and_refused(
    built: Bundle, family: str, tmp_path: Path, machine: Machine, precision: str, stage: int
) -> None:
    name = {"anydepth-detr": ("layer2", "encoder"), "anydepth-yolo": ("layer8", "layer20")}
    folder = subset(built, tmp_path / "bundle", lambda item: item.precision in ("fp32", precision))
    swap_pieces(folder, name[family][stage], precision)
    report = check(machine, open_bundle(folder), "super", layout="stages", precision=precision)
    assert not report.passed
    assert {row.artifact.split("-")[0] for row in report.rows if not row.passed} == {"stages"}
    found = open_bundle(folder)
    pieces = [item for item in engines_of(found, "stages") if item.precision == precision]
    assert all(item.verified is not None and not item.verified.passed for item in pieces)
    assert_refused(
        machine, folder, "stages", precision, write_coco(tmp_path / "shapes", 1, 5, "val")
    )
    machine.session(found, "gated", precision)
    machine.session(found, None, precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_weight_is_found_and_refused(
    copied: Path, tmp_path: Path, machine: Machine, layout: str
) -> None:
    opened = open_bundle(copied)
    chosen = [item for item in engines_of(opened, layout) if item.depth in (None, _top(opened))]
    victim = max(chosen, key=lambda item: item.bytes)
    _, model = read_engine(copied / victim.file)
    damage_weight(model)
    replace_engine(opened, victim, model)
    tried = ("super", "base") if layout == "set" else ("super",)
    report = check(machine, open_bundle(copied), *tried)
    assert not report.passed
    failed = {row.artifact for row in report.rows if not row.passed}
    for item in engines_of(open_bundle(copied)):
        bad = item.name == victim.name or (layout == "stages" and item.layout == "stages")
        if item.verified is not None:
            assert item.verified.passed != bad, item.name
        assert item.verified is not None or item.depth is not None
    assert len(failed) == 1
    assert_refused(machine, copied, layout, "fp32", write_coco(tmp_path / "shapes", 1, 5, "val"))


def _top(bundle: Bundle) -> str:
    return str(bundle.table.ladder[-1])


def test_an_engine_built_again_has_to_be_verified_again(small: Path, machine: Machine) -> None:
    machine.build(small, ["gated"])
    machine.edit = lambda name, model: damage_weight(model)
    assert check(machine, open_bundle(small), "base").passed
    machine.build(small, ["gated"], workspace=1 << 20)
    (engine,) = engines_of(open_bundle(small))
    assert engine.verified is None
    assert not check(machine, open_bundle(small), "base").passed
    with pytest.raises(BundleError, match="failed its verification"):
        machine.session(small, "gated")
    machine.edit = lambda name, model: None
    machine.build(small, ["gated"], workspace=1 << 21)
    machine.session(small, "gated")
    assert check(machine, open_bundle(small), "base").passed


def test_a_verdict_on_other_bytes_counts_for_nothing(small: Path, machine: Machine) -> None:
    """An engine that is built anew while the old one is being verified keeps no verdict of it."""
    machine.build(small, ["gated"])
    opened = open_bundle(small)
    machine.salt = "other bytes"
    machine.build(small, ["gated"], workspace=1 << 20)
    old, (new,) = opened.manifest.artifacts[-1], engines_of(open_bundle(small))
    assert old.sha256 != new.sha256
    verdict = {"when": "now", "passed": True, "reference": "x", "device": "sm87"}
    opened.mark(
        {
            (old.name, old.sha256): Verification.model_validate(
                verdict | {"depths": 1, "batches": [1]}
            )
        }
    )
    (engine,) = engines_of(open_bundle(small))
    assert engine.verified is None


# --- building again ---------------------------------------------------------------------------


def files(folder: Path) -> dict[str, int]:
    return {item.name: item.stat().st_mtime_ns for item in folder.iterdir() if item.is_file()}


def assert_whole(folder: Path) -> Bundle:
    """The manifest is valid, and the folder holds what it names, no more."""
    opened = open_bundle(folder)
    for item in opened.manifest.artifacts:
        opened.file(item)
    named = {item.file for item in opened.manifest.artifacts}
    if opened.manifest.golden is not None:
        named.add(opened.manifest.golden.file)
    assert {item.name for item in folder.iterdir()} == {*named, MANIFEST}
    return opened


def test_building_again_builds_only_what_is_missing(
    detr: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    folder = subset(detr, tmp_path / "bundle", gated_only("fp32"))
    first: BuildReport = machine.build(folder)
    assert set(first.built) == set(machine.built)
    assert first.present == []
    assert first.refused == {}
    assert len(first.built) == len(set(first.built)) == len(engines_of(assert_whole(folder)))
    before = files(folder)

    again = machine.build(folder)
    assert (again.built, machine.built) == ([], {})
    assert again.present == first.built
    assert {name: when for name, when in files(folder).items() if name != MANIFEST} == {
        name: when for name, when in before.items() if name != MANIFEST
    }

    victim = engines_of(open_bundle(folder), "stages")[3]
    (folder / victim.file).unlink()
    assert machine.build(folder).built == [victim.name]

    damaged = engines_of(open_bundle(folder), "set")[1]
    path = folder / damaged.file
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert machine.build(folder).built == [damaged.name]

    profile = BatchProfile(smallest=1, typical=2, largest=3)
    assert machine.build(folder, ["gated"], batch=profile).built == [
        name for name in first.built if name.startswith("gated")
    ]
    assert machine.build(folder, ["gated"], batch=profile).built == []
    assert machine.build(folder, ["gated"]).built != []

    newer = Machine(monkeypatch, "10.4.0")
    third = newer.build(folder)
    assert third.built == first.built
    assert len(engines_of(assert_whole(folder))) == len(first.built)
    assert {item.engine.version for item in engines_of(open_bundle(folder)) if item.engine} == {
        "10.4.0"
    }


def replace_source(folder: Path, name: str) -> None:
    """Another graph under the name of one: exported again, with other weights."""
    opened = open_bundle(folder)
    (artifact,) = (item for item in opened.artifacts() if item.name == name)
    path = folder / artifact.file
    model = onnx.load(str(path))
    damage_weight(model)
    onnx.save(model, str(path))
    _update(folder, {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}})


def test_an_engine_of_a_graph_that_was_replaced_is_stale(
    detr: Bundle, tmp_path: Path, machine: Machine
) -> None:
    folder = subset(detr, tmp_path / "bundle", gated_only("fp32", "fp16"))
    first = machine.build(folder, ["gated", "stages"])
    replace_source(folder, "gated-fp32-shared")
    opened = open_bundle(folder)
    engine = next(item for item in engines_of(opened, "gated") if item.precision == "fp32")
    stale = choose_reference(opened, engine)
    assert stale.name == "gated-fp32-shared"  # the only one to compare with, and it differs
    assert not check(machine, opened, "base", layout="gated", precision="fp32").passed
    again = machine.build(folder, ["gated", "stages"])
    assert set(again.built) == {name for name in first.built if "fp32" in name}
    assert set(again.present) == {name for name in first.built if "fp16" in name}
    assert_whole(folder)
    assert check(machine, open_bundle(folder), "base", precision="fp32").passed


class BrokenError(Exception):
    pass


@pytest.mark.parametrize(
    ("cause", "count"), [(BuildError("no kernel"), 0), (KeyboardInterrupt(), 1), (BrokenError(), 7)]
)
def test_an_interrupted_build_goes_on_where_it_stopped(
    small: Path, inputs: Arrays, machine: Machine, cause: BaseException, count: int
) -> None:
    def stop(name: str) -> None:
        if len(machine.built) == count:
            raise cause

    machine.before = stop
    with pytest.raises(type(cause)):
        machine.build(small)
    done = list(machine.built)
    assert [item.name for item in engines_of(assert_whole(small))] == done
    assert len(done) == count
    machine.before = lambda name: None
    report = machine.build(small)
    assert report.present == done
    assert not set(report.built) & set(done)
    assert_whole(small)
    for layout in LAYOUTS:
        machine.session(small, layout).run(inputs[:1])


def test_rebuilding_that_is_interrupted_leaves_a_whole_bundle(
    small: Path, inputs: Arrays, machine: Machine
) -> None:
    """Half of the pieces are new then, and half are old: together they are one chain still."""
    first = machine.build(small, ["stages"])

    def stop(name: str) -> None:
        if len(machine.built) == 4:
            raise BuildError("no memory")

    machine.before, machine.salt = stop, "anew"
    with pytest.raises(BuildError, match="no memory"):
        machine.build(small, ["stages"], workspace=1 << 20)
    opened = open_bundle(small)
    assert {item.name for item in engines_of(opened)} == set(first.built)
    for item in engines_of(opened):
        opened.file(item)
    machine.session(small, "stages").run(inputs[:1])
    machine.before = lambda name: None
    machine.build(small, ["stages"], workspace=1 << 20)
    machine.session(small, "stages").run(inputs[:1])


def test_an_error_of_the_builder_names_the_engine(small: Path, machine: Machine) -> None:
    original = machine._compile

    def fail(graph: Path, engine: Path, settings: BuildSettings) -> Built:
        original(graph, engine, settings)
        raise BuildError(f"{graph}: TensorRT gave up")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "compile_engine", fail)
        with pytest.raises(BuildError) as error:
            machine.build(small, ["gated"])
    assert one_line(error) == "gated-fp32-shared-trt-sm87: TensorRT gave up"
    assert engines_of(assert_whole(small)) == []


@pytest.mark.parametrize("asked", [None, ["fp32", "fp16"]])
def test_a_precision_that_cannot_be_delivered(
    detr: Bundle, tmp_path: Path, machine: Machine, asked: list[str] | None
) -> None:
    folder = subset(detr, tmp_path / "bundle", gated_only("fp32", "fp16"))

    refusals: list[str] = []

    def refuse(name: str) -> None:
        if "-fp16-" in name:
            refusals.append(name)
            raise PrecisionError("FP16 cannot be delivered here")

    machine.before = refuse
    if asked is not None:
        with pytest.raises(PrecisionError, match="FP16 cannot be delivered here"):
            machine.build(folder, ["gated", "stages"], precision=asked)
        # What was asked for and could be had is there.
        assert {item.precision for item in engines_of(assert_whole(folder))} == {"fp32"}
        return
    report = machine.build(folder, ["gated", "stages"])
    assert report.refused == {"fp16": "FP16 cannot be delivered here"}
    assert len(refusals) == 1, "one refusal tells enough: each trial takes minutes"
    assert report.built
    assert all("-fp32-" in name for name in report.built)
    assert {item.name for item in engines_of(assert_whole(folder))} == set(report.built)
    again = machine.build(folder, ["gated", "stages"])
    assert (again.built, again.present) == ([], report.built)
    assert set(again.refused) == {"fp16"}


def test_all_precisions_refused_is_an_error(small: Path, machine: Machine) -> None:
    def refuse(name: str) -> None:
        raise PrecisionError("FP32 cannot be delivered here")

    machine.before = refuse
    with pytest.raises(PrecisionError) as error:
        machine.build(small)
    assert one_line(error) == "FP32 cannot be delivered here"
    assert engines_of(assert_whole(small)) == []


def test_notes_of_the_builder_name_their_engines(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, notes=["3 layers do not show what they compute in"])
    report = machine.build(small, ["gated", "set"], depth="base,super")
    assert report.notes == {"3 layers do not show what they compute in": report.built}


def test_two_builders_of_one_bundle(small: Path, inputs: Arrays, machine: Machine) -> None:
    """The second is refused while the first builds; readers are served."""
    seen: list[str] = []

    def meanwhile(name: str) -> None:
        machine.before = lambda name: None
        with pytest.raises(BundleError) as error:
            build_bundle(small, runtime="tensorrt", layouts=["stages"])
        seen.append(one_line(error))
        open_bundle(small).session(threads=1).run(inputs[:1])

    machine.before = meanwhile
    machine.build(small, ["gated"])
    assert len(seen) == 1
    assert f"is writing {small}" in seen[0]
    assert [item.layout for item in engines_of(assert_whole(small))] == ["gated"]


def test_exporting_again_keeps_the_engines(
    copied: Path, family: str, images: Arrays, machine: Machine
) -> None:
    check(machine, open_bundle(copied), "base", layout="gated")
    before = engines_of(open_bundle(copied))
    assert any(item.verified for item in before)
    export_bundle(CHECKPOINTS[family], copied, layouts=["gated", "stages"], weights=["folded"])
    opened = assert_whole(copied)
    assert engines_of(opened) == before
    assert opened.artifacts("stages", format="onnx")
    machine.session(opened, "stages").run(images[:1])
    opened.session(artifact="stages", threads=1).run(images[:1])


# --- OpenVINO ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pieces_on_openvino(
    lowered: tuple[Bundle, Path], family: str, images: Arrays, tmp_path: Path, precision: str
) -> None:
    """At every rung, in batches of 1 and 3, against ONNX Runtime on the same pieces."""
    staged = export_bundle(
        CHECKPOINTS[family],
        tmp_path / "bundle",
        layouts=["stages"],
        precision=[precision],
        ranges=lowered[1] if precision == "int8" else None,
    )
    options: Any = {"artifact": "stages", "precision": precision, "threads": 1}
    if (
        precision == "int8"
        and refuses_int8(  # pieces are opened when they are first run
            lambda: staged.session("openvino", **options).run(images[:1], "base")
        )
    ):
        return
    ours = staged.session("openvino", **options)
    theirs = staged.session("onnxruntime", **options)
    for batch in (1, 3, 1):
        for depth in staged.table.ladder:
            what = f"{precision} at {depth}, {batch} images"
            found, raw = ours.run_both(images[:batch], depth)
            wanted, wanted_raw = theirs.run_both(images[:batch], depth)
            assert_near(raw, wanted_raw, precision, what)
            if precision == "fp32":
                assert_same_detections(found, wanted, what)

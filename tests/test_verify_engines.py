"""Engines against their graphs: sound ones pass at every depth, and each kind of fault is found.

No GPU is needed: the engines here are ONNX graphs behind a runtime of the tests' own, which may
damage a graph when it opens it, or its answers on their way.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from test_trained import lowered_bundle

from anydepth_deploy import runtimes
from anydepth_deploy.bundle import MANIFEST, Bundle, open_bundle
from anydepth_deploy.errors import BundleError, ImageError, InputError
from anydepth_deploy.manifest import Artifact, BatchProfile, EngineSpec
from anydepth_deploy.reference import choose_reference
from anydepth_deploy.runtimes import EngineOptions
from anydepth_deploy.runtimes.onnxruntime import OnnxRuntimeEngine
from anydepth_deploy.samples import verification_batches
from anydepth_deploy.verify_engines import EngineReport, batch_sizes, verify_engines

RUNTIME = "tensorrt-rtx"
PRECISIONS = ("fp32", "fp16", "int8")
FAMILIES = ("anydepth-detr", "anydepth-yolo")
SOURCES = {
    "fp32": "gated-fp32-shared",
    "fp16": "gated-fp16-shared",
    "int8": "gated-int8-shared-tensorrt",
}

Arrays = dict[str, NDArray[Any]]
Edit = Callable[[onnx.ModelProto], None]
Change = Callable[[Arrays, int, Arrays], None]
"""Changes the outputs in place, given the row of the depth and the inputs."""


@dataclass
class Fake:
    """How engines misbehave: by a change of their graphs, of their answers or of their inputs."""

    edit: Edit | None = None
    change: Change | None = None
    feed: Callable[[Arrays], None] | None = None
    capability: str = "sm89"


class Engine:
    """A graph that acts as an engine, computed a little differently from the reference."""

    def __init__(self, path: Path, options: EngineOptions, fake: Fake, folder: Path) -> None:
        assert options.artifact is not None
        self.fake = fake
        precision = options.artifact.precision
        self.nudge = precision == "fp32"  # inputs off by one bit, so that all is rounded otherwise
        if fake.edit is not None:
            model = onnx.load(str(path))
            fake.edit(model)
            path = folder / "damaged.onnx"
            onnx.save(model, str(path))
        # The reference of FP16 is FP32; that of INT8 rounds to FP16, this one does not.
        rounded = dataclasses.replace(options, raw=True, threads=1, rounded=precision == "fp16")
        self.engine = OnnxRuntimeEngine(path, rounded)
        self.inputs: Sequence[str] = self.engine.inputs
        self.outputs: Sequence[str] = self.engine.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        given = dict(feeds)
        if self.fake.feed is not None:
            self.fake.feed(given)
        if self.nudge:
            given["images"] = np.nextafter(given["images"], np.float32(0.5))
        found = {name: array.copy() for name, array in self.engine.run(given, outputs).items()}
        if self.fake.change is not None:
            self.fake.change(found, int(given.get("depth", np.array(-1))), given)
        return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    """A runtime for engines, sound unless told otherwise."""
    behaviour = Fake()
    module = types.ModuleType("engines_of_the_tests")
    module.open_engine = lambda path, options: Engine(path, options, behaviour, tmp_path)  # type: ignore[attr-defined]
    module.device_capability = lambda: behaviour.capability  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(runtimes.RUNTIMES, RUNTIME, module.__name__)
    return behaviour


def engine_of(graph: Artifact, profile: tuple[int, int, int] = (1, 1, 3)) -> Artifact:
    smallest, typical, largest = profile
    spec = EngineSpec(
        source=graph.name,
        source_sha256=graph.sha256,
        version="1.7.1",
        capabilities=["sm89"],
        batch=BatchProfile(smallest=smallest, typical=typical, largest=largest),
        opset=18,
    )
    name = f"{graph.name}-rtx"
    return graph.model_copy(update={"name": name, "format": RUNTIME, "engine": spec})


def with_artifacts(bundle: Bundle, artifacts: Sequence[Artifact], folder: Path) -> Bundle:
    """The bundle with these artifacts only, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    for item in [*artifacts, *bundle.artifacts("gated", "fp32")]:
        if not (folder / item.file).exists():
            shutil.copy(bundle.path / item.file, folder / item.file)
    manifest = bundle.manifest.model_copy(update={"artifacts": list(artifacts), "results": {}})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return open_bundle(folder)


def named(bundle: Bundle, name: str) -> Artifact:
    (found,) = (item for item in bundle.artifacts() if item.name == name)
    return found


@pytest.fixture(params=FAMILIES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lowered_bundle(request.param, tmp_path_factory)[0]


@pytest.fixture
def engines(trained: Bundle, tmp_path: Path) -> Bundle:
    """A gated engine of each precision, and the graphs that they were made from."""
    graphs = [named(trained, name) for name in SOURCES.values()]
    return with_artifacts(trained, [*graphs, *map(engine_of, graphs)], tmp_path / "engines")


def check(bundle: Bundle, *depths: str, **options: Any) -> EngineReport:
    return verify_engines(
        bundle,
        options.pop("batches", None) or verification_batches(bundle.manifest.preprocess),
        runtime=RUNTIME,
        depths=[bundle.table.find(depth) for depth in depths] or None,
        threads=1,
        **options,
    )


def is_detr(bundle: Bundle) -> bool:
    return bundle.manifest.family == "anydepth-detr"


# --- sound engines ---------------------------------------------------------------------------


def test_sound_engines_pass_and_are_marked(engines: Bundle, fake: Fake) -> None:
    depths = [str(depth) for depth in engines.table.rows[:: len(engines.table.rows) // 2]]
    steps: list[tuple[str, int, int]] = []
    report = check(engines, *depths, progress=lambda *step: steps.append(step))
    failed = [row for row in report.rows if not row.passed] + [
        gate for gate in report.gates if not gate.passed
    ]
    assert failed == []
    assert report.passed
    assert [(done, total) for _, done, total in steps] == [
        (index, 3 * len(depths)) for index in range(3 * len(depths))
    ]
    assert report.batches == [[1, 3, 160, 160], [3, 3, 160, 160]]
    for row in report.rows:
        assert all(value > 0 for value in row.differences.values())  # 0: nothing was compared
        assert row.detections > 0
    stored = open_bundle(engines.path)
    for precision, source in SOURCES.items():
        verified = named(stored, f"{source}-rtx").verified
        assert verified is not None
        assert (verified.passed, verified.depths) == (True, len(depths))
        assert (verified.batches, verified.device) == ([1, 3], "sm89")
        assert verified.reference == (SOURCES["fp32"] if precision == "fp16" else source)
    (record,) = stored.manifest.results["verify"]
    assert record["passed"] is True
    assert {item["name"]: item["sha256"] for item in record["artifacts"]} == {
        f"{source}-rtx": named(stored, source).sha256 for source in SOURCES.values()
    }
    assert str(engines.path) not in str(record)


def test_every_depth_is_the_default(trained: Bundle, tmp_path: Path, fake: Fake) -> None:
    if not is_detr(trained):
        pytest.skip("256 depths take too long here")
    graph = named(trained, SOURCES["fp32"])
    bundle = with_artifacts(trained, [graph, engine_of(graph)], tmp_path / "b")
    report = check(bundle, batches=[verification_batches(bundle.manifest.preprocess)[0]])
    assert report.passed
    assert [row.depth for row in report.rows] == [str(depth) for depth in bundle.table.rows]
    assert all(gate.pairs >= len(bundle.table.rows) for gate in report.gates)


def test_static_engines_are_tried_at_their_own_depth(
    trained: Bundle, tmp_path: Path, fake: Fake
) -> None:
    statics = [
        item
        for item in trained.artifacts("set", "int8", depth=trained.table.space.super)
        if item.quantisation and item.quantisation.target == "tensorrt"
    ]
    graphs = [*statics, named(trained, SOURCES["int8"])]
    bundle = with_artifacts(trained, [*graphs, *map(engine_of, statics)], tmp_path / "b")
    report = check(bundle)
    assert report.passed
    assert [(row.depth, row.reference) for row in report.rows] == [
        (str(trained.table.space.super), statics[0].name)
    ]
    with pytest.raises(BundleError, match="no engine for the depths asked for"):
        check(bundle, "base")


# --- faults ----------------------------------------------------------------------------------


def tensors_of(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Initialisers, branches included."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += tensors_of(attribute.g)
    return found


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += nodes_of(attribute.g)
    return found


def swap_branches(stage: str) -> Edit:
    """The two branches of a gate change places."""

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (
            node
            for node in nodes_of(model.graph)
            if node.op_type == "If" and node.name == f"{stage}/If"
        )
        for attribute in node.attribute:
            attribute.name = {"then_branch": "else_branch", "else_branch": "then_branch"}[
                attribute.name
            ]

    return edit


def scale_weights(factor: float) -> Edit:
    """All weights of the first convolution that every depth runs, or in 8 bits their scales."""

    def edit(model: onnx.ModelProto) -> None:
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        makers = {name: node for node in nodes_of(model.graph) for name in node.output}
        name = conv.input[1]
        tensors = {tensor.name: tensor for tensor in tensors_of(model.graph)}
        while name not in tensors:
            maker = makers[name]
            name = maker.input[1 if maker.op_type == "DequantizeLinear" else 0]
        before = numpy_helper.to_array(tensors[name])
        after = (before * factor).astype(before.dtype)
        assert not np.array_equal(before, after)
        tensors[name].CopyFrom(numpy_helper.from_array(after, name))

    return edit


def one_weight(model: onnx.ModelProto) -> None:
    """One number of the first convolution, by 10 %."""
    conv = next(node for node in nodes_of(model.graph) if node.op_type == "Conv")
    (tensor,) = (item for item in tensors_of(model.graph) if item.name == conv.input[1])
    array = numpy_helper.to_array(tensor).copy()
    place = np.unravel_index(np.abs(array).argmax(), array.shape)
    array[place] *= array.dtype.type(1.1)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def scale_scores(found: Arrays, row: int, feeds: Arrays) -> None:
    if "scores" in found:
        found["scores"] *= np.float32(1.02)


def scale_raw_scores(found: Arrays, row: int, feeds: Arrays) -> None:
    if "raw_predictions" in found:
        found["raw_predictions"][:, 4:] *= np.float32(1.02)
    if "raw_logits" in found:
        found["raw_logits"] *= np.float32(1.02)


def shift_boxes(found: Arrays, row: int, feeds: Arrays) -> None:
    if "boxes" in found:
        found["boxes"] += np.float32(3)
    if "raw_predictions" in found:
        found["raw_predictions"][:, :2] += np.float32(3)
    if "raw_boxes" in found:
        found["raw_boxes"][..., :2] += np.float32(3 / 160)


def shift_detections(found: Arrays, row: int, feeds: Arrays) -> None:
    if "boxes" in found:
        found["boxes"] += np.float32(3)


def wrong_at_three(found: Arrays, row: int, feeds: Arrays) -> None:
    if len(feeds["images"]) == 3:
        for name, array in found.items():
            if name.startswith("raw_"):
                array[2] = array[1]


def nothing_at_one_depth(found: Arrays, row: int, feeds: Arrays) -> None:
    if row == 1:
        name = "raw_predictions" if "raw_predictions" in found else "raw_logits"
        found[name][0, 0, 0] = np.nan


def replace_a_query(found: Arrays, row: int, feeds: Arrays) -> None:
    if "raw_queries" in found:
        tokens = found["raw_queries"][0]
        tokens[5] = max(set(range(400)) - set(tokens.tolist()))


def wrong_row(feeds: Arrays) -> None:
    if int(feeds["depth"]) == 1:
        feeds["depth"] = np.asarray(0, np.int64)


SOUND_GATE = {"anydepth-detr": "layer3", "anydepth-yolo": "layer14"}

FAULTS: dict[str, tuple[Fake, tuple[str, ...]]] = {
    "one weight": (Fake(edit=one_weight), ("fp32",)),
    "a convolution": (Fake(edit=scale_weights(1.1)), ("fp32", "fp16")),
    "a convolution, coarsely": (Fake(edit=scale_weights(1.5)), ("int8",)),
    "scores": (Fake(change=scale_scores), PRECISIONS),
    "raw scores": (Fake(change=scale_raw_scores), ("fp32", "fp16")),
    "boxes": (Fake(change=shift_boxes), PRECISIONS),
    "detections": (Fake(change=shift_detections), PRECISIONS),
    "batches of 3": (Fake(change=wrong_at_three), PRECISIONS),
    "not a number": (Fake(change=nothing_at_one_depth), PRECISIONS),
    "a wrong row": (Fake(feed=wrong_row), PRECISIONS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(engines: Bundle, fake: Fake, fault: str) -> None:
    behaviour, precisions = FAULTS[fault]
    for item in dataclasses.fields(Fake):
        setattr(fake, item.name, getattr(behaviour, item.name))
    for precision in precisions:
        report = check(engines, "level:1", precision=precision)
        assert not report.passed, precision
        verified = named(open_bundle(engines.path), f"{SOURCES[precision]}-rtx").verified
        assert verified is not None
        assert not verified.passed


@pytest.mark.parametrize("precision", PRECISIONS)
def test_swapped_branches_are_found(engines: Bundle, fake: Fake, precision: str) -> None:
    """At the level of one gate, also where 8 bits hardly resolve what it does."""
    fake.edit = swap_branches(SOUND_GATE[engines.manifest.family])
    report = check(engines, "super", "base", precision=precision)
    assert not report.passed


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_wrong_choice_of_queries(engines: Bundle, fake: Fake, precision: str) -> None:
    if not is_detr(engines):
        pytest.skip("has no queries")
    fake.change = replace_a_query
    report = check(engines, "super", precision=precision)
    (row,) = report.rows
    assert not report.passed
    assert row.selection > 2.0
    assert row.problem is None


def test_an_engine_that_does_not_run(engines: Bundle, fake: Fake) -> None:
    def refuse(feeds: Arrays) -> None:
        if len(feeds["images"]) == 3:
            raise InputError("out of memory")

    fake.feed = refuse
    report = check(engines, "base", precision="fp32")
    (row,) = report.rows
    assert not report.passed
    assert row.problem == "batches of 3: out of memory"


# --- references, batch sizes and what cannot be tried ----------------------------------------


def test_the_reference_of_each_precision(engines: Bundle) -> None:
    def chosen(bundle: Bundle, precision: str) -> str:
        return choose_reference(bundle, named(engines, f"{SOURCES[precision]}-rtx")).name

    def without(*names: str) -> Bundle:
        kept = [item for item in engines.artifacts() if item.name not in names]
        return Bundle(engines.path, engines.manifest.model_copy(update={"artifacts": kept}))

    assert chosen(engines, "fp32") == SOURCES["fp32"]
    assert chosen(engines, "fp16") == SOURCES["fp32"]
    assert chosen(engines, "int8") == SOURCES["int8"]
    assert chosen(without(SOURCES["fp32"]), "fp16") == SOURCES["fp16"]
    for precision in ("fp32", "int8"):
        with pytest.raises(BundleError, match=r"no graph to compare .* with: gated-.* build the"):
            chosen(without(SOURCES[precision]), precision)


@pytest.mark.parametrize(
    ("profile", "given", "expected"),
    [
        ((1, 1, 3), [1, 3], [1, 3]),
        ((1, 4, 8), [1, 3], [1, 3, 4, 8]),
        ((2, 2, 4), [1, 3], [2, 3, 4]),
        ((1, 1, 2), [1], [1, 2]),
        ((4, 4, 4), [1, 3], [4]),
    ],
)
def test_batches_fit_the_profile(
    profile: tuple[int, int, int], given: list[int], expected: list[int]
) -> None:
    smallest, typical, largest = profile
    found = BatchProfile(smallest=smallest, typical=typical, largest=largest)
    assert batch_sizes(found, given) == expected


def test_one_batch_size_is_noted(trained: Bundle, tmp_path: Path, fake: Fake) -> None:
    seen: list[int] = []
    fake.feed = lambda feeds: seen.append(len(feeds["images"]))
    graph = named(trained, SOURCES["fp32"])
    engine = engine_of(graph, (4, 4, 4))
    bundle = with_artifacts(trained, [graph, engine], tmp_path / "b")
    report = check(bundle, "base")
    assert report.passed
    assert set(seen) == {4}
    (record,) = open_bundle(bundle.path).manifest.results["verify"]
    assert record["notes"] == [f"{engine.name}: its profile allows batches of 4 only"]


def test_what_cannot_be_tried(engines: Bundle, fake: Fake) -> None:
    with pytest.raises(ImageError, match="at least one batch"):
        verify_engines(engines, [], runtime=RUNTIME)
    fake.capability = "sm75"
    with pytest.raises(BundleError, match=r"engines for sm89, this device is sm75: 'build"):
        check(engines, "base")
    with pytest.raises(BundleError, match=r"no engine of that kind .* 'build .* adds engines"):
        check(engines, "base", layout="set")

"""Engines against their graphs: sound ones pass at every depth, and each kind of fault is found.

No GPU is needed: the engines here are ONNX graphs behind a runtime of the tests' own, which may
damage a graph when it opens it, or its answers on their way.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from trained_networks import FAMILIES, lowered_bundle, one_depth_bundle

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.choose import chains
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import BundleError, ImageError, InputError
from anydepth_deploy.graph.passes.contents import contents
from anydepth_deploy.graph.passes.cut import cut
from anydepth_deploy.manifest import Artifact, BatchProfile, EngineSpec
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.onnxruntime.engine import OnnxRuntimeEngine
from anydepth_deploy.runtimes.registry import RUNTIMES
from anydepth_deploy.verifying.engines import EngineReport, verify_engines
from anydepth_deploy.verifying.plan import batch_sizes
from anydepth_deploy.verifying.reference import Reference, choose_reference

RUNTIME = "tensorrt-rtx"
PRECISIONS = ("fp32", "fp16", "int8")
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


_OPENED: dict[tuple[str, bool], OnnxRuntimeEngine] = {}
"""Undamaged graphs by hash and rounding: opening one takes longer than all of a test's runs."""


class Engine:
    """A graph that acts as an engine, computed a little differently from the reference."""

    def __init__(self, path: Path, options: EngineOptions, fake: Fake, folder: Path) -> None:
        assert options.artifact is not None
        self.fake = fake
        precision = options.artifact.precision
        self.nudge = precision == "fp32"  # inputs off by one bit, so that all is rounded otherwise
        # The reference of FP16 is FP32; that of INT8 rounds to FP16, this one does not.
        how = dataclasses.replace(options, threads=1, rounded=precision == "fp16")
        if fake.edit is not None:
            model = onnx.load(str(path))
            fake.edit(model)
            damaged = folder / "damaged.onnx"
            onnx.save(model, str(damaged))
            self.engine = OnnxRuntimeEngine(damaged, how)
        else:
            key = options.artifact.sha256, how.rounded
            if key not in _OPENED:
                _OPENED[key] = OnnxRuntimeEngine(path, how)
            self.engine = _OPENED[key]
        self.inputs: Sequence[str] = self.engine.inputs
        self.outputs: Sequence[str] = self.engine.outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        given = dict(feeds)
        if self.fake.feed is not None:
            self.fake.feed(given)
        if self.nudge and "images" in given:
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
    row = dataclasses.replace(RUNTIMES[RUNTIME], opener=module.__name__, chains=False)
    monkeypatch.setitem(RUNTIMES, RUNTIME, row)
    monkeypatch.setattr("anydepth_deploy.verifying.engines.Reference", find_reference)
    return behaviour


class KnownReference(Reference):
    """A reference that is asked the same question once: it is sound, whatever the engine is."""

    def __init__(self, bundle: Bundle, artifact: Artifact) -> None:
        super().__init__(bundle, artifact, threads=1)
        self.answers: dict[tuple[bytes, Depth], dict[str, NDArray[np.generic]]] = {}

    def run(self, images: NDArray[np.float32], depth: Depth) -> dict[str, NDArray[np.generic]]:
        question = images.tobytes(), depth
        if question not in self.answers:
            self.answers[question] = super().run(images, depth)
            for array in self.answers[question].values():
                array.flags.writeable = False
        return dict(self.answers[question])


_KNOWN: dict[str, KnownReference] = {}


def find_reference(bundle: Bundle, artifact: Artifact, *, threads: int | None) -> KnownReference:
    assert threads == 1
    if artifact.sha256 not in _KNOWN:
        _KNOWN[artifact.sha256] = KnownReference(bundle, artifact)
    return _KNOWN[artifact.sha256]


def engine_of(
    graph: Artifact, profile: tuple[int, int, int] = (1, 1, 3), source: Artifact | None = None
) -> Artifact:
    """An engine whose file is `graph`, built from `source`, by default that."""
    smallest, typical, largest = profile
    source = source or graph
    spec = EngineSpec(
        source=source.name,
        source_sha256=source.sha256,
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
            os.link(bundle.path / item.file, folder / item.file)
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


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_an_engine_of_one_depth_looks_like_no_other(
    layout: str, fake: Fake, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No depth is one gate away, and no gate votes; a wrong answer shows all the same."""
    plain = one_depth_bundle(tmp_path_factory, (96, 160), precision=["fp32", "fp16"])
    (graph,) = plain.artifacts(layout, "fp32")
    gated = named(plain, SOURCES["fp32"])
    artifacts = [gated, engine_of(graph, source=gated)]
    bundle = with_artifacts(plain, artifacts, tmp_path / "engines")
    report = check(bundle)
    (row,) = report.rows
    assert (report.passed, report.gates, row.depth) == (True, [], "full")
    assert (row.resembles, row.resemblance) == (None, 0.0)
    assert all(value > 0 for value in row.differences.values())
    assert row.detections > 0

    def wrong(found: Arrays, depth: int, given: Arrays) -> None:
        found["raw_predictions"][:, :4] *= 1.01

    fake.change = wrong
    assert not check(bundle).passed


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


# --- pieces ----------------------------------------------------------------------------------


def write_pieces(bundle: Bundle, graph: Artifact, folder: Path) -> list[Artifact]:
    """The pieces of a gated graph, as an export describes them."""
    found = []
    for piece in cut(ir.load(bundle.file(graph)), bundle.table.space):
        name = f"stages-{graph.precision}-{piece.spec.stage}.{piece.spec.variant}"
        path = folder / f"{name}.onnx"
        ir.save(piece.model, path, format="protobuf")
        update = {
            "name": name,
            "file": path.name,
            "layout": "stages",
            "piece": piece.spec,
            "raw": True,
            "weights": "folded",
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            **contents(piece.model, graph),
        }
        found.append(graph.model_copy(update=update))
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def pieces(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, dict[str, list[Artifact]]]:
    """The pieces of each precision, in a folder with the graphs that they were cut from."""
    bundle = lowered_bundle(request.param, tmp_path_factory)[0]
    folder = tmp_path_factory.mktemp("pieces")
    graphs = [named(bundle, name) for name in SOURCES.values()]
    found: dict[str, list[Artifact]] = {
        item.precision: write_pieces(bundle, item, folder) for item in graphs
    }
    return with_artifacts(bundle, graphs, folder), found


def chained(pieces: tuple[Bundle, dict[str, list[Artifact]]], folder: Path, origin: str) -> Bundle:
    """A bundle with engines of all pieces, built from exported ones or from a gated graph."""
    bundle, found = pieces
    graphs = list(bundle.artifacts())
    items = []
    for graph in graphs:
        own = found[graph.precision]
        if origin == "pieces":
            items += [*own, *map(engine_of, own)]
        else:
            items += [engine_of(item, source=graph) for item in own]
    return with_artifacts(bundle, [*graphs, *items], folder)


@pytest.mark.parametrize("origin", ["gated", "pieces"])
def test_sound_chains_pass_as_a_whole(
    pieces: tuple[Bundle, dict[str, list[Artifact]]],
    tmp_path: Path,
    fake: Fake,
    origin: str,
) -> None:
    """Compared with the gated graph, whatever they were built from."""
    bundle = chained(pieces, tmp_path / "b", origin)
    links = [item for item in bundle.artifacts(format=RUNTIME) if item.piece is not None]
    assert [len(chain) for chain in chains(links)] == [len(own) for own in pieces[1].values()]
    report = check(bundle, "super", "base")
    assert report.passed, [row for row in report.rows if not row.passed]
    assert [row.depth for row in report.rows] == [
        str(bundle.table.space.super),
        str(bundle.table.space.base),
    ] * 3
    assert all(value > 0 for row in report.rows for value in row.differences.values())
    stored = open_bundle(bundle.path)
    for precision, own in pieces[1].items():
        verdicts = [named(stored, f"{item.name}-rtx").verified for item in own]
        assert verdicts[0] is not None
        assert verdicts == verdicts[:1] * len(own)
        assert (verdicts[0].passed, verdicts[0].depths) == (True, 2)
        assert verdicts[0].reference == SOURCES["fp32" if precision == "fp16" else precision]
    (record,) = stored.manifest.results["verify"]
    assert len(record["artifacts"]) == len(links)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_swapped_pieces_are_found(
    pieces: tuple[Bundle, dict[str, list[Artifact]]],
    tmp_path: Path,
    fake: Fake,
    precision: str,
) -> None:
    """One stage runs in full where it should be skipped: the whole chain is wrong, no other."""
    bundle, found = pieces
    stage = SOUND_GATE[bundle.manifest.family]
    one, other = (item for item in found[precision] if item.piece and item.piece.stage == stage)
    assert one.piece
    assert other.piece
    swapped = {
        one.name: one.piece.model_copy(update={"when": other.piece.when}),
        other.name: other.piece.model_copy(update={"when": one.piece.when}),
    }
    assert one.piece.when != other.piece.when
    own = [
        item.model_copy(update={"piece": swapped.get(item.name, item.piece)})
        for item in found[precision]
    ]
    damaged = bundle, {**found, precision: own}
    stored = chained(damaged, tmp_path / "b", "gated")
    report = check(stored, "super", "base")
    verdicts = {item.name: item.verified for item in open_bundle(stored.path).artifacts()}
    assert {row.precision for row in report.rows if not row.passed} == {precision}
    for kind, items in found.items():
        for item in items:
            verdict = verdicts[f"{item.name}-rtx"]
            assert verdict is not None
            assert verdict.passed == (kind != precision)


def test_a_damaged_piece_condemns_its_chain(
    pieces: tuple[Bundle, dict[str, list[Artifact]]], tmp_path: Path, fake: Fake
) -> None:
    """Also the pieces that are as they should be."""
    bundle = chained(pieces, tmp_path / "b", "gated")
    stage = SOUND_GATE[bundle.manifest.family]

    def wrong(found: Arrays, row: int, feeds: Arrays) -> None:
        for name, array in found.items():
            if name.startswith(f"{stage}.skipped/"):
                array *= array.dtype.type(1.1)

    fake.change = wrong
    depths = [str(bundle.table.space.super), str(bundle.table.space.base)]
    report = check(bundle, *depths, precision="fp16")
    # Where the stage runs in full nothing is wrong.
    assert {row.depth: row.passed for row in report.rows} == dict(
        zip(depths, (True, False), strict=True)
    )
    for item in open_bundle(bundle.path).artifacts(precision="fp16", format=RUNTIME):
        assert item.verified is not None
        assert not item.verified.passed


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

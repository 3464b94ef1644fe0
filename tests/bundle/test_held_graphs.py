"""Graphs held against the manifest: whatever both speak of has to agree, or nothing is run."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import misplaced_graphs
import numpy as np
import onnx
import pytest
from edited_bundles import contents, edit_artifact
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt, write_engine
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from misplaced_graphs import CASES, LADDER, RAW, ROWS, SIDE, depth_rows, edit_manifest
from plain import is_plain

from anydepth_deploy.building import build as build_module
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.graphs import check_graph
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import AnyDepthError, BundleError, InputError
from anydepth_deploy.runtimes.onnx_file import read_onnx_file
from anydepth_deploy.runtimes.tensorrt.library import load_library
from anydepth_deploy.verifying.reference import Reference

VERSION = "10.3.0"
IMAGES = np.zeros((2, 3, SIDE, SIDE), np.float32)


@pytest.fixture(scope="module", params=RAW)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return misplaced_graphs.make(tmp_path_factory.mktemp("sound") / "bundle", request.param)


@pytest.fixture
def folder(sound: Bundle, tmp_path: Path) -> Path:
    """A copy of a sound bundle."""
    return Path(shutil.copytree(sound.path, tmp_path / "bundle"))


def opened(folder: Path, layout: str, **options: Any) -> Session:
    """Everything of a layout, as far as this machine can open it."""
    options = {"threads": 1, "preload": True, **options}
    return open_bundle(folder).session(artifact=layout, **options)


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_sound_ones_open(sound: Bundle, layout: str) -> None:
    session = opened(sound.path, layout)
    assert session.run(IMAGES, "base").scores.shape == (2, 5)
    if layout == "gated":
        for row, depth in enumerate(ROWS):
            assert (session.run(IMAGES, depth).scores == row).all()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("family", RAW)
def test_sound_ones_with_raw_outputs_open(tmp_path: Path, family: str, raw: bool) -> None:
    bundle = misplaced_graphs.make(tmp_path / "bundle", family, raw=raw)
    session = opened(bundle.path, "gated", raw=True)
    assert set(session.run_raw(IMAGES, 0)) == set(RAW[family])


@pytest.mark.parametrize("count", [3, 4, 6])
def test_suppression_gives_no_more_than_there_is(tmp_path: Path, count: int) -> None:
    """Small inputs of few classes have fewer places than detections are asked for: all of each
    class then."""
    bundle = misplaced_graphs.make(tmp_path / "bundle", "anydepth-yolo")
    (artifact,) = bundle.artifacts("gated")
    found = read_onnx_file(bundle.file(artifact))
    outputs = tuple(
        replace(port, shape=(None, count)) if port.name == "scores" else port
        for port in found.outputs
    )
    found = replace(found, outputs=outputs)
    if count == 3:
        check_graph(tmp_path, found, artifact, bundle.manifest)
        return
    with pytest.raises(BundleError, match=f"is {count} in the graph, 5 in the manifest"):
        check_graph(tmp_path, found, artifact, bundle.manifest)


def test_predictions_are_what_suppression_takes(tmp_path: Path) -> None:
    """A family without suppression may call anything so."""
    bundle = misplaced_graphs.make(tmp_path / "bundle", "anydepth-yolo")
    (artifact,) = bundle.artifacts("gated")
    found = read_onnx_file(bundle.file(artifact))
    other = replace(next(iter(found.tensors.values())), shape=(None, 100, 12))
    found = replace(found, tensors=dict.fromkeys(found.tensors, other))
    with pytest.raises(BundleError, match="the number of classes is 96 in the graph, 3 in"):
        check_graph(tmp_path, found, artifact, bundle.manifest)
    manifest = bundle.manifest.model_copy(update={"suppression": None})
    check_graph(tmp_path, found, artifact, manifest)


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_refused_with_both_values(folder: Path, name: str) -> None:
    case = CASES[name]
    case.edit(folder)
    with pytest.raises(BundleError) as caught:
        opened(folder, case.layout)
    message = str(caught.value)
    assert message.startswith(f"{folder / case.file} ")
    assert case.says in message
    assert message.endswith(": export it again")
    assert is_plain(message)
    assert len(message) < 400 + len(str(folder))


def test_other_runtimes_refuse_before_they_open_anything(folder: Path) -> None:
    case = CASES["weights-outside"]
    case.edit(folder)
    with pytest.raises(BundleError, match="no manifest vouches for"):
        opened(folder, "gated", runtime="openvino")
    # Nor does it help not to ask for hashes.
    with pytest.raises(BundleError, match="no manifest vouches for"):
        opened(folder, "gated", check=False)


def test_other_classes_are_seen_in_raw_outputs_too(tmp_path: Path) -> None:
    for family in RAW:
        bundle = misplaced_graphs.make(tmp_path / family, family, raw=True)
        edit_artifact(bundle.path, "gated", lambda model: model.graph.ClearField("value_info"))
        opened(bundle.path, "gated")
        edit_manifest(bundle.path, lambda found: found.update(classes=["a", "b"]))
        with pytest.raises(BundleError, match="the number of classes is 3 in the graph, 2 in the"):
            opened(bundle.path, "gated")


def test_a_raw_output_that_the_manifest_promises_is_there(folder: Path) -> None:
    def change(found: Any) -> None:
        found["artifacts"][0]["raw"] = True

    edit_manifest(folder, change)
    with pytest.raises(BundleError, match=r"the list of outputs is labels, boxes, scores in the"):
        opened(folder, "gated")


def test_raw_outputs_of_families_that_mean_others_by_them_tell_nothing(tmp_path: Path) -> None:
    bundle = misplaced_graphs.make(tmp_path / "bundle", "another", raw=True)
    edit_manifest(bundle.path, lambda found: found.update(classes=["a", "b"]))
    opened(bundle.path, "gated")


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_graphs_of_before_say_less_and_still_open(folder: Path, layout: str) -> None:
    for item in json.loads((folder / "manifest.json").read_text())["artifacts"]:
        edit_artifact(folder, item["name"], lambda model: model.ClearField("metadata_props"))
    session = opened(folder, layout)
    assert (session.run(IMAGES, "base").scores == 0).all()


def test_sizes_that_are_not_fixed_fit_any(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"

    edit_artifact(folder, "gated", change)
    opened(folder, "gated")


@pytest.mark.parametrize(
    "ladder", [("TT-1", "FF-2"), ("TT-1", "TF-1", "FF-1", "FT-2", "FF-2"), LADDER]
)
def test_a_ladder_may_name_any_rows(folder: Path, ladder: tuple[str, ...]) -> None:
    def change(found: Any) -> None:
        found["ladder"], found["depths"] = list(ladder), depth_rows(ROWS, ladder)

    edit_manifest(folder, change)
    session = opened(folder, "gated")
    assert [str(depth) for depth in session.table.rows] == list(ROWS)
    for level, depth in enumerate(ladder):
        assert session.table.level(depth) == level
        assert (session.run(IMAGES, f"level:{level}").scores == ROWS.index(depth)).all()
    assert session.table.level("TT-2") is None
    assert (session.run(IMAGES, "super").scores == ROWS.index("FF-2")).all()


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[1:] + ROWS[:1],  # begins with no ladder
        ROWS[:4] + ROWS[5:] + ROWS[4:5],  # the others in another order
        ROWS[:3] + ROWS[:1] + ROWS[4:],  # twice, and without super
    ],
)
def test_a_depth_table_still_follows_from_the_gates(folder: Path, rows: tuple[str, ...]) -> None:
    edit_manifest(folder, lambda found: found.update(depths=depth_rows(rows, LADDER)))
    with pytest.raises(BundleError, match="the depth table does not follow from the gates and the"):
        open_bundle(folder)


def test_values_that_are_not_finite_are_refused(sound: Bundle) -> None:
    session = opened(sound.path, "gated")
    for value in (np.nan, np.inf, -np.inf):
        images = IMAGES.copy()
        images[1, 2, 3, 4] = images[1, 2, 5, 6] = value
        with pytest.raises(InputError) as caught:
            session.run(images, 1)
        assert str(caught.value) == (
            "images have 2 values that are not finite, the first at [1, 2, 3, 4] "
            f"({value}); expected numbers as the manifest's preprocessing gives them"
        )
    # Finite, though their sum is not.
    assert (session.run(np.full_like(IMAGES, 3e38), 1).scores == 1).all()
    mixed = np.full_like(IMAGES, 3e38)
    mixed[..., ::2] *= -1
    assert (session.run(mixed[..., ::-1], 1).scores == 1).all()


@pytest.mark.fuzz
@examples(40)
@given(data=st.data())
def test_damaged_graphs_never_leak_another_error(
    data: st.DataObject, sound: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(shutil.copytree(sound.path, tmp_path_factory.mktemp("damaged") / "bundle"))
    content = bytearray((folder / "gated.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    misplaced_graphs.rehash(folder, "gated", bytes(content[: data.draw(st.integers(0, 9999))]))
    try:
        opened(folder, "gated").run(IMAGES, 0)
    except AnyDepthError as error:
        assert "\n" not in str(error)  # noqa: PT017


# --- engines, whose graphs are held against the manifest when they are built --------------------


def with_engine(
    folder: Path, graph: str, name: str = "engine", change: Any = None, **about: Any
) -> None:
    """Add an engine that computes what ``graph`` does, after ``change``."""
    model = onnx.load(folder / f"{graph}.onnx")
    if change is not None:
        change(model)
    path = folder / f"{name}.engine"
    write_engine(path, model, VERSION)
    spec = {
        "source": graph,
        "source_sha256": "0" * 64,
        "version": VERSION,
        "capabilities": ["sm87"],
        "batch": {"smallest": 1, "typical": 1, "largest": 4},
        "opset": 18,
    }

    def add(found: Any) -> None:
        (source,) = (item for item in found["artifacts"] if item["name"] == graph)
        engine = {"name": name, "file": path.name, "format": "tensorrt", "engine": spec, **about}
        size = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        found["artifacts"].append({**source, **engine, **size})

    edit_manifest(folder, add)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRt]:
    load_library.cache_clear()
    yield FakeTensorRt(FakeCuda().install(monkeypatch), VERSION).install(monkeypatch)
    load_library.cache_clear()


ENGINES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "size": (
        None,
        {"preprocess": {"size": [64, 96]}},
        "the input images is float32 [N, 3, 64, 64] in the engine, float32 [N, 3, 64, 96] in the",
    ),
    "detections": (
        None,
        {"max_detections": 7},
        "the number of detections in a picture is 5 in the engine, 7 in the manifest",
    ),
    "outputs": (
        misplaced_graphs.without("output", "scores"),
        {},
        "the list of outputs is labels, boxes in the engine, labels, boxes, scores in the manifest",
    ),
}


@pytest.mark.parametrize("layout", ["gated", "set"])
@pytest.mark.parametrize("name", ENGINES)
def test_engines_are_held_against_the_manifest_when_they_open(
    folder: Path, machine: FakeTensorRt, layout: str, name: str
) -> None:
    change, fields, says = ENGINES[name]
    with_engine(folder, "gated" if layout == "gated" else "static-FF-2", change=change)
    edit_manifest(folder, lambda found: found.update(fields))
    with pytest.raises(BundleError) as caught:
        opened(folder, layout, runtime="tensorrt")
    assert str(caught.value).startswith(f"{folder / 'engine.engine'} does not go with its manifest")
    assert says in str(caught.value)
    assert str(caught.value).endswith(": build it again")
    gc.collect()
    assert len(machine.engines) == 0


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_sound_engines_open(folder: Path, machine: FakeTensorRt, layout: str) -> None:
    sources = {"gated": ["gated"], "set": ["static-FF-2"], "stages": list(misplaced_graphs.PIECES)}
    for source in sources[layout]:
        with_engine(folder, source, f"{source}-engine")
    opened(folder, layout, runtime="tensorrt").close()


def test_chains_of_engines_are_held_against_the_manifest(
    folder: Path, machine: FakeTensorRt
) -> None:
    for source in misplaced_graphs.PIECES:
        with_engine(folder, source, f"{source}-engine")
    edit_manifest(folder, lambda found: found.update(max_detections=7))
    with pytest.raises(BundleError, match=r"the chain at depth TT-1 does not go with its manifest"):
        opened(folder, "stages", runtime="tensorrt")


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_nothing_is_built_of_a_graph_that_differs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    backend = SimpleNamespace(
        name="tensorrt-rtx", version="1.7", ahead_of_time=True, known_capabilities=("sm75",)
    )
    monkeypatch.setattr(build_module, "load", lambda runtime: backend)
    edit_manifest(
        folder, lambda found: found.update(artifacts=found["artifacts"][:1])
    )  # all engines are made of the gated graph
    CASES["rungs-swapped"].edit(folder)
    before = contents(folder)
    with pytest.raises(BundleError, match="row 1 of the depth table is FT-1 in the graph, FF-1"):
        build_module.build_bundle(
            folder, runtime="tensorrt-rtx", capabilities=["sm75"], layouts=[layout]
        )
    assert contents(folder) == before


def test_engines_are_compared_with_no_graph_that_differs(folder: Path) -> None:
    CASES["rungs-swapped"].edit(folder)
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="row 1 of the depth table is FT-1 in the graph, FF-1"):
        Reference(bundle, bundle.artifacts("gated")[0])

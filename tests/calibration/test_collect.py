"""Histograms over pictures and depths: complete, in spite of interruptions, and of the right
tensors."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import random_images
from marked_pictures import save_marked, shown
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.calibration import collect as collect_module
from anydepth_deploy.calibration.collect import (
    Histograms,
    Observed,
    ObservedGraph,
    collect,
    discard_state,
)
from anydepth_deploy.calibration.histogram import Histogram
from anydepth_deploy.errors import (
    CalibrationError,
    ImageError,
    InputError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare
from anydepth_deploy.pictures.orientation import Orientation

RECIPE = Preprocess(size=(32, 64))
DEPTHS = ["TT", "FF"]
COUNT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small pictures, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    rng = np.random.default_rng(3)
    for index in range(COUNT):
        pixels = rng.integers(0, 40 * (index + 1), (20 + index, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if index == 2 else "") / f"{index}.png")
    return folder


@pytest.fixture
def pictures(folder: Path) -> list[Path]:
    return list(choose_pictures(folder, COUNT).paths)


# --- the choice of pictures ------------------------------------------------------------------


def test_all_pictures_are_taken_where_there_are_few(folder: Path) -> None:
    found = choose_pictures(folder, 100, seed=4)
    assert found.paths == tuple(sorted(folder.rglob("*.png")))
    assert found.seed is None
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in found.paths)
    text = "".join(f"{digest}\n" for digest in digests)
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    (single,) = choose_pictures(found.paths[0], 3).paths
    assert single == found.paths[0]


def test_a_draw_is_repeatable_and_moves_with_the_folder(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    draws = {choose_pictures(folder, 2, seed).paths for seed in range(30)}
    assert len(draws) > 5
    assert set().union(*draws) == set(folder.rglob("*.png"))
    for seed in range(5):
        one, other = choose_pictures(folder, 2, seed), choose_pictures(copy, 2, seed)
        assert (one.seed, len(one.paths), list(one.paths)) == (seed, 2, sorted(one.paths))
        assert one.sha256 == other.sha256
        assert [path.relative_to(copy) for path in other.paths] == [
            path.relative_to(folder) for path in one.paths
        ]


def test_names_do_not_matter_but_content_does(folder: Path, tmp_path: Path) -> None:
    for index, path in enumerate(sorted(folder.rglob("*.png"), reverse=True)):
        (tmp_path / f"{index}.png").write_bytes(path.read_bytes())
    assert choose_pictures(tmp_path, 9).sha256 == choose_pictures(folder, 9).sha256
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    assert choose_pictures(tmp_path, 9).sha256 != choose_pictures(folder, 9).sha256


def test_pictures_that_cannot_be_used_are_named_first(folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    choose_pictures(folder, COUNT, progress=lambda *step: steps.append(step))
    assert [step[1:] for step in steps] == [(index, COUNT) for index in range(COUNT)]
    with pytest.raises(ImageError, match="holds no picture"):
        choose_pictures(tmp_path, 3)
    whole = (folder / "1.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.png"):
        choose_pictures(tmp_path, 3)
    with pytest.raises(UsageError, match="at least 1"):
        choose_pictures(folder, 0)


# --- collecting ------------------------------------------------------------------------------


class Graph:
    """Three tensors of known values; what is skipped at ``TT`` has other names."""

    def __init__(self, depth: str, *, bad: float | None = None) -> None:
        self.depth, self.bad = depth, bad
        self.calls: list[int] = []
        self.tensors: Sequence[str] = ("images", f"{depth}/relu", f"{depth}/dead")

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]:
        self.calls.append(len(images))
        factor = np.float32(3 if self.depth == "TT" else 70)
        relu = np.maximum(images * factor - 1, 0)
        if self.bad is not None and images.max() > self.bad:
            relu[images > self.bad] = np.nan
        return {"images": images, f"{self.depth}/relu": relu, f"{self.depth}/dead": images * 0}


def expected(pictures: Sequence[Path]) -> dict[str, Histograms]:
    """Every picture by itself, all counted at once."""
    found: dict[str, Histograms] = {}
    for depth in DEPTHS:
        inputs = np.stack([prepare(load_image(path), RECIPE)[0] for path in pictures])
        found[depth] = {}
        for tensor, array in Graph(depth).run(inputs).items():
            found[depth][tensor] = Histogram()
            found[depth][tensor].add(array)
    return found


def run(
    pictures: Sequence[Path],
    state: Path,
    open_graph: Callable[[str], Observed] = Graph,
    identity: str = "id",
    **options: Any,
) -> dict[str, Histograms]:
    return collect(DEPTHS, open_graph, pictures, RECIPE, state, identity, **options)


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_all_values_of_all_depths_are_counted(
    pictures: list[Path], tmp_path: Path, batch: int
) -> None:
    steps: list[tuple[str, int, int]] = []
    found = run(
        pictures, tmp_path / "state", batch=batch, progress=lambda *step: steps.append(step)
    )
    assert found == expected(pictures)
    assert list(found) == DEPTHS
    starts = range(0, COUNT, batch)
    assert steps == [
        (depth, index * COUNT + start, 2 * COUNT)
        for index, depth in enumerate(DEPTHS)
        for start in starts
    ]


@pytest.mark.parametrize("orientation", ["upright", "stored"])
def test_pictures_are_read_the_way_up_that_was_asked_for(
    tmp_path: Path, orientation: Orientation
) -> None:
    paths = [tmp_path / "turned.png", tmp_path / "plain.png"]
    stored = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    save_marked(paths[0], stored, 6)
    save_marked(paths[1], shown(stored, 6) if orientation == "upright" else stored, None)
    of_each = [run([path], tmp_path / path.stem, orientation=orientation) for path in paths]
    assert of_each[0] == of_each[1] == expected(paths[1:])
    other: Orientation = "stored" if orientation == "upright" else "upright"
    assert run(paths[:1], tmp_path / "other", orientation=other) != of_each[0]


def test_a_finished_collection_is_not_run_again(pictures: list[Path], tmp_path: Path) -> None:
    def never(_: str) -> Observed:
        raise AssertionError

    state = tmp_path / "deep" / "state"
    found = run(pictures, state)
    assert [item.name for item in state.parent.iterdir()] == ["state"]
    assert run(pictures, state, never) == found == expected(pictures)
    discard_state(state)
    assert not state.exists()
    discard_state(state)
    with pytest.raises(AssertionError):
        run(pictures, state, never)


PLACES = {
    "before a graph is opened": (collect_module, "_begin"),
    "before a batch is counted": (collect_module, "_count"),
    "while a picture is read": (collect_module, "load_image"),
    "while a graph runs": (Graph, "run"),
    "between the tensors of a batch": (Histogram, "copy"),
    "before a tensor is counted": (Histogram, "add"),
    "within a tensor": (Histogram, "_cover"),
    "while the state is written": (collect_module, "_write_state"),
    "before the state is renamed": (collect_module, "write_atomically"),
}


@pytest.mark.parametrize("save_every", [0.0, 1e9])
@pytest.mark.parametrize("place", PLACES)
def test_interruptions_change_nothing(
    place: str,
    save_every: float,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every visit of the place, one after the other, before and after it has done its work."""
    owner, name = PLACES[place]
    original = getattr(owner, name)
    truth = expected(pictures)
    struck = 0
    for after in (False, True):
        for strike in range(1, 1000):
            state = tmp_path / f"{after}-{strike}"
            visits = 0

            def interrupted(
                *arguments: Any, strike: int = strike, after: bool = after, **options: Any
            ) -> Any:
                nonlocal visits
                visits += 1
                if visits == strike and not after:
                    raise KeyboardInterrupt
                found = original(*arguments, **options)
                if visits == strike:
                    raise KeyboardInterrupt
                return found

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, interrupted)
                try:
                    found = run(pictures, state, batch=2, save_every=save_every)
                except KeyboardInterrupt:
                    struck += 1
                else:
                    assert found == truth
                    break
            assert run(pictures, state, batch=2) == truth
            discard_state(state)
    assert struck >= 2
    assert not list(tmp_path.glob("*partial*"))


def test_what_was_counted_is_not_counted_again(pictures: list[Path], tmp_path: Path) -> None:
    """Stopped in the middle of the second depth: only the rest is run."""
    state = tmp_path / "state"

    def stop(what: str, done: int, _: int) -> None:
        if what == "FF" and done == COUNT + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pictures, state, progress=stop)
    opened: list[Graph] = []

    def open_graph(depth: str) -> Graph:
        opened.append(Graph(depth))
        return opened[-1]

    assert run(pictures, state, open_graph) == expected(pictures)
    assert [(graph.depth, graph.calls) for graph in opened] == [("FF", [1, 1, 1])]


def test_the_state_is_written_meanwhile(pictures: list[Path], tmp_path: Path) -> None:
    """A process that is killed writes nothing any more: what the file holds then is what counts."""
    state = tmp_path / "state"
    kept: list[bytes | None] = []

    def keep(*_: object) -> None:
        kept.append(state.read_bytes() if state.exists() else None)

    truth = run(pictures, state, save_every=0.0, progress=keep)
    assert kept[0] is None
    assert len(set(kept)) == len(kept) == 2 * COUNT
    for done, content in enumerate(kept[1:], start=1):
        assert content is not None
        state.write_bytes(content)
        graphs = {depth: Graph(depth) for depth in DEPTHS}
        assert run(pictures, state, graphs.__getitem__) == truth
        assert sum(len(graph.calls) for graph in graphs.values()) == 2 * COUNT - done
    kept.clear()
    discard_state(state)
    run(pictures, state, save_every=1e9, progress=keep)
    assert set(kept) == {None}


def test_errors_keep_what_was_counted_too(
    pictures: list[Path], tmp_path: Path, folder: Path
) -> None:
    state = tmp_path / "state"
    missing = [*pictures[:3], folder / "missing.png", pictures[4]]
    with pytest.raises(ImageError, match=r"missing\.png"):
        run(missing, state)
    graph = Graph("TT")
    run(pictures, state, lambda depth: graph if depth == "TT" else Graph(depth))
    assert graph.calls == [1, 1]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    def text() -> str:
        found = caplog.text
        caplog.clear()
        return found

    with caplog.at_level(logging.WARNING, "anydepth_deploy"):
        yield text


def test_the_state_of_another_call_is_replaced(
    pictures: list[Path], tmp_path: Path, warnings: Callable[[], str]
) -> None:
    state = tmp_path / "state"
    run(pictures[:3], state)
    assert not warnings()
    assert run(pictures, state) == expected(pictures)
    assert "is of another calibration" in warnings()
    for options in ({"identity": "other"}, {"batch": 3}):
        assert run(pictures, state, **options) == expected(pictures)
        assert "is of another calibration" in warnings()
        assert run(pictures, state, **options) == expected(pictures)
        assert not warnings()
        run(pictures, state)
        assert "is of another calibration" in warnings()


def test_a_depth_with_other_tensors_starts_anew(
    pictures: list[Path], tmp_path: Path, warnings: Callable[[], str]
) -> None:
    state = tmp_path / "state"

    def stop(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    class Renamed(Graph):
        def __init__(self, depth: str) -> None:
            super().__init__(depth)
            self.tensors = self.tensors[::-1]

    with pytest.raises(KeyboardInterrupt):
        run(pictures, state, progress=stop)
    assert run(pictures, state, Renamed) == expected(pictures)
    assert "other tensors" in warnings()


def test_damaged_states_are_replaced(
    pictures: list[Path], tmp_path: Path, warnings: Callable[[], str]
) -> None:
    state = tmp_path / "state"
    truth = run(pictures, state)
    whole = state.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    damages = [b"", b"PK", whole[:100], whole[:middle], whole[:-1], flipped, b"\x80\x04N."]
    for damage in damages:
        state.write_bytes(damage)
        assert run(pictures, state) == truth
        assert "cannot be read" in warnings()
        assert state.read_bytes() == whole
    with state.open("wb") as file:
        np.save(file, np.zeros(3))
    assert run(pictures, state) == truth
    assert "cannot be read" in warnings()


@pytest.mark.parametrize("key", ["0/counts", "0/totals", "1/limits", "header"])
def test_states_that_lack_or_contradict_something_are_replaced(
    key: str, pictures: list[Path], tmp_path: Path, warnings: Callable[[], str]
) -> None:
    state = tmp_path / "state"
    truth = run(pictures, state)
    with np.load(state) as archive:
        arrays: dict[str, Any] = dict(archive)
    lacking = {name: array for name, array in arrays.items() if name != key}
    changed = {**arrays, key: arrays[key][::-1]}
    pickled = {**arrays, key: np.array([{"a": 1}], object)}
    for content in (lacking, changed, pickled):
        with state.open("wb") as file:
            np.savez(file, **content)
        assert run(pictures, state) == truth
        assert "cannot be read" in warnings()


def test_a_state_that_cannot_be_written_is_a_warning(
    pictures: list[Path], tmp_path: Path, warnings: Callable[[], str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(pictures, tmp_path / "file" / "state") == expected(pictures)
    assert "cannot be written" in warnings()


@pytest.mark.parametrize("batch", [1, 3])
def test_values_that_are_not_finite_are_named(
    batch: int, pictures: list[Path], tmp_path: Path
) -> None:
    """Only the brightest picture drives the tensor out of bounds."""
    inputs = [prepare(load_image(path), RECIPE)[0].max() for path in pictures]
    brightest = int(np.argmax(inputs))
    limit = (sorted(inputs)[-1] + sorted(inputs)[-2]) / 2
    with pytest.raises(CalibrationError) as error:
        run(pictures, tmp_path / "s", lambda depth: Graph(depth, bad=limit), batch=batch)
    text = str(error.value)
    assert "tensor 'TT/relu' at depth TT" in text
    assert "\n" not in text
    named = [path for path in pictures if str(path) in text]
    assert named == [pictures[brightest]]


def test_tensors_that_hold_no_floats_are_named(pictures: list[Path], tmp_path: Path) -> None:
    class Integers(Graph):
        def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]:
            return {name: np.arange(4) for name in self.tensors}

    with pytest.raises(CalibrationError, match=r"'images' at depth TT.*int64"):
        run(pictures, tmp_path / "s", Integers)


# --- graphs ----------------------------------------------------------------------------------


@pytest.fixture(params=["detr", "yolo"])
def family(request: pytest.FixtureRequest) -> tuple[Bundle, AnyDepthModel]:
    names = {"detr": ("bundle", "model"), "yolo": ("yolo_bundle", "yolo_model")}[request.param]
    bundle, model = (request.getfixturevalue(name) for name in names)
    return bundle, model


@pytest.mark.parametrize("batch", [1, 2])
def test_tensors_are_those_of_the_network_at_every_rung(
    family: tuple[Bundle, AnyDepthModel], batch: int
) -> None:
    """What each stage gives, from the exported graph and from torch."""
    bundle, model = family
    images = random_images(batch, *bundle.size, seed=batch)
    compared = 0
    for depth in bundle.table.ladder:
        (artifact,) = bundle.artifacts("set", depth=depth)
        path = bundle.file(artifact)
        made = {name for node in onnx.load(path).graph.node for name in node.output}
        wanted: dict[str, NDArray[Any]] = {"images": images}

        def note(
            stage: Any,
            tensors: Any,
            wanted: dict[str, Any] = wanted,
            depth: Any = depth,
            made: set[str] = made,
        ) -> None:
            for tensor in stage.outputs:
                name = f"{stage.name}.{stage.variant(depth)}/{tensor}"
                if name in made and tensors[tensor].is_floating_point():
                    wanted[name] = tensors[tensor].numpy()

        with torch.no_grad():
            model.flow(torch.from_numpy(images), depth, revise=note)
        backbone = {name: wanted[name] for name in list(wanted)[:6]}  # before discrete choices
        found = ObservedGraph(path.read_bytes(), list(backbone), threads=1).run(images)
        assert list(found) == list(backbone)
        for name, array in backbone.items():
            assert found[name].shape == array.shape
            scale = float(np.abs(array).max())
            assert np.abs(found[name] - array).max() <= 1e-4 * scale, (str(depth), name)
            compared += name != "images"
    assert compared >= 5 * len(bundle.table.ladder)


def test_a_bundles_graphs_are_collected(
    family: tuple[Bundle, AnyDepthModel], pictures: list[Path], tmp_path: Path
) -> None:
    """From files to histograms; inner tensors too, the outputs of convolutions."""
    bundle, _ = family
    names: dict[str, list[str]] = {}

    def open_graph(depth: str) -> ObservedGraph:
        (artifact,) = bundle.artifacts("set", depth=bundle.table.find(depth))
        path = bundle.file(artifact)
        nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
        names[depth] = ["images", *(node.output[0] for node in nodes)]
        return ObservedGraph(path, names[depth], threads=1)

    recipe = bundle.manifest.preprocess
    depths = [str(bundle.table.space.base), str(bundle.table.space.super)]
    found = collect(depths, open_graph, pictures, recipe, tmp_path / "s", "x", batch=2)
    assert {depth: list(histograms) for depth, histograms in found.items()} == names
    assert len(names[depths[1]]) > 20
    images = np.stack([prepare(load_image(path), recipe)[0] for path in pictures])
    for histograms in found.values():
        assert histograms["images"].count == images.size
        assert histograms["images"].maximum == images.max()
        assert all(histogram.count % COUNT == 0 for histogram in histograms.values())
        assert all(histogram.maximum > histogram.minimum for histogram in histograms.values())


def tiny_graph() -> onnx.ModelProto:
    """y = relu(x + 1); an If beside it."""
    inner = [
        helper.make_graph(
            [helper.make_node("Identity", ["sum"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("inside", "outside")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "one"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["y"]),
            helper.make_node("If", ["yes"], ["z"], then_branch=inner[0], else_branch=inner[1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2, 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 2, 2]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_inner_tensors_inputs_and_outputs_are_exposed() -> None:
    graph = ObservedGraph(tiny_graph().SerializeToString(), ["sum", "x", "y", "sum"])
    assert list(graph.tensors) == ["sum", "x", "y"]
    images = random_images(2, 2, 2) - np.float32(1.5)
    found = graph.run(images)
    assert list(found) == ["sum", "x", "y"]
    assert np.array_equal(found["sum"], images + 1)
    assert np.array_equal(found["x"], images)
    assert np.array_equal(found["y"], np.maximum(images + 1, 0))
    assert list(ObservedGraph(tiny_graph().SerializeToString(), ["x"]).run(images)) == ["x"]
    with pytest.raises(InputError, match="ONNX Runtime"):
        graph.run(random_images(2, 3, 2))


def test_graphs_that_cannot_be_observed_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    model = tiny_graph().SerializeToString()
    for name in ("nothing", "one", "inside", ""):
        with pytest.raises(CalibrationError, match=f"no tensors of these names.*: {name}"):
            ObservedGraph(model, ["sum", name])
    gated = bundle.file(bundle.artifacts("gated")[0])
    with pytest.raises(CalibrationError, match="inputs images, depth: expected a static graph"):
        ObservedGraph(gated, ["images"])
    with pytest.raises(CalibrationError, match="cannot be read"):
        ObservedGraph(b"\x00" * 20, ["x"])
    with pytest.raises(CalibrationError, match=r"none\.onnx cannot be read"):
        ObservedGraph(tmp_path / "none.onnx", ["x"])
    broken = tiny_graph()
    broken.graph.node[0].op_type = "Addd"
    with pytest.raises(CalibrationError, match="cannot load the graph"):
        ObservedGraph(broken.SerializeToString(), ["y"])


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_graph().SerializeToString()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"'{package}'"):
        ObservedGraph(model, ["y"])


def test_the_package_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'scipy'): sys.modules[name] = None\n"
        "from anydepth_deploy.calibration import collect, cover, histogram, ranges, table\n"
        "from anydepth_deploy.pictures import choice\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

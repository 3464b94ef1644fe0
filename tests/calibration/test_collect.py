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
import pytest
from marked_pictures import save_marked, shown
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.calibration import collect as collect_module
from anydepth_deploy.calibration.collect import (
    Counted,
    Observed,
    collect,
    discard_state,
)
from anydepth_deploy.calibration.histogram import Histogram
from anydepth_deploy.errors import (
    CalibrationError,
    ImageError,
    UsageError,
)
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


class Network:
    """Two depths with tensors of known values; they share the images."""

    def __init__(self, *, bad: float | None = None) -> None:
        self.bad = bad
        self.calls: list[int] = []
        self.tensors: dict[str, Sequence[str]] = {
            "TT": ("images", "TT/relu", "TT/dead"),
            "FF": ("FF/relu", "FF/dead"),
        }

    def run(
        self, images: NDArray[np.float32]
    ) -> Iterator[tuple[str, Mapping[str, NDArray[np.generic]]]]:
        self.calls.append(len(images))
        yield "TT", {"images": images}
        yield "FF", {"FF/relu": np.maximum(images * np.float32(70) - 1, 0), "FF/dead": images * 0}
        relu = np.maximum(images * np.float32(3) - 1, 0)
        if self.bad is not None and images.max() > self.bad:
            relu[images > self.bad] = np.nan
        yield "TT", {"TT/relu": relu, "TT/dead": images * 0}


def expected(pictures: Sequence[Path]) -> Counted:
    """Every picture by itself, all counted at once."""
    inputs = np.stack([prepare(load_image(path), RECIPE)[0] for path in pictures])
    found: Counted = {depth: {} for depth in DEPTHS}
    for depth, arrays in Network().run(inputs):
        for tensor, array in arrays.items():
            found[depth][tensor] = Histogram()
            found[depth][tensor].add(array)
    return found


def run(
    pictures: Sequence[Path],
    state: Path,
    open_network: Callable[[], Observed] = Network,
    identity: str = "id",
    **options: Any,
) -> Counted:
    return collect(open_network, pictures, RECIPE, state, identity, **options)


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
    assert steps == [(pictures[start].name, start, COUNT) for start in range(0, COUNT, batch)]


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
    def never() -> Observed:
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
    "before it begins": (collect_module, "_begin"),
    "before a batch is counted": (collect_module, "_count"),
    "while a picture is read": (collect_module, "load_image"),
    "while the network runs": (Network, "run"),
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
    """Stopped in the middle: only the rest is run."""
    state = tmp_path / "state"

    def stop(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pictures, state, progress=stop)
    network = Network()
    assert run(pictures, state, lambda: network) == expected(pictures)
    assert network.calls == [1, 1, 1]


def test_the_state_is_written_meanwhile(pictures: list[Path], tmp_path: Path) -> None:
    """A process that is killed writes nothing any more: what the file holds then is what counts."""
    state = tmp_path / "state"
    kept: list[bytes | None] = []

    def keep(*_: object) -> None:
        kept.append(state.read_bytes() if state.exists() else None)

    truth = run(pictures, state, save_every=0.0, progress=keep)
    assert kept[0] is None
    assert len(set(kept)) == len(kept) == COUNT
    for done, content in enumerate(kept[1:], start=1):
        assert content is not None
        state.write_bytes(content)
        opened: list[Network] = []

        def open_network(opened: list[Network] = opened) -> Network:
            opened.append(Network())
            return opened[-1]

        assert run(pictures, state, open_network) == truth
        assert [len(network.calls) for network in opened] == [COUNT - done]
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
    network = Network()
    run(pictures, state, lambda: network)
    assert network.calls == [1, 1]


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


def test_other_tensors_start_anew(
    pictures: list[Path], tmp_path: Path, warnings: Callable[[], str]
) -> None:
    state = tmp_path / "state"

    def stop(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    class Turned(Network):
        def __init__(self) -> None:
            super().__init__()
            self.tensors["TT"] = self.tensors["TT"][::-1]

    with pytest.raises(KeyboardInterrupt):
        run(pictures, state, progress=stop)
    assert run(pictures, state, Turned) == expected(pictures)
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
        run(pictures, tmp_path / "s", lambda: Network(bad=limit), batch=batch)
    text = str(error.value)
    assert "tensor 'TT/relu' at depth TT" in text
    assert "\n" not in text
    named = [path for path in pictures if str(path) in text]
    assert named == [pictures[brightest]]


def test_tensors_that_hold_no_floats_are_named(pictures: list[Path], tmp_path: Path) -> None:
    class Integers(Network):
        def run(
            self, images: NDArray[np.float32]
        ) -> Iterator[tuple[str, Mapping[str, NDArray[np.generic]]]]:
            yield "TT", {"images": np.arange(4)}

    with pytest.raises(CalibrationError, match=r"'images' at depth TT.*int64"):
        run(pictures, tmp_path / "s", Integers)


def test_the_package_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'scipy'): sys.modules[name] = None\n"
        "from anydepth_deploy.calibration import collect, cover, histogram, ranges, table\n"
        "from anydepth_deploy.pictures import choice\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

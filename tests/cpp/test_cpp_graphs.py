"""Graphs held against the manifest by the C++ library: the table of misplaced graphs that Python's
tests go through, with the same verdicts in the same words."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import misplaced_graphs
import numpy as np
import pytest
from cpp_build import PATIENT, CppError, Probe, open_probe
from edited_bundles import edit_artifact
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from misplaced_graphs import CASES, LADDER, RAW, ROWS, SIDE, depth_rows, edit_manifest

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.errors import AnyDepthError, BundleError, InputError

pytestmark = PATIENT

IMAGES = np.zeros((2, 3, SIDE, SIDE), np.float32)


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


@pytest.fixture(scope="module", params=RAW)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return misplaced_graphs.make(tmp_path_factory.mktemp("sound") / "bundle", request.param)


@pytest.fixture
def folder(sound: Bundle, tmp_path: Path) -> Path:
    """A copy of a sound bundle."""
    return Path(shutil.copytree(sound.path, tmp_path / "bundle"))


def opened(probe: Probe, folder: Path, layout: str, **options: Any) -> dict[str, Any]:
    given = {"layout": layout, "threads": 1, "preload": True, **options}
    found: dict[str, Any] = probe.call("open", folder=str(folder), **given)
    return found


def scores(probe: Probe, session: int, depth: str | int, images: Any = IMAGES) -> Any:
    out = probe.path()
    shape = {"images": probe.give(images), "shape": list(images.shape)}
    probe.call("run", session=session, depth=depth, out=out, **shape)
    for name in ("labels", "boxes"):
        Path(f"{out}.{name}").unlink()
    return probe.take(f"{out}.scores", np.float32, (2, 5))


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_sound_ones_open(probe: Probe, sound: Bundle, layout: str) -> None:
    session = opened(probe, sound.path, layout)["session"]
    for row in range(len(LADDER)):
        found = scores(probe, session, row)
        expected = open_bundle(sound.path).session(artifact=layout).run(IMAGES, row).scores
        np.testing.assert_array_equal(found, expected)
    probe.call("close", session=session)


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_refused_in_the_words_of_python(
    probe: Probe, folder: Path, name: str
) -> None:
    case = CASES[name]
    case.edit(folder)
    with pytest.raises(BundleError) as expected:
        open_bundle(folder).session(artifact=case.layout, threads=1, preload=True)
    with pytest.raises(CppError) as found:
        opened(probe, folder, case.layout)
    assert (found.value.kind, found.value.message) == ("BundleError", str(expected.value))
    assert case.says in found.value.message


def test_not_asking_for_hashes_does_not_help(probe: Probe, folder: Path) -> None:
    CASES["weights-outside"].edit(folder)
    with pytest.raises(CppError, match="no manifest vouches for"):
        opened(probe, folder, "gated", check=False)


@pytest.mark.parametrize("layout", ["gated", "set", "stages"])
def test_graphs_of_before_say_less_and_still_open(probe: Probe, folder: Path, layout: str) -> None:
    for path in folder.glob("*.onnx"):
        edit_artifact(folder, path.stem, lambda model: model.ClearField("metadata_props"))
    probe.call("close", session=opened(probe, folder, layout)["session"])


def test_a_ladder_may_name_any_rows(probe: Probe, folder: Path) -> None:
    ladder = ("TT-1", "TF-1", "FF-1", "FT-2", "FF-2")

    def change(found: Any) -> None:
        found["ladder"], found["depths"] = list(ladder), depth_rows(ROWS, ladder)

    edit_manifest(folder, change)
    session = opened(probe, folder, "gated")["session"]
    for level, depth in enumerate(ladder):
        assert (scores(probe, session, f"level:{level}") == ROWS.index(depth)).all()
    for name, depth in (("base", "TT-1"), ("super", "FF-2"), ("FT-1", "FT-1")):
        assert (scores(probe, session, name) == ROWS.index(depth)).all()
    wrong: tuple[str | int, ...] = (8, "level:5")
    for asked in wrong:
        with pytest.raises(AnyDepthError) as expected:
            open_bundle(folder).table.find(asked)
        with pytest.raises(CppError) as found:
            scores(probe, session, asked)
        assert found.value.message == str(expected.value)
    probe.call("close", session=session)


@pytest.mark.parametrize(
    "rows", [ROWS[1:] + ROWS[:1], ROWS[:4] + ROWS[5:] + ROWS[4:5], ROWS[:3] + ROWS[:1] + ROWS[4:]]
)
def test_a_depth_table_still_follows_from_the_gates(
    probe: Probe, folder: Path, rows: tuple[str, ...]
) -> None:
    edit_manifest(folder, lambda found: found.update(depths=depth_rows(rows, LADDER)))
    with pytest.raises(BundleError) as expected:
        open_bundle(folder)
    with pytest.raises(CppError) as found:
        opened(probe, folder, "gated")
    assert found.value.message == str(expected.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 3, 4), (1, 2, 63, 63)])
def test_values_that_are_not_finite_are_refused(
    probe: Probe, sound: Bundle, value: float, place: tuple[int, ...]
) -> None:
    images = IMAGES.copy()
    images[place] = value
    with pytest.raises(InputError) as expected:
        open_bundle(sound.path).session(artifact="gated").run(images, 1)
    session = opened(probe, sound.path, "gated")["session"]
    with pytest.raises(CppError) as found:
        scores(probe, session, 1, images)
    assert (found.value.kind, found.value.message) == ("InputError", str(expected.value))
    images[place] = 3e38
    assert (scores(probe, session, 1, images) == 1).all()
    probe.call("close", session=session)


@pytest.mark.fuzz
@examples(60)
@given(data=st.data())
def test_damaged_graphs_get_the_same_verdict(
    data: st.DataObject,
    probe: Probe,
    sound: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = Path(shutil.copytree(sound.path, tmp_path_factory.mktemp("damaged") / "bundle"))
    content = bytearray((folder / "gated.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    misplaced_graphs.rehash(folder, "gated", bytes(content[:length]))
    verdicts = []
    try:
        open_bundle(folder).session(artifact="gated", threads=1)
        verdicts.append("opens")
    except BundleError as error:
        verdicts.append(str(error))
    try:
        probe.call("close", session=opened(probe, folder, "gated")["session"])
        verdicts.append("opens")
    except CppError as error:
        assert error.kind == "BundleError"  # noqa: PT017
        verdicts.append(error.message)
    shutil.rmtree(folder)
    one, other = verdicts
    # What ONNX Runtime itself finds may be said by another version of it.
    assert one == other or ("ONNX Runtime" in one and "ONNX Runtime" in other)

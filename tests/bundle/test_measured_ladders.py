"""Measured ladders in a bundle: which one holds, and what putting one into use changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import misplaced_graphs
import numpy as np
import pytest
from handmade import FakeGraphs
from manifests import measured
from misplaced_graphs import LADDER, ROWS, SIDE, edit_manifest

from anydepth_deploy.bundle import measured as measured_module
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.errors import BundleError, DepthError
from anydepth_deploy.manifest import MeasuredLadder, Rung

IMAGES = np.zeros((1, 3, SIDE, SIDE), np.float32)
RUNGS = ("TT-1", "TF-1", "TF-2", "FF-2")
"""Of which two are no rungs of the exported ladder, and come late in the rows."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return misplaced_graphs.make(tmp_path_factory.mktemp("sound") / "bundle", "anydepth-detr")


@pytest.fixture
def folder(sound: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound.path, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_module, "device_name", lambda runtime: f"here for {runtime}")


def ladder_of(bundle: Bundle, layout: str = "gated", **changes: Any) -> MeasuredLadder:
    rungs = [
        Rung(depth=depth, milliseconds=1.0 + place, score=70.0 + place)
        for place, depth in enumerate(RUNGS)
    ]
    found = MeasuredLadder.model_validate(
        measured(
            device="here for onnxruntime",
            threads=None,
            artifacts=[item.sha256 for item in bundle.artifacts(layout, format="onnx")],
        )
    )
    return found.model_copy(update={"rungs": rungs, **changes})


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != MANIFEST
    }


def test_a_ladder_in_use_changes_levels_and_no_artifact(folder: Path) -> None:
    before = digests(folder)
    bundle = open_bundle(folder)
    bundle.put_ladder(ladder_of(bundle), use=True)
    assert digests(folder) == before
    again = open_bundle(folder)
    for one in (bundle, again):
        assert [str(depth) for depth in one.table.ladder] == list(RUNGS)
        assert [str(depth) for depth in one.table.rows] == list(ROWS)
        assert [str(depth) for depth in one.table.exported] == list(LADDER)
    session = again.session(artifact="gated", threads=1)
    assert session.ladder == RUNGS
    assert session.measured_ladder is not None
    assert [rung.depth for rung in session.measured_ladder.rungs] == list(RUNGS)
    for level, depth in enumerate(RUNGS):
        assert (session.run(IMAGES, f"level:{level}").scores == ROWS.index(depth)).all()
    with pytest.raises(DepthError, match="the ladder has levels 0 to 3"):
        session.run(IMAGES, "level:4")
    levels = {item.depth: item.level for item in again.artifacts("set", format="onnx")}
    assert levels == {depth: RUNGS.index(depth) if depth in RUNGS else None for depth in levels}


def test_a_ladder_beside_keeps_levels(folder: Path) -> None:
    bundle = open_bundle(folder)
    bundle.put_ladder(ladder_of(bundle), use=False)
    session = open_bundle(folder).session(artifact="gated", threads=1)
    assert session.ladder == LADDER
    assert session.measured_ladder is not None


def test_a_ladder_holds_for_what_it_was_measured_of(folder: Path) -> None:
    """The artifacts by their hashes, the runtime, the precision and the device."""
    bundle = open_bundle(folder)
    own = ladder_of(bundle)
    for stranger in (
        {"artifacts": ["d" * 64]},
        {"runtime": "openvino"},
        {"precision": "bf16"},
        {"device": "another"},
    ):
        edit_manifest(folder, lambda found: found.update(measured=[]))
        bundle = open_bundle(folder)
        bundle.put_ladder(own.model_copy(update=stranger), use=False)
        session = bundle.session(artifact="gated", threads=1)
        assert session.measured_ladder is None
        assert bool(session.measured_elsewhere) is ("device" in stranger)
    bundle.put_ladder(own, use=False)
    assert bundle.session(artifact="gated").measured_ladder == own
    assert bundle.session(artifact="set").measured_ladder is None


def test_of_several_the_newest_with_as_many_threads_holds(folder: Path) -> None:
    bundle = open_bundle(folder)
    found = {
        threads: ladder_of(bundle, threads=threads, when=str(threads)) for threads in (2, None, 4)
    }
    for ladder in found.values():
        bundle.put_ladder(ladder, use=False)
    for threads in (2, 4, None):
        session = bundle.session(artifact="gated", threads=threads)
        assert session.measured_ladder == found[threads]
    assert bundle.session(artifact="gated", threads=3).measured_ladder == found[4]
    # Measured again, it takes the place of the one before.
    newer = ladder_of(bundle, threads=2, when="later")
    bundle.put_ladder(newer, use=False)
    assert [item.when for item in bundle.manifest.measured] == ["None", "4", "later"]


def test_a_set_needs_its_rungs_alone(folder: Path) -> None:
    """A static graph of another depth, added later, makes no difference."""
    bundle = open_bundle(folder)
    (first, *_) = bundle.artifacts("set", format="onnx")
    bundle.put_ladder(ladder_of(bundle, artifacts=[first.sha256]), use=False)
    assert bundle.session(artifact="set").measured_ladder is not None


def test_what_cannot_be_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(folder)
    ladder = ladder_of(bundle)
    before = (folder / MANIFEST).read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anydepth_deploy.bundle.files.write_manifest", full)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        bundle.put_ladder(ladder, use=True)
    monkeypatch.undo()
    assert (folder / MANIFEST).read_bytes() == before
    newer = json.loads(before) | {"version": "1.99"}
    (folder / MANIFEST).write_text(json.dumps(newer))
    bundle = open_bundle(folder)
    for write in (bundle.try_to_write, lambda: bundle.put_ladder(ladder, use=True)):
        with pytest.raises(BundleError, match="would lose what is new in it"):
            write()


# --- exported again ----------------------------------------------------------------------------


def test_exporting_again_keeps_levels_and_graphs(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without words, by force, and in another precision: rows are the exported ones, levels those
    in use, and nothing that is there is made again."""
    from anydepth_deploy.exporting.export import export_bundle

    fake = FakeGraphs().install(monkeypatch)
    out = tmp_path / "b"
    bundle = export_bundle(checkpoint, out, layouts=["gated", "set"])
    rows = [str(depth) for depth in bundle.table.rows]
    rungs = ["TTTT-T-3", "TFTT-F-2", "FFFF-F-3"]
    ladder = ladder_of(bundle).model_copy(
        update={
            "rungs": [Rung(depth=depth, milliseconds=1, score=1) for depth in rungs],
            "artifacts": [bundle.artifacts("gated")[0].sha256],
        }
    )
    bundle.put_ladder(ladder, use=True)
    saved = list(fake.saved)
    for force in (False, True):
        found = export_bundle(checkpoint, out, layouts=["gated"], force=force)
        assert fake.saved == saved
        assert found.manifest.ladder == rungs
        assert [str(depth) for depth in found.table.rows] == rows
        assert [item.when for item in found.manifest.measured] == [ladder.when]
    # The rungs that have no static graph yet get theirs.
    found = export_bundle(checkpoint, out, layouts=["set"])
    assert len(fake.saved) == len(saved) + 1
    assert {item.depth: item.level for item in found.artifacts("set")}["TFTT-F-2"] == 1
    # Another ladder is another export, as it was.
    with pytest.raises(BundleError, match="holds another export"):
        export_bundle(checkpoint, out, ladder=",".join(rungs))

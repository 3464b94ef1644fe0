"""Layout ``stages`` from the checkpoint to detections: the pieces of a network, chained.

The oracles are torch (at every depth, through `verify`) and the gated graph of the same export.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAINED, random_images
from trained_networks import CHECKPOINTS, FAMILIES

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.errors import BundleError, UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.suppression import Suppression
from anydepth_deploy.verifying.graphs import verify

YOLO = CHECKPOINTS["anydepth-yolo"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def staged(family: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Pieces, and the gated graph of the same weights, in FP32 and FP16. Read only."""
    out = tmp_path_factory.mktemp("staged") / family
    layouts = ["gated", "stages"]
    precision = ["fp32", "fp16"]
    return export_bundle(
        CHECKPOINTS[family], out, layouts=layouts, weights=["folded"], precision=precision
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_parity_with_torch(staged: Bundle, family: str, precision: str) -> None:
    """At every depth in FP32; in FP16, whose pieces differ by rounding only, at every rung."""
    depths = staged.table.rows if precision == "fp32" else staged.table.ladder
    batches = verification_batches(staged.manifest.preprocess)
    report = verify(
        staged,
        str(CHECKPOINTS[family]),
        batches,
        depths=depths,
        layout="stages",
        precision=precision,
        record=False,
    )
    assert report.passed, [row for row in report.rows if not row.passed][:3]
    assert {row.depth for row in report.rows} == {str(depth) for depth in depths}
    assert sum(row.detections for row in report.rows) > 0


def test_pieces_give_what_the_gated_graph_gives(staged: Bundle) -> None:
    gated = staged.session(artifact="gated", raw=True, threads=1)
    pieces = staged.session(artifact="stages", raw=True, threads=1)
    assert pieces.depths == gated.depths == staged.table.rows
    height, width = staged.size
    for batch in (1, 3):
        images = random_images(batch, height, width, seed=batch)
        for depth in (*staged.table.ladder, *staged.table.rows[len(staged.table.ladder) :: 29]):
            found, raw = pieces.run_both(images, depth)
            wanted, wanted_raw = gated.run_both(images, depth)
            assert raw.keys() == wanted_raw.keys()
            for name, array in wanted_raw.items():
                np.testing.assert_array_equal(raw[name], array, err_msg=f"{name} at {depth}")
            np.testing.assert_array_equal(found.labels, wanted.labels)
            np.testing.assert_array_equal(found.boxes, wanted.boxes)
            np.testing.assert_array_equal(found.scores, wanted.scores)


def test_a_depth_after_another_is_not_disturbed_by_it(staged: Bundle) -> None:
    """Tensors that a stage passes on must not be left over from the depth before."""
    session = staged.session(artifact="stages", threads=1)
    images = random_images(2, *staged.size)
    first = {str(depth): session.run(images, depth) for depth in staged.table.ladder}
    for depth in reversed(staged.table.ladder):
        again = session.run(images, depth)
        np.testing.assert_array_equal(again.boxes, first[str(depth)].boxes)
        np.testing.assert_array_equal(again.scores, first[str(depth)].scores)


def test_what_the_manifest_says_of_pieces(staged: Bundle) -> None:
    pieces = staged.artifacts("stages", "fp32")
    assert {item.piece.total for item in pieces if item.piece} == {len(pieces)}
    assert all(item.depth is None and item.weights == "folded" for item in pieces)
    network = staged.artifacts("gated", "fp32")[0]
    assert sum(item.bytes for item in pieces) <= 1.02 * network.bytes
    half = staged.artifacts("stages", "fp16")
    kept = {(one.node, one.reason) for item in half for one in item.kept}
    assert kept == {(one.node, one.reason) for one in staged.artifacts("gated", "fp16")[0].kept}
    assert sum(len(item.kept) for item in half) >= len(kept) > 0


def test_exporting_again_makes_only_the_piece_that_is_missing(
    staged: Bundle, family: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(staged.path, tmp_path / "bundle"))
    pieces = staged.artifacts("stages", "fp32")
    before = {item.name: (copy / item.file).stat().st_mtime_ns for item in staged.artifacts()}
    (copy / pieces[1].file).unlink()
    found = export_bundle(CHECKPOINTS[family], copy, layouts=["stages"])
    assert {item.name: item.sha256 for item in found.artifacts()} == {
        item.name: item.sha256 for item in staged.artifacts()
    }
    others = [item for item in staged.artifacts() if item != pieces[1]]
    assert all((copy / item.file).stat().st_mtime_ns == before[item.name] for item in others)


def test_a_chain_with_a_piece_missing_is_refused(staged: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(staged.path, tmp_path / "bundle"))
    manifest = json.loads((copy / MANIFEST).read_text())
    gone = staged.artifacts("stages", "fp32")[2].name
    manifest["artifacts"] = [item for item in manifest["artifacts"] if item["name"] != gone]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"the chain has \d+ pieces, expected \d+.*again"):
        open_bundle(copy).session(artifact="stages")


def test_a_piece_that_was_altered_is_refused(staged: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(staged.path, tmp_path / "bundle"))
    piece = copy / staged.artifacts("stages", "fp32")[0].file
    content = bytearray(piece.read_bytes())
    content[-100] ^= 1
    piece.write_bytes(content)
    with pytest.raises(BundleError, match="was altered"):
        open_bundle(copy).session(artifact="stages")


def test_a_depth_has_no_meaning_for_stages(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds every depth"):
        export_bundle(TRAINED, tmp_path / "bundle", layouts=["stages"], depth="base")


@pytest.mark.parametrize("where", ["graph", "host"])
def test_suppression_behind_a_chain(where: str, tmp_path: Path) -> None:
    rule = Suppression.model_validate({"where": where})
    found = export_bundle(YOLO, tmp_path / where, layouts=["gated", "stages"], suppression=rule)
    images = random_images(2, *found.size)
    for depth in found.table.ladder:
        one = found.session(artifact="stages", threads=1).run(images, depth)
        other = found.session(artifact="gated", threads=1).run(images, depth)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_gathers_instead_of_grid_sample(tmp_path: Path) -> None:
    found = export_bundle(
        TRAINED, tmp_path / "bundle", layouts=["gated", "set", "stages"], deformable="gather"
    )
    assert {item.deformable for item in found.artifacts()} == {"gather"}
    assert all(item.name.endswith("-gather") for item in found.artifacts())
    batches = verification_batches(found.manifest.preprocess)
    for layout in ("gated", "set", "stages"):
        report = verify(found, str(TRAINED), batches, layout=layout, record=False)
        assert report.passed
    with pytest.raises(UsageError, match="no deformable attention"):
        export_bundle(YOLO, tmp_path / "yolo", deformable="gather")

"""Gated graphs on ONNX Runtime with each depth opened by itself (``kept_depths``).

Oracles: the network in torch; onnx's own reading of the file for where weights lie in it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from comparisons import assert_close
from conftest import random_images
from onnx_graphs import onnx_file

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, InputError, UsageError
from anydepth_deploy.runtimes.onnxruntime.engine import DepthsEngine
from anydepth_deploy.runtimes.onnxruntime.fixed_depth import LEAST, fix_depth

SIDE = 160
FAMILIES = ("", "yolo_")
WEIGHTS = ("shared", "folded")


def engine_of(session: Session) -> DepthsEngine:
    ((_, engine),) = session._engines.opened()
    assert isinstance(engine, DepthsEngine)
    return engine


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("prefix", FAMILIES)
def test_a_depth_computes_what_the_network_does(
    request: pytest.FixtureRequest, prefix: str, weights: str
) -> None:
    """Rungs and others, batches of 1 and 3, in an order that reopens what was let go."""
    bundle: Bundle = request.getfixturevalue(f"{prefix}bundle")
    model: Any = request.getfixturevalue(f"{prefix}model")
    last = len(bundle.table.rows) - 1
    session = bundle.session(artifact="gated", weights=weights, threads=1, kept_depths=2)
    assert engine_of(session).compiled == (bundle.table.levels - 1,)
    for row, batch in ((0, 3), (last, 1), (bundle.table.levels - 1, 1), (last // 2, 3), (0, 1)):
        images = random_images(batch, SIDE, SIDE, seed=row)
        found = session.run(images, row)
        with torch.inference_mode():
            expected = model.detect(torch.from_numpy(images), row)
        names = ("labels", "boxes", "scores")
        assert_close(found, Detections(*(expected[name].numpy() for name in names)))
    assert engine_of(session).compiled == (last // 2, 0)


def constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from constants(attribute.g)


@pytest.mark.parametrize("prefix", FAMILIES)
def test_weights_stay_where_they_are_in_the_file(
    request: pytest.FixtureRequest, prefix: str
) -> None:
    path = onnx_file(request.getfixturevalue(f"{prefix}bundle"), "gated", "shared")
    whole, content = onnx.load(path), path.read_bytes()
    found = onnx.load_model_from_string(fix_depth(path, 5, "elsewhere.onnx"))
    assert [value.name for value in found.graph.input] == ["images"]
    # The rest is as it was, field by field.
    depth = found.graph.initializer.pop()
    assert depth.name == "depth"
    assert onnx.numpy_helper.to_array(depth).tolist() == 5
    assert [value.name for value in whole.graph.input] == ["images", "depth"]
    del whole.graph.input[1]
    moved = 0
    for one, other in zip(constants(found.graph), constants(whole.graph), strict=True):
        if len(other.raw_data) >= LEAST:
            entries = {item.key: item.value for item in one.external_data}
            assert entries["location"] == "elsewhere.onnx"
            assert one.data_location == onnx.TensorProto.EXTERNAL
            begin, size = int(entries["offset"]), int(entries["length"])
            assert content[begin : begin + size] == other.raw_data
            one.ClearField("external_data")
            one.ClearField("data_location")
            one.raw_data = other.raw_data
            moved += size
    assert found == whole
    assert moved > 0.8 * len(content)


def test_raw_outputs_and_rounding_may_be_added(bundle: Bundle) -> None:
    images = random_images(2, SIDE, SIDE)
    plain, alone = (
        bundle.session(artifact="gated", threads=1, raw=True, kept_depths=kept).run_raw(images, 0)
        for kept in (None, 1)
    )
    assert plain.keys() == alone.keys()
    for name, array in plain.items():
        assert np.allclose(np.asarray(alone[name], float), np.asarray(array, float), atol=1e-4)


def test_only_gated_graphs_are_opened_so(bundle: Bundle) -> None:
    images = random_images(1, SIDE, SIDE)
    session = bundle.session(artifact="set", threads=1, kept_depths=1)
    assert len(session.run(images, 0).labels) == 1
    ((_, engine),) = session._engines.opened()
    assert not isinstance(engine, DepthsEngine)
    with pytest.raises(UsageError, match="kept_depths is 0: expected at least 1"):
        bundle.session(kept_depths=0)


def test_loading_opens_the_ladder(bundle: Bundle) -> None:
    session = bundle.session(artifact="gated", threads=1, kept_depths=9)
    session.load()
    assert set(engine_of(session).compiled) == set(range(bundle.table.levels))


def test_needs_no_onnx_package(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    session = bundle.session(artifact="gated", threads=1, kept_depths=1)
    assert len(session.run(random_images(1, SIDE, SIDE), 0).labels) == 1


@pytest.mark.parametrize(
    "row", [np.asarray(-1), np.asarray(10**6), np.zeros(1, int), np.asarray(1.0)]
)
def test_rows_that_do_not_exist(bundle: Bundle, row: Any) -> None:
    engine = engine_of(bundle.session(artifact="gated", threads=1, kept_depths=1))
    with pytest.raises(InputError, match=r"depth is .*; expected one integer, a row of"):
        engine.run({"images": random_images(1, SIDE, SIDE), "depth": row}, ["scores"])


def test_a_file_that_was_replaced_meanwhile(bundle_copy: Path) -> None:
    """Weights would be read from the wrong places of it: only open depths go on."""
    bundle = open_bundle(bundle_copy)
    session = bundle.session(artifact="gated", threads=1, kept_depths=2)
    images = random_images(1, SIDE, SIDE)
    before = session.run(images)
    path = engine_of(session).path
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    np.testing.assert_array_equal(session.run(images).scores, before.scores)
    with pytest.raises(BundleError, match="was replaced since this session was opened"):
        session.run(images, "base")
    path.unlink()
    with pytest.raises(BundleError, match="was replaced since"):
        session.run(images, "base")


def test_a_file_of_several_names(bundle_copy: Path, tmp_path: Path) -> None:
    """As in a Triton repository: ONNX Runtime takes weights out of such a file for an attack."""
    for path in bundle_copy.glob("*.onnx"):
        other = tmp_path / f"copy-{path.name}"
        shutil.copy(path, other)
        path.unlink()
        path.hardlink_to(other)
    images, bundle = random_images(1, SIDE, SIDE), open_bundle(bundle_copy)
    whole, alone = (bundle.session(artifact="gated", threads=1, kept_depths=k) for k in (None, 1))
    for depth in ("base", "super"):
        assert np.allclose(
            alone.run(images, depth).scores, whole.run(images, depth).scores, atol=1e-5
        )


def test_a_linked_file(bundle_copy: Path, tmp_path: Path) -> None:
    """Its weights lie where the link leads."""
    for path in bundle_copy.glob("*.onnx"):
        target = tmp_path / f"kept-{path.name}"
        path.rename(target)
        path.symlink_to(target)
    session = open_bundle(bundle_copy).session(artifact="gated", threads=1, kept_depths=1)
    assert len(session.run(random_images(1, SIDE, SIDE), "base").labels) == 1

"""Exports of DETRs whose decoder alone can stop early: torch is the oracle, at every exit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from conftest import random_images
from onnx_sessions import quiet_session
from processors import has_bf16, refuses_int8
from static_bundles import EXITS, KINDS, SIZE, quantised_bundle, static_bundle, static_checkpoint
from static_detrs import static_detr

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.graph import pieces as pieces_module
from anydepth_deploy.graph.assemble import assemble_gated, assemble_static
from anydepth_deploy.graph.passes.deformable import gather_samples
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.graph.pieces import export_pieces
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.verifying.graphs import Report, verify

CONVOLUTIONS = {"rt-detr": 51, "rt-detr-hgnetv2": 68, "d-fine": 83}
"""Of the graphs, all of which are quantised."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def exported(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return static_bundle(kind, tmp_path_factory)


def verified(
    bundle: Bundle, kind: str, folders: pytest.TempPathFactory, precision: str, **options: Any
) -> Report:
    return verify(
        bundle,
        str(static_checkpoint(kind, folders)),
        verification_batches(bundle.manifest.preprocess),
        precision=precision,
        threads=1,
        record=False,
        **options,
    )


def graph_of(bundle: Bundle, layout: str = "gated", precision: str = "fp32") -> ir.Model:
    (item,) = (
        item for item in bundle.artifacts(layout, precision) if item.depth in (None, EXITS[-1])
    )
    return ir.load(bundle.file(item))


def walk(model: ir.Model) -> Iterator[ir.Node]:
    for graph in graphs_of(model.graph):
        yield from graph


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_exit_equals_torch(
    exported: Bundle, kind: str, precision: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Gated, static and in pieces; batches of one and of three."""
    report = verified(exported, kind, tmp_path_factory, precision)
    assert report.passed, [row for row in report.rows if not row.passed][:3]
    assert Counter(row.depth for row in report.rows) == dict.fromkeys(EXITS, 3)
    # Random as the networks are, they find things, and know which.
    assert sum(row.detections for row in report.rows) > 100
    for row in report.rows:
        assert all(row.differences[name] > 0 for name in ("logits", "boxes"))


def test_layers_differ(exported: Bundle) -> None:
    """Else a graph that ends at another layer would pass for the right one."""
    session = exported.session(artifact="gated", raw=True, threads=1)
    images = random_images(1, *SIZE)
    found = [session.run_raw(images, depth) for depth in EXITS]
    for one, other in pairwise(found):
        np.testing.assert_array_equal(one["queries"], other["queries"])
        for name, least in (("logits", 0.1), ("boxes", 0.001)):
            assert np.max(np.abs(np.subtract(one[name], other[name]))) > least


def test_layers_after_the_first_alone_are_conditional(exported: Bundle) -> None:
    model = graph_of(exported)
    conditions = [node for node in model.graph if node.op_type == "If"]
    assert [node.name for node in conditions] == ["decoder2/If", "decoder3/If"]
    assert sum(node.op_type == "If" for node in walk(model)) == 2
    for node in conditions:
        skipped = {inner.op_type for inner in node.attributes["else_branch"].as_graph()}
        assert skipped == {"Identity"}


def test_a_gated_graph_is_the_static_one_and_its_heads(exported: Bundle) -> None:
    """All constants of the deepest static graph, and heads of the exits before it."""

    def constants(model: ir.Model) -> int:
        values = (
            value for graph in graphs_of(model.graph) for value in graph.initializers.values()
        )
        return sum(value.const_value.nbytes for value in values if value.const_value is not None)

    gated, static = constants(graph_of(exported)), constants(graph_of(exported, "set"))
    family = find_family(exported.manifest.family)
    config = family.sizes[exported.manifest.config]
    heads = (config.decoder_layers - 1) * (config.decoder_hidden + 1) * config.classes * 4
    if family.name == "d-fine":
        inner = 4 * (config.best + 1)
        heads += (config.decoder_layers - 1) * 4 * (config.quality * (inner + 2) + 1)
    # Beside those the table of depths, and small constants that are stored once or twice.
    assert abs(gated - static - heads) <= 2048


def test_dfine_samples_maps_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every map reaches GridSample by one Reshape: nothing is transposed or split."""
    model = graph_of(static_bundle("d-fine", tmp_path_factory))
    sampled = [node.inputs[0] for node in walk(model) if node.op_type == "GridSample"]
    assert len(sampled) == 3 * len(EXITS)
    sources: Counter[str] = Counter()
    for value in sampled:
        assert value is not None
        node = value.producer()
        assert node is not None
        assert node.op_type == "Reshape"
        source = node.inputs[0]
        assert source is not None
        sources[source.name or ""] += 1
    assert sorted(sources.values()) == [3, 3, 3]
    assert all(name.startswith("encoder.full/") for name in sources)


@pytest.mark.parametrize(("precision", "limits"), [("fp32", (1e-4, 1e-5)), ("fp16", (0.02, 0.002))])
def test_gathers_give_what_grid_sampling_gives(
    exported: Bundle, precision: str, limits: tuple[float, float]
) -> None:
    before, after = (graph_of(exported, precision=precision) for _ in range(2))
    assert gather_samples(after) == 3 * len(EXITS)
    assert not any(node.op_type == "GridSample" for node in walk(after))
    names = ["raw_logits", "raw_boxes", "raw_queries"]
    sessions = [quiet_session(model) for model in (before, after)]
    for row, batch in enumerate((1, 2, 3)):
        feeds = {"images": random_images(batch, *SIZE, seed=row), "depth": np.asarray(row)}
        expected, found = (
            dict(zip(names, session.run(names, feeds), strict=True)) for session in sessions
        )
        np.testing.assert_array_equal(found["raw_queries"], expected["raw_queries"])
        for name, limit in zip(names, limits, strict=False):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=limit)


def test_nothing_goes_through_torchs_exporter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "_by_torch", lambda *_: pytest.fail("torch was asked"))
    assert export_pieces(static_detr(*KINDS[kind]), SIZE).pieces


def test_quantised_graphs_are_close(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For ONNX Runtime and for TensorRT, at every exit."""
    bundle = quantised_bundle(kind, tmp_path_factory)
    assert {item.quantised for item in bundle.artifacts()} == {CONVOLUTIONS[kind]}
    report = verified(bundle, kind, tmp_path_factory, "int8")
    assert report.passed, [row for row in report.rows if not row.passed][:3]
    assert Counter(row.depth for row in report.rows) == {"L1": 4, "L2": 2, "L3": 2}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino(kind: str, precision: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    reason = "needs OpenVINO: pip install 'anydepth-deploy[openvino]'"
    pytest.importorskip("openvino", reason=reason)
    if precision == "bf16" and not has_bf16():
        pytest.skip("this processor computes no BF16")
    make = quantised_bundle if precision == "int8" else static_bundle
    bundle = make(kind, tmp_path_factory)
    options = {"runtime": "openvino", "layout": "gated"}
    if precision == "int8" and refuses_int8(
        lambda: verified(bundle, kind, tmp_path_factory, precision, **options)
    ):
        return
    report = verified(bundle, kind, tmp_path_factory, precision, **options)
    assert report.passed, [row for row in report.rows if not row.passed][:3]
    assert {row.depth for row in report.rows} == set(EXITS)
    names = {row.artifact for row in report.rows}
    own = {"gated-int8-shared-openvino"} if precision == "int8" else {"gated-fp32-shared"}
    assert own <= names


@pytest.mark.parametrize(
    ("family", "size"), [("rt-detr", "r18"), ("d-fine", "n"), ("d-fine", "s"), ("d-fine", "x")]
)
def test_files_of_published_sizes(family: str, size: str) -> None:
    """One gated file is at most 1.02 of the deepest static one, and gives what that gives."""
    model = static_detr(family, size)
    pieces = export_pieces(model, (320, 352))
    gated = assemble_gated(pieces, model.table, "shared", raw=True)
    static = assemble_static(pieces, model.table.space.super, raw=True)
    files = [ir.to_proto(item).SerializeToString() for item in (gated, static)]
    assert len(files[0]) <= 1.02 * len(files[1])
    images = random_images(1, 320, 352)
    feeds = {"images": images, "depth": np.asarray(model.table.levels - 1)}
    names = ["raw_logits", "raw_boxes"]
    found = quiet_session(gated).run(names, feeds)
    expected = quiet_session(static).run(names, {"images": images})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)

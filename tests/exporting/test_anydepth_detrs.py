"""Exports of any-depth RT-DETRs and D-FINEs: an independent oracle at every depth of the gated
graph, torch for what is static, in pieces, lowered or quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from anydepth_detrs import NETWORKS, anydepth_network, family_of, oracle
from comparisons import assert_equal_by_token
from conftest import random_images
from once import once

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.graph.passes.placement import graphs_of
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.verifying.graphs import Report, verify

SIZE = (96, 160)
KINDS = ("basic", "d-fine wide")
"""With the decoder's projections in the encoder's variants; the second reads its maps."""


def checkpoint(name: str, folders: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        model = anydepth_network(name)
        remember = family_of(name).remember
        content = {"ema": {"module": model.state_dict()}, "network": remember(model.config)}
        torch.save(content, folder / "c.pth")

    return once(folders, f"anydepth-{name}", make) / "c.pth"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def exported(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Gated, static and in pieces, in FP32 and FP16, with raw outputs. Read only."""
    return open_bundle(
        export_bundle(
            checkpoint(kind, tmp_path_factory),
            tmp_path_factory.mktemp("anydepth") / "bundle",
            layouts=["gated", "set", "stages"],
            precision=["fp32", "fp16"],
            raw=True,
            input_size=SIZE,
        ).path
    )


def verified(bundle: Bundle, kind: str, folders: pytest.TempPathFactory, **options: Any) -> Report:
    return verify(
        bundle,
        str(checkpoint(kind, folders)),
        verification_batches(bundle.manifest.preprocess),
        threads=1,
        record=False,
        **options,
    )


def assert_graph_equals_the_oracle(bundle: Bundle, name: str) -> None:
    session = bundle.session(artifact="gated", raw=True, threads=1)
    state = dict(anydepth_network(name).state_dict())
    for row, depth in enumerate(bundle.table.rows):
        images = random_images(2, *SIZE, seed=row)
        found = session.run_raw(images, row)
        expected = oracle(name, state, torch.from_numpy(images), depth)
        assert_equal_by_token(found, expected, str(depth))


def test_every_depth_equals_the_oracle(exported: Bundle, kind: str) -> None:
    """Batch of two, not square."""
    assert len(exported.table.rows) == {"basic": 12, "d-fine wide": 16}[kind]
    assert_graph_equals_the_oracle(exported, kind)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in KINDS])
def test_other_networks_equal_the_oracle(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = checkpoint(name, tmp_path_factory)
    bundle = export_bundle(path, tmp_path / "bundle", raw=True, input_size=SIZE)
    assert_graph_equals_the_oracle(bundle, name)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_layouts_equal_torch(
    exported: Bundle, kind: str, precision: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    report = verified(exported, kind, tmp_path_factory, precision=precision)
    assert report.passed, [row for row in report.rows if not row.passed][:3]
    assert {row.depth for row in report.rows} >= set(map(str, exported.table.ladder))
    assert {row.artifact.split("-")[0] for row in report.rows} == {"gated", "static", "stages"}
    assert sum(row.detections for row in report.rows) > 100


def test_queries_are_selected_once(exported: Bundle) -> None:
    """The decoder's projections are in the encoder's variants, and constants there; what follows
    has one form."""
    (item,) = exported.artifacts("gated", "fp32")
    model = ir.load(exported.file(item))
    nodes = [node for graph in graphs_of(model.graph) for node in graph]
    assert sum(node.op_type == "TopK" for node in nodes if "queries" in (node.name or "")) == 1
    names = {node.name for node in model.graph if node.op_type == "If"}
    assert {"encoder/If", "layer3/If"} <= names or {"encoder/If", "layer2/If"} <= names
    assert "queries/If" not in names


def test_quantised_graphs_are_close(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, table = checkpoint(kind, tmp_path_factory), tmp_path / "table.json"
    write_coco(tmp_path / "pictures", 24, 7, "train")
    options: dict[str, Any] = {"probe": 0, "batch": 8, "threads": 1, "input_size": SIZE}
    calibrate(path, tmp_path / "pictures", table, **options)
    bundle = export_bundle(
        path,
        tmp_path / "bundle",
        precision=["int8"],
        targets=["onnxruntime"],
        ranges=table,
        raw=True,
        input_size=SIZE,
    )
    report = verified(bundle, kind, tmp_path_factory, precision="int8")
    assert report.passed, [row for row in report.rows if not row.passed][:3]
    assert {row.depth for row in report.rows} >= set(map(str, bundle.table.ladder))

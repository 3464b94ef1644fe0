"""AnyDepth-DETR whose shortcuts and decoder projections have two norm sets, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from comparisons import assert_equal_by_token
from conftest import random_detr, random_images
from onnx_sessions import quiet_session
from oracle_detr import run_oracle
from static_detr_cases import shapes_of

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.detr import FAMILY
from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig, deepen
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.detr.recognise import recognise_detr
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.second_sets import with_second_sets
from anydepth_deploy.graph.assemble import assemble_gated
from anydepth_deploy.graph.pieces import export_pieces

ADDED = {
    *(f"backbone.layer{stage}.0.downsample_skip" for stage in range(1, 5)),
    *(f"decoder.input_proj.{level}.norm_skippable" for level in range(3)),
}


@pytest.fixture(scope="module")
def switched() -> AnyDepthDETR:
    return randomise(AnyDepthDETR(deepen(CONFIGS["tiny"])))


def test_keys(switched: AnyDepthDETR) -> None:
    before = {key.rpartition(".")[0] for key in AnyDepthDETR(CONFIGS["tiny"]).state_dict()}
    after = {key.rpartition(".")[0] for key in switched.state_dict()}
    assert after - before == ADDED
    assert before < after


@torch.no_grad()
def test_depths_equal_the_oracle(switched: AnyDepthDETR) -> None:
    images = torch.from_numpy(random_images(2, 96, 160))
    for depth in switched.space.every[::5]:
        found = {name: value.numpy() for name, value in switched(images, depth).items()}
        expected = run_oracle(switched, images, depth.settings)
        assert_equal_by_token(found, expected, str(depth))


def test_depths_of_its_graph_equal_the_oracle(switched: AnyDepthDETR, tmp_path: Path) -> None:
    path = tmp_path / "gated.onnx"
    pieces = export_pieces(switched, (96, 160))
    ir.save(assemble_gated(pieces, switched.table, "shared", raw=True), path)
    session = quiet_session(path)
    names = [value.name for value in session.get_outputs()]
    images = random_images(2, 96, 160)
    for row, depth in list(enumerate(switched.table.rows))[::7]:
        values = session.run(None, {"images": images, "depth": np.asarray(row)})
        expected = run_oracle(switched, torch.from_numpy(images), depth.settings)
        assert_equal_by_token(dict(zip(names, values, strict=True)), expected, str(depth))


@pytest.mark.parametrize("size", ["tiny", "tiny-fine"])
@torch.no_grad()
def test_copies_leave_all_depths_as_they_were(size: str) -> None:
    before = random_detr(size)
    after = AnyDepthDETR(deepen(CONFIGS[size]))
    after.load_state_dict(with_second_sets(before.state_dict(), after.state_dict()))
    after.eval()
    images = torch.from_numpy(random_images(2, 96, 160))
    for depth in ("super", "base", "FTTF-F-2"):
        one, other = before(images, depth), after(images, depth)
        assert all(torch.equal(value, other[key]) for key, value in one.items()), depth


@torch.no_grad()
def test_second_sets_go_with_their_own_gate(switched: AnyDepthDETR) -> None:
    images = torch.from_numpy(random_images(1, 96, 160))
    for path, depth, other in (
        ("backbone.layer3.0.downsample_skip", "FFTF-F-3", "TTFT-T-3"),
        ("decoder.input_proj.1.norm_skippable", "FFFF-T-3", "TTTT-F-3"),
    ):
        changed = AnyDepthDETR(switched.config)
        state = {key: value.clone() for key, value in switched.state_dict().items()}
        state[f"{path}.weight"] *= 1.5
        changed.load_state_dict(state)
        changed.eval()
        assert not torch.equal(changed(images, depth)["logits"], switched(images, depth)["logits"])
        assert torch.equal(changed(images, other)["logits"], switched(images, other)["logits"])


def test_multiply_adds_are_those_of_the_authors_networks(switched: AnyDepthDETR) -> None:
    before, after = (count_macs(m, (160, 160)) for m in (random_detr(), switched))
    for depth in switched.ladder:
        assert before.at(depth)["total"] == after.at(depth)["total"]
        assert before.executed(depth) == after.executed(depth)


@pytest.mark.parametrize("size", list(CONFIGS))
def test_read_from_the_keys(size: str) -> None:
    with torch.device("meta"):
        for config in (CONFIGS[size], deepen(CONFIGS[size])):
            found = recognise_detr(shapes_of(AnyDepthDETR(config).state_dict()))
            assert found == config


@pytest.mark.parametrize("path", sorted(ADDED))
def test_part_of_them_is_refused(switched: AnyDepthDETR, path: str) -> None:
    shapes = shapes_of(switched.state_dict())
    less = {key: shape for key, shape in shapes.items() if not key.startswith(path)}
    found = recognise_detr(less)
    assert isinstance(found, Refusal)
    assert "with part of the second norm sets" in found.reason
    assert "expected all 7 or none" in found.reason
    assert "\n" not in found.reason


def test_files_of_both_kinds_load(switched: AnyDepthDETR, tmp_path: Path) -> None:
    for model in (random_detr(), switched):
        torch.save({"ema": {"module": model.state_dict()}}, tmp_path / "c.pth")
        found = read_checkpoint(tmp_path / "c.pth")
        assert found.config == model.config
        images = torch.from_numpy(random_images(1, 96, 160))
        with torch.no_grad():
            loaded = load_model(found)(images, "base")
            assert torch.equal(loaded["logits"], model(images, "base")["logits"])
    state = dict(switched.state_dict())
    del state["backbone.layer2.0.downsample_skip.running_var"]
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"1 missing keys: backbone.*downsample_skip"):
        load_model(read_checkpoint(tmp_path / "c.pth"))


def test_what_no_key_tells_is_remembered(tmp_path: Path) -> None:
    assert FAMILY.remember is not None
    fine = CONFIGS["tiny-fine"]
    assert fine.fine is not None
    changes: list[DetrConfig] = [
        CONFIGS["tiny"].replace(queries=40, max_detections=50),
        deepen(fine).replace(fine=fine.fine.__class__(4, 256, False, True, "nearest")),
        CONFIGS["tiny"].replace(input_size=(96, 160)),
    ]
    for config in changes:
        state: dict[str, Any] = randomise(AnyDepthDETR(config)).state_dict()
        content = {"ema": {"module": state}, "network": FAMILY.remember(config)}
        torch.save(content, tmp_path / "c.pth")
        assert read_checkpoint(tmp_path / "c.pth").config == config

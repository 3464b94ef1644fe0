"""``ladder --diagnose`` tells a sound network from one whose stages fit at both ends only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import Run
from conftest import random_images
from trained_networks import CHECKPOINTS, trained
from unaligned import FACTOR, STAGES, write_unaligned

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.pictures.shapes import write_coco


def test_the_unaligned_network_is_as_it_was_at_both_ends(tmp_path: Path) -> None:
    """Of the stand-in itself, in torch."""
    sound = trained("anydepth-detr").eval()
    other = load_model(read_checkpoint(write_unaligned(tmp_path / "c.pth"))).eval()
    images = torch.from_numpy(random_images(2, 160, 160))
    with torch.inference_mode():
        for depth, same in (("base", True), ("super", True), ("FTFF-F-3", False)):
            one, two = (model(images, depth)["logits"] for model in (sound, other))
            far = float((one - two).abs().max())
            assert (far < 1e-2) is same, (depth, far)
    assert far > 1


@pytest.mark.parametrize("spoilt", [False, True])
def test_the_diagnosis_names_the_stages(tmp_path: Path, spoilt: bool, run: Run) -> None:
    checkpoint = CHECKPOINTS["anydepth-detr"]
    if spoilt:
        checkpoint = write_unaligned(tmp_path / "c.pth")
    export_bundle(checkpoint, tmp_path / "bundle", layouts=["stages"])
    data = write_coco(tmp_path / "shapes", 48, 0)
    picture = tmp_path / "health.png"
    words = ("--threads", 1, "--most", 24, "--json", "--plot", picture)
    done = run("ladder", tmp_path / "bundle", "--data", data, "--diagnose", *words)
    found = json.loads(done.out)
    assert picture.stat().st_size > 10_000
    stages = {item["stage"]: item for item in found["stages"]}
    layer1 = stages[STAGES[0]]["own"]
    scores = {item["depth"]: item["score"] for item in found["depths"]}
    assert scores["TTTT-T-3"] > 65  # both ends are as good as ever
    assert scores["FFFF-F-3"] > 70
    if not spoilt:
        assert done.code == 0
        assert found["sound"]
        assert found["cliffs"] == []
        assert layer1[0]["cosine"] > 0.9
        assert 0.7 < layer1[0]["norms"] < 1.3
        return
    assert done.code == 1
    assert "cliffs" in done.err
    assert FACTOR / 2 < layer1[0]["norms"] < 2 * FACTOR
    cliffs = {item["depth"]: item for item in found["cliffs"]}
    mixed = {depth for depth in scores if depth[0] != depth[1]}
    assert set(cliffs) == mixed
    assert {item["stage"] for item in cliffs.values()} <= set(STAGES)

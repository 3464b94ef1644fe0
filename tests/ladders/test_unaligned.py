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

MIXED = {"anydepth-detr": "FTFF-F-3", "anydepth-yolo": "FTFFFFFF"}
RAW = {"anydepth-detr": "logits", "anydepth-yolo": "predictions"}


@pytest.mark.parametrize("family", STAGES)
def test_the_unaligned_network_is_as_it_was_at_both_ends(family: str, tmp_path: Path) -> None:
    """Of the stand-in itself, in torch: how far its outputs are from those of the sound one."""
    sound = trained(family).eval()
    other = load_model(read_checkpoint(write_unaligned(family, tmp_path / "c.pth"))).eval()
    images = torch.from_numpy(random_images(2, 160, 160))
    apart = {}
    with torch.inference_mode():
        for depth in ("base", "super", MIXED[family]):
            one, two = (model(images, depth)[RAW[family]] for model in (sound, other))
            apart[depth] = float((one - two).norm() / one.norm())
    assert apart["super"] < 1e-6
    assert apart["base"] < (0.02 if family == "anydepth-yolo" else 1e-4)
    assert apart[MIXED[family]] > 0.15


@pytest.mark.parametrize("family", STAGES)
@pytest.mark.parametrize("spoilt", [False, True])
def test_the_diagnosis_names_the_stages(
    family: str, spoilt: bool, tmp_path: Path, run: Run
) -> None:
    checkpoint = CHECKPOINTS[family]
    if spoilt:
        checkpoint = write_unaligned(family, tmp_path / "c.pth")
    export_bundle(checkpoint, tmp_path / "bundle", layouts=["stages"])
    data = write_coco(tmp_path / "shapes", 32, 0)
    picture = tmp_path / "health.png"
    words = ("--threads", 1, "--most", 20, "--json", "--plot", picture)
    done = run("ladder", tmp_path / "bundle", "--data", data, "--diagnose", *words)
    found = json.loads(done.out)
    assert picture.stat().st_size > 10_000
    stages = {item["stage"]: item for item in found["stages"]}
    first = stages[STAGES[family][0]]["own"][0]
    scores = {item["depth"]: item["score"] for item in found["depths"]}
    base, top = (str(depth) for depth in (trained(family).space.base, trained(family).space.super))
    assert scores[base] > 65  # both ends are as good as ever
    assert scores[top] > 70
    if not spoilt:
        assert done.code == 0
        assert found["sound"]
        assert found["cliffs"] == []
        assert first["cosine"] > 0.9
        assert 0.7 < first["norms"] < 1.3
        return
    assert done.code == 1
    assert "cliffs" in done.err
    assert first["distance"] > 1.5
    if family == "anydepth-detr":
        assert FACTOR / 2 < first["norms"] < 2 * FACTOR
    cliffs = {item["depth"]: item for item in found["cliffs"]}
    mixed = {depth for depth in scores if depth[0] != depth[1]}
    assert set(cliffs) == mixed
    named = {name for item in cliffs.values() for name in item["stage"].split(" and ")}
    assert named == set(STAGES[family])

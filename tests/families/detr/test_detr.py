"""AnyDepth-DETR in torch: published counts, key names, and an independent oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_detr, random_images
from oracle_detr import run_oracle
from torch import nn

from anydepth_deploy.errors import DepthError, InputError
from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.stages import AnyDepthModel

PUBLISHED_PARAMETERS = {"r50": "42.885", "r101": "76.556"}
"""Millions, as the authors' tool prints them (frozen norms are buffers and do not count)."""

PUBLISHED_MACS = {
    ("r50", "super"): {"total": 67.028, "backbone": 33.364, "encoder": 25.508, "decoder": 8.156},
    ("r50", "base"): {"total": 39.505, "backbone": 20.886, "encoder": 12.380, "decoder": 6.239},
    ("r101", "super"): {"total": 128.0, "backbone": 63.668, "encoder": 56.35, "decoder": 8.431},
    ("r101", "base"): {"total": 70.271, "backbone": 36.930, "encoder": 26.828, "decoder": 6.514},
}
"""Billions of multiply-adds at 640 x 640, as published."""


def meta_model(name: str) -> AnyDepthDETR:
    with torch.device("meta"):
        return AnyDepthDETR(CONFIGS[name])


@pytest.mark.parametrize("name", ["r50", "r101"])
def test_parameters_equal_the_published_count(name: str) -> None:
    count = sum(parameter.numel() for parameter in meta_model(name).parameters())
    assert f"{int(count / 1e3) / 1e3:.3f}" == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize(("name", "depth"), list(PUBLISHED_MACS))
def test_macs_agree_with_the_published_figures(name: str, depth: str) -> None:
    model = meta_model(name)
    found = count_macs(model, (640, 640)).at(model.table.find(depth))
    for part, published in PUBLISHED_MACS[name, depth].items():
        assert found[part] / 1e9 == pytest.approx(published, rel=0.01), part


def test_macs_agree_with_a_count_by_hooks() -> None:
    """Convolutions and linear layers, counted while a real forward pass runs."""
    model = random_detr()
    size = (96, 160)
    macs = count_macs(model, size)
    for text in ("super", "base", "FTTF-F-2", "TFFT-T-1"):
        depth = model.table.find(text)
        counted = 0

        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
            nonlocal counted
            if isinstance(module, nn.Conv2d) and isinstance(output, torch.Tensor):
                counted += output[0].numel() * module.weight[0].numel()
            elif isinstance(module, nn.Linear) and isinstance(output, torch.Tensor):
                counted += output[0].numel() * module.in_features

        hooks = [module.register_forward_hook(count) for module in model.modules()]
        with torch.no_grad():
            model.detect(torch.from_numpy(random_images(1, *size)), depth)
        for hook in hooks:
            hook.remove()
        # What hooks cannot see: the input projections and products of multi-head attention.
        config = model.config
        tokens = (size[0] // 32) * (size[1] // 32)
        for count_, width, layers in (
            (tokens, config.hidden, 1),
            (config.queries, config.decoder_hidden, depth.settings[5]),
        ):
            counted += layers * (3 * count_ * width * width + 2 * count_ * count_ * width)
        assert macs.executed(depth) == counted, text
        # The published figures have a box for every token, where only queries need one.
        width = config.decoder_hidden
        cells = sum((size[0] // stride) * (size[1] // stride) for stride in (8, 16, 32))
        boxes = (cells - config.queries) * (2 * width * width + 4 * width)
        assert macs.at(depth)["total"] == counted + boxes, text
        assert macs.at(depth)["decoder"] > boxes


def test_key_names_are_the_authors() -> None:
    keys = set(meta_model("r50").state_dict())
    for key in (
        "backbone.conv1.weight",
        "backbone.bn1.running_mean",
        "backbone.layer1.0.downsample.1.running_var",
        "backbone.layer2.0.downsample.2.bias",
        "backbone.layer3.2.bn3_skip.weight",
        "encoder.input_proj.2.norm_skippable.num_batches_tracked",
        "encoder.encoder.0.layers.0.self_attn.in_proj_weight",
        "encoder.encoder.0.layers.0.norm2_skippable.bias",
        "encoder.lateral_convs.1.conv.weight",
        "encoder.fpn_blocks.0.bottlenecks.0.conv2.norm_skippable.weight",
        "encoder.pan_blocks.1.bottlenecks.2.conv1.norm.running_var",
        "encoder.downsample_convs.0.norm_skippable.weight",
        "decoder.input_proj.0.norm.running_mean",
        "decoder.enc_output.1.weight",
        "decoder.enc_bbox_head.layers.2.bias",
        "decoder.query_pos_head.layers.1.weight",
        "decoder.decoder.layers.5.cross_attn.sampling_offsets.weight",
        "decoder.decoder.layers.0.norm3.bias",
        "decoder.dec_score_head.5.weight",
        "decoder.dec_bbox_head.0.layers.0.weight",
        "decoder.denoising_class_embed.weight",
    ):
        assert key in keys, key
    for key in (  # refinement blocks, the shortcut and frozen norms have less
        "backbone.layer3.3.bn1_skip.weight",
        "backbone.bn1.num_batches_tracked",
        "backbone.layer1.0.downsample.1_skip.weight",
        "encoder.fpn_blocks.0.bottlenecks.1.conv1.norm_skippable.weight",
    ):
        assert key not in keys, key
    shapes = {key: tuple(value.shape) for key, value in meta_model("r50").state_dict().items()}
    assert shapes["decoder.decoder.layers.0.cross_attn.sampling_offsets.weight"] == (192, 256)
    assert shapes["decoder.decoder.layers.0.cross_attn.attention_weights.weight"] == (96, 256)
    assert shapes["decoder.query_pos_head.layers.0.weight"] == (512, 4)
    assert shapes["decoder.denoising_class_embed.weight"] == (81, 256)


@pytest.mark.parametrize("size", [(160, 160), (96, 192), (128, 64)])
def test_every_depth_equals_the_oracle(size: tuple[int, int]) -> None:
    """All 96 depths of the tiny network at one size; a few at the others. Batch of two."""
    model = random_detr()
    images = torch.from_numpy(random_images(2, *size))
    depths = model.space.every if size == (160, 160) else model.space.every[::13]
    for depth in depths:
        with torch.no_grad():
            found = model(images, depth)
        expected = run_oracle(model, images, depth.settings)
        for n in range(2):
            order = found["queries"][n].argsort()
            other = expected["queries"][n].argsort()
            assert torch.equal(found["queries"][n][order], expected["queries"][n][other])
            for key, limit in (("logits", 2e-5), ("boxes", 2e-6)):
                gap = (found[key][n][order] - expected[key][n][other]).abs().max()
                assert gap < limit, (str(depth), key, float(gap))


def test_r50_equals_the_oracle() -> None:
    """The published size itself, on small non-square pictures, at unlike depths."""
    model = random_detr("r50")
    images = torch.from_numpy(random_images(1, 128, 160))
    for text in ("super", "base", "FTFT-F-2"):
        depth = model.table.find(text)
        with torch.no_grad():
            found = model(images, depth)
        expected = run_oracle(model, images, depth.settings)
        rows = {int(query): row for row, query in enumerate(expected["queries"][0])}
        order = [rows[int(query)] for query in found["queries"][0]]
        assert (found["logits"][0] - expected["logits"][0][order]).abs().max() < 1e-4
        assert (found["boxes"][0] - expected["boxes"][0][order]).abs().max() < 1e-5


def test_detections_are_the_best_pairs(model: AnyDepthDETR) -> None:
    images = torch.from_numpy(random_images(2, 96, 192))
    with torch.no_grad():
        raw, found = model(images, "base"), model.detect(images, "base")
    count = found["scores"].shape[1]
    for n in range(2):
        pairs = [
            (float(score), query, label)
            for query, row in enumerate(raw["logits"][n].sigmoid())
            for label, score in enumerate(row)
        ]
        pairs.sort(reverse=True)
        assert np.allclose(found["scores"][n], [pair[0] for pair in pairs[:count]], atol=1e-7)
        for position, (_, query, label) in enumerate(pairs[:20]):
            cx, cy, w, h = (float(v) for v in raw["boxes"][n][query])
            box = [(cx - w / 2) * 192, (cy - h / 2) * 96, (cx + w / 2) * 192, (cy + h / 2) * 96]
            assert int(found["labels"][n][position]) == label
            assert np.allclose(found["boxes"][n][position], box, atol=1e-3)


def test_the_two_norm_sets_matter(model: AnyDepthDETR) -> None:
    """A network that ignored the second norm set would pass at super only."""
    images = torch.from_numpy(random_images(1, 96, 96))
    with torch.no_grad():
        before = model(images, "base")["logits"]
        changed = AnyDepthDETR(model.config)
        state = model.state_dict()
        for key in state:
            if "_skip" in key and key.endswith("weight"):
                state[key] = state[key] * 1.5
        changed.load_state_dict(state)
        changed.eval()
        assert torch.equal(changed(images, "super")["logits"], model(images, "super")["logits"])
        assert not torch.allclose(changed(images, "base")["logits"], before)


@pytest.mark.parametrize("size", [(100, 96), (96, 30), (0, 32)])
def test_sizes_that_are_no_multiples_of_32_are_refused(
    model: AnyDepthDETR, size: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match=r"multiples of 32"):
        model.stages(size)


def test_a_family_may_ask_more_of_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_size(_: AnyDepthModel, size: tuple[int, int]) -> None:
        raise InputError(f"{size} is too small")

    monkeypatch.setattr(AnyDepthDETR, "check_size", check_size)
    with pytest.raises(InputError, match="too small"):
        meta_model("tiny").stages((64, 64))


@pytest.mark.parametrize("depth", ["FFFF-F-0", "FFFF-F-4", "FFFF-F", "super2", "level:9"])
def test_unknown_depths_are_refused(model: AnyDepthDETR, depth: str) -> None:
    with pytest.raises(DepthError, match="unknown depth"):
        model(torch.zeros(1, 3, 64, 64), depth)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_default_ladders_rise_in_macs(name: str) -> None:
    model = meta_model(name)
    macs = count_macs(model, model.config.input_size)
    totals = [macs.at(rung)["total"] for rung in model.table.ladder]
    assert totals == sorted(set(totals))
    assert model.table.ladder[0] == model.space.base
    assert model.table.ladder[-1] == model.space.super

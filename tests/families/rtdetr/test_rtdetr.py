"""RT-DETR in torch: published counts, key names, and recognition by structure."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from conftest import random_images
from static_detr_cases import count_by_hooks, gflops_of_exits, meta_model, parameters, shapes_of
from static_detrs import authors_state, other_hgnet, static_detr

from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.registry import recognise
from anydepth_deploy.families.rtdetr.config import CONFIGS, RTDetrConfig
from anydepth_deploy.families.rtdetr.recognise import recognise_rtdetr
from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.macs import count_macs

PARAMETERS = {
    "r18": 20_184_464,
    "v2-r18": 20_184_464,
    "deim-r18": 20_183_440,
    "r34": 31_441_668,
    "deim-r34": 31_440_644,
    "r50-m": 36_593_772,
    "deim-r50-m": 33_198_864,
    "r50": 42_891_372,
    "deim-r50": 42_943_596,
    "r101": 76_556_268,
    "deim-r101": 76_660_716,
    "v2-hgnetv2-l": 32_925_036,
    "v2-hgnetv2-x": 67_374_188,
    "v2-hgnetv2-h": 125_584_348,
}
"""Of the authors' networks in their training form."""

ENTRIES = {
    "r18": (533, 538),
    "r34": (659, 665),
    "r50-m": (760, 768),
    "r50": (736, 744),
    "r101": (991, 999),
}
"""Of state dictionaries of the first and the second RT-DETR."""

GFLOPS = {
    "r18": (33.7, 16.3, 6.7, 10.5, 56.7, 60.5),
    "r34": (63.9, 16.3, 6.7, 12.4, 86.9, 92.6),
    "r50-m": (70.6, 18.5, 6.7, 16.2, 95.8, 105.3),
    "r50": (70.6, 47.0, 6.7, 16.2, 124.3, 133.8),
    "r101": (131.3, 103.7, 7.2, 16.8, 242.2, 251.7),
    "v2-hgnetv2-l": (44.5, 47.0, 6.7, 16.2, 98.2, 107.7),
    "v2-hgnetv2-x": (106.7, 103.7, 7.2, 16.8, 217.6, 227.1),
}
"""Billions of operations, counted in the authors' code: backbone, encoder, decoder at the first and
at the last exit, all at the first and at the last."""

BOTTLENECKS = ResNetConfig((1, 2, 1, 1), (16, 32, 64, 128), True, (8, 16), frozen=True)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_parameters_equal_the_authors(name: str) -> None:
    assert parameters(meta_model("rt-detr", name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", list(ENTRIES))
def test_files_have_as_many_entries_as_the_authors(name: str) -> None:
    model = meta_model("rt-detr", name)
    counts = tuple(len(authors_state(model, layout)) for layout in ("v1", "v2"))
    assert counts == ENTRIES[name]


@pytest.mark.parametrize("name", list(GFLOPS))
def test_operations_agree_with_the_authors_code(name: str) -> None:
    found = gflops_of_exits(meta_model("rt-detr", name))
    # The table has one digit behind the point.
    assert found == pytest.approx(GFLOPS[name], rel=0.01, abs=0.05)


@pytest.mark.parametrize("depth", ["L1", "L3"])
def test_operations_agree_with_a_count_by_hooks(depth: str) -> None:
    model = static_detr("rt-detr")
    images = torch.from_numpy(random_images(1, 96, 160))
    macs, found = count_macs(model, (96, 160)), model.table.find(depth)
    counted = count_by_hooks(model, images, depth)
    assert macs.executed(found) == counted
    # The published figures have a box for every token, where only queries need one.
    width = model.config.decoder_hidden
    cells = sum((96 // stride) * (160 // stride) for stride in (8, 16, 32))
    boxes = (cells - model.config.queries) * (2 * width * width + 4 * width)
    assert macs.at(found)["total"] == counted + boxes


def test_key_names_are_the_authors() -> None:
    keys = set(meta_model("rt-detr", "r18").state_dict())
    assert {
        "backbone.conv1.conv1_3.norm.running_var",
        "backbone.res_layers.0.blocks.0.short.conv.weight",
        "backbone.res_layers.1.blocks.0.short.conv.conv.weight",
        "backbone.res_layers.3.blocks.1.branch2b.norm.num_batches_tracked",
        "encoder.input_proj.0.conv.weight",
        "encoder.encoder.0.layers.0.self_attn.in_proj_bias",
        "encoder.lateral_convs.1.norm.weight",
        "encoder.fpn_blocks.0.conv3.conv.weight",
        "encoder.pan_blocks.1.bottlenecks.2.conv2.norm.bias",
        "encoder.downsample_convs.1.conv.weight",
        "decoder.input_proj.2.norm.running_mean",
        "decoder.enc_output.proj.weight",
        "decoder.enc_output.norm.bias",
        "decoder.query_pos_head.layers.1.bias",
        "decoder.decoder.layers.2.cross_attn.value_proj.weight",
        "decoder.decoder.layers.2.norm3.bias",
        "decoder.dec_bbox_head.2.layers.2.weight",
        "decoder.denoising_class_embed.weight",
    } <= keys
    assert "backbone.res_layers.0.blocks.1.short.conv.weight" not in keys
    frozen = set(meta_model("rt-detr", "r50").state_dict())
    assert "backbone.res_layers.2.blocks.5.branch2c.norm.weight" in frozen
    counters = [key for key in frozen if key.endswith("num_batches_tracked")]
    assert counters
    assert not [key for key in counters if key.startswith("backbone.")]
    assert "encoder.fpn_blocks.0.conv3.conv.weight" not in frozen


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_size_is_recognised_by_its_shapes(name: str) -> None:
    config = CONFIGS[name]
    state = authors_state(meta_model("rt-detr", name), "v1" if config.release == "v1" else "v2")
    if "hgnetv2" in name:
        state = other_hgnet(state)
    family, found = recognise(shapes_of(state), "a file")
    assert family.name == "rt-detr"
    assert found == config


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 3},
        {"hidden": 96, "csp_channels": 96, "csp_blocks": 2, "aifi_layers": 2},
        {"decoder_hidden": 48, "decoder_feedforward": 40, "points": (2, 2, 2), "feedforward": 24},
        {"points": (4, 4), "decoder_layers": 5},
        {"backbone": BOTTLENECKS},
        {"position": (64, 64), "release": "deim", "decoder_activation": "silu"},
    ],
)
def test_structure_is_read_from_the_shapes(changes: dict[str, Any]) -> None:
    """Sizes that nobody published."""
    wanted = CONFIGS["tiny"].replace(**changes)
    model = static_detr("rt-detr", "tiny", **changes)
    found = recognise_rtdetr(shapes_of(authors_state(model, "v1")))
    assert isinstance(found, RTDetrConfig)
    assert found.name == ("tiny" if "classes" in changes else "custom")
    usual = dataclasses.asdict(CONFIGS["r50"])
    untold = {"name": found.name}
    if found.name == "custom":
        untold |= {key: usual[key] for key in ("queries", "max_detections", "input_size")}
    assert found == wanted.replace(**untold)


def test_frozen_norms_are_told_by_their_counters() -> None:
    for frozen in (False, True):
        backbone = dataclasses.replace(BOTTLENECKS, frozen=frozen)
        state = static_detr("rt-detr", "tiny", backbone=backbone).state_dict()
        found = recognise_rtdetr(shapes_of(state))
        assert isinstance(found, RTDetrConfig)
        assert found.backbone.frozen is frozen
        # A file that has lost all counters: as the authors have it for bottlenecks.
        bare = {key: value for key, value in state.items() if not key.endswith("tracked")}
        found = recognise_rtdetr(shapes_of(bare))
        assert isinstance(found, RTDetrConfig)
        assert found.backbone.frozen


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"decoder.decoder.layers.1.": None}, "without a gap"),
        ({"backbone.res_layers.2.": None}, "without a gap"),
        ({"backbone.": None}, "a backbone that is not known"),
        ({"encoder.input_proj.1.conv.weight": (64, 31, 1, 1)}, "expected the backbone's last"),
        ({"encoder.encoder.0.": None}, "without 'encoder.encoder.0'"),
        ({"decoder.enc_score_head.weight": None}, "without 'decoder.enc_score_head.weight'"),
        ({"decoder.enc_score_head.weight": (0, 64)}, r"the shape \[0, 64\]"),
        ({"decoder.enc_score_head.weight": (8,)}, "without 'decoder.enc_score_head.weight'"),
        ({"decoder.enc_score_head.weight": (8, 10**9)}, "has the shape"),
        ({"decoder.decoder.layers.0.cross_attn.sampling_offsets.weight": (190, 64)}, "190 offsets"),
        ({"decoder.decoder.layers.2.self_attn.out_proj.weight": (32, 32)}, "channels: expected 64"),
    ],
)
def test_what_is_built_otherwise_is_refused_in_one_line(
    damage: dict[str, tuple[int, ...] | None], words: str
) -> None:
    shapes = shapes_of(static_detr("rt-detr").state_dict())
    for prefix, shape in damage.items():
        for key in [key for key in shapes if key.startswith(prefix)]:
            if shape is None:
                del shapes[key]
            else:
                shapes[key] = shape
    found = recognise_rtdetr(shapes)
    assert isinstance(found, Refusal)
    assert found.reason.startswith("an RT-DETR ")
    assert "\n" not in found.reason
    assert re.search(words, found.reason), found.reason


def test_an_exit_is_a_prefix() -> None:
    """Exit k of a deeper network is the last exit of one that has k layers."""
    model = static_detr("rt-detr")
    images = torch.from_numpy(random_images(2, 96, 160))
    shallow = static_detr("rt-detr", decoder_layers=2)
    shallow.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        found, expected = model(images, "L2"), shallow(images, "super")
    for name in found:
        assert torch.equal(found[name], expected[name]), name
    assert [str(rung) for rung in model.table.ladder] == ["L1", "L2", "L3"]

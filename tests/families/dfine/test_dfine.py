"""D-FINE in torch: published counts, key names, and recognition by structure."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from conftest import random_images
from static_detr_cases import count_by_hooks, gflops_of_exits, meta_model, parameters, shapes_of
from static_detrs import authors_state, static_detr

from anydepth_deploy.families.dfine.config import CONFIGS, DFineConfig
from anydepth_deploy.families.dfine.decoder import bin_distances, edges_to_boxes
from anydepth_deploy.families.dfine.recognise import recognise_dfine
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.registry import recognise
from anydepth_deploy.families.shared.macs import count_macs

PARAMETERS = {
    "n": 3_782_693,
    "s": 10_321_877,
    "m": 19_590_064,
    "l": 31_244_152,
    "x": 62_621_560,
    "deim-l": 31_289_848,
    "deim-x": 62_715_480,
    "v4-s": 10_519_253 - 197_376,
    "v4-m": 19_787_440 - 197_376,
    "v4-l": 31_487_224 - 197_376,
    "v4-x": 63_011_160 - 295_680,
}
"""Of the authors' networks in their training form, RT-DETRv4's without its projection to 768."""

ENTRIES = {
    ("n", "d-fine"): 674,
    ("s", "d-fine"): 794,
    ("m", "d-fine"): 1053,
    ("l", "d-fine"): 1173,
    ("x", "d-fine"): 1441,
    ("deim-l", "d-fine"): 1253,
    ("deim-x", "d-fine"): 1571,
    ("v4-l", "v4"): 1255,
}

GFLOPS = {
    "n": (5.2, 1.2, 0.44, 0.99, 6.8, 7.3),
    "s": (5.2, 15.9, 2.6, 4.5, 23.6, 25.5),
    "m": (18.5, 33.2, 2.6, 5.4, 54.2, 57.1),
    "l": (44.5, 39.8, 2.6, 7.3, 86.9, 91.6),
    "x": (106.7, 87.5, 4.2, 9.0, 198.4, 203.1),
}
"""Billions of operations, counted in the authors' code: backbone, encoder, decoder at the first and
at the last exit, all at the first and at the last."""


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_parameters_equal_the_authors(name: str) -> None:
    assert parameters(meta_model("d-fine", name)) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "layout"), list(ENTRIES))
def test_files_have_as_many_entries_as_the_authors(name: str, layout: str) -> None:
    state = authors_state(meta_model("d-fine", name), layout)
    assert len(state) == ENTRIES[name, layout]


@pytest.mark.parametrize("name", list(GFLOPS))
def test_operations_agree_with_the_authors_code(name: str) -> None:
    found = gflops_of_exits(meta_model("d-fine", name))
    # The table has one digit behind the point.
    assert found == pytest.approx(GFLOPS[name], rel=0.01, abs=0.05)


@pytest.mark.parametrize("depth", ["L1", "L3"])
def test_operations_agree_with_a_count_by_hooks(depth: str) -> None:
    model = static_detr("d-fine")
    images = torch.from_numpy(random_images(1, 96, 160))
    macs, found = count_macs(model, (96, 160)), model.table.find(depth)
    counted = count_by_hooks(model, images, depth)
    assert macs.executed(found) == counted
    assert macs.at(found)["total"] == counted  # the authors, too, compute boxes of queries only


def test_key_names_are_the_authors() -> None:
    keys = set(meta_model("d-fine", "s").state_dict())
    assert {
        "backbone.stem.stem2a.conv.weight",
        "backbone.stem.stem4.lab.bias",
        "backbone.stages.0.blocks.0.layers.2.conv.weight",
        "backbone.stages.1.downsample.bn.running_mean",
        "backbone.stages.2.blocks.1.layers.0.conv1.bn.weight",
        "backbone.stages.2.blocks.1.layers.0.conv2.lab.scale",
        "backbone.stages.3.blocks.0.aggregation.1.conv.weight",
        "encoder.fpn_blocks.0.cv1.conv.weight",
        "encoder.fpn_blocks.1.cv2.0.bottlenecks.0.conv1.norm.weight",
        "encoder.pan_blocks.0.cv3.1.norm.running_var",
        "encoder.pan_blocks.1.cv4.conv.weight",
        "encoder.downsample_convs.1.0.cv2.conv.weight",
        "decoder.decoder.layers.0.gateway.gate.weight",
        "decoder.decoder.layers.0.gateway.norm.bias",
        "decoder.decoder.lqe_layers.2.reg_conf.layers.1.weight",
        "decoder.pre_bbox_head.layers.2.bias",
        "decoder.dec_bbox_head.2.layers.2.weight",
        "decoder.up",
        "decoder.reg_scale",
    } <= keys
    for gone in ("value_proj", "output_proj", "norm2.weight"):
        assert not [key for key in keys if key.startswith("decoder.decoder.") and gone in key]
    # No affine layer without an activation before it.
    assert "backbone.stages.2.blocks.1.layers.0.conv1.lab.scale" not in keys
    assert "backbone.stages.1.downsample.lab.scale" not in keys
    assert not any(key.startswith("decoder.input_proj.") for key in keys)
    wide = set(meta_model("d-fine", "x").state_dict())
    assert "decoder.input_proj.2.norm.running_mean" in wide
    assert not any(".lab." in key for key in wide)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_structure_is_recognised_by_its_shapes(name: str) -> None:
    """What shapes do not tell of a size: how far its bins reach, and whose weights it has."""
    config = CONFIGS[name]
    layout = "v4" if config.release == "v4" else "d-fine"
    family, found = recognise(shapes_of(authors_state(meta_model("d-fine", name), layout)), "file")
    assert family.name == "d-fine"
    told = {"name": name, "release": config.release, "reach": config.reach}
    assert found.replace(**told, decoder_activation=config.decoder_activation) == config


@pytest.mark.parametrize(
    ("changes", "points"),
    [
        ({"classes": 3}, (3, 6, 3)),
        ({"points": (6, 6), "csp_channels": 11, "csp_blocks": 2, "hidden": 128}, (6, 6)),
        ({"points": (2, 2, 2), "bins": 17, "best": 3, "quality": 32}, (2, 2, 2)),
        ({"decoder_hidden": 32, "decoder_layers": 4, "aifi_layers": 2}, (3, 6, 3)),
    ],
)
def test_structure_is_read_from_the_shapes(
    changes: dict[str, Any], points: tuple[int, ...]
) -> None:
    """Sizes that nobody published."""
    model = static_detr("d-fine", "tiny", **changes)
    found = recognise_dfine(shapes_of(authors_state(model, "d-fine")))
    assert isinstance(found, DFineConfig)
    assert found.points == points
    wanted = CONFIGS["tiny"].replace(**changes)
    untold = {"name", "queries", "max_detections", "input_size"}
    assert {key: value for key, value in vars(found).items() if key not in untold} == {
        key: value for key, value in vars(wanted).items() if key not in untold
    }


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("decoder.dec_bbox_head.0.layers.2.weight", (130, 64), "130 numbers for the edges"),
        ("decoder.dec_bbox_head.0.layers.2.weight", (128, 64), "128 numbers for the edges"),
        ("decoder.decoder.lqe_layers.0.reg_conf.layers.0.weight", (64, 21), "judges edges by 21"),
        ("decoder.decoder.lqe_layers.0.reg_conf.layers.5.weight", (1, 1), "without a gap"),
        ("backbone.res_layers.0.blocks.0.branch2a.conv.weight", (8, 8, 3, 3), "two backbones"),
    ],
)
def test_what_is_built_otherwise_is_refused_in_one_line(
    key: str, shape: tuple[int, ...], words: str
) -> None:
    shapes = shapes_of(static_detr("d-fine").state_dict()) | {key: shape}
    found = recognise_dfine(shapes)
    assert isinstance(found, Refusal)
    assert found.reason.startswith("a D-FINE ")
    assert "\n" not in found.reason
    assert re.search(words, found.reason), found.reason


def test_bins_reach_as_far_as_the_paper_says() -> None:
    """The weighting function, number by number: ends at twice the bound, growing in between."""
    for bound, reach in ((0.5, 4.0), (0.5, 8.0), (-0.25, 4.0)):
        largest = abs(bound * reach)
        step = (largest + 1) ** (2 / 30)
        found = bin_distances(torch.tensor([bound]), torch.tensor([reach]), 33).tolist()
        right = [step**power - 1 for power in range(1, 16)]
        expected = [-2 * largest, *(-x for x in reversed(right)), 0, *right, 2 * largest]
        assert found == pytest.approx(expected, abs=1e-6)
        assert found[1] == pytest.approx(-largest)
        assert found[31] == pytest.approx(largest)


def test_edges_move_in_sides_of_the_reference() -> None:
    reference = torch.tensor([[[0.5, 0.4, 0.2, 0.1]]])
    still = edges_to_boxes(reference, torch.zeros(1, 1, 4), torch.tensor([4.0]))
    assert torch.allclose(still, reference)
    # Left by one and right by two of four units: half a side more to the right than to the left.
    moved = edges_to_boxes(reference, torch.tensor([[[1.0, 0, 2, 0]]]), torch.tensor([4.0]))
    assert moved[0, 0].tolist() == pytest.approx([0.525, 0.4, 0.35, 0.1])


def test_an_exit_is_a_prefix() -> None:
    """Exit k of a deeper network is the last exit of one that has k layers."""
    model = static_detr("d-fine")
    images = torch.from_numpy(random_images(2, 96, 160))
    shallow = static_detr("d-fine", decoder_layers=2)
    shallow.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        found, expected = model(images, "L2"), shallow(images, "super")
    for name in found:
        assert torch.equal(found[name], expected[name]), name
    assert [str(rung) for rung in model.table.ladder] == ["L1", "L2", "L3"]


def test_a_selection_that_was_taken_over_gives_its_boxes() -> None:
    """Queries in another order give the same, in that order: their boxes are computed anew."""
    model = static_detr("d-fine")
    images = torch.from_numpy(random_images(2, 96, 160))
    with torch.no_grad():
        raw = model(images, "L2")
        turned = {name: value.flip(1) for name, value in raw.items()}
        compared = model.compare(images, "L2", turned)
    assert compared.gap == 0.0
    for name in ("logits", "boxes"):
        assert (compared.raw[name] - turned[name]).abs().max() < 1e-5

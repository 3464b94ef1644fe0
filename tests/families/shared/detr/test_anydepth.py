"""Any-depth RT-DETRs and D-FINEs in torch: gates, an independent oracle at every depth, copies of
norm sets that change nothing, and recognition by keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anydepth_detrs import (
    NETWORKS,
    anydepth_network,
    by_token,
    deepened,
    family_of,
    filled,
    oracle,
    static_config,
    static_network,
)
from conftest import random_images
from fuzzing import FACTOR
from static_detr_cases import count_by_hooks, shapes_of
from static_detrs import static_detr

from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.detr.recognise import recognise_detr
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.registry import find_family, recognise
from anydepth_deploy.families.shared.detr.essentials import (
    Essentials,
    essential_blocks,
    essential_bottlenecks,
    essential_layers,
)
from anydepth_deploy.families.shared.macs import count_macs

Shapes = dict[str, tuple[int, ...]]

FULL_LADDER = ("TTTT-T-4", "TTTT-F-4", "FFTT-F-4", "FFFF-F-4", "FFFF-F-6")

PUBLISHED = {
    ("rt-detr", "r18"): ((1, 1, 1, 1), 1, ("TTTT-T-3", "TTTT-F-3", "FFTT-F-3", "FFFF-F-3")),
    ("rt-detr", "r34"): (
        (2, 2, 3, 2),
        1,
        ("TTTT-T-3", "TTTT-F-3", "FFTT-F-3", "FFFF-F-3", "FFFF-F-4"),
    ),
    ("rt-detr", "r50"): ((2, 2, 3, 2), 1, FULL_LADDER),
    ("rt-detr", "r101"): ((2, 2, 12, 2), 1, FULL_LADDER),
    ("rt-detr", "v2-hgnetv2-l"): ((1, 1, 1, 1), 1, ("T-T-4", "T-F-4", "F-F-4", "F-F-6")),
    ("rt-detr", "v2-hgnetv2-h"): ((1, 1, 1, 1), 1, FULL_LADDER),
    ("d-fine", "n"): ((1, 1, 1, 1), 1, ("T-T-3", "T-F-3", "F-F-3")),
    ("d-fine", "s"): ((1, 1, 1, 1), 1, ("T-3", "F-3")),
    ("d-fine", "m"): ((1, 1, 1, 1), 1, ("T-T-3", "T-F-3", "F-F-3", "F-F-4")),
    ("d-fine", "l"): ((1, 1, 1, 1), 1, ("T-T-4", "T-F-4", "F-F-4", "F-F-6")),
    ("d-fine", "x"): (
        (1, 1, 1, 1),
        1,
        ("TTT-T-4", "TTT-F-4", "FFT-F-4", "FFF-F-4", "FFF-F-6"),
    ),
}
"""Blocks of each stage and bottlenecks that always run, and the ladder."""


def named(family: str, size: str) -> Any:
    """The any-depth configuration of a size."""
    sizes = find_family(family).sizes
    return sizes[size].deepened(sizes)


def hollow(config: Any, family: str) -> Any:
    """A network of ``config`` without memory."""
    with torch.device("meta"):
        return find_family(family).build(config)


def test_rules() -> None:
    assert [essential_blocks(n) for n in (1, 2, 3, 4, 6, 23)] == [1, 1, 2, 2, 3, 12]
    assert [essential_bottlenecks(n) for n in (1, 2, 3, 4, 5)] == [1, 1, 1, 1, 2]
    assert [essential_layers(n) for n in (1, 2, 3, 4, 5, 6)] == [1, 2, 3, 3, 3, 4]


@pytest.mark.parametrize(("family", "size"), list(PUBLISHED))
def test_published_sizes_made_any_depth(family: str, size: str) -> None:
    config = named(family, size)
    assert (config.essential.blocks, config.essential.bottlenecks, config.ladder) == PUBLISHED[
        family, size
    ]
    assert config.name == f"{size} any-depth"
    assert config.deepened(find_family(family).sizes) is config


def test_gates_are_called_by_their_stage() -> None:
    gates = [
        (gate.name, gate.group, gate.layers) for gate in named("d-fine", "x").depth_space.gates
    ]
    assert gates == [
        ("backbone.layer2", 0, 0),
        ("backbone.layer3", 0, 0),
        ("backbone.layer4", 0, 0),
        ("encoder", 1, 0),
        ("decoder", 2, 6),
    ]


def test_fine_alone_is_something_to_skip() -> None:
    sizes = find_family("rt-detr").sizes
    one_each = {"backbone": sizes["tiny"].backbone.__class__((1, 1, 1, 1), (8, 8, 8, 8), False)}
    with pytest.raises(UsageError, match="nothing to skip"):
        sizes["tiny"].replace(csp_blocks=1, **one_each).deepened(sizes)
    config = sizes["tiny-fine"].replace(csp_blocks=1, **one_each).deepened(sizes)
    assert config.ladder == ("T-3", "F-3")
    assert config.name == "custom any-depth"
    model = hollow(config, "rt-detr")
    family, found = recognise(shapes_of(model.state_dict()), "a file")
    assert family.name == "rt-detr"
    assert found.essential == config.essential == Essentials((1, 1, 1, 1), 1)


@pytest.mark.parametrize("name", list(NETWORKS))
@torch.no_grad()
def test_every_depth_equals_the_oracle(name: str) -> None:
    """Batch of two, not square."""
    model = anydepth_network(name)
    state = dict(model.state_dict())
    images = torch.from_numpy(random_images(2, 96, 160))
    answers = []
    for depth in model.space.every:
        found = by_token(model(images, depth))
        expected = by_token(oracle(name, state, images, depth))
        assert torch.equal(found["queries"], expected["queries"]), str(depth)
        for key, limit in (("logits", 5e-5), ("boxes", 5e-6)):
            gap = float((found[key] - expected[key]).abs().max())
            assert gap < limit, (str(depth), key, gap)
        answers.append(found["logits"])
    # Each gate changes something: no two depths give the same.
    for index, one in enumerate(answers):
        assert all((one - other).abs().max() > 1e-3 for other in answers[:index])


@pytest.mark.parametrize("name", list(NETWORKS))
@torch.no_grad()
def test_copies_of_norm_sets_leave_super_as_it_was(name: str) -> None:
    """Bit for bit what the static network gives; base, which skips, gives something else."""
    static = static_network(name)
    model = filled(name, static)
    images = torch.from_numpy(random_images(2, 96, 160))
    before, after, base = static(images), model(images), model(images, "base")
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert (before["logits"] - base["logits"]).abs().max() > 1e-2
    # The passes of training run the same networks.
    for skip in (False, True):
        maps, encoded = model.maps(images, skip=skip)
        depth = model.space.depth([*[int(skip)] * (len(model.space.gates) - 1), 1])
        flow = model.flow(images, depth)
        for name_, value in zip(model.map_names, maps, strict=True):
            assert torch.equal(flow[name_], value)
        decoder = model.decoder
        handed = decoder.project(encoded, skip) if decoder.switchable else encoded
        for name_, value in zip(model.encoded_names, handed, strict=True):
            assert torch.equal(flow[name_], value)


@pytest.mark.parametrize("name", ["basic", "d-fine wide"])
def test_multiply_adds(name: str) -> None:
    """Super has those of the static network; every rung what hooks count."""
    model, static = anydepth_network(name), static_network(name)
    macs, before = count_macs(model, (96, 160)), count_macs(static, (96, 160))
    top, last = model.space.super, static.space.super
    assert macs.at(top)["total"] == before.at(last)["total"]
    assert macs.executed(top) == before.executed(last)
    images = torch.from_numpy(random_images(1, 96, 160))
    totals = []
    for rung in model.ladder:
        assert macs.executed(rung) == count_by_hooks(model, images, str(rung)), str(rung)
        totals.append(macs.at(rung)["total"])
    assert totals == sorted(set(totals))


def test_key_names() -> None:
    """Second sets beside the first, in what always runs of a stage that skips others."""
    keys = {
        key.rpartition(".")[0] for key in hollow(named("rt-detr", "r18"), "rt-detr").state_dict()
    }
    assert {
        "backbone.res_layers.0.blocks.0.short.norm_skippable",
        "backbone.res_layers.3.blocks.0.short.conv.norm_skippable",
        "backbone.res_layers.1.blocks.0.branch2b.norm_skippable",
        "encoder.input_proj.2.norm_skippable",
        "encoder.encoder.0.layers.0.norm1_skippable",
        "encoder.lateral_convs.1.norm_skippable",
        "encoder.downsample_convs.0.norm_skippable",
        "encoder.fpn_blocks.1.conv3.norm_skippable",
        "encoder.pan_blocks.0.bottlenecks.0.conv2.norm_skippable",
        "decoder.input_proj.0.norm_skippable",
    } <= keys
    for path in (
        "backbone.conv1.conv1_1",
        "backbone.res_layers.1.blocks.1.branch2a",
        "encoder.fpn_blocks.0.bottlenecks.1.conv1",
    ):
        assert f"{path}.norm" in keys
        assert f"{path}.norm_skippable" not in keys
    keys = {key.rpartition(".")[0] for key in hollow(named("d-fine", "m"), "d-fine").state_dict()}
    assert {
        "backbone.stages.2.downsample.bn_skip",
        "backbone.stages.2.blocks.0.layers.1.conv1.bn_skip",
        "backbone.stages.2.blocks.0.layers.1.conv2.lab_skip",
        "backbone.stages.2.blocks.0.aggregation.1.lab_skip",
        "encoder.lateral_convs.0.norm_skippable",
        "encoder.downsample_convs.1.0.cv2.norm_skippable",
        "encoder.fpn_blocks.0.cv2.0.bottlenecks.0.conv1.norm_skippable",
        "encoder.pan_blocks.1.cv3.1.norm_skippable",
        "encoder.pan_blocks.1.cv4.norm_skippable",
    } <= keys
    second = {key for key in keys if key.endswith(("_skip", "_skippable"))}
    assert not [
        key for key in second if in_backbone(key, ("stages.1.", "stem.", "blocks.1.layers"))
    ]
    assert not [key for key in second if key.startswith("decoder.")]
    small = hollow(named("d-fine", "s"), "d-fine").state_dict()
    assert {key.split(".")[0] for key in small if "_skip" in key} == {"backbone"}


def reach_of(config: Any) -> dict[str, float]:
    """How far bins reach, which is in a tensor."""
    return {"reach": config.reach} if hasattr(config, "reach") else {}


def in_backbone(key: str, parts: tuple[str, ...]) -> bool:
    return key.startswith("backbone.") and any(part in key for part in parts)


@pytest.mark.parametrize("family", ["rt-detr", "d-fine"])
def test_recognised_by_its_keys(family: str) -> None:
    """Every size, and nobody else takes them."""
    sizes = find_family(family).sizes
    for size in sizes:
        config = named(family, size)
        shapes = shapes_of(hollow(config, family).state_dict())
        assert recognise_detr(shapes) is None
        owner, found = recognise(shapes, "a file")
        assert owner.name == family
        assert (found.essential, found.ladder) == (config.essential, config.ladder)
        told = {"decoder_activation": config.decoder_activation, **reach_of(config)}
        assert found.replace(**told).resembles(config)
        assert found.name.endswith(" any-depth")


@pytest.mark.parametrize("name", list(NETWORKS))
def test_structure_is_read_from_the_shapes(name: str) -> None:
    _, found = recognise(shapes_of(anydepth_network(name).state_dict()), "a file")
    wanted = deepened(name)
    for field in ("essential", "backbone", "csp_blocks", "fine", "depth_space", "ladder"):
        assert getattr(found, field, None) == getattr(wanted, field, None), field


def moved_to(block: int) -> Any:
    """Second sets of block 1 of a stage of four, in another block."""

    def change(shapes: Shapes) -> Shapes:
        before, after = (f"backbone.res_layers.2.blocks.{i}." for i in (1, block))
        return {
            key.replace(before, after) if "skippable" in key else key: shape
            for key, shape in shapes.items()
        }

    return change


def without(*words: str) -> Any:
    def change(shapes: Shapes) -> Shapes:
        return {
            key: shape for key, shape in shapes.items() if not all(word in key for word in words)
        }

    return change


def added(key: str) -> Any:
    return lambda shapes: {**shapes, key: (8,)}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("bottleneck", moved_to(2), "in places that have one set"),
        ("bottleneck", moved_to(3), "in places that have one set"),
        (
            "bottleneck",
            added("backbone.res_layers.0.blocks.2.branch2b.norm_skippable.weight"),
            "in places that have one set",
        ),
        ("basic", added("backbone.conv1.conv1_2.norm_skippable.bias"), "conv1_2.norm_skippable"),
        ("basic", added("backbone.res_layers.0.blocks.0.branch2a.norm_skippable.bias"), "have one"),
        ("basic", without("short.conv.norm_skippable"), "without backbone.res_layers.1.blocks.0."),
        ("basic", without("encoder.", "skippable"), "decoder.input_proj.0.norm_skippable"),
        ("basic", without("decoder.", "skippable"), "without decoder.input_proj.0.norm_skippable"),
        ("basic", without("bottlenecks.0.", "skippable"), "without encoder.fpn_blocks.0.bottle"),
        ("basic", without("norm2_skippable"), "part of its second norm sets"),
        ("fine", added("encoder.sa_cross_attn.0.norm1_skippable.weight"), "in places"),
        (
            "d-fine",
            without("lab_skip"),
            "without backbone.stages.2.blocks.0.aggregation.0.lab_skip",
        ),
        ("d-fine", without("downsample.bn_skip"), "without backbone.stages.2.downsample.bn_skip"),
        ("d-fine", added("backbone.stages.1.downsample.bn_skip.weight"), "stages.1.downsample"),
        ("d-fine", added("decoder.enc_output.norm_skippable.weight"), "decoder.enc_output.norm_sk"),
        ("d-fine lean", added("encoder.input_proj.0.norm_skippable.weight"), "encoder.input_proj"),
    ],
)
def test_contradictory_keys_are_refused_in_one_line(name: str, change: Any, words: str) -> None:
    shapes = shapes_of(anydepth_network(name).state_dict())
    changed = change(shapes)
    assert changed != shapes
    found = family_of(name).recognise(changed)
    assert isinstance(found, Refusal)
    assert words in found.reason
    assert "\n" not in found.reason
    assert recognise_detr(changed) is None


@pytest.mark.fuzz
@pytest.mark.parametrize("name", list(NETWORKS))
def test_recognising_never_raises(name: str) -> None:
    """Whatever a file lacks of an any-depth network, or has of odd shape or place."""
    shapes = shapes_of(anydepth_network(name).state_dict())
    recognise_ = family_of(name).recognise
    second = [key for key in shapes if "_skip" in key]
    for key in second[:: 1 + len(second) // (12 * FACTOR)]:
        less = {other: shape for other, shape in shapes.items() if other != key}
        for changed in (less, {**shapes, key: ()}, {**shapes, f"{key}.7": (2**40,)}):
            found = recognise_(changed)
            assert isinstance(found, Refusal) or found.essential == deepened(name).essential
    for odd in ("_skip", "a.norm_skippable.bias", "backbone.stages.99.blocks.0.bn_skip.weight"):
        assert isinstance(recognise_({**shapes, odd: (1,)}), Refusal) or "." not in odd


def test_static_networks_have_the_gate_they_had() -> None:
    for name in NETWORKS:
        config = static_config(name)
        assert [gate.name for gate in config.depth_space.gates] == ["decoder"]
        assert config.ladder[0] == "L1"


def test_random_second_sets_are_no_copies() -> None:
    """Else the oracle would not tell one from the other."""
    state = anydepth_network("basic").state_dict()
    first = state["decoder.input_proj.0.norm.weight"]
    assert not torch.equal(first, state["decoder.input_proj.0.norm_skippable.weight"])
    assert static_detr("rt-detr").state_dict().keys() < state.keys()

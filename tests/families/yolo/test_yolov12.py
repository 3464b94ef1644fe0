"""YOLOv12 without any-depth: one depth, the same numbers as AnyDepth-YOLO's at super, and plain
YOLOs that are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from fork_checkpoint import write_fork_checkpoint
from oracle_yolo import SUPER, multiply_adds, parameters_used, plain_shapes, predictions
from torch import Tensor
from trained_networks import CHECKPOINTS, without_any_depth

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import CheckpointError, DepthError
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.registry import find_family, recognise
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.yolo.config import ONE_DEPTH_CONFIGS, YoloConfig
from anydepth_deploy.families.yolo.model import YOLOv12
from anydepth_deploy.families.yolo.recognise import recognise_yolo, recognise_yolov12

SCALES = {
    "n": ("plain n", False),
    "s": ("plain s", False),
    "m": ("plain m", False),
    "l": ("l", True),
    "x": ("x", True),
    "n-anydepth": ("n", True),
    "s-anydepth": ("s", True),
    "tiny": ("tiny", True),
}
"""What the oracle calls them, and whether their attention blocks are residual."""

PUBLISHED_PARAMETERS = {"n": 2.5, "s": 9.1, "m": 19.6, "l": 26.5, "x": 59.3}
"""Millions, as YOLOv12's authors count: with norms folded away."""

QK = "model.6.m.0.0.attn.qk.conv.weight"

Shapes = dict[str, tuple[int, ...]]


def shapes_of(config: YoloConfig) -> Shapes:
    with torch.device("meta"):
        state = YOLOv12(config).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def run(model: AnyDepthModel, images: Tensor, depth: str | int = "full") -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images, depth)["predictions"]
    return found


# --- the network -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALES)
def test_names_and_shapes_are_those_of_the_layer_table(name: str) -> None:
    scale, gamma = SCALES[name]
    assert shapes_of(ONE_DEPTH_CONFIGS[name].replace(classes=80)) == plain_shapes(
        scale, gamma=gamma
    )


@pytest.mark.parametrize(
    "changes", [{}, {"gamma": ()}, {"bottleneck_c3k": True}, {"mlp_ratio": 1.2, "depth": 0.5}]
)
def test_it_equals_the_oracle(changes: dict[str, Any]) -> None:
    """In double precision, to nine digits, for two pictures that are not square."""
    model = randomise(YOLOv12(ONE_DEPTH_CONFIGS["tiny"].replace(**changes)), 4).double()
    images = torch.from_numpy(random_images(2, 64, 96)).double()
    expected = predictions(dict(model.state_dict()), images, SUPER)
    for depth in ("full", "super", "base", "level:0", 0):
        found = run(model, images, depth)
        assert ((found - expected) / expected).abs().max() < 1e-9
    with pytest.raises(DepthError, match="its one depth is 'full'"):
        run(model, images, "FFFFFFFF")


@pytest.mark.parametrize("name", ["n", "s-anydepth"])
def test_published_sizes_equal_the_oracle(name: str) -> None:
    model = randomise(YOLOv12(ONE_DEPTH_CONFIGS[name]), 2).double()
    images = torch.from_numpy(random_images(1, 64, 32)).double()
    expected = predictions(dict(model.state_dict()), images, SUPER)
    assert ((run(model, images) - expected) / expected).abs().max() < 1e-9


def test_it_computes_what_the_any_depth_network_does_at_super(tmp_path: Path) -> None:
    plain = load_model(read_checkpoint(without_any_depth(tmp_path / "plain.pth")))
    whole = load_model(read_checkpoint(CHECKPOINTS["anydepth-yolo"]))
    assert (plain.family, whole.family) == ("yolov12", "anydepth-yolo")
    images = torch.from_numpy(random_images(2, 96, 160))
    with torch.no_grad():
        found, expected = plain.detect(images), whole.detect(images, "super")
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
        other = whole(images, "base")["predictions"]
        assert not torch.equal(plain(images)["predictions"], other)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_counts(name: str) -> None:
    config = ONE_DEPTH_CONFIGS[name]
    with torch.device("meta"):
        model = YOLOv12(config)
    state = dict(model.state_dict())
    counted = sum(parameter.numel() for parameter in model.parameters())
    bins = state["model.21.dfl.conv.weight"].numel()
    assert counted == parameters_used(state, SUPER) + bins
    assert abs(counted / 1e6 - PUBLISHED_PARAMETERS[name]) < 0.15
    macs = count_macs(model, (320, 640)).at(model.space.super)
    assert macs["total"] == multiply_adds(state, (320, 640), SUPER)


def test_l_is_the_published_network_at_super() -> None:
    """Both counts as the authors of AnyDepth-YOLO publish them."""
    with torch.device("meta"):
        model = YOLOv12(ONE_DEPTH_CONFIGS["l"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 26_506_496
    found = multiply_adds(dict(model.state_dict()), (640, 640), SUPER)
    assert found == 44_472_627_200


def test_no_stage_has_a_gate() -> None:
    model = YOLOv12(ONE_DEPTH_CONFIGS["tiny"])
    for stage in model.stages((64, 96)):
        assert (stage.gates, list(stage.variants)) == ((), ["full"])
    assert [str(depth) for depth in model.table.rows] == ["full"]


# --- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALES)
def test_sizes_are_recognised_by_their_shapes(name: str) -> None:
    scale, gamma = SCALES[name]
    for classes in (1, 8, 80, 365):
        shapes = plain_shapes(scale, gamma=gamma, classes=classes)
        family, config = recognise(shapes, "x")
        assert (family.name, config) == (
            "yolov12",
            ONE_DEPTH_CONFIGS[name].replace(classes=classes),
        )


@pytest.mark.parametrize(
    "changes",
    [{"gamma": (8,)}, {"gamma": ()}, {"mlp_ratio": 1.2}, {"bottleneck_c3k": False}],
)
def test_what_checkpoints_of_one_size_may_differ_in(changes: dict[str, Any]) -> None:
    config = ONE_DEPTH_CONFIGS["l"].replace(**changes)
    assert recognise_yolov12(shapes_of(config)) == config


def test_each_kind_is_of_one_family() -> None:
    plain = plain_shapes("tiny", gamma=True)
    whole = {**plain, "model.2.cv1.bn_skip.weight": (16,)}
    assert recognise_yolo(plain) is None
    assert recognise_yolov12(whole) is None
    for shapes in ({}, {"model.0.conv.weight": (16, 3, 3, 3)}, {"model.21.cv2.0.2.bias": (64,)}):
        assert recognise_yolov12(shapes) is None


def without(shapes: Shapes, pattern: str) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not re.search(pattern, key)}


def merged(shapes: Shapes) -> Shapes:
    """Attention as another framework's YOLOv12 has it."""
    found = without(shapes, r"attn\.(qk|v)\.")
    return {**found, QK.replace(".qk.", ".qkv."): (192, 64, 1, 1)}


def moved(shapes: Shapes) -> Shapes:
    return {key.replace("model.21.", "model.23."): shape for key, shape in shapes.items()}


def put(key: str, shape: tuple[int, ...]) -> Any:
    return lambda shapes: {**shapes, key: shape}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (merged, r"merged projections, model\.6\.m\.0\.0\.attn\.qkv\.conv\.weight\)"),
        (lambda shapes: without(shapes, r"\.attn\."), f"no attention at '{QK}'"),
        (put(QK, (64, 64, 1, 1)), f"no attention at '{QK}'"),
        (put(QK, ()), f"no attention at '{QK}'"),
        (moved, "the head is not at 'model.21'"),
        (put("model.1.conv.weight", (32, 16, 3, 3)), "not of 16 channels in 2 groups"),
        (put("model.3.conv.weight", (64, 64, 3, 3)), "not of 64 channels in 4 groups"),
        (put("model.3.conv.weight", ()), "not of 64 channels in 4 groups"),
        (put("model.6.m.0.0.mlp.0.conv.weight", (640, 64, 1, 1)), "an MLP ratio of 10.0"),
        (put("model.6.m.0.0.mlp.0.conv.weight", ()), "an MLP ratio of 0.0"),
    ],
)
def test_other_layouts_are_refused_in_one_sentence(change: Any, told: str) -> None:
    found = change(plain_shapes("tiny", gamma=True))
    with pytest.raises(CheckpointError) as caught:
        recognise(found, "x")
    message = str(caught.value)
    assert message.startswith("these are the weights of a plain YOLO in another layout (")
    assert re.search(told, message)
    assert message.endswith("or deploy this one with the tools of the framework that wrote it")
    assert "expected an AnyDepth-YOLO, or a YOLOv12 without any-depth" in message
    assert "\n" not in message


@pytest.mark.parametrize("changes", [{"width": 0.75}, {"depth": 0.3}, {"max_channels": 512}])
def test_unknown_sizes_are_refused(changes: dict[str, Any]) -> None:
    shapes = shapes_of(ONE_DEPTH_CONFIGS["s"].replace(**changes))
    with pytest.raises(CheckpointError, match=r"a YOLOv12 of an unknown size: found .* n \(") as e:
        recognise(shapes, "x")
    assert all(f"{name} (" in str(e.value) for name in ONE_DEPTH_CONFIGS)


def test_no_classes_are_refused() -> None:
    shapes = {**plain_shapes("tiny", gamma=True), "model.21.cv3.0.2.bias": (0,)}
    assert isinstance(recognise_yolov12(shapes), Refusal)


# --- files -----------------------------------------------------------------------------------


def test_a_network_object_in_the_layout_of_the_fork(tmp_path: Path) -> None:
    model = randomise(YOLOv12(ONE_DEPTH_CONFIGS["tiny"]))
    path = write_fork_checkpoint(tmp_path / "best.pt", model)
    found = read_checkpoint(path)
    assert (found.family.name, found.config) == ("yolov12", ONE_DEPTH_CONFIGS["tiny"])
    assert found.class_names == [f"thing {index}" for index in range(8)]
    images = torch.from_numpy(random_images(1, 64, 64))
    assert torch.allclose(run(load_model(found), images), run(model, images), atol=0.5)


def test_second_weights_without_second_norms_are_told(tmp_path: Path) -> None:
    """A file that lost a part of itself is no network of one depth."""
    state = read_checkpoint(CHECKPOINTS["anydepth-yolo"]).state
    lost = {key: value for key, value in state.items() if ".bn_skip." not in key}
    torch.save(lost, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"unexpected.*conv_skip"):
        load_model(read_checkpoint(tmp_path / "c.pth"))


def test_the_family() -> None:
    family = find_family("yolov12")
    assert family.training is None
    assert list(family.size_names) == [f"yolov12-{name}" for name in SCALES]

"""AnyDepth-YOLO in torch: published counts, key names, and an independent oracle."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images, random_yolo
from oracle_yolo import BASE, FOLLOWS, GATED, SUPER, multiply_adds, predictions, shapes
from torch import Tensor

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import CheckpointError, DepthError, InputError
from anydepth_deploy.families.registry import recognise, tolerances
from anydepth_deploy.families.shared.macs import count_macs
from anydepth_deploy.families.shared.norms import SwitchableConv
from anydepth_deploy.families.yolo.config import CONFIGS, YoloConfig
from anydepth_deploy.families.yolo.model import AnyDepthYOLO
from anydepth_deploy.families.yolo.recognise import recognise_yolo
from anydepth_deploy.suppression import Suppression

PUBLISHED_PARAMETERS = {"super": 26_506_496, "base": 19_145_472, "all": 27_347_712}
"""Of l, as the authors count: the constant bins of the head included."""

PUBLISHED_MACS = {"super": 44_473, "base": 31_013}
"""Millions of multiply-adds of l at 640 x 640."""

SCALES = list(CONFIGS)
OF_SCALES = pytest.mark.parametrize("name", SCALES)

SWITCHABLE = {"switchable_c3k2": True, "own_skip_weights": (), "inner_skips": (20,)}
VARIANTS: dict[str, dict[str, Any]] = {
    "sliced": {"own_skip_weights": ()},
    "sliced once": {"own_skip_weights": (8,)},
    "plain": {"gamma": ()},
    "plain once": {"gamma": (6,), "own_skip_weights": ()},
    "inner skips": {"inner_skips": (11, 14, 17, 20)},
    "c3k": {"bottleneck_c3k": True, "inner_skips": (2, 4)},
    "switchable": SWITCHABLE,
    "switchable, no inner skip": {**SWITCHABLE, "inner_skips": ()},
    "switchable c3k": {**SWITCHABLE, "bottleneck_c3k": True, "inner_skips": (2, 4, 20)},
    "switchable, own weights": {**SWITCHABLE, "own_skip_weights": (6, 8), "classes": 3},
}

SOME = ("FFFFFFFF", "TTTTTTTT", "FTFTFTFT", "TFTFTFTF", "FFFFTTTT", "TTTTFFFF")
ONE_BY_ONE = tuple("F" * gate + "T" + "F" * (7 - gate) for gate in range(8))


def meta_model(config: YoloConfig) -> AnyDepthYOLO:
    with torch.device("meta"):
        return AnyDepthYOLO(config)


def shapes_of(model: AnyDepthYOLO) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def skips(depth: Depth) -> tuple[bool, ...]:
    return tuple(bool(setting) for setting in depth.settings)


def run(model: AnyDepthYOLO, images: Tensor, depth: Depth | str) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images, depth)["predictions"]
    return found


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two pictures, as small as they can be without being square."""
    return torch.from_numpy(random_images(2, 32, 64, seed)).to(dtype)


def assert_equals_oracle(
    model: AnyDepthYOLO, images: Tensor, depths: Iterable[Depth | str]
) -> list[Tensor]:
    """In double precision, to nine digits; scores are small, so each is judged by its own size."""
    state = dict(model.state_dict())
    assert images.dtype == torch.float64
    outputs = []
    for depth in depths:
        found = run(model, images, depth)
        assert found.dtype == torch.float64
        with torch.no_grad():
            expected = predictions(state, images, skips(model.table.find(depth)))
        relative = ((found - expected) / expected).abs().max()
        assert relative < 1e-9, (str(depth), float(relative))
        outputs.append(found)
    return outputs


# --- parity ----------------------------------------------------------------------------------


def test_every_depth_equals_the_oracle() -> None:
    model = random_yolo().double()
    images = small(dtype=torch.float64)
    outputs = assert_equals_oracle(model, images, model.space.every)
    assert len(outputs) == 256
    # A network deaf to a gate would have two depths alike.
    flat = torch.stack(outputs).flatten(1)
    gaps = torch.cdist(flat, flat, p=float("inf")).fill_diagonal_(1)
    assert gaps.min() > 1e-6


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_every_variant_equals_the_oracle(kind: str) -> None:
    model = random_yolo(seed=1, **VARIANTS[kind]).double()
    outputs = assert_equals_oracle(model, small(1, torch.float64), SOME + ONE_BY_ONE)
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().max() > 1e-6


@pytest.mark.parametrize("layout", ["skippable", "switchable"])
@pytest.mark.parametrize("name", ["n", "s"])
def test_published_sizes_equal_the_oracle(name: str, layout: str) -> None:
    model = random_yolo(name, seed=2, **(SWITCHABLE if layout == "switchable" else {})).double()
    images = torch.from_numpy(random_images(1, 64, 96)).double()
    assert_equals_oracle(model, images, ("super", "base", "FTTFTFFT"))


@pytest.mark.parametrize("size", [(32, 32), (96, 32), (64, 160)])
def test_sizes_equal_the_oracle(size: tuple[int, int]) -> None:
    """Areas of attention may cut through a row of the map."""
    model = random_yolo(seed=3).double()
    images = torch.from_numpy(random_images(2, *size)).double()
    for output in assert_equals_oracle(model, images, ("super", "base", "TTFFTTFF")):
        cells = sum(size[0] // stride * (size[1] // stride) for stride in (8, 16, 32))
        assert output.shape == (2, 4 + 8, cells)


def test_single_precision_is_good_enough() -> None:
    """Random weights must not amplify rounding: parity of artifacts is judged with them."""
    model = random_yolo()
    exact = copy.deepcopy(model).double()
    images = torch.from_numpy(random_images(1, 96, 160))
    for depth in ("super", "base"):
        gap = (run(model, images, depth) - run(exact, images.double(), depth)).abs()[0]
        limits = tolerances(model.family, (96, 160), "fp32").raw
        assert gap[:4].max() < limits["boxes"] / 3
        assert gap[4:].max() < limits["scores"] / 3


# --- the layers and their names --------------------------------------------------------------


@OF_SCALES
def test_names_and_shapes_are_those_of_the_layer_table(name: str) -> None:
    config = CONFIGS[name]
    found = shapes_of(meta_model(config.replace(classes=80)))
    assert found == shapes(name)
    inner = (2, 4, 20) if name in ("l", "x") else (20,)
    expected = shapes(name, layout="switchable", conv_skip=False, classes=3, c3k_inner_skips=inner)
    assert shapes_of(meta_model(config.switchable.replace(classes=3))) == expected
    expected = shapes(name, conv_skip=False, classes=200, c3k_inner_skips=(11, 14, 17))
    changed = config.replace(own_skip_weights=(), classes=200, inner_skips=(11, 14, 17))
    assert shapes_of(meta_model(changed)) == expected


def test_key_names_are_the_authors() -> None:
    found = shapes_of(meta_model(CONFIGS["l"]))
    for key in (
        "model.0.conv.weight",
        "model.1.bn.running_var",
        "model.2.cv1.bn_skip.weight",
        "model.2.m.0.m.1.cv2.bn_skip.running_mean",
        "model.3.bn_skip.num_batches_tracked",
        "model.6.gamma",
        "model.6.cv2.conv_skip.weight",
        "model.6.m.0.1.attn.qk.bn_skip.bias",
        "model.8.m.3.0.attn.pe.conv.weight",
        "model.8.m.1.1.attn.proj.bn_skip.weight",
        "model.8.m.1.0.mlp.1.bn_skip.weight",
        "model.11.m.0.cv3.bn_skip.weight",
        "model.15.bn_skip.weight",
        "model.20.m.1.m.1.cv1.bn.weight",
        "model.21.cv2.0.0.conv.weight",
        "model.21.cv2.2.2.bias",
        "model.21.cv3.1.0.0.conv.weight",
        "model.21.cv3.1.1.1.bn.weight",
        "model.21.cv3.0.2.bias",
        "model.21.dfl.conv.weight",
    ):
        assert key in found, key
    for key in (  # refinement, the first two layers and the head have one norm set
        "model.0.bn_skip.weight",
        "model.1.bn_skip.weight",
        "model.2.m.1.cv1.bn_skip.weight",
        "model.6.m.2.0.attn.qk.bn_skip.weight",
        "model.8.m.3.1.mlp.0.bn_skip.weight",
        "model.17.m.1.cv3.bn_skip.weight",
        "model.21.cv2.0.0.bn_skip.weight",
        "model.2.gamma",
        "model.11.gamma",
        "model.11.cv2.conv_skip.weight",
        "model.3.conv.bias",
    ):
        assert key not in found, key
    assert found["model.1.conv.weight"] == (128, 32, 3, 3)  # two groups
    assert found["model.3.conv.weight"] == (256, 64, 3, 3)  # four groups
    assert found["model.6.m.0.0.mlp.0.conv.weight"] == (384, 256, 1, 1)  # MLP ratio 1.5
    assert found["model.6.cv2.conv_skip.weight"] == (512, 768, 1, 1)


def test_constants_of_pickled_objects() -> None:
    """What no state dict tells: every norm, the second ones included, has the authors' numbers."""
    model = random_yolo()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 100
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    assert model.head.dfl.bins.tolist() == list(range(16))
    assert not model.head.dfl.conv.weight.requires_grad


def test_building_stages_adds_no_names(yolo_model: AnyDepthYOLO) -> None:
    keys = list(yolo_model.state_dict())
    gates = [gate.gate for stage in yolo_model.stages((64, 96)) for gate in stage.gates]
    assert gates == list(range(8))  # in the order of the layers, each in one stage
    assert list(yolo_model.state_dict()) == keys


# --- counts ----------------------------------------------------------------------------------


def parameters_used(model: AnyDepthYOLO, depth: str) -> dict[str, int]:
    """How much of each parameter the predictions depend on, found by backpropagation."""
    model.zero_grad()
    model(torch.from_numpy(random_images(1, 64, 64)), depth)["predictions"].sum().backward()
    used = {}
    for name, value in model.named_parameters():
        if value.grad is not None:
            # Of a weight, the input channels that matter: a skipped block may read but the first.
            kept = value.grad.abs().sum((0, 2, 3)).count_nonzero() if value.dim() == 4 else 1
            used[name] = value.numel() * int(kept) // (value.shape[1] if value.dim() == 4 else 1)
    return used


def test_parameters_are_the_published_ones() -> None:
    torch.manual_seed(0)
    model = AnyDepthYOLO(CONFIGS["l"]).eval()
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    assert sum(sizes.values()) == PUBLISHED_PARAMETERS["all"]
    bins = "model.21.dfl.conv.weight"  # used at every depth, but a constant
    for depth in ("super", "base"):
        used = parameters_used(model, depth)
        assert sum(used.values()) + sizes[bins] == PUBLISHED_PARAMETERS[depth]
    unused = sizes.keys() - parameters_used(model, "super").keys() - {bins}
    assert unused
    assert all("bn_skip" in name or "conv_skip" in name for name in unused)


def test_macs_are_the_published_ones() -> None:
    macs = count_macs(meta_model(CONFIGS["l"]), (640, 640))
    space = CONFIGS["l"].depth_space
    assert macs.at(space.super)["total"] == 44_472_627_200
    assert macs.at(space.base)["total"] == 31_012_761_600
    for depth, published in PUBLISHED_MACS.items():
        assert round(macs.at(space.parse(depth))["total"] / 1e6) == published


@pytest.mark.parametrize("layout", ["skippable", "switchable"])
@OF_SCALES
def test_macs_equal_the_oracles_and_rise_along_the_ladder(name: str, layout: str) -> None:
    model = meta_model(CONFIGS[name] if layout == "skippable" else CONFIGS[name].switchable)
    state = dict(model.state_dict())
    size = (320, 640)
    macs = count_macs(model, size)
    ladder = model.table.ladder
    for depth in (*ladder, model.table.find("FTTFTFFT"), model.table.find("TFFTFTTF")):
        found = macs.at(depth)
        assert found["total"] == multiply_adds(state, size, skips(depth)), depth
        assert found["total"] == sum(n for part, n in found.items() if part != "total")
        assert set(found) == {"total", "backbone", "neck", "head"}
    totals = [macs.at(rung)["total"] for rung in ladder]
    assert totals == sorted(set(totals))
    assert (skips(ladder[0]), skips(ladder[-1])) == (BASE, SUPER)


# --- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["skippable", "switchable"])
@OF_SCALES
def test_configurations_are_recognised_by_their_shapes(name: str, layout: str) -> None:
    start = CONFIGS[name] if layout == "skippable" else CONFIGS[name].switchable
    kinds = itertools.product(((), (6, 8)), ((), (6, 8), (8,)))
    for (weights, gamma), classes in zip(kinds, (1, 3, 80, 80, 365, 1), strict=True):
        config = start.replace(own_skip_weights=weights, gamma=gamma, classes=classes)
        found, recognised = recognise(shapes_of(meta_model(config)), "x")
        assert (found.name, recognised) == ("anydepth-yolo", config)


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_variants_are_recognised(kind: str) -> None:
    config = CONFIGS["tiny"].replace(**VARIANTS[kind])
    assert recognise_yolo(shapes_of(meta_model(config))) == config


def test_layers_of_their_own_weights_may_be_any() -> None:
    config = CONFIGS["s"].replace(own_skip_weights=(2, 8, 11, 20), inner_skips=(14,))
    assert recognise_yolo(shapes_of(meta_model(config))) == config


@pytest.mark.parametrize("name", ["n", "l"])
def test_networks_without_second_norm_sets_are_not_ours(name: str) -> None:
    static = {key: shape for key, shape in shapes(name).items() if "_skip" not in key}
    assert recognise_yolo(static) is None


@pytest.mark.parametrize(
    "changes",
    [{"width": 0.75}, {"depth": 0.5}, {"mlp_ratio": 1.2}, {"max_channels": 1024}],
)
def test_unknown_sizes_are_refused(changes: dict[str, Any]) -> None:
    model = meta_model(CONFIGS["s"].replace(**changes))
    with pytest.raises(CheckpointError, match=r"of an unknown size: found .* known sizes: n ") as e:
        recognise(shapes_of(model), "x")
    assert all(f"{name} (" in str(e.value) for name in CONFIGS)


def test_other_networks_are_not_ours() -> None:
    from anydepth_deploy.families.detr.config import CONFIGS as DETR_CONFIGS
    from anydepth_deploy.families.detr.model import AnyDepthDETR

    with torch.device("meta"):
        other = AnyDepthDETR(DETR_CONFIGS["tiny"]).state_dict()
    assert recognise_yolo({key: tuple(value.shape) for key, value in other.items()}) is None
    assert recognise_yolo({}) is None
    assert recognise_yolo({"model.0.conv.weight": (16, 3, 3, 3)}) is None
    assert recognise_yolo({"model.21.cv2.0.2.bias": (64,)}) is None


def test_damaged_shapes_are_refused_not_stumbled_over() -> None:
    whole = shapes("tiny")
    for key in ("model.14.cv2.conv.weight", "model.6.m.0.0.mlp.0.conv.weight"):
        for shape in ((), (0, 0, 0, 0), None):
            damaged = {k: v for k, v in whole.items() if k != key}
            if shape is not None:
                damaged[key] = shape
            with pytest.raises(CheckpointError, match="unknown size"):
                recognise(damaged, "x")


# --- depths and sizes ------------------------------------------------------------------------


def test_depths() -> None:
    space = CONFIGS["s"].depth_space
    depth = space.parse("FFTTFFFF")
    assert depth.settings == (0, 0, 1, 1, 0, 0, 0, 0)
    assert space.parse(str(depth)) == depth
    assert str(depth) == "FFTTFFFF"
    assert len(space.every) == len({str(depth) for depth in space.every}) == 256
    assert (str(space.super), str(space.base)) == ("FFFFFFFF", "TTTTTTTT")
    table = meta_model(CONFIGS["s"]).table
    assert len(table.rows) == 256
    assert [str(rung) for rung in table.ladder] == list(CONFIGS["s"].ladder)


@pytest.mark.parametrize("text", ["FFFF", "FFFFFFFFF", "FFFF-FFFF", "FFFFFFFX", "FFFFFFFF-6"])
def test_unknown_depths_are_refused(text: str) -> None:
    with pytest.raises(DepthError, match="written like 'FFFFFFFF'"):
        CONFIGS["s"].depth_space.parse(text)


@pytest.mark.parametrize("size", [(33, 64), (64, 33), (48, 64), (0, 32), (-32, 32), (32, 8224)])
def test_sizes_that_are_no_multiples_of_32_are_refused(size: tuple[int, int]) -> None:
    model = meta_model(CONFIGS["tiny"])
    with pytest.raises(InputError, match=rf"{size[0]}x{size[1]} .* multiples of 32"):
        model.check_size(size)
    model.check_size((32, 96))


# --- what a gate reaches ---------------------------------------------------------------------


def gated_depths(model: AnyDepthYOLO, gate: int) -> tuple[list[Depth], list[Depth]]:
    """Depths with that gate at F, and at T: base and super among them, the others spread."""
    every = (*model.space.every[::15], model.space.base, model.space.super)
    full = [depth for depth in every if not depth.settings[gate]]
    skipped = [depth for depth in every if depth.settings[gate]]
    assert len(full) > 5
    assert len(skipped) > 5
    return full, skipped


class Probe:
    """A network, and what it says as long as nothing in it is changed."""

    def __init__(self, **changes: Any) -> None:
        self.model = random_yolo(**changes)
        self.space = self.model.space
        self.images = small()
        self.before: dict[Depth, Tensor] = {}

    def changed(self, names: Iterable[str], depths: Iterable[Depth], start: int = 0) -> list[bool]:
        """Whether other values of these parameters (of a weight: of the input channels from
        `start` on) change what the network says at each depth."""
        for depth in depths:
            if depth not in self.before:
                self.before[depth] = run(self.model, self.images, depth)
        state = self.model.state_dict()
        old = {name: state[name].clone() for name in names}
        assert old
        for name in old:
            state[name][
                (...,) if state[name].dim() == 1 else (slice(None), slice(start, None))
            ] += 0.5
        after = {depth: run(self.model, self.images, depth) for depth in depths}
        for name, value in old.items():
            state[name].copy_(value)
        return [not torch.equal(self.before[depth], after[depth]) for depth in depths]


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe()


REFINEMENTS = ("2.m.1", "4.m.1", "6.m.2", "8.m.3", "11.m.1", "14.m.1", "17.m.1", "20.m.1")


@pytest.mark.parametrize("gate", range(8))
def test_a_gate_leaves_out_its_own_refinement(probe: Probe, gate: int) -> None:
    full, skipped = gated_depths(probe.model, gate)
    names = [
        name
        for name, _ in probe.model.named_parameters()
        if name.startswith(f"model.{REFINEMENTS[gate]}.") and name.endswith("bn.bias")
    ]
    assert all(probe.changed(names, full))
    assert not any(probe.changed(names, skipped))


@pytest.mark.parametrize("gate", range(8))
def test_a_gate_switches_its_own_norms(probe: Probe, gate: int) -> None:
    """Those of its block and of the convolution before it, and no others."""
    full, skipped = gated_depths(probe.model, gate)
    layers = [layer for layer, follows in FOLLOWS.items() if follows == gate] + [GATED[gate]]
    for layer in layers:
        names = [
            name
            for name, module in probe.model.named_modules()
            if isinstance(module, SwitchableConv)
            and module.switchable
            and name.split(".")[1] == str(layer)
        ]
        for ours, theirs, norm in ((full, skipped, "bn"), (skipped, full, "bn_skip")):
            chosen = [f"{name}.{norm}.bias" for name in names]
            assert all(probe.changed(chosen, ours)), (layer, norm)
            assert not any(probe.changed(chosen, theirs)), (layer, norm)


def test_each_norm_set_of_each_convolution_matters(probe: Probe) -> None:
    """One convolution at a time: its first set at super only, its second at base only."""
    ends = [probe.space.super, probe.space.base]
    switchable = 0
    for name, module in probe.model.named_modules():
        if not isinstance(module, SwitchableConv):
            continue
        found = probe.changed([f"{name}.bn.bias"], ends)
        if module.switchable:
            switchable += 1
            assert found == [True, False], name
            assert probe.changed([f"{name}.bn_skip.bias"], ends) == [False, True], name
        else:
            parts = (*REFINEMENTS, "6.m.3", "8.m.2")
            refinement = any(name.startswith(f"model.{part}.") for part in parts)
            assert found == [True, not refinement], name
    assert switchable > 50


def test_weights_of_their_own_for_the_skipped_mode(probe: Probe) -> None:
    ends = [probe.space.super, probe.space.base]
    for layer in (6, 8):
        key = f"model.{layer}.cv2"
        assert probe.changed([f"{key}.conv_skip.weight"], ends) == [False, True]
        assert probe.changed([f"{key}.conv.weight"], ends) == [True, False]
    assert probe.changed(["model.11.cv2.conv.weight"], ends) == [True, True]


def test_without_them_only_the_leading_channels_are_used() -> None:
    probe = Probe(own_skip_weights=())
    ends = [probe.space.super, probe.space.base]
    hidden = probe.model.config.channels(512) // 2
    # Of how many maps that layer concatenates, the first so many come from what is not skipped.
    for layer, kept in ((6, 3), (8, 3), (11, 2), (17, 2)):
        key = f"model.{layer}.cv2.conv.weight"
        assert probe.changed([key], ends, start=kept * hidden) == [True, False], layer
        assert probe.changed([key], ends, start=kept * hidden - 1) == [True, True], layer


# --- detections ------------------------------------------------------------------------------


def test_images_of_a_batch_do_not_meet(yolo_model: AnyDepthYOLO) -> None:
    images = torch.from_numpy(random_images(3, 64, 96))
    for depth in ("super", "base"):
        together = run(yolo_model, images, depth)
        for n in range(3):
            alone = run(yolo_model, images[n : n + 1], depth)[0]
            torch.testing.assert_close(together[n], alone, rtol=1e-4, atol=1e-4)


def test_detections_are_the_predictions_suppressed(yolo_model: AnyDepthYOLO) -> None:
    from oracle_nms import suppress

    images = torch.from_numpy(random_images(2, 96, 160))
    for depth in ("super", "base"):
        with torch.no_grad():
            found = yolo_model.detect(images, depth)
        raw = run(yolo_model, images, depth).numpy()
        for n in range(2):
            centre, half = raw[n, :2], raw[n, 2:4] * raw.dtype.type(0.5)
            boxes = torch.from_numpy(centre - half), torch.from_numpy(centre + half)
            corners = torch.cat(boxes).T.contiguous().numpy()
            expected = suppress(corners, raw[n, 4:], iou=0.7, score=0.001, limit=100)
            assert 0 < len(expected) < 100
            labels = found["labels"][n].tolist()
            assert labels == [label for label, _, _ in expected] + [-1] * (100 - len(expected))
            for place, (_, anchor, score) in enumerate(expected):
                assert float(found["scores"][n][place]) == score
                assert found["boxes"][n][place].tolist() == corners[anchor].tolist()
            assert not found["boxes"][n][len(expected) :].any()
            assert not found["scores"][n][len(expected) :].any()


def test_suppression_may_be_changed_at_any_time() -> None:
    """Stages are kept between calls, and one of them holds the rule."""
    model = random_yolo()
    images = torch.from_numpy(random_images(1, 64, 64))
    found = []
    for score in (0.9, 0.0):
        model.suppression = Suppression(score_threshold=score)
        found.append(int((model.detect(images)["labels"] >= 0).sum()))
    assert found[0] == 0 < found[1]


def test_weights_for_a_mode_that_skips_nothing_are_refused(tmp_path: Path) -> None:
    """A switchable C3k2 concatenates as much when it is skipped: `conv_skip` has no place there."""
    model = random_yolo(switchable_c3k2=True, own_skip_weights=(), inner_skips=(20,))
    state = model.state_dict()
    state["model.2.cv2.conv_skip.weight"] = state["model.2.cv2.conv.weight"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected keys: model.2.cv2.conv_skip.weight"):
        load_model(read_checkpoint(tmp_path / "odd.pth"))

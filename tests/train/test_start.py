"""What a run starts from: static networks that become any-depth, other classes, frozen norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.errors import CheckpointError, UsageError
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.norms import FrozenBatchNorm2d
from anydepth_deploy.families.shared.randomise import randomise
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.pictures.shapes import CLASS_NAMES
from anydepth_deploy.train.config import TrainConfig
from anydepth_deploy.train.start import Start, open_start

SAID = {"rt-detr": {}, "d-fine": {"decoder_activation": "silu"}}


def static_network(family: str, size: str = "tiny", **changes: object) -> AnyDepthModel:
    found = find_family(family)
    config = found.sizes[size].replace(**changes)
    return randomise(found.build(config), 3)


def saved(path: Path, model: AnyDepthModel, names: tuple[str, ...] | None = CLASS_NAMES) -> Path:
    content: dict[str, object] = {"ema": {"module": model.state_dict()}}
    if names is not None:
        content["class_names"] = list(names)
    torch.save(content, path)
    return path


def started(
    path: Path, family: str, names: tuple[str, ...] = CLASS_NAMES, **changes: object
) -> Start:
    settings = {"initial": str(path), "said": SAID[family], "input_size": (96, 160), **changes}
    config = TrainConfig.for_family(family, **{"data": "unused.json", **settings})
    return open_start(config, names)


def images() -> torch.Tensor:
    return torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", SAID)
def test_super_is_the_initial_network_before_the_first_step(tmp_path: Path, family: str) -> None:
    path = saved(tmp_path / "static.pth", static_network(family))
    initial = load_model(read_checkpoint(path, Said.of(SAID[family])))
    start = started(path, family)
    # Training keeps weights channels last, where convolutions round otherwise.
    model = start.model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert [gate.name for gate in model.space.gates if gate.layers == 0]
    assert any("got a second set" in note for note in start.notes)
    with torch.no_grad():
        wanted = initial(images(), "super")
        found = model(images(), "super")
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)
        # Base runs less: it is another network, even with norms that are still the same.
        assert (model(images(), "base")["logits"] - wanted["logits"]).abs().max() > 1e-3
    # And every exit, as the static network has it.
    with torch.no_grad():
        for layers in (1, 2):
            depth = model.space.depth((*model.space.super.settings[:-1], layers))
            alone = initial.space.depth((layers,))
            torch.testing.assert_close(
                model(images(), depth)["boxes"], initial(images(), alone)["boxes"], rtol=0, atol=0
            )


def test_heads_are_made_anew_for_other_classes_but_for_those_of_the_same_name(
    tmp_path: Path,
) -> None:
    initial = static_network("rt-detr")
    path = saved(tmp_path / "static.pth", initial)
    names = ("Lorry", CLASS_NAMES[5].upper(), CLASS_NAMES[2])
    start = started(path, "rt-detr", names)
    assert start.notes[-1] == "class heads were made anew for 3 classes, 2 of them kept by name; " \
        "before: 8"  # fmt: skip
    before, after = initial.state_dict(), start.model.state_dict()
    for key in ("decoder.enc_score_head.weight", "decoder.dec_score_head.2.bias"):
        assert after[key].shape[0] == 3
        assert torch.equal(after[key][1:], before[key][[5, 2]])
        assert not torch.equal(after[key][0], before[key][0])
    embedding = after["decoder.denoising_class_embed.weight"]
    assert torch.equal(
        embedding[[1, 2, 3]], before["decoder.denoising_class_embed.weight"][[5, 2, 8]]
    )
    # Nothing else is touched.
    same = [name for name in before if "score_head" not in name and "denoising" not in name]
    assert len(same) > 150
    assert all(torch.equal(after[name], before[name]) for name in same)


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    initial = static_network("rt-detr")
    path = saved(tmp_path / "static.pth", initial)
    start = started(path, "rt-detr", tuple(reversed(CLASS_NAMES)))
    key = "decoder.dec_score_head.0.weight"
    assert torch.equal(start.model.state_dict()[key], initial.state_dict()[key].flip(0))


def test_a_file_that_names_no_classes_is_taken_for_the_datas(tmp_path: Path) -> None:
    initial = static_network("rt-detr")
    start = started(saved(tmp_path / "static.pth", initial, None), "rt-detr", tuple("abcdefgh"))
    assert "the checkpoint does not name its 8 classes: taken for those of the data, in their " \
        "order" in start.notes  # fmt: skip
    key = "decoder.dec_score_head.0.weight"
    assert torch.equal(start.model.state_dict()[key], initial.state_dict()[key])
    other = started(tmp_path / "static.pth", "rt-detr", tuple("abc"))
    assert other.notes[-1] == "class heads were made anew for 3 classes; before: 8"


def test_heads_of_a_yolo_are_made_anew(tmp_path: Path) -> None:
    family = find_family("anydepth-yolo")
    initial = randomise(family.build(family.sizes["tiny"]), 3)
    path = saved(tmp_path / "yolo.pth", initial)
    config = TrainConfig.for_family(
        "anydepth-yolo", initial=str(path), data="unused.json", input_size=(96, 160)
    )
    start = open_start(config, ("one", "two"))
    model = start.model.eval()
    with torch.no_grad():
        found = model.detect(images(), "base")
    assert int(found["labels"].max()) <= 1
    before, after = initial.state_dict(), model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(name.startswith("model.21.cv3.") for name in changed)


def test_frozen_norms_stay_frozen_but_for_second_sets(tmp_path: Path) -> None:
    backbone = ResNetConfig((2, 2, 2, 2), (8, 8, 16, 16), True, (8, 16), frozen=True)
    initial = static_network("rt-detr", backbone=backbone)
    path = saved(tmp_path / "static.pth", initial)
    kept = started(path, "rt-detr")
    modules = dict(kept.model.backbone.named_modules())  # type: ignore[union-attr]
    assert not kept.train_norms
    norms = {
        name: kind for name, kind in modules.items() if name.rpartition(".")[2].startswith("norm")
    }
    second = {name for name in norms if name.endswith("_skippable")}
    assert len(second) > 10
    for name, module in norms.items():
        assert isinstance(module, nn.BatchNorm2d if name in second else FrozenBatchNorm2d), name
    # A checkpoint holds all of them frozen, with no counters.
    stored = [name for name in kept.model.state_dict() if kept.recipe.stores(name)]
    assert not [name for name in stored if name.startswith("backbone.") and "num_batches" in name]

    learning = started(path, "rt-detr", train_norms=True)
    assert learning.train_norms
    assert not [m for m in learning.model.modules() if isinstance(m, FrozenBatchNorm2d)]


def test_a_static_run_leaves_the_network_without_gates(tmp_path: Path) -> None:
    path = saved(tmp_path / "static.pth", static_network("rt-detr"))
    start = started(path, "rt-detr", static=True)
    assert [gate.name for gate in start.model.space.gates] == ["decoder"]
    assert not [name for name in start.model.state_dict() if "skippable" in name]


@pytest.mark.parametrize("family", ["anydepth-detr", "anydepth-yolo"])
def test_a_network_with_gates_cannot_be_trained_without(family: str) -> None:
    config = TrainConfig.for_family(family, static=True)
    with pytest.raises(UsageError, match=r"--static: .* can skip .*leave --static out"):
        open_start(config, CLASS_NAMES)


def test_from_nothing_the_any_depth_form_is_trained() -> None:
    for family in ("rt-detr", "d-fine"):
        start = open_start(TrainConfig.for_family(family), CLASS_NAMES)
        assert [gate.name for gate in start.model.space.gates if gate.layers == 0]
        static = open_start(TrainConfig.for_family(family, static=True), CLASS_NAMES)
        assert [gate.name for gate in static.model.space.gates] == ["decoder"]


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    path = saved(tmp_path / "static.pth", static_network("rt-detr"))
    config = TrainConfig.for_family("d-fine", initial=str(path), data="unused.json")
    with pytest.raises(CheckpointError, match="is of rt-detr tiny, this run trains d-fine"):
        open_start(config, CLASS_NAMES)
    with pytest.raises(UsageError, match="unknown model 'huge': choose one of"):
        open_start(TrainConfig.for_family("rt-detr", model="huge"), CLASS_NAMES)
    state = static_network("rt-detr").state_dict()
    state["decoder.enc_score_head.bias"][3] = float("nan")
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} .*not numbers"):
        started(path, "rt-detr")

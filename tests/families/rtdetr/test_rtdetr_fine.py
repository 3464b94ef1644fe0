"""RT-DETR with FINE: counts, recognition, what no key reveals, and the whole network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from oracle_detr import encoder, position_embedding
from oracle_fine import Switches
from static_detr_cases import gflops, meta_model, parameters, shapes_of
from static_detrs import authors_state, save_authors, static_detr
from torch import Tensor

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.describe import describe_checkpoint, show
from anydepth_deploy.errors import UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.rtdetr.config import CONFIGS, RTDetrConfig
from anydepth_deploy.families.rtdetr.recognise import recognise_rtdetr
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.families.shared.detr.settle import FINE_CHOICES
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import Stage
from anydepth_deploy.verifying.graphs import verify

MODULES = "encoder.sa_cross_attn."

STEM = 3 * 32 * 9 + 32 * 32 * 9 + 32 * 64 * 9
"""Parameters of the three convolutions that the authors froze together with the norms of R50."""

SAID: list[dict[str, str]] = [
    {},
    {"fine_position": "off"},
    {"fine_cosformer": "off", "fine_upsampling": "nearest"},
    {"fine_position": "off", "fine_cosformer": "off"},
]


def with_switches(said: dict[str, str]) -> FineConfig:
    """That of the tiny network, as a person says it."""
    config = CONFIGS["tiny-fine"].fine
    assert config is not None
    return dataclasses.replace(
        config,
        position=said.get("fine_position", "on") == "on",
        cosformer=said.get("fine_cosformer", "on") == "on",
        upsampling=said.get("fine_upsampling", "bilinear"),
    )


def read(tmp_path: Path, model: Any, said: Said | None = None, layout: str = "v1") -> Checkpoint:
    return read_checkpoint(save_authors(tmp_path / "c.pth", authors_state(model, layout)), said)


@pytest.mark.parametrize(
    ("name", "frozen", "trainable"), [("r18", 0, 21_764_016), ("r50", STEM, 44_442_412)]
)
def test_parameters_equal_the_authors(name: str, frozen: int, trainable: int) -> None:
    """The stem of R50 is frozen, and so no parameter in the authors' count."""
    model, plain = meta_model("rt-detr", f"{name}-fine"), meta_model("rt-detr", name)
    assert parameters(model) - frozen == trainable
    assert parameters(model) - parameters(plain) == 2 * 789_776
    state, without = model.state_dict(), plain.state_dict()
    assert len(state) - len(without) == 2 * 17
    assert {key for key in state if key not in without} == {
        key for key in state if key.startswith(MODULES)
    }


def test_operations() -> None:
    """Two times projections, feed-forward, and both brackets of attention over 400 cells."""
    found = gflops(meta_model("rt-detr", "r18-fine"), "super")
    plain = gflops(meta_model("rt-detr", "r18"), "super")
    cells, width = 400, 256
    linear = cells * (4 * width * width + 2 * width * 1024)
    attention = 2 * cells * 2 * 16 * 16 * 16
    assert (found["encoder"] - plain["encoder"]) * 1e9 / 2 == pytest.approx(
        2 * (linear + attention)
    )
    assert found["total"] - plain["total"] == pytest.approx(found["encoder"] - plain["encoder"])


@pytest.mark.parametrize("size", [(96, 160), (384, 640), (256, 64)])
@pytest.mark.parametrize("said", SAID, ids=str)
@torch.no_grad()
def test_equals_the_oracle(said: dict[str, str], size: tuple[int, int]) -> None:
    """The neck, then logits of every exit behind the oracle's neck and behind ours; in float64,
    but for constants of the network."""
    fine = with_switches(said)
    model = static_detr("rt-detr", "tiny-fine", fine=fine)
    images = torch.from_numpy(random_images(2, *size))
    heads, switches = model.config.heads, Switches(fine.position, fine.cosformer)

    maps = [x.double() for x in model.backbone(images)]
    exact = static_detr("rt-detr", "tiny-fine", fine=fine).double()
    embedding = position_embedding(size[0] // 32, size[1] // 32, model.config.hidden, torch.float64)
    found = exact.encoder(maps, position=embedding[None])
    state = dict(exact.state_dict())
    expected = encoder(state, maps, False, heads, switches=switches, upsampling=fine.upsampling)
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).abs().max() < 1e-12 * max(1.0, float(other.abs().max()))

    def replace(stage: Stage, tensors: dict[str, Tensor]) -> None:
        if stage.name == "encoder":
            taken = [tensors[name] for name in stage.inputs]
            given = encoder(
                state, taken, False, heads, switches=switches, upsampling=fine.upsampling
            )
            tensors.update(zip(stage.outputs, given, strict=True))

    for depth in ("L1", "L3"):
        other = exact.flow(images.double(), depth, revise=replace)
        raw = {"queries": other["queries"], "logits": other["logits"], "boxes": other["boxes"]}
        mine = exact.compare(images.double(), depth, raw)
        assert mine.gap < 1e-5
        assert (mine.raw["logits"] - other["logits"]).abs().max() < 1e-5
        assert (mine.raw["boxes"] - other["boxes"]).abs().max() < 1e-6


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_recognised_by_its_keys(layout: str) -> None:
    for name in ("r18-fine", "r50-fine", "tiny-fine"):
        state = authors_state(meta_model("rt-detr", name), layout)
        found = recognise_rtdetr(shapes_of(state))
        assert isinstance(found, RTDetrConfig)
        assert (found.name, found.release) == (name, layout)
        assert found.fine == CONFIGS[name].fine


def test_heads_are_read_from_the_norm() -> None:
    for heads in (1, 8, 16):
        model = static_detr("rt-detr", "tiny-fine", fine=FineConfig(heads, 40))
        found = recognise_rtdetr(shapes_of(model.state_dict()))
        assert isinstance(found, RTDetrConfig)
        assert (found.name, found.fine) == ("custom", FineConfig(heads, 40))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"1.": None}, "with FINE in 1 places: expected one for each of 2 steps"),
        ({"0.": None}, "the numbers 1: expected 0"),
        ({"0.attn_norm.weight": None}, f"without '{MODULES}0.attn_norm.weight'"),
        ({"0.attn_norm.weight": (24,)}, "heads of 24 channels: expected a divisor of its 64"),
        ({"0.attn_norm.weight": (0,)}, "has the shape [0]"),
        ({"0.linear1.weight": None}, f"without '{MODULES}0.linear1.weight'"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, tuple[int, ...] | None], words: str
) -> None:
    shapes = shapes_of(static_detr("rt-detr", "tiny-fine").state_dict())
    for name, shape in changes.items():
        if shape is not None:
            shapes[MODULES + name] = shape
            continue
        for key in [key for key in shapes if key.startswith(MODULES + name)]:
            del shapes[key]
    found = recognise_rtdetr(shapes)
    assert isinstance(found, Refusal)
    assert found.reason.startswith("an RT-DETR ")
    assert words in found.reason


def test_switches_are_assumed_unless_they_are_said(tmp_path: Path) -> None:
    """And the person's word changes the network, not its name."""
    model = static_detr("rt-detr", "tiny-fine")
    usual = {"fine_position": "on", "fine_cosformer": "on", "fine_upsampling": "bilinear"}
    images = torch.from_numpy(random_images(2, 96, 160))
    answers = []
    for said in SAID:
        found = read(tmp_path, model, Said(**said))
        assert found.config.name == "tiny-fine"
        assert found.config.fine == with_switches(said)
        assert found.chosen == usual | said
        assert found.assumed == {key: word for key, word in usual.items() if key not in said}
        with torch.no_grad():
            answers.append(load_model(found)(images)["logits"])
    with torch.no_grad():
        assert torch.equal(answers[0], model(images)["logits"])
    assert all((answer - answers[0]).abs().max() > 1e-3 for answer in answers[1:])


def test_of_a_second_release_sampling_is_assumed_too(tmp_path: Path) -> None:
    found = read(tmp_path, static_detr("rt-detr", "tiny-fine"), Said(sampling="bilinear"), "v2")
    assert (found.config.name, found.config.release) == ("tiny-fine", "v2")
    assert found.chosen["sampling"] == "bilinear"
    assert set(found.assumed) == set(FINE_CHOICES)


def test_nothing_is_said_of_fine_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--fine-cosformer off: .*c.pth holds a network without"):
        read(tmp_path, static_detr("rt-detr"), Said(fine_cosformer="off"))
    model = static_detr("d-fine")
    with pytest.raises(UsageError, match="--fine-position on: D-FINE has no such choice; leave"):
        read(tmp_path, model, Said(fine_position="on"), "d-fine")
    with pytest.raises(UsageError, match=r"--fine-upsampling cubic: .* expected one of bilinear"):
        read(tmp_path, static_detr("rt-detr", "tiny-fine"), Said(fine_upsampling="cubic"))


def test_inspect_shows_what_was_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_authors(
        tmp_path / "c.pth", authors_state(static_detr("rt-detr", "tiny-fine"), "v1")
    )
    found = describe_checkpoint(path, (96, 160), Said(fine_position="off"))
    assert found["config"] == "tiny-fine"
    assert found["assumed"] == {"fine_cosformer": "on", "fine_upsampling": "bilinear"}
    show(found, every=False, as_json=False)
    shown = capsys.readouterr().out
    assert "ASSUMED: fine_cosformer on; no key tells, --fine-cosformer says otherwise" in shown
    assert "ASSUMED: fine_position" not in shown
    assert "fine_position: off" in shown


def test_bundles_keep_what_was_said(tmp_path: Path) -> None:
    """And graphs of it, in one file for all exits, equal the checkpoint."""
    path = save_authors(
        tmp_path / "c.pth", authors_state(static_detr("rt-detr", "tiny-fine"), "v1")
    )
    bundle = export_bundle(
        path,
        tmp_path / "bundle",
        input_size=(96, 160),
        raw=True,
        said=Said(fine_cosformer="off", fine_upsampling="nearest"),
    )
    assert bundle.manifest.config == "tiny-fine"
    assert bundle.manifest.said == {
        "fine_position": "on",
        "fine_cosformer": "off",
        "fine_upsampling": "nearest",
    }
    batches = [random_images(2, 96, 160)]
    assert verify(open_bundle(bundle.path), str(path), batches).passed

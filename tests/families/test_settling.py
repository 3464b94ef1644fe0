"""What no key of a static DETR reveals: found, said, assumed, and written into bundles."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from static_detr_cases import shapes_of
from static_detrs import authors_state, save_authors, static_detr

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.describe import describe_bundle, describe_checkpoint, show
from anydepth_deploy.errors import BundleError, CheckpointError, UsageError
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.families.dfine.config import CONFIGS
from anydepth_deploy.families.dfine.recognise import recognise_dfine
from anydepth_deploy.families.dfine.settle import settle_dfine
from anydepth_deploy.families.family import Refusal
from anydepth_deploy.families.registry import recognise
from anydepth_deploy.families.shared.settling import Beside, Said
from anydepth_deploy.verifying.graphs import verify

State = dict[str, torch.Tensor]


def read(tmp_path: Path, state: State, said: Said | None = None) -> Checkpoint:
    return read_checkpoint(save_authors(tmp_path / "c.pth", state), said)


def test_dfine_and_deim_cannot_be_told_apart(tmp_path: Path) -> None:
    """ReLU is assumed, in a line of its own; a person's word changes name and numbers."""
    model = static_detr("d-fine")
    found = read(tmp_path, authors_state(model, "d-fine"))
    assert (found.config.name, found.config.decoder_activation) == ("tiny", "relu")
    assert found.assumed == found.chosen == {"decoder_activation": "relu"}
    assert any("--decoder-activation silu" in note for note in found.notes)
    said = read(tmp_path, authors_state(model, "d-fine"), Said(decoder_activation="silu"))
    assert (said.config.release, said.config.decoder_activation) == ("deim", "silu")
    assert (said.chosen, said.assumed) == ({"decoder_activation": "silu"}, {})
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        one, other = load_model(found)(images), load_model(said)(images)
    assert not torch.allclose(one["logits"], other["logits"], atol=1e-3)


def test_rtdetrv4_is_known_by_its_projection(tmp_path: Path) -> None:
    model = static_detr("d-fine", decoder_activation="silu")
    found = read(tmp_path, authors_state(model, "v4"))
    assert (found.config.release, found.config.decoder_activation) == ("v4", "silu")
    assert (found.chosen, found.assumed) == ({}, {})
    assert any("projection for distillation" in note for note in found.notes)
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        assert torch.equal(load_model(found)(images)["boxes"], model(images)["boxes"])


@pytest.mark.parametrize(
    ("size", "counted", "name", "assumed"),
    [
        ("l", False, "l", True),
        ("l", True, "deim-l", False),
        ("x", True, "deim-x", False),
        ("s", True, "s", True),
    ],
)
def test_deim_is_known_by_counters_where_dfine_has_none(
    size: str, counted: bool, name: str, assumed: bool
) -> None:
    """Published shapes, without their memory."""
    from anydepth_deploy.families.registry import find_family

    wanted = CONFIGS[size]
    wanted = wanted.replace(backbone=dataclasses.replace(wanted.backbone, frozen=not counted))
    with torch.device("meta"):
        state = dict(find_family("d-fine").build(wanted).state_dict())
    state["decoder.reg_scale"] = torch.tensor([int(wanted.reach)])
    state["decoder.up"] = torch.tensor([0.5])
    config = recognise_dfine(shapes_of(state))
    settled = settle_dfine(config, state, Beside("a file"))  # type: ignore[arg-type]
    assert settled.config.name == name
    assert bool(settled.assumed) is assumed


def test_rtdetrs_by_generation(tmp_path: Path) -> None:
    """What DEIM trained has a third layer in the embedding of boxes; only v2 may be discrete."""
    first = read(tmp_path, authors_state(static_detr("rt-detr"), "v1"))
    assert (first.config.release, first.chosen) == ("v1", {})
    second = read(tmp_path, authors_state(static_detr("rt-detr"), "v2"))
    assert (second.config.release, second.assumed) == ("v2", {"sampling": "bilinear"})
    deim = static_detr(
        "rt-detr",
        position=(64, 64),
        decoder_activation="silu",
        release="deim",
        queries=300,  # as of sizes that nobody published
        max_detections=300,
    )
    third = read(tmp_path, authors_state(deim, "v2"))
    assert (third.config.release, third.config.decoder_activation) == ("deim", "silu")
    assert third.chosen == {}
    said = read(tmp_path, authors_state(static_detr("rt-detr"), "v2"), Said(sampling="discrete"))
    assert (said.config.sampling, said.chosen) == ("discrete", {"sampling": "discrete"})
    for found, model in ((first, static_detr("rt-detr")), (third, deim)):
        images = torch.rand(2, 3, 96, 160)
        with torch.no_grad():
            assert torch.equal(load_model(found)(images)["logits"], model(images)["logits"])


@pytest.mark.parametrize(("points", "layout"), [((1, 3, 2), "v2"), ((2, 2, 2), "v2")])
def test_points_are_read_from_their_scales(
    points: tuple[int, ...], layout: str, tmp_path: Path
) -> None:
    model = static_detr("rt-detr", points=points, queries=300, max_detections=300)
    found = read(tmp_path, authors_state(model, layout))
    assert found.config.points == points
    images = torch.rand(2, 3, 96, 160)
    with torch.no_grad():
        assert torch.equal(load_model(found)(images)["boxes"], model(images)["boxes"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("decoder.reg_scale", torch.tensor([0]), "expected one number that is not zero"),
        ("decoder.reg_scale", torch.tensor([4, 4]), "expected one number that is not zero"),
        ("decoder.up", torch.tensor([torch.nan]), "expected one number that is not zero"),
        ("decoder.decoder.reg_scale", torch.tensor([8]), "2 times with different numbers"),
        ("layers.1.cross_attn.num_points_scale", torch.full((12,), 0.3), "1 / points for each"),
        ("layers.1.cross_attn.num_points_scale", torch.full((12,), 0.25), "the same in all layers"),
        ("layers.1.cross_attn.num_points_scale", torch.full((12,), torch.nan), "1 / points"),
        ("layers.1.cross_attn.num_points_scale", torch.ones(3), "12 points of 3 levels"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    key: str, value: torch.Tensor, words: str, tmp_path: Path
) -> None:
    state = authors_state(static_detr("d-fine"), "d-fine")
    if key.startswith("layers."):
        key = f"decoder.decoder.{key}"
    state[key] = value
    if key in ("decoder.reg_scale", "decoder.up"):
        del state[key.replace("decoder.", "decoder.decoder.", 1)]
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, state)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_for_the_reach_of_bins(tmp_path: Path) -> None:
    """As the authors' files have them: a network computes with the float of the same value."""
    model = static_detr("d-fine", reach=8.0)
    state = authors_state(model, "d-fine")
    assert state["decoder.reg_scale"].dtype == torch.int64
    found = read(tmp_path, state)
    assert found.config.reach == 8.0
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        assert torch.equal(load_model(found)(images)["boxes"], model(images)["boxes"])


def test_wider_layers_behind_the_last_exit_are_left_out(tmp_path: Path) -> None:
    model = static_detr("d-fine")
    state = authors_state(model, "d-fine")
    wide = {
        "decoder.layers.3.self_attn.out_proj.weight": torch.rand(128, 128),
        "decoder.lqe_layers.3.reg_conf.layers.0.bias": torch.rand(64),
        "dec_bbox_head.3.layers.0.bias": torch.rand(128),
        "dec_score_head.3.bias": torch.rand(8),
    }
    state |= {f"decoder.{key}": value for key, value in wide.items()}
    found = read(tmp_path, state)
    assert found.config.decoder_layers == 3
    assert any("wider decoder layers" in note for note in found.notes)
    load_model(found)


def test_files_without_what_only_training_uses(tmp_path: Path) -> None:
    for family, layout in (("rt-detr", "v2"), ("d-fine", "d-fine")):
        model = static_detr(family)
        state = {
            key: value
            for key, value in authors_state(model, layout).items()
            if not key.endswith(("num_batches_tracked", "num_points_scale", "valid_mask"))
            and not key.startswith(("decoder.denoising", "decoder.anchors", "decoder.decoder.up"))
        }
        found = read(tmp_path, state)
        assumed = [note for note in found.notes if "points of attention are assumed" in note]
        assert len(assumed) == (family == "d-fine")
        images = torch.rand(1, 3, 96, 160)
        with torch.no_grad():
            # Norms of the encoder are ordinary in any case; those of such backbones, too.
            assert torch.equal(load_model(found)(images)["boxes"], model(images)["boxes"])


def test_choices_that_a_family_does_not_have(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="--decoder-activation silu: AnyDepth-DETR has no such"):
        read_checkpoint(checkpoint, Said(decoder_activation="silu"))
    state = authors_state(static_detr("d-fine"), "d-fine")
    with pytest.raises(UsageError, match="expected one of relu, silu"):
        read(tmp_path, state, Said(decoder_activation="tanh"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["model.0.stem1.conv.weight", "model.28.dec_score_head.0.weight"], "Ultralytics' RT-DETR"),
        (["backbone.0.encoder.encoder.embeddings.x", "refpoint_embed.weight"], "RF-DETR"),
        (["backbone.0.encoder.blocks.0.x", "refpoint_embed.weight"], "LW-DETR"),
        (["backbone.dinov3.x", "decoder.decoder.lqe_layers.0.x"], "DEIMv2"),
        (["decoder.decoder.layers.0.swish_ffn.w12.weight"], "DEIMv2"),
        (
            ["transformer.level_embed", "transformer.encoder.layers.0.self_attn.x"],
            "Deformable DETR",
        ),
        (["transformer.encoder.layers.0.self_attn.in_proj_weight", "query_embed.weight"], "a DETR"),
        (["bbox_head.cls_branches.0.weight"], "RT-DETR of MMDetection"),
    ],
)
def test_relatives_are_refused_by_name(keys: list[str], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        recognise(dict.fromkeys(keys, (4, 4)), "checkpoint c.pth")
    assert f"weights of {words}" in str(caught.value) or words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_of_two_families(tmp_path: Path) -> None:
    """Of an any-depth one and a static one, and of two static ones."""
    static = authors_state(static_detr("d-fine"), "d-fine")
    mixed = static | {"backbone.layer1.0.bn1_skip.weight": torch.rand(4)}
    with pytest.raises(CheckpointError, match=r"a D-FINE with second norm sets in places"):
        read(tmp_path, mixed)
    other = authors_state(static_detr("rt-detr"), "v2")
    with pytest.raises(CheckpointError, match="two backbones"):
        read(tmp_path, {**other, **static})
    # With one backbone, what belongs to the other decoder is named.
    with pytest.raises(CheckpointError, match=r"unexpected keys.*value_proj"):
        load_model(read(tmp_path, {**static, **_decoder(other)}))


def _decoder(state: State) -> State:
    return {key: value for key, value in state.items() if "cross_attn.value_proj" in key}


def test_recognising_never_raises() -> None:
    """Whatever shapes a file has: scalars, nothing, sides beyond any memory."""
    for family, layout in (("rt-detr", "v2"), ("d-fine", "d-fine")):
        shapes = shapes_of(authors_state(static_detr(family), layout))
        for key in list(shapes)[:: 1 + len(shapes) // 25]:
            for odd in ((), (0,), (2**40,) * 4, (1,)):
                found = _recognised({**shapes, key: odd})
                assert found is None or isinstance(found, Refusal) or found.classes == 8


def _recognised(shapes: dict[str, tuple[int, ...]]) -> Any:
    from anydepth_deploy.families.rtdetr.recognise import recognise_rtdetr

    return recognise_rtdetr(shapes) or recognise_dfine(shapes)


def test_a_bundle_remembers_what_it_was_exported_with(tmp_path: Path) -> None:
    """So that verifying asks nobody again."""
    model = static_detr("d-fine", decoder_activation="silu")
    file = save_authors(tmp_path / "c.pth", authors_state(model, "d-fine"))
    said = Said(decoder_activation="silu")
    bundle = export_bundle(file, tmp_path / "bundle", depth="L1", raw=True, said=said)
    assert bundle.manifest.said == {"decoder_activation": "silu"}
    assert describe_bundle(bundle.path)["said"] == {"decoder_activation": "silu"}
    opened = open_bundle(bundle.path)
    batches = [torch.rand(2, 3, 160, 160).numpy()]
    assert verify(opened, str(file), batches).passed
    with pytest.raises(BundleError, match="another"):  # the same file is another network now
        export_bundle(file, tmp_path / "bundle", depth="L1", raw=True)
    told: list[str] = []
    again = export_bundle(file, bundle.path, depth="L2", force=True, note=told.append)
    assert again.manifest.said == {"decoder_activation": "silu"}
    assert "kept from the bundle that is replaced: --decoder-activation silu" in told
    said = Said(decoder_activation="relu")
    other = export_bundle(file, bundle.path, depth="L2", force=True, said=said)
    assert other.manifest.said == {"decoder_activation": "relu"}


def test_inspect_says_what_was_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_authors(tmp_path / "c.pth", authors_state(static_detr("d-fine"), "d-fine"))
    found = describe_checkpoint(file)
    assert found["said"] == found["assumed"] == {"decoder_activation": "relu"}
    assert found["layout"] == "authors"
    show(found, every=False, as_json=False)
    assert "ASSUMED: decoder_activation relu" in capsys.readouterr().out
    said = Said(decoder_activation="silu")
    show(describe_checkpoint(file, said=said), every=False, as_json=False)
    out = capsys.readouterr().out
    assert "ASSUMED" not in out
    assert "decoder_activation: silu" in out


def test_a_bundle_takes_no_graphs_of_what_is_said_otherwise(tmp_path: Path) -> None:
    """Of a network that no size has, whose name says nothing of its activation either."""
    model = static_detr("d-fine", decoder_layers=1, queries=300)
    file = save_authors(tmp_path / "c.pth", authors_state(model, "d-fine"))
    out = tmp_path / "bundle"
    options: dict[str, Any] = {"input_size": (128, 160)}
    export_bundle(file, out, said=Said(decoder_activation="relu"), **options)
    before = (out / "manifest.json").read_bytes()
    for layout in ("gated", "set"):
        with pytest.raises(BundleError, match=r"--decoder-activation relu \(now silu\)"):
            export_bundle(
                file, out, layouts=[layout], said=Said(decoder_activation="silu"), **options
            )
    assert (out / "manifest.json").read_bytes() == before
    assert {item.name for item in out.iterdir()} == {
        "manifest.json",
        "golden.safetensors",
        *(item.file for item in open_bundle(out).manifest.artifacts),
    }
    told: list[str] = []
    export_bundle(file, out, layouts=["set"], note=told.append, **options)  # the same, assumed
    assert [line for line in told if "--decoder-activation says otherwise" in line]
    batches = [torch.rand(2, 3, 128, 160).numpy()]
    assert verify(open_bundle(out), str(file), batches).passed


@pytest.mark.parametrize("key", ["reg_scale", "layers.1.cross_attn.num_points_scale"])
def test_a_large_tensor_for_a_few_numbers_takes_no_memory(key: str, tmp_path: Path) -> None:
    """In Python, each number takes many times its bytes in the file."""
    state = authors_state(static_detr("d-fine"), "d-fine")
    for prefix in ("decoder.", "decoder.decoder."):
        if f"{prefix}{key}" in state:
            state[f"{prefix}{key}"] = torch.ones(1_000_000)
    config = CONFIGS["tiny"]
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="expected"):
            settle_dfine(config, state, Beside("checkpoint c"))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()

"""Folders of transformers: the same networks as their authors' files, or one line why not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from static_detrs import (
    PREPROCESSOR,
    authors_state,
    hugging_face_state,
    in_memory,
    save_authors,
    save_hugging_face,
    static_detr,
)

from anydepth_deploy.checkpoints.checkpoint import Checkpoint, load_model, read_checkpoint
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import CheckpointError
from anydepth_deploy.families.shared.settling import Said

LAYOUTS = {
    "v1": ("rt-detr", "tiny"),
    "v2": ("rt-detr", "tiny-hgnetv2"),
    "d-fine": ("d-fine", "tiny"),
}


def same_weights(one: Any, other: Any) -> bool:
    """But for counters of norms, which transformers does not keep in backbones."""
    a, b = (
        {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
        for model in (one, other)
    )
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def refused(path: Path, said: Said | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(read_checkpoint(path, said))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_both_layouts_give_equal_networks(layout: str, tmp_path: Path) -> None:
    """The authors' file, a folder, its file, a folder of shards, one of them, names in memory."""
    model = static_detr(*LAYOUTS[layout])
    authors = read_checkpoint(save_authors(tmp_path / "authors.pth", authors_state(model, layout)))
    whole = save_hugging_face(tmp_path / "whole", model, layout)
    parts = save_hugging_face(tmp_path / "parts", model, layout, shards=3)
    memory = save_hugging_face(tmp_path / "memory", model, layout)
    model_type = json.loads((memory / "config.json").read_text())["model_type"]
    save_file(
        in_memory(hugging_face_state(model, layout), model_type), memory / "model.safetensors"
    )
    folders = [whole, whole / "model.safetensors", parts, memory]
    folders.append(parts / "model-00002-of-00003.safetensors")
    expected = load_model(authors)
    assert same_weights(expected, model)
    images = torch.rand(2, 3, 96, 160)
    for path in folders:
        found = read_checkpoint(path)
        assert (found.layout, authors.layout) == ("hugging face", "authors")
        network = load_model(found)
        assert same_weights(network, expected), path
        with torch.no_grad():
            for name, value in network(images, "L2").items():
                assert torch.equal(value, expected(images, "L2")[name])
        assert found.input_size == (160, 160)
        assert found.class_names == [f"thing {label}" for label in range(8)]


def test_a_folder_has_one_hash(tmp_path: Path) -> None:
    model = static_detr("d-fine")
    whole = read_checkpoint(save_hugging_face(tmp_path / "whole", model, "d-fine"))
    assert whole.sha256 == file_sha256(tmp_path / "whole" / "model.safetensors")
    assert whole.bytes == (tmp_path / "whole" / "model.safetensors").stat().st_size
    parts = read_checkpoint(save_hugging_face(tmp_path / "parts", model, "d-fine", shards=2))
    assert len(parts.files) == 2
    before = parts.sha256
    assert before not in {file_sha256(file) for file in parts.files}
    last = parts.files[-1]
    save_file({key: value + 1 for key, value in load_file(last).items()}, last)
    assert parts.sha256 != before


def test_heads_stand_once_or_twice(tmp_path: Path) -> None:
    """Under either name, or under both with the same numbers."""
    model = static_detr("rt-detr")
    folder = save_hugging_face(tmp_path / "folder", model, "v1")
    state = load_file(folder / "model.safetensors")
    inner = {
        key
        for key in state
        if key.startswith(("model.decoder.class_embed", "model.decoder.bbox_embed"))
    }
    outer = {key.removeprefix("model.decoder."): state[key] for key in inner}
    file = folder / "model.safetensors"
    save_file({**{key: value for key, value in state.items() if key not in inner}, **outer}, file)
    assert same_weights(load_model(read_checkpoint(folder)), model)
    save_file({**state, **{key: value.clone() for key, value in outer.items()}}, file)
    assert same_weights(load_model(read_checkpoint(folder)), model)
    twins = {key: value.clone() for key, value in outer.items()}
    twins["class_embed.1.bias"] = twins["class_embed.1.bias"] + 1
    save_file({**state, **twins}, file)
    said = refused(folder)
    assert "decoder.dec_score_head.1.bias" in said
    assert "2 times with different numbers" in said


def test_values_of_the_document_that_decide(tmp_path: Path) -> None:
    model = static_detr("d-fine")

    def read(name: str, **changes: Any) -> Checkpoint:
        return read_checkpoint(save_hugging_face(tmp_path / name, model, "d-fine", **changes))

    usual = read("usual")
    assert (usual.config.queries, usual.config.max_detections) == (60, 60)
    assert (usual.config.decoder_activation, usual.assumed) == ("relu", {})
    fewer = read("fewer", num_queries=40)
    assert (fewer.config.queries, fewer.config.max_detections) == (40, 40)
    silu = read("silu", decoder_activation_function="silu")
    assert (silu.config.decoder_activation, silu.config.feedforward_activation) == ("relu", "silu")
    assert usual.chosen == {}
    discrete = read("discrete", decoder_method="discrete")
    assert (discrete.config.sampling, discrete.chosen) == ("discrete", {"sampling": "discrete"})
    assert read("nameless", id2label={str(i): f"LABEL_{i}" for i in range(8)}).class_names is None
    # Its tensor says how far bins reach, whatever the document says.
    wide = static_detr("d-fine", reach=8.0)
    found = read_checkpoint(save_hugging_face(tmp_path / "wide", wide, "d-fine", reg_scale=4.0))
    assert found.config.reach == 8.0
    assert load_model(found).state_dict()["decoder.reg_scale"].tolist() == [8.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_layers": 6}, "decoder_layers = 6, expected 3"),
        ({"d_model": 256}, "d_model = 256, expected 64"),
        ({"encoder_hidden_dim": 128}, "encoder_hidden_dim = 128, expected 64"),
        ({"decoder_n_points": 4}, r"decoder_n_points = 4, expected \[3, 6, 3\]"),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads = 4, expected 8"),
        ({"id2label": {"0": "a"}}, "id2label = '1 names', expected 8 classes"),
        ({"normalize_before": True}, "normalize_before = True, expected False"),
        ({"decoder_method": "odd"}, "decoder_method = 'odd', expected default or discrete"),
        ({"decoder_activation_function": "gelu"}, "expected relu or silu"),
        ({"num_queries": 0}, "num_queries = 0, expected 1 to"),
        ({"num_queries": "300"}, "num_queries = '300'"),
        ({"backbone_config": {"use_learnable_affine_block": False}}, "expected True"),
        ({"backbone_config": {"stage_num_blocks": [1, 1, 3, 1]}}, "stage_num_blocks"),
        ({"model_type": "rt_detr"}, "model_type = 'rt_detr', expected d_fine"),
        ({"max_num_bins": 16}, "max_num_bins = 16, expected 32"),
    ],
)
def test_documents_that_contradict_tensors_are_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = save_hugging_face(tmp_path / "folder", static_detr("d-fine"), "d-fine", **changes)
    said = refused(folder)
    assert re.search(words, said), said
    assert "its config.json has" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_normalize": True}, "do_normalize = True, expected False"),
        ({"do_pad": True}, "do_pad = True, expected False"),
        ({"do_resize": False}, "do_resize = False, expected True"),
        ({"do_rescale": 0}, "do_rescale = 0, expected True"),
        ({"resample": 3}, "resample = 3, expected 2"),
        ({"rescale_factor": 1.0}, "rescale_factor = 1.0, expected 1 / 255"),
        ({"size": {"shortest_edge": 800}}, "expected a height and a width"),
        ({"size": {"height": 640, "width": True}}, "expected a height and a width"),
    ],
)
def test_pictures_that_are_prepared_otherwise_are_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = save_hugging_face(tmp_path / "folder", static_detr("rt-detr"), "v1")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(PREPROCESSOR | changes))
    said = refused(folder)
    assert words in said
    assert "prepared in no other way" in said


def test_folders_that_lack_something(tmp_path: Path) -> None:
    model = static_detr("rt-detr")
    parts = save_hugging_face(tmp_path / "parts", model, "v1", shards=3)
    (parts / "model-00002-of-00003.safetensors").unlink()
    assert "lacks 1 of 3 files" in refused(parts)
    assert "model-00002-of-00003.safetensors" in refused(parts)
    index = parts / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    assert "lists no weights" in refused(parts)
    index.unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refused(parts)
    (parts / "config.json").write_text("[]")
    assert "is no JSON object" in refused(parts)
    (parts / "config.json").write_text('{"model_type": "rt_detr", "model_type": "d_fine"}')
    assert "twice" in refused(parts)
    (parts / "config.json").write_text("{}")
    assert "names no model_type" in refused(parts)
    (parts / "config.json").unlink()
    assert "is a folder" in refused(parts)


def test_what_is_saved_in_two_files(tmp_path: Path) -> None:
    parts = save_hugging_face(tmp_path / "parts", static_detr("rt-detr"), "v1", shards=2)
    first, second = sorted(parts.glob("model-*"))
    save_file({**load_file(second), **load_file(first)}, second)
    assert "weights in two of its files" in refused(parts)


def test_points_without_scales_are_the_documents(tmp_path: Path) -> None:
    model = static_detr("d-fine", points=(4, 4, 4), queries=300, max_detections=300)
    folder = save_hugging_face(tmp_path / "folder", model, "d-fine")
    state = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in state.items() if "num_points_scale" not in key}
    save_file(kept, folder / "model.safetensors")
    found = read_checkpoint(folder)
    assert found.config.points == (4, 4, 4)
    assert same_weights(load_model(found), model)


def test_a_missing_part_of_attention_is_named(tmp_path: Path) -> None:
    folder = save_hugging_face(tmp_path / "folder", static_detr("rt-detr"), "v1")
    state = load_file(folder / "model.safetensors")
    del state["model.decoder.layers.1.self_attn.k_proj.weight"]
    save_file(state, folder / "model.safetensors")
    said = refused(folder)
    assert "decoder.decoder.layers.1.self_attn.in_proj_weight" in said
    assert "missing" in said


def test_a_part_of_attention_in_integers_is_refused(tmp_path: Path) -> None:
    """Joined with the others, it would become floating point, and nobody would see it."""
    folder = save_hugging_face(tmp_path / "folder", static_detr("rt-detr"), "v1")
    state = load_file(folder / "model.safetensors")
    key = "model.decoder.layers.1.self_attn.k_proj.weight"
    state[key] = torch.ones_like(state[key], dtype=torch.int8)
    save_file(state, folder / "model.safetensors")
    said = refused(folder)
    assert key in said
    assert "types torch.float32, torch.int8, torch.float32" in said


@pytest.mark.parametrize("size", [(650, 640), (-32, 64), (10**9, 32)])
def test_an_input_size_that_no_network_has_is_told(size: tuple[int, int], tmp_path: Path) -> None:
    folder = save_hugging_face(tmp_path / "folder", static_detr("rt-detr"), "v1")
    recipe = {**PREPROCESSOR, "size": {"height": size[0], "width": size[1]}}
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe))
    found = read_checkpoint(folder)
    assert found.input_size is None
    assert any(f"the input size [{size[0]}, {size[1]}]" in note for note in found.notes)


def test_networks_of_others_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"vit.embeddings.cls_token": torch.rand(1, 1, 8)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit\n"}))
    said = refused(folder)
    assert "not the weights of a known" in said
    assert r"config.json says 'vit\n'" in said


def test_a_config_of_another_program_beside_a_file(tmp_path: Path) -> None:
    """An authors' state dict that is called model.safetensors."""
    model = static_detr("d-fine")
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text('{"architecture": "mine"}')
    found = read_checkpoint(tmp_path / "model.safetensors")
    assert (found.layout, found.config.name) == ("authors", "tiny")

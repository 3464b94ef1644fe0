"""Teachers from folders of transformers: against transformers itself, or one line why not."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from anydepth_deploy.errors import AnyDepthError, CheckpointError, MissingExtraError
from anydepth_deploy.train.semantics.teachers import SemanticTeacher, tokens_of
from anydepth_deploy.train.semantics.vision_transformers import open_vision_transformer

BEFORE = {
    "dinov3_vit": 1 + 2,
    "dinov2": 1,
    "dinov2_with_registers": 1 + 3,
    "vit": 1,
    "vit_msn": 1,
    "deit": 2,
    "ijepa": 0,
}
"""Tokens before those of the patches in the networks below."""

REGISTERS = {"dinov3_vit": 2, "dinov2_with_registers": 3}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def save_vit(folder: Path, kind: str = "dinov2", *, patch: int = 8, head: bool = False) -> Path:
    """A random network of 2 layers and 24 channels, made for pictures of 32 x 32."""
    fields: dict[str, Any] = {"intermediate_size": 48} if "dinov2" not in kind else {"mlp_ratio": 2}
    if kind in REGISTERS:
        fields["num_register_tokens"] = REGISTERS[kind]
    config = transformers.AutoConfig.for_model(
        kind,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=4 * patch,
        patch_size=patch,
        **fields,
    )
    auto: Any = transformers.AutoModelForImageClassification if head else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = auto.from_config(config)
        for value in network.parameters():  # embeddings start at 0 in some of them
            torch.nn.init.normal_(value, std=0.3)
    network.save_pretrained(folder)
    return folder


def edit(folder: Path, name: str = "config.json", **changes: object) -> Path:
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    content = {key: value for key, value in {**content, **changes}.items() if value != "gone"}
    path.write_text(json.dumps(content))
    return folder


def by_transformers(
    folder: Path, images: Tensor, before: int, normalisation: Any = IMAGENET
) -> Tensor:
    """The map as transformers makes it of pictures that are halved and normalised by hand."""
    network = transformers.AutoModel.from_pretrained(folder).eval()
    halved = sum(images[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)) / 4
    assert isinstance(halved, Tensor)
    for channel, (mean, std) in enumerate(zip(*normalisation, strict=True)):
        halved[:, channel] = (halved[:, channel] - mean) / std
    patch = network.config.patch_size
    height, width = halved.shape[-2] // patch, halved.shape[-1] // patch
    options = {} if "dino" in network.config.model_type else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        tokens = network(pixel_values=halved, **options).last_hidden_state
    assert tokens.shape[1] == before + height * width
    result = torch.empty(len(images), tokens.shape[2], height, width)
    for row in range(height):
        for column in range(width):
            result[:, :, row, column] = tokens[:, before + row * width + column]
    return result


@pytest.mark.parametrize("kind", list(BEFORE))
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_patch_tokens_are_those_of_transformers(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """At the size it was made for and at one that is neither that nor square."""
    folder = save_vit(tmp_path / "teacher", kind)
    teacher = open_vision_transformer(folder)
    images = torch.rand(2, 3, *size)
    found = tokens_of(teacher, images)
    assert isinstance(teacher, SemanticTeacher)
    assert teacher.channels == 24
    assert found.shape == (2, 24, size[0] // 16, size[1] // 16)
    assert found.dtype == torch.float32
    wanted = by_transformers(folder, images, BEFORE[kind])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert float((wanted - wanted.mean((2, 3), keepdim=True)).abs().max()) > 0.01


def test_a_map_covers_all_of_the_picture(tmp_path: Path) -> None:
    """Patches of 14 pixels: 48 x 80 are stretched to 42 x 84, so 3 x 6 patches."""
    folder = save_vit(tmp_path, patch=14)
    images = torch.rand(2, 3, 96, 160)
    found = tokens_of(open_vision_transformer(folder), images)
    assert found.shape == (2, 24, 3, 6)
    halved = torch.nn.functional.avg_pool2d(images, 2)
    stretched = torch.nn.functional.interpolate(halved, (42, 84), mode="bilinear")
    doubled = stretched.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = by_transformers(folder, doubled, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_pictures_are_normalised_as_the_folder_says(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    images = torch.rand(2, 3, 64, 96)
    name = "preprocessor_config.json"
    own = ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    edit(folder, name, image_mean=own[0], image_std=own[1], rescale_factor=1 / 255)
    found = tokens_of(open_vision_transformer(folder), images)
    wanted = by_transformers(folder, images, 1, own)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    edit(folder, name, do_normalize=False)
    found = tokens_of(open_vision_transformer(folder), images)
    wanted = by_transformers(folder, images, 1, ((0.0,) * 3, (1.0,) * 3))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_classifier_teaches_by_what_is_before_its_head(tmp_path: Path) -> None:
    """Its weights are under names of another network; shards are read as one file is."""
    images = torch.rand(1, 3, 64, 96)
    folder = save_vit(tmp_path / "whole", head=True)
    found = tokens_of(open_vision_transformer(folder), images)
    torch.testing.assert_close(found, by_transformers(folder, images, 1), rtol=1e-4, atol=1e-5)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    places = {key: names[number % 2] for number, key in enumerate(state)}
    for name in names:
        save_file({k: v for k, v in state.items() if places[k] == name}, folder / name)
    edit(folder, "model.safetensors.index.json", weight_map=places)
    assert torch.equal(tokens_of(open_vision_transformer(folder), images), found)


def test_it_is_frozen(tmp_path: Path) -> None:
    teacher = open_vision_transformer(save_vit(tmp_path))
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(value.requires_grad for value in teacher.parameters())
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not teacher(images).requires_grad


def test_it_computes_as_an_autocast_says(tmp_path: Path) -> None:
    teacher = open_vision_transformer(save_vit(tmp_path))
    images = torch.rand(1, 3, 64, 96)
    exact = teacher(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = teacher(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float(torch.nn.functional.cosine_similarity(rough, exact, dim=1).min()) > 0.98


def test_the_process_is_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Random numbers, the default type, what transformers says; and nothing is printed."""
    from transformers.utils import logging

    folder = save_vit(tmp_path, "vit")
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "pooler" not in k}, folder / "model.safetensors")
    before, level = torch.get_rng_state(), logging.get_verbosity()
    capfd.readouterr()
    torch.set_default_dtype(torch.float64)
    try:
        teacher = open_vision_transformer(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in teacher.state_dict().values()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), before)
    assert logging.get_verbosity() == level
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def refused(folder: Path) -> str:
    with pytest.raises(AnyDepthError) as caught:
        open_vision_transformer(folder)
    assert isinstance(caught.value, CheckpointError)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


class Executed:
    """A pickle that makes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_read(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "executed"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Executed(mark)))
    message = refused(folder)
    assert "as a pickle only (pytorch_model.bin)" in message
    assert "expected model.safetensors" in message
    assert not mark.exists()
    (folder / "pytorch_model.bin").unlink()
    assert "neither model.safetensors nor" in refused(folder)


def test_nothing_that_a_folder_names_is_looked_at(tmp_path: Path) -> None:
    """Code, adapters, kernels, quantisers and other files of weights."""
    folder = save_vit(tmp_path / "teacher")
    images = torch.rand(1, 3, 64, 96)
    wanted = tokens_of(open_vision_transformer(folder), images)
    mark = tmp_path / "executed"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    (folder / "modeling_own.py").write_text(code)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Executed(mark)))
    edit(
        folder,
        auto_map={"AutoModel": "modeling_own.Own", "AutoConfig": "modeling_own.Own"},
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
        _attn_implementation="some/kernel",
        attn_implementation="some/kernel",
        transformers_weights="pytorch_model.bin",
        fusion_config={"patch_embeddings": True},
        dtype="float16",
    )
    assert torch.equal(tokens_of(open_vision_transformer(folder), images), wanted)
    assert not mark.exists()


def test_what_is_no_vision_transformer_is_refused(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "teacher")
    assert "is no folder; expected a folder with" in refused(tmp_path / "nowhere")
    assert "has no config.json; expected a folder with" in refused(tmp_path)
    for kind in ("rt_detr", "vit_mae", None, 3, ["dinov2"]):
        message = refused(edit(folder, model_type=kind))
        assert "is no vision transformer" in message
        assert "expected one of dinov3_vit, dinov2, " in message
    (folder / "config.json").write_text("[1")
    assert "config.json cannot be read" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hidden_size": 10**9}, "hidden_size = 1000000000, expected a whole number from 1 to"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0, expected"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers = 10000000, expected"),
        ({"patch_size": [8, 8]}, "patch_size = [8, 8], expected"),
        ({"image_size": True}, "image_size = True, expected"),
        ({"num_channels": 4}, "num_channels = 4, expected"),
        ({"hidden_size": 48}, "does not fit Dinov2Model"),
        ({"hidden_act": "no such"}, "does not fit Dinov2Model"),
        ({"layer_norm_eps": "small"}, "does not fit Dinov2Model"),
        ({"num_attention_heads": 5}, "does not fit Dinov2Model"),
        ({"num_hidden_layers": 3}, "lacks 18 weights of Dinov2Model"),
    ],
)
def test_documents_that_do_not_fit(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    assert what in refused(edit(save_vit(tmp_path / "teacher"), **changes))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image_mean": [0.5]}, "image_mean = [0.5], expected three numbers"),
        ({"image_mean": "0.5"}, "expected three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std = [0.5, 0.5, 0], expected three numbers above 0"),
        ({"image_std": [0.5, True, 1]}, "expected three numbers above 0"),
        ({"rescale_factor": 1.0}, "rescale_factor = 1.0, expected 1 / 255"),
    ],
)
def test_pictures_that_cannot_be_prepared(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    assert what in refused(edit(save_vit(tmp_path), "preprocessor_config.json", **changes))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "teacher")
    path = folder / "model.safetensors"
    state = load_file(path)
    name = "layernorm.weight"
    assert name in state
    save_file({key: value for key, value in state.items() if key != name}, path)
    assert f"lacks 1 weights of Dinov2Model: {name}" in refused(folder)
    save_file({**state, name: torch.full_like(state[name], torch.nan)}, path)
    assert f"weights that are not numbers: {name}" in refused(folder)
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a readable safetensors file" in refused(folder)


def test_transformers_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_vit(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"'transformers'.*anydepth-deploy\[teacher\]"):
        open_vision_transformer(folder)

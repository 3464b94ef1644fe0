"""Fabricated checkpoints of static DETRs: any size, in the layout of each of their sources.

Names are written down here once more, from the authors' to those of transformers: the package
renames the other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.detr.backbones import ResNetConfig
from anydepth_deploy.families.shared.randomise import randomise

State = dict[str, Tensor]


def static_detr(family: str, size: str = "tiny", seed: int = 0, **changes: Any) -> Any:
    """A network with random weights; ``changes``: fields of its configuration."""
    found = find_family(family)
    return randomise(found.build(found.sizes[size].replace(**changes)), seed)


def authors_state(model: Any, layout: str) -> State:
    """The weights of ``model`` as its authors' files hold them: ``v1``, ``v2``, ``d-fine`` or
    ``v4``, with all that only training uses."""
    config = model.config
    state = dict(model.state_dict())
    if layout == "v1":
        return {_first(key): value for key, value in state.items()}
    scales = [1 / count for count in config.points for _ in range(count)]
    for layer in range(config.decoder_layers):
        key = f"decoder.decoder.layers.{layer}.cross_attn.num_points_scale"
        state[key] = torch.tensor(scales)
    anchors = torch.zeros(1, 5, 4)
    anchors[0, 1] = torch.inf
    state["decoder.anchors"] = anchors
    state["decoder.valid_mask"] = torch.tensor([True, False, True, True, True]).view(1, 5, 1)
    if layout in ("d-fine", "v4"):
        state["decoder.reg_scale"] = torch.tensor([int(config.reach)])
        for name in ("up", "reg_scale"):
            state[f"decoder.decoder.{name}"] = state[f"decoder.{name}"]
    if layout == "v4":
        state["encoder.feature_projector.0.weight"] = torch.rand(768, config.hidden)
        state["encoder.feature_projector.0.bias"] = torch.rand(768)
    return state


def _first(key: str) -> str:
    """A name of RT-DETR v1."""
    words = {"conv": "0", "norm": "1", "proj": "0"}
    if found := re.fullmatch(r"(encoder\.input_proj\.\d+|decoder\.enc_output)\.(\w+)\.(.*)", key):
        return f"{found[1]}.{words[found[2]]}.{found[3]}"
    return key


def other_hgnet(state: Mapping[str, Tensor]) -> State:
    """The same by the names that RT-DETR's repository has in HGNetv2."""
    renamed = {}
    for key, value in state.items():
        key = key.replace(".aggregation.0.", ".aggregation_squeeze_conv.")
        key = key.replace(".aggregation.1.", ".aggregation_excitation_conv.")
        key = re.sub(r"(stem\.stem2[ab])\.conv\.", r"\1.conv.1.", key)
        renamed[key] = value
    return renamed


def save_authors(path: Path, state: Mapping[str, Tensor]) -> Path:
    """As their training saves it: the average is what is deployed."""
    stale = {key: value + 1 for key, value in state.items() if value.is_floating_point()}
    content = {"date": "2025", "last_epoch": 7, "model": stale, "ema": {"module": dict(state)}}
    torch.save(content, path)
    return path


TO_HUGGING_FACE = {
    r"backbone\.conv1\.conv1_(\d)\.conv\.": "backbone.model.embedder.embedder.{0}.convolution.",
    r"backbone\.conv1\.conv1_(\d)\.norm\.": "backbone.model.embedder.embedder.{0}.normalization.",
    r"encoder\.input_proj\.(\d+)\.conv\.": "encoder_input_proj.{0}.0.",
    r"encoder\.input_proj\.(\d+)\.norm\.": "encoder_input_proj.{0}.1.",
    r"decoder\.input_proj\.(\d+)\.conv\.": "decoder_input_proj.{0}.0.",
    r"decoder\.input_proj\.(\d+)\.norm\.": "decoder_input_proj.{0}.1.",
    r"decoder\.enc_output\.proj\.": "enc_output.0.",
    r"decoder\.enc_output\.norm\.": "enc_output.1.",
    r"decoder\.(enc_score_head|enc_bbox_head|denoising_class_embed)\.": "{0}.",
    r"decoder\.dec_score_head\.": "decoder.class_embed.",
    r"decoder\.dec_bbox_head\.": "decoder.bbox_embed.",
    r"decoder\.decoder\.": "decoder.",
    r"encoder\.downsample_convs\.(\d+)\.0\.cv(\d)\.": "encoder.downsample_convs.{0}.conv{1}.",
}


def hugging_face_name(key: str) -> str:
    """The name that a file of transformers has for the authors' ``key``, but for attention's
    projections, which are split."""
    for pattern, into in TO_HUGGING_FACE.items():
        if found := re.match(pattern, key):
            groups = list(found.groups())
            if "embedder" in into:
                groups[0] = str(int(groups[0]) - 1)
            key = into.format(*groups) + key[found.end() :]
            break
    if key.startswith("backbone.res_layers."):
        key = key.replace("backbone.res_layers.", "backbone.model.encoder.stages.")
        key = key.replace(".blocks.", ".layers.")
        for number, letter in enumerate("abc"):
            key = key.replace(f".branch2{letter}.", f".layer.{number}.")
        if ".stages.0." not in key:
            key = key.replace(".short.conv.", ".shortcut.1.")
        key = key.replace(".short.", ".shortcut.")
        key = key.replace(".conv.", ".convolution.").replace(".norm.", ".normalization.")
    elif key.startswith(("backbone.stem.", "backbone.stages.")):
        key = key.replace("backbone.stem.", "backbone.model.embedder.")
        key = key.replace("backbone.stages.", "backbone.model.encoder.stages.")
        key = key.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")
    elif key.startswith("encoder.encoder."):
        key = key.replace(".norm1.", ".self_attn_layer_norm.")
        key = key.replace(".norm2.", ".final_layer_norm.")
    elif key.startswith("decoder.layers."):
        key = key.replace(".cross_attn.", ".encoder_attn.")
        key = key.replace(".norm1.", ".self_attn_layer_norm.")
        key = key.replace(".norm2.", ".encoder_attn_layer_norm.")
        key = key.replace(".norm3.", ".final_layer_norm.")
    elif re.match(r"encoder\.(fpn|pan)_blocks\.\d+\.cv", key):
        key = key.replace(".cv2.0.", ".csp_rep1.").replace(".cv3.0.", ".csp_rep2.")
        key = key.replace(".cv2.1.", ".conv2.").replace(".cv3.1.", ".conv3.")
        key = key.replace(".cv1.", ".conv1.").replace(".cv4.", ".conv4.")
    if key.startswith(("encoder.encoder.", "decoder.layers.")):
        key = key.replace(".linear1.", ".fc1.").replace(".linear2.", ".fc2.")
    return f"model.{key}"


def hugging_face_state(model: Any, layout: str) -> State:
    """The weights of ``model`` by the names of transformers' files; ``layout`` as its authors'."""
    state: State = {}
    frozen_elsewhere = ("decoder.anchors", "decoder.valid_mask")
    authors = model.state_dict() if layout == "v1" else authors_state(model, layout)
    for key, value in authors.items():
        if key in frozen_elsewhere or key.startswith("decoder.decoder.up"):
            continue
        if key.startswith(("decoder.decoder.reg_scale", "encoder.feature_projector")):
            continue
        if key.startswith("backbone.") and key.endswith("num_batches_tracked"):
            continue  # transformers freezes these norms
        name = hugging_face_name(key)
        if model.family == "rt-detr":
            name = name.replace("num_points_scale", "n_points_scale")
        if found := re.fullmatch(r"(.*\.self_attn)\.in_proj_(weight|bias)", name):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[f"{found[1]}.{letter}_proj.{found[2]}"] = part.contiguous()
        else:
            state[name] = value.float() if key.endswith("reg_scale") else value
    return state


def in_memory(state: Mapping[str, Tensor], model_type: str) -> State:
    """The same by the names that transformers 5 has in memory."""
    renamed = {}
    inner = ("mlp.layers.0", "mlp.layers.1") if model_type == "d_fine" else ("mlp.fc1", "mlp.fc2")
    for key, value in state.items():
        key = key.replace(".out_proj.", ".o_proj.")
        key = re.sub(r"(layers\.\d+)\.fc1\.", rf"\1.{inner[0]}.", key)
        key = re.sub(r"(layers\.\d+)\.fc2\.", rf"\1.{inner[1]}.", key)
        key = re.sub(r"encoder\.encoder\.(\d+)\.layers", r"encoder.aifi.\1.layers", key)
        renamed[key] = value
    return renamed


def hugging_face_config(model: Any, layout: str) -> dict[str, Any]:
    """The ``config.json`` of such a folder."""
    config = model.config
    levels = len(config.points)
    even = len(set(config.points)) == 1
    document: dict[str, Any] = {
        "model_type": {"v1": "rt_detr", "v2": "rt_detr_v2"}.get(layout, "d_fine"),
        "backbone_config": _backbone_config(config),
        "encoder_hidden_dim": config.hidden,
        "encoder_in_channels": list(config.in_channels),
        "encoder_ffn_dim": config.feedforward,
        "encoder_layers": config.aifi_layers,
        "encode_proj_layers": [levels - 1],
        "feat_strides": list(config.strides),
        "d_model": config.decoder_hidden,
        "decoder_in_channels": [config.hidden] * levels,
        "decoder_ffn_dim": config.decoder_feedforward,
        "decoder_layers": config.decoder_layers,
        "decoder_n_points": config.points[0] if even else list(config.points),
        "num_feature_levels": levels,
        "num_queries": config.queries,
        "decoder_method": "discrete" if config.sampling == "discrete" else "default",
        "id2label": {str(label): f"thing {label}" for label in range(config.classes)},
        "label2id": {f"thing {label}": label for label in range(config.classes)},
    }
    if layout == "v1":
        del document["decoder_method"]
    if layout == "v2":
        document["decoder_n_levels"] = levels
    if document["model_type"] == "d_fine":
        document["depth_mult"] = config.csp_blocks / 3
        document["hidden_expansion"] = 2 * config.csp_channels / config.hidden
        document["reg_scale"] = 4.0  # as published, whatever the tensor says
    else:
        document["hidden_expansion"] = config.csp_channels / config.hidden
    return document


def _backbone_config(config: Any) -> dict[str, Any]:
    backbone = config.backbone
    indices = list(range(5 - len(config.points), 5))
    if isinstance(backbone, ResNetConfig):
        return {
            "model_type": "rt_detr_resnet",
            "layer_type": "bottleneck" if backbone.bottleneck else "basic",
            "depths": list(backbone.blocks),
            "hidden_sizes": list(backbone.out_channels),
            "embedding_size": backbone.stem[1],
            "out_indices": indices,
        }
    stages = backbone.stages
    before = [backbone.stem[1], *(stage.channels for stage in stages[:-1])]
    return {
        "model_type": "hgnet_v2",
        "stem_channels": [3, *backbone.stem],
        "stage_in_channels": before,
        "stage_mid_channels": [stage.width for stage in stages],
        "stage_out_channels": [stage.channels for stage in stages],
        "hidden_sizes": [stage.channels for stage in stages],
        "stage_num_blocks": [stage.blocks for stage in stages],
        "stage_numb_of_layers": [stage.layers for stage in stages],
        "use_learnable_affine_block": backbone.affine,
        "out_indices": indices,
    }


PREPROCESSOR = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": False,
    "do_pad": False,
    "rescale_factor": 1 / 255,
    "size": {"height": 160, "width": 160},
}


def save_hugging_face(
    folder: Path, model: Any, layout: str, *, shards: int = 1, **changes: Any
) -> Path:
    """A folder as transformers saves it; ``changes``: of its ``config.json``."""
    folder.mkdir()
    state = hugging_face_state(model, layout)
    (folder / "config.json").write_text(json.dumps(hugging_face_config(model, layout) | changes))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    names = sorted(state)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    places = {name: files[index % shards] for index, name in enumerate(names)}
    for file in files:
        part = {name: state[name] for name in names if places[name] == file}
        save_file(part, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder

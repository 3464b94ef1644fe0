"""AnyDepth-DETR once more, as one plain function over a state dict.

The oracle of parity tests: it shares no code with the package, takes no modules, no stages and no
graph, and follows the description of the network line by line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from oracle_fine import Switches, enlarge, fine
from torch import Tensor

if TYPE_CHECKING:
    from anydepth_deploy.families.detr.model import AnyDepthDETR

State = dict[str, Tensor]


def detr(
    state: State,
    images: Tensor,
    backbone_skip: tuple[bool, ...],
    encoder_skip: bool,
    decoder_depth: int,
    *,
    heads: int,
    decoder_heads: int,
    queries: int,
) -> dict[str, Tensor]:
    """Logits [N, Q, classes], boxes [N, Q, 4] and token indices [N, Q] of one depth."""
    maps = _backbone(state, images, backbone_skip)
    maps = encoder(state, maps, encoder_skip, heads)
    return _decoder(state, maps, decoder_depth, decoder_heads, queries)


def run_oracle(model: AnyDepthDETR, images: Tensor, settings: tuple[int, ...]) -> dict[str, Tensor]:
    """The same with the weights and the sizes of a network: nothing of it is called."""
    skips = tuple(bool(setting) for setting in settings[:4])
    config = model.config
    with torch.no_grad():
        return detr(
            dict(model.state_dict()),
            images,
            skips,
            bool(settings[4]),
            settings[5],
            heads=config.heads,
            decoder_heads=config.decoder_heads,
            queries=config.queries,
        )


def _norm(state: State, key: str, x: Tensor) -> Tensor:
    shape = (1, -1, 1, 1)
    scale = state[f"{key}.weight"] / torch.sqrt(state[f"{key}.running_var"] + 1e-5)
    shift = state[f"{key}.bias"] - state[f"{key}.running_mean"] * scale
    return x * scale.view(shape) + shift.view(shape)


def _count(state: State, prefix: str) -> int:
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return len(numbers)


def _backbone(state: State, images: Tensor, skips: tuple[bool, ...]) -> list[Tensor]:
    x = F.conv2d(images, state["backbone.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(_norm(state, "backbone.bn1", x)), 3, 2, 1)
    outputs = []
    for stage, skip in enumerate(skips, start=1):
        blocks = _count(state, f"backbone.layer{stage}.")
        essential = min(blocks - 1, (blocks + 1) // 2)
        for block in range(essential if skip else blocks):
            key = f"backbone.layer{stage}.{block}"
            suffix = "_skip" if skip else ""
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if block == 0 and stride == 2:
                shortcut = F.avg_pool2d(x, 2, 2, ceil_mode=True)
                shortcut = F.conv2d(shortcut, state[f"{key}.downsample.1.weight"])
                shortcut = _norm(state, f"{key}.downsample.2", shortcut)
            elif block == 0:
                shortcut = F.conv2d(x, state[f"{key}.downsample.0.weight"])
                shortcut = _norm(state, f"{key}.downsample.1", shortcut)
            y = F.conv2d(x, state[f"{key}.conv1.weight"])
            y = F.relu(_norm(state, f"{key}.bn1{suffix}", y))
            y = F.conv2d(y, state[f"{key}.conv2.weight"], stride=stride, padding=1)
            y = F.relu(_norm(state, f"{key}.bn2{suffix}", y))
            y = F.conv2d(y, state[f"{key}.conv3.weight"])
            x = F.relu(_norm(state, f"{key}.bn3{suffix}", y) + shortcut)
        outputs.append(x)
    return outputs[1:]


def _attention(state: State, key: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """torch's own multi-head attention, which wants sequences first."""
    output, _ = F.multi_head_attention_forward(
        q.transpose(0, 1),
        k.transpose(0, 1),
        v.transpose(0, 1),
        q.shape[-1],
        heads,
        state[f"{key}.in_proj_weight"],
        state[f"{key}.in_proj_bias"],
        None,
        None,
        False,
        0.0,
        state[f"{key}.out_proj.weight"],
        state[f"{key}.out_proj.bias"],
        training=False,
        need_weights=False,
    )
    return output.transpose(0, 1)


def _linear(state: State, key: str, x: Tensor) -> Tensor:
    return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]


def _layer_norm(state: State, key: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{key}.weight"] + state[f"{key}.bias"]


def _conv_norm(
    state: State, key: str, x: Tensor, skip: bool, stride: int = 1, act: bool = True
) -> Tensor:
    weight = state[f"{key}.conv.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    second = f"{key}.norm_skippable.weight" in state
    x = _norm(state, f"{key}.norm_skippable" if skip and second else f"{key}.norm", x)
    return x * torch.sigmoid(x) if act else x


def _csp(state: State, key: str, x: Tensor, skip: bool) -> Tensor:
    blocks = _count(state, f"{key}.bottlenecks.")
    main = _conv_norm(state, f"{key}.conv1", x, skip)
    for block in range((blocks + 1) // 2 - 1 if skip else blocks):
        inner = f"{key}.bottlenecks.{block}"
        wide = _conv_norm(state, f"{inner}.conv1", main, skip, act=False)
        narrow = _conv_norm(state, f"{inner}.conv2", main, skip, act=False)
        main = F.silu(wide + narrow)
    main = main + _conv_norm(state, f"{key}.conv2", x, skip)
    last = f"{key}.conv3"  # where the block is narrower than its result
    return _conv_norm(state, last, main, skip) if f"{last}.conv.weight" in state else main


def position_embedding(
    height: int, width: int, channels: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Token t (row by row) gets the angles of cell t of a grid walked column by column."""
    rows = []
    for token in range(height * width):
        column, row = divmod(token, height)
        angles = [10000.0 ** (-i / (channels // 4)) for i in range(channels // 4)]
        rows.append(
            [math.sin(column * a) for a in angles]
            + [math.cos(column * a) for a in angles]
            + [math.sin(row * a) for a in angles]
            + [math.cos(row * a) for a in angles]
        )
    return torch.tensor(rows, dtype=dtype)


def encoder(
    state: State,
    maps: list[Tensor],
    skip: bool,
    heads: int,
    *,
    switches: Switches | None = None,
    upsampling: str = "bilinear",
) -> list[Tensor]:
    """Maps of strides 8, 16 and 32; with FINE where the state has it, as ``switches`` say, and
    ``upsampling`` of what is joined behind it, but where refinement is skipped."""
    refines = "encoder.sa_cross_attn.0.attn_norm.weight" in state and not skip
    p8, p16, p32 = (
        _conv_norm(state, f"encoder.input_proj.{i}", x, skip, act=False) for i, x in enumerate(maps)
    )
    batch, channels, height, width = p32.shape
    tokens = p32.reshape(batch, channels, -1).permute(0, 2, 1)
    embedding = position_embedding(height, width, channels, tokens.dtype)
    query = tokens + embedding
    key, suffix = "encoder.encoder.0.layers.0", "_skippable" if skip else ""
    tokens = tokens + _attention(state, f"{key}.self_attn", query, query, tokens, heads)
    tokens = _layer_norm(state, f"{key}.norm1{suffix}", tokens)
    inner = _linear(state, f"{key}.linear1", tokens)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    tokens = tokens + _linear(state, f"{key}.linear2", inner)
    tokens = _layer_norm(state, f"{key}.norm2{suffix}", tokens)
    p32 = tokens.permute(0, 2, 1).reshape(batch, channels, height, width)

    def refined(step: int, low: Tensor, high: Tensor) -> Tensor:
        if not refines:
            return low
        key = f"encoder.sa_cross_attn.{step}"
        return fine(state, key, low, high, embedding, step, switches or Switches())

    def double(x: Tensor) -> Tensor:
        if refines and upsampling == "bilinear":
            return enlarge(x, 2)
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    lateral32 = _conv_norm(state, "encoder.lateral_convs.0", p32, skip)
    p16 = refined(0, p16, lateral32)
    fpn16 = _csp(state, "encoder.fpn_blocks.0", torch.cat([double(lateral32), p16], 1), skip)
    lateral16 = _conv_norm(state, "encoder.lateral_convs.1", fpn16, skip)
    p8 = refined(1, p8, lateral16)
    out8 = _csp(state, "encoder.fpn_blocks.1", torch.cat([double(lateral16), p8], 1), skip)
    down = _conv_norm(state, "encoder.downsample_convs.0", out8, skip, stride=2)
    out16 = _csp(state, "encoder.pan_blocks.0", torch.cat([down, lateral16], 1), skip)
    down = _conv_norm(state, "encoder.downsample_convs.1", out16, skip, stride=2)
    out32 = _csp(state, "encoder.pan_blocks.1", torch.cat([down, lateral32], 1), skip)
    return [out8, out16, out32]


def _mlp(state: State, key: str, x: Tensor) -> Tensor:
    layers = _count(state, f"{key}.layers.")
    for layer in range(layers):
        x = _linear(state, f"{key}.layers.{layer}", x)
        x = F.relu(x) if layer < layers - 1 else x
    return x


def _decoder(
    state: State, maps: list[Tensor], depth: int, heads: int, queries: int
) -> dict[str, Tensor]:
    tokens, anchors, valid = [], [], []
    for level, x in enumerate(maps):
        x = F.conv2d(x, state[f"decoder.input_proj.{level}.conv.weight"])
        x = _norm(state, f"decoder.input_proj.{level}.norm", x)
        tokens.append(x.flatten(2).permute(0, 2, 1))
        height, width = x.shape[-2:]
        for row in range(height):
            for column in range(width):
                size = 0.05 * 2**level
                box = ((column + 0.5) / width, (row + 0.5) / height, size, size)
                anchors.append(box)
                valid.append(all(0.01 < side < 0.99 for side in box))
    memory = torch.cat(tokens, 1)
    mask = torch.tensor(valid)
    boxes = torch.tensor(anchors, dtype=torch.float64)
    logit = torch.log(boxes / (1 - boxes)).float()
    features = memory * mask[None, :, None]
    features = _layer_norm(
        state, "decoder.enc_output.1", _linear(state, "decoder.enc_output.0", features)
    )
    class_logits = _linear(state, "decoder.enc_score_head", features)
    box_logits = _mlp(state, "decoder.enc_bbox_head", features) + logit
    box_logits[:, ~mask] = math.inf
    order = class_logits.max(-1).values.argsort(dim=1, descending=True, stable=True)[:, :queries]
    batch = torch.arange(len(order))[:, None]
    target, reference = features[batch, order], torch.sigmoid(box_logits[batch, order])
    logits = torch.empty(0)
    for layer in range(depth):
        key = f"decoder.decoder.layers.{layer}"
        position = _mlp(state, "decoder.query_pos_head", reference)
        query = target + position
        target = target + _attention(state, f"{key}.self_attn", query, query, target, heads)
        target = _layer_norm(state, f"{key}.norm1", target)
        crossed = _deformable(
            state, f"{key}.cross_attn", target + position, reference, memory, maps, heads
        )
        target = _layer_norm(state, f"{key}.norm2", target + crossed)
        inner = F.relu(_linear(state, f"{key}.linear1", target))
        target = _layer_norm(
            state, f"{key}.norm3", target + _linear(state, f"{key}.linear2", inner)
        )
        clipped = reference.clip(0, 1)
        inverse = torch.log(clipped.clip(min=1e-5) / (1 - clipped).clip(min=1e-5))
        reference = torch.sigmoid(_mlp(state, f"decoder.dec_bbox_head.{layer}", target) + inverse)
        logits = _linear(state, f"decoder.dec_score_head.{layer}", target)
    return {"logits": logits, "boxes": reference, "queries": order}


def _deformable(
    state: State,
    key: str,
    query: Tensor,
    reference: Tensor,
    memory: Tensor,
    maps: list[Tensor],
    heads: int,
) -> Tensor:
    """Sample by hand: four neighbours per point, weighted by area, zero outside the map."""
    batch, queries, channels = query.shape
    levels, width = len(maps), channels // heads
    value = _linear(state, f"{key}.value_proj", memory).reshape(batch, -1, heads, width)
    offsets = _linear(state, f"{key}.sampling_offsets", query)
    points = offsets.shape[-1] // (heads * levels * 2)
    offsets = offsets.reshape(batch, queries, heads, levels, points, 2)
    weights = _linear(state, f"{key}.attention_weights", query)
    weights = weights.reshape(batch, queries, heads, -1).softmax(-1)
    weights = weights.reshape(batch, queries, heads, levels, points)
    centre, size = reference[..., :2], reference[..., 2:]
    output = torch.zeros(batch, queries, heads, width)
    index_n = torch.arange(batch)[:, None, None, None]
    index_h = torch.arange(heads)[None, None, :, None]
    start = 0
    for level, x in enumerate(maps):
        rows, columns = x.shape[-2:]
        place = centre[:, :, None, None] + offsets[:, :, :, level] / points * (
            size[:, :, None, None] * 0.5
        )
        px, py = place[..., 0] * columns - 0.5, place[..., 1] * rows - 0.5
        for dy in (0, 1):
            for dx in (0, 1):
                cx, cy = px.floor() + dx, py.floor() + dy
                share = (1 - (px - cx).abs()) * (1 - (py - cy).abs())
                inside = (cx >= 0) & (cx < columns) & (cy >= 0) & (cy < rows)
                cell = (cy.clip(0, rows - 1) * columns + cx.clip(0, columns - 1)).long()
                sampled = value[index_n, start + cell, index_h]
                factor = (weights[:, :, :, level] * share * inside)[..., None]
                output = output + (factor * sampled).sum(3)
        start += rows * columns
    return _linear(state, f"{key}.output_proj", output.flatten(2))

"""AnyDepth-DETR once more, as one plain function over a state dict.

The oracle of parity tests: it shares no code with the package, takes no modules, no stages and no
graph, and follows the description of the network line by line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from oracle_fine import Switches, enlarge, fine
from torch import Tensor

if TYPE_CHECKING:
    from anydepth_deploy.families.detr.model import AnyDepthDETR

State = dict[str, Tensor]
Activation = Callable[[Tensor], Tensor]


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
    return decoder(state, maps, decoder_depth, decoder_heads, queries, skip=encoder_skip)


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


def normed(state: State, key: str, x: Tensor) -> Tensor:
    shape = (1, -1, 1, 1)
    scale = state[f"{key}.weight"] / torch.sqrt(state[f"{key}.running_var"] + 1e-5)
    shift = state[f"{key}.bias"] - state[f"{key}.running_mean"] * scale
    return x * scale.view(shape) + shift.view(shape)


def count_of(state: State, prefix: str) -> int:
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return len(numbers)


def _backbone(state: State, images: Tensor, skips: tuple[bool, ...]) -> list[Tensor]:
    x = F.conv2d(images, state["backbone.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(normed(state, "backbone.bn1", x)), 3, 2, 1)
    outputs = []
    for stage, skip in enumerate(skips, start=1):
        blocks = count_of(state, f"backbone.layer{stage}.")
        essential = min(blocks - 1, (blocks + 1) // 2)
        for block in range(essential if skip else blocks):
            key = f"backbone.layer{stage}.{block}"
            suffix = "_skip" if skip else ""
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if block == 0 and stride == 2:
                shortcut = F.avg_pool2d(x, 2, 2, ceil_mode=True)
                shortcut = F.conv2d(shortcut, state[f"{key}.downsample.1.weight"])
                shortcut = normed(state, _shortcut(state, key, 2, skip), shortcut)
            elif block == 0:
                shortcut = F.conv2d(x, state[f"{key}.downsample.0.weight"])
                shortcut = normed(state, _shortcut(state, key, 1, skip), shortcut)
            y = F.conv2d(x, state[f"{key}.conv1.weight"])
            y = F.relu(normed(state, f"{key}.bn1{suffix}", y))
            y = F.conv2d(y, state[f"{key}.conv2.weight"], stride=stride, padding=1)
            y = F.relu(normed(state, f"{key}.bn2{suffix}", y))
            y = F.conv2d(y, state[f"{key}.conv3.weight"])
            x = F.relu(normed(state, f"{key}.bn3{suffix}", y) + shortcut)
        outputs.append(x)
    return outputs[1:]


def _shortcut(state: State, key: str, place: int, skip: bool) -> str:
    second = f"{key}.downsample_skip"
    return second if skip and f"{second}.weight" in state else f"{key}.downsample.{place}"


def attend(state: State, key: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
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


def product(state: State, key: str, x: Tensor) -> Tensor:
    return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]


def layer_normed(state: State, key: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{key}.weight"] + state[f"{key}.bias"]


def conv_norm(
    state: State, key: str, x: Tensor, skip: bool, stride: int = 1, act: bool = True
) -> Tensor:
    weight = state[f"{key}.conv.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    second = f"{key}.norm_skippable.weight" in state
    x = normed(state, f"{key}.norm_skippable" if skip and second else f"{key}.norm", x)
    return x * torch.sigmoid(x) if act else x


def csp_block(state: State, key: str, x: Tensor, skip: bool) -> Tensor:
    blocks = count_of(state, f"{key}.bottlenecks.")
    main = conv_norm(state, f"{key}.conv1", x, skip)
    for block in range(max(1, (blocks + 1) // 2 - 1) if skip else blocks):
        inner = f"{key}.bottlenecks.{block}"
        wide = conv_norm(state, f"{inner}.conv1", main, skip, act=False)
        narrow = conv_norm(state, f"{inner}.conv2", main, skip, act=False)
        main = F.silu(wide + narrow)
    main = main + conv_norm(state, f"{key}.conv2", x, skip)
    last = f"{key}.conv3"  # where the block is narrower than its result
    return conv_norm(state, last, main, skip) if f"{last}.conv.weight" in state else main


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
        conv_norm(state, f"encoder.input_proj.{i}", x, skip, act=False) for i, x in enumerate(maps)
    )
    batch, channels, height, width = p32.shape
    tokens = p32.reshape(batch, channels, -1).permute(0, 2, 1)
    embedding = position_embedding(height, width, channels, tokens.dtype)
    query = tokens + embedding
    key, suffix = "encoder.encoder.0.layers.0", "_skippable" if skip else ""
    tokens = tokens + attend(state, f"{key}.self_attn", query, query, tokens, heads)
    tokens = layer_normed(state, f"{key}.norm1{suffix}", tokens)
    inner = product(state, f"{key}.linear1", tokens)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    tokens = tokens + product(state, f"{key}.linear2", inner)
    tokens = layer_normed(state, f"{key}.norm2{suffix}", tokens)
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

    lateral32 = conv_norm(state, "encoder.lateral_convs.0", p32, skip)
    p16 = refined(0, p16, lateral32)
    fpn16 = csp_block(state, "encoder.fpn_blocks.0", torch.cat([double(lateral32), p16], 1), skip)
    lateral16 = conv_norm(state, "encoder.lateral_convs.1", fpn16, skip)
    p8 = refined(1, p8, lateral16)
    out8 = csp_block(state, "encoder.fpn_blocks.1", torch.cat([double(lateral16), p8], 1), skip)
    down = conv_norm(state, "encoder.downsample_convs.0", out8, skip, stride=2)
    out16 = csp_block(state, "encoder.pan_blocks.0", torch.cat([down, lateral16], 1), skip)
    down = conv_norm(state, "encoder.downsample_convs.1", out16, skip, stride=2)
    out32 = csp_block(state, "encoder.pan_blocks.1", torch.cat([down, lateral32], 1), skip)
    return [out8, out16, out32]


def mlp(state: State, key: str, x: Tensor, act: Activation = F.relu) -> Tensor:
    layers = count_of(state, f"{key}.layers.")
    for layer in range(layers):
        x = product(state, f"{key}.layers.{layer}", x)
        x = act(x) if layer < layers - 1 else x
    return x


def project(state: State, maps: list[Tensor], skip: bool) -> list[Tensor]:
    """The maps with the decoder's channels, by the second norms of a skipped encoder where there
    are such."""
    return [
        conv_norm(state, f"decoder.input_proj.{level}", x, skip, act=False)
        for level, x in enumerate(maps)
    ]


def select(
    state: State, maps: list[Tensor], queries: int, act: Activation = F.relu
) -> tuple[Tensor, Tensor, Tensor]:
    """Features and boxes (0..1) of the chosen tokens of projected maps, and these."""
    anchors, valid = [], []
    for level, x in enumerate(maps):
        height, width = x.shape[-2:]
        for row in range(height):
            for column in range(width):
                size = 0.05 * 2**level
                box = ((column + 0.5) / width, (row + 0.5) / height, size, size)
                anchors.append(box)
                valid.append(all(0.01 < side < 0.99 for side in box))
    memory = torch.cat([x.flatten(2).permute(0, 2, 1) for x in maps], 1)
    mask = torch.tensor(valid)
    boxes = torch.tensor(anchors, dtype=torch.float64)
    logit = torch.log(boxes / (1 - boxes)).float()
    linear, norm = ("proj", "norm") if "decoder.enc_output.proj.weight" in state else ("0", "1")
    features = product(state, f"decoder.enc_output.{linear}", memory * mask[None, :, None])
    features = layer_normed(state, f"decoder.enc_output.{norm}", features)
    class_logits = product(state, "decoder.enc_score_head", features)
    box_logits = mlp(state, "decoder.enc_bbox_head", features, act) + logit
    box_logits[:, ~mask] = math.inf
    order = class_logits.max(-1).values.argsort(dim=1, descending=True, stable=True)[:, :queries]
    batch = torch.arange(len(order))[:, None]
    return features[batch, order], torch.sigmoid(box_logits[batch, order]), order


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Between the bounds that the authors have."""
    clipped = x.clip(0, 1)
    return torch.log(clipped.clip(min=1e-5) / (1 - clipped).clip(min=1e-5))


def decoder(
    state: State,
    maps: list[Tensor],
    depth: int,
    heads: int,
    queries: int,
    *,
    skip: bool = False,
    act: Activation = F.relu,
    points: tuple[int, ...] = (),
) -> dict[str, Tensor]:
    """What layer ``depth`` of RT-DETR's decoder gives for the encoder's maps."""
    maps = project(state, maps, skip)
    target, reference, order = select(state, maps, queries, act)
    logits = torch.empty(0)
    for layer in range(depth):
        key = f"decoder.decoder.layers.{layer}"
        position = mlp(state, "decoder.query_pos_head", reference, act)
        query = target + position
        target = target + attend(state, f"{key}.self_attn", query, query, target, heads)
        target = layer_normed(state, f"{key}.norm1", target)
        crossed = deformable(
            state, f"{key}.cross_attn", target + position, reference, maps, heads, points
        )
        target = layer_normed(state, f"{key}.norm2", target + crossed)
        inner = act(product(state, f"{key}.linear1", target))
        target = layer_normed(
            state, f"{key}.norm3", target + product(state, f"{key}.linear2", inner)
        )
        change = mlp(state, f"decoder.dec_bbox_head.{layer}", target, act)
        reference = torch.sigmoid(change + inverse_sigmoid(reference))
        logits = product(state, f"decoder.dec_score_head.{layer}", target)
    return {"logits": logits, "boxes": reference, "queries": order}


def deformable(
    state: State,
    key: str,
    query: Tensor,
    reference: Tensor,
    maps: list[Tensor],
    heads: int,
    points: tuple[int, ...] = (),
) -> Tensor:
    """Sample by hand: four neighbours per point, weighted by area, zero outside the map. As many
    ``points`` at each level, or the same number at all."""
    batch, queries, channels = query.shape
    levels, width = len(maps), channels // heads
    value = torch.cat([x.flatten(2).permute(0, 2, 1) for x in maps], 1)
    if f"{key}.value_proj.weight" in state:
        value = product(state, f"{key}.value_proj", value)
    value = value.reshape(batch, -1, heads, width)
    offsets = product(state, f"{key}.sampling_offsets", query)
    total = offsets.shape[-1] // (heads * 2)
    points = points or (total // levels,) * levels
    offsets = offsets.reshape(batch, queries, heads, total, 2)
    weights = product(state, f"{key}.attention_weights", query)
    weights = weights.reshape(batch, queries, heads, total).softmax(-1)
    centre, size = reference[..., :2], reference[..., 2:]
    output = torch.zeros(batch, queries, heads, width)
    index_n = torch.arange(batch)[:, None, None, None]
    index_h = torch.arange(heads)[None, None, :, None]
    start = first = 0
    for count, x in zip(points, maps, strict=True):
        rows, columns = x.shape[-2:]
        own = slice(first, first + count)
        place = centre[:, :, None, None] + offsets[:, :, :, own] / count * (
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
                factor = (weights[:, :, :, own] * share * inside)[..., None]
                output = output + (factor * sampled).sum(3)
        start += rows * columns
        first += count
    found = output.flatten(2)
    last = f"{key}.output_proj"
    return product(state, last, found) if f"{last}.weight" in state else found

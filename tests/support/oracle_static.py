"""RT-DETR and D-FINE once more, at any depth, as plain functions over a state dict.

The oracle of parity tests of their any-depth form: no code of the package, no modules, no stages.
What a block of another network has, comes from the oracle of AnyDepth-DETR. How many blocks run
when their stage is skipped is handed over: no key is asked for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from oracle_detr import (
    Activation,
    State,
    attend,
    conv_norm,
    count_of,
    csp_block,
    decoder,
    deformable,
    encoder,
    inverse_sigmoid,
    layer_normed,
    mlp,
    normed,
    position_embedding,
    product,
    project,
    select,
)
from torch import Tensor


@dataclass(frozen=True)
class Told:
    """What no weight tells: essential blocks of each stage, points by level, queries and layers of
    activation."""

    blocks: tuple[int, ...]
    points: tuple[int, ...]
    queries: int
    activation: Activation = F.relu
    heads: int = 8


def run_static(
    state: State, images: Tensor, told: Told, stages: tuple[bool, ...], skip: bool, layers: int
) -> dict[str, Tensor]:
    """Logits [N, Q, classes], boxes [N, Q, 4] and tokens [N, Q] after ``layers`` decoder layers,
    with the ``stages`` and, by ``skip``, the encoder in full or without their refinement."""
    with torch.no_grad():
        resnet = "backbone.conv1.conv1_1.conv.weight" in state
        maps = (_resnet if resnet else _hgnet)(state, images, told.blocks, stages)
        maps = maps[-len(told.points) :]
        if "decoder.pre_bbox_head.layers.0.weight" in state:
            return _dfine(state, _neck(state, maps, skip, told.heads), told, skip, layers)
        encoded = encoder(state, maps, skip, told.heads)
        return decoder(
            state,
            encoded,
            layers,
            told.heads,
            told.queries,
            skip=skip,
            act=told.activation,
            points=told.points,
        )


def _unit(
    state: State,
    key: str,
    x: Tensor,
    skip: bool,
    *,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
) -> Tensor:
    """Convolution, norm, ReLU and affine layer, each in the mode of its stage."""
    weight = state[f"{key}.conv.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=(weight.shape[-1] - 1) // 2, groups=groups)
    norm, second = ("bn", "bn_skip") if f"{key}.bn.weight" in state else ("norm", "norm_skippable")
    name = second if skip and f"{key}.{second}.weight" in state else norm
    x = normed(state, f"{key}.{name}", x)
    if not act:
        return x
    x = x.clip(min=0)
    if f"{key}.lab.scale" not in state:
        return x
    lab = "lab_skip" if skip and f"{key}.lab_skip.scale" in state else "lab"
    return x * state[f"{key}.{lab}.scale"] + state[f"{key}.{lab}.bias"]


def _resnet(
    state: State, images: Tensor, essential: tuple[int, ...], stages: tuple[bool, ...]
) -> list[Tensor]:
    x = _unit(state, "backbone.conv1.conv1_1", images, False, stride=2)
    x = _unit(state, "backbone.conv1.conv1_2", x, False)
    x = F.max_pool2d(_unit(state, "backbone.conv1.conv1_3", x, False), 3, 2, 1)
    maps = []
    for stage, skip in enumerate(stages):
        count = count_of(state, f"backbone.res_layers.{stage}.blocks.")
        for block in range(essential[stage] if skip else count):
            key = f"backbone.res_layers.{stage}.blocks.{block}"
            halves = stage > 0 and block == 0
            shortcut = x
            if halves:
                shortcut = F.avg_pool2d(x, 2, 2, ceil_mode=True)
                shortcut = _unit(state, f"{key}.short.conv", shortcut, skip, act=False)
            elif block == 0:
                shortcut = _unit(state, f"{key}.short", x, skip, act=False)
            deep = f"{key}.branch2c.conv.weight" in state
            first, second = (1, 2) if deep and halves else (2, 1) if halves else (1, 1)
            y = _unit(state, f"{key}.branch2a", x, skip, stride=first)
            y = _unit(state, f"{key}.branch2b", y, skip, stride=second, act=deep)
            if deep:
                y = _unit(state, f"{key}.branch2c", y, skip, act=False)
            x = (y + shortcut).clip(min=0)
        maps.append(x)
    return maps


def _hgnet(
    state: State, images: Tensor, essential: tuple[int, ...], stages: tuple[bool, ...]
) -> list[Tensor]:
    def pad(x: Tensor) -> Tensor:
        return F.pad(x, (0, 1, 0, 1))

    x = pad(_unit(state, "backbone.stem.stem1", images, False, stride=2))
    beside = pad(_unit(state, "backbone.stem.stem2a", x, False))
    beside = _unit(state, "backbone.stem.stem2b", beside, False)
    x = torch.cat([F.max_pool2d(x, 2, 1), beside], 1)
    x = _unit(state, "backbone.stem.stem3", x, False, stride=2)
    x = _unit(state, "backbone.stem.stem4", x, False)
    maps = []
    for stage, skip in enumerate(stages):
        key = f"backbone.stages.{stage}"
        if f"{key}.downsample.conv.weight" in state:
            channels = x.shape[1]
            x = _unit(state, f"{key}.downsample", x, skip, stride=2, groups=channels, act=False)
        count = count_of(state, f"{key}.blocks.")
        for index in range(essential[stage] if skip else count):
            block = f"{key}.blocks.{index}"
            parts = [x]
            for layer in range(count_of(state, f"{block}.layers.")):
                name = f"{block}.layers.{layer}"
                y = parts[-1]
                if f"{name}.conv1.conv.weight" in state:
                    y = _unit(state, f"{name}.conv1", y, skip, act=False)
                    y = _unit(state, f"{name}.conv2", y, skip, groups=y.shape[1])
                else:
                    y = _unit(state, name, y, skip)
                parts.append(y)
            y = _unit(state, f"{block}.aggregation.0", torch.cat(parts, 1), skip)
            y = _unit(state, f"{block}.aggregation.1", y, skip)
            x = x + y if index else y
        maps.append(x)
    return maps


def _neck(state: State, maps: list[Tensor], skip: bool, heads: int) -> list[Tensor]:
    """D-FINE's hybrid encoder, of two levels or three."""
    maps = [
        conv_norm(state, f"encoder.input_proj.{i}", x, skip, act=False) for i, x in enumerate(maps)
    ]
    last = maps[-1]
    batch, channels, height, width = last.shape
    tokens = last.reshape(batch, channels, -1).permute(0, 2, 1)
    query = tokens + position_embedding(height, width, channels)
    key = "encoder.encoder.0.layers.0"
    suffix = "_skippable" if skip and f"{key}.norm1_skippable.weight" in state else ""
    tokens = tokens + attend(state, f"{key}.self_attn", query, query, tokens, heads)
    tokens = layer_normed(state, f"{key}.norm1{suffix}", tokens)
    inner = product(state, f"{key}.linear1", tokens)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    tokens = tokens + product(state, f"{key}.linear2", inner)
    tokens = layer_normed(state, f"{key}.norm2{suffix}", tokens)
    maps[-1] = tokens.permute(0, 2, 1).reshape(batch, channels, height, width)

    laterals: list[Tensor] = []
    top = maps[-1]
    for step, low in enumerate(reversed(maps[:-1])):
        top = conv_norm(state, f"encoder.lateral_convs.{step}", top, skip, act=False)
        laterals.append(top)
        wide = top.repeat_interleave(2, -1).repeat_interleave(2, -2)
        top = _elan(state, f"encoder.fpn_blocks.{step}", torch.cat([wide, low], 1), skip)
    outputs = [top]
    for step, lateral in enumerate(reversed(laterals)):
        down = f"encoder.downsample_convs.{step}.0"
        below = conv_norm(state, f"{down}.cv1", outputs[-1], skip, act=False)
        below = _unit(state, f"{down}.cv2", below, skip, stride=2, groups=channels, act=False)
        joined = torch.cat([below, lateral], 1)
        outputs.append(_elan(state, f"encoder.pan_blocks.{step}", joined, skip))
    return outputs


def _elan(state: State, key: str, x: Tensor, skip: bool) -> Tensor:
    both = conv_norm(state, f"{key}.cv1", x, skip)
    half = both.shape[1] // 2
    parts = [both[:, :half], both[:, half:]]
    for name in ("cv2", "cv3"):
        y = csp_block(state, f"{key}.{name}.0", parts[-1], skip)
        parts.append(conv_norm(state, f"{key}.{name}.1", y, skip))
    return conv_norm(state, f"{key}.cv4", torch.cat(parts, 1), skip)


def _dfine(
    state: State, maps: list[Tensor], told: Told, skip: bool, layers: int
) -> dict[str, Tensor]:
    act = told.activation
    if "decoder.input_proj.0.conv.weight" in state:
        maps = project(state, maps, skip)
    target, reference, order = select(state, maps, told.queries, act)
    reach = float(state["decoder.reg_scale"].abs())
    end = float((state["decoder.up"] * state["decoder.reg_scale"]).abs())
    edges: Tensor | None = None
    anchor = reference
    logits = torch.empty(0)
    for layer in range(layers):
        key = f"decoder.decoder.layers.{layer}"
        before = target
        position = mlp(state, "decoder.query_pos_head", reference, act).clip(-10, 10)
        query = target + position
        target = target + attend(state, f"{key}.self_attn", query, query, target, told.heads)
        target = layer_normed(state, f"{key}.norm1", target)
        crossed = deformable(
            state,
            f"{key}.cross_attn",
            target + position,
            reference,
            maps,
            told.heads,
            told.points,
        )
        gates = product(state, f"{key}.gateway.gate", torch.cat([target, crossed], -1)).sigmoid()
        kept, taken = gates.chunk(2, -1)
        target = layer_normed(state, f"{key}.gateway.norm", kept * target + taken * crossed)
        inner = act(product(state, f"{key}.linear1", target))
        target = target + product(state, f"{key}.linear2", inner)
        target = layer_normed(state, f"{key}.norm3", target.clip(-65504, 65504))
        head = f"decoder.dec_bbox_head.{layer}"
        if edges is None:
            change = mlp(state, "decoder.pre_bbox_head", target, act)
            anchor = torch.sigmoid(change + inverse_sigmoid(reference))
            edges = mlp(state, head, target, act)
        else:
            edges = edges + mlp(state, head, target + before, act)
        shares = edges.reshape(*edges.shape[:2], 4, -1).softmax(-1)
        bins = shares.shape[-1]
        grow = (end + 1) ** (2 / (bins - 3))
        right = [grow**power - 1 for power in range(1, (bins - 3) // 2 + 1)]
        places = [-2 * end, *(-x for x in reversed(right)), 0.0, *right, 2 * end]
        left, up, far, down = (shares * torch.tensor(places)).sum(-1).unbind(-1)
        cx, cy, w, h = anchor.unbind(-1)
        x1, y1 = cx - (reach / 2 + left) * w / reach, cy - (reach / 2 + up) * h / reach
        x2, y2 = cx + (reach / 2 + far) * w / reach, cy + (reach / 2 + down) * h / reach
        reference = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)
        best = shares.sort(-1, descending=True).values[..., :4]
        seen = torch.cat([best, best.mean(-1, keepdim=True)], -1).flatten(2)
        quality = mlp(state, f"decoder.decoder.lqe_layers.{layer}.reg_conf", seen, act)
        logits = product(state, f"decoder.dec_score_head.{layer}", target) + quality
    return {"logits": logits, "boxes": reference, "queries": order}

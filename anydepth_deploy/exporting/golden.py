"""Golden outputs of a network, made in torch when it is exported.

Which depths: the rungs, and a few mixed ones at which, for any two gates, one is as in super and
the other as in base: an artifact that swaps the two computes another depth there. Each gate by
itself is told by super and base.

Which pictures: generated ones, of another shape than the input and with no two colour channels
alike, so that preprocessing shows. The queries of a network that chooses them must follow from it,
not from rounding: of several pictures those are taken where, at every depth, the last token that is
taken is the most ahead of the first that is not. Of large networks there is one picture, as it
comes; where a runtime takes other queries of it at a tie, wider limits hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anydepth_deploy.bundle.golden import Golden, GoldenDepth, encode
from anydepth_deploy.depth import Depth, DepthSpace
from anydepth_deploy.families.family import Outputs, Raw
from anydepth_deploy.families.registry import find_family
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.memory import StageMemory
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.manifest import GoldenFile
from anydepth_deploy.pictures.images import Preprocess, prepare_batch
from anydepth_deploy.pictures.shapes import render

__all__ = ["golden_depths", "golden_pictures", "golden_writer", "make_golden"]

PICTURES = 2
ROUNDS = 4
"""Of pictures that are tried, where queries are chosen."""
DEAR = 10**10
"""Multiply-adds at super from which on there is one picture, and no other is tried: two of R50 took
longer than all else that an export does."""
CLEAR = 2e-4
"""By how many logits a choice has to be ahead, twice what FP32 may differ by, for its picture to be
taken at once."""
HEIGHT, WIDTH = 96, 128
"""Of the pictures, in pixels."""
MOST_NUMBERS = 8192
"""Of one quantity of a picture at a depth: 32 KiB."""
BEST_TOKENS = 2
"""How many tokens are kept with their scores, in numbers of queries."""


def golden_depths(space: DepthSpace, ladder: Sequence[Depth]) -> list[Depth]:
    """``ladder``, and behind it, for each binary digit, the depth at which those gates are as in
    base whose number has that digit."""
    base, top = space.base.settings, space.super.settings
    found = list(ladder)
    for digit in range((len(space.gates) - 1).bit_length()):
        chosen = [(base if gate >> digit & 1 else top)[gate] for gate in range(len(space.gates))]
        found.append(space.depth(chosen))
    return list(dict.fromkeys(found))


def golden_pictures(index: int) -> NDArray[np.uint8]:
    """Generated picture ``index``, uint8 [HEIGHT, WIDTH, 3] RGB: a part of one of shapes."""
    return render(index, 0, "val", size=WIDTH).image[:HEIGHT]


def golden_writer(
    model: AnyDepthModel, depths: Sequence[Depth], recipe: Preprocess, macs: int
) -> Callable[[Path], GoldenFile]:
    """What writes and describes a file of them; see :meth:`BundleWriter.add_golden`."""

    def write(path: Path) -> GoldenFile:
        found = make_golden(model, depths, recipe, macs)
        path.write_bytes(encode(found))
        return GoldenFile(
            file="golden",
            bytes=0,
            sha256="0" * 64,
            pictures=len(found.pictures),
            depths=list(found.depths),
        )

    return write


def make_golden(
    model: AnyDepthModel, depths: Sequence[Depth], recipe: Preprocess, macs: int = 0
) -> Golden:
    """Run ``model``, of ``macs`` multiply-adds at super, at ``depths``, super among them, on
    pictures that ``recipe`` prepares."""
    outputs = find_family(model.family).outputs
    before, model.memory = model.memory, StageMemory()
    try:
        pictures = _pictures(0, 1 if macs >= DEAR else PICTURES)
        found = _run(model, depths, prepare_batch(pictures, recipe)[0])
        choose = outputs.choice is not None and macs < DEAR
        if choose and min(_ahead(found, outputs, PICTURES)) < CLEAR:
            pictures = _clear_pictures(model, outputs, depths, recipe, pictures, found)
            found = _run(model, depths, prepare_batch(pictures, recipe)[0])
    finally:
        model.memory = before
    items = {depth: outputs.items(raw) for depth, (raw, _) in found.items()}
    full = items[model.space.super]
    count = next(iter(full.values.values())).shape[1]
    cells = _telling(full, outputs) if full.tokens is None else None
    depths_by_text: dict[str, GoldenDepth] = {}
    tokens = 0
    for depth in depths:
        own, scores = items[depth], found[depth][1]
        kept = _taken(own, _telling(own, outputs) if cells is None else cells)
        best = None
        if own.tokens is not None and scores is None:
            tokens = max(tokens, int(own.tokens.max()) + 1)
        if scores is not None and own.tokens is not None:
            tokens = scores.shape[1]
            most = min(BEST_TOKENS * own.tokens.shape[1], tokens)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :most].astype(np.int64)
        depths_by_text[str(depth)] = GoldenDepth(
            kept,
            best,
            None if best is None or scores is None else np.take_along_axis(scores, best, 1),
        )
    return Golden(np.stack(pictures), depths_by_text, count, cells, tokens)


def _pictures(first: int, count: int = PICTURES) -> list[NDArray[np.uint8]]:
    return [golden_pictures(first + place) for place in range(count)]


Found = dict[Depth, tuple[Raw, "NDArray[np.float32] | None"]]


def _run(model: AnyDepthModel, depths: Sequence[Depth], images: NDArray[np.float32]) -> Found:
    """Raw outputs and the scores of tokens by depth."""
    found: Found = {}
    with torch.inference_mode():
        for depth in depths:
            raw, scores = model.forward_and_choice(torch.from_numpy(images), depth)
            found[depth] = (
                {name: tensor.numpy() for name, tensor in raw.items()},
                None if scores is None else scores.numpy(),
            )
    return found


def _clear_pictures(
    model: AnyDepthModel,
    outputs: Outputs,
    depths: Sequence[Depth],
    recipe: Preprocess,
    pictures: list[NDArray[np.uint8]],
    found: Found,
) -> list[NDArray[np.uint8]]:
    """Those of which queries are chosen with the most distance, of ``pictures``, for which the
    network has ``found`` this, and others."""
    tried: list[tuple[float, int, NDArray[np.uint8]]] = []
    for first in range(0, ROUNDS * PICTURES, PICTURES):
        if first:
            pictures = _pictures(first)
            found = _run(model, depths, prepare_batch(pictures, recipe)[0])
        ahead = _ahead(found, outputs, PICTURES)
        tried += [(-ahead[place], first + place, pictures[place]) for place in range(PICTURES)]
        if sum(-entry[0] >= CLEAR for entry in tried) >= PICTURES:
            break
    best = sorted(tried, key=lambda entry: entry[:2])[:PICTURES]
    return [picture for _, _, picture in best]


def _ahead(found: Found, outputs: Outputs, count: int) -> list[float]:
    """By how many logits, of each picture, the last token that is taken is ahead of the first that
    is not, at the depth where that is the least."""
    ahead = np.full(count, math.inf)
    for raw, scores in found.values():
        tokens = outputs.items(raw).tokens
        if scores is None or tokens is None or scores.shape[1] <= tokens.shape[1]:
            continue
        ordered = -np.sort(-scores, axis=1)
        last = tokens.shape[1]
        ahead = np.minimum(ahead, ordered[:, last - 1] - ordered[:, last])
    return [float(value) for value in ahead]


def _telling(items: Items, outputs: Outputs) -> NDArray[np.int64]:
    """Places of items, int64 [N, K], in rising order: all where they are few, else those of the
    highest scores and, as many, others that are evenly spread."""
    values = items.values
    first = next(iter(values.values()))
    count = first.shape[1]
    widest = max(array.shape[2] for array in values.values())
    most = min(count, max(2, MOST_NUMBERS // widest))
    if most == count:
        return np.tile(np.arange(count, dtype=np.int64), (len(first), 1))
    scores = [array for name, array in values.items() if name not in outputs.coordinates]
    telling = np.max([array.max(2) for array in scores or values.values()], axis=0)
    order = np.argsort(-telling, axis=1, kind="stable")
    best, others = order[:, : most // 2], np.sort(order[:, most // 2 :], axis=1)
    spread = np.linspace(0, others.shape[1] - 1, most - most // 2).astype(np.intp)
    chosen: NDArray[np.int64] = np.concatenate([best, others[:, spread]], 1).astype(np.int64)
    chosen.sort(axis=1)
    return chosen


def _taken(items: Items, places: NDArray[np.int64]) -> Items:
    values = {
        name: np.take_along_axis(array, places[..., None], 1).astype(np.float32)
        for name, array in items.values.items()
    }
    tokens = None if items.tokens is None else np.take_along_axis(items.tokens, places, 1)
    return Items(values, tokens)

"""What the shapes in a state dict say of a static DETR: block by block, not by a list of sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anydepth_deploy.errors import shorten
from anydepth_deploy.families.shared.detr.backbones import (
    HGNetConfig,
    HGNetStage,
    ResNetConfig,
    is_frozen,
)
from anydepth_deploy.families.shared.detr.fine_config import FINE, FineConfig
from anydepth_deploy.families.shared.detr.static import HEADS

__all__ = [
    "Reader",
    "UnfitError",
    "read_decoder",
    "read_encoder",
    "read_fine",
    "read_layers",
    "take_points",
]

LARGEST = 1 << 16
"""Of a side of a tensor that shapes a network: no file may ask for more memory than it has."""

WORDS = 12
"""Of a key that are looked at."""

STAGES = 4
LAYERS = "decoder.decoder.layers"


class UnfitError(Exception):
    """Shapes that no network of the family has; the text goes on "an RT-DETR ..."."""


class Reader:
    """Shapes by key, asked for sides and for how many there are of something."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self._below: dict[str, set[str]] = {}
        for key in shapes:
            words = key.split(".")[:WORDS]
            for place in range(1, len(words)):
                self._below.setdefault(".".join(words[:place]), set()).add(words[place])

    def has(self, name: str) -> bool:
        """Whether there is a key ``name``, or one that begins with it and a dot."""
        return name in self.shapes or name in self._below

    def side(self, key: str, axis: int = 0) -> int:
        """Of the tensor ``key``. Raises :class:`UnfitError` where there is none."""
        shape = self.shapes.get(key)
        if shape is None or len(shape) <= axis:
            raise UnfitError(f"without '{key}'")
        if not 1 <= shape[axis] <= LARGEST:
            raise UnfitError(f"whose '{key}' has the shape {list(shape)}")
        return shape[axis]

    def count(self, prefix: str) -> int:
        """How many numbered parts there are below ``prefix``. Raises :class:`UnfitError` for none,
        and for gaps between them."""
        numbers = sorted(
            int(word) for word in self._below.get(prefix, ()) if re.fullmatch("[0-9]{1,4}", word)
        )
        if not numbers:
            raise UnfitError(f"without '{prefix}.0'")
        if numbers != list(range(len(numbers))):
            raise UnfitError(
                f"whose '{prefix}' has the numbers {shorten(numbers)}: expected 0 to "
                f"{numbers[-1]} without a gap"
            )
        return len(numbers)

    @property
    def has_counters(self) -> bool:
        """Whether norms outside of the backbone count their batches: files may have lost that."""
        return any(
            key.endswith(".num_batches_tracked") and not key.startswith("backbone.")
            for key in self.shapes
        )

    @property
    def counts_in_backbone(self) -> bool:
        """Whether norms of the backbone count their batches, which frozen ones do not."""
        return any(
            key.endswith(".num_batches_tracked") and key.startswith("backbone.")
            for key in self.shapes
        )


def read_backbone(reader: Reader) -> ResNetConfig | HGNetConfig:
    """Raises :class:`UnfitError` for a backbone that is neither or has other than four stages."""
    resnet, hgnet = reader.has("backbone.res_layers"), reader.has("backbone.stages")
    if resnet == hgnet:
        first = [key for key in reader.shapes if key.startswith("backbone.")]
        raise UnfitError(
            f"with {'two backbones' if resnet else 'a backbone that is not known'} (keys like "
            f"{shorten(first, 2) or 'none'}): expected 'backbone.res_layers.' (ResNet of variant "
            "d) or 'backbone.stages.' (HGNetv2)"
        )
    found = _read_resnet(reader) if resnet else _read_hgnet(reader)
    if not reader.counts_in_backbone:
        frozen = True if reader.has_counters else is_frozen(found)
        found = type(found)(**{**vars(found), "frozen": frozen})
    return found


def _stages(reader: Reader, prefix: str) -> range:
    if (count := reader.count(prefix)) != STAGES:
        raise UnfitError(f"with {count} backbone stages: expected {STAGES}")
    return range(STAGES)


def _read_resnet(reader: Reader) -> ResNetConfig:
    prefixes = [f"backbone.res_layers.{i}.blocks" for i in _stages(reader, "backbone.res_layers")]
    return ResNetConfig(
        blocks=tuple(reader.count(prefix) for prefix in prefixes),
        widths=tuple(reader.side(f"{prefix}.0.branch2a.conv.weight") for prefix in prefixes),
        bottleneck=reader.has(f"{prefixes[0]}.0.branch2c"),
        stem=(
            reader.side("backbone.conv1.conv1_1.conv.weight"),
            reader.side("backbone.conv1.conv1_3.conv.weight"),
        ),
        frozen=False,
    )


def _read_hgnet(reader: Reader) -> HGNetConfig:
    stages = []
    for index in _stages(reader, "backbone.stages"):
        prefix = f"backbone.stages.{index}"
        layer = f"{prefix}.blocks.0.layers.0"
        light = reader.has(f"{layer}.conv2")
        first = f"{layer}.conv1.conv.weight" if light else f"{layer}.conv.weight"
        stages.append(
            HGNetStage(
                width=reader.side(first),
                channels=reader.side(f"{prefix}.blocks.0.aggregation.1.conv.weight"),
                blocks=reader.count(f"{prefix}.blocks"),
                layers=reader.count(f"{prefix}.blocks.0.layers"),
                light=light,
                kernel=reader.side(f"{layer}.conv2.conv.weight" if light else first, 2),
                downsample=reader.has(f"{prefix}.downsample"),
            )
        )
    stem = (
        reader.side("backbone.stem.stem1.conv.weight"),
        reader.side("backbone.stem.stem4.conv.weight"),
    )
    return HGNetConfig(stem, tuple(stages), affine=reader.has("backbone.stem.stem1.lab"))


def read_encoder(reader: Reader) -> dict[str, Any]:
    """Fields of a configuration: the backbone and all of the encoder but its blocks.

    Raises :class:`UnfitError`.
    """
    backbone = read_backbone(reader)
    levels = reader.count("encoder.input_proj")
    if not 2 <= levels <= STAGES:
        raise UnfitError(f"whose encoder takes {levels} maps: expected 2 to {STAGES}")
    taken = tuple(
        reader.side(f"encoder.input_proj.{level}.conv.weight", 1) for level in range(levels)
    )
    given = backbone.out_channels[-levels:]
    if taken != given:
        raise UnfitError(
            f"whose encoder takes maps of {shorten(taken)} channels: expected the backbone's "
            f"last, of {shorten(given)}"
        )
    if (count := reader.count("encoder.encoder")) != 1:
        raise UnfitError(f"with attention on {count} maps of the encoder: expected the coarsest")
    return {
        "backbone": backbone,
        "hidden": _width(reader.side("encoder.input_proj.0.conv.weight"), "encoder"),
        "feedforward": reader.side("encoder.encoder.0.layers.0.linear1.weight"),
        "aifi_layers": reader.count("encoder.encoder.0.layers"),
    }


def read_decoder(reader: Reader) -> dict[str, Any]:
    """Fields of a configuration: the decoder's; ``points`` are the same at every level, where their
    sum allows it.

    Raises :class:`UnfitError`.
    """
    head = "decoder.enc_score_head.weight"
    layers, _ = read_layers(reader)
    offsets = reader.side(f"{LAYERS}.0.cross_attn.sampling_offsets.weight")
    levels = reader.count("encoder.input_proj")
    total, rest = divmod(offsets, 2 * HEADS)
    if rest or total < levels:
        raise UnfitError(
            f"whose attention has {offsets} offsets: expected a multiple of {2 * HEADS} "
            f"({HEADS} heads), for {levels} maps"
        )
    even, more = divmod(total, levels)
    return {
        "classes": reader.side(head),
        "decoder_hidden": _width(reader.side(head, 1), "decoder"),
        "decoder_feedforward": reader.side(f"{LAYERS}.0.linear1.weight"),
        "decoder_layers": layers,
        "points": tuple(even + (level < more) for level in range(levels)),
    }


def read_fine(reader: Reader) -> FineConfig | None:
    """What the shapes say of FINE, its switches as the authors have them; None where there is none.

    Heads are read off the norm of attention, which has one weight for each channel of a head.
    Raises :class:`UnfitError`.
    """
    if not reader.has(FINE):
        return None
    steps, found = reader.count("encoder.input_proj") - 1, reader.count(FINE)
    if found != steps:
        raise UnfitError(f"with FINE in {found} places: expected one for each of {steps} steps up")
    first = f"{FINE}.0"
    hidden = reader.side("encoder.input_proj.0.conv.weight")
    width = reader.side(f"{first}.attn_norm.weight")
    if hidden % width:
        raise UnfitError(
            f"whose FINE has heads of {width} channels: expected a divisor of its {hidden} channels"
        )
    return FineConfig(hidden // width, reader.side(f"{first}.linear1.weight"))


def read_layers(reader: Reader) -> tuple[int, int]:
    """Decoder layers, and those of them that only training uses: wider ones behind the others.

    Raises :class:`UnfitError`.
    """
    hidden = reader.side("decoder.enc_score_head.weight", 1)
    count = reader.count(LAYERS)
    widths = [reader.side(f"{LAYERS}.{i}.self_attn.out_proj.weight") for i in range(count)]
    equal = next((i for i, width in enumerate(widths) if width != hidden), count)
    if not equal or any(width <= hidden for width in widths[equal:]):
        raise UnfitError(
            f"whose decoder layers have {shorten(widths)} channels: expected {hidden} each"
        )
    return equal, count - equal


def _width(channels: int, what: str) -> int:
    if channels % HEADS:
        raise UnfitError(f"whose {what} has {channels} channels: expected a multiple of {HEADS}")
    return channels


def take_points(scales: list[float], levels: int) -> tuple[int, ...] | None:
    """Points by level from the scale of each (1 / points of its level); None where these are no
    such scales."""
    points: list[int] = []
    place = 0
    while place < len(scales):
        scale = scales[place]
        count = round(1 / scale) if 1e-4 < scale <= 1.001 else 0
        run = scales[place : place + count]
        if not count or len(run) < count or any(abs(x * count - 1) > 1e-3 for x in run):
            return None
        points.append(count)
        place += count
    return tuple(points) if len(points) == levels else None

"""Tell from the shapes in a state dict which AnyDepth-DETR it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig
from anydepth_deploy.families.shared.detr.structure import Reader, UnfitError, read_fine
from anydepth_deploy.families.shared.sizes import Refusal, check_classes, find_size

__all__ = ["recognise_detr"]

TITLE = "an AnyDepth-DETR"
CLASSES = "decoder.enc_score_head.weight"
PLAIN = {name: config for name, config in CONFIGS.items() if config.fine is None}
"""Sizes; each may have FINE."""


def recognise_detr(shapes: Mapping[str, tuple[int, ...]]) -> DetrConfig | Refusal | None:
    """The configuration with these shapes, its class count read from the heads.

    None when these are not the keys of an RT-DETR with second norm sets (keys like
    'backbone.layer1.0.bn1_skip.weight'); a refusal for one of a size that is not known, without
    classes, or with FINE that does not fit it.
    """
    if not all(
        any(key.startswith(prefix) for key in shapes)
        for prefix in ("backbone.", "decoder.decoder.layers.")
    ) or not any("_skip" in key for key in shapes):
        return None
    config = find_size(TITLE, PLAIN, _expected, _structure(shapes))
    if isinstance(config, Refusal):
        return config
    try:
        fine = read_fine(Reader(shapes))
    except UnfitError as error:
        return Refusal(f"{TITLE} {error}")
    if fine is not None:
        config = config.replace(name=f"{config.name}-fine", fine=fine)
    head = shapes.get(CLASSES)
    if head:
        config = config.replace(classes=head[0])
    return check_classes(TITLE, CLASSES, config.classes) or config


def _structure(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    def count(pattern: str) -> int:
        numbers = [int(match.group(1)) for key in shapes if (match := re.match(pattern, key))]
        return max(numbers) + 1 if numbers else 0

    def width(key: str) -> int:
        return shapes[key][0] if shapes.get(key) else 0

    return {
        "blocks": tuple(count(rf"backbone\.layer{i}\.(\d{{1,4}})\.") for i in range(1, 5)),
        "stem": width("backbone.conv1.weight"),
        "hidden": width("encoder.input_proj.0.conv.weight"),
        "decoder layers": count(r"decoder\.decoder\.layers\.(\d{1,4})\."),
    }


def _expected(config: DetrConfig) -> dict[str, object]:
    return {
        "blocks": config.blocks,
        "stem": config.widths[0],
        "hidden": config.hidden,
        "decoder layers": config.decoder_layers,
    }

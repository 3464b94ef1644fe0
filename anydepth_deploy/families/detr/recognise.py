"""Tell from the shapes in a state dict which AnyDepth-DETR it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from anydepth_deploy.errors import shorten
from anydepth_deploy.families.detr.config import CONFIGS, DetrConfig
from anydepth_deploy.families.shared.detr.structure import Reader, UnfitError, read_fine
from anydepth_deploy.families.shared.detr.switched import has_static_stem
from anydepth_deploy.families.shared.sizes import Refusal, check_classes, find_size

__all__ = ["recognise_detr"]

TITLE = "an AnyDepth-DETR"
CLASSES = "decoder.enc_score_head.weight"
PLAIN = {name: config for name, config in CONFIGS.items() if config.fine is None}
"""Sizes; each may have FINE."""
SECOND = (
    *(f"backbone.layer{stage}.0.downsample_skip" for stage in range(1, 5)),
    *(f"decoder.input_proj.{level}.norm_skippable" for level in range(3)),
)
"""Second norm sets that the authors' networks have not."""


def recognise_detr(shapes: Mapping[str, tuple[int, ...]]) -> DetrConfig | Refusal | None:
    """The configuration with these shapes, its class count read from the heads.

    None when these are not the keys of an RT-DETR with second norm sets (keys like
    'backbone.layer1.0.bn1_skip.weight') and one convolution for a stem; a refusal for one of a size
    that is not known, without classes, with FINE that does not fit it, or with part of the second
    sets that shortcuts and the decoder's projections may have.
    """
    if not all(
        any(key.startswith(prefix) for key in shapes)
        for prefix in ("backbone.", "decoder.decoder.layers.")
    ) or not any("_skip" in key for key in shapes):
        return None
    if has_static_stem(shapes):
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
    paths = {key.rpartition(".")[0] for key in shapes}
    present = [path for path in SECOND if path in paths]
    if present and len(present) < len(SECOND):
        return Refusal(
            f"{TITLE} with part of the second norm sets of its shortcuts and of the decoder's "
            f"projections: found {shorten(present, 2)}, expected all {len(SECOND)} or none; fetch "
            "the file again"
        )
    config = config.replace(switches_all=bool(present))
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

"""Tell from the shapes in a state dict which AnyDepth-YOLO it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

from anydepth_deploy.families.shared.sizes import Refusal, check_classes, find_size
from anydepth_deploy.families.yolo.config import (
    ATTENTION_LAYERS,
    C3K2_LAYERS,
    CONFIGS,
    GATED_LAYERS,
    YoloConfig,
)

__all__ = ["recognise_yolo"]

TITLE = "an AnyDepth-YOLO"
CLASSES = "model.21.cv3.0.2.bias"

Shapes = Mapping[str, tuple[int, ...]]


def recognise_yolo(shapes: Shapes) -> YoloConfig | Refusal | None:
    """The configuration with these shapes, its variants and class count read from the keys.

    None when these are not the keys of a YOLO of this framework; a refusal for a static YOLO and
    for an AnyDepth-YOLO of a size that is not known or without classes.
    """
    if "model.0.conv.weight" not in shapes or not any(
        re.match(r"model\.[0-9]{1,3}\.cv2\.0\.2\.", key) for key in shapes
    ):
        return None
    if not any(".bn_skip." in key for key in shapes):
        return Refusal(
            "these are the weights of a static YOLO: no second norm sets (keys like "
            "'model.2.cv1.bn_skip.weight'), so its depth cannot be chosen; expected an "
            "AnyDepth-YOLO checkpoint"
        )
    size = find_size(TITLE, CONFIGS, _expected, _structure(shapes))
    if isinstance(size, Refusal):
        return size
    config = _variant(size, shapes)
    return check_classes(TITLE, CLASSES, config.classes) or config


def _structure(shapes: Shapes) -> dict[str, object]:
    """What tells sizes apart; the same entries as :func:`_expected`."""
    first = shapes.get("model.6.m.0.0.mlp.0.conv.weight", ())
    return {
        "channels": tuple(_width(shapes, layer) for layer in (0, 14, 6, 8)),
        "repeats": _count(shapes, r"model\.6\.m\.(\d{1,3})\."),
        "mlp ratio": round(first[0] / first[1], 2) if len(first) == 4 and first[1] else 0.0,
    }


def _expected(config: YoloConfig) -> dict[str, object]:
    return {
        "channels": tuple(config.channels(width) for width in (64, 256, 512, 1024)),
        "repeats": config.repeats(4),
        "mlp ratio": config.mlp_ratio,
    }


def _variant(config: YoloConfig, shapes: Shapes) -> YoloConfig:
    """The layout that the keys tell: what has no ``bn_skip`` is refinement."""

    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in shapes)

    head = shapes.get(CLASSES)
    last = config.repeats(2) - 1
    return config.replace(
        # The last repeat of every C3k2 switches its norms too: nothing is skipped.
        switchable_c3k2=all(
            has(rf"model\.{layer}\.m\.{last}\..*bn_skip\.") for layer in C3K2_LAYERS
        ),
        bottleneck_c3k=has(r"model\.2\.m\.0\.cv3\."),
        own_skip_weights=tuple(
            layer for layer in GATED_LAYERS if f"model.{layer}.cv2.conv_skip.weight" in shapes
        ),
        gamma=tuple(layer for layer in ATTENTION_LAYERS if f"model.{layer}.gamma" in shapes),
        inner_skips=tuple(
            layer
            for layer in GATED_LAYERS
            if layer not in ATTENTION_LAYERS
            and has(rf"model\.{layer}\.m\.0\.m\.1\.")
            and not has(rf"model\.{layer}\.m\.0\.m\.1\..*bn_skip\.")
        ),
        classes=head[0] if head else config.classes,
    )


def _width(shapes: Shapes, layer: int) -> int:
    shape = shapes.get(f"model.{layer}.conv.weight") or shapes.get(f"model.{layer}.cv2.conv.weight")
    return shape[0] if shape else 0


def _count(shapes: Shapes, pattern: str) -> int:
    numbers = [int(match.group(1)) for key in shapes if (match := re.match(pattern, key))]
    return max(numbers) + 1 if numbers else 0

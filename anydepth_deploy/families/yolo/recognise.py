"""Tell from the shapes in a state dict which AnyDepth-YOLO it is, or which YOLOv12."""

from __future__ import annotations

import re
from collections.abc import Mapping

from anydepth_deploy.errors import shorten
from anydepth_deploy.families.shared.sizes import Refusal, check_classes, find_size
from anydepth_deploy.families.yolo.config import (
    ATTENTION_LAYERS,
    C3K2_LAYERS,
    CONFIGS,
    GATED_LAYERS,
    ONE_DEPTH_CONFIGS,
    YoloConfig,
)

__all__ = ["recognise_yolo", "recognise_yolov12"]

TITLE, PLAIN_TITLE = "an AnyDepth-YOLO", "a YOLOv12"
CLASSES = "model.21.cv3.0.2.bias"
ATTENTION = "model.6.m.0.0.attn.qk.conv.weight"
MERGED = ".attn.qkv."
GROUPS = {1: (64, 2), 3: (256, 4)}
"""Down-sampling convolutions in groups: unscaled input channels, and how many groups."""

BOTTLENECK_C3K = r"model\.2\.m\.0\.cv3\."

Shapes = Mapping[str, tuple[int, ...]]


def recognise_yolo(shapes: Shapes) -> YoloConfig | Refusal | None:
    """The configuration with these shapes, its variants and class count read from the keys.

    None when these are not the keys of a YOLO of this framework, or of one without second norm
    sets; a refusal for an AnyDepth-YOLO of a size that is not known or without classes.
    """
    if not _is_yolo(shapes) or not _switches(shapes):
        return None
    size = find_size(TITLE, CONFIGS, _expected, _structure(shapes))
    if isinstance(size, Refusal):
        return size
    config = _variant(size, shapes)
    return check_classes(TITLE, CLASSES, config.classes) or config


def recognise_yolov12(shapes: Shapes) -> YoloConfig | Refusal | None:
    """The configuration without any-depth, its variants and class count read from the keys.

    None when these are not the keys of a YOLO of this framework, or of one with second norm sets;
    a refusal for a YOLO of another layout, of a size that is not known or without classes.
    """
    if not _is_yolo(shapes) or _switches(shapes):
        return None
    if (found := _other_layout(shapes)) is not None:
        return Refusal(
            f"these are the weights of a plain YOLO in another layout ({found}); expected an "
            "AnyDepth-YOLO, or a YOLOv12 without any-depth in the layout of that code (attention "
            "with 'qk' and 'v', the head at 'model.21'): train such a network, or deploy this one "
            "with the tools of the framework that wrote it"
        )
    structure = _structure(shapes)
    ratio = structure.pop("mlp ratio")
    size = find_size(PLAIN_TITLE, ONE_DEPTH_CONFIGS, _expected_plain, structure)
    if isinstance(size, Refusal):
        return size
    head = shapes.get(CLASSES)
    config = size.replace(
        bottleneck_c3k=_has(shapes, BOTTLENECK_C3K),
        mlp_ratio=ratio,
        gamma=_with_gamma(shapes),
        classes=head[0] if head else size.classes,
    )
    return check_classes(PLAIN_TITLE, CLASSES, config.classes) or config


def _is_yolo(shapes: Shapes) -> bool:
    """Whether these are the keys of a YOLO of the framework that the authors built on."""
    return "model.0.conv.weight" in shapes and _has(shapes, r"model\.[0-9]{1,3}\.cv2\.0\.2\.")


def _switches(shapes: Shapes) -> bool:
    """Whether there are second norm sets."""
    return any(".bn_skip." in key for key in shapes)


def _other_layout(shapes: Shapes) -> str | None:
    """What tells a plain YOLO from the layout that AnyDepth-YOLO has, too; None for that layout."""
    if (merged := next((key for key in shapes if MERGED in key), None)) is not None:
        return f"attention with merged projections, {shorten([merged])}"
    query = shapes.get(ATTENTION, ())
    if len(query) != 4 or query[0] != 2 * query[1]:
        return f"no attention at '{ATTENTION}'"
    if not _has(shapes, r"model\.21\.cv2\.0\.2\."):
        return "the head is not at 'model.21'"
    unit = _width(shapes, 0)
    for layer, (unscaled, groups) in GROUPS.items():
        key = f"model.{layer}.conv.weight"
        inputs = unit if unscaled == 64 else _width(shapes, layer - 1)
        shape = shapes.get(key, ())
        if len(shape) != 4 or shape[1] * groups != inputs:
            return f"'{key}' is {list(shape)}, not of {inputs} channels in {groups} groups"
    ratio = _structure(shapes)["mlp ratio"]
    if not isinstance(ratio, float) or not 1 <= ratio <= 4:
        return f"an MLP ratio of {ratio} in its attention blocks"
    return None


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


def _expected_plain(config: YoloConfig) -> dict[str, object]:
    """The same without the MLP ratio, which checkpoints of one size may differ in."""
    expected = _expected(config)
    del expected["mlp ratio"]
    return expected


def _variant(config: YoloConfig, shapes: Shapes) -> YoloConfig:
    """The layout that the keys tell: what has no ``bn_skip`` is refinement."""

    def has(pattern: str) -> bool:
        return _has(shapes, pattern)

    head = shapes.get(CLASSES)
    last = config.repeats(2) - 1
    return config.replace(
        # The last repeat of every C3k2 switches its norms too: nothing is skipped.
        switchable_c3k2=all(
            has(rf"model\.{layer}\.m\.{last}\..*bn_skip\.") for layer in C3K2_LAYERS
        ),
        bottleneck_c3k=has(BOTTLENECK_C3K),
        own_skip_weights=tuple(
            layer for layer in GATED_LAYERS if f"model.{layer}.cv2.conv_skip.weight" in shapes
        ),
        gamma=_with_gamma(shapes),
        inner_skips=tuple(
            layer
            for layer in GATED_LAYERS
            if layer not in ATTENTION_LAYERS
            and has(rf"model\.{layer}\.m\.0\.m\.1\.")
            and not has(rf"model\.{layer}\.m\.0\.m\.1\..*bn_skip\.")
        ),
        classes=head[0] if head else config.classes,
    )


def _has(shapes: Shapes, pattern: str) -> bool:
    return any(re.match(pattern, key) for key in shapes)


def _with_gamma(shapes: Shapes) -> tuple[int, ...]:
    return tuple(layer for layer in ATTENTION_LAYERS if f"model.{layer}.gamma" in shapes)


def _width(shapes: Shapes, layer: int) -> int:
    shape = shapes.get(f"model.{layer}.conv.weight") or shapes.get(f"model.{layer}.cv2.conv.weight")
    return shape[0] if shape else 0


def _count(shapes: Shapes, pattern: str) -> int:
    numbers = [int(match.group(1)) for key in shapes if (match := re.match(pattern, key))]
    return max(numbers) + 1 if numbers else 0

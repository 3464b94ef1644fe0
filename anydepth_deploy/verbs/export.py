"""``export``: a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.verbs.words import (
    listed,
    renamed,
    rules_of,
    said_of,
    size_of,
    suppression_of,
)

__all__ = ["export"]

FORMER = {"layout": "layouts", "target": "targets", "size": "input_size"}
LISTS = ("layouts", "targets", "weights", "precision")
RULES = ("keep", "quantise", "max_ratio", "max_error")
SUPPRESSION = ("nms", "nms_score", "nms_iou")


def export(checkpoint: str | Path, out: str | Path, **options: Any) -> Bundle:
    """Export ``checkpoint`` into the bundle folder ``out``, making only what is missing there, as
    the command ``export`` does.

    ``options``: those of the command by their names, as texts or as what they mean: ``depth``,
    ``layout``, ``weights``, ``precision`` and ``target`` (``"fp32,fp16"`` or a list), ``size``
    (``"384x640"``, 640, or height and width), ``resize``, ``deformable``, ``ladder``, ``classes``,
    ``ranges``, ``keep``, ``quantise``, ``max_ratio``, ``max_error``, ``nms``, ``nms_score``,
    ``nms_iou``, ``decoder_activation`` and the others of networks, ``raw``, ``force``; and those of
    :func:`export_bundle`, which raises what is raised. Engines are for :func:`build`.

    Raises :class:`TypeError` for two names of one thing.
    """
    renamed(options, FORMER)
    for name in LISTS:
        if isinstance(options.get(name), str):
            options[name] = listed(options[name])
    size = options.get("input_size")
    if isinstance(size, str | int):
        options["input_size"] = size_of(str(size))
    for name, names, made in (
        ("rules", RULES, _rules),
        ("suppression", SUPPRESSION, _suppression),
        ("said", (), said_of),
    ):
        found = made(options)
        if found is not None:
            if options.get(name) is not None:
                raise TypeError(f"{name} says the same as {', '.join(names) or 'other options'}")
            options[name] = found
    return export_bundle(checkpoint, out, **options)


def _rules(options: dict[str, Any]) -> Any:
    given = [options.pop(name, None) for name in RULES]
    keep, quantise, max_ratio, max_error = given
    patterns = [
        value if value is None or isinstance(value, str) else ",".join(value)
        for value in (keep, quantise)
    ]
    return rules_of(patterns[0], patterns[1], max_ratio, max_error)


def _suppression(options: dict[str, Any]) -> Any:
    nms, score, iou = (options.pop(name, None) for name in SUPPRESSION)
    return suppression_of(nms, score, iou)

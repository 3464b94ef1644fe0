"""What a checkpoint of our own training says beside its tensors: the entry ``network``.

Shapes do not tell the activation of a decoder, how it samples, how many queries there are. Who
trains a network knows, writes it down, and nothing is assumed when the file is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.families.shared.detr.fine_config import FineConfig
from anydepth_deploy.families.shared.detr.settle import CHOICES, FINE_CHOICES
from anydepth_deploy.families.shared.settling import Beside, Said

__all__ = ["SIZES", "STATIC", "inner_activation", "recall", "remember", "sizes_in"]

SIZES = ("queries", "max_detections", "input_size")
"""Fields of a configuration that networks of all families of DETRs remember."""

STATIC = (
    *SIZES,
    "release",
    "decoder_activation",
    "feedforward_activation",
    "sampling",
    "points",
)
"""Those of static DETRs."""

MOST = 10_000
"""Queries, and detections."""

LARGEST, MULTIPLE = 2048, 32
"""Pixels of a side of the input that a file may decide, and what sides are multiples of."""

Rule = tuple[Callable[[object], bool], str]


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _is_side(value: object) -> bool:
    return type(value) is int and value > 0 and not value % MULTIPLE


def _is_size(value: object) -> bool:
    return _is_list(value, _is_side) and len(value) == 2  # type: ignore[arg-type]


def _is_list(value: object, item: Callable[[object], bool]) -> bool:
    return isinstance(value, list | tuple) and 1 <= len(value) <= 16 and all(map(item, value))


def _is_one_of(*words: object) -> Rule:
    shown = ", ".join("none" if word is None else str(word) for word in words)
    return (lambda value: type(value) in (str, type(None)) and value in words, f"one of {shown}")


RULES: Mapping[str, Rule] = {
    **{name: _is_one_of(*words) for name, words in {**CHOICES, **FINE_CHOICES}.items()},
    "feedforward_activation": _is_one_of(*CHOICES["decoder_activation"], None),
    "points": (lambda value: _is_list(value, _is_count), "points of attention by level"),
    "queries": (_is_count, f"1 to {MOST}"),
    "max_detections": (_is_count, f"1 to {MOST}"),
    "input_size": (_is_size, f"a height and a width, multiples of {MULTIPLE}"),
}


def remember(family: str, config: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """The entry ``network`` of a checkpoint of ``config``: plain values of these ``fields`` of it,
    and the switches of its FINE, if it has that."""
    found = {name: getattr(config, name) for name in fields}
    plain = {k: list(value) if isinstance(value, tuple) else value for k, value in found.items()}
    fine = getattr(config, "fine", None)
    return {"family": family, **plain, **({} if fine is None else _fine_words(fine))}


def _fine_words(fine: FineConfig) -> dict[str, str]:
    """Its switches, by the fields of :class:`Said`."""
    return {
        "fine_position": "on" if fine.position else "off",
        "fine_cosformer": "on" if fine.cosformer else "off",
        "fine_upsampling": fine.upsampling,
    }


def recall(
    family: str,
    config: Any,
    beside: Beside,
    fields: tuple[str, ...],
    *,
    releases: tuple[str, ...] = (),
    points: tuple[int, ...] | None = None,
) -> tuple[dict[str, Any], Beside]:
    """What the entry ``network`` beside the tensors of ``config`` says of these ``fields``, in the
    types of a configuration, and ``beside`` with its words where a person said none.

    ``releases``: that such tensors may be of; ``points``: as the tensors say them, None where none
    does. Nothing without such an entry, and where it names no family: others write a ``network``,
    too. Raises :class:`CheckpointError` for one that no network has, or another than this.
    """
    entry = beside.network or {}
    if "family" not in entry:
        return {}, beside
    fine = getattr(config, "fine", None)
    known = config.points if "points" in fields else ()
    rules = {**RULES, "family": _is_one_of(family), "release": _is_one_of(*releases)}
    if fine is None:
        nothing = (lambda value: False, "nothing of FINE, which has no keys")
        rules |= dict.fromkeys(FINE_CHOICES, nothing)
    found: dict[str, Any] = {}
    for name in ("family", *fields, *FINE_CHOICES):
        if name not in entry:
            continue
        fits, expected = rules[name]
        value = entry[name]
        if not fits(value):
            raise _contradiction(beside.origin, name, value, expected)
        found[name] = tuple(value) if isinstance(value, list) else value
    told = found.get("points", known)
    if (len(told), sum(told)) != (len(known), sum(known)) or points not in (None, told):
        expected = f"{shorten(points or known)} or others of that sum"
        raise _contradiction(beside.origin, "points", list(told), expected)
    if max(found.get("input_size", (0,))) > LARGEST:
        del found["input_size"]
    words = {name: found[name] for name in (*CHOICES, *FINE_CHOICES) if name in found}
    said = Said(**{**words, **beside.said.words})
    return found, dataclasses.replace(beside, said=said)


def sizes_in(known: Mapping[str, Any]) -> dict[str, Any]:
    """Of what :func:`recall` gives, the fields that follow from nothing else."""
    free = (*SIZES, "points", "release", "decoder_activation", "feedforward_activation")
    return {name: known[name] for name in free if name in known}


def inner_activation(known: Mapping[str, Any], activation: str) -> str | None:
    """Of the feed-forward, where the decoder has this ``activation``: the remembered one, unless a
    person said another of the decoder."""
    inner: str | None = known.get("feedforward_activation")
    return inner if known.get("decoder_activation") == activation else None


def _contradiction(origin: str, name: str, found: object, expected: str) -> CheckpointError:
    shown = shorten([repr(found)])
    return CheckpointError(
        f"{origin}: its entry 'network' has {name} = {shown}, expected {expected} beside these "
        "weights; train or fetch the file again"
    )

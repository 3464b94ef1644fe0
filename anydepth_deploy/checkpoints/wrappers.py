"""What wrappers of a network leave in its state dict: words before names, counters beside weights.

torch's own wrappers are known by the words that they put into names. Any other word before all
names is taken off only where what remains are the names of a known network.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.checkpoints.network import LOSS_ATTRIBUTES, MAX_KEY
from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.families.registry import is_known

__all__ = ["Unwrapped", "unwrap"]

DISTRIBUTED = "module"
"""The word that DataParallel, DistributedDataParallel and AveragedModel put before all names."""

TRANSPARENT = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Words that torch.compile, FullyShardedDataParallel and checkpointing of activations put before
the names of whatever they wrap, the network or a part of it: no part is called so."""

COUNTERS = ("total_ops", "total_params")
"""Buffers that profilers (thop) leave in every module."""

AVERAGES = "n_averaged"
"""Of torch.optim.swa_utils.AveragedModel: how many networks it averaged."""

MAX_TRIED = 20_000
"""Names among which a word of others is looked for; the published networks have up to 10 000."""
MAX_GROUPS = 8
MAX_WORDS = 4


@dataclass(frozen=True)
class Unwrapped:
    """``tensors`` by the names of the network itself; ``notes``: what was left out, in words."""

    tensors: dict[str, Any]
    notes: tuple[str, ...] = ()


def unwrap(path: Path, tensors: Mapping[str, Any]) -> Unwrapped:
    """The same tensors under the names that the network gives them.

    Raises :class:`CheckpointError` for names that are too long or come more than once, and where
    there are several networks.
    """
    if long := [key[:80] for key in tensors if len(key) > MAX_KEY]:
        raise CheckpointError(
            f"checkpoint {path} names {len(long)} weights with more than {MAX_KEY} characters; "
            f"expected the names of a detector: {shorten(long)}"
        )
    notes: list[str] = []
    found = _without_words(path, _without_counters(tensors, notes), notes)
    if len(found) <= MAX_TRIED and not is_known(_shapes(found)):
        found = _without_foreign(path, found, notes)
    return Unwrapped(found, tuple(notes))


def _name(key: str) -> str:
    """``key`` without the words of torch's own wrappers."""
    *words, last = key.split(".")
    words = [word for word in words if word not in TRANSPARENT]
    while words and words[0] == DISTRIBUTED:
        words = words[1:]
    return ".".join([*words, last])


def _words(key: str) -> list[str]:
    """The words that :func:`_name` takes off, each once."""
    words = key.split(".")[:-1]
    found = dict.fromkeys(word for word in words if word in TRANSPARENT)
    wrapped = [word for word in words if word not in TRANSPARENT][:1] == [DISTRIBUTED]
    return [DISTRIBUTED, *found] if wrapped else [*found]


def _without_counters(tensors: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    averaged = any(DISTRIBUTED in _words(key) for key in tensors)
    left: dict[str, list[str]] = {}
    for key, value in tensors.items():
        last = key.rpartition(".")[2]
        if getattr(value, "shape", None) not in ((), (1,)):
            continue
        if last in COUNTERS:
            left.setdefault("counters of a profiler", []).append(key)
        elif averaged and _name(key) == AVERAGES:
            left.setdefault("counters of averages", []).append(key)
    gone = {key for keys in left.values() for key in keys}
    if len(gone) == len(tensors):
        return dict(tensors)
    for what, keys in left.items():
        lasts = dict.fromkeys(key.rpartition(".")[2] for key in keys)
        notes.append(f"left out: {len(keys)} {what} ({shorten(lasts)})")
    return {key: value for key, value in tensors.items() if key not in gone}


def _without_words(path: Path, tensors: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The same without the words of torch's own wrappers."""
    times = Counter(map(_name, tensors))
    if again := [key for key in tensors if times[_name(key)] > 1]:
        raise CheckpointError(
            f"checkpoint {path} names weights more than once, but for the {_list(again)}; expected "
            f"each once, so save one of them: {shorten(again)}"
        )
    if any(_words(key) for key in tensors):
        notes.append(f"left out: the {_list(tensors)} of torch's wrappers before names of weights")
    return {_name(key): value for key, value in tensors.items()}


def _list(keys: Mapping[str, Any] | list[str]) -> str:
    """``prefix 'module.'``; ``prefixes 'module.', '_orig_mod.'``: those that ``keys`` have."""
    words = dict.fromkeys(f"'{word}.'" for key in keys for word in _words(key))
    return f"prefix{'es' if len(words) > 1 else ''} {shorten(words)}"


def _without_foreign(path: Path, tensors: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The same without a word of others before all names, where a known network remains."""
    groups: dict[str, list[str]] = {}
    for key in tensors:
        groups.setdefault(key.split(".", 1)[0], []).append(key)
    if len(groups) > MAX_GROUPS:
        return tensors
    prefixes = [
        prefix for keys in groups.values() if (prefix := _network_under(tensors, keys)) is not None
    ]
    if not prefixes:
        return tensors
    if len(prefixes) > 1:
        raise CheckpointError(
            f"checkpoint {path} holds {len(prefixes)} networks, whose names begin with "
            f"{shorten(prefixes)}; expected one: save the state dict of the one to deploy alone"
        )
    (prefix,) = prefixes
    others = [key for key in tensors if not key.startswith(prefix)]
    strange = [key for key in others if not key.lower().startswith(LOSS_ATTRIBUTES)]
    if strange:
        raise CheckpointError(
            f"checkpoint {path} holds a network whose names begin with {shorten([prefix])}, and "
            f"{len(strange)} tensors that are no part of it ({shorten(strange, 3)}); expected the "
            "network alone: save its state dict, torch.save(network.state_dict(), ...)"
        )
    shown = shorten([f"'{prefix}'"])
    notes.append(f"left out: the prefix {shown} before all names of weights, of an unknown wrapper")
    if others:
        notes.append(f"left out: {len(others)} tensors of losses ({shorten(others, 3)})")
    inner = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    return _without_words(path, _without_counters(_cut(inner, prefix), notes), notes)


def _network_under(tensors: Mapping[str, Any], keys: list[str]) -> str | None:
    """The shortest beginning of all ``keys`` behind which a known network's names stand."""
    words = [key.split(".")[:-1] for key in keys]
    # What the first and the last in order have in common, all have.
    pairs = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(min(words), max(words), strict=False)
    )
    common = [word for word, _ in pairs]
    for count in range(1, min(len(common), MAX_WORDS) + 1):
        prefix = ".".join(common[:count]) + "."
        inner = _cut({key: tensors[key] for key in keys}, prefix)
        if is_known(_shapes({_name(key): value for key, value in inner.items()})):
            return prefix
    return None


def _cut(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(getattr(value, "shape", ())) for key, value in tensors.items()}

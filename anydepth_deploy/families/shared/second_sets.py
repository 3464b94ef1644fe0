"""Second norm sets by name: what an any-depth network has more than the one that it starts from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["first_set_of", "is_second_set", "second_set_of", "with_second_sets"]

SHORTCUT = "downsample"
"""A chain of modules, whose last is the norm; ``downsample_skip`` is that norm's second set."""

SECOND = re.compile(r"(.*\.)?(norm\d?|bn\d?|lab|downsample)_skip(?:pable)?")


def is_second_set(path: str) -> bool:
    """Whether the module ``path`` is the second set of another."""
    return SECOND.fullmatch(path) is not None


def second_set_of(path: str) -> str:
    """The name of the second set of the norm or the affine layer ``path``, as networks have it:
    ``norm_skippable``, ``norm1_skippable``, ``bn_skip``, ``lab_skip``."""
    return path + ("_skippable" if path.rpartition(".")[2].startswith("norm") else "_skip")


def first_set_of(path: str, names: Iterable[str]) -> str:
    """The norm or affine layer whose second set ``path`` is, in a network with entries of these
    ``names``."""
    found = SECOND.fullmatch(path)
    assert found is not None, f"{path} is no second set"
    first = f"{found[1] or ''}{found[2]}"
    if found[2] == SHORTCUT:
        steps = re.compile(rf"{re.escape(first)}\.(\d+)\..*")
        numbers = [int(step[1]) for name in names if (step := steps.fullmatch(name))]
        first = f"{first}.{max(numbers, default=0)}"
    return first


def with_second_sets(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """``state`` and, for each of the ``wanted`` names of a second set that it lacks, a copy of what
    the first set has. Names that have none stay absent."""
    filled = dict(state)
    for name in wanted:
        path, _, entry = name.rpartition(".")
        if name in filled or not is_second_set(path):
            continue
        first = first_set_of(path, state)
        if f"{first}.{entry}" in state:
            filled[name] = state[f"{first}.{entry}"].clone()
    return filled

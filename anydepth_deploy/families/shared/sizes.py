"""Which of a family's sizes a state dict has: the part of recognising that families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from anydepth_deploy.errors import CheckpointError

__all__ = ["check_classes", "find_size"]

Config = TypeVar("Config")
Structure = dict[str, object]


def find_size(
    title: str,
    sizes: Mapping[str, Config],
    expected: Callable[[Config], Structure],
    found: Structure,
) -> Config:
    """The size whose ``expected`` structure was ``found``; ``title`` is "an AnyDepth-…".

    Raises :class:`CheckpointError` for a size that is not known.
    """
    for config in sizes.values():
        if expected(config) == found:
            return config
    known = ", ".join(f"{name} ({expected(config)})" for name, config in sizes.items())
    raise CheckpointError(f"{title} of an unknown size: found {found}; known sizes: {known}")


def check_classes(title: str, key: str, classes: int) -> None:
    """Raise :class:`CheckpointError` unless the head ``key`` has at least one class."""
    if classes < 1:
        raise CheckpointError(
            f"{title} without classes ({key!r} has no elements): expected at least one class; "
            "fetch the file again from its source"
        )

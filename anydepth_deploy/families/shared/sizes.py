"""Which of a family's sizes a state dict has: the part of recognising that families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Refusal", "check_classes", "find_size"]

Config = TypeVar("Config")
Structure = dict[str, object]


@dataclass(frozen=True)
class Refusal:
    """What a family answers to a network that is its own but cannot be deployed.

    ``reason``: one line for the person with the file: what was found, what was expected.
    """

    reason: str


def find_size(
    title: str,
    sizes: Mapping[str, Config],
    expected: Callable[[Config], Structure],
    found: Structure,
) -> Config | Refusal:
    """The size whose ``expected`` structure was ``found``; ``title`` is "an AnyDepth-…".

    A refusal for a size that is not known.
    """
    for config in sizes.values():
        if expected(config) == found:
            return config
    known = ", ".join(f"{name} ({expected(config)})" for name, config in sizes.items())
    return Refusal(f"{title} of an unknown size: found {found}; known sizes: {known}")


def check_classes(title: str, key: str, classes: int) -> Refusal | None:
    """A refusal unless the head ``key`` has at least one class."""
    if classes >= 1:
        return None
    return Refusal(
        f"{title} without classes ({key!r} has no elements): expected at least one class; "
        "fetch the file again from its source"
    )

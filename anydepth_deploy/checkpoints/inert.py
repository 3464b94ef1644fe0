"""What is left of the objects in a checkpoint: names, stubs, and tensors yet to be read.

None of them can do anything: they hold what the file says about them and compare by identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from anydepth_deploy.errors import shorten

__all__ = [
    "NOT_PLAIN",
    "LazyTensor",
    "PlainCopies",
    "Reference",
    "StorageEntry",
    "Stub",
    "UnusableTensor",
    "kind_of",
]

NOT_PLAIN = object()
"""What :class:`PlainCopies` gives for a value that is not plain."""

MAX_PLAIN_DEPTH = 16
MAX_PLAIN_VALUES = 100_000


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a class or function in a file. Nothing was imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Stub:
    """What is left of an object of an unknown class: its state.

    ``state`` is what the object would have been given (its attributes, as a rule); ``entries``
    are items that a list or dictionary subclass would hold.
    """

    module: str
    name: str
    arguments: tuple[Any, ...] = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)
    entries: list[Any] = field(default_factory=list, repr=False)

    @property
    def attributes(self) -> Mapping[Any, Any]:
        """The state where it is a dictionary of attributes, otherwise nothing."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(slots=True, eq=False)
class StorageEntry:
    """A block of numbers in the archive: ``data/<key>``, ``nbytes`` long, not read yet."""

    key: str
    kind: str
    nbytes: int
    dtype: torch.dtype | None


@dataclass(slots=True, eq=False)
class LazyTensor:
    """A view of a storage; offset and strides count elements and lie within the storage."""

    storage: StorageEntry
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        assert self.storage.dtype is not None  # set before the first view is made
        return self.storage.dtype


@dataclass(slots=True, eq=False)
class UnusableTensor:
    """A tensor that is not plain dense numbers (sparse, quantised, complex, ...)."""

    why: str


def kind_of(value: object) -> str:
    """The name of what ``value`` was in the file, for messages."""
    if isinstance(value, LazyTensor | UnusableTensor):
        return "Tensor"
    if isinstance(value, Stub):
        return shorten([f"{value.module}.{value.name}"[:160]])
    return shorten([str(value)[:160]]) if isinstance(value, Reference) else type(value).__name__


class PlainCopies:
    """Copies of values made of nothing but numbers, texts, None, lists, tuples and dictionaries.

    One object makes a limited number of them: a pickle of a few bytes can nest lists, or name one
    list many times, so that walking through all takes for ever.
    """

    def __init__(self) -> None:
        self.left = MAX_PLAIN_VALUES

    def copy(self, value: object, depth: int = 0) -> Any:
        """A copy, or :data:`NOT_PLAIN` where there is something else in it, or too much."""
        size = len(value) if isinstance(value, dict | list | tuple) else 0
        self.left -= 1
        if self.left < size or depth > MAX_PLAIN_DEPTH:
            return NOT_PLAIN
        if value is None or type(value) in (str, int, float, bool):
            return value
        if isinstance(value, dict):
            keys, values = self._copies(value, depth), self._copies(value.values(), depth)
            if keys is None or values is None:
                return NOT_PLAIN
            return dict(zip(keys, values, strict=True))
        if isinstance(value, list | tuple):
            items = self._copies(value, depth)
            return NOT_PLAIN if items is None else items if type(value) is list else tuple(items)
        return NOT_PLAIN

    def _copies(self, values: Iterable[object], depth: int) -> list[Any] | None:
        copies = []
        for value in values:
            copies.append(self.copy(value, depth + 1))
            if copies[-1] is NOT_PLAIN:
                return None
        return copies

"""How different pictures are from one another, as far as their pixels tell."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLAT", "Looks", "Variety"]

FLAT = 8
"""Levels of 255 that the values of each channel of a picture of one colour differ by, at most: what
a camera sees behind its cap, or JPEG makes of one colour, is none the richer for its noise."""


@dataclass(frozen=True)
class Variety:
    """Of ``count`` pictures: ``flat`` ones are of one colour, ``repeated`` ones equal one before
    them, ``telling`` ones are neither."""

    count: int = 0
    flat: int = 0
    repeated: int = 0
    telling: int = 0


@dataclass
class Looks:
    """Looks at pictures one after the other and keeps a hash of each."""

    _seen: set[bytes] = field(default_factory=set)
    _count: int = 0
    _flat: int = 0
    _telling: int = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """A picture as decoded, uint8 [H, W, 3]; equal are those of equal pixels, whatever files
        they were in."""
        pixels = np.ascontiguousarray(image)
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
        digest.update(pixels.data)
        flat = bool(np.ptp(pixels.reshape(-1, pixels.shape[-1]), axis=0).max() <= FLAT)
        fresh = digest.digest() not in self._seen
        self._seen.add(digest.digest())
        self._count += 1
        self._flat += flat
        self._telling += fresh and not flat

    @property
    def variety(self) -> Variety:
        return Variety(self._count, self._flat, self._count - len(self._seen), self._telling)

"""Memory for what goes into engines, between them and out: planned once, then reused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anydepth_deploy.runtimes.tensorrt.cuda import Context, DeviceMemory, PinnedMemory

__all__ = ["ALIGNMENT", "Buffers", "Interval", "MemoryUse", "Tensor", "aligned", "pack"]

ALIGNMENT = 256
"""Bytes: what TensorRT asks of its scratch memory, and what CUDA's allocations have."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that opened engines hold.

    ``engines``: weights, as TensorRT tells them, or the files' sizes where it does not (before
    version 11). ``activations``: the scratch memory that all share. ``io``: tensors that go in, out
    and between. ``pinned``: memory of the host that copies go through.
    """

    engines: int
    activations: int
    io: int
    pinned: int

    @property
    def device(self) -> int:
        """On the device, without what TensorRT and CUDA hold for themselves."""
        return self.engines + self.activations + self.io


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine. ``shape``: -1 where it is not fixed. ``host``: whether the
    engine wants it in memory of the host."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    host: bool = False

    def size(self, shape: Sequence[int]) -> int:
        """Bytes at ``shape``."""
        return math.prod(shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Interval:
    """``size`` bytes that are in use from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int


def pack(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """An offset for each interval, and the bytes they need together.

    Intervals that share a step do not overlap in memory. The largest are placed first, each at the
    lowest offset where it fits.
    """
    offsets = [0] * len(intervals)
    placed: list[int] = []
    for index in sorted(range(len(intervals)), key=lambda item: -intervals[item].size):
        mine = intervals[index]
        taken = sorted(
            (offsets[other], offsets[other] + aligned(intervals[other].size))
            for other in placed
            if intervals[other].first <= mine.last and mine.first <= intervals[other].last
        )
        offset = 0
        for start, end in taken:
            if offset + aligned(mine.size) <= start:
                break
            offset = max(offset, end)
        offsets[index] = offset
        placed.append(index)
    total = max(
        (start + aligned(item.size) for start, item in zip(offsets, intervals, strict=True)),
        default=0,
    )
    return offsets, total


def aligned(size: int) -> int:
    """``size`` rounded up; at least one unit, so that everything has an address of its own."""
    return max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)


class Buffers:
    """One block each for activations, tensors and staging, which grow and never shrink.

    ``generation`` rises whenever an address has changed: what was recorded with addresses of an
    earlier one must not be launched. Nothing may be under way when :meth:`reserve` is called.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.generation = 0
        self.scratch: DeviceMemory | None = None
        self.tensors: DeviceMemory | None = None
        self.staging: PinnedMemory | None = None

    def reserve(self, scratch: int = 0, tensors: int = 0, staging: int = 0) -> None:
        """Have at least so many bytes of each. Raises :class:`DeviceError`."""
        if scratch > _size(self.scratch):
            _close(self.scratch)
            self.scratch, self.generation = None, self.generation + 1
            self.scratch = DeviceMemory(self._context, scratch)
        if tensors > _size(self.tensors):
            _close(self.tensors)
            self.tensors, self.generation = None, self.generation + 1
            self.tensors = DeviceMemory(self._context, tensors)
        if staging > _size(self.staging):
            _close(self.staging)
            self.staging, self.generation = None, self.generation + 1
            self.staging = PinnedMemory(self._context, staging)

    def needs(self, scratch: int, tensors: int) -> int:
        """Bytes of device memory that :meth:`reserve` would add."""
        return max(0, scratch - _size(self.scratch)) + max(0, tensors - _size(self.tensors))

    def memory(self, engines: int) -> MemoryUse:
        return MemoryUse(engines, _size(self.scratch), _size(self.tensors), _size(self.staging))

    def close(self) -> None:
        for memory in (self.scratch, self.tensors, self.staging):
            _close(memory)
        self.scratch = self.tensors = self.staging = None
        self.generation += 1


def _size(memory: DeviceMemory | PinnedMemory | None) -> int:
    return 0 if memory is None else memory.size


def _close(memory: DeviceMemory | PinnedMemory | None) -> None:
    if memory is not None:
        memory.close()

"""A stand-in for torch.cuda on a machine without a GPU: the device is the CPU by another name.

What is recorded as a graph is a list of operators with the very tensors they read and wrote; a
launch runs them again, into the same memory. A recording computes nothing, so the tensors it leaves
behind hold poison until the first launch. What waits for the device, or leaves it, breaks a
recording, as does one on the default stream without warm-up.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anydepth_deploy.torch_runtime import device as torch_device

FORBIDDEN = ("kept_scores", "aten.item", "nonzero")
"""Operators that leave the device."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(name in str(func) for name in FORBIDDEN):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        found = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, found))
        return found


class Graph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.launches = 0

    def replay(self) -> None:
        self.launches += 1
        for func, args, kwargs, found in self.steps:
            for new, old in zip(
                tree_leaves(func(*args, **kwargs)), tree_leaves(found), strict=True
            ):
                if isinstance(new, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class Stream:
    def __init__(self, fake: FakeTorchCuda) -> None:
        self.fake = fake

    def wait_stream(self, other: Stream) -> None:
        self.fake.calls["wait_stream"] += 1


class FakeTorchCuda:
    """``calls`` counts by name; ``graphs`` are all recorded; ``peak`` is the most memory that is
    said to have been used."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.graphs: list[Graph] = []
        self.peak = 0
        self.recording, self.warmed = False, 0
        self.default = Stream(self)
        self.current = self.default
        patch.setattr(torch_device, "CUDA", "cpu")
        patch.setattr(torch_device, "_pinned_like", self._pinned_like)
        patch.setattr(Tensor, "pin_memory", lambda tensor: self._pin(tensor))
        for name, value in {
            "is_available": lambda: True,
            "Stream": lambda: Stream(self),
            "current_stream": lambda: self.current,
            "stream": self._stream,
            "CUDAGraph": Graph,
            "graph": self._graph,
            "synchronize": self._synchronize,
            "reset_peak_memory_stats": lambda: self.calls.update(["reset"]),
            "max_memory_allocated": lambda: self.peak,
            "max_memory_reserved": lambda: 2 * self.peak,
            "empty_cache": lambda: self.calls.update(["empty_cache"]),
        }.items():
            patch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def _stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before
        self.warmed += 1

    @contextlib.contextmanager
    def _graph(self, graph: Graph) -> Iterator[None]:
        assert self.current is self.default  # the real one makes a stream of its own
        assert self.warmed == len(self.graphs) + 1, "no warm-up"
        self.recording = True
        try:
            with _Recorder() as recorder:
                yield
        finally:
            self.recording = False
        graph.steps = recorder.steps
        _poison(recorder.steps)
        self.graphs.append(graph)

    def _synchronize(self) -> None:
        if self.recording:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.calls["synchronize"] += 1

    def _pin(self, tensor: Tensor) -> Tensor:
        self.calls["pin"] += 1
        return tensor.clone()

    def _pinned_like(self, tensor: Tensor) -> Tensor:
        self.calls["pinned"] += 1
        return torch.empty_like(tensor)


def _poison(steps: list[tuple[Any, Any, Any, Any]]) -> None:
    """Fill what a recording made, and only that: not the weights that it reads."""
    made: dict[int, Tensor] = {}
    outside: set[int] = set()
    for _, args, kwargs, found in steps:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor) and _memory(given) not in made:
                outside.add(_memory(given))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and _memory(tensor) not in outside:
                made[_memory(tensor)] = tensor
    for tensor in made.values():
        tensor.fill_(float("nan") if tensor.is_floating_point() else 0)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTorchCuda]:
    """The stand-in; what runners switch for the whole process is switched back."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [item.allow_tf32 for item in switches]
    yield FakeTorchCuda(monkeypatch)
    for item, value in zip(switches, before, strict=True):
        item.allow_tf32 = value

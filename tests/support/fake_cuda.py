"""A stand-in for CUDA on a machine without a GPU, stricter than the real one.

- Device memory has addresses of its own: only copies and "kernels" reach it, numpy does not.
- A stream does nothing before somebody waits for it.
- Copies through memory that is not pinned are errors (the real one would wait, silently).
- New and freed memory is filled with poison; work that reaches into freed memory fails.
- What is recorded is not done, and what must not happen during a recording breaks it.
"""

# ruff: noqa: N802, N815 - the names are CUDA's

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

POISON = 0xCD
FIRST_ADDRESS = 1 << 60  # no address that a process of this machine can have
GAP = 1 << 20

Work = Callable[[], None]
Bytes = NDArray[np.uint8]


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class MemcpyKind(enum.IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class IllegalAddressError(Exception):
    """Work has reached memory that is not there."""


class _Stream:
    def __init__(self) -> None:
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None
        self.broken = False
        self.thread: int | None = None


class FakeCuda:
    """One GPU; ``runtime`` and ``driver`` are what ``cuda.bindings`` has under these names.

    ``calls`` counts all calls by name; ``live`` lists what has not been given back.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        capability: tuple[int, int] = (8, 7),
        memory: int = 1 << 30,
        integrated: bool = False,
        context: int = 0,
    ) -> None:
        self.count, self.capability = devices, capability
        self.total, self.integrated = memory, integrated
        self.calls: Counter[str] = Counter()
        self.deny_capture = False
        self.before: Callable[[str], None] | None = None
        self.memory: dict[int, Bytes] = {}
        self.pinned: dict[int, Any] = {}
        self._freed_pinned: list[Any] = []
        self.streams: dict[int, _Stream] = {}
        self.events: dict[int, int] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.sticky: Status | None = None
        self.last = Status.cudaSuccess
        self._handles = itertools.count(17)
        self._addresses = FIRST_ADDRESS
        self._ticks = itertools.count()
        self._contexts = threading.local()
        self.primary = 4711
        self.first_context = context
        self._main_thread = threading.get_ident()
        self.runtime = self._module("cuda.bindings.runtime", "cuda")
        self.runtime.cudaMemcpyKind = MemcpyKind  # type: ignore[attr-defined]
        self.runtime.cudaStreamCaptureMode = CaptureMode  # type: ignore[attr-defined]
        self.runtime.cudaError_t = Status  # type: ignore[attr-defined]
        self.driver = self._module("cuda.bindings.driver", "cu")

    def install(self, patch: pytest.MonkeyPatch) -> FakeCuda:
        import sys

        patch.setitem(sys.modules, "cuda.bindings.runtime", self.runtime)
        patch.setitem(sys.modules, "cuda.bindings.driver", self.driver)
        return self

    @property
    def allocations(self) -> int:
        return self.calls["cudaMalloc"] + self.calls["cudaHostAlloc"]

    @property
    def used(self) -> int:
        return sum(block.size for block in self.memory.values())

    @property
    def live(self) -> dict[str, int]:
        kinds = {
            "memory": self.memory,
            "pinned": self.pinned,
            "streams": self.streams,
            "events": self.events,
            "graphs": self.graphs,
            "executables": self.executables,
        }
        return {name: len(found) for name, found in kinds.items() if found}

    # What stands for kernels

    def bytes_at(self, address: int, size: int) -> Bytes:
        """Device memory, for work that a stream does. Raises :class:`IllegalAddressError`."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.size:
                return block[address - start : address - start + size]
        raise IllegalAddressError(f"{size} bytes at {address:#x}")

    def host_bytes_at(self, address: int, size: int) -> Bytes:
        """Pinned memory. Raises :class:`IllegalAddressError`."""
        for start, block in self.pinned.items():
            if start <= address and address + size <= start + len(block):
                return np.asarray(block)[address - start : address - start + size]
        raise IllegalAddressError(f"{size} bytes of the host at {address:#x}")

    def launch(self, stream: int, work: Work) -> None:
        """Put work into a stream, or into what it records."""
        found = self.streams[stream]
        (found.queue if found.recording is None else found.recording).append(work)

    def recording(self, stream: int) -> bool:
        return self.streams[stream].recording is not None

    def break_recording(self, stream: int) -> None:
        self.streams[stream].broken = True

    # Both interfaces

    def _module(self, name: str, prefix: str) -> types.ModuleType:
        module = types.ModuleType(name)
        for attribute in dir(self):
            word = attribute.removeprefix("_call_")
            if attribute.startswith(f"_call_{prefix}") and word[len(prefix)].isupper():
                setattr(module, word, self._guarded(word, getattr(self, attribute)))
        return module

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            if self.before is not None:
                self.before(name)
            if name in ("cudaGetLastError", "cudaGetErrorString"):
                return function(*arguments)
            if not self.count and name != "cudaGetDeviceCount":
                return (Status.cudaErrorInsufficientDriver, None)
            if self.sticky is not None and not name.startswith("cuCtx"):
                return (self.sticky, None)
            found = function(*arguments)
            result = found if isinstance(found, tuple) else (found,)
            if result[0]:
                self.last = result[0]
            return result

        return call

    def _capturing_here(self) -> bool:
        """Break the recordings of this thread: something has happened that they cannot hold."""
        mine = [
            stream
            for stream in self.streams.values()
            if stream.recording is not None and stream.thread == threading.get_ident()
        ]
        for stream in mine:
            stream.broken = True
        return bool(mine)

    def _stack(self) -> list[int]:
        if not hasattr(self._contexts, "stack"):
            main = threading.get_ident() == self._main_thread
            self._contexts.stack = [self.first_context] if main and self.first_context else []
        return list(self._contexts.stack)

    def _need_context(self) -> int:
        """The runtime makes the primary context current where none is."""
        if not self._stack():
            self._contexts.stack = [self.primary]
        return int(self._contexts.stack[-1])

    # Driver

    def _call_cuCtxGetCurrent(self) -> Any:
        stack = self._stack()
        return Status.cudaSuccess, stack[-1] if stack else 0

    def _call_cuCtxPushCurrent(self, context: int) -> Any:
        self._contexts.stack = [*self._stack(), context]
        return Status.cudaSuccess

    def _call_cuCtxPopCurrent(self) -> Any:
        *rest, last = self._stack()
        self._contexts.stack = rest
        return Status.cudaSuccess, last

    # Runtime: device

    def _call_cudaGetLastError(self) -> Any:
        last, self.last = self.last, Status.cudaSuccess
        return (last,)

    def _call_cudaGetErrorString(self, status: Any) -> Any:
        return Status.cudaSuccess, Status(status).name.encode()

    def _call_cudaGetDeviceCount(self) -> Any:
        if not self.count:
            return Status.cudaErrorInsufficientDriver, None
        return Status.cudaSuccess, self.count

    def _call_cudaGetDevice(self) -> Any:
        return Status.cudaSuccess, 0

    def _call_cudaSetDevice(self, _: int) -> Any:
        raise AssertionError("which device is current is the application's business")

    def _call_cudaDeviceReset(self) -> Any:
        raise AssertionError("a reset takes the application's memory away")

    def _call_cudaDeviceSynchronize(self) -> Any:
        raise AssertionError("a session waits for its own stream only")

    def _call_cudaGetDeviceProperties(self, _: int) -> Any:
        major, minor = self.capability
        return Status.cudaSuccess, types.SimpleNamespace(
            name=b"Imaginary GPU\0\0",
            major=major,
            minor=minor,
            integrated=int(self.integrated),
            totalGlobalMem=self.total,
        )

    def _call_cudaMemGetInfo(self) -> Any:
        self._need_context()
        return Status.cudaSuccess, self.total - self.used, self.total

    # Runtime: memory

    def _call_cudaMalloc(self, size: int) -> Any:
        self._need_context()
        if self._capturing_here():
            return Status.cudaErrorStreamCaptureUnsupported, None
        if size > self.total - self.used:
            return Status.cudaErrorMemoryAllocation, None
        address = self._addresses
        self._addresses += -(-size // GAP) * GAP + GAP
        self.memory[address] = np.full(size, POISON, np.uint8)
        return Status.cudaSuccess, address

    def _call_cudaFree(self, address: int) -> Any:
        context = self._need_context()
        if address == 0:
            return Status.cudaSuccess
        if self.first_context and context != self.first_context:
            return Status.cudaErrorInvalidValue
        if self._capturing_here() or address not in self.memory:
            return Status.cudaErrorInvalidValue
        self.memory.pop(address)[:] = POISON
        return Status.cudaSuccess

    def _call_cudaHostAlloc(self, size: int, flags: int) -> Any:
        assert flags == 0
        self._need_context()
        if self._capturing_here():
            return Status.cudaErrorStreamCaptureUnsupported, None
        block = (ctypes.c_ubyte * size)()
        ctypes.memset(block, POISON, size)
        address = ctypes.addressof(block)
        self.pinned[address] = block
        return Status.cudaSuccess, address

    def _call_cudaFreeHost(self, address: int) -> Any:
        if address not in self.pinned:
            return Status.cudaErrorInvalidValue
        block = self.pinned.pop(address)
        ctypes.memset(block, POISON, len(block))
        self._freed_pinned.append(block)  # a late reader finds poison, not a crash
        return Status.cudaSuccess

    def _call_cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: MemcpyKind, stream: int
    ) -> Any:
        to_device = kind == MemcpyKind.cudaMemcpyHostToDevice
        device, host = (target, source) if to_device else (source, target)
        try:
            self.host_bytes_at(host, size)
            self.bytes_at(device, size)
        except IllegalAddressError:
            return Status.cudaErrorInvalidValue

        def work() -> None:
            here, there = self.host_bytes_at(host, size), self.bytes_at(device, size)
            if to_device:
                there[:] = here
            else:
                here[:] = there

        return self._put(stream, work)

    # Runtime: streams and events

    def _put(self, stream: int, work: Work) -> Status:
        context = self._need_context()
        if self.first_context and context != self.first_context:
            return Status.cudaErrorInvalidResourceHandle
        if stream not in self.streams:
            return Status.cudaErrorInvalidResourceHandle
        self.launch(stream, work)
        return Status.cudaSuccess

    def _call_cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == 1, "the default stream waits for others"
        self._need_context()
        handle = next(self._handles)
        self.streams[handle] = _Stream()
        return Status.cudaSuccess, handle

    def _call_cudaStreamDestroy(self, stream: int) -> Any:
        if self.streams.pop(stream, None) is None:
            return Status.cudaErrorInvalidResourceHandle
        return Status.cudaSuccess

    def _call_cudaStreamSynchronize(self, stream: int) -> Any:
        found = self.streams[stream]
        if found.recording is not None:
            found.broken = True
            return Status.cudaErrorStreamCaptureUnsupported
        while found.queue:
            try:
                found.queue.pop(0)()
            except IllegalAddressError:
                found.queue.clear()
                self.sticky = Status.cudaErrorIllegalAddress
                return self.sticky
        return Status.cudaSuccess

    def _call_cudaEventCreate(self) -> Any:
        handle = next(self._handles)
        self.events[handle] = -1
        return Status.cudaSuccess, handle

    def _call_cudaEventDestroy(self, event: int) -> Any:
        known = self.events.pop(event, None) is not None
        return Status.cudaSuccess if known else Status.cudaErrorInvalidResourceHandle

    def _call_cudaEventRecord(self, event: int, stream: int) -> Any:
        self.events[event] = -1
        return self._put(stream, lambda: self.events.update({event: next(self._ticks)}))

    def _call_cudaEventSynchronize(self, event: int) -> Any:
        for stream in self.streams.values():
            while stream.queue and self.events[event] < 0:
                stream.queue.pop(0)()
        return Status.cudaSuccess

    def _call_cudaEventElapsedTime(self, first: int, second: int) -> Any:
        if min(self.events[first], self.events[second]) < 0:
            return Status.cudaErrorInvalidResourceHandle, None
        return Status.cudaSuccess, float(self.events[second] - self.events[first])

    # Runtime: graphs

    def _call_cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> Any:
        assert mode == CaptureMode.cudaStreamCaptureModeThreadLocal
        found = self.streams[stream]
        assert not found.queue, "there is work that would not be recorded"
        found.recording, found.broken, found.thread = [], False, threading.get_ident()
        return Status.cudaSuccess

    def _call_cudaStreamEndCapture(self, stream: int) -> Any:
        found = self.streams[stream]
        recording, found.recording = found.recording, None
        if recording is None or found.broken or self.deny_capture:
            return Status.cudaErrorStreamCaptureInvalidated, None
        handle = next(self._handles)
        self.graphs[handle] = recording
        return Status.cudaSuccess, handle

    def _call_cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        assert flags == 0
        handle = next(self._handles)
        self.executables[handle] = list(self.graphs[graph])
        return Status.cudaSuccess, handle

    def _call_cudaGraphDestroy(self, graph: int) -> Any:
        del self.graphs[graph]
        return Status.cudaSuccess

    def _call_cudaGraphExecDestroy(self, executable: int) -> Any:
        known = self.executables.pop(executable, None) is not None
        return Status.cudaSuccess if known else Status.cudaErrorInvalidResourceHandle

    def _call_cudaGraphLaunch(self, executable: int, stream: int) -> Any:
        work = self.executables.get(executable)
        if work is None:
            return Status.cudaErrorInvalidResourceHandle
        for item in work:
            status = self._put(stream, item)
            if status:
                return status
        return Status.cudaSuccess

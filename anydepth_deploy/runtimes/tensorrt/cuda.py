"""CUDA as far as engines need it: a device, memory, one stream, and graphs of what it did.

A thin layer over ``cuda-bindings``, imported when :func:`load_cuda` is called. Every status that is
not success becomes a :class:`DeviceError`. Tested with a stand-in for CUDA; unverified on hardware.

Contexts and threads: what is created here lives in the context that is current when
:meth:`Cuda.adopt` is called, an application's own (pycuda, PyTorch) where there is one, or else the
primary context of the runtime's current device. No device is ever chosen or reset here. Work from
any thread has to happen within :meth:`Context.current`, which makes that context current for the
time being and leaves the thread as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import DeviceError, MissingExtraError

__all__ = [
    "CaptureError",
    "Context",
    "Cuda",
    "Device",
    "DeviceMemory",
    "Event",
    "Graph",
    "PinnedMemory",
    "Stream",
    "load_cuda",
    "megabytes",
]

BINDINGS = (("cuda.bindings.runtime", "cuda.bindings.driver"), ("cuda.cudart", "cuda.cuda"))
"""Modules of the runtime and the driver interface: today's, and before cuda-python 12.6."""

OUT_OF_MEMORY = 2
NON_BLOCKING = 1
"""Of streams: does not wait for the legacy default stream of the application."""


class CaptureError(DeviceError):
    """Work that cannot be captured as a graph."""


@dataclass(frozen=True)
class Device:
    """A GPU. ``capability``: ``sm87``. ``integrated``: shares its memory with the host."""

    index: int
    name: str
    capability: str
    integrated: bool
    total: int


class Cuda:
    """The modules of the runtime and the driver interface."""

    def __init__(self, runtime: Any, driver: Any) -> None:
        self.runtime, self._driver = runtime, driver

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the runtime; what it gives beside the status, None, one value or a tuple.

        Raises :class:`DeviceError`.
        """
        try:
            status, *values = getattr(self.runtime, function)(*arguments)
        except RuntimeError as error:  # a library that is not there
            raise DeviceError(f"CUDA cannot be used: {_line(error)}") from None
        if int(status) != 0:
            raise self._error(function, status)
        return values[0] if len(values) == 1 else tuple(values) or None

    def devices(self) -> int:
        """How many GPUs there are; 0 also where there is no driver."""
        try:
            return int(self.call("cudaGetDeviceCount"))
        except DeviceError:
            return 0

    def device(self) -> Device:
        """The GPU that is current in this thread. Raises :class:`DeviceError` where there is none.

        Makes no context.
        """
        if not self.devices():
            raise DeviceError(
                "no NVIDIA GPU can be used here (no device, or no driver new enough): run engines "
                "where nvidia-smi lists one"
            )
        index = int(self.call("cudaGetDevice"))
        found = self.call("cudaGetDeviceProperties", index)
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Device(
            index,
            name.rstrip("\0"),
            f"sm{found.major}{found.minor}",
            bool(found.integrated),
            int(found.totalGlobalMem),
        )

    def free_memory(self, device: Device) -> int:
        """Bytes that can still be allocated; makes a context where none is current.

        An integrated GPU takes what the host's page cache gives back, which CUDA does not count.
        """
        free, _ = self.call("cudaMemGetInfo")
        return max(int(free), _available()) if device.integrated else int(free)

    def adopt(self) -> Context:
        """The context that is current in this thread, made if there is none."""
        self.call("cudaFree", 0)
        return Context(self, self._current())

    def _current(self) -> Any:
        status, handle = self._driver.cuCtxGetCurrent()
        if int(status) != 0:
            raise DeviceError(f"CUDA has no context for this thread: {status!s}")
        return handle

    def _error(self, function: str, status: Any) -> DeviceError:
        # The runtime keeps the error for whoever asks next, which might be TensorRT.
        self.runtime.cudaGetLastError()
        try:
            _, text = self.runtime.cudaGetErrorString(status)
            reason = text.decode() if isinstance(text, bytes) else str(text)
        except Exception:  # only the wording of the message is at stake
            reason = str(status)
        return DeviceError(f"{function} failed on the GPU: {reason} (error {int(status)})")


class Context:
    """Where memory, streams and engines live."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self.cuda, self._handle = cuda, handle

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this context current in the calling thread, and the former one again after."""
        driver = self.cuda._driver
        if int(self.cuda._current()) == int(self._handle):
            yield
            return
        (status,) = driver.cuCtxPushCurrent(self._handle)
        if int(status) != 0:
            raise DeviceError(f"the CUDA context of this engine cannot be used: {status!s}")
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()

    def __call__(self, function: str, *arguments: Any) -> Any:
        return self.cuda.call(function, *arguments)


class _Owner:
    """Something of CUDA's that is given back once: by ``close``, or when nobody refers to it."""

    def __init__(self, context: Context, function: str, handle: Any) -> None:
        self.context, self.handle = context, handle
        self._release = weakref.finalize(self, _give_back, context, function, handle)
        # At the interpreter's end CUDA may be gone already, and gives back everything itself.
        self._release.atexit = False

    def close(self) -> None:
        self._release()

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DeviceMemory(_Owner):
    """Bytes on the device, aligned to 256. Raises :class:`DeviceError` when there are too few."""

    def __init__(self, context: Context, size: int) -> None:
        self.size = size
        super().__init__(context, "cudaFree", _allocate(context, size, "cudaMalloc", size))
        self.address = int(self.handle)


class PinnedMemory(_Owner):
    """Bytes of the host that the device copies from and to while the host goes on."""

    def __init__(self, context: Context, size: int) -> None:
        self.size = size
        handle = _allocate(context, size, "cudaHostAlloc", size, 0)
        super().__init__(context, "cudaFreeHost", handle)
        self.address = int(self.handle)

    def array(
        self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.generic]:
        """A view of this memory; of no use once it is closed."""
        count = int(np.prod(shape, dtype=np.int64))
        size = count * dtype.itemsize
        if offset < 0 or offset + size > self.size:
            raise IndexError(f"{size} bytes at {offset} of {self.size}")
        raw = (ctypes.c_ubyte * size).from_address(self.address + offset)
        found: NDArray[np.generic] = np.asarray(raw).view(dtype).reshape(shape)
        return found


class Stream(_Owner):
    """A queue of work; what is put into it happens in order, some time before ``synchronise``."""

    def __init__(self, context: Context) -> None:
        super().__init__(
            context, "cudaStreamDestroy", context("cudaStreamCreateWithFlags", NON_BLOCKING)
        )

    @property
    def number(self) -> int:
        """The handle as TensorRT wants it."""
        return int(self.handle)

    def upload(self, address: int, host: int, size: int) -> None:
        """Copy ``size`` bytes from pinned memory at ``host`` to the device."""
        self._copy(address, host, size, "cudaMemcpyHostToDevice")

    def download(self, host: int, address: int, size: int) -> None:
        """Copy ``size`` bytes from the device to pinned memory at ``host``."""
        self._copy(host, address, size, "cudaMemcpyDeviceToHost")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        if size:
            kinds = self.context.cuda.runtime.cudaMemcpyKind
            self.context("cudaMemcpyAsync", target, source, size, getattr(kinds, kind), self.handle)

    def synchronise(self) -> None:
        """Wait until everything put in so far is done. Raises what failed in between."""
        self.context("cudaStreamSynchronize", self.handle)

    @contextlib.contextmanager
    def capture(self) -> Iterator[Capture]:
        """Record what is put in, instead of doing it; ``graph`` of the result has it afterwards.

        Raises :class:`CaptureError` when something in it cannot be recorded; the stream is then as
        it was before.
        """
        # Of this thread: others may go on allocating memory meanwhile.
        mode = self.context.cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        capture = Capture()
        try:
            self.context("cudaStreamBeginCapture", self.handle, mode)
        except DeviceError as error:
            raise CaptureError(str(error)) from None
        try:
            yield capture
        except BaseException:
            with contextlib.suppress(DeviceError):
                self._end()
            raise
        try:
            graph = self._end()
        except DeviceError as error:
            raise CaptureError(str(error)) from None
        try:
            capture.graph = Graph(self.context, graph)
        except DeviceError as error:
            raise CaptureError(str(error)) from None
        finally:
            self.context("cudaGraphDestroy", graph)

    def _end(self) -> Any:
        return self.context("cudaStreamEndCapture", self.handle)


class Capture:
    """What was recorded, once the capture has ended."""

    graph: Graph


class Graph(_Owner):
    """Recorded work, ready to be launched as one."""

    def __init__(self, context: Context, graph: Any) -> None:
        super().__init__(context, "cudaGraphExecDestroy", context("cudaGraphInstantiate", graph, 0))

    def launch(self, stream: Stream) -> None:
        self.context("cudaGraphLaunch", self.handle, stream.handle)


class Event(_Owner):
    """A mark in a stream, with the time at which the device passed it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "cudaEventDestroy", context("cudaEventCreate"))

    def record(self, stream: Stream) -> None:
        self.context("cudaEventRecord", self.handle, stream.handle)

    def synchronise(self) -> None:
        self.context("cudaEventSynchronize", self.handle)

    def seconds_since(self, earlier: Event) -> float:
        """Seconds on the device between two marks that it has passed."""
        return float(self.context("cudaEventElapsedTime", earlier.handle, self.handle)) / 1e3


def load_cuda() -> Cuda:
    """CUDA's Python bindings. Raises :class:`MissingExtraError`."""
    for runtime, driver in BINDINGS:
        with contextlib.suppress(ImportError):
            return Cuda(importlib.import_module(runtime), importlib.import_module(driver))
    raise MissingExtraError("cuda-bindings", "tensorrt", "running an engine")


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _allocate(context: Context, size: int, function: str, *arguments: Any) -> Any:
    try:
        return context(function, *arguments)
    except DeviceError as error:
        if f"(error {OUT_OF_MEMORY})" not in str(error):
            raise
    free, _ = context("cudaMemGetInfo")
    where = "the GPU" if function == "cudaMalloc" else "pinned memory of the host"
    raise DeviceError(
        f"not enough memory: needed {megabytes(size)} of {where}, free on the GPU "
        f"{megabytes(int(free))}: close other programs, or build engines for smaller batches"
    )


def _give_back(context: Context, function: str, handle: Any) -> None:
    # A device that has failed takes nothing back, and what has failed has been said already.
    with contextlib.suppress(DeviceError), context.current():
        context(function, handle)


def _available() -> int:
    """Bytes the host can give to programs, page cache included; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else 0


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

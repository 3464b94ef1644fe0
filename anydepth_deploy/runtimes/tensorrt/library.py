"""TensorRT and TensorRT-RTX as runtimes, behind one set of calls, from version 8.6 to 11.

They share their Python interface; what differs between versions is how much scratch memory an
engine needs, how a context is given it, and which types there are.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anydepth_deploy.errors import BundleError, DeviceError
from anydepth_deploy.runtimes.tensorrt.memory import Tensor
from anydepth_deploy.runtimes.tensorrt.module import MODULES

__all__ = ["ExecutionContext", "Library", "LoadedEngine", "OutputPlace", "load_library"]

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""Types of tensors that arrays have too; ``trt.nptype`` itself fails with newer numpy in 8.6."""

KEPT_MESSAGES = 20


class Library:
    """TensorRT or TensorRT-RTX, imported; ``name`` is for messages."""

    def __init__(self, module: Any, name: str) -> None:
        self._module, self.name = module, name
        self.version = str(module.__version__)
        self._log = _logger(module)
        self._runtime: Any = None
        self._lock = threading.Lock()

    def open(self, path: Path) -> LoadedEngine:
        """Load an engine's file; only where there is a GPU, without one TensorRT may crash.

        Raises :class:`BundleError`.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from None
        with self._lock:
            if self._runtime is None:
                plugins = getattr(self._module, "init_libnvinfer_plugins", None)
                if plugins is not None:
                    plugins(self._log, "")
                self._runtime = self._module.Runtime(self._log)
            self._log.messages.clear()
            try:
                engine = self._runtime.deserialize_cuda_engine(content)
            except Exception as error:  # the bindings' own, without a root
                self._log.messages.append(str(error))
                engine = None
            if engine is None:
                raise BundleError(
                    f"{self.name} {self.version} cannot load {path}: {self.reason()}. Build it "
                    "again on this device"
                )
        return LoadedEngine(self, self._module, engine, path, len(content))

    def reason(self) -> str:
        """The first error that TensorRT has reported since it last loaded an engine."""
        messages = list(self._log.messages)
        lines = messages[0].strip().splitlines() if messages else []
        return lines[0] if lines else "it gives no reason"

    def forget(self) -> None:
        """Drop what has been reported."""
        self._log.messages.clear()

    def allocator(self, place: OutputPlace) -> Any:
        """``place`` as TensorRT asks for it."""
        return _allocator_class(self._module)(place)


class OutputPlace:
    """Memory for an output whose shape depends on what is computed.

    ``capacity``: bytes at ``address``, the most it can ever need. ``shape``: of the newest run;
    None before one, and where the memory did not suffice.
    """

    def __init__(self, address: int, capacity: int) -> None:
        self.address, self.capacity = address, capacity
        self.shape: tuple[int, ...] | None = None

    def allocate(self, size: int) -> int:
        return self.address if size <= self.capacity else 0


class LoadedEngine:
    """A deserialised engine: its tensors, what memory it needs, and contexts to run it in."""

    def __init__(
        self, library: Library, module: Any, engine: Any, path: Path, file_size: int
    ) -> None:
        self.library, self.path = library, path
        self._module, self._engine = module, engine
        modes: dict[bool, list[Tensor]] = {True: [], False: []}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
            modes[is_input].append(self._tensor(name))
        self.inputs, self.outputs = modes[True], modes[False]
        self.scratch = self._scratch()
        self.weights = self._weights() or file_size

    def batches(self) -> tuple[int, int] | None:
        """The smallest and the largest batch of its first profile; None without a free batch."""
        for tensor in self.inputs:
            if tensor.shape[:1] == (-1,):
                smallest, _, largest = self._engine.get_tensor_profile_shape(tensor.name, 0)
                return int(smallest[0]), int(largest[0])
        return None

    def context(self) -> ExecutionContext:
        """A context that uses scratch memory it is given. Raises :class:`DeviceError`."""
        self.library.forget()
        strategies = getattr(self._module, "ExecutionContextAllocationStrategy", None)
        if strategies is None:
            context = self._engine.create_execution_context_without_device_memory()
        else:
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        if context is None:
            raise DeviceError(
                f"{self.path.name}: {self.library.name} made no execution context: "
                f"{self.library.reason()}"
            )
        return ExecutionContext(self, context)

    def close(self) -> None:
        """Give the weights back, once its contexts are gone."""
        self._engine = None

    def _tensor(self, name: str) -> Tensor:
        engine = self._engine
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise BundleError(
                f"{self.path} has a tensor {name} of type {kind}, expected one that numpy has: "
                "build it from a graph of this project"
            )
        on_host = engine.get_tensor_location(name) == self._module.TensorLocation.HOST
        shape = tuple(int(side) for side in engine.get_tensor_shape(name))
        return Tensor(name, np.dtype(DTYPES[kind]), shape, on_host)

    def _scratch(self) -> int:
        """Bytes of activations; 32 bits held them in the versions before the second name."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        return int(self._engine.device_memory_size if size is None else size)

    def _weights(self) -> int:
        stat = getattr(self._engine, "get_engine_stat", None)
        return 0 if stat is None else max(0, int(stat(self._module.EngineStat.TOTAL_WEIGHTS_SIZE)))


class ExecutionContext:
    """The state of one execution: shapes, addresses, scratch memory."""

    def __init__(self, engine: LoadedEngine, context: Any) -> None:
        self._engine, self._context = engine, context
        self._scratch: tuple[int, int] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, Any] = {}

    def use_scratch(self, address: int, size: int) -> None:
        if self._scratch == (address, size):
            return
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(address, size)
        else:
            self._context.device_memory = address
        self._scratch = (address, size)

    def shape_of(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Set the shapes of all inputs; those of the outputs, with -1 where only a run can tell.

        Raises :class:`BundleError` for shapes that the engine does not take.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._set_shape(name, shape)
                self._shapes[name] = shape
        missing: Sequence[str]
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise self._refused(f"cannot tell its outputs' shapes ({error})") from None
        if missing:
            raise self._refused(f"cannot tell its outputs' shapes without {', '.join(missing)}")
        return {
            tensor.name: tuple(int(side) for side in self._context.get_tensor_shape(tensor.name))
            for tensor in self._engine.outputs
        }

    def most(self, name: str) -> int:
        """Bytes that an output of unknown shape can take at the shapes that are set."""
        return int(self._context.get_max_output_size(name))

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies."""
        if not self._context.set_tensor_address(name, address):
            raise self._refused(f"takes no memory for {name}")

    def place(self, name: str, place: OutputPlace) -> None:
        """Where an output of unknown shape goes."""
        # TensorRT does not keep it alive.
        self._places[name] = self._engine.library.allocator(place)
        if not self._context.set_output_allocator(name, self._places[name]):
            raise self._refused(f"takes no allocator for {name}")

    def execute(self, stream: int) -> None:
        """Put its work into a stream. Raises :class:`DeviceError`."""
        library = self._engine.library
        library.forget()
        if not self._context.execute_async_v3(stream):
            raise DeviceError(f"{self._engine.path.name} failed to run: {library.reason()}")

    def capturable(self, stream: int) -> bool:
        """Whether TensorRT knows that it cannot be captured; versions that do not say may try."""
        check = getattr(self._context, "is_stream_capturable", None)
        return True if check is None else bool(check(stream))

    def close(self) -> None:
        self._context = None
        self._places.clear()

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        library = self._engine.library
        library.forget()
        if not self._context.set_input_shape(name, shape):
            raise self._refused(f"does not take {name} of shape {list(shape)}")

    def _refused(self, what: str) -> BundleError:
        return BundleError(
            f"{self._engine.path.name} {what}: {self._engine.library.reason()}. Build it again"
        )


@functools.cache
def load_library(runtime: str) -> Library:
    """The library of ``runtime``, ``tensorrt`` or ``tensorrt-rtx``, imported.

    Raises :class:`MissingExtraError`, and :class:`DeviceError` where it is there and broken.
    """
    found = MODULES[runtime]
    return Library(found.load("running this engine", DeviceError), found.title)


def _logger(module: Any) -> Any:
    """A logger that keeps the newest errors. TensorRT takes the first one of a process for all, so
    an application that has its own hears what we do not."""
    serious = (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR)

    class Errors(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=KEPT_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            if severity in serious:
                self.messages.append(message)

    return Errors()


@functools.cache
def _allocator_class(module: Any) -> Any:
    class Allocator(module.IOutputAllocator):  # type: ignore[misc]
        def __init__(self, place: OutputPlace) -> None:
            module.IOutputAllocator.__init__(self)
            self._place = place

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self._place.allocate(size)

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self._place.allocate(size)

        def notify_shape(self, name: str, shape: Sequence[int]) -> None:
            self._place.shape = tuple(int(side) for side in shape)

    return Allocator

"""A stand-in for TensorRT's Python module: "engines" are ONNX graphs that ONNX Runtime executes,
at the time at which a stream of :mod:`fake_cuda` does its work.

It has the names of the real bindings and no others: those of 8.6, 10.3, 11.4 or TensorRT-RTX 1.7.
"""

from __future__ import annotations

import enum
import json
import sys
import types
import weakref
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fake_cuda import POISON, FakeCuda

MAGIC = b"imaginary engine\n"
SCRATCH = 5000
"""Bytes of activations of an engine that does not say otherwise."""

VERSIONS = {
    "tensorrt": ("8.6.1", "10.3.0", "11.4.0.106"),
    "tensorrt_rtx": ("1.7.1.116",),
}

TYPES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(bool)": "BOOL",
}
NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "BOOL": np.bool_,
}


def write_engine(
    path: Path,
    model: onnx.ModelProto | Path,
    version: str,
    batch: tuple[int, int, int] = (1, 1, 4),
    **extra: Any,
) -> Path:
    """Write an engine of ``model``.

    ``extra``: ``scratch``, bytes of activations; ``unknown``, names of outputs whose shape only a
    run tells; ``largest``, bytes that those take at most; ``host``, names of inputs that are wanted
    in memory of the host; ``uncapturable``.
    """
    proto = onnx.load(str(model)) if isinstance(model, Path) else model
    head = {"version": version, "batch": batch, **extra}
    path.write_bytes(MAGIC + json.dumps(head).encode() + b"\n" + bytes(proto.SerializeToString()))
    return path


class FakeTensorRt:
    """``module`` is what ``import tensorrt`` (or ``tensorrt_rtx``) gives.

    ``engines`` and ``contexts`` count those alive; ``executed`` lists the engines that a stream has
    really run, by the names in their heads.
    """

    def __init__(self, cuda: FakeCuda, version: str = "10.3.0", name: str = "tensorrt") -> None:
        self.cuda, self.version, self.name = cuda, version, name
        self.major = int(version.split(".")[0])
        self.new = name == "tensorrt_rtx" or self.major >= 10
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.executed: list[str] = []
        self.deserialised = 0
        self.module = self._make()

    def install(self, patch: pytest.MonkeyPatch) -> FakeTensorRt:
        patch.setitem(sys.modules, self.name, self.module)
        return self

    def _make(self) -> types.ModuleType:
        fake = self
        names = ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"]
        data_type = _choices("DataType", [*names, "INT64"] if self.new else names)
        mode = _choices("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
        location = _choices("TensorLocation", ["DEVICE", "HOST"])
        strategy = _choices(
            "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
        )

        class ILogger:
            Severity = _choices(
                "Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
            )

            def __init__(self) -> None:
                self.started = True

            def log(self, severity: Any, message: str) -> None:
                raise NotImplementedError

        class IOutputAllocator:
            def __init__(self) -> None:
                self.started = True

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                assert fake.cuda.count, "without a GPU the real one crashes the interpreter"
                assert logger.started
                self.logger = logger

            def deserialize_cuda_engine(self, content: bytes) -> Any:
                fake.deserialised += 1
                if not content.startswith(MAGIC):
                    self.logger.log(
                        ILogger.Severity.ERROR, "magicTagRead: the magic tag does not match"
                    )
                    return None
                head, graph = content[len(MAGIC) :].split(b"\n", 1)
                settings = json.loads(head)
                if settings["version"] != fake.version:
                    self.logger.log(ILogger.Severity.ERROR, "the version tag does not match")
                    return None
                return _Engine(fake, module, self.logger, settings, graph)

        module = types.ModuleType(self.name)
        module.__spec__ = ModuleSpec(self.name, None)  # others look whether it is installed
        for key, value in {
            "__version__": self.version,
            "DataType": data_type,
            "TensorIOMode": mode,
            "TensorLocation": location,
            "ILogger": ILogger,
            "IOutputAllocator": IOutputAllocator,
            "Runtime": Runtime,
        }.items():
            setattr(module, key, value)
        if self.new:
            module.ExecutionContextAllocationStrategy = strategy  # type: ignore[attr-defined]
        if self.has_stats:
            module.EngineStat = _choices(  # type: ignore[attr-defined]
                "EngineStat", ["TOTAL_WEIGHTS_SIZE", "STRIPPED_WEIGHTS_SIZE"]
            )
        if self.name == "tensorrt":
            module.init_libnvinfer_plugins = lambda logger, scope: True  # type: ignore[attr-defined]
        return module

    @property
    def has_stats(self) -> bool:
        return self.name == "tensorrt_rtx" or self.major >= 11


def _choices(name: str, values: Sequence[str]) -> Any:
    make: Any = enum.Enum
    return make(name, values)


class _Engine:
    """ICudaEngine."""

    def __init__(
        self, fake: FakeTensorRt, module: Any, logger: Any, head: dict[str, Any], graph: bytes
    ) -> None:
        self._fake, self._module, self._logger, self._head = fake, module, logger, head
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 1
        self._session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = {value.name: value for value in self._session.get_outputs()}
        self._shapes: dict[Any, dict[str, tuple[int, ...]]] = {}
        self._size = int(head.get("scratch", SCRATCH))
        fake.engines.add(self)
        old = not fake.new
        if old or not fake.has_stats:
            self.device_memory_size = self._size
            self.create_execution_context_without_device_memory = lambda: _Context(self)
        if fake.new:
            # Where both exist, 32 bits no longer hold what the newer one says.
            self.device_memory_size_v2 = self._size
            if hasattr(self, "device_memory_size"):
                self.device_memory_size = 1
            self.create_execution_context = self._create
        if fake.has_stats:
            self.get_engine_stat = lambda stat: len(graph)

    def _create(self, strategy: Any) -> _Context:
        assert strategy.name == "USER_MANAGED"
        return _Context(self)

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return str([*self._inputs, *self._outputs][index])

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(self._module.TensorIOMode, "INPUT" if name in self._inputs else "OUTPUT")

    def get_tensor_location(self, name: str) -> Any:
        place = "HOST" if name in self._head.get("host", []) else "DEVICE"
        return getattr(self._module.TensorLocation, place)

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._module.DataType, self._type(name))

    def _type(self, name: str) -> str:
        kind: str = TYPES[{**self._inputs, **self._outputs}[name].type]
        return "INT32" if kind == "INT64" and not self._fake.new else kind

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = {**self._inputs, **self._outputs}[name].shape
        return tuple(side if isinstance(side, int) else -1 for side in shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        shape = self.get_tensor_shape(name)
        return [(batch, *shape[1:]) if shape else () for batch in self._head["batch"]]

    def _numpy(self, name: str) -> Any:
        return np.dtype(NUMPY[self._type(name)])

    def _made(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs, by trying."""
        key = tuple(sorted(shapes.items()))
        if key not in self._shapes:
            zeros = {name: np.zeros(shape, self._wide(name)) for name, shape in shapes.items()}
            found = self._session.run(None, zeros)
            self._shapes[key] = {
                name: array.shape for name, array in zip(self._outputs, found, strict=True)
            }
        return self._shapes[key]

    def _wide(self, name: str) -> Any:
        return np.dtype(NUMPY[TYPES[self._inputs[name].type]])

    def _execute(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        memory: tuple[int, int],
        context: _Context,
    ) -> None:
        """What the device does: everything but memory that it was given is left alone."""
        cuda = self._fake.cuda
        self._fake.executed.append(self._head.get("name", ""))
        feeds = {}
        for name, shape in shapes.items():
            dtype = self._numpy(name)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            read = cuda.host_bytes_at if name in self._head.get("host", []) else cuda.bytes_at
            feeds[name] = read(addresses[name], size).view(dtype).reshape(shape).copy()
            feeds[name] = feeds[name].astype(self._wide(name))
        cuda.bytes_at(memory[0], self._size)[:] = POISON
        spans = []
        for name, array in zip(self._outputs, self._session.run(None, feeds), strict=True):
            found = np.ascontiguousarray(array.astype(self._numpy(name)))
            if name in context._allocators:
                allocator = context._allocators[name]()
                assert allocator is not None, "nobody has kept the allocator"
                target = _reallocate(self, allocator, name, found.nbytes)
                if not target:
                    continue
                allocator.notify_shape(name, found.shape)
            else:
                target = addresses[name]
            cuda.bytes_at(target, found.nbytes)[:] = found.reshape(-1).view(np.uint8)
            spans.append((target, target + found.nbytes))
        taken = [(addresses[n], addresses[n] + feeds[n].nbytes) for n in feeds if n in addresses]
        taken.append((memory[0], memory[0] + self._size))
        for index, (start, end) in enumerate(spans):
            for low, high in [*spans[:index], *taken]:
                assert end <= low or high <= start, "an output lies over something else"


class _Context:
    """IExecutionContext."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._memory: tuple[int, int] | None = None
        self._state = 0
        self._run_at: dict[str, tuple[int, ...]] | None = None
        engine._fake.contexts.add(self)
        if engine._fake.new:
            self.set_device_memory = self._set_memory
        if engine._fake.name == "tensorrt_rtx":
            self.is_stream_capturable = lambda stream: not engine._head.get("uncapturable")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "device_memory":  # 8.6 has it as a property
            assert not self._engine._fake.new
            self._set_memory(value, self._engine._size)
        else:
            object.__setattr__(self, name, value)

    def _set_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        if size < self._engine._size:
            self._complain("the memory for activations is too small")
            return
        self._change("_memory", (address, size))

    def _change(self, field: str, value: Any) -> None:
        if getattr(self, field) != value:
            setattr(self, field, value)
            self._state += 1

    def _complain(self, message: str) -> bool:
        self._engine._logger.log(self._engine._logger.Severity.ERROR, message)
        return False

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        fits = len(shape) == len(low) and all(
            smallest <= side <= largest
            for smallest, side, largest in zip(low, shape, high, strict=True)
        )
        dynamic = -1 in self._engine.get_tensor_shape(name)[1:]
        if not fits and not dynamic:
            return self._complain(f"{name}: the shape {list(shape)} is outside the profile")
        self._change("_shapes", {**self._shapes, name: tuple(shape)})
        return True

    def infer_shapes(self) -> list[str]:
        host = [name for name in self._engine._head.get("host", []) if name not in self._addresses]
        return [name for name in self._engine._inputs if name not in self._shapes] + host

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine._inputs:
            return self._shapes[name]
        shape = self._engine._made(self._shapes)[name]
        return (-1, *shape[1:]) if name in self._engine._head.get("unknown", []) else shape

    def get_max_output_size(self, name: str) -> int:
        return int(self._engine._head["largest"])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in {**self._engine._inputs, **self._engine._outputs}
        self._change("_addresses", {**self._addresses, name: memory})
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        assert output_allocator.started
        self._allocators[name] = weakref.ref(output_allocator)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, fake = self._engine, self._engine._fake
        if self._memory is None:
            return self._complain("there is no memory for activations")
        names = [*engine._inputs, *engine._outputs]
        unset = [n for n in names if n not in self._addresses and n not in self._allocators]
        if unset:
            return self._complain(f"no address for {unset}")
        recording = fake.cuda.recording(stream_handle)
        if recording and (engine._head.get("uncapturable") or self._run_at != self._shapes):
            # The first run with new shapes does things that no graph can hold.
            fake.cuda.break_recording(stream_handle)
            return self._complain("this cannot be captured")
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        memory, state, alive = self._memory, self._state, weakref.ref(self)

        def work() -> None:
            context = alive()
            assert context is not None, "a context must outlive what it has put into a stream"
            if recording:
                assert context._state == state, "changed since it was recorded"
            engine._execute(shapes, addresses, memory, context)

        if self._allocators:
            # Shapes are known when the call returns, so the real one waits in it.
            assert not recording
            fake.cuda.runtime.cudaStreamSynchronize(stream_handle)
            work()
        else:
            fake.cuda.launch(stream_handle, work)
        self._run_at = shapes
        return True


def _reallocate(engine: _Engine, allocator: Any, name: str, size: int) -> int:
    if engine._fake.new:
        return int(allocator.reallocate_output_async(name, 0, size, 256, 0))
    return int(allocator.reallocate_output(name, 0, size, 256))

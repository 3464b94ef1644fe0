"""Where engines run, and the engines themselves, each loaded when it is first needed."""

from __future__ import annotations

import threading
from pathlib import Path

from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import EngineSpec
from anydepth_deploy.runtimes.tensorrt.checks import check_engine, check_memory
from anydepth_deploy.runtimes.tensorrt.cuda import Stream, load_cuda
from anydepth_deploy.runtimes.tensorrt.library import ExecutionContext, Library, LoadedEngine
from anydepth_deploy.runtimes.tensorrt.memory import Buffers

__all__ = ["KEPT_GRAPHS", "Piece", "Workplace"]

KEPT_GRAPHS = 32
"""CUDA graphs that one engine or all chains of a network keep, over depths, outputs and batch
sizes; runs beyond them go without, since each graph holds execution contexts of its own."""


class Workplace:
    """A device with one stream and one set of buffers, for engines that run one at a time.

    ``lock`` is held during a run, and by whoever changes the buffers. Raises
    :class:`MissingExtraError` without CUDA's bindings and :class:`DeviceError` without a GPU.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        cuda = load_cuda()
        # Asked first: TensorRT may take the interpreter down where there is no GPU.
        self.device = cuda.device()
        self.context = cuda.adopt()
        self.lock = threading.Lock()
        self.graphs_left = KEPT_GRAPHS
        self.closed = False
        with self.context.current():
            self.stream = Stream(self.context)
        self.buffers = Buffers(self.context)

    def load(self, path: Path, spec: EngineSpec | None) -> LoadedEngine:
        """Check an engine's file and load it.

        Raises :class:`BundleError` for one that is not there or not for this device and library,
        :class:`DeviceError` when memory is short.
        """
        library = self.library
        if not path.is_file():
            raise BundleError(f"{path} does not exist: expected an engine of {library.name}")
        if spec is not None:
            check_engine(path, spec, self.device, library.name, library.version)
        with self.context.current():
            check_memory(path.stat().st_size, str(path), self.context, self.device)
            return library.open(path)

    def reserve(self, what: str, scratch: int, tensors: int, staging: int) -> None:
        """Have blocks of at least these bytes. Raises :class:`DeviceError` when memory is short."""
        needed = self.buffers.needs(scratch, tensors)
        check_memory(needed, what, self.context, self.device)
        self.buffers.reserve(scratch, tensors, staging)

    def close(self) -> None:
        self.closed = True
        self.buffers.close()
        self.stream.close()


class Piece:
    """An engine's file, the engine once it is loaded, and the context of its ordinary runs."""

    def __init__(self, workplace: Workplace, path: Path, spec: EngineSpec | None) -> None:
        self._workplace, self.path, self._spec = workplace, path, spec
        self._engine: LoadedEngine | None = None
        self._context: ExecutionContext | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> LoadedEngine:
        """Raises what :meth:`Workplace.load` raises."""
        with self._lock:
            if self._engine is None:
                self._engine = self._workplace.load(self.path, self._spec)
            return self._engine

    @property
    def context(self) -> ExecutionContext:
        """To be used while the workplace is locked."""
        if self._context is None:
            self._context = self.engine.context()
        return self._context

    @property
    def weights(self) -> int:
        """Bytes; 0 while it is not loaded."""
        engine = self._engine
        return 0 if engine is None else engine.weights

    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch."""
        if self._spec is not None:
            return self._spec.batch.smallest, self._spec.batch.largest
        return self.engine.batches() or (1, 1)

    def close(self) -> None:
        with self._lock:
            if self._context is not None:
                self._context.close()
            if self._engine is not None:
                self._engine.close()
            self._context = self._engine = None

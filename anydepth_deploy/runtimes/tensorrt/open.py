"""Opening engines of TensorRT and of TensorRT-RTX: a single one, or all pieces of a network.

Those of TensorRT, version 8.6 to 11, were built on the device they run on, those of TensorRT-RTX
ahead of time for its compute capability: their kernels are compiled when an engine is opened and
first run, so both take longer.

Unverified on hardware: tested with stand-ins for CUDA and both libraries, which have the names of
the bindings of TensorRT 8.6, 10.3 and 11.4.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import UsageError
from anydepth_deploy.manifest import EngineSpec, StagePiece
from anydepth_deploy.runtimes.chain import Chain, Stepped, check_piece
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.tensorrt.cuda import load_cuda
from anydepth_deploy.runtimes.tensorrt.library import load_library
from anydepth_deploy.runtimes.tensorrt.memory import MemoryUse
from anydepth_deploy.runtimes.tensorrt.pieces import Piece, Workplace
from anydepth_deploy.runtimes.tensorrt.run import DeviceEngine

__all__ = ["RTX", "TENSORRT", "DeviceStages", "Opener", "SingleEngine"]

NOT_WANTED = "CUDA graphs are not wanted"


class SingleEngine(DeviceEngine):
    """The engine of one depth, or of all depths; it owns its device memory until it is closed."""

    def __init__(
        self, runtime: str, path: Path, options: EngineOptions, *, cuda_graphs: bool = True
    ) -> None:
        """See :meth:`Opener.open_engine`."""
        workplace = Workplace(load_library(runtime))
        self._only = Piece(workplace, path, _spec(options))
        try:
            engine = self._only.engine
            spec = StagePiece(
                order=0,
                total=1,
                stage="network",
                variant="full",
                reads={tensor.name: tensor.name for tensor in engine.inputs},
                writes={tensor.name: tensor.name for tensor in engine.outputs},
            )
            gated = "depth" in spec.reads
            # The device asks the host which branches to run.
            why_not = "its depth is an input" if gated else None
            super().__init__(
                path.name,
                workplace,
                [self._only],
                Stepped(Chain([(path.name, spec)]), [0]),
                list(spec.writes.values()),
                why_not if cuda_graphs else NOT_WANTED,
            )
        except BaseException:
            _close(workplace, [], [self._only])
            raise

    def close(self) -> None:
        """Give back everything; running it again is an error."""
        _close(self._workplace, [self], [self._only])


class DeviceStages:
    """The pieces of a network on one device and one stream; what depths share is there once.

    A piece is loaded when a depth first needs it. ``at`` and the engines it gives may be called
    from several threads; runs take turns.
    """

    def __init__(
        self,
        runtime: str,
        pieces: Sequence[tuple[Path, StagePiece, EngineOptions]],
        *,
        cuda_graphs: bool = True,
    ) -> None:
        """See :meth:`Opener.open_stages`."""
        self._chain = Chain([(path.name, spec) for path, spec, _ in pieces])
        self._workplace = Workplace(load_library(runtime))
        self._pieces = [Piece(self._workplace, path, _spec(options)) for path, _, options in pieces]
        self._why_not = None if cuda_graphs else NOT_WANTED
        self._engines: dict[Depth, DeviceEngine] = {}
        self._lock = threading.Lock()

    def at(self, depth: Depth) -> DeviceEngine:
        """The chain of ``depth``, its engines loaded and its memory reserved.

        Raises :class:`BundleError` for a chain that does not hold the depth, for a piece that does
        not fit its description, this device or this TensorRT, and :class:`DeviceError` when memory
        is short, :class:`UsageError` once it is closed.
        """
        with self._lock:
            if self._workplace.closed:
                raise UsageError("these pieces are closed: open the bundle again")
            if depth not in self._engines:
                stepped = Stepped(self._chain, self._chain.at(depth))
                for place in stepped.running:
                    engine = self._pieces[place].engine
                    names = [
                        [item.name for item in port] for port in (engine.inputs, engine.outputs)
                    ]
                    check_piece(self._chain.names[place], self._chain.specs[place], *names)
                self._engines[depth] = DeviceEngine(
                    f"the chain at depth {depth}",
                    self._workplace,
                    self._pieces,
                    stepped,
                    self._chain.ends,
                    self._why_not,
                )
            return self._engines[depth]

    @property
    def captured(self) -> tuple[int, ...]:
        """Batch sizes that every depth opened so far launches as CUDA graphs."""
        sizes = [set(engine.captured) for engine in self._engines.values()]
        return tuple(sorted(set.intersection(*sizes))) if sizes else ()

    @property
    def memory(self) -> MemoryUse:
        """What is held for all depths together."""
        return self._workplace.buffers.memory(sum(piece.weights for piece in self._pieces))

    def close(self) -> None:
        """Give back everything; running any depth again is an error."""
        with self._lock:
            _close(self._workplace, list(self._engines.values()), self._pieces)
            self._engines.clear()


@dataclass(frozen=True)
class Opener:
    """Opens what was built for ``runtime``, ``tensorrt`` or ``tensorrt-rtx``."""

    runtime: str

    def open_engine(
        self, path: Path, options: EngineOptions, *, cuda_graphs: bool = True
    ) -> SingleEngine:
        """Open an engine and reserve its memory, for the largest batch that it takes.

        Only open engines that you trust: TensorRT checks them no better than a program.

        Raises :class:`MissingExtraError` without TensorRT or CUDA's bindings, :class:`DeviceError`
        without a GPU or enough of its memory, :class:`BundleError` for a damaged file and for an
        engine that was built for another device or with another version of TensorRT (of
        TensorRT-RTX: another minor version).
        """
        return SingleEngine(self.runtime, path, options, cuda_graphs=cuda_graphs)

    def open_stages(
        self,
        pieces: Sequence[tuple[Path, StagePiece, EngineOptions]],
        *,
        cuda_graphs: bool = True,
    ) -> DeviceStages:
        """The pieces of a network, each opened when a depth first needs it.

        Raises :class:`BundleError` for pieces that are not the whole of a chain; what
        :meth:`open_engine` raises for a file is raised when the piece is opened.
        """
        return DeviceStages(self.runtime, pieces, cuda_graphs=cuda_graphs)

    def device_capability(self) -> str:
        """The compute capability of the GPU here (``sm87``).

        Raises :class:`MissingExtraError` and :class:`DeviceError`.
        """
        load_library(self.runtime)
        return load_cuda().device().capability


TENSORRT, RTX = Opener("tensorrt"), Opener("tensorrt-rtx")


def _spec(options: EngineOptions) -> EngineSpec | None:
    return None if options.artifact is None else options.artifact.engine


def _close(workplace: Workplace, engines: Sequence[DeviceEngine], pieces: Sequence[Piece]) -> None:
    """In the order of use: graphs hold contexts, contexts engines and buffers."""
    with workplace.lock, workplace.context.current():
        for engine in engines:
            engine.drop_graphs()
        for piece in pieces:
            piece.close()
        workplace.close()

"""Checkpoints in torch as fast as torch runs them: eager, compiled, or as CUDA graphs.

For measuring. :class:`anydepth_deploy.torch_runtime.session.TorchSession` says what is right, and
:func:`check_runner` whether what is fast is right, too. CUDA is **unverified** on hardware.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn, Protocol, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import CheckFailedError, DeviceError, InputError, UsageError
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.runtimes.use import not_portable
from anydepth_deploy.torch_runtime.compile import compile_function
from anydepth_deploy.torch_runtime.device import CudaGraph, Device, open_device
from anydepth_deploy.torch_runtime.network import (
    DTYPES,
    Function,
    Network,
    Precision,
    model_for,
    network_at,
)

__all__ = ["LIMITS", "MODES", "Mode", "TorchRunner", "check_runner", "open_torch_runner"]

Mode = Literal["eager", "compile", "cudagraph"]

MODES: tuple[Mode, ...] = ("eager", "compile", "cudagraph")

LIMITS = {"fp32": (1e-3, 1e-3), "fp16": (0.1, 0.01), "bf16": (0.25, 0.03)}
"""By precision: how far scores may be from eager FP32's, in any picture and in the median one.
Rounding turns some choice between near-equal queries in few pictures: the trained tiny networks
come to 0.054 in one of 120 and to a median of 0.002 in FP16, to 0.14 and 0.013 in BF16. A wrong
network shows in most pictures: that of the next rung by medians from 0.02 to 0.17."""

ENOUGH = 8
"""Pictures that have a median worth looking at."""

DETECTIONS = ("labels", "boxes", "scores")

Ready = Callable[[Function, Sequence[Tensor]], Function]
"""From a function and tensors like those it is for to what is run in its place."""


@usual_state()
def open_torch_runner(
    model: AnyDepthModel,
    *,
    mode: Mode,
    device: Literal["cpu", "cuda"],
    precision: Precision,
    threads: int | None,
    transfers: bool,
    backend: str = "inductor",
) -> TorchRunner:
    """A runner of ``model``, which is not changed.

    ``threads``: of this process from now on, None for torch's own choice. ``transfers``: whether
    prepared inputs are in the host's memory and results come back to it, or stay on the device.
    ``backend``: of torch.compile.

    Raises :class:`UsageError` for a mode or precision that is not there, fewer than one thread and
    CUDA graphs on a CPU, :class:`DeviceError` without a GPU.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mode '{mode}' of torch: expected {', '.join(MODES)}")
    if precision not in DTYPES:
        raise UsageError(f"unknown precision '{precision}': torch has {', '.join(DTYPES)}")
    if threads is not None and threads < 1:
        raise UsageError(
            f"threads is {threads}: expected at least 1, or none given for torch's own choice"
        )
    if device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device '{device}' of torch: expected cpu or cuda")
    if mode == "cudagraph" and device != "cuda":
        raise UsageError(
            "torch-cudagraph needs an NVIDIA GPU: use --device cuda, or --runtime torch or "
            "torch-compile (modes eager and compile in Python)"
        )
    opened = open_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchRunner(model, mode, opened, precision, transfers=transfers, backend=backend)


class TorchRunner:
    """Runs a network at any depth; use :func:`open_torch_runner`.

    Each depth is compiled or captured for every shape of images, when :meth:`warm` or a run first
    needs it. May be called from several threads; CUDA graphs take turns, because they share memory.
    """

    def __init__(
        self,
        model: AnyDepthModel,
        mode: Mode,
        device: Device,
        precision: Precision,
        *,
        transfers: bool,
        backend: str = "inductor",
    ) -> None:
        self.table = model.table
        self.mode, self.precision, self.transfers = mode, precision, transfers
        self._device, self._backend = device, backend
        self._model: AnyDepthModel | None = model_for(model, device.name, precision)
        self._programs: dict[tuple[Depth, tuple[int, ...]], _Program] = {}
        self._lock = threading.Lock()
        self._turn: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if mode == "cudagraph":
            self._turn = threading.RLock()

    @property
    def captured(self) -> bool | None:
        """Whether what has run so far is launched as CUDA graphs; None in other modes."""
        return bool(self._programs) if self.mode == "cudagraph" else None

    def run(self, images: NDArray[np.float32], depth: Depth | str | int = "super") -> Detections:
        """Detections of float32 [N, 3, H, W] in 0..1 at ``depth``, in the host's memory.

        Raises :class:`InputError`, :class:`DepthError`, and what compiling and recording raise.
        """
        found: dict[str, Any] = self._to_host(images, depth, raw=False)
        return Detections(found["labels"], found["boxes"], found["scores"])

    def run_raw(
        self, images: NDArray[np.float32], depth: Depth | str | int = "super"
    ) -> dict[str, NDArray[np.generic]]:
        """The heads' raw outputs by name; floating point ones are float32. Raises as :meth:`run`
        does."""
        return self._to_host(images, depth, raw=True)

    @usual_state()
    def prepare(self, images: NDArray[np.float32]) -> object:
        """What :meth:`run_prepared` takes: ``images`` (float32 [N, 3, H, W]) on the device in the
        precision of the run; with ``transfers`` in memory of the host that it can copy from.

        Raises :class:`InputError`.
        """
        staged = self._device.stage(_tensor(images))
        if self.transfers:
            return staged
        prepared = self._device.put(staged, DTYPES[self.precision])
        self._device.wait()
        return prepared

    @usual_state()
    def run_prepared(
        self, prepared: object, depth: Depth | str | int, *, raw: bool = False
    ) -> dict[str, Tensor]:
        """Detections or raw outputs by name, of what :meth:`prepare` gave, once they are there: on
        the device, or with ``transfers`` in the host's memory, where suppression always ends.

        What stays on the device is overwritten by the next run of a CUDA graph. Raises as
        :meth:`run` does.
        """
        assert isinstance(prepared, Tensor), "prepare comes first"
        chosen, device = self.table.find(depth), self._device
        with self._turn, torch.inference_mode(), _memory_errors():
            images = prepared
            if self.transfers:
                images = device.put(prepared, DTYPES[self.precision])
            program = self._program(chosen, images)
            if program.network.suppresses and not raw:
                return _named(program.network.ending(*device.fetch(program.reads(images))))
            found = program.raw(images) if raw else program.detections(images)
            if self.transfers:
                return dict(zip(found, device.fetch(list(found.values())), strict=True))
            device.wait()
            return found

    def warm(
        self, depth: Depth | str | int, batch: int = 1, size: tuple[int, int] | None = None
    ) -> None:
        """Compile or capture ``depth`` and run it once on zeros.

        ``size``: height and width, by default those of the network's configuration.
        """
        height, width = size or self._opened.config.input_size
        self.run(np.zeros((batch, 3, height, width), np.float32), depth)

    def memory_bytes(self) -> dict[str, int]:
        """Largest numbers of bytes held on a GPU since the runner was opened, by kind (``peak
        allocated``, ``peak reserved``); of this process, and empty on a CPU."""
        return self._device.memory()

    def close(self) -> None:
        """Give back what is held; the runner cannot be used any more. Waits for the launch of a
        CUDA graph; other runs that have begun keep what they need until they end."""
        with self._turn:
            self._programs.clear()
            if self._model is not None:
                self._model = None
                self._device.release()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise not_portable("a runner of torch")

    @property
    def _opened(self) -> AnyDepthModel:
        if self._model is None:
            raise UsageError("this runner is closed: open the checkpoint again")
        return self._model

    @usual_state()
    def _to_host(
        self, images: NDArray[np.float32], depth: Depth | str | int, *, raw: bool
    ) -> dict[str, Any]:
        with self._turn:  # the memory of a CUDA graph is read until its outputs are copied
            found = self.run_prepared(self.prepare(images), depth, raw=raw)
            return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def _program(self, depth: Depth, images: Tensor) -> _Program:
        key = depth, tuple(images.shape)
        program = self._programs.get(key)
        if program is None:
            with self._lock:
                program = self._programs.get(key)
                if program is None:
                    height, width = images.shape[-2:]
                    name = self._device.name
                    network = network_at(self._opened, depth, (height, width), name, self.precision)
                    names = self._opened.raw_outputs
                    # A recording reads its inputs at every launch, and callers keep theirs.
                    own = images.clone() if self.mode == "cudagraph" else images
                    program = _Program(network, dict(names), self._ready, own)
                    self._programs[key] = program
        return program

    def _ready(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        """What is run in place of ``function`` on tensors like ``inputs``."""
        if self.mode == "compile":
            return compile_function(function, inputs, backend=self._backend)
        return CudaGraph(function, inputs) if self.mode == "cudagraph" else function


class _Program:
    """A network at one depth for one shape of images, made ready piece by piece: so what times raw
    outputs and what makes detections share their larger part."""

    def __init__(
        self, network: Network, raw_outputs: dict[str, str], ready: Ready, images: Tensor
    ) -> None:
        self.network = network
        self._raw_outputs, self._ready = raw_outputs, ready
        self._body = ready(network.body, [images])
        self._ending: Function | None = None
        self._lock = threading.Lock()

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """Raw outputs by their public names."""
        found = dict(zip(self.network.names, self._body(images), strict=True))
        return {name: found[tensor] for name, tensor in self._raw_outputs.items()}

    def reads(self, images: Tensor) -> list[Tensor]:
        """What the ending takes."""
        found = self._body(images)
        return [found[place] for place in self.network.reads]

    def detections(self, images: Tensor) -> dict[str, Tensor]:
        """Detections, made on the device."""
        inputs = self.reads(images)
        if self._ending is None:
            with self._lock:
                if self._ending is None:
                    self._ending = self._ready(self.network.ending, inputs)
        return _named(self._ending(*inputs))


class _Runs(Protocol):
    def run(self, images: NDArray[np.float32], depth: Depth) -> Detections: ...


def check_runner(
    runner: TorchRunner,
    eager: _Runs,
    images: NDArray[np.float32] | Sequence[NDArray[np.float32]],
    depth: Depth | str | int,
) -> None:
    """Refuse a runner that computes something else than ``eager``, which runs FP32.

    ``images``: a batch, float32 [N, 3, H, W], or several; half precision is judged more strictly
    with 8 pictures and more. Of each picture the sorted scores of its detections are compared; see
    :data:`LIMITS`. Raises :class:`CheckFailedError`, and what runs raise.
    """
    chosen = runner.table.find(depth)
    batches = [images] if isinstance(images, np.ndarray) else images
    apart = np.concatenate(
        [_apart(runner.run(batch, chosen), eager.run(batch, chosen)) for batch in batches]
    )
    largest, typical = float(apart.max()), float(np.median(apart))
    limit, median_limit = LIMITS[runner.precision]
    what = f"{runner.mode} in {runner.precision} at depth {chosen}"
    for found, allowed, where in (
        (largest, limit, ""),
        (typical, median_limit if len(apart) >= ENOUGH else limit, " in the median picture"),
    ):
        if not found <= allowed:  # nor where it is no number
            raise CheckFailedError(
                f"{what}: scores are {found:.3g} from those of eager fp32{where}, expected at most "
                f"{allowed:g}: a network that computes something else is not worth timing; use "
                "--runtime torch (mode eager in Python), or another precision"
            )


def _apart(one: Detections, other: Detections) -> NDArray[np.float32]:
    """Largest difference of sorted scores, by picture."""
    if one.scores.shape != other.scores.shape:
        return np.full(len(other), np.inf, np.float32)
    difference = np.abs(np.sort(one.scores, 1) - np.sort(other.scores, 1))
    return np.asarray(difference.max(1, initial=0.0))


def _named(found: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(DETECTIONS, found, strict=True))


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).strip().splitlines()[0]
        raise DeviceError(f"not enough memory on the GPU ({first}): use smaller batches") from None


def _tensor(images: NDArray[np.float32]) -> Tensor:
    """The same memory as a tensor, where it can be."""
    shape: tuple[int, ...] = getattr(images, "shape", ())
    dtype = getattr(images, "dtype", None)
    if dtype != np.float32 or len(shape) != 4 or shape[1] != 3 or not shape[0]:
        raise InputError(
            f"images must be float32 [N, 3, H, W] with N >= 1; found "
            f"{dtype if dtype is not None else type(images).__name__} {list(shape)}"
        )
    array = np.ascontiguousarray(images).reshape(-1)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(shape)  # with the strides of this shape, or compiled code is compiled again

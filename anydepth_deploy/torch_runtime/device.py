"""Where a torch network runs: all that differs between a CPU and a GPU.

What is said of CUDA here is tested with a stand-in and **unverified** on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from anydepth_deploy.errors import DeviceError
from anydepth_deploy.torch_runtime.network import Function

__all__ = ["CudaDevice", "CudaGraph", "Device", "HostDevice", "open_device"]

CUDA = "cuda"
"""What torch calls the device; a stand-in has another."""

WARMUPS = 3
"""Runs before a recording: libraries set themselves up, and choose algorithms."""


class Device(Protocol):
    """Memory of a device, and waiting for it."""

    @property
    def name(self) -> str:
        """Of the device, as torch calls it."""
        ...

    def stage(self, images: Tensor) -> Tensor:
        """``images`` in memory of the host that the device can copy from by itself."""
        ...

    def put(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """``images`` in the device's memory; the copy may still be under way."""
        ...

    def fetch(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies in the host's memory, once everything asked of the device is done."""
        ...

    def wait(self) -> None:
        """Until everything asked of the device is done."""
        ...

    def memory(self) -> dict[str, int]:
        """Largest numbers of bytes held on the device since it was opened, by kind."""
        ...

    def release(self) -> None:
        """Give back what is held and not in use."""
        ...


class HostDevice:
    """The CPU: everything is in its memory already."""

    name = "cpu"

    def stage(self, images: Tensor) -> Tensor:
        return images

    def put(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        return images.to(dtype)

    def fetch(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def wait(self) -> None:
        pass

    def memory(self) -> dict[str, int]:
        return {}

    def release(self) -> None:
        pass


class CudaDevice:
    """The current NVIDIA GPU; copies go through pinned memory. **Unverified** on hardware.

    Switches TF32 off in this process: it keeps 10 bits of the mantissa, and FP32 means FP32 here.

    Raises :class:`DeviceError` where torch finds no GPU.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise DeviceError(
                f"torch {torch.__version__} finds no NVIDIA GPU: install a torch with CUDA on a "
                "machine that has one, or use --device cpu"
            )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.cuda.reset_peak_memory_stats()
        self.name = CUDA

    def stage(self, images: Tensor) -> Tensor:
        return images.pin_memory()

    def put(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        # In two steps: in one, the host would convert before it copies.
        return images.to(self.name, non_blocking=True).to(dtype)

    def fetch(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        found = [_pinned_like(tensor) for tensor in tensors]
        for target, source in zip(found, tensors, strict=True):
            target.copy_(source, non_blocking=True)
        self.wait()
        return found

    def wait(self) -> None:
        torch.cuda.synchronize()

    def memory(self) -> dict[str, int]:
        return {
            "peak allocated": int(torch.cuda.max_memory_allocated()),
            "peak reserved": int(torch.cuda.max_memory_reserved()),
        }

    def release(self) -> None:
        self.wait()
        torch.cuda.empty_cache()


class CudaGraph:
    """A function of tensors of fixed shapes, recorded once and launched as a whole.

    ``inputs`` become the memory that every launch reads; tensors given to a call are copied into
    it, unless they are it. What a call returns is overwritten by the next. **Unverified** on
    hardware.

    Raises :class:`DeviceError` where the function cannot be recorded.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self._inputs = list(inputs)
        try:
            # Not on the default stream: what it does there cannot be recorded.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUPS):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = function(*self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DeviceError(
                "this network cannot be recorded as a CUDA graph "
                f"({str(error).strip().splitlines()[0]}): use --runtime torch or torch-compile "
                "(modes eager and compile in Python)"
            ) from None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for mine, given in zip(self._inputs, inputs, strict=True):
            if mine is not given:
                mine.copy_(given)
        self._graph.replay()
        return self._outputs


def open_device(kind: Literal["cpu", "cuda"]) -> Device:
    """The CPU or the GPU. Raises :class:`DeviceError` without a GPU."""
    return CudaDevice() if kind == "cuda" else HostDevice()


def _pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=True)

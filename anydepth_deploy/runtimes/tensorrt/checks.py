"""What is refused before an engine is loaded: each reason in one line.

TensorRT answers most of them with a crash, or with a message about its own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import BundleError, DeviceError, InputError, shorten
from anydepth_deploy.manifest import EngineSpec
from anydepth_deploy.runtimes.tensorrt.cuda import Context, Device, megabytes
from anydepth_deploy.runtimes.tensorrt.memory import Tensor

__all__ = ["batch_of", "check_engine", "check_feeds", "check_memory"]


def check_engine(path: Path, spec: EngineSpec, device: Device, name: str, version: str) -> None:
    """Whether an engine was built for this device and this library. Raises :class:`BundleError`.

    ``name``: ``TensorRT`` or ``TensorRT-RTX``.
    """
    if device.capability not in spec.capabilities:
        raise BundleError(
            f"{path} was built for {shorten(spec.capabilities)}, this device ({device.name}) is "
            f"{device.capability}: build it again for {device.capability}"
        )
    # TensorRT loads what exactly the same library built, RTX what the same minor version did.
    parts = 2 if name == "TensorRT-RTX" else 4
    built, here = (tuple(text.split(".")[:parts]) for text in (spec.version, version))
    common = min(len(built), len(here))
    if common < min(parts, 2) or built[:common] != here[:common]:
        raise BundleError(
            f"{path} was built with {name} {spec.version}, installed is {version}: build it again "
            "here, or install the version it was built with"
        )


def check_memory(needed: int, what: str, context: Context, device: Device) -> None:
    """Whether ``needed`` bytes are free on ``device``. Raises :class:`DeviceError`."""
    if needed <= 0:
        return
    free = context.cuda.free_memory(device)
    if needed > free:
        raise DeviceError(
            f"{what}: not enough memory on {device.name}: needed {megabytes(needed)}, free "
            f"{megabytes(free)}; close other programs, or build engines for smaller batches"
        )


def check_feeds(name: str, inputs: Sequence[Tensor], feeds: dict[str, NDArray[np.generic]]) -> None:
    """Whether arrays fit the inputs of an engine; batches apart. Raises :class:`InputError`."""
    names = [tensor.name for tensor in inputs]
    if set(feeds) != set(names):
        raise InputError(
            f"{name}: expected the inputs {shorten(names)}; found {shorten(feeds) or 'none'}"
        )
    for tensor in inputs:
        array = feeds[tensor.name]
        fits = len(array.shape) == len(tensor.shape) and all(
            side in (-1, given) for side, given in zip(tensor.shape, array.shape, strict=True)
        )
        if not fits or not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            raise InputError(
                f"{name}: {tensor.name} is {array.dtype} {list(array.shape)}, expected "
                f"{tensor.dtype} {list(tensor.shape)} (-1: any)"
            )
        if tensor.dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
            limits = np.iinfo(tensor.dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise InputError(f"{name}: {tensor.name} does not fit into {tensor.dtype}")


def batch_of(
    name: str,
    inputs: Sequence[Tensor],
    feeds: dict[str, NDArray[np.generic]],
    limits: tuple[int, int],
) -> int:
    """The batch that ``feeds`` have. Raises :class:`InputError` for one outside ``limits``, or for
    several."""
    sizes = {feeds[tensor.name].shape[0] for tensor in inputs if tensor.shape[:1] == (-1,)}
    if len(sizes) > 1:
        raise InputError(f"{name}: the inputs have different batch sizes {sorted(sizes)}")
    batch = sizes.pop() if sizes else limits[1]
    smallest, largest = limits
    if not smallest <= batch <= largest:
        raise InputError(
            f"{name}: the batch is {batch}, the engine takes {smallest} to {largest}: split or "
            f"fill the batch, or build engines whose batch sizes include {batch}"
        )
    return batch

"""The processes that train together: who they are, and what they tell each other.

``torchrun`` starts them and says in the environment who is who; torch's DistributedDataParallel
adds up their gradients. On CUDA they speak NCCL (**unverified** on hardware), else gloo.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anydepth_deploy.errors import DeviceError, UsageError, shorten

__all__ = ["ALONE", "Processes", "device_for", "is_main_process", "joined"]

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the main one may be writing or drawing."""


@dataclass(frozen=True)
class Processes:
    """``rank`` of ``world`` processes, ``local``: its number on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over all processes, without history."""
        if self.world == 1:
            return value
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed / self.world

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, by rank; it is pickled between them, and nowhere else."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def share(self, state: Mapping[str, Tensor]) -> None:
        """Give all processes what the first one has, in place."""
        if self.world > 1:
            for value in state.values():
                dist.broadcast(value, src=0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


ALONE = Processes()


def is_main_process() -> bool:
    """Whether this process is the only one, or the one that talks, of those that torchrun
    started; needs no group."""
    alone = "MASTER_ADDR" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1"
    return alone or os.environ.get("RANK", "0") == "0"


def _said() -> Processes:
    """What the environment says; without an address to meet at there is one process."""
    if "MASTER_ADDR" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    said = {name: os.environ[name] for name in names if name in os.environ}
    try:
        world = int(said["WORLD_SIZE"])
        rank = int(said["RANK"]) if world != 1 else 0
        found = Processes(rank, world, int(said.get("LOCAL_RANK", rank)))
    except (KeyError, ValueError):
        found = Processes(-1, 0, 0)
    if not 0 <= found.rank < found.world or found.local < 0:
        told = ", ".join(f"{name}={shorten([value])}" for name, value in said.items())
        raise UsageError(
            f"the environment has MASTER_ADDR and {told}: expected a RANK below WORLD_SIZE, as "
            "torchrun sets them; start with torchrun, or unset MASTER_ADDR to train in one process"
        )
    return found


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started, this one among them; alone where it started none.

    Raises :class:`UsageError` where the environment names no such processes, and
    :class:`DeviceError` where they cannot reach each other.
    """
    processes = _said()
    if processes.world == 1:
        yield ALONE
        return
    if dist.is_initialized():
        yield processes
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"process {processes.rank} of {processes.world} cannot reach the others at "
            f"{os.environ['MASTER_ADDR']}: {str(error).splitlines()[0]}; see that torchrun's "
            "--rdzv-endpoint can be reached from every machine"
        ) from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def device_for(name: str) -> torch.device:
    """The device of this process: with torchrun, each has the GPU of its own number. ``auto``: a
    GPU where there is one.

    Raises :class:`UsageError` for no device, :class:`DeviceError` for one that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}': expected cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise UsageError(f"unknown device '{name}': expected cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"--device {name}: torch {torch.__version__} finds no NVIDIA GPU; train with "
            "--device cpu, or install a torch that is built for CUDA"
        )
    index = device.index or 0
    if (processes := _said()).world > 1:
        index = processes.local
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(
            f"cuda:{index} is not there: torch finds {count} of them; start as many processes a "
            "machine as it has GPUs"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

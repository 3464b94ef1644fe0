"""Holding clocks at one frequency for a run, and letting go of them afterwards.

Nothing here happens unless it is asked for. Restoring happens on exceptions and on Ctrl-C too, but
not when the process is killed. Unverified on hardware.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Literal

from anydepth_deploy.bench.sensors.jetson import GpuClock, gpu_clock, is_jetson
from anydepth_deploy.bench.sensors.nvml import NO_PERMISSION, Gpu, NvmlError, load_nvml, open_gpu
from anydepth_deploy.bench.sensors.sysfs import Runner, Tree, UnreadableError, run_command
from anydepth_deploy.errors import DeviceError, UsageError

__all__ = ["lock_clocks"]

log = logging.getLogger("anydepth_deploy")

SETTLING = 0.5
"""Seconds that a GPU gets to follow before its clock is read back."""
POLL = 0.05
STEP_MHZ = 15
"""Clocks of NVIDIA GPUs come in steps of this size; what is nearer follows."""

JETSON_CLOCKS_SECONDS = 60.0


def lock_clocks(
    device: Literal["cpu", "cuda"],
    mhz: int | None = None,
    gpu: int | None = None,
    *,
    root: Path = Path("/"),
    run: Runner = run_command,
) -> AbstractContextManager[str]:
    """Hold the clock of a GPU at ``mhz`` inside of the ``with``; gives a line about it for results.

    ``gpu``: its number, as nvidia-smi counts. NVIDIA GPUs: ``nvidia-smi -lgc`` and ``-rgc``, of the
    driver; ``mhz`` is needed. What was locked before cannot be read back from NVML: afterwards
    clocks are unlocked, whatever they were. Jetson: the bounds of the GPU's clock, put back as they
    were; without ``mhz`` all clocks of the module at their largest, by ``jetson_clocks``, and what
    it has stored put back. ``root`` and ``run``: where ``/sys`` is, and what runs commands.

    A failure to restore does not raise, so that it hides no other: it is logged as an error, with
    the command that does it by hand.

    Raises :class:`UsageError`: a CPU, or a clock that the GPU does not have; :class:`DeviceError`:
    no rights (root is needed), no GPU, or one that cannot do it;
    :class:`~anydepth_deploy.errors.MissingExtraError`: no ``nvidia-ml-py``.
    """
    if device == "cpu":
        raise UsageError(
            "clocks of a CPU are not locked by this tool: use your system's own, for example "
            "sudo cpupower frequency-set -g performance"
        )
    if mhz is not None and mhz <= 0:
        raise UsageError(f"a clock of {mhz} MHz: expected a positive number")
    tree = Tree(root)
    if is_jetson(tree):
        return _jetson_clocks(tree, run) if mhz is None else _jetson_gpu(tree, mhz)
    if mhz is None:
        raise UsageError(
            "which clock to lock has to be said for this GPU: choose one that it can sustain, "
            "nvidia-smi -q -d SUPPORTED_CLOCKS lists them"
        )
    return _nvidia(mhz, gpu)


@contextlib.contextmanager
def _nvidia(mhz: int, number: int | None) -> Iterator[str]:
    try:
        gpu = open_gpu(load_nvml("locking clocks"), number)
    except NvmlError as error:
        raise DeviceError(f"clocks cannot be locked: {error}") from None
    _check_supported(gpu, mhz)
    by_hand = f"sudo nvidia-smi -i {gpu.index} -rgc"
    with ExitStack() as stack:
        # Before locking: an interrupt may come right after it.
        stack.callback(_restore, lambda: _unlock(gpu), f"GPU {gpu.index} at {mhz} MHz", by_hand)
        try:
            gpu.get("nvmlDeviceSetGpuLockedClocks", mhz, mhz)
        except NvmlError as error:
            stack.pop_all()
            raise _refused(gpu, mhz, error) from None
        yield (
            f"sm clock locked at {mhz} MHz, {_follows(gpu, mhz)}; unlocked afterwards, as what was "
            "locked before cannot be read"
        )


def _unlock(gpu: Gpu) -> None:
    gpu.get("nvmlDeviceResetGpuLockedClocks")


def _refused(gpu: Gpu, mhz: int, error: NvmlError) -> DeviceError:
    if error.code == NO_PERMISSION:
        command = f"sudo nvidia-smi -i {gpu.index} -lgc {mhz},{mhz}"
        return DeviceError(f"locking the clocks of GPU {gpu.index} needs root: run {command}")
    if error.not_supported:
        return DeviceError(
            f"GPU {gpu.index} cannot lock its clocks, which GPUs before Volta cannot"
        )
    return DeviceError(f"GPU {gpu.index} does not lock its clocks at {mhz} MHz: {error}")


def _check_supported(gpu: Gpu, mhz: int) -> None:
    """Raises :class:`UsageError` for a clock that is not in the GPU's list, where it has one."""
    try:
        memory = max(gpu.get("nvmlDeviceGetSupportedMemoryClocks"))
        clocks = [int(clock) for clock in gpu.get("nvmlDeviceGetSupportedGraphicsClocks", memory)]
    except (NvmlError, ValueError):
        return  # then the driver judges
    if clocks and mhz not in clocks:
        raise UsageError(f"GPU {gpu.index} has no clock of {mhz} MHz: {_nearest(clocks, mhz)}")


def _nearest(clocks: Sequence[float], mhz: float) -> str:
    below = max((clock for clock in clocks if clock < mhz), default=None)
    above = min((clock for clock in clocks if clock > mhz), default=None)
    names = [f"{clock:g} MHz" for clock in (below, above) if clock is not None]
    return f"the nearest {'is' if len(names) == 1 else 'are'} {' and '.join(names)}"


def _follows(gpu: Gpu, mhz: int) -> str:
    """What the clock reads once it has had time to change."""
    for _ in range(max(1, round(SETTLING / POLL))):
        try:
            clock = gpu.get("nvmlDeviceGetClockInfo", gpu.constant("NVML_CLOCK_SM"))
        except NvmlError as error:
            return f"not read back ({error})"
        if abs(clock - mhz) < STEP_MHZ:
            return f"reads {clock} MHz"
        time.sleep(POLL)
    return f"but reads {clock} MHz (idle, or held down)"


@contextlib.contextmanager
def _jetson_clocks(tree: Tree, run: Runner) -> Iterator[str]:
    if getattr(os, "geteuid", lambda: 0)() != 0:
        raise DeviceError("jetson_clocks needs root: use sudo, or run sudo jetson_clocks before")
    folder = Path(tempfile.mkdtemp(prefix="anydepth-deploy-clocks-"))
    stored = folder / "stored"  # not there yet: jetson_clocks asks before it overwrites

    def command(*arguments: str) -> None:
        run(["jetson_clocks", *arguments], JETSON_CLOCKS_SECONDS)

    def restore() -> None:
        command("--restore", str(stored))
        shutil.rmtree(folder, ignore_errors=True)  # kept for the one who restores by hand

    try:
        command("--store", str(stored))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, UnreadableError):
            raise DeviceError(
                f"clocks cannot be stored, so they stay as they are: {error}"
            ) from None
        raise
    with ExitStack() as stack:
        by_hand = f"sudo jetson_clocks --restore {stored}"
        stack.callback(_restore, restore, "all clocks at their largest", by_hand)
        try:
            command()
        except UnreadableError as error:
            raise DeviceError(f"clocks cannot be locked: {error}") from None
        yield f"all clocks locked by jetson_clocks{_gpu_reads(tree)}; restored afterwards"


def _gpu_reads(tree: Tree) -> str:
    try:
        clock = gpu_clock(tree)
    except UnreadableError:
        return ""
    if clock.low != clock.high:
        return f", but that of the GPU may be {clock.low / 1e6:g}-{clock.high / 1e6:g} MHz"
    return f", the GPU's at {clock.high / 1e6:g} MHz"


@contextlib.contextmanager
def _jetson_gpu(tree: Tree, mhz: int) -> Iterator[str]:
    try:
        before = gpu_clock(tree)
        listed = tree.text(f"{before.folder}/available_frequencies").split()
        clocks = [int(text) for text in listed]
    except (UnreadableError, ValueError) as error:
        raise DeviceError(f"the clock of this Jetson's GPU cannot be set: {error}") from None
    # 624.75 MHz is one of an Orin's.
    hertz = min(clocks, key=lambda clock: abs(clock - mhz * 10**6))
    if abs(hertz - mhz * 10**6) >= 10**6:
        nearest = _nearest([clock / 1e6 for clock in clocks], mhz)
        raise UsageError(f"the GPU has no clock of {mhz} MHz: {nearest}")
    wanted = GpuClock(before.folder, hertz, hertz)
    back = [f"echo {value} | sudo tee {path}" for path, value in _writes(wanted, before)]
    with ExitStack() as stack:
        stack.callback(
            _restore, lambda: _set_range(tree, before), f"GPU at {mhz} MHz", " && ".join(back)
        )
        try:
            _set_range(tree, wanted)
            after = gpu_clock(tree)
        except PermissionError:
            raise DeviceError(
                "setting the GPU's clock needs root: use sudo, or run sudo jetson_clocks before"
            ) from None
        except (OSError, UnreadableError) as error:
            raise DeviceError(f"the GPU's clock cannot be set to {mhz} MHz: {error}") from None
        if after != wanted:
            raise DeviceError(
                f"the GPU's clock stays at {after.low / 1e6:g}-{after.high / 1e6:g} MHz instead of "
                f"{hertz / 1e6:g}: the power mode (nvpmodel -q) may not allow it"
            )
        yield f"gpu clock locked at {hertz / 1e6:g} MHz; restored afterwards"


def _writes(now: GpuClock, then: GpuClock) -> list[tuple[str, int]]:
    """What to write, in an order in which the lower bound never exceeds the upper one."""
    low = (f"{then.folder}/min_freq", then.low)
    high = (f"{then.folder}/max_freq", then.high)
    return [high, low] if then.low > now.high else [low, high]


def _set_range(tree: Tree, wanted: GpuClock) -> None:
    """Raises :class:`OSError` and :class:`UnreadableError`; writes only what is not so already."""
    now = gpu_clock(tree)
    if now == wanted:
        return
    for path, value in _writes(now, wanted):
        tree.write(path, f"{value}\n")


def _restore(undo: Callable[[], None], what: str, by_hand: str) -> None:
    """Undo; if that fails, say so and what to do, and let an exception in flight go on."""
    try:
        try:
            undo()
        except KeyboardInterrupt:  # a second Ctrl-C has cut it short
            undo()
            raise
    except Exception as error:
        log.error("clocks are still locked (%s): %s; to restore them: %s", what, error, by_hand)
    except BaseException:
        log.error("clocks may still be locked (%s); to restore them: %s", what, by_hand)
        raise

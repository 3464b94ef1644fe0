"""Batches of a data set, made by other processes while the network learns.

Processes are spawned: a fork copies locks that torch's threads hold at that moment, and CUDA does
not survive one. They are started once for a run, since the order of pictures has no end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anydepth_deploy.errors import UsageError, first_line, shorten
from anydepth_deploy.families.shared.augmentation import Augmentation
from anydepth_deploy.families.shared.targets import Targets
from anydepth_deploy.train.data.detection_set import DetectionSet, check_unreadable
from anydepth_deploy.train.data.order import Order
from anydepth_deploy.train.data.samples import Key, Loaded, Samples

__all__ = ["Batch", "Batches"]


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees.

    ``step``: of the optimiser, ``part``: which of the batches that are accumulated in it.
    ``images``: float32 [N, 3, H, W] in 0..1, channels last in memory, on the device asked for, as
    ``targets`` are. ``names``: of the pictures (of a mosaic the first). ``waited``: seconds from
    asking for the batch until it was there.
    """

    step: int
    part: int
    images: Tensor
    targets: Targets
    names: tuple[str, ...]
    waited: float


class Batches:
    """Endless batches of ``pictures`` for one process of a training run; a context manager, at
    whose end no process is left.

    ``batch``: pictures of a step, over all ``world`` processes and ``accumulate`` passes; this
    process, ``rank``, gets its equal share. Which pictures a step has, how each is augmented and
    the size of all depend on ``seed`` and the step alone, not on how many processes share it.
    ``size``, ``resize``, ``calm_from``, ``smallest``: as for
    :class:`~anydepth_deploy.train.data.samples.Samples`. ``workers``: processes that load; 0: this
    one does. ``prefetch``: batches that each of them has ready. ``device``: of the batches.

    ``unreadable``: what is wrong with pictures that could not be read, by their place in the set.
    Up to 1 % of them (one at least) are replaced by others; of more, :class:`ImageError` is raised
    while iterating. Raises :class:`UsageError` for numbers that do not go together, and at its end
    where a process that loads was killed.
    """

    def __init__(
        self,
        pictures: DetectionSet,
        augmentation: Augmentation,
        *,
        size: tuple[int, int],
        resize: Literal["stretch", "letterbox"],
        batch: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        calm_from: int | None = None,
        smallest: int = 0,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        if min(batch, world, accumulate, prefetch) < 1 or workers < 0 or not 0 <= rank < world:
            raise UsageError(
                f"batch {batch}, world {world}, rank {rank}, accumulate {accumulate}, workers "
                f"{workers}, prefetch {prefetch}: expected at least 1 of each, no fewer than 0 "
                "workers, and a rank below world"
            )
        if batch % (world * accumulate):
            raise UsageError(
                f"a batch of {batch} pictures is not shared equally by {world} processes in "
                f"{accumulate} passes each: give a multiple of {world * accumulate}"
            )
        self.pictures = pictures
        self.device = torch.device(device)
        self.unreadable: dict[int, str] = {}
        self.order = Order(len(pictures), batch, seed)
        self._samples = Samples(pictures, augmentation, size, resize, seed, calm_from, smallest)
        self._share = batch // (world * accumulate)
        self._rank, self._accumulate = rank, accumulate
        self._workers, self._prefetch = workers, prefetch
        self._running: Iterator[Batch] | None = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if (refusal := _ended(error)) is not None:
            raise refusal from error

    def close(self) -> None:
        """End the processes; what :meth:`batches` gave has no more."""
        if self._running is not None:
            self._running.close()  # type: ignore[attr-defined]
            self._running = None

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """From step ``start`` on, without an end: ``accumulate`` batches a step, each of ``batch``
        / (``world`` x ``accumulate``) pictures. A call ends what an earlier one gave."""
        self.close()
        self._running = self._iterate(start)
        return self._running

    def _iterate(self, start: int) -> Iterator[Batch]:
        on_gpu = self.device.type == "cuda"
        loader: DataLoader[Any] = DataLoader(
            self._samples,  # type: ignore[arg-type]
            batch_sampler=_Keys(self, start),
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=on_gpu,
            worker_init_fn=_begin_worker if self._workers else None,
            multiprocessing_context="spawn" if self._workers else None,
            prefetch_factor=self._prefetch if self._workers else None,
        )
        began = time.perf_counter()
        with _starting() if self._workers else contextlib.nullcontext():
            source = iter(loader)
        try:
            while True:
                loaded = Loaded(*_next(source))
                self._count(loaded)
                images = loaded.images.to(self.device, non_blocking=on_gpu)
                labels = loaded.labels.to(self.device, non_blocking=on_gpu)
                boxes = loaded.boxes.to(self.device, non_blocking=on_gpu)
                # As `prepare` scales: by the float32 nearest to 1/255, not by a division.
                pixels = images.permute(0, 3, 1, 2).to(torch.float32).mul_(1 / 255)
                yield Batch(
                    loaded.step,
                    loaded.part,
                    pixels,
                    Targets(labels, boxes),
                    tuple(loaded.names),
                    time.perf_counter() - began,
                )
                began = time.perf_counter()
        finally:
            # Not left to the end of the iterator's life: a traceback may hold it for long.
            end: Callable[[], None] | None = getattr(source, "_shutdown_workers", None)
            if end is not None:
                # One that dies while it is told to end is gone as well; the others are ended.
                with contextlib.suppress(RuntimeError):
                    end()

    def _count(self, loaded: Loaded) -> None:
        """Raises :class:`ImageError` once too many pictures cannot be read."""
        for place, reason in loaded.failures.items():
            self.unreadable.setdefault(place, reason)
        check_unreadable(self.pictures.source, len(self.pictures), self.unreadable)

    def keys(self, step: int, part: int) -> list[Key]:
        """The pictures of one of this process's batches."""
        first = self._share * (self._rank * self._accumulate + part) + step * self.order.batch
        places = range(first, first + self._share)
        return [Key(step, part, *self.order.at(place)) for place in places]

    @property
    def parts(self) -> int:
        """Batches of a step in this process."""
        return self._accumulate


class _Keys:
    """Keys of batch after batch, without an end."""

    def __init__(self, batches: Batches, start: int) -> None:
        self._batches, self._start = batches, start

    def __iter__(self) -> Iterator[list[Key]]:
        step = self._start
        while True:
            for part in range(self._batches.parts):
                yield self._batches.keys(step, part)
            step += 1


def _next(source: Iterator[Any]) -> Any:
    """The next batch. A process that is killed while it hands one over breaks the connection before
    torch notices its end: that is said as torch would."""
    try:
        return next(source)
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(
            f"DataLoader worker has broken its connection: {first_line(error)}"
        ) from error


def _ended(error: BaseException | None) -> UsageError | None:
    """What to say where a process that loads pictures was killed: torch raises that in the main
    one, whatever it is doing at that moment."""
    if not isinstance(error, RuntimeError) or "DataLoader worker" not in str(error):
        return None
    return UsageError(
        f"a process that loads pictures ended ({shorten([first_line(error)])}): if memory ran "
        "out, give fewer --workers, a smaller --batch, or a container more shared memory "
        "(docker run --shm-size)"
    )


def _as_it_is(loaded: Any) -> Any:
    return loaded


ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals by which a run is told to end."""


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Processes that are started here have these signals blocked until they begin."""
    resource_tracker.ensure_running()  # its start, which spawning asks for, unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(_: int) -> None:
    """Ctrl-C, and torchrun's end, reach all processes of a group: this one leaves it, forgets what
    came before, and is ended by the main one, which first saves its run. torch has set one thread
    for each by now.

    When it is told to end, a process ends at once: Python would first take its threads down, and
    the one that hands over batches may be in C++ then, which aborts with a message.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while signal.sigpending() & {*ENDING}:
        signal.sigwait(ENDING)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    atexit.register(os._exit, 0)

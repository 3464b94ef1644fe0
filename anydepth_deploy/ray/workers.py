"""Workers on Ray: how many there is room for, parts given to them, and what becomes of failures."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anydepth_deploy.errors import AnyDepthError, ImageError, UsageError
from anydepth_deploy.ray.parts import Part
from anydepth_deploy.ray.writer import PartWriter, UnwrittenError

__all__ = ["resources_of", "room", "rows_of_parts", "started", "writers_of"]

log = logging.getLogger("anydepth_deploy")

RESTS = 0.001
"""Of a core, for workers on GPUs alone: Ray wants to know that they are no load."""

KINDS = {"num_cpus": "CPU", "num_gpus": "GPU"}
"""What Ray calls resources of a worker, and of a cluster."""


def resources_of(threads: int, gpus: float) -> dict[str, float]:
    """What Ray sets aside for a worker."""
    return {"num_cpus": RESTS if gpus else threads, "num_gpus": gpus}


@contextlib.contextmanager
def started(ray: Any) -> Iterator[bool]:
    """Ray, which is ended where it was not there. Gives whether it is our own, of this machine
    alone; a cluster that was there may grow."""
    if ray.is_initialized():
        yield False
        return
    named = bool(os.environ.get("RAY_ADDRESS"))
    ray.init(include_dashboard=False)
    try:
        yield not named and len(ray.nodes()) == 1
    finally:
        ray.shutdown()


def room(there: Mapping[str, float], resources: Mapping[str, float], own: bool) -> int:
    """How many workers that want ``resources`` each Ray has room for, which has as much as
    ``there`` says; 1 where there is none yet, for a cluster that may grow.

    Raises :class:`UsageError` where there is none, and ``own``, of this machine alone.
    """
    found = {name: there.get(KINDS[name], 0) for name, share in resources.items() if share}
    lacking = [name for name, count in found.items() if count < resources[name]]
    if lacking:
        name = lacking[0]
        option, what = ("gpus", "GPUs") if name == "num_gpus" else ("threads", "cores")
        told = f"{option}={resources[name]:g} of a worker are more than the {found[name]:g} {what}"
        if own:
            raise UsageError(
                f"{told} that Ray has on this machine: give fewer, or connect to a cluster that "
                "has them with ray.init before"
            )
        log.warning("%s that Ray has now: the job waits until it has them", told)
    return max(1, int(min(count / resources[name] for name, count in found.items())))


def writers_of(
    ray: Any, count: int, resources: Mapping[str, float], retries: int, arguments: tuple[Any, ...]
) -> list[Any]:
    """``count`` actors of Ray, each a :class:`PartWriter` of these ``arguments``."""
    kind = ray.remote(PartWriter).options(
        **resources, max_restarts=-1, max_task_retries=retries, max_concurrency=1
    )
    return [kind.remote(*arguments) for _ in range(count)]


def rows_of_parts(
    ray: Any, parts: Sequence[Part], writers: Sequence[Any]
) -> Iterator[dict[str, Any]]:
    """What :class:`PartWriter` says of each part, as soon as it is written. A worker gets a part
    when it is ready for one: some may wait for machines that are still to come.

    A part that cannot be made is left out: what it raised is raised when all others are done. Where
    results cannot be written, that is raised at once; where no worker comes to be, when the last of
    them has failed.
    """
    waiting = deque(parts)
    working: dict[Any, Any] = {}
    readying = {writer.ready.remote(): writer for writer in writers}
    refused: BaseException | None = None  # of a worker
    failed: list[BaseException] = []  # of parts
    try:
        while working or (readying and waiting):
            (answer, *_), _ = ray.wait([*working, *readying], num_returns=1)
            of_part = answer in working
            writer = (working if of_part else readying).pop(answer)
            try:
                found = ray.get(answer)
            except ray.exceptions.RayError as error:
                ours = _ours(ray, error)
                if isinstance(ours, UnwrittenError):
                    raise ImageError(ours) from None
                if not of_part:
                    log.warning("a worker cannot start: %s", ours)
                    refused = refused or ours
                    continue
                failed.append(ours)
                if not isinstance(error, ray.exceptions.RayTaskError):
                    readying[writer.ready.remote()] = writer  # if it comes again at all
                    continue
            else:
                if of_part:
                    yield found
            if waiting:
                working[writer.write.remote(waiting.popleft().to_text())] = writer
    finally:
        for writer in writers:
            ray.kill(writer)
    if waiting and refused is not None:
        raise refused
    if failed:
        raise _told(failed, len(parts))


def _told(failed: Sequence[BaseException], parts: int) -> BaseException:
    first = failed[0]
    if len(failed) == 1 or not isinstance(first, AnyDepthError):
        return first
    return ImageError(
        f"{len(failed)} of {parts} parts could not be made, the others are written; the first: "
        f"{first}"
    )


def _ours(ray: Any, error: BaseException) -> BaseException:
    """What a worker raised, as it was raised, where it is an error of this package; where workers
    died, a line that says so."""
    behind = list(_behind(error))
    for found in behind:
        # Ray's own copy is one of ours, too, with a traceback as its text.
        if isinstance(found, AnyDepthError) and not isinstance(found, ray.exceptions.RayError):
            found.__cause__ = None
            return found
    died = ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError
    if any(isinstance(found, died) for found in behind):
        return ImageError(
            "a worker died again and again over one part: one of its pictures may take more memory "
            "than there is; give fewer workers, or a smaller max_pixels"
        )
    return error


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from; Ray's have what a worker raised as their ``cause``."""
    if isinstance(error, BaseException):
        yield error
        for near in (getattr(error, "cause", None), error.__cause__):
            yield from _behind(near)

"""The whole job: sources listed, parts shared out among workers, what is written left alone."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.detector.detector import load
from anydepth_deploy.detector.result import check_threshold
from anydepth_deploy.detector.sources import Skipped
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import AnyDepthError, ImageError, UsageError, shorten
from anydepth_deploy.progress import Progress
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.parts import Part, Written, groups_of, parts_of, written
from anydepth_deploy.ray.places import place_of
from anydepth_deploy.ray.stage import Detect
from anydepth_deploy.ray.work import work_of
from anydepth_deploy.ray.writer import PartWriter

__all__ = ["Report", "predict_many"]

VERSION = 1
"""Of the files of results; it rises when a column goes, or means something else."""

RESTS = 0.001
"""Of a core, for workers on GPUs alone: Ray wants to know that they are no load."""


@dataclass(frozen=True)
class Report:
    """``pictures``: looked at now, ``failed`` of them cannot be used. ``before``: pictures that
    earlier runs had written. ``parts``: files that were written now. ``seconds``: from the first
    part to the last, with what workers take to start. ``skipped``: the first of what cannot be
    used; the column ``error`` of the files has all."""

    pictures: int = 0
    failed: int = 0
    before: int = 0
    parts: int = 0
    seconds: float = 0.0
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def pictures_per_second(self) -> float | None:
        return self.pictures / self.seconds if self.seconds > 0 else None


def predict_many(
    bundle: str | Path | Bundle,
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    depth: str = "super",
    threshold: float = 0.5,
    workers: int | None = None,
    threads: int = 1,
    gpus: float = 0,
    part: int = 500,
    retries: int = 3,
    filesystem: Any = None,
    out_filesystem: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Detect objects in all pictures of ``source``, on ``workers`` of Ray, into Parquet files in
    the folder ``out``; pictures that files there hold already are left alone.

    ``source``: a folder, a picture, a pattern, an http or https address, a Parquet file with
    pictures or a folder of these, or a list of any of them; or a folder or a file of a store
    (``s3://bucket/photos``). ``filesystem``, ``out_filesystem``: of ``source`` and ``out``, one of
    :mod:`pyarrow.fs` or of fsspec; by default the address says it, or it is this machine's.
    ``workers``: by default as many as Ray has cores for. ``threads`` and ``gpus``: of each.
    ``part``: pictures of a file, and what is done again where a worker dies; of a table, each row
    group is a part. ``retries``: of a part whose worker died. ``options``: as for :class:`Detect`.

    The columns of files are ``path`` (whole, or the address; of a row of a table without one
    ``table.parquet#12``), for tables those that are kept, and those that :class:`Detect` gives.
    Ray is started where it is not, and then ended. Files of another job in ``out`` (network,
    classes, depth, threshold, precision) are refused.

    Raises :class:`MissingExtraError`, :class:`ImageError` where there is no picture or results
    cannot be written, :class:`UsageError`, and what :func:`anydepth_deploy.load` raises; all but
    that of workers before Ray is started.
    """
    ray = _ray()
    _check(workers=workers, threads=threads, part=part, retries=retries + 1)
    _check_options(options)
    check_threshold(threshold)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    chosen = opened.table.find(depth)
    options = {"threshold": threshold, "threads": threads, **options}
    detect = {"bundle": str(opened.path.absolute()), "depth": str(chosen), **options}
    record = _record(opened, detect)
    target = place_of(out, out_filesystem)
    work = work_of(source, filesystem)
    if target.local:
        try_to_write(Path(target.path) / "part.parquet", "file", ImageError)
    done = written(target, record)
    parts = parts_of(work.pictures, part, done)
    for table, size in work.tables:
        parts += [item for item in groups_of(table, size) if item.name not in done.parts]
    before = _before(work.pictures, done)
    if not parts:
        return Report(before=before, skipped=work.skipped)
    with _started(ray):
        resources = _resources(threads, gpus)
        count = min(workers or _room(ray, resources), len(parts))
        begin = time.monotonic()
        writers = _writers(ray, count, resources, retries, (target, work.place, record, detect))
        rows = _rows(ray, parts, writers)
        with contextlib.closing(rows):  # type: ignore[type-var]  # a generator
            return _report(rows, len(parts), before, work.skipped, progress, begin)


def _ray() -> Any:
    needed("pyarrow")
    return needed("ray")


def _check(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UsageError(f"{name} is {count!r}: expected at least 1")


def _check_options(options: Mapping[str, Any]) -> None:
    known = {*inspect.signature(Detect).parameters, *inspect.signature(load).parameters}
    known -= {"options", "bundle", "path"}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(f"unknown options: {shorten(unknown)}; expected {shorten(sorted(known))}")


def _record(bundle: Bundle, detect: Mapping[str, Any]) -> dict[str, Any]:
    """What results depend on."""
    manifest = bundle.manifest
    return {
        "version": VERSION,
        "checkpoint": manifest.source.sha256,
        "input size": list(manifest.preprocess.size),
        "resizing": manifest.preprocess.resize,
        "classes": list(bundle.classes),
        "depth": detect["depth"],
        "threshold": detect["threshold"],
        "precision": detect.get("precision", "fp32"),
        "orientation": detect.get("orientation", "upright"),
    }


def _before(names: Sequence[str], done: Written) -> int:
    return sum(name in done.pictures for name in names) if names else done.rows


def _resources(threads: int, gpus: float) -> dict[str, float]:
    """What Ray sets aside for a worker."""
    return {"num_cpus": RESTS if gpus else threads, "num_gpus": gpus}


@contextlib.contextmanager
def _started(ray: Any) -> Iterator[None]:
    """Ray, which is ended where it was not there."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _rows(ray: Any, parts: Sequence[Part], writers: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """What :class:`PartWriter` says of each part, as soon as it is written. A worker gets a part
    when it is ready for one: some may wait for machines that are still to come."""
    waiting = deque(parts)
    left = len(parts)
    asked = {writer.ready.remote(): writer for writer in writers}
    try:
        while left:
            (answer, *_), _ = ray.wait([*asked], num_returns=1)
            writer = asked.pop(answer)
            found = ray.get(answer)
            if waiting:
                asked[writer.write.remote(waiting.popleft().to_text())] = writer
            if found is not None:
                left -= 1
                yield found
    except ray.exceptions.RayError as error:
        raise _ours(ray, error) from None
    finally:
        for writer in writers:
            ray.kill(writer)


def _writers(
    ray: Any, count: int, resources: Mapping[str, float], retries: int, arguments: tuple[Any, ...]
) -> list[Any]:
    kind = ray.remote(PartWriter).options(
        **resources, max_restarts=-1, max_task_retries=retries, max_concurrency=1
    )
    return [kind.remote(*arguments) for _ in range(count)]


def _room(ray: Any, resources: Mapping[str, float]) -> int:
    """How many workers Ray has room for now."""
    there = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    rooms = [there.get(names[name], 0) / share for name, share in resources.items() if share]
    return max(1, int(min(rooms)))


def _ours(ray: Any, error: BaseException) -> BaseException:
    """What a worker raised, as it was raised, where it is an error of this package; where workers
    died, a line that says so."""
    behind = list(_behind(error))
    for found in behind:
        # Ray's own copy is one of ours, too, with a traceback as its text.
        if isinstance(found, AnyDepthError) and not isinstance(found, ray.exceptions.RayError):
            found.__cause__ = None
            return found
    if any(isinstance(found, ray.exceptions.RayActorError) for found in behind):
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


def _report(
    rows: Iterator[dict[str, Any]],
    parts: int,
    before: int,
    skipped: list[Skipped],
    progress: Progress | None,
    begin: float,
) -> Report:
    pictures, failed, count = 0, 0, 0
    skipped = list(skipped)
    if progress is not None:
        progress("pictures", 0, parts)
    for row in rows:
        count += 1
        pictures += int(row["pictures"])
        failed += int(row["failed"])
        room = max(0, MOST_NAMED - len(skipped))
        skipped += [Skipped(*pair) for pair in row["failures"][:room]]
        if progress is not None:
            progress(f"{pictures} pictures", count, parts)
    return Report(pictures, failed, before, count, time.monotonic() - begin, skipped)


MOST_NAMED = 1000
"""Pictures that a report names."""

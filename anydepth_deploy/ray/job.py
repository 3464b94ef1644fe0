"""The whole job: sources listed, parts shared out among workers, what is written left alone."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.detector.detector import load
from anydepth_deploy.detector.result import check_threshold
from anydepth_deploy.detector.sources import Skipped
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ImageError, UsageError, shorten
from anydepth_deploy.progress import Progress
from anydepth_deploy.ray.needed import needed
from anydepth_deploy.ray.parts import Written, parts_of, written
from anydepth_deploy.ray.places import place_of
from anydepth_deploy.ray.stage import Detect
from anydepth_deploy.ray.tables import groups_of
from anydepth_deploy.ray.work import work_of
from anydepth_deploy.ray.workers import resources_of, room, rows_of_parts, started, writers_of

__all__ = ["Report", "predict_many"]

VERSION = 1
"""Of the files of results; it rises when a column goes, or means something else."""

MOST_NAMED = 1000
"""Pictures that a report names."""


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
    again: bool = False,
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
    group is a part. ``retries``: of a part whose worker died. ``again``: parts with pictures that
    could not be used are made anew, whole. ``options``: as for :class:`Detect`.

    The columns of files are ``path`` (whole, or the address; of a row of a table without one
    ``table.parquet#12``), for tables those that are kept, and those that :class:`Detect` gives.
    Ray is started where it is not, and then ended. Files of another job in ``out`` (network,
    classes, depth, threshold, precision, columns) are refused; those of a table whose size has
    changed are removed and made anew. A part that cannot be made is raised when all others are
    written.

    Raises :class:`MissingExtraError`, :class:`ImageError` where there is no picture, a table cannot
    be read, or results cannot be read or written, :class:`UsageError`, and what
    :func:`anydepth_deploy.load` raises; all but that of workers before Ray is started.
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
    work = work_of(source, filesystem, target)
    columns = options.get("column"), options.get("keep")
    groups = [group for table, size in work.tables for group in groups_of(table, size, *columns)]
    if target.local:
        try_to_write(Path(target.path) / "part.parquet", "file", ImageError)
    done = written(target, record, {str(table): size for table, size in work.tables})
    parts = parts_of(work.pictures, part, done)
    if again:
        parts += done.forget_failures({*work.pictures}, {group.name for group in groups})
    parts += [group for group in groups if group.name not in done.parts]
    before = _before(work.pictures, done)
    if not parts:
        return Report(before=before, skipped=work.skipped)
    with started(ray) as own:
        resources = resources_of(threads, gpus)
        there = room(ray.cluster_resources(), resources, own)
        count = min(workers or there, len(parts))
        begin = time.monotonic()
        writers = writers_of(ray, count, resources, retries, (target, work.place, record, detect))
        rows = rows_of_parts(ray, parts, writers)
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
    manifest, keep = bundle.manifest, detect.get("keep")
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
        "column": detect.get("column"),
        "keep": None if keep is None else sorted(keep),
    }


def _before(names: Sequence[str], done: Written) -> int:
    return sum(name in done.pictures for name in names) if names else done.rows


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
        left = max(0, MOST_NAMED - len(skipped))
        skipped += [Skipped(*pair) for pair in row["failures"][:left]]
        if progress is not None:
            progress(f"{pictures} pictures", count, parts)
    return Report(pictures, failed, before, count, time.monotonic() - begin, skipped)

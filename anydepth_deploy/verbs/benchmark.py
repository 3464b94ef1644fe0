"""``bench``: latency and throughput per depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from anydepth_deploy.bench.combinations import Request, bench_all
from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.progress import Progress

__all__ = ["benchmark"]

Value = TypeVar("Value")

OPTIONS = {item.name for item in fields(Options)} - {"batch", "streams"}


def benchmark(
    path: str | Path | Bundle,
    out: str | Path = "results",
    *,
    depth: str = "all",
    runtime: str | Sequence[str] = (),
    precision: str | Sequence[str] = "fp32",
    batch: int | Sequence[int] = 1,
    threads: int | Sequence[int | None] | None = None,
    streams: int | Sequence[int] = 1,
    progress: Progress | None = None,
    **settings: Any,
) -> list[BenchResult]:
    """Measure a bundle or a checkpoint at each of its depths, as the command ``bench`` does: one
    result for each combination of what may be several, written into the folder, or the file
    ``*.json``, ``out``.

    ``settings``: the others of :class:`~anydepth_deploy.bench.combinations.Request`, and those of
    :class:`~anydepth_deploy.bench.options.Options` (``duration``, ``count``, ``scenario``). Raises
    :class:`TypeError` for one that is neither's, and what
    :func:`~anydepth_deploy.bench.combinations.bench_all` raises.
    """
    request = Request(
        path.path if isinstance(path, Bundle) else Path(path),
        depth=depth,
        runtimes=_several(runtime),
        precisions=_several(precision),
        batches=_several(batch),
        threads=_several(threads),
        streams=_several(streams),
        options=Options(**{name: settings.pop(name) for name in OPTIONS & {*settings}}),
        **settings,
    )
    return [result for _, result in bench_all(request, Path(out), progress=progress)]


def _several(value: Value | Sequence[Value]) -> Sequence[Value]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    return (value,)

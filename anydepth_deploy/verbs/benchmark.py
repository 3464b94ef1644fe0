"""``bench``: latency and throughput per depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from anydepth_deploy.bench.combinations import Request, bench_all
from anydepth_deploy.bench.options import Options, parse_mix
from anydepth_deploy.bench.results import BenchResult
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.progress import Progress
from anydepth_deploy.verbs.words import listed, said_of, size_of, words_of

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

    ``settings``: those of the command by their names, as texts or as what they mean (``size``,
    ``mix``, ``percentiles``, ``decoder_activation``); the others of
    :class:`~anydepth_deploy.bench.combinations.Request`, and those of
    :class:`~anydepth_deploy.bench.options.Options` (``duration``, ``count``, ``scenario``). Raises
    :class:`TypeError` for one that is neither's, and what
    :func:`~anydepth_deploy.bench.combinations.bench_all` raises.
    """
    size, mix, percentiles = (settings.get(name) for name in ("size", "mix", "percentiles"))
    if isinstance(size, str | int):
        settings["size"] = size_of(str(size))
    if isinstance(mix, str):
        settings["mix"] = parse_mix(mix)
    if isinstance(percentiles, str):
        settings["percentiles"] = tuple(float(word) for word in words_of(percentiles))
    if settings.get("images") is not None:
        settings["images"] = Path(settings["images"])
    if (said := said_of(settings)) is not None:
        settings["said"] = said
    request = Request(
        path.path if isinstance(path, Bundle) else Path(path),
        depth=depth,
        runtimes=_names(runtime),
        precisions=_names(precision),
        batches=_several(batch),
        threads=_several(threads),
        streams=_several(streams),
        options=Options(**{name: settings.pop(name) for name in OPTIONS & {*settings}}),
        **settings,
    )
    return [result for _, result in bench_all(request, Path(out), progress=progress)]


def _names(value: str | Sequence[str]) -> Sequence[str]:
    return tuple(listed(value)) if isinstance(value, str) else value


def _several(value: Value | Sequence[Value]) -> Sequence[Value]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    return (value,)

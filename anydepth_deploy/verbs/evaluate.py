"""``eval``: average precision of a bundle, per depth and precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.depth import Depth
from anydepth_deploy.evaluation import Accuracy, CocoData, check_precisions
from anydepth_deploy.evaluation import evaluate as evaluate_depths
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress

__all__ = ["Evaluation", "evaluate", "evaluate_all"]


def evaluate(
    bundle: str | Path | Bundle,
    data: str | Path,
    images: str | Path | None = None,
    *,
    depth: str = "all",
    layout: str | None = None,
    weights: str | None = None,
    precision: str | Sequence[str] = "fp32",
    target: str | None = None,
    runtime: str = "onnxruntime",
    batch: int = 8,
    threads: int | None = None,
    orientation: Orientation | None = None,
    max_pixels: int = MAX_PIXELS,
    match_by_rank: bool = False,
    record: bool = True,
    progress: Progress | None = None,
) -> list[Accuracy]:
    """COCO average precision of ``bundle``, as the command ``eval`` measures it: one row for each
    precision and depth.

    ``data``: annotations in COCO's format; ``images``: the folder of their pictures, by default
    where they are. ``depth``: ``all`` (the ladder), ``every``, or depths joined by commas.
    ``precision``: one, several, or ``all``. ``record``: whether the manifest keeps the outcome. The
    rest, and what is raised, is that of :func:`anydepth_deploy.evaluation.evaluate`.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return evaluate_all(
        opened,
        data,
        images,
        depths=opened.table.select(depth),
        layout=layout,
        weights=weights,
        precisions=[precision] if isinstance(precision, str) else precision,
        target=target,
        runtime=runtime,
        batch=batch,
        threads=threads,
        orientation=orientation,
        max_pixels=max_pixels,
        match_by_rank=match_by_rank,
        record=record,
        watched=lambda _: contextlib.nullcontext(progress),
    ).rows


@dataclass(frozen=True)
class Evaluation:
    """``rows``: by precision and depth, of the pictures of ``data``."""

    data: CocoData
    precisions: list[str]
    rows: list[Accuracy]


def evaluate_all(
    bundle: Bundle,
    data: str | Path,
    images: str | Path | None,
    *,
    depths: Sequence[Depth],
    layout: str | None,
    weights: str | None,
    precisions: Sequence[str],
    target: str | None,
    runtime: str,
    orientation: Orientation | None,
    max_pixels: int,
    watched: Callable[[str], AbstractContextManager[Progress | None]],
    **options: Any,
) -> Evaluation:
    """What :func:`evaluate` and the command ``eval`` do. ``watched``: what a precision is measured
    in, by its name, and what is told how far that is. The rest is as there; ``options``: those of
    :func:`anydepth_deploy.evaluation.evaluate`."""
    artifacts: dict[str, Any] = {
        "layout": layout,
        "weights": weights,
        "target": target,
        "runtime": runtime,
    }
    names = check_precisions(bundle, precisions, **artifacts)
    coco = CocoData(data, images, orientation, max_pixels=max_pixels)
    rows: list[Accuracy] = []
    for name in names:
        with watched(name) as progress:
            rows += evaluate_depths(
                bundle, coco, depths, precision=name, progress=progress, **artifacts, **options
            )
    return Evaluation(coco, list(names), rows)

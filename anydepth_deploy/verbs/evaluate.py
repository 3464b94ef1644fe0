"""``eval``: average precision of a bundle, per depth and precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.evaluation import Accuracy, CocoData, check_precisions
from anydepth_deploy.evaluation import evaluate as evaluate_depths
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress

__all__ = ["evaluate"]


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
    depths = opened.table.select(depth)
    names = check_precisions(
        opened,
        [precision] if isinstance(precision, str) else precision,
        layout=layout,
        weights=weights,
        runtime=runtime,
        target=target,
    )
    coco = CocoData(data, images, orientation, max_pixels=max_pixels)
    rows: list[Accuracy] = []
    for name in names:
        rows += evaluate_depths(
            opened,
            coco,
            depths,
            layout=layout,
            weights=weights,
            precision=name,
            target=target,
            runtime=runtime,
            batch=batch,
            threads=threads,
            progress=progress,
            record=record,
            match_by_rank=match_by_rank,
        )
    return rows

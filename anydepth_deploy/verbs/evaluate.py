"""``eval``: average precision of a bundle, per depth and precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.annotations.difference_files import (
    DIFFERENCES,
    Differences,
    save_differences,
)
from anydepth_deploy.annotations.results_files import write_results
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ImageError, UsageError, shorten
from anydepth_deploy.evaluation import Accuracy, CocoData, Found, check_precisions
from anydepth_deploy.evaluation import evaluate as evaluate_depths
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress

__all__ = ["Evaluation", "Files", "evaluate", "evaluate_all"]


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
    save_differences: str | Path | None = None,
    between: str = "super,base",
    pictures: int = 12,
    detections: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Accuracy]:
    """COCO average precision of ``bundle``, as the command ``eval`` measures it: one row for each
    precision and depth.

    ``data``: annotations in COCO's format; ``images``: the folder of their pictures, by default
    where they are. ``depth``: ``all`` (the ladder), ``every``, or depths joined by commas.
    ``precision``: one, several, or ``all``. ``record``: whether the manifest keeps the outcome.
    ``save_differences``: a folder for drawings of the ``pictures`` pictures on which the
    two ``between`` differ most in the first precision, and ``differences.json``; see
    :mod:`anydepth_deploy.annotations.differences`. ``detections``: a folder for what was found, in
    COCO's results format, ``PRECISION-DEPTH.json`` each. The rest, and what is raised, is that
    of :func:`anydepth_deploy.evaluation.evaluate`.
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
        files=Files(
            None if save_differences is None else Path(save_differences),
            between,
            pictures,
            None if detections is None else Path(detections),
        ),
        watched=lambda _: contextlib.nullcontext(progress),
    ).rows


@dataclass(frozen=True)
class Files:
    """What an evaluation leaves beside its figures; the fields are options of :func:`evaluate`."""

    save_differences: Path | None = None
    between: str = "super,base"
    pictures: int = 12
    detections: Path | None = None

    def check(self, bundle: Bundle, depths: Sequence[Depth]) -> tuple[Depth, Depth] | None:
        """The two depths whose pictures are saved; None where none are. Raises
        :class:`UsageError` for others than two depths among ``depths``, for no picture, and
        :class:`ImageError` where a folder cannot be written to."""
        for folder, file in ((self.save_differences, DIFFERENCES), (self.detections, "x.json")):
            if folder is not None:
                try_to_write(folder / file, "file", ImageError)
        if self.save_differences is None:
            return None
        if self.pictures < 1:
            raise UsageError(f"{self.pictures} pictures of differences: expected 1 or more")
        found = list(dict.fromkeys(bundle.table.select(self.between)))
        if len(found) != 2:
            raise UsageError(
                f"differences are between two depths, not {len(found)}: name two different ones, "
                "e.g. super,base"
            )
        missing = [str(depth) for depth in found if depth not in depths]
        if missing:
            raise UsageError(
                f"differences need depths that are not evaluated: {shorten(missing)}: add them to "
                "the depths, or name others for the differences"
            )
        return found[0], found[1]


@dataclass(frozen=True)
class Evaluation:
    """``rows``: by precision and depth, of the pictures of ``data``. ``detections``: files that
    were written; ``differences``: the document of the two depths, where it was asked for."""

    data: CocoData
    precisions: list[str]
    rows: list[Accuracy]
    detections: list[Path]
    differences: Differences | None


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
    match_by_rank: bool = False,
    files: Files | None = None,
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
    files = files or Files()
    pair = files.check(bundle, depths)
    coco = CocoData(data, images, orientation, max_pixels=max_pixels)
    rows: list[Accuracy] = []
    kept: list[Found] = []
    written: list[Path] = []
    differences: Differences | None = None
    for name in names:
        with watched(name) as progress:
            rows += evaluate_depths(
                bundle,
                coco,
                depths,
                precision=name,
                progress=progress,
                match_by_rank=match_by_rank,
                keep=kept.append,
                **artifacts,
                **options,
            )
            found = kept.pop()
            if files.detections is not None:
                written += write_results(files.detections, found, name)
            if files.save_differences is not None and pair is not None and differences is None:
                classes = coco.mapping(bundle.classes, by_rank=match_by_rank).ids
                differences = save_differences(
                    files.save_differences,
                    coco,
                    found,
                    pair,
                    dict(zip(classes, bundle.classes, strict=True)),
                    precision=name,
                    most=files.pictures,
                )
    return Evaluation(coco, list(names), rows, written, differences)

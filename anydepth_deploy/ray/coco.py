"""Files of results as one file of COCO's results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.items import FilePicture
from anydepth_deploy.detector.rows import detection_rows
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import ImageError
from anydepth_deploy.predict.formats import CocoResults, ImageIds, category_ids
from anydepth_deploy.predict.run import Prediction
from anydepth_deploy.ray.parts import part_files
from anydepth_deploy.ray.places import Place, place_of
from anydepth_deploy.ray.results import Results, damaged, read_results

__all__ = ["write_coco"]

COLUMNS = ["path", "depth", "boxes", "scores", "labels", "error"]


def write_coco(
    results: str | Path, file: str | Path, *, data: str | Path | None = None, filesystem: Any = None
) -> int:
    """Write what :func:`predict_many` left in the folder ``results`` as an array of COCO's results,
    whole or not at all, and return how many pictures it is of: what ``predict --format coco``
    prints of the same pictures. Those that cannot be used are not in it.

    ``data``: the annotation file whose ids of pictures and classes to use, matched by the names of
    files; by default an id is the number that a file is called by, or they count from 1 in the
    order of paths. ``filesystem``: of ``results``, as for :func:`predict_many`. All names are held
    in memory, and the results of one file.

    Raises :class:`ImageError` where there are no results, a file of them is damaged, or pictures
    have no id in ``data``, and :class:`MissingExtraError` without pyarrow.
    """
    place = place_of(results, filesystem)
    files = part_files(place)
    if not files:
        raise ImageError(f"{place} holds no results of predict_many")
    annotations = None if data is None else Path(data)
    classes, names = _named(files)
    items = [FilePicture(name) for name in sorted(names, key=Path)]
    ids = ImageIds(items, annotations)
    usable = [item.name for item in items if names[item.name]]
    numbers = {name: ids.of(Prediction("", "", "", source=name)) for name in usable}
    categories = category_ids(annotations, classes)

    def write(opened: BinaryIO) -> None:
        output = CocoResults(
            lambda text: opened.write(text.encode()), _Numbers(numbers), categories
        )
        for part in files:
            for row in _rows(part):
                output.add(_prediction(row, classes, part))
        output.end()

    write_or_refuse(Path(file), write, "results", ImageError)
    return len(usable)


@dataclass(frozen=True)
class _Numbers:
    """Ids that are known, in whatever order they are asked for."""

    by_name: dict[str, int]

    def of(self, item: Prediction) -> int:
        return self.by_name[item.source]


def _named(files: list[Place]) -> tuple[list[str], dict[str, bool]]:
    """The names of classes, and of pictures, and whether these could be used."""
    classes: list[str] | None = None
    names: dict[str, bool] = {}
    for place in files:
        found = _whole(place, ["path", "error"])
        theirs = found.record.get("classes")
        if not isinstance(theirs, list) or not all(isinstance(name, str) for name in theirs):
            raise damaged(place, "it does not say which classes it has")
        if classes is not None and theirs != classes:
            raise ImageError(
                f"{place} is of another job than the files beside it: its classes are others; "
                "give each job a folder"
            )
        classes = theirs
        names.update((row["path"], row["error"] is None) for row in found.rows.to_pylist())
    return classes or [], names


def _rows(place: Place) -> Iterator[dict[str, Any]]:
    rows = _whole(place, COLUMNS).rows.to_pylist()
    return (row for row in rows if row["error"] is None)


def _whole(place: Place, columns: list[str]) -> Results:
    found = read_results(place, columns)
    if found is None:
        raise ImageError(f"{place} is cut short: start the job again, which makes it anew")
    return found


def _prediction(row: dict[str, Any], classes: list[str], place: Place) -> Prediction:
    try:
        labels = np.array(row["labels"], np.int64)
        boxes = np.array(row["boxes"], np.float32).reshape(len(labels), 4)
        scores = np.array(row["scores"], np.float32).reshape(len(labels))
    except (TypeError, ValueError):
        raise damaged(place, f"boxes, scores and labels of {row['path']} do not fit") from None
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise damaged(place, f"boxes or scores of {row['path']} are no numbers")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise damaged(place, f"labels of {row['path']} are not below {len(classes)}, its classes")
    found = Detections(labels[None], boxes[None], scores[None])
    rows = detection_rows(found, classes.__getitem__)
    return Prediction("", row["depth"], "", detections=rows, source=row["path"])

"""Detections in the formats of the field, written as they come.

COCO's results are described at https://cocodataset.org/#format-results, YOLO's labels are those
that Ultralytics and Darknet read: class, centre, width and height as shares of the picture's sides.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from anydepth_deploy.annotations.categories import match_classes
from anydepth_deploy.annotations.coco import read_coco
from anydepth_deploy.detector.frames import AnyItem, VideoItem
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import ImageError, UsageError, readable, shorten
from anydepth_deploy.predict.run import Prediction

__all__ = ["CocoResults", "CsvRows", "YoloLabels"]

Write = Callable[[str], object]

COLUMNS = ("image", "frame", "time", "depth", "class", "label", "score", "x1", "y1", "x2", "y2")


class CsvRows:
    """One row a detection, below a row with the names of the columns."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._begun = False

    def add(self, item: Prediction) -> None:
        self._begin()
        for found in item.detections:
            picture = (readable(item.image), item.frame, item.time, item.depth)
            what = (readable(found["class"]), found["label"], found["score"])
            self._line((*picture, *what, *found["box"]))

    def end(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._line(COLUMNS)

    def _line(self, cells: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._write(text.getvalue())


class Ids(Protocol):
    """Gives pictures their numbers."""

    def of(self, item: Prediction) -> int: ...


class CocoResults:
    """An array of COCO's results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height),
    ``score``, as pycocotools loads them."""

    def __init__(self, write: Write, ids: Ids, categories: Sequence[int]) -> None:
        self._write = write
        self._ids = ids
        self._categories = categories
        self._separator = "[\n"

    def add(self, item: Prediction) -> None:
        image_id = self._ids.of(item)
        for found in item.detections:
            left, top, right, bottom = found["box"]
            content = {
                "image_id": image_id,
                "category_id": self._categories[found["label"]],
                "bbox": [left, top, round(right - left, 3), round(bottom - top, 3)],
                "score": found["score"],
            }
            self._write(self._separator + json.dumps(content))
            self._separator = ",\n"

    def end(self) -> None:
        self._write("\n]\n" if self._separator == ",\n" else "[]\n")


class ImageIds:
    """The number of each picture: what an annotation file says; else the number that is its file's
    name, as COCO's pictures are called; else, where one is called otherwise, 1, 2, 3 in order."""

    def __init__(self, items: Sequence[AnyItem], data: Path | None) -> None:
        self._named: dict[str, int] = {}
        self._data = data
        self._next = 0
        if data is not None:
            self._named = _annotated(items, data)
        else:
            stems = [Path(item.name).stem for item in items]
            numbers = [int(stem) for stem in stems if re.fullmatch("[0-9]{1,18}", stem)]
            videos = any(isinstance(item, VideoItem) for item in items)
            if len({*numbers}) == len(items) and not videos:
                self._named = dict(zip([item.name for item in items], numbers, strict=True))

    @property
    def note(self) -> str | None:
        """What a reader of these numbers has to know."""
        if self._named or self._data is not None:
            return None
        return (
            "image_id counts the pictures from 1, since they are not called by numbers: --data "
            "FILE takes the ids of an annotation file"
        )

    def of(self, item: Prediction) -> int:
        if item.source in self._named:
            return self._named[item.source]
        self._next += 1
        return self._next


def _annotated(items: Sequence[AnyItem], data: Path) -> dict[str, int]:
    videos = [item.name for item in items if isinstance(item, VideoItem)]
    if videos:
        raise UsageError(f"--data has ids of pictures, and {shorten(videos, 3)} is a video")
    by_name: dict[str, list[int]] = {}
    for image in read_coco(data, annotated=False)["images"]:
        by_name.setdefault(Path(image["file_name"].replace("\\", "/")).name, []).append(image["id"])
    missing = [item.name for item in items if len(by_name.get(Path(item.name).name, [])) != 1]
    if missing:
        raise ImageError(
            f"{data} has no id, or several, for {len(missing)} of {len(items)} pictures: "
            f"{shorten(missing, 3)}; give pictures of this file"
        )
    return {item.name: by_name[Path(item.name).name][0] for item in items}


def category_ids(data: Path | None, class_names: Sequence[str]) -> Sequence[int]:
    """The id of each class: of an annotation file, matched by name, or 1, 2, 3."""
    if data is None:
        return range(1, len(class_names) + 1)
    return [
        int(number)
        for number in match_classes(data, read_coco(data, annotated=False), class_names).ids
    ]


class YoloLabels:
    """A text file for each picture, also without detections: ``label cx cy w h score``, in shares
    of the picture's sides. Of a frame, its number is in the name: ``clip_12.txt``."""

    def __init__(self, places: dict[str, Path]) -> None:
        self._places = places
        self.count = 0

    def add(self, item: Prediction) -> None:
        begin = self._places[item.source]
        end = "" if item.frame is None else f"_{item.frame}"
        lines = "".join(_yolo_line(found, item.size) for found in item.detections)
        path = begin.with_name(f"{begin.name}{end}.txt")
        write_or_refuse(path, lambda file: file.write(lines.encode()), "labels", ImageError)
        self.count += 1

    def end(self) -> None:
        pass


def _yolo_line(found: dict[str, Any], size: tuple[int, int]) -> str:
    height, width = size
    left, top, right, bottom = found["box"]
    sides = (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )
    return f"{found['label']} {' '.join(f'{side:.6f}' for side in sides)} {found['score']:.6f}\n"

"""A data set to train on or to validate with: pictures in files, and where which objects are.

It may have hundreds of thousands of pictures and is copied to each process that loads some of them,
so objects are kept in a few arrays, and no picture is opened before it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.annotations.categories import (
    Matching,
    classes_with_category,
    match_classes,
)
from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.pictures.annotated import ways_of
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import load_image, read_header
from anydepth_deploy.pictures.orientation import Header

__all__ = [
    "DetectionSet",
    "Objects",
    "Record",
    "check_unreadable",
    "missing_pictures",
    "most_unreadable",
]

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Record:
    """One picture of a data set.

    ``key``: its id in annotations. ``size``: height and width as its boxes mean it, None where only
    its file tells. ``boxes``: float64 [n, 4] as x, y, width, height, in pixels or, in a data set
    that is ``relative``, as shares of the picture; ``labels``: int64 [n]; ``crowd``: bool [n], of
    boxes around many objects, which nothing is trained on.
    """

    path: Path
    key: int
    size: Size | None
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class Objects:
    """Objects of all pictures, in any order: ``owner`` int64 [M] is the picture's place, ``boxes``
    float64 [M, 4] as x, y, width, height, ``labels`` int64 [M], ``crowd`` bool [M], ``areas``
    float64 [M] in the square of the boxes' unit."""

    owner: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]

    def chosen(self, which: NDArray[Any]) -> Objects:
        """Those that a mask or an index array names."""
        return Objects(
            self.owner[which],
            self.boxes[which],
            self.labels[which],
            self.crowd[which],
            self.areas[which],
        )


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Pictures and their objects; see :func:`~anydepth_deploy.train.data.read.read_data_set`.

    ``source``: the file that names them. ``classes``: in the order of the labels. ``paths``,
    ``keys`` (int64 [N]) and ``sizes`` (int64 [N, 2], height and width, 0 where nothing says) of the
    pictures; ``objects``: sorted by picture, whose first ones are ``firsts`` (int64 [N + 1]).
    ``relative``: whether boxes are shares of their pictures. ``findings``: what is odd about it.
    """

    source: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    keys: NDArray[np.int64]
    sizes: NDArray[np.int64]
    objects: Objects
    firsts: NDArray[np.int64]
    relative: bool
    findings: tuple[Finding, ...] = ()
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(
        cls,
        source: Path,
        classes: Sequence[str],
        pictures: Sequence[tuple[Path, int, Size]],
        objects: Objects,
        *,
        relative: bool,
        findings: Sequence[Finding],
        max_pixels: int = MAX_PIXELS,
    ) -> DetectionSet:
        """``pictures``: path, key and size of each, size 0 where it is not known. Raises
        :class:`ImageError` for a set without any object to learn."""
        if bool(objects.crowd.all()):
            raise ImageError(
                f"data set {source} has {len(pictures)} pictures and no object in them that can be "
                "learned: give at least one box"
            )
        objects = objects.chosen(np.argsort(objects.owner, kind="stable"))
        return cls(
            source,
            tuple(classes),
            tuple(str(path) for path, _, _ in pictures),
            np.array([key for _, key, _ in pictures], np.int64),
            np.array([size for _, _, size in pictures], np.int64).reshape(-1, 2),
            objects,
            np.searchsorted(objects.owner, np.arange(len(pictures) + 1)).astype(np.int64),
            relative,
            tuple(findings),
            max_pixels,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, index: int) -> Record:
        """The picture at a place, 0 to the length."""
        which = slice(self.firsts[index], self.firsts[index + 1])
        height, width = (int(side) for side in self.sizes[index])
        size = (height, width) if height and width else None
        found = self.objects
        return Record(
            Path(self.paths[index]),
            int(self.keys[index]),
            size,
            found.boxes[which],
            found.labels[which],
            found.crowd[which],
        )

    def picture(self, index: int) -> NDArray[np.uint8]:
        """The picture as its boxes mean it, uint8 [H, W, 3].

        It is turned upright, unless the data set says a size that is that of its stored pixels.
        Raises :class:`ImageError` for one that cannot be read, and for a size in neither way.
        """
        upright = self._upright(index, read_header(self.paths[index], max_pixels=self.max_pixels))
        return load_image(self.paths[index], upright=upright, max_pixels=self.max_pixels)

    def annotated(
        self, index: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
        """A picture uint8 [H, W, 3], the boxes of its objects float64 [n, 4] as x1, y1, x2, y2 in
        pixels within it, and their labels int64 [n]. Crowds, and boxes of which nothing is in the
        picture, are left out. Raises :class:`ImageError` as :meth:`picture` does."""
        image, record = self.picture(index), self.record(index)
        height, width = image.shape[:2]
        edges = np.array([width, height], np.float64)
        boxes = record.boxes * np.tile(edges, 2) if self.relative else record.boxes
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        corners = np.clip(corners, 0, np.tile(edges, 2))
        kept = ~record.crowd & np.all(corners[:, 2:] > corners[:, :2], axis=1)
        return image, corners[kept], record.labels[kept]

    def content(self, unreadable: dict[str, str] | None = None) -> dict[str, Any]:
        """The set as a COCO file would have it: lists ``images``, ``annotations`` and
        ``categories``, the category of class k having the id k + 1.

        Boxes are as they were given, crowds included, so that figures are those of the file. The
        headers of pictures are read where nothing says their size. Raises :class:`ImageError` for
        one that cannot be read, unless there is ``unreadable``: then its path and the reason are
        put there, and it is left out.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, path in enumerate(self.paths):
            record = self.record(index)
            try:
                height, width = record.size or self._real_size(index)
            except ImageError as error:
                if unreadable is None:
                    raise
                unreadable[path] = str(error)
                continue
            images.append({"id": record.key, "file_name": path, "width": width, "height": height})
            units = np.array([width, height] * 2, np.float64) if self.relative else np.ones(4)
            areas = self.objects.areas[self.firsts[index] : self.firsts[index + 1]]
            for box, label, crowd, area in zip(
                record.boxes * units, record.labels, record.crowd, areas, strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record.key,
                        "category_id": int(label) + 1,
                        "bbox": [float(side) for side in box],
                        "area": float(area * units[0] * units[1]),
                        "iscrowd": int(crowd),
                    }
                )
        return {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": label + 1, "name": name} for label, name in enumerate(self.classes)
            ],
        }

    def matched(self, classes: Sequence[str]) -> tuple[DetectionSet, Matching]:
        """The set with its labels counted as ``classes`` are, and how names were matched; objects
        of a category that is none of them are left out, classes without a category have no objects.

        Raises :class:`ImageError` as :func:`~anydepth_deploy.annotations.categories.match_classes`
        does, but where some classes have a category and others have none, and where no object is
        left.
        """
        labels = self.objects.labels
        small = {
            "categories": [
                {"id": label + 1, "name": name} for label, name in enumerate(self.classes)
            ],
            "annotations": [
                {"category_id": int(label) + 1, "iscrowd": int(crowd)}
                for label, crowd in zip(labels, self.objects.crowd, strict=True)
            ],
        }
        places = classes_with_category(self.source, small, classes)
        if not places:
            raise ImageError(
                f"data set {self.source}: none of its categories ({shorten(self.classes)}) has the "
                f"name of a class of the network ({shorten(classes)}): give categories the names "
                "of the classes"
            )
        present = [classes[place] for place in places]
        matching = match_classes(self.source, small, present, left_out=True)
        new = np.full(len(self.classes), -1, np.int64)
        new[np.array(matching.ids) - 1] = places
        kept = self.objects.chosen(new[labels] >= 0)
        pictures = [
            (Path(path), int(key), (int(size[0]), int(size[1])))
            for path, key, size in zip(self.paths, self.keys, self.sizes, strict=True)
        ]
        found = DetectionSet.of(
            self.source,
            classes,
            pictures,
            replace(kept, labels=new[kept.labels]),
            relative=self.relative,
            findings=(*self.findings, *matching.findings, *self._lacking(classes, present)),
            max_pixels=self.max_pixels,
        )
        return found, matching

    def _lacking(self, classes: Sequence[str], present: Sequence[str]) -> list[Finding]:
        """A finding if some classes have no category here."""
        lacking = [name for name in classes if name not in present]
        if not lacking:
            return []
        one = len(lacking) == 1
        text = (
            f"{len(lacking)} of {len(classes)} classes {'has' if one else 'have'} no category in "
            f"{self.source} and count{'s' * one} in no figure: {shorten(lacking, 10)}"
        )
        return [Finding("class without category", len(lacking), len(classes), text)]

    def _real_size(self, index: int) -> Size:
        header = read_header(self.paths[index], max_pixels=self.max_pixels)
        return header.upright if self._upright(index, header) else header.stored

    def _upright(self, index: int, header: Header) -> bool:
        height, width = (int(side) or None for side in self.sizes[index])
        ways = ways_of((height, width), header)
        if not ways:
            rows, columns = header.stored
            raise ImageError(
                f"picture {self.paths[index]} is {columns} x {rows} (width x height), in "
                f"{self.source} it is {width or '?'} x {height or '?'}: boxes would not be where "
                "the objects are; give the annotated pictures"
            )
        return "upright" in ways


def most_unreadable(count: int) -> int:
    """How many of ``count`` pictures may be missing or damaged: 1 %, or one where that is less, and
    never all."""
    return min(max(1, count // 100), count - 1)


def check_unreadable(source: Path, count: int, unreadable: Mapping[Any, str]) -> None:
    """Raises :class:`ImageError` where more of the ``count`` pictures of a set cannot be read than
    may be; ``unreadable``: the reasons."""
    if len(unreadable) > most_unreadable(count):
        first = next(iter(unreadable.values()))
        raise ImageError(
            f"data set {source}: {len(unreadable)} of {count} pictures cannot be used, more than "
            f"1 %; the first: {first.rstrip('.')}; repair these pictures, or leave them out of the "
            "data set"
        )


def missing_pictures(
    source: Path, names: Sequence[str], paths: Sequence[Path | None], advice: str
) -> list[Finding]:
    """A finding if some of the pictures ``names`` were not found, and so have no path.

    Raises :class:`ImageError`, which ends with ``advice``, for more than :func:`most_unreadable`.
    """
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if not missing:
        return []
    verb = "is" if len(missing) == 1 else "are"
    told = (
        f"{len(missing)} of the {len(names)} pictures that {source} names {verb} not there: "
        f"{shorten(missing, 3)}"
    )
    if len(missing) > most_unreadable(len(names)):
        raise ImageError(f"{told}; {advice}")
    return [Finding("picture missing", len(missing), len(names), told)]

"""Boxes of a COCO file held against their pictures.

COCO's boxes are x, y, width, height in pixels. Files with other numbers in their place (corners,
centres, shares of the picture, zeros beside polygons) score near nothing, whatever the network:
they are refused. Single boxes that no detector can find, or objects that are there twice, change
a figure by a little: they are counted, and the figure says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, shorten

__all__ = ["SLACK", "check_areas", "check_boxes", "check_pictures"]

SLACK = 2.0
"""Pixels by which a box may reach beyond its picture: files round x and width one by one, and some
count pixels from 1."""

EXPECTED = "expected x, y, width, height in pixels of the picture"

Mask = NDArray[np.bool_]

Size = tuple[float, float]
"""Width and height in pixels."""


def check_boxes(
    path: Path, content: Mapping[str, Any], frames: Mapping[int, Size]
) -> list[Finding]:
    """What is odd about the boxes of a COCO file, whose annotations were read and are numbers.

    ``frames``: width and height by the pictures' ids, in the frame of the boxes; boxes of pictures
    without one are not held against their edges. Raises :class:`ImageError` where most boxes
    cannot be what they should be.
    """
    if not content["annotations"]:
        return []
    held = _Held(path, content, frames)
    held.refuse()
    return held.findings()


def check_areas(content: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The annotations of a COCO file, and what is odd about their areas, which sort objects into
    small, medium and large. An area below a pixel beside a larger box is one that nobody computed:
    width x height takes its place.
    """
    annotations: list[dict[str, Any]] = list(content["annotations"])
    absent, large = [], []
    for index, item in enumerate(annotations):
        width, height = item["bbox"][2:]
        if item["area"] < 1 and width * height > (1 if item["area"] == 0 else 16):
            absent.append(index)
            annotations[index] = {**item, "area": width * height}
        elif width * height > 0 and item["area"] > max(
            2 * width * height, (width + SLACK) * (height + SLACK)
        ):
            large.append(index)
    findings = []
    for kind, places, told in (
        ("no area", absent, "below a pixel beside a larger box: width x height is taken instead"),
        ("area beyond box", large, "more than twice their box, which moves objects between sizes"),
    ):
        if places:
            first = content["annotations"][places[0]]
            text = (
                f"{_of(len(places), len(annotations), 'area')} {told}; the first: annotations"
                f"[{places[0]}], area {first['area']:g}, bbox {_numbers(first['bbox'])}"
            )
            findings.append(Finding(kind, len(places), len(annotations), text))
    return annotations, findings


def check_pictures(images: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether one file is there under several ids: what is annotated under one of them is missed,
    and a false detection, under the others."""
    ids: dict[str, list[int]] = {}
    for item in images:
        ids.setdefault(os.path.normpath(item["file_name"]), []).append(item["id"])
    twice = {name: found for name, found in ids.items() if len(found) > 1}
    if not twice:
        return []
    name, found = next(iter(twice.items()))
    text = (
        f"{_of(len(twice), len(ids), 'picture')} there under several ids, and counted once for "
        f"each; the first: {shorten([name])}, ids {shorten(found)}"
    )
    return [Finding("picture twice", len(twice), len(ids), text)]


class _Held:
    """The boxes as arrays, and which of them are odd."""

    def __init__(self, path: Path, content: Mapping[str, Any], frames: Mapping[int, Size]) -> None:
        self._path, self._annotations = path, content["annotations"]
        self._names = {item["id"]: item["file_name"] for item in content["images"]}
        self._frames = frames
        self.count = len(self._annotations)
        boxes = np.array([item["bbox"] for item in self._annotations], np.float64)
        unknown = (np.inf, np.inf)
        edges = np.array([frames.get(item["image_id"], unknown) for item in self._annotations])
        self._near, self._size, self._edges = boxes[:, :2], boxes[:, 2:], edges
        self._far = self._near + self._size
        self.empty: Mask = np.any(self._size <= 0, axis=1)
        self.tiny: Mask = ~self.empty & np.all(self._size < 1, axis=1)
        off = ~self.empty & ~_within(self._near, self._far, edges)
        apart: Mask = np.any((self._near >= edges) | (self._far <= 0), axis=1)
        self.outside: Mask = off & apart
        self.beyond: Mask = off & ~apart
        self.twice = self._repeated()

    def refuse(self) -> None:
        """Raise :class:`ImageError` where no more than half of the boxes can be true."""
        empty, tiny = int(self.empty.sum()), int(self.tiny.sum())
        off = int((self.beyond | self.outside).sum())
        wrong = empty + int((self.tiny | self.beyond | self.outside).sum())
        full = ~self.empty
        if 2 * empty > self.count:
            self._refuse(_of(empty, self.count, "box") + " empty (width or height 0)", self.empty,
                         self._polygons())  # fmt: skip
        if (self._size[full] <= 1).all() or 2 * tiny > self.count:
            small = full & (self._size <= 1).all(axis=1)
            self._refuse(
                _of(int(small.sum()), self.count, "box") + " no larger than a pixel",
                small,
                "; numbers from 0 to 1 are shares of the picture: multiply them by its width and "
                "height",
            )
        readings = self._other_readings()
        enough = {"x1, y1, x2, y2": max(2.99, self.count / 4)}
        limits = [enough.get(name, max(2.99, self.count / 100)) for name in readings]
        if off and (2 * off > self.count or off > min(limits, default=self.count)):
            hint = (
                f"; as {' or as '.join(readings)} all of them would fit: convert them"
                if readings
                else "; give boxes and pictures in the same pixels"
            )
            told = _of(off, self.count, "box", "reach") + (
                f" beyond the picture by more than {SLACK:g} pixels"
            )
            self._refuse(told, self.beyond | self.outside, hint)
        if 2 * wrong > self.count:
            told = _of(wrong, self.count, "box") + " empty, below a pixel or beyond the picture"
            self._refuse(told, self.empty | self.tiny | self.beyond | self.outside, "")

    def findings(self) -> list[Finding]:
        """A line for each kind of odd box that is there."""
        readings = self._other_readings()
        other = f" (as {' or as '.join(readings)} all would fit)" if readings else ""
        kinds = (
            ("empty", self.empty, "", " empty (width or height 0): nothing can find them"),
            ("below a pixel", self.tiny, "", " smaller than a pixel"),
            ("outside", self.outside, "lie", f" outside the picture: nothing can find them{other}"),
            (
                "beyond the edge",
                self.beyond,
                "reach",
                f" beyond the picture by more than {SLACK:g} pixels{other}",
            ),
            (
                "twice",
                self.twice,
                "repeat",
                " another one of the same picture and category: what is found once is missed once",
            ),
        )
        return [
            Finding(
                kind,
                int(mask.sum()),
                self.count,
                f"{_of(int(mask.sum()), self.count, 'box', verb)}{told}; the first: "
                f"{self._first(mask)}",
            )
            for kind, mask, verb, told in kinds
            if mask.any()
        ]

    def _other_readings(self) -> list[str]:
        """What else the four numbers may be, so that every box is in its picture."""
        full = ~self.empty
        near, size, edges = self._near[full], self._size[full], self._edges[full]
        found = []
        if (size >= near).all() and _within(near, size, edges).all():
            found.append("x1, y1, x2, y2")
        if _within(near - size / 2, near + size / 2, edges).all():
            found.append("centre x, centre y, width, height")
        return found

    def _repeated(self) -> Mask:
        """Boxes that an earlier annotation of the same picture and category has, too, to a
        hundredth of a pixel."""
        seen: set[tuple[object, ...]] = set()
        repeated = np.zeros(self.count, np.bool_)
        places = np.round(np.concatenate([self._near, self._size], axis=1), 2).tolist()
        for index, (item, place) in enumerate(zip(self._annotations, places, strict=True)):
            key = (item["image_id"], item["category_id"], item["iscrowd"], *place)
            repeated[index] = key in seen and not self.empty[index]
            seen.add(key)
        return repeated

    def _polygons(self) -> str:
        outlined = sum(bool(item.get("segmentation")) for item in self._annotations)
        if not outlined:
            return ""
        return (
            f"; {outlined} of the annotations have a segmentation, which is not read: give each "
            "the box around it as its bbox"
        )

    def _refuse(self, told: str, mask: Mask, hint: str) -> None:
        raise ImageError(
            f"annotations {self._path}: {told}, {EXPECTED}; the first: {self._first(mask)}{hint}"
        )

    def _first(self, mask: Mask) -> str:
        index = int(np.argmax(mask))
        item = self._annotations[index]
        name = shorten([self._names[item["image_id"]]])
        text = f"annotations[{index}], bbox {_numbers(item['bbox'])}, in {name}"
        if (size := self._frames.get(item["image_id"])) is None:
            return text
        return f"{text} of {size[0]:g} x {size[1]:g}"


def _within(
    near: NDArray[np.float64], far: NDArray[np.float64], edges: NDArray[np.float64]
) -> Mask:
    """Which boxes from ``near`` to ``far``, [N, 2] each, are in their pictures but for
    :data:`SLACK`."""
    found: Mask = np.all((near >= -SLACK) & (far <= edges + SLACK), axis=1)
    return found


def _numbers(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{side:.6g}' for side in box)}]"


def _of(count: int, total: int, noun: str, verb: str = "") -> str:
    """``3 of 57 boxes are``, ``1 of 1 area is``, ``3 of 57 boxes reach``."""
    plural = {"box": "boxes"}.get(noun, f"{noun}s") if total != 1 else noun
    singular = f"{verb}{'es' if verb.endswith('ch') else 's'}" if verb else "is"
    return f"{count} of {total} {plural} {singular if count == 1 else verb or 'are'}"

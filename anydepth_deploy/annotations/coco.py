"""Files in COCO's format, read: strictly for figures, and what can be used of them for training.

A figure is of all that a file says, so whatever is wrong in it is refused. Training loses little
without single annotations: they are left out, counted and said, as long as they are few.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, shorten
from anydepth_deploy.reading.regular import read_regular

__all__ = ["read_coco", "sift_coco"]

FIELDS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}
"""What the lists of a COCO file must say about each of their items."""

EXPECTED = {int: "an integer", str: "text", list: "the numbers x, y, width, height"}

LARGEST_ID = 2**53
"""Scoring keeps ids in float64."""

FARTHEST = 1e9
"""Coordinates in pixels beyond this are no box of any picture; NaN and infinity fail it too."""


class Problem(NamedTuple):
    """What is wrong with an item: a short name that stays, and words that follow "has"."""

    kind: str
    text: str


def read_coco(path: Path, *, annotated: bool = True) -> dict[str, Any]:
    """The content of a file, all of which can be used; ``area`` and ``iscrowd`` are filled in where
    they are left out, and annotations have ids from 1 on. Without ``annotated``, a file that only
    lists pictures and categories will do (``image_info_test-dev2017.json``).

    Raises :class:`ImageError` for a file that cannot be read, has no annotated picture or
    contradicts itself.
    """
    content = _read_lists(path, annotated=annotated)
    for name in FIELDS:
        _check_items(path, content, name)
    images = {item["id"] for item in content["images"]}
    categories = {item["id"] for item in content["categories"]}
    annotations = []
    for index, item in enumerate(content["annotations"]):
        if (problem := _wrong_annotation(item, images, categories)) is not None:
            raise ImageError(f"annotations {path}: annotations[{index}] has {problem.text}")
        annotations.append(_filled(item, index))
    return {**content, "annotations": annotations}


def sift_coco(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The content of a file as :func:`read_coco` gives it, without the annotations that cannot be
    used, and a finding for each kind of those.

    Raises :class:`ImageError` where pictures or categories are wrong, and where that is so of more
    than half of the annotations.
    """
    content = _read_lists(path)
    for name in ("images", "categories"):
        _check_items(path, content, name)
    images = {item["id"] for item in content["images"]}
    categories = {item["id"] for item in content["categories"]}
    annotations: list[dict[str, Any]] = []
    wrong: dict[str, list[tuple[int, str]]] = {}
    for index, item in enumerate(content["annotations"]):
        problem = _wrong_item(item, FIELDS["annotations"]) or _wrong_annotation(
            item, images, categories
        )
        if problem is None:
            annotations.append(_filled(item, len(annotations)))
        else:
            wrong.setdefault(problem.kind, []).append((index, problem.text))
    total = len(content["annotations"])
    if 2 * (left_out := total - len(annotations)) > total:
        index, text = max(wrong.values(), key=len)[0]
        raise ImageError(
            f"annotations {path}: {left_out} of {total} annotations cannot be used; the first of "
            f"most of them: annotations[{index}] has {text}; correct the file"
        )
    findings = [
        Finding(
            kind,
            len(places),
            total,
            f"{len(places)} of {total} annotations {'is' if len(places) == 1 else 'are'} left out; "
            f"the first: annotations[{places[0][0]}] has {places[0][1]}",
        )
        for kind, places in wrong.items()
    ]
    return {**content, "annotations": annotations}, findings


def _read_lists(path: Path, *, annotated: bool = True) -> dict[str, Any]:
    try:
        # From bytes, JSON is read in whatever UTF a byte-order mark says.
        content = json.loads(read_regular(path))
    except FileNotFoundError:
        raise ImageError(f"annotations {path} do not exist; expected a COCO JSON file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"annotations {path} cannot be read as JSON: {error}") from None
    if not annotated and isinstance(content, dict):
        content = {"annotations": [], **content}
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in FIELDS
    ):
        raise ImageError(
            f"annotations {path} are not in COCO's format: expected the lists {', '.join(FIELDS)}"
        )
    if not content["images"] or (annotated and not content["annotations"]):
        raise ImageError(f"annotations {path} hold no annotated picture")
    return content


def _check_items(path: Path, content: Mapping[str, Any], name: str) -> None:
    items: Sequence[Any] = content[name]
    for index, item in enumerate(items):
        if (problem := _wrong_item(item, FIELDS[name])) is not None:
            raise ImageError(f"annotations {path}: {name}[{index}] has {problem.text}")
    if len({item["id"] for item in items}) < len(items):
        raise ImageError(f"annotations {path}: two of the {name} have the same id")


def _filled(item: Mapping[str, Any], index: int) -> dict[str, Any]:
    """An annotation with what COCO's evaluation needs and other tools leave out. It takes the id 0
    for "no match", so annotations are counted from 1."""
    width, height = item["bbox"][2:]
    return {"area": width * height, "iscrowd": 0, **item, "id": index + 1}


def _wrong_item(item: object, fields: dict[str, type]) -> Problem | None:
    """What is wrong with one item of a list: a field that is missing or of another type."""
    lacking = [key for key in fields if not isinstance(item, dict) or key not in item]
    if lacking or not isinstance(item, dict):
        return Problem(f"no {lacking[0]}", f"no {', '.join(lacking)}")
    for key, kind in fields.items():
        value = item[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            found = shorten([repr(value)[:60]])
            return Problem(f"odd {key}", f"the {key} {found}, expected {EXPECTED[kind]}")
        if isinstance(value, int) and abs(value) > LARGEST_ID:
            return Problem(
                f"odd {key}",
                f"the {key} {hex(value)[:40]}, expected an integer of at most 53 bits",
            )
    return None


def _wrong_annotation(
    item: Mapping[str, Any], images: set[int], categories: set[int]
) -> Problem | None:
    """What is wrong with an annotation whose fields have the right types."""
    if item["image_id"] not in images:
        return Problem(
            "unknown picture",
            f"the image_id {item['image_id']}, which none of the images has",
        )
    if item["category_id"] not in categories:
        return Problem(
            "unknown category",
            f"the category_id {item['category_id']}, which none of the categories has",
        )
    box = item["bbox"]
    if len(box) != 4 or not all(_is_number(side) for side in box) or min(box[2:]) < 0:
        return Problem(
            "odd bbox",
            f"the bbox {str(box)[:60]}, expected the numbers x, y, width, height in pixels, "
            "width and height not negative",
        )
    area, crowd = item.get("area", 0), item.get("iscrowd", 0)
    if not _is_number(area, FARTHEST**2) or area < 0:
        found = shorten([repr(area)[:60]])
        return Problem("odd area", f"the area {found}, expected a number that is not negative")
    if crowd not in (0, 1):
        found = shorten([repr(crowd)[:60]])
        return Problem("odd iscrowd", f"the iscrowd {found}, expected 0 or 1")
    return None


def _is_number(value: object, limit: float = FARTHEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= limit

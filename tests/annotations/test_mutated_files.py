"""Annotation files with anything in them: read and scored, or refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anydepth_deploy.annotations.scoring import coco_stats
from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.evaluation import CocoData

CLASSES = ["circle", "square"]
SOUND: dict[str, Any] = {
    "info": {"description": "two pictures"},
    "licenses": [],
    "images": [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 2, "file_name": "b.png", "width": 20, "height": 30},
    ],
    "categories": [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [20, 5.5, 9, 9], "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [0, 0, 20, 30], "iscrowd": 1},
    ],
}

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, 2**70, -(2**64), 1e308, -1e-308, float("nan"), float("inf")]),
    st.sampled_from(["", "a.png", "../a.png", "a.png\0", "circle", " Circle", "\ud800", "\n"]),
    st.sampled_from([[], {}, [1, 2], [0, 0, 1], [0, 0, 1, 1, 1], [[0, 0, 1, 1]], {"id": 1}]),
)
"""Values to put in the place of another."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("data")
    for item in SOUND["images"]:
        Image.new("RGB", (item["width"], item["height"])).save(found / item["file_name"])
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values in a document, its own not included."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(len(value) if isinstance(value, list) else 0)
    )
    found = []
    for key in keys:
        found += [(*path, key), *places(value[key], (*path, key))]
    return found


def read_and_score(path: Path) -> str:
    """What ``eval`` makes of the file, but for the network; the error's text, or nothing."""
    try:
        data = CocoData(path)
        ids = data.mapping(CLASSES).ids
        digest = data.sha256
    except AnyDepthError as error:
        return str(error)
    assert len(digest) == 64
    assert len(ids) == len(CLASSES)
    first = data.images[0]["id"]
    found = np.array([[first, 2, 3, 10, 12, 0.9, ids[0]], [first, 1, 1, 5, 5, 0.5, ids[1]]])
    stats = coco_stats(data.content, [found])
    assert all(-1 <= value <= 1 for value in stats)
    return ""


def test_the_sound_file_is_read(folder: Path) -> None:
    path = folder / "sound.json"
    path.write_text(json.dumps(SOUND))
    assert read_and_score(path) == ""


@examples(300)
@given(data=st.data())
def test_values_in_the_place_of_others(folder: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(content)))
        holder: Any = content
        for key in way:
            holder = holder[key]
        change = data.draw(st.sampled_from(["put", "put", "take away", "repeat"]))
        if change == "put":
            holder[last] = copy.deepcopy(data.draw(ODD))
        elif change == "take away":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
    told = write_and_read(folder, json.dumps(content).encode())
    assert "\n" not in told


@examples(300)
@given(data=st.data())
def test_bytes_in_the_place_of_others(folder: Path, data: st.DataObject) -> None:
    content = bytearray(json.dumps(SOUND).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'"[]{},:0e-')))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    assert "\n" not in write_and_read(folder, bytes(content))


def write_and_read(folder: Path, content: bytes) -> str:
    path = folder / "mutated.json"
    path.write_bytes(content)
    told = read_and_score(path)
    assert not told or "mutated.json" in told or str(folder) in told
    return told

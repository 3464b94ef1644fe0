"""Pictures of annotation files: which way up, and whether their sizes are theirs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marked_pictures import EDGES, save_marked
from PIL import Image

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.annotated import Annotated, find_annotated
from anydepth_deploy.pictures.orientation import Orientation

FILE = Path("labels.json")


def item(key: int, width: Any = None, height: Any = None, **more: Any) -> dict[str, Any]:
    sides = {"width": width, "height": height}
    given = {name: side for name, side in sides.items() if side is not None}
    return {"id": key, "file_name": f"{key}.png", **given, **more}


def save(folder: Path, key: int, width: int, height: int, orientation: int | None) -> None:
    """Stored pixels of this size."""
    save_marked(folder / f"{key}.png", np.zeros((height, width, 3), np.uint8), orientation)


def ways(found: Annotated) -> dict[int, str]:
    return {
        key: "upright" if picture.upright else "stored" for key, picture in found.pictures.items()
    }


def refused(*arguments: Any) -> str:
    with pytest.raises(ImageError) as caught:
        find_annotated(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(FILE) in message
    return message


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_say_which_pixels_boxes_are_in(tmp_path: Path, orientation: int) -> None:
    save(tmp_path, 1, 40, 30, orientation)
    turned = find_annotated(FILE, tmp_path, [item(1, 30, 40)])
    assert (ways(turned), turned.pictures[1].size) == ({1: "upright"}, (40, 30))
    assert turned.notes == []
    stored = find_annotated(FILE, tmp_path, [item(1, 40, 30)])
    assert (ways(stored), stored.pictures[1].size) == ({1: "stored"}, (30, 40))
    (note,) = stored.notes
    assert note.startswith("1 picture (1.png) is read as stored")
    assert "labels.json" in note
    assert turned.orientation == {"rule": "sizes", "marked": 1, "turned": 1, "undecided": 0}
    assert stored.orientation == {"rule": "sizes", "marked": 1, "turned": 0, "undecided": 0}
    # One side is enough.
    assert ways(find_annotated(FILE, tmp_path, [item(1, width=40)])) == {1: "stored"}
    assert ways(find_annotated(FILE, tmp_path, [item(1, height=40.0)])) == {1: "upright"}


@pytest.mark.parametrize(
    ("orientation", "size", "given"),
    [(6, (30, 30), True), (6, (40, 30), False), (3, (40, 30), True), (2, (40, 30), True)],
)
def test_what_nothing_decides_is_turned_and_said(
    tmp_path: Path, orientation: int, size: tuple[int, int], given: bool
) -> None:
    save(tmp_path, 1, *size, orientation)
    save(tmp_path, 2, 20, 10, None)
    one = item(1, *size) if given else item(1)
    found = find_annotated(FILE, tmp_path, [one, item(2, 20, 10)])
    assert ways(found)[1] == "upright"
    (note,) = found.notes
    assert note.startswith("1 picture (1.png) is turned, as viewers show")
    assert "--orientation stored" in note
    assert found.orientation == {"rule": "sizes", "marked": 1, "turned": 1, "undecided": 1}


def test_nothing_is_said_of_pictures_without_a_mark(tmp_path: Path) -> None:
    save(tmp_path, 1, 30, 30, None)
    save(tmp_path, 2, 20, 10, 1)
    found = find_annotated(FILE, tmp_path, [item(1), item(2, 20, 10)])
    assert found.notes == []
    assert found.orientation == {"rule": "sizes", "marked": 0, "turned": 0, "undecided": 0}


def test_the_undecided_follow_the_others_where_these_agree(tmp_path: Path) -> None:
    for key, size in ((1, (40, 30)), (2, (30, 30)), (3, (50, 20))):
        save(tmp_path, key, *size, 6)
    square = item(2, 30, 30)
    stored = find_annotated(FILE, tmp_path, [item(1, 40, 30), square, item(3, 50, 20)])
    assert ways(stored) == {1: "stored", 2: "stored", 3: "stored"}
    assert [note.split(":")[0] for note in stored.notes] == [
        "2 pictures (1.png, 3.png) are read as stored, not turned by the EXIF orientation",
        "1 picture (2.png) is read as stored, too",
    ]
    assert "--orientation upright" in stored.notes[1]
    upright = find_annotated(FILE, tmp_path, [item(1, 30, 40), square, item(3, 20, 50)])
    assert set(ways(upright).values()) == {"upright"}
    mixed = find_annotated(FILE, tmp_path, [item(1, 40, 30), square, item(3, 20, 50)])
    assert ways(mixed) == {1: "stored", 2: "upright", 3: "upright"}
    assert mixed.orientation == {"rule": "sizes", "marked": 3, "turned": 2, "undecided": 1}


@pytest.mark.parametrize("asked", ["upright", "stored"])
def test_a_person_decides(tmp_path: Path, asked: Orientation) -> None:
    save(tmp_path, 1, 40, 30, 6)
    save(tmp_path, 2, 30, 30, 6)
    save(tmp_path, 3, 40, 30, None)
    images = [item(1, 30, 40), item(2, 30, 30), item(3, 40, 30)]
    found = find_annotated(FILE, tmp_path, images, asked)
    assert {ways(found)[1], ways(found)[2]} == {asked}
    assert found.orientation["rule"] == asked
    assert found.pictures[1].size == ((40, 30) if asked == "upright" else (30, 40))
    notes = ["1 picture (1.png) is read stored, as --orientation says; the sizes in labels.json "
             "say otherwise"]  # fmt: skip
    assert found.notes == ([] if asked == "upright" else notes)
    assert "2.png" in refused(FILE, tmp_path, [item(2, 31, 30)], asked)


def test_sizes_of_other_pictures_are_refused(tmp_path: Path) -> None:
    for key in (1, 2, 3):
        save(tmp_path, key, 160, 160, None)
    message = refused(FILE, tmp_path, [item(1, 160, 160), item(2, 320, 320), item(3, 320, 320)])
    assert "the picture 2.png is 320 x 320 (width x height) there" in message
    assert "its file is 160 x 160 (2 of 3 pictures differ)" in message
    save(tmp_path, 4, 40, 30, 6)
    message = refused(FILE, tmp_path, [item(4, 40, 31)])
    assert "4.png is 40 x 31" in message
    assert "40 x 30, or 30 x 40 turned upright" in message
    save(tmp_path, 5, 40, 30, None)  # nothing says that it is to be turned
    assert "5.png is 30 x 40" in refused(FILE, tmp_path, [item(5, 30, 40)])
    assert "5.png is ? x 40" in refused(FILE, tmp_path, [item(5, height=40)])
    assert "5.png is 0 x 0" in refused(FILE, tmp_path, [item(5, 0, 0)])
    assert "nan" in refused(FILE, tmp_path, [item(5, float("nan"), 30)])


@pytest.mark.parametrize("value", ["160", True, [160], {"w": 160}])
def test_sizes_that_are_no_numbers(tmp_path: Path, value: Any) -> None:
    save(tmp_path, 1, 160, 160, None)
    message = refused(FILE, tmp_path, [item(1, value, 160)])
    assert "the picture 1.png has the width" in message
    assert "expected a number of pixels" in message


def test_pictures_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1, 9, 9, None)
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2\.png is not a picture"):
        find_annotated(FILE, tmp_path, [item(1), item(2)])
    assert "2 of which are not in" in refused(FILE, tmp_path, [item(1), item(7), item(8)])


@pytest.mark.parametrize("seed", range(25))
def test_random_orientations_with_random_sizes(tmp_path: Path, seed: int) -> None:
    """Annotated upright or as stored: read like that wherever the sizes can tell."""
    draw = random.Random(seed)
    label = draw.choice(["upright", "stored"])
    images, told = [], {}
    for key in range(draw.randint(1, 6)):
        width, height = draw.randint(1, 40), draw.choice([draw.randint(1, 40), 25])
        orientation = draw.choice([None, *EDGES])
        save(tmp_path, key, width, height, orientation)
        lying = (orientation or 1) >= 5
        turned = label == "upright" and lying
        images.append(item(key, *((height, width) if turned else (width, height))))
        if lying and width != height:
            told[key] = label
    found = find_annotated(FILE, tmp_path, images)
    assert {key: ways(found)[key] for key in told} == told
    if told:
        marked = [key for key, p in found.pictures.items() if orientation_of(p.path) != 1]
        assert {ways(found)[key] for key in marked} == {label}
    for one in images:
        assert found.pictures[one["id"]].size == (one["height"], one["width"])
    victim = draw.choice(images)
    victim[draw.choice(["width", "height"])] += 100
    assert f"picture {victim['file_name']} is" in refused(FILE, tmp_path, images)


def orientation_of(path: Path) -> int:
    with Image.open(path) as image:
        return int(image.getexif().get(0x0112, 1))

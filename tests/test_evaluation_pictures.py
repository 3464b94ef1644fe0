"""Average precision of photos: whichever way up they were annotated, found objects count."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, fails
from marked_pictures import EDGES, save_marked, shown
from seeing import SeeingSession, blind_bundle

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.errors import ImageError
from anydepth_deploy.evaluation import CocoData, evaluate
from anydepth_deploy.pictures.orientation import Orientation


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> SeeingSession:
    found = SeeingSession()
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: found)
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return blind_bundle(tmp_path / "bundle")


def write(
    folder: Path, photos: Sequence[tuple[int | None, int, int]], label: str, *, sizes: bool = True
) -> Path:
    """Photos with one bright object each: orientation, stored width and height in units of the
    network's input; annotated as stored or upright."""
    draw = random.Random(len(photos))
    images, annotations = [], []
    for key, (orientation, wide, high) in enumerate(photos):
        stored = np.zeros((64 * high, 64 * wide, 3), np.uint8)
        top, left = (unit * draw.randint(1, 20) for unit in (high, wide))
        bottom, right = top + high * draw.randint(5, 30), left + wide * draw.randint(5, 30)
        stored[top:bottom, left:right] = 255
        name = f"{key}.png"
        save_marked(folder / name, stored, orientation)
        meant = shown(stored, orientation or 1) if label == "upright" else stored
        rows, columns = np.nonzero(meant[..., 0])
        image: dict[str, Any] = {"id": key, "file_name": name}
        if sizes:
            image |= {"height": meant.shape[0], "width": meant.shape[1]}
        images.append(image)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
        annotations.append({"id": key + 1, "image_id": key, "category_id": 1, "bbox": box})
    names = ("circle", "square", "star")
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
    path = folder / "annotations.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def precision(bundle: Bundle, data: Path, orientation: Orientation | None = None) -> float:
    (row,) = evaluate(
        bundle, CocoData(data, orientation=orientation), [bundle.table.find("super")], batch=3
    )
    return row.ap


PHOTOS = [(orientation, 2, 1) for orientation in EDGES]
LYING = [(orientation, 2, 1) for orientation in (5, 6, 7, 8)]


@pytest.mark.parametrize("label", ["upright", "stored"])
@pytest.mark.usefixtures("session")
def test_photos_count_whichever_way_they_were_annotated(
    bundle: Bundle, tmp_path: Path, label: str
) -> None:
    data = write(tmp_path / label, PHOTOS, label)
    assert precision(bundle, data) == 100
    (record,) = open_bundle(bundle.path).manifest.results["eval"]
    turned = 7 if label == "upright" else 0
    assert record["orientation"] == {
        "rule": "sizes",
        "marked": 7,
        "turned": turned,
        "undecided": 3,  # those whose sizes are the same both ways; they follow the others
    }


def refused_or_low(bundle: Bundle, data: Path, orientation: Orientation) -> bool:
    """Whether boxes that lie the other way are found out, by where they are or by the figure."""
    try:
        return precision(bundle, data, orientation) < 50
    except ImageError as error:
        return "reach beyond the picture" in str(error)


@pytest.mark.usefixtures("session")
def test_by_hand(bundle: Bundle, tmp_path: Path) -> None:
    """Where sizes say nothing."""
    for label, other in (("upright", "stored"), ("stored", "upright")):
        data = write(tmp_path / label, LYING, label, sizes=False)
        assert precision(bundle, data, label) == 100  # type: ignore[arg-type]
        assert refused_or_low(bundle, data, other)  # type: ignore[arg-type]
    assert precision(bundle, tmp_path / "upright" / "annotations.json") == 100


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("session")
def test_random_photos(bundle: Bundle, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    photos: list[tuple[int | None, int, int]] = [
        (draw.choice([None, *EDGES]), *draw.choice([(1, 2), (2, 1), (3, 1), (1, 1)]))
        for _ in range(draw.randint(1, 5))
    ]
    photos.append((draw.choice([5, 6, 7, 8]), 1, 2))  # which tells
    label = draw.choice(["upright", "stored"])
    assert precision(bundle, write(tmp_path / "d", photos, label)) == 100


def test_sizes_that_are_not_theirs_are_refused_before_anything_runs(
    bundle: Bundle, tmp_path: Path, session: SeeingSession, run: Run
) -> None:
    data = write(tmp_path / "d", [(None, 1, 1)] * 3, "stored")
    content = json.loads(data.read_text())
    for item in content["images"]:
        item |= {"width": 128, "height": 128}
    data.write_text(json.dumps(content))
    with pytest.raises(ImageError, match=r"0\.png is 128 x 128 .* its file is 64 x 64 \(3 of 3"):
        CocoData(data)
    shown = run("eval", bundle.path, "--data", data, "--depth", "super")
    fails(shown, 2, "0.png", "128 x 128", "64 x 64")
    assert session.seen == 0
    assert "eval" not in open_bundle(bundle.path).manifest.results


@pytest.mark.usefixtures("session")
def test_the_command_says_how_pictures_were_read(bundle: Bundle, tmp_path: Path, run: Run) -> None:
    data = write(tmp_path / "d", LYING, "stored")
    command = ["eval", bundle.path, "--data", data, "--depth", "super"]
    found = run(*command, "--json").json
    assert found["rows"][0]["ap"] == 100
    assert found["orientation"] == {"rule": "sizes", "marked": 4, "turned": 0, "undecided": 0}
    (note,) = found["notes"]
    assert note.startswith("4 pictures (0.png, 1.png and 2 more) are read as stored")
    told = run(*command)
    assert (told.code, told.err) == (0, f"note: {note}\n")
    found = run(*command, "--orientation", "upright", "--json").json
    assert found["rows"][0]["ap"] < 50
    assert found["orientation"]["rule"] == "upright"
    fails(run(*command, "--orientation", "sideways"), 2, "'sideways' is not one of 'upright'")


@pytest.mark.usefixtures("session")
def test_names_of_other_machines(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    data = write(folder, [(None, 1, 1), (None, 1, 2)], "stored")
    (folder / "caf\u00e9").mkdir()
    (folder / "0.png").rename(folder / "caf\u00e9" / "0.png")
    content = json.loads(data.read_text())
    content["images"][0]["file_name"] = "cafe\u0301\\0.png"
    data.write_text(json.dumps(content))
    assert precision(bundle, data) == 100


def test_a_torn_picture_is_refused_by_name(
    bundle: Bundle, tmp_path: Path, session: SeeingSession, run: Run
) -> None:
    data = write(tmp_path / "d", [(None, 1, 1)] * 4, "stored")
    torn = tmp_path / "d" / "3.png"
    torn.write_bytes(torn.read_bytes()[:-60])
    fails(run("eval", bundle.path, "--data", data, "--depth", "super"), 2, "3.png")
    assert "eval" not in open_bundle(bundle.path).manifest.results
    torn.write_bytes(b"no picture")
    session.seen = 0
    fails(run("eval", bundle.path, "--data", data, "--depth", "super"), 2, "3.png is not a picture")
    assert session.seen == 0

"""The stage without Ray: batches as Ray Data, Arrow and data sets on the web have them."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killing_store import KillingStore
from many_pictures import COUNT, assert_as_one_process, photos, rows_of

from anydepth_deploy.annotations.coco import read_coco
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.detector.items import Reading
from anydepth_deploy.errors import AnyDepthError, ImageError, MissingExtraError, UsageError
from anydepth_deploy.pictures.images import Preprocess, load_image
from anydepth_deploy.pictures.shapes import write_coco as draw_shapes
from anydepth_deploy.ray import Detect, predict_many, write_coco
from anydepth_deploy.ray.parts import Part, Written, parts_of, written
from anydepth_deploy.ray.places import StoredPicture, place_of
from anydepth_deploy.ray.tables import groups_of
from anydepth_deploy.ray.work import work_of
from anydepth_deploy.ray.writer import PartWriter

__all__ = ["photos"]  # fixtures


@pytest.fixture(scope="module")
def detect(bundle: Bundle) -> Iterator[Detect]:
    stage = Detect(bundle.path, "base", 0.0, batch=3)
    yield stage
    stage.detector.close()


def rows_by_name(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {Path(row["path"]).name: row for row in table.to_pylist()}


def batch_of(photos: Path) -> dict[str, Any]:
    paths = sorted(path for path in photos.rglob("*") if path.is_file())
    return {
        "path": np.array([str(path) for path in paths], object),
        "bytes": np.array([path.read_bytes() for path in paths], object),
    }


def test_bytes_paths_and_pixels_are_the_same(detect: Detect, bundle: Bundle, photos: Path) -> None:
    whole = batch_of(photos)
    table = detect(whole)
    assert table.column_names[0] == "path"  # and no bytes
    assert_as_one_process(bundle, photos, rows_by_name(table))
    assert detect({"path": whole["path"]}) == table
    assert detect(pa.table({name: values.tolist() for name, values in whole.items()})) == table
    faces = [{"bytes": one, "path": None} for one in whole["bytes"]]
    assert detect(pa.table({"path": table.column("path"), "image": faces})) == table

    pixels = np.stack([load_image(path) for path in sorted(photos.glob("0*"))])
    found = detect({"image": pixels, "path": whole["path"][:-2]})
    assert found == table.slice(0, len(pixels))


def test_what_is_no_picture_has_a_line_in_its_row(detect: Detect, photos: Path) -> None:
    good = sorted(photos.glob("0*"))[0]
    cells = [None, str(good), "", "/nowhere.png", str(good)]
    rows = detect({"url": cells, "number": np.arange(5)}).to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["error"] is None for row in rows] == [False, True, False, False, True]
    assert rows[1]["boxes"] == rows[4]["boxes"]
    assert rows[0]["error"].startswith("picture in row 0 of a batch is empty: expected")
    assert "/nowhere.png" in rows[3]["error"]
    assert rows[3]["scores"] is None
    assert {row["depth"] for row in rows} == {"TTTT-T-3"}  # base
    assert all("\n" not in (row["error"] or "") for row in rows)
    twice = detect({"bytes": [b"none", good.read_bytes()], "path": ["same", "same"]}).to_pylist()
    assert [row["error"] is None for row in twice] == [False, True]
    assert "picture same" in twice[0]["error"]


@pytest.mark.parametrize(
    ("options", "batch", "told"),
    [
        ({}, {"text": ["a"]}, "no column has pictures: the table has text, expected one of bytes"),
        ({"column": "jpg"}, {"path": ["a"]}, "there is no column 'jpg': the table has path"),
        ({"keep": ["id"]}, {"path": ["a"]}, "keep names no column of the table: id; it has path"),
        ({}, {"path": ["a"], "width": [3]}, "columns of results are called like columns of the"),
    ],
)
def test_columns_that_do_not_fit(
    bundle: Bundle, options: dict[str, Any], batch: dict[str, Any], told: str
) -> None:
    stage = Detect(bundle.path, **options)
    with pytest.raises(UsageError, match=f"^{told}"):
        stage(batch)
    kept = Detect(bundle.path, keep=["id"])({"path": ["a"], "width": [3], "id": [[1, 2]]})
    assert kept.column("id").to_pylist() == [[1, 2]]
    assert "path" not in kept.column_names


def test_a_part_is_written_whole_and_known_again(
    bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    out, work = place_of(tmp_path / "found"), work_of(photos)
    assert len(work.pictures) == COUNT + 1
    record = {"depth": "base", "classes": list(bundle.classes)}
    parts = parts_of(work.pictures, 5, Written())
    assert [len(part.pictures) for part in parts] == [5, COUNT + 1 - 5]
    assert all(Part.from_text(part.to_text()) == part for part in parts)
    detect = {"bundle": bundle.path, "depth": "base", "threshold": 0.0}
    writer = PartWriter(out, work.place, record, detect)
    assert writer.write(parts[0].to_text())["pictures"] == 5
    done = written(out, record)
    assert (done.parts, done.pictures) == ({parts[0].name}, set(parts[0].pictures))
    assert parts_of(work.pictures, 5, done) == parts[1:]
    writer.write(parts[0].to_text())  # tried again: it replaces its own
    writer.write(parts[1].to_text())
    assert_as_one_process(bundle, photos, rows_of(tmp_path / "found"))
    with pytest.raises(UsageError, match='results of another job: its depth is "base", expected "'):
        written(out, {**record, "depth": "super"})
    file = tmp_path / "found" / parts[0].name
    pq.write_table(pa.table({"path": ["a"]}), file)
    with pytest.raises(UsageError, match="is no file of this job, though it is called like one"):
        written(out, record)
    file.write_bytes(b"PAR1 cut")
    assert written(out, record).parts == {parts[1].name}
    assert not file.exists()
    (tmp_path / "found" / "mine.parquet").write_bytes(b"")  # nothing of ours is called so
    assert written(out, record).parts == {parts[1].name}


def test_rows_of_tables_are_called_by_their_number(
    bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    pictures = pa.table({"jpg": batch_of(photos)["bytes"].tolist(), "id": [*range(8)]})
    pq.write_table(pictures, tmp_path / "some.parquet", row_group_size=5)
    work = work_of(tmp_path)
    ((table, size),) = work.tables
    first, second = groups_of(table, size, "jpg")
    assert (first.first, second.first) == (0, 5)
    detect = {"bundle": bundle.path, "column": "jpg"}
    writer = PartWriter(place_of(tmp_path / "found"), work.place, {}, detect)
    report = writer.write(second.to_text())
    rows = pq.read_table(tmp_path / "found" / second.name).to_pylist()
    assert [row["path"] for row in rows] == [f"{tmp_path}/some.parquet#{n}" for n in (5, 6, 7)]
    assert [row["id"] for row in rows] == [5, 6, 7]
    assert [name for name, _ in report["failures"]] == [f"{tmp_path}/some.parquet#7"]
    (tmp_path / "other.parquet").write_bytes(b"none")
    with pytest.raises(ImageError, match=r"table .*other\.parquet is no Parquet file"):
        list(groups_of(place_of(tmp_path / "other.parquet"), 4))


def test_pictures_of_a_store_are_read_within_the_budget(photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(photos, store / "in")
    (store / "in" / "large.png").write_bytes(bytes(2 * 2**20))
    (store / "in" / "notes.txt").write_bytes(b"")
    (store / "in" / "0.pred.png").write_bytes(b"")  # a drawing
    files = KillingStore(str(store), str(tmp_path))
    work = work_of("in", files)
    assert {Path(name).name for name in work.pictures} == {
        *(path.name for path in photos.rglob("*.*")),
        "large.png",
    }
    reading = Reading(Preprocess(size=(32, 32)))
    name = work.pictures[0]
    found = StoredPicture(work.place.at(name)).had(reading)
    assert np.array_equal(found.pixels(reading), load_image(store / name))
    large = StoredPicture(work.place.at("in/large.png"))
    with pytest.raises(ImageError, match="has more than 1448576 bytes, which no picture within"):
        large.had(replace(reading, max_pixels=100_000))
    with pytest.raises(ImageError, match=r"^gone\.png cannot be read: "):
        StoredPicture(work.place.at("gone.png")).had(reading)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"source": "{here}/empty"}, "holds no picture"),
        ({"source": []}, "no source is given"),
        ({"source": "nothing://x/y"}, "is no place that Arrow knows"),
        ({"source": "{here}/none.parquet"}, "none.parquet does not exist"),
        ({"source": ["{here}/all", "{here}/tables"]}, "pictures and tables (.parquet) have"),
        ({"filesystem": 3}, "int is no file system: expected one of pyarrow.fs or fsspec"),
        ({"workers": 0}, "workers is 0: expected at least 1"),
        ({"part": 0.5}, "part is 0.5: expected at least 1"),
        ({"threshold": 2}, "threshold is 2: expected a score from 0 to 1"),
        ({"depth": "middling"}, "middling"),
        ({"thread": 1}, "unknown options: thread; expected ahead, batch"),
        ({"out": "{here}/all/broken.jpg"}, "cannot be written"),
    ],
)
def test_what_is_wrong_is_told_before_ray_starts(
    bundle: Bundle, photos: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    shutil.copytree(photos, tmp_path / "all")
    for name in ("empty", "tables"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table({"bytes": [b""]}), tmp_path / "tables" / "a.parquet")
    given = json.loads(json.dumps(options).replace("{here}", str(tmp_path)))
    given = {"source": tmp_path / "all", "out": tmp_path / "found", **given}
    with pytest.raises(AnyDepthError) as caught:
        predict_many(bundle, given.pop("source"), given.pop("out"), **given)
    assert told in str(caught.value)
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
    assert not (tmp_path / "found").exists()


def test_coco_takes_the_ids_of_a_file(bundle: Bundle, tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "drawn", 3, seed=1)
    content = json.loads(data.read_text())
    for image in content["images"]:
        image["id"] += 40
    for annotation in content["annotations"]:
        annotation["image_id"] += 40
    names = [item["name"] for item in content["categories"]]
    data.write_text(json.dumps(content))
    work = work_of(tmp_path / "drawn")
    record = {"classes": names}
    detect = {"bundle": bundle.path, "threshold": 0.0}
    writer = PartWriter(place_of(tmp_path / "found"), work.place, record, detect)
    writer.write(parts_of(work.pictures, 9, Written())[0].to_text())
    assert write_coco(tmp_path / "found", tmp_path / "coco.json", data=data) == 3
    results = json.loads((tmp_path / "coco.json").read_text())
    assert {item["image_id"] for item in results} == {41, 42, 43}
    assert {item["category_id"] for item in results} <= {
        item["id"] for item in read_coco(data)["categories"]
    }
    with pytest.raises(ImageError, match="holds no results of predict_many"):
        write_coco(tmp_path / "drawn", tmp_path / "coco.json")


def test_without_the_extra_there_is_one_line(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    """And what is imported for the package, or for the stage, has nothing of Ray."""
    program = (
        "import sys; import anydepth_deploy.ray\n"
        "from anydepth_deploy.ray import Detect, predict_many\n"
        "assert not {'ray', 'pyarrow', 'torch'} & {*sys.modules}\n"
        "sys.modules['pyarrow'] = sys.modules['ray'] = None\n"
        "for call in (lambda: Detect(sys.argv[1]), lambda: predict_many(*sys.argv[1:])):\n"
        "    try: call()\n"
        "    except anydepth_deploy.AnyDepthError as error: print(error)\n"
    )
    words = [str(bundle.path), str(photos), str(tmp_path / "found")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    line = "anydepth_deploy.ray needs the package 'pyarrow', which is not installed: pip install "
    assert done.stdout.splitlines() == [f"{line}'anydepth-deploy[ray]'"] * 2


def test_errors_cross_processes() -> None:
    error = MissingExtraError("pyarrow", "ray", "this")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

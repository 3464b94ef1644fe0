"""Files of results that are damaged, or that have pictures which could not be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import LocalRay, ray
from many_pictures import COUNT, assert_as_one_process, photos, rows_of

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import AnyDepthError, ImageError
from anydepth_deploy.ray import predict_many, write_coco
from anydepth_deploy.ray.parts import Part, written
from anydepth_deploy.ray.places import place_of
from anydepth_deploy.ray.results import with_record

__all__ = ["photos", "ray"]  # fixtures

JOB: dict[str, Any] = {"depth": "base", "threshold": 0.0, "workers": 1}

RECORD = {"classes": ["circle", "square"]}


def test_pictures_that_failed_are_looked_at_again(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    """When it is asked for, in their parts, which stay where they were; beside new pictures."""
    here, out = tmp_path / "photos", tmp_path / "found"
    shutil.copytree(photos, here)
    good = sorted(here.glob("0*"))
    good[0].rename(here / "new.png")
    new = here / "new.png"
    kept = new.read_bytes()
    new.unlink()
    assert predict_many(bundle, here, out, part=3, **JOB).failed == 1
    files = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    (here / "broken.jpg").write_bytes(good[1].read_bytes())
    new.write_bytes(kept)
    (row,) = [row for row in rows_of(out).values() if row["error"]]
    (file,) = [file for file in files if row in pq.read_table(file).to_pylist()]
    count = pq.read_metadata(file).num_rows
    report = predict_many(bundle, here, out, again=True, part=3, **JOB)
    assert (report.pictures, report.failed, report.parts) == (count + 1, 0, 2)
    assert report.before == COUNT - count
    changed = {name for name, time in files.items() if name.stat().st_mtime_ns != time}
    assert changed == {file}
    rows = rows_of(out)  # each once
    assert {*rows} == {path.name for path in here.rglob("*.*")}
    assert rows["broken.jpg"]["boxes"] == rows[good[1].name]["boxes"]
    assert predict_many(bundle, here, out, again=True, part=3, **JOB).parts == 0


def test_rows_that_failed_are_looked_at_again(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    """Without being asked for, they are not."""
    here, out = tmp_path / "photos", tmp_path / "found"
    shutil.copytree(photos, here)
    paths = sorted(str(path) for path in here.rglob("*") if path.is_file())
    file = tmp_path / "all.parquet"
    pq.write_table(pa.table({"path": paths}), file, row_group_size=3)
    moved = Path(paths[0]).rename(tmp_path / "elsewhere")
    assert predict_many(bundle, file, out, **JOB).failed == 2
    moved.rename(paths[0])
    assert predict_many(bundle, file, out, **JOB).parts == 0
    report = predict_many(bundle, file, out, again=True, **JOB)
    assert (report.failed, report.parts, report.before) == (1, 2, 3)
    assert_as_one_process(bundle, photos, rows_of(out))


def test_failures_of_another_source_stay(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "none.jpg").write_bytes(b"none")
    for source in (tmp_path / "other", sorted(photos.glob("0*"))[0]):
        assert predict_many(bundle, source, tmp_path / "found", **JOB).parts == 1
    good = sorted(photos.glob("0*"))[0]
    assert predict_many(bundle, good, tmp_path / "found", again=True, **JOB).parts == 0
    assert {*rows_of(tmp_path / "found")} == {"none.jpg", good.name}


def columns() -> dict[str, Any]:
    return {
        "path": ["/1.jpg", "/2.jpg"],
        "depth": ["TT", "TT"],
        "boxes": [[[0.0, 1.0, 2.0, 3.0]], None],
        "scores": [[0.5], None],
        "labels": [[1], None],
        "error": [None, "it is no picture"],
    }


def write_results(file: Path, found: dict[str, Any], record: Any = RECORD) -> None:
    file.parent.mkdir(exist_ok=True)
    table = with_record(pa.table(found), {})
    metadata = {name: json.dumps(record).encode() for name in table.schema.metadata}
    pq.write_table(table.replace_schema_metadata(metadata), file)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"path": ["/1.jpg", None]}, "has rows without a path"),
        ({"path": [[1], [2]]}, "cannot be read: "),
        ({"path": pa.array([b"/\xff.jpg", b"/2"]).view(pa.string())}, "Invalid UTF8 sequence"),
        ({"labels": [[2], None]}, "labels of /1.jpg are not below 2, its classes"),
        ({"labels": [[-1], None]}, "labels of /1.jpg are not below 2, its classes"),
        ({"labels": [None, None]}, "boxes, scores and labels of /1.jpg do not fit"),
        ({"labels": ["one", "two"]}, "cannot be read: "),
        ({"scores": [[0.5, 0.4], None]}, "boxes, scores and labels of /1.jpg do not fit"),
        ({"scores": [[float("nan")], None]}, "boxes or scores of /1.jpg are no numbers"),
        ({"boxes": [[[0.0, 1.0, 2.0]], None]}, "boxes, scores and labels of /1.jpg do not fit"),
        ({"boxes": [[[0.0, 1.0, 2.0], [3.0]], None]}, "boxes, scores and labels of /1.jpg do not"),
        ({"depth": None}, "cannot be read: "),
        ({"error": None}, "cannot be read: "),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    file = tmp_path / "found" / Part(("/1.jpg", "/2.jpg")).name
    write_results(file, columns())
    assert write_coco(tmp_path / "found", tmp_path / "coco.json") == 1
    assert json.loads((tmp_path / "coco.json").read_text())[0]["bbox"] == [0.0, 1.0, 2.0, 2.0]
    (tmp_path / "coco.json").unlink()
    found = {name: cells for name, cells in {**columns(), **wrong}.items() if cells is not None}
    write_results(file, found)
    with pytest.raises(ImageError) as caught:
        write_coco(tmp_path / "found", tmp_path / "coco.json")
    assert str(caught.value).startswith(f"{file} cannot be read: ")
    assert told in str(caught.value)
    assert str(caught.value).endswith("where it is damaged, remove it, and start the job again")
    assert not (tmp_path / "coco.json").exists()
    if {*wrong} & {"path", "error"}:  # what a job looks at
        with pytest.raises(ImageError, match="remove it, and start the job again"):
            written(place_of(tmp_path / "found"), RECORD)
        assert file.exists()


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ([], "is no file of this job, though it is called like one"),
        ({}, "it does not say which classes it has"),
        ({"classes": [1]}, "it does not say which classes it has"),
        ({"classes": ["circle"]}, "is of another job than the files beside it: its classes are"),
    ],
)
def test_records_that_do_not_fit(tmp_path: Path, record: Any, told: str) -> None:
    found = tmp_path / "found"
    write_results(found / "part-0000000000000000.parquet", columns())
    write_results(found / "part-0000000000000001.parquet", columns(), record)
    with pytest.raises(AnyDepthError, match=told):
        write_coco(found, tmp_path / "coco.json")
    with pytest.raises(AnyDepthError, match=r"is no file of this job|results of another job: its"):
        written(place_of(found), RECORD)


def test_files_that_are_cut_or_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "found" / "part-0000000000000000.parquet"
    write_results(file, columns())
    whole = file.read_bytes()
    schema = pq.read_schema(file)
    for name in ("path", "error", "boxes"):
        group = pq.read_metadata(file).row_group(0)
        at = next(
            group.column(number).dictionary_page_offset or group.column(number).data_page_offset
            for number in range(group.num_columns)
            if group.column(number).path_in_schema.split(".")[0] == name
        )
        file.write_bytes(whole[:at] + b"\xff" * 24 + whole[at + 24 :])
        assert pq.read_schema(file) == schema
        with pytest.raises(ImageError, match="where it is damaged, remove it") as caught:
            write_coco(file.parent, tmp_path / "coco.json")
        assert str(caught.value).startswith(f"{file} cannot be read: ")
        file.write_bytes(whole)
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    file.write_bytes(whole[:begin] + b"\xff" * 24 + whole[begin + 24 :])  # the footer
    for look in (write_coco, lambda folder, _: written(place_of(folder), RECORD)):
        with pytest.raises(ImageError, match="where it is damaged, remove it"):
            look(file.parent, tmp_path / "coco.json")
    file.write_bytes(whole[:-9])
    with pytest.raises(ImageError, match="is cut short: start the job again, which makes it anew"):
        write_coco(file.parent, tmp_path / "coco.json")
    assert written(place_of(file.parent), RECORD).rows == 0
    assert not file.exists()

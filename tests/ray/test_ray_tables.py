"""Jobs over tables, on a Ray of this process: which columns, which rows, and each of them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import LocalRay, ray
from many_pictures import COUNT, assert_as_one_process, photos, rows_of

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import UsageError
from anydepth_deploy.ray import predict_many, write_coco
from anydepth_deploy.ray.places import place_of
from anydepth_deploy.ray.tables import groups_of

__all__ = ["photos", "ray"]  # fixtures

JOB: dict[str, Any] = {"depth": "base", "threshold": 0.0, "workers": 1}


def paths_in(photos: Path) -> list[str]:
    return sorted(str(path) for path in photos.rglob("*") if path.is_file())


def contents_of(photos: Path) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths_in(photos)]


def write_table(file: Path, groups: int = 3, **columns: Any) -> Path:
    """A table with ``groups`` rows in each row group."""
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), file, row_group_size=groups)
    return file


def all_rows(out: Path) -> list[dict[str, Any]]:
    return [row for file in out.glob("*.parquet") for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("kept", [["id"], []])
def test_results_have_a_path_whatever_is_kept(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay, kept: list[str]
) -> None:
    columns: dict[str, Any] = {
        "bytes": contents_of(photos),
        "path": paths_in(photos),
        "id": [*range(COUNT + 1)],
    }
    file, out = write_table(tmp_path / "all.parquet", **columns), tmp_path / "found"
    report = predict_many(bundle, file, out, keep=kept, **JOB)
    assert (report.pictures, report.failed, report.parts) == (COUNT + 1, 1, 3)
    rows = rows_of(out)
    assert_as_one_process(bundle, photos, rows)
    others = {*kept, "depth", "height", "width", "boxes", "scores", "labels", "names", "error"}
    assert {name for row in rows.values() for name in row} == {"path", *others}
    if kept:
        numbers = {Path(path).name: number for number, path in enumerate(columns["path"])}
        assert {name: row["id"] for name, row in rows.items()} == numbers
    assert predict_many(bundle, file, out, keep=kept, **JOB).parts == 0
    assert write_coco(out, tmp_path / "coco.json") == COUNT


def test_a_table_of_addresses_alone(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    """Its rows are called by their number, and looked at by their ``url``."""
    file = write_table(tmp_path / "all.parquet", url=[*paths_in(photos), None])
    assert predict_many(bundle, file, tmp_path / "found", **JOB).failed == 2
    rows = {row["path"]: row for row in all_rows(tmp_path / "found")}
    assert {*rows} == {f"{file}#{number}" for number in range(COUNT + 2)}
    empty = rows.pop(f"{file}#{COUNT + 1}")
    assert empty["error"].startswith(f"picture {file}#{COUNT + 1} is empty: expected")
    assert_as_one_process(bundle, photos, {Path(row["url"]).name: row for row in rows.values()})


def test_rows_without_a_path_among_others(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    paths = [None, *paths_in(photos)[1:3]]
    column = pa.array(paths).dictionary_encode()
    file = write_table(tmp_path / "all.parquet", bytes=contents_of(photos)[:3], path=column)
    predict_many(bundle, file, tmp_path / "found", **JOB)
    rows = all_rows(tmp_path / "found")
    assert [row["path"] for row in rows] == [f"{file}#0", *paths[1:]]
    assert all(row["error"] is None for row in rows)
    nothing = pa.array([None] * 3, pa.null())
    file = write_table(tmp_path / "OTHER.PARQUET", bytes=contents_of(photos)[:3], path=nothing)
    predict_many(bundle, file, tmp_path / "other", **JOB)
    assert [row["path"] for row in all_rows(tmp_path / "other")] == [
        f"{file}#{n}" for n in range(3)
    ]


@pytest.mark.parametrize(
    ("columns", "options", "told"),
    [
        ({"text": ["a"]}, {}, "no column has pictures: the table has text, expected one of bytes"),
        ({"bytes": [b""]}, {"column": "jpg"}, "there is no column 'jpg': the table has bytes"),
        ({"bytes": [b""]}, {"keep": ["id"]}, "keep names no column of the table: id; it has bytes"),
        ({"bytes": [b""], "id": [1]}, {"keep": "id"}, "keep is 'id': expected a list of columns"),
        ({"path": ["a"], "width": [3]}, {}, "columns of results are called like columns of the"),
        ({"bytes": [b""], "path": [[1]]}, {}, "its column 'path' is of type list<"),
    ],
)
def test_columns_that_do_not_fit_are_told_before_ray_starts(
    bundle: Bundle,
    tmp_path: Path,
    ray: LocalRay,
    columns: dict[str, Any],
    options: dict[str, Any],
    told: str,
) -> None:
    file = write_table(tmp_path / "all.parquet", **columns)
    with pytest.raises(UsageError) as caught:
        predict_many(bundle, file, tmp_path / "found", **options)
    assert f"table {file}: {told}" in str(caught.value)
    assert not ray.started
    assert not (tmp_path / "found").exists()


def test_other_columns_are_another_job(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    cells = contents_of(photos)[:2]
    columns: dict[str, Any] = {"left": cells, "right": cells[::-1], "id": [1, 2]}
    file, out = write_table(tmp_path / "all.parquet", **columns), tmp_path / "found"
    chosen: dict[str, Any] = {**JOB, "column": "left", "keep": ["id"]}
    assert predict_many(bundle, file, out, **chosen).pictures == 2
    for other, told in (
        ({"column": "right"}, 'its column is "left", expected "right"'),
        ({"keep": ["id", "right"]}, r'its keep is \["id"\], expected \["id", "right"\]'),
        ({"keep": None}, r'its keep is \["id"\], expected not given'),
    ):
        with pytest.raises(UsageError, match=told):
            predict_many(bundle, file, out, **{**chosen, **other})
    assert predict_many(bundle, file, out, **chosen).before == 2


def test_a_table_that_has_changed_is_looked_at_anew(
    bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    ray: LocalRay,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its rows replace those of before, of which there were more; other tables are left alone."""
    tables, out = tmp_path / "tables", tmp_path / "found"
    write_table(tables / "a.parquet", path=paths_in(photos)[:5], id=[*range(5)], groups=2)
    write_table(tables / "b.parquet", path=paths_in(photos)[5:], id=[9] * (COUNT - 4))
    assert predict_many(bundle, tables, out, **JOB).parts == 4
    times = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    write_table(tables / "a.parquet", path=paths_in(photos)[1:4], id=[40] * 3, groups=2)
    report = predict_many(bundle, tables, out, **JOB)
    assert (report.pictures, report.parts, report.before) == (3, 2, COUNT - 4)
    found = sorted((row["path"], row["id"]) for row in all_rows(out))
    expected = [(path, 40) for path in paths_in(photos)[1:4]]
    assert found == sorted([*expected, *((path, 9) for path in paths_in(photos)[5:])])
    left = [file for file in out.iterdir() if times.get(file) == file.stat().st_mtime_ns]
    assert len(left) == 1  # that of b
    assert f"results of tables that have changed are made anew: {tables}/a.parquet" in caplog.text


def test_row_groups_without_rows(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    tables = tmp_path / "tables"
    rows = pa.table({"path": paths_in(photos)[:3]})
    tables.mkdir()
    with pq.ParquetWriter(tables / "a.parquet", rows.schema) as writer:
        for some in (rows[:0], rows[:1], rows[:0], rows[1:], rows[:0]):
            writer.write_table(some)
    pq.write_table(rows[:0], tables / "b.parquet")
    assert pq.read_metadata(tables / "a.parquet").num_row_groups == 5
    found = groups_of(place_of(tables / "a.parquet"), 1)
    assert [(part.group, part.first) for part in found] == [(1, 0), (3, 1)]
    assert predict_many(bundle, tables, tmp_path / "found", **JOB).pictures == 3
    assert {*rows_of(tmp_path / "found")} == {Path(path).name for path in paths_in(photos)[:3]}


def test_results_below_the_tables_are_no_tables(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    """Neither those of this job, nor those of another; where there is nothing else, they are."""
    file = write_table(tmp_path / "all.parquet", path=paths_in(photos)[:2])
    for depth in ("base", "super"):
        job = {**JOB, "depth": depth}
        for parts in (1, 0):
            report = predict_many(bundle, tmp_path, tmp_path / "found" / depth, **job)
            assert (report.pictures, report.parts) == (2 * parts, parts)
    file.unlink()
    base, over = tmp_path / "found" / "base", tmp_path / "found" / "base" / "over"
    with pytest.raises(UsageError, match="columns of results are called like"):
        predict_many(bundle, base, over, **JOB)
    for parts in (1, 0):
        assert predict_many(bundle, base, over, keep=["path"], **JOB).parts == parts
    first, second = (pq.read_table(next(folder.glob("*.parquet"))) for folder in (base, over))
    assert first.column("boxes").to_pylist() == second.column("boxes").to_pylist()


def test_a_table_given_twice_is_read_once(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    file = write_table(tmp_path / "tables" / "all.parquet", path=paths_in(photos)[:2])
    assert predict_many(bundle, [file.parent, file], tmp_path / "found", **JOB).pictures == 2

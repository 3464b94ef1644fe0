"""Workers that fail or die, or for whom there is no room, on a Ray of this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import LocalRay, ray
from many_pictures import photos, rows_of

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import AnyDepthError, ImageError, UsageError
from anydepth_deploy.ray import predict_many
from anydepth_deploy.ray.parts import Part
from anydepth_deploy.ray.places import Place
from anydepth_deploy.ray.workers import resources_of, room

__all__ = ["photos", "ray"]  # fixtures

JOB: dict[str, Any] = {"depth": "base", "workers": 2, "part": 2}


def test_how_many_workers_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    there = {"CPU": 8.0, "GPU": 2.0}
    assert room(there, resources_of(1, 0), own=True) == 8
    assert room(there, resources_of(3, 0), own=True) == 2
    assert room(there, resources_of(4, 0.5), own=True) == 4
    assert room(there, resources_of(8, 0), own=True) == 1
    assert not caplog.records
    assert room(there, resources_of(9, 0), own=False) == 1  # the cluster may grow
    (record,) = caplog.records
    told = "threads=9 of a worker are more than the 8 cores that Ray has now: the job waits until"
    assert record.getMessage().startswith(told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threads": 3}, "threads=3 of a worker are more than the 2 cores that Ray has on this"),
        ({"gpus": 1}, "gpus=1 of a worker are more than the 0 GPUs that Ray has on this machine"),
    ],
)
def test_workers_that_no_machine_has_room_for(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=f"^{told}"):
        predict_many(bundle, photos, tmp_path / "found", **options)
    assert ray.started == 1
    assert not ray.living
    assert not ray.workers
    assert not (tmp_path / "found").exists()


def damage(file: Path, group: int) -> None:
    at = pq.read_metadata(file).row_group(group).column(0).data_page_offset
    content = file.read_bytes()
    file.write_bytes(content[:at] + b"\xff" * 24 + content[at + 24 :])


def test_parts_that_cannot_be_made_are_told_at_the_end(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    """What is behind them is written before, and not made again."""
    paths, out = sorted(str(path) for path in photos.glob("0*")), tmp_path / "found"
    tables = [tmp_path / "tables" / name for name in ("a.parquet", "b.parquet")]
    tables[0].parent.mkdir()
    for table, rows in zip(tables, (paths[:4], paths[4:]), strict=True):
        pq.write_table(pa.table({"path": rows}), table, row_group_size=2, use_dictionary=False)
    groups = sum(pq.read_metadata(table).num_row_groups for table in tables)
    damage(tables[0], 0)
    asked: list[str] = []
    ray.before = lambda name, given: asked.append(name)
    for written in (groups - 1, 0):
        asked.clear()
        with pytest.raises(ImageError, match=rf"^table {tables[0]} cannot be read: "):
            predict_many(bundle, tables[0].parent, out, **JOB)
        assert asked.count("write") == written + 1
        assert {*rows_of(out)} == {Path(path).name for path in paths[2:]}
        assert not ray.living
    for file in out.iterdir():
        file.unlink()
    damage(tables[0], 1)
    told = f"2 of {groups} parts could not be made, the others are written; the first: table "
    with pytest.raises(ImageError, match=f"^{told}{tables[0]} cannot be read: "):
        predict_many(bundle, tables[0].parent, out, **JOB)
    assert {*rows_of(out)} == {Path(path).name for path in paths[4:]}
    assert all(worker.killed for worker in ray.workers)


@pytest.mark.parametrize("kind", ["RayActorError", "OutOfMemoryError"])
def test_workers_that_die_over_a_part_go_on_with_others(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay, kind: str
) -> None:
    def die(name: str, given: tuple[Any, ...]) -> None:
        if name == "write" and any("broken" in path for path in Part.from_text(*given).pictures):
            raise getattr(ray.exceptions, kind)

    ray.before = die
    with pytest.raises(ImageError, match=r"^a worker died again and again over one part: one of"):
        predict_many(bundle, photos, tmp_path / "found", **{**JOB, "part": 1, "workers": 1})
    left = {path.name for path in photos.rglob("*") if path.is_file()} - {"broken.jpg"}
    assert {*rows_of(tmp_path / "found")} == left


def test_workers_that_do_not_come_again_take_no_parts(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    """Nor does one that cannot start, while another does its work."""
    asked: list[str] = []
    dead = False

    def die(name: str, given: tuple[Any, ...]) -> None:
        nonlocal dead
        asked.append(name)
        dead = dead or name == "write"
        if dead:
            raise ray.exceptions.RayActorError

    ray.before = die
    with pytest.raises(ImageError, match=r"^a worker died again and again"):
        predict_many(bundle, photos, tmp_path / "found", **{**JOB, "workers": 1})
    assert asked == ["ready", "write", "ready"]
    asked.clear()

    def refuse(name: str, given: tuple[Any, ...]) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise UsageError("no bundle here")

    ray.before = refuse
    assert predict_many(bundle, photos, tmp_path / "found", **JOB).parts == 4


def test_workers_of_whom_none_can_start(
    bundle: Bundle, photos: Path, tmp_path: Path, ray: LocalRay
) -> None:
    with pytest.raises(AnyDepthError, match="int8") as caught:
        predict_many(bundle, photos, tmp_path / "found", precision="int8", **JOB)
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "found").exists()


def test_results_that_cannot_be_written_end_the_job_at_once(
    bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    ray: LocalRay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(place: Place, content: Any) -> None:
        raise ImageError(f"file {place} cannot be written: No space left on device")

    monkeypatch.setattr(Place, "write", full)
    asked: list[str] = []
    ray.before = lambda name, given: asked.append(name)
    with pytest.raises(ImageError, match="No space left on device") as caught:
        predict_many(bundle, photos, tmp_path / "found", **{**JOB, "workers": 1})
    assert type(caught.value) is ImageError
    assert asked == ["ready", "write"]

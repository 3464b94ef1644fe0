"""The whole job on a Ray of two workers: as one process would have it, whoever dies on the way."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from killing_store import KillingStore
from many_pictures import COUNT, assert_as_one_process, photos, rows_of

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.predict.run import predict
from anydepth_deploy.ray import Detect, predict_many, write_coco

__all__ = ["photos"]  # fixtures

# Ray Data warns of its own settings when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray")

SURROUNDINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AUTH_MODE": "token",  # of its own, or Ray would leave one in the home folder
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of this machine with two cores and nothing else, of a folder and ports of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SURROUNDINGS.items():
            patch.setenv(name, value)
        # Workers are processes of their own, and take a file system apart that tests made.
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"), prepend=os.pathsep)
        import ray

        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # names of sockets are short
        try:
            ray.init(
                num_cpus=2,
                num_gpus=0,
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                object_store_memory=80 * 2**20,
                log_to_driver=False,
                logging_level="error",
                _temp_dir=folder,
            )
            yield ray
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def test_a_folder_interrupted_and_taken_up_again(
    cluster: Any, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found"
    job: dict[str, Any] = {"depth": "base", "threshold": 0.0, "part": 2, "workers": 2}

    def stop(what: str, done: int, total: int) -> None:
        assert total == 4
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_many(bundle.path, photos, out, progress=stop, **job)
    first = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert first
    cut = out / "part-0123456789abcdef.parquet"  # as on a disk that was full
    cut.write_bytes(next(iter(first)).read_bytes()[:-9])
    before = sum(pq.read_metadata(path).num_rows for path in first)
    again = predict_many(bundle, str(photos), out, **job)
    assert (again.before, again.pictures) == (before, COUNT + 1 - before)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert not cut.exists()
    rows = rows_of(out)
    assert_as_one_process(bundle, photos, rows)
    assert "broken.jpg" in rows["broken.jpg"]["error"]
    assert rows["broken.jpg"]["boxes"] is None
    done = predict_many(bundle, photos, out, **job)
    assert (done.pictures, done.parts, done.before) == (0, 0, COUNT + 1)

    assert write_coco(out, tmp_path / "coco.json") == COUNT
    expected = predict(bundle, str(photos), "base", threshold=0.0, draw=False, skipped=[])
    found: dict[int, list[dict[str, Any]]] = {}
    for one in json.loads((tmp_path / "coco.json").read_text()):
        found.setdefault(one["image_id"], []).append(one)
    assert {*found} == {*range(1, COUNT + 1)}  # in the order of paths
    for number, item in enumerate(expected, 1):
        assert [(one["category_id"] - 1, one["score"]) for one in found[number]] == [
            (one["label"], one["score"]) for one in item.detections
        ]
        for one, other in zip(found[number], item.detections, strict=True):
            left, top, right, bottom = other["box"]
            assert one["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=2e-3)


def test_a_worker_that_is_killed(
    cluster: Any, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    """Pictures and results are on a file system of fsspec."""
    store, deaths = tmp_path / "store", tmp_path / "deaths"
    shutil.copytree(photos, store / "in")
    victim = sorted((store / "in").glob("0*"))[0]
    victim.rename(victim.with_name(f"deadly-{victim.name}"))
    deaths.mkdir()
    files = KillingStore(str(store), str(deaths), times=1)
    report = predict_many(
        bundle,
        "in",
        "out",
        depth="base",
        threshold=0.0,
        part=3,
        workers=2,
        filesystem=files,
        out_filesystem=files,
    )
    assert len(list(deaths.iterdir())) == 1
    assert (report.pictures, report.failed, report.parts) == (COUNT + 1, 1, 3)
    assert [item.image for item in report.skipped] == ["in/broken.jpg"]
    rows = {name.removeprefix("deadly-"): row for name, row in rows_of(store / "out").items()}
    assert_as_one_process(bundle, photos, rows)


def test_a_stage_in_a_pipeline_of_ray_and_a_job_over_its_tables(
    cluster: Any, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    """Bytes of files into Parquet; pictures in Parquet into results."""
    from ray.data import ActorPoolStrategy, read_binary_files

    pictures = read_binary_files(str(photos), include_paths=True)
    pictures.write_parquet(str(tmp_path / "tables"))
    found = pictures.map_batches(
        Detect,
        fn_constructor_args=(str(bundle.path), "base", 0.0),
        compute=ActorPoolStrategy(size=1),
        batch_size=4,
    )
    rows = {Path(row["path"]).name: row for row in found.take_all()}
    assert_as_one_process(bundle, photos, rows)

    job: dict[str, Any] = {"depth": "base", "threshold": 0.0, "workers": 1}
    report = predict_many(bundle, tmp_path / "tables", tmp_path / "found", **job)
    assert report.pictures == COUNT + 1
    assert_as_one_process(bundle, photos, rows_of(tmp_path / "found"))
    assert not predict_many(bundle, tmp_path / "tables", tmp_path / "found", **job).parts
    with pytest.raises(ad.AnyDepthError, match="another job: its depth is"):
        predict_many(bundle, tmp_path / "tables", tmp_path / "found", threshold=0.0)


def test_what_a_worker_refuses_is_one_line(
    cluster: Any, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ad.AnyDepthError, match="int8") as caught:
        predict_many(bundle, photos, tmp_path / "found", precision="int8", workers=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_part_that_kills_every_worker(
    cluster: Any, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    """Parts behind it are made before it is told."""
    store, deaths = tmp_path / "store", tmp_path / "deaths"
    shutil.copytree(photos, store)
    deaths.mkdir()
    (store / "broken.jpg").rename(store / "0-deadly.jpg")  # in the first part
    files = KillingStore(str(store), str(deaths), times=99)
    with pytest.raises(ad.AnyDepthError, match="a worker died again and again over one part"):
        predict_many(bundle, "", tmp_path / "found", part=4, workers=1, retries=1, filesystem=files)
    assert len(list(deaths.iterdir())) == 2
    assert len(rows_of(tmp_path / "found")) == COUNT + 1 - 4

"""Pictures for jobs of many, and what one process finds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.pictures.shapes import write_coco

__all__ = ["COUNT", "assert_as_one_process", "photos", "rows_of"]

COUNT = 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COUNT pictures with shapes, one of them of another size in a folder below, and one that is
    none, ``broken.jpg``."""
    folder = tmp_path_factory.mktemp("photos")
    write_coco(folder, COUNT, seed=3)
    (folder / "annotations.json").unlink()
    (folder / "below").mkdir()
    last = max(folder.glob("*.png"))
    with Image.open(last) as picture:
        picture.resize((90, 140)).save(folder / "below" / last.name)
    last.unlink()
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What is written, by the name of the file; each once."""
    rows = [row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    found = {Path(row["path"]).name: row for row in rows}
    assert len(found) == len(rows)
    return found


def assert_as_one_process(bundle: Bundle, photos: Path, rows: dict[str, dict[str, Any]]) -> None:
    skipped: list[Any] = []
    with ad.load(bundle, threads=1) as detector:
        expected = detector(photos, "base", 0.0, skipped=skipped)
    assert {*rows} == {Path(str(one.path)).name for one in expected} | {"broken.jpg"}
    assert [Path(item.image).name for item in skipped] == ["broken.jpg"]
    for one in expected:
        row = rows[Path(str(one.path)).name]
        assert np.array_equal(np.array(row["boxes"], np.float32), one.boxes)
        assert np.array_equal(np.array(row["scores"], np.float32), one.scores)
        assert row["labels"] == one.labels.tolist()
        assert row["names"] == one.names
        assert (row["height"], row["width"], row["depth"]) == (*one.size, one.depth)
        assert row["error"] is None

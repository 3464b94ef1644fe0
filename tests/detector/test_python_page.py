"""What the README and docs/python.md show runs as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import make_clip
from conftest import ROOT
from PIL import Image

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name; two classes have the names that they ask for."""
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["classes"][:2] = ["person", "car"]
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "engines").mkdir()
    bundle_copy.rename(tmp_path / "engines" / "r50")
    (tmp_path / "photos" / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("street.jpg", "photos/a.jpg", "photos/b.jpg", "photos/below/c.jpg"):
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / name)
    make_clip(tmp_path / "clip.mp4", 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(path: Path, first: int | None = None) -> dict[str, Any]:
    """The blocks of a page one after the other, as one program."""
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))[:first]
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)
    return names


def test_the_five_lines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(ROOT / "README.md", first=1)
    assert repr(names["detector"]).startswith("<Detector engines/r50: anydepth-detr tiny")
    assert capsys.readouterr().out.count("\n") >= 1
    lines = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0].split("\n")
    assert len([line for line in lines if line]) <= 5
    assert BLOCK.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))[0] == (
        "\n".join(lines)
    )


def test_the_page(place: Path) -> None:
    names = run(ROOT / "docs" / "python.md")
    assert len(names["result"]) == 100
    assert set(names["sure"].names) <= {"person", "car"}
    assert (place / "drawn" / "street.jpg").is_file()
    assert names["skipped"] == []

"""How pictures meet the input is chosen at export, and what is said of an input of another size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, fails
from conftest import random_detr
from handmade import FakeGraphs

from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.errors import BundleError
from anydepth_deploy.exporting.export import export_bundle

# What pixels are resampled by is the family's, however the picture meets the input; a letterbox is
# black where training knew no other bars, and grey where it did.
RECIPES: list[tuple[str, str | None, tuple[str, bool, int]]] = [
    ("checkpoint", None, ("stretch", True, 114)),
    ("checkpoint", "stretch", ("stretch", True, 114)),
    ("checkpoint", "letterbox", ("letterbox", True, 0)),
    ("yolo_checkpoint", None, ("letterbox", False, 114)),
    ("yolo_checkpoint", "letterbox", ("letterbox", False, 114)),
    ("yolo_checkpoint", "stretch", ("stretch", False, 114)),
]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """Export without torch's exporter."""
    return FakeGraphs().install(monkeypatch)


@pytest.mark.parametrize(("network", "resize", "recipe"), RECIPES)
def test_the_manifest_has_what_was_chosen(
    request: pytest.FixtureRequest,
    run: Run,
    tmp_path: Path,
    network: str,
    resize: str | None,
    recipe: tuple[str, bool, int],
) -> None:
    words = () if resize is None else ("--resize", resize)
    out = tmp_path / "b"
    source: Path = request.getfixturevalue(network)
    found = run("export", source, "--out", out, *words, "--json").json
    assert found["notes"] == []
    wanted = dict(zip(("resize", "antialias", "padding"), recipe, strict=True))
    assert {key: found["preprocess"][key] for key in wanted} == wanted
    kept = open_bundle(out).manifest.preprocess
    assert (kept.resize, kept.antialias, kept.padding) == recipe


def test_another_resizing_is_another_export(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    command = ("export", checkpoint, "--out", out)
    run(*command, "--resize", "letterbox")
    for words, other in (((), "stretch"), (("--resize", "stretch"), "stretch")):
        fails(run(*command, *words), 2, f"holds another export: resizing letterbox (now {other})")
    run(*command, "--resize", "letterbox", "--raw")  # the same one
    kept = run(*command, "--force", "--json").json
    assert kept["notes"] == ["kept from the bundle that was replaced: resizing letterbox"]
    assert (kept["preprocess"]["resize"], kept["preprocess"]["padding"]) == ("letterbox", 0)
    named = run(*command, "--force", "--resize", "stretch", "--json").json
    assert (
        named["preprocess"]
        == run("export", checkpoint, "--out", tmp_path / "c", "--json").json["preprocess"]
    )
    assert not any("resizing" in note for note in named["notes"])
    with pytest.raises(BundleError, match="resizing stretch"):
        export_bundle(checkpoint, out, resize="letterbox")


# --- the input's size ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "other"),
    [("160", None), ("160x160", None), ("320", "size"), ("96x160", "aspect ratio")],
)
def test_another_size_than_in_training_is_said(
    run: Run, tmp_path: Path, checkpoint: Path, size: str, other: str | None
) -> None:
    """By the file, where it tells, else by what such networks have."""
    stored = tmp_path / "stored.pth"
    content: dict[str, Any] = {"model": random_detr().state_dict(), "input_size": [160, 160]}
    torch.save(content, stored)
    for source, words in (
        (stored, "the checkpoint was trained with"),
        (checkpoint, "such networks are trained with"),
    ):
        out = tmp_path / source.stem
        found = run("export", source, "--out", out, "--size", size, "--json").json
        shown = size if "x" in size else f"{size}x{size}"
        assert found["notes"] == (
            []
            if other is None
            else [
                f"the input of {shown} (height x width) has another {other} than {words}, 160x160: "
                "'anydepth-deploy eval' shows what that does to accuracy"
            ]
        )

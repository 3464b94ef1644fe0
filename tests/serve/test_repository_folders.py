"""Writing into folders that exist: what was there stays, or comes back."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from triton_bundle import graphs, snapshot

from anydepth_deploy.errors import BundleError, CheckFailedError
from anydepth_deploy.serve import configs, repository
from anydepth_deploy.serve.check.repository import check_repository
from anydepth_deploy.serve.plan import ServeOptions
from anydepth_deploy.serve.repository import write_repository


def test_two_bundles_share_a_repository(tmp_path: Path) -> None:
    write_repository(graphs(tmp_path / "one"), tmp_path / "models")
    before = snapshot(tmp_path / "models")
    write_repository(graphs(tmp_path / "two", layouts=["gated"]), tmp_path / "models")
    after = snapshot(tmp_path / "models")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {
        "two",
        "two_gated",
        "two_router",
        "two_preprocess",
        "two_postprocess",
    }
    assert check_repository(tmp_path / "models") == []


def test_replacing_needs_force(tmp_path: Path) -> None:
    bundle = graphs(tmp_path / "b")
    write_repository(bundle, tmp_path / "models")
    other = tmp_path / "models" / "b_extra" / "1"  # somebody else's, though the name begins alike
    other.mkdir(parents=True)
    before = snapshot(tmp_path)
    gated = ServeOptions(layouts=("gated",))
    with pytest.raises(BundleError, match="has models of 'b' already: replace them with --force"):
        write_repository(bundle, tmp_path / "models", options=gated)
    assert snapshot(tmp_path) == before

    write_repository(bundle, tmp_path / "models", options=gated, force=True)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "b",
        "b_extra",
        "b_gated",
        "b_postprocess",
        "b_preprocess",
        "b_router",
    ]


@pytest.mark.parametrize("force", [False, True])
def test_a_model_of_somebody_else_is_never_replaced(tmp_path: Path, force: bool) -> None:
    theirs = tmp_path / "models" / "b_router"
    theirs.mkdir(parents=True)
    (theirs / "config.pbtxt").write_text('name: "b_router"')
    before = snapshot(tmp_path / "models")
    with pytest.raises(BundleError, match="b_router exists and is not of the bundle 'b'"):
        write_repository(graphs(tmp_path / "b"), tmp_path / "models", force=force)
    assert snapshot(tmp_path / "models") == before


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_repository(tmp_path: Path, force: bool) -> None:
    bundle = graphs(tmp_path / "b")
    before = snapshot(tmp_path / "b")
    with pytest.raises(BundleError, match="is not empty and no model repository"):
        write_repository(bundle, bundle.path, force=force)
    assert snapshot(tmp_path / "b") == before


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(BundleError, match="is a file"):
        write_repository(graphs(tmp_path / "b"), tmp_path / "models")


def test_others_may_read_it(tmp_path: Path) -> None:
    """The server is another user; the hidden folder that all this grew in is nobody else's."""
    (tmp_path / "plain").mkdir()
    write_repository(graphs(tmp_path / "b"), tmp_path / "models")
    mode = (tmp_path / "plain").stat().st_mode
    for folder in ("models", "models/b", "models/b/1", "models/b_gated/configs"):
        assert (tmp_path / folder).stat().st_mode == mode


def test_a_file_above(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        write_repository(graphs(tmp_path / "b"), tmp_path / "file" / "models")


def test_a_volume_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename leads from the folder beside it into a folder that is mounted."""
    beside: list[Path] = []
    real = check_repository

    def spy(path: Path) -> Any:
        beside.extend(item for item in tmp_path.iterdir() if item.name.startswith("."))
        return real(path)

    bundle = graphs(tmp_path / "b")
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(repository, "check_repository", spy)
    monkeypatch.setattr(repository, "_same_volume", lambda one, other: False)
    write_repository(bundle, tmp_path / "models")
    assert beside == []
    monkeypatch.setattr(repository, "_same_volume", lambda one, other: True)
    write_repository(bundle, tmp_path / "models", force=True)
    assert len(beside) == 1
    assert not [item for item in (tmp_path / "models").iterdir() if item.name.startswith(".")]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_repository(graphs(tmp_path / "b"), tmp_path / "models")
    assert check_repository(tmp_path / "models") == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", range(1, 15))
def test_what_was_there_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, error: BaseException
) -> None:
    """Seven models go and as many come: every one of these renames may be the one that fails."""
    bundle = graphs(tmp_path / "b", layouts=["set"])
    write_repository(bundle, tmp_path / "models")
    before = snapshot(tmp_path)
    rename = _failing(monkeypatch, moment, error)
    with pytest.raises((BundleError, KeyboardInterrupt)):
        write_repository(bundle, tmp_path / "models", force=True)
    assert rename() >= moment
    assert snapshot(tmp_path) == before


def _failing(
    monkeypatch: pytest.MonkeyPatch, moment: int, error: BaseException
) -> Callable[[], int]:
    """Has one rename of a folder fail; returns how many there were."""
    real, calls = Path.rename, 0

    def rename(self: Path, target: Any) -> Path:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    return lambda: calls


def test_nothing_is_left_of_what_fails_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = configs.postprocess

    def broken(*arguments: Any) -> Any:
        made = real(*arguments)
        made.input[1].name = "boxes"
        return made

    bundle = graphs(tmp_path / "b")
    monkeypatch.setattr(configs, "postprocess", broken)
    with pytest.raises(CheckFailedError, match="input 'boxes' is there 2 times"):
        write_repository(bundle, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_ensemble_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A server that looks in between must not find a model whose parts are not there.
    bundle = graphs(tmp_path / "b")
    write_repository(bundle, tmp_path / "models")
    seen: list[tuple[str, str]] = []
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        seen.append((self.name, "in" if target.parent == tmp_path / "models" else "out"))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    write_repository(bundle, tmp_path / "models", force=True)
    assert seen[0] == ("b", "out")
    assert seen[1] == ("b_router", "out")
    assert seen[-2:] == [("b_router", "in"), ("b", "in")]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bundle = graphs(tmp_path / "b")
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(BundleError, match="No space left on device"):
        write_repository(bundle, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]

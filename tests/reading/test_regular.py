"""Files that others name: whatever is there in their place is told at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, fails

from anydepth_deploy.bench.results import read_result
from anydepth_deploy.calibration.table import read_table
from anydepth_deploy.checkpoints.archive import Archive
from anydepth_deploy.checkpoints.class_names import read_names
from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.depth import _read_ladder_file
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import AnyDepthError
from anydepth_deploy.evaluation import CocoData
from anydepth_deploy.reading.regular import (
    NoFileError,
    TooLargeError,
    kind_of_file,
    open_regular,
    read_regular,
)
from anydepth_deploy.texts import read_text

pytestmark = pytest.mark.timeout(30)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = (a_pipe, a_socket, a_folder, a_device)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("make", KINDS)
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None], linked: bool) -> None:
    path = tmp_path / "x"
    make(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    kind = make.__name__.replace("_", " ")
    assert kind_of_file(path) == kind
    for read in (open_regular, read_regular, read_text, file_sha256):
        with pytest.raises(NoFileError, match=f"^it is {kind}, expected a file$"):
            read(path)


def test_files_and_links_to_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    (tmp_path / "other").symlink_to("file")
    (tmp_path / "link").symlink_to("other")
    for name in ("file", "link"):
        assert kind_of_file(tmp_path / name) is None
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
        assert read_regular(str(tmp_path / name), 7) == b"content"
        with pytest.raises(TooLargeError, match="more than 6 bytes"):
            read_regular(tmp_path / name, 6)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("nothing", "link"):
        with pytest.raises(FileNotFoundError):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="Too many levels"):
        open_regular(tmp_path / "circle")
    with pytest.raises(OSError, match="no name of a file"):
        open_regular(f"{tmp_path}/a\0b")


def test_a_file_that_is_replaced_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a pipe between the look at it and its opening."""
    path = tmp_path / "x"
    path.write_bytes(b"")
    opened = os.open

    def late(name: Any, flags: int, *more: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, flags, *more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(NoFileError, match="it is a pipe"):
        open_regular(path)


READERS: dict[str, Callable[[Path], object]] = {
    "a checkpoint": check_present,
    "a range table": read_table,
    "a result": read_result,
    "class names": read_names,
    "a ladder": _read_ladder_file,
    "annotations": CocoData,
}


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_whoever_reads_says_so(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(AnyDepthError) as caught:
        READERS[name](tmp_path / "x")
    told = str(caught.value)
    assert str(tmp_path / "x") in told
    assert f"is {make.__name__.replace('_', ' ')}" in told
    assert "\n" not in told


def test_a_checkpoint_that_becomes_a_pipe(tmp_path: Path) -> None:
    a_pipe(tmp_path / "x.pth")
    with pytest.raises(NoFileError):
        Archive(tmp_path / "x.pth")


def test_commands(tmp_path: Path, run: Run) -> None:
    a_pipe(tmp_path / "x.pth")
    fails(run("inspect", tmp_path / "x.pth"), 2, "x.pth is a pipe; expected a PyTorch file")
    fails(run("report", tmp_path / "x.pth"), 2, "cannot be read: it is a pipe, expected a file")

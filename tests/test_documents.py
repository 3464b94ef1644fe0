"""Files that are written whole, under names of their own, where it was tried before."""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anydepth_deploy import documents
from anydepth_deploy.documents import (
    beside,
    take_after,
    try_to_write,
    write_atomically,
    write_new,
)
from anydepth_deploy.errors import UsageError

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- what is there already -------------------------------------------------------------------


@posix
def test_links_and_pipes_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    target, link, pipe = tmp_path / "kept" / "a.json", tmp_path / "a.json", tmp_path / "pipe"
    link.symlink_to(target)
    for content in (b"one", b"two"):  # the first time it leads nowhere
        try_to_write(link, "ladder", UsageError)
        write_atomically(link, lambda file: file.write(content))  # noqa: B023
        assert link.is_symlink()
        assert target.read_bytes() == content
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(pipe.read_bytes)
        try_to_write(pipe, "ladder", UsageError)
        write_atomically(pipe, lambda file: file.write(b"three"))
        assert reading.result(timeout=20) == b"three"
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert everything(tmp_path) == ["a.json", "kept", "kept/a.json", "pipe"]


def test_names_as_long_as_names_can_be(tmp_path: Path) -> None:
    name = "\u65e5" * 83 + ".json"  # 254 bytes
    try_to_write(tmp_path / name, "ladder", UsageError)
    write_atomically(tmp_path / name, lambda file: file.write(b"x"))
    assert everything(tmp_path) == [name]


# --- names that nobody chose -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("a.json", "a-2.json"),
        ("a.b.json", "a.b-2.json"),
        ("a", "a-2"),
        ("a.pred.png", "a-2.pred.png"),
        ("a.b.pred.jpg", "a.b-2.pred.jpg"),
    ],
)
def test_nothing_is_replaced(tmp_path: Path, name: str, second: str) -> None:
    for number, content in enumerate((b"one", b"two", b"three"), 1):
        found = write_new(tmp_path / "new" / name, lambda file: file.write(content))  # noqa: B023
        expected = {1: name, 2: second, 3: second.replace("-2", "-3")}[number]
        assert found == tmp_path / "new" / expected
        assert found.read_bytes() == content
    assert (tmp_path / "new" / name).read_bytes() == b"one"
    assert len(everything(tmp_path / "new")) == 3


def test_a_link_that_leads_nowhere_stays(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "gone")
    assert write_new(tmp_path / "a.json", lambda file: file.write(b"x")).name == "a-2.json"
    assert not (tmp_path / "gone").exists()


def without_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_many_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    barrier = threading.Barrier(8)

    def write(number: int) -> Path:
        barrier.wait()
        return write_new(tmp_path / "r" / "a.json", lambda file: file.write(b"%d" % number))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(write, range(8)))
    assert len(set(found)) == 8
    assert [path.read_bytes() for path in found] == [b"%d" % number for number in range(8)]
    assert len(everything(tmp_path / "r")) == 8


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in (write_new, write_atomically):
        with pytest.raises(OSError, match="No space left"):
            function(tmp_path / "a.json", refuse)
        assert everything(tmp_path) == []
        for name in ("replace", "fsync"):
            with monkeypatch.context() as patch:
                patch.setattr(os, "link", without_links)
                patch.setattr(Path if name == "replace" else os, name, refuse)
                with pytest.raises(OSError, match="No space left"):
                    function(tmp_path / "a.json", lambda file: file.write(b"x"))
            assert everything(tmp_path) == []


# --- what is replaced keeps its mode and owner -----------------------------------------------


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_modes_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(mode)
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_new_files_are_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
        write_new(tmp_path / "b", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o640}


@posix
def test_a_name_that_nobody_chose_takes_after_nothing(tmp_path: Path) -> None:
    write_new(tmp_path / "a", lambda file: file.write(b"x")).chmod(0o600)
    made = write_new(tmp_path / "a", lambda file: file.write(b"x"))
    assert stat.S_IMODE(made.stat().st_mode) != 0o600


@posix
def test_owners_stay_as_far_as_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    new.touch()
    given: list[tuple[Path, int, int]] = []
    real = Path.stat

    def stat_of(path: Path, **more: bool) -> os.stat_result:
        found = real(path, **more)
        if path != old:
            return found
        return os.stat_result((*found[:4], 1234, 5678, *found[6:]))

    monkeypatch.setattr(Path, "stat", stat_of)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.append((path, uid, gid)))
    take_after(old, new)
    assert given == [(new, 1234, 5678)]

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    old.chmod(0o600)
    take_after(old, new)  # whoever is not root may not
    assert stat.S_IMODE(new.stat().st_mode) == 0o600


# --- tried first -----------------------------------------------------------------------------


def test_trying_leaves_nothing(tmp_path: Path) -> None:
    try_to_write(tmp_path / "a" / "b" / "c.json", "result", UsageError)
    assert everything(tmp_path) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "c.json").write_text("mine")
    try_to_write(tmp_path / "there" / "c.json", "result", UsageError)
    try_to_write(tmp_path / "there" / "d" / "c.json", "result", UsageError)
    assert everything(tmp_path) == ["there", "there/c.json"]
    assert (tmp_path / "there" / "c.json").read_text() == "mine"


def test_a_working_folder_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try_to_write(Path("c.json"), "result", UsageError)
    try_to_write(Path("new/c.json"), "result", UsageError)
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file/c.json", "File exists|Not a directory"),
        ("file/below/c.json", "Not a directory"),
        ("folder", "Is a directory"),
        (f"{'n' * 300}/c.json", "File name too long"),
    ],
)
def test_places_where_nothing_can_be(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=rf"^result .* cannot be written: ({reason}); choose"):
        try_to_write(tmp_path / path, "result", UsageError)
    assert everything(tmp_path) == ["file", "folder"]


def test_a_mount_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is told that it may write there, until it does."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UsageError, match=r"a\.json cannot be written: Read-only file system; "):
        try_to_write(tmp_path / "new" / "a.json", "result", UsageError)
    assert everything(tmp_path) == []


def test_who_tries_and_who_writes_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    """The folder that one made to try is gone while the other writes into it."""
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for count in range(40):
            try_to_write(tmp_path / "r" / "s" / "a.json", "result", UsageError)
            if count % 10 == 9:
                write_new(tmp_path / "r" / "s" / f"{number}.json", lambda file: file.write(b"x"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(everything(tmp_path / "r" / "s")) == 16


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_folder_that_goes_while_it_is_made(
    error: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when mkdir tried, and not when mkdir looked."""
    mkdir = Path.mkdir
    failed: list[Path] = []

    def once(path: Path, *arguments: Any, **named: Any) -> None:
        if not failed:
            failed.append(path)
            raise error(17, "gone")
        mkdir(path, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", once)
    write_atomically(tmp_path / "a" / "b.json", lambda file: file.write(b"x"))
    assert (tmp_path / "a" / "b.json").read_bytes() == b"x"
    assert failed


def test_names_at_the_limit_of_a_file_system(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    with beside(path) as temporary:
        assert temporary.parent == tmp_path
    write_atomically(path, lambda file: file.write(b"x"))
    assert everything(tmp_path) == [path.name]
    assert documents.file_sha256(path)

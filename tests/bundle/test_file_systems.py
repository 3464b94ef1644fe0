"""Bundles on disks that are full, on mounts that are read only, and over networks, whose file
systems have no locks on folders or nothing to flush them with."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import FakeGraphs, manifest, writes

from anydepth_deploy.bundle import files
from anydepth_deploy.bundle.bundle import open_bundle
from anydepth_deploy.bundle.files import LOCK, MANIFEST, locked
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.errors import BundleError
from anydepth_deploy.exporting.export import export_bundle

ONE = b"one" * 100

NO_LOCKS = ("EBADF", "ENOTSUP", "EOPNOTSUPP", "ENOLCK", "ENOSYS", "EINVAL")
"""NFS, and what else mounts of other machines say."""


def make(path: Path, **more: bytes) -> None:
    with BundleWriter(path, manifest()) as writer:
        for name, content in {"one": ONE, **more}.items():
            writer.add(name, writes(content, name=name))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def failing(
    name: str, fails: Callable[[int], bool], real: Callable[..., None]
) -> Callable[..., None]:
    """A call on an open file that fails with the error ``name`` where the file says so."""
    number = getattr(errno, name)

    def call(handle: int, *more: int) -> None:
        if fails(handle):
            raise OSError(number, os.strerror(number))
        real(handle, *more)

    return call


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


@pytest.fixture(params=NO_LOCKS)
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folders cannot be locked; files can."""
    monkeypatch.setattr(fcntl, "flock", failing(request.param, is_folder, fcntl.flock))
    return str(request.param)


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be locked."""
    monkeypatch.setattr(fcntl, "flock", failing("ENOLCK", lambda _: True, fcntl.flock))
    monkeypatch.setattr(files, "_unlocked", set())


# --- locks -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("network")
def test_all_works_where_folders_cannot_be_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "deep" / "b"
    make(path)
    make(path, two=b"two")
    opened = open_bundle(path)
    opened.record("verify", {"passed": True})
    opened.mark({})
    assert open_bundle(path).manifest.results["verify"] == [{"passed": True}]
    assert everything(tmp_path) == [
        *("deep", "deep/b"),
        *(f"deep/b/{name}" for name in sorted([MANIFEST, "one.onnx", "two.onnx"])),
    ]
    assert caplog.text == ""
    with BundleWriter(path, manifest("b"), force=True) as writer:
        writer.add("other", writes(b"other", name="other"))
    assert sorted(names(path)) == [MANIFEST, "other.onnx"]


@pytest.mark.usefixtures("network")
def test_one_at_a_time_there_too(tmp_path: Path) -> None:
    make(tmp_path / "b")
    with BundleWriter(tmp_path / "b", manifest()) as writer:
        with (
            pytest.raises(BundleError, match="another export or build is writing"),
            BundleWriter(tmp_path / "b", manifest()),
        ):
            pytest.fail("both write")
        writer.add("two", writes(b"two", name="two"))
    make(tmp_path / "b", three=b"three")
    assert LOCK not in names(tmp_path / "b")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_the_place_of_the_lock(tmp_path: Path, there: bool) -> None:
    make(tmp_path / "b")
    if there:
        (tmp_path / "elsewhere").touch()
    (tmp_path / "b" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / "b", wait=True):
        pytest.fail("somebody else's file is held")
    assert (tmp_path / "elsewhere").exists() == there


HOLDS = """
import errno, fcntl, os, stat, sys, time
from pathlib import Path
from anydepth_deploy.bundle.files import locked

real = fcntl.flock

def flock(handle, how):
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    real(handle, how)

fcntl.flock = flock
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(rounds):
    with locked(folder, wait=True):
        # Two at once would read the same number.
        number = int((folder / "count").read_text())
        time.sleep(0.001)
        (folder / "count").write_text(str(number + 1))
print("done", flush=True)
if rounds == 1:
    with locked(folder, wait=True):
        print("held", flush=True)
        time.sleep(60)
"""


def start(folder: Path, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDS, str(folder), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_take_turns_though_the_file_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(start(tmp_path, 40)) for _ in range(3)]
        assert all(process.wait(60) == 0 for process in running)
    assert (tmp_path / "count").read_text() == "120"
    assert names(tmp_path) == ["count"]


@pytest.mark.usefixtures("network")
def test_who_is_killed_holds_nothing(tmp_path: Path) -> None:
    make(tmp_path / "b")
    (tmp_path / "b" / "count").write_text("0")
    with start(tmp_path / "b", 1) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["done\n", "held\n"]
        with (
            pytest.raises(BundleError, match="another export or build"),
            locked(tmp_path / "b", wait=False),
        ):
            pytest.fail("both hold it")
        process.send_signal(signal.SIGKILL)
    assert LOCK in names(tmp_path / "b")  # and nobody minds
    open_bundle(tmp_path / "b").record("verify", {"passed": True})
    assert LOCK not in names(tmp_path / "b")


@pytest.mark.usefixtures("network")
def test_a_lock_that_was_left_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / LOCK).touch()
    make(tmp_path / "b")
    assert sorted(names(tmp_path / "b")) == [MANIFEST, "one.onnx"]


@pytest.mark.usefixtures("lockless")
def test_no_locks_at_all_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "b")
    for _ in range(3):
        open_bundle(tmp_path / "b").record("verify", {"passed": True})
    assert len(open_bundle(tmp_path / "b").manifest.results["verify"]) == 3
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(" is on ")[0] for line in told] == [
        str(tmp_path / ".b.partial"),
        str(tmp_path / "b"),
    ]
    assert "a file system without locks" in told[0]
    assert everything(tmp_path) == ["b", f"b/{MANIFEST}", "b/one.onnx"]


def test_other_errors_of_locks_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing("EIO", lambda _: True, fcntl.flock))
    with pytest.raises(BundleError, match="cannot be written: Input/output error"):
        make(tmp_path / "b")
    assert everything(tmp_path) == []


# --- flushing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EPERM"])
def test_folders_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "fsync", failing(name, is_folder, os.fsync))
    make(tmp_path / "b")
    open_bundle(tmp_path / "b").record("verify", {"passed": True})
    assert sorted(names(tmp_path / "b")) == [MANIFEST, "one.onnx"]


@pytest.mark.parametrize("name", ["EIO", "ENOSPC"])
def test_what_is_lost_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "fsync", failing(name, is_folder, os.fsync))
    with pytest.raises(BundleError, match="cannot be written"):
        make(tmp_path / "b")
    assert everything(tmp_path) == []


# --- full, or read only ----------------------------------------------------------------------


@pytest.mark.parametrize("at", ["mkdir", "touch", "write_text", "fsync", "replace"])
@pytest.mark.parametrize("kind", ["new", "below new folders", "empty", "other"])
def test_a_disk_that_is_full_at_the_first_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, kind: str
) -> None:
    """Whatever call it is that finds no room: what was there before is there, and nothing else."""
    path = tmp_path / ("x/y/b" if kind == "below new folders" else "b")
    if kind == "empty":
        path.mkdir()
    if kind == "other":
        make(path)
    before = {name: (tmp_path / name).stat().st_size for name in everything(tmp_path)}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if at == "fsync" else Path, at, full)
        with (
            pytest.raises(BundleError, match=r"No space left on device; free space"),
            BundleWriter(path, manifest("b"), force=True),
        ):
            pytest.fail("there is room")
    assert {name: (tmp_path / name).stat().st_size for name in everything(tmp_path)} == before


def test_an_export_into_a_bundle_is_refused_before_the_work(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeGraphs().install(monkeypatch)
    out = tmp_path / "b"
    export_bundle(checkpoint, out)
    assert fake.exports == 1

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("touch", "replace", "unlink", "write_text"):  # not even root may
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(BundleError, match=f"{out} cannot be written: Read-only file system"):
        export_bundle(checkpoint, out, layouts=["set"])
    assert fake.exports == 1
    # What is whole needs no writing.
    assert len(export_bundle(checkpoint, out).artifacts()) == 1


def test_a_manifest_keeps_its_mode(tmp_path: Path) -> None:
    make(tmp_path / "b")
    manifest_file = tmp_path / "b" / MANIFEST
    for mode in (0o600, 0o664):
        manifest_file.chmod(mode)
        open_bundle(tmp_path / "b").record("verify", {"passed": True})
        assert stat.S_IMODE(manifest_file.stat().st_mode) == mode

"""What killed servers left behind is removed, and nobody else's; without a server."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from triton_serving import until

from triton_server import leftovers
from triton_server.leftovers import clean, record, remove, server_name

NOBODY = 2**22 + 1
"""Linux gives no process a number as large."""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(leftovers, "SHARED", tmp_path)
    return tmp_path


@pytest.fixture
def name() -> str:
    return server_name(f"test-{os.getpid()}")


def process(*words: str) -> subprocess.Popen[bytes]:
    """A process that waits, with ``words`` in its command line."""
    return subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE)


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    with process() as found:
        yield found
        found.kill()


def regions(shared: Path, name: str) -> list[Path]:
    found = [shared / f"{name}{word}" for word in ("80aaef3f", "6c673b05")]
    for path in found:
        path.write_bytes(b"memory")
    return found


def names(shared: Path) -> set[str]:
    return {path.name for path in shared.iterdir()}


def test_what_a_living_server_owns_stays(
    shared: Path, name: str, server: subprocess.Popen[bytes]
) -> None:
    regions(shared, name)
    record(name, server.pid)
    before = names(shared)
    assert len(before) == 3
    assert clean() == []
    assert names(shared) == before


def test_what_a_dead_server_owned_goes(
    shared: Path, name: str, server: subprocess.Popen[bytes]
) -> None:
    regions(shared, name)
    record(name, server.pid)
    others = [f"{name.removesuffix('-')}9-80aaef3f", "anydepth-client-1", "torch_123"]
    for other in others:
        (shared / other).write_bytes(b"not ours")
    server.kill()  # nobody has asked yet how it ended
    assert until(lambda: clean() == [name])
    assert names(shared) == set(others)
    assert clean() == []


def test_a_number_that_was_given_to_another_process(
    shared: Path, name: str, server: subprocess.Popen[bytes]
) -> None:
    regions(shared, name)
    record(name, server.pid)
    path = shared / f"{name}owner"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "started": str(int(content["started"]) - 1)}), "utf-8")
    assert clean() == [name]
    assert names(shared) == set()
    assert server.poll() is None


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "pid:[1]"},  # a container's
        {"started": ""},
        {"pid": "7"},
        {"pid": None},
    ],
)
def test_what_cannot_be_told_stays(shared: Path, name: str, change: dict[str, object]) -> None:
    regions(shared, name)
    record(name, os.getpid())
    path = shared / f"{name}owner"
    content = {**json.loads(path.read_text("utf-8")), "pid": NOBODY}
    path.write_text(json.dumps({**content, **change}), "utf-8")
    assert clean() == []
    assert len(names(shared)) == 3
    path.write_text(json.dumps(content), "utf-8")
    assert clean() == [name]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{}"])
def test_a_record_that_cannot_be_read_stays(shared: Path, name: str, content: bytes) -> None:
    (shared / f"{name}owner").write_bytes(content)
    assert clean() == []
    assert names(shared) == {f"{name}owner"}


def test_processes_of_a_dead_server_are_ended_and_no_others(shared: Path, name: str) -> None:
    record(name, os.getpid())
    path = shared / f"{name}owner"
    path.write_text(path.read_text("utf-8").replace(str(os.getpid()), str(NOBODY)), "utf-8")
    with process("model.py", f"{name}80aaef3f") as stub, process(f"a {name}") as other:
        assert until(lambda: b"80aaef3f" in Path(f"/proc/{stub.pid}/cmdline").read_bytes())
        assert clean() == [name]
        assert stub.wait(10) == -9
        assert other.poll() is None
        other.kill()


def test_removing_twice(shared: Path, name: str) -> None:
    regions(shared, name)
    remove(name)
    remove(name)
    assert names(shared) == set()


def dead(shared: Path, name: str) -> Path:
    """The record of a server that is gone."""
    record(name, os.getpid())
    path = shared / f"{name}owner"
    content = {**json.loads(path.read_text("utf-8")), "pid": NOBODY}
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_a_link_is_no_record(
    shared: Path, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Anybody may leave one in a folder that all may write to, to a file of this user."""
    regions(shared, name)
    path = dead(shared, name)
    path.symlink_to(path.rename(tmp_path_factory.mktemp("elsewhere") / "record"))
    assert clean() == []
    assert len(names(shared)) == 3


@pytest.mark.parametrize("word", ["", "-", "1--", "a b-", "1"])
def test_a_name_that_is_no_servers(shared: Path, name: str, word: str) -> None:
    """The shortest is what all names begin with."""
    regions(shared, name)
    path = dead(shared, name)
    path.rename(shared / f"anydepth-server-{word}owner")
    assert clean() == []
    assert len(names(shared)) == 3
    with pytest.raises(ValueError, match="cannot be a server's name") as told:
        remove(f"anydepth-server-{word}")
    assert "\n" not in str(told.value)
    assert len(names(shared)) == 3


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_process_that_cannot_be_looked_at_is_not_gone(
    shared: Path, name: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    regions(shared, name)
    dead(shared, name)
    read = Path.read_text

    def refuse(path: Path, *words: Any, **options: Any) -> str:
        if path.name == "stat":
            raise OSError(number, os.strerror(number))
        return read(path, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert clean() == []
    assert len(names(shared)) == 3
    assert clean() == [name]

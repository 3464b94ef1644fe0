"""Standard output and error that are closed, full, gone, or cannot encode what is printed."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run
from fuzzing import examples
from handmade import manifest
from hypothesis import given
from hypothesis import strategies as st

from anydepth_deploy import console, streams
from anydepth_deploy.bundle.files import write_manifest
from anydepth_deploy.errors import readable, readable_all

CLASSES = ["三角", "naïve", "кот"]
TEXTS = ["三角", "naïve", "caf\udce9.png", "\udcff", "a\ud83d", "😀", "plain"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle without artifacts, whose classes and checkpoint have names of all scripts."""
    folder = tmp_path / "small"
    folder.mkdir()
    source = {"file": "模型.pth", "sha256": "a" * 64, "bytes": 3, "weights": "ema"}
    write_manifest(folder, manifest(classes=CLASSES, source=source))
    return folder


def process(shell: str, *words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, whose descriptors `shell` (``>&-``) says."""
    command = [sys.executable, "-m", "anydepth_deploy", *map(str, words)]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=60,
    )


CLOSINGS = ("<&-", ">&-", "2>&-")
SUBSETS = [
    " ".join(chosen)
    for count in range(len(CLOSINGS) + 1)
    for chosen in itertools.combinations(CLOSINGS, count)
]


@pytest.mark.parametrize("closed", SUBSETS)
def test_closed_streams(small: Path, closed: str) -> None:
    words = ["--json"] if SUBSETS.index(closed) % 2 else []
    done = process(closed, "inspect", small, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (">&-" not in closed.split())


@pytest.mark.parametrize("closed", CLOSINGS)
def test_errors_with_closed_streams(small: Path, closed: str) -> None:
    refused = process(closed, "inspect", small / "nothing")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert refused.stderr.startswith(b"error: ") == (closed != "2>&-")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8:strict", "ascii:surrogateescape"])
def test_encodings_that_lack_letters(tmp_path: Path, small: Path, encoding: str) -> None:
    folder = small.rename(tmp_path / "三角\udce9")
    done = process("", "inspect", folder, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\xe9:" in done.stdout
    assert (b"\\u4e09\\u89d2" in done.stdout) == (not encoding.startswith("utf"))
    done = process("", "inspect", folder, "--json", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["classes"] == CLASSES


def test_errors_in_ascii(tmp_path: Path) -> None:
    asked = process("", "inspect", tmp_path / "三\udce9", PYTHONIOENCODING="ascii")
    assert asked.returncode == 2
    assert b"\\u4e09\\xe9 does not exist" in asked.stderr


@pytest.mark.parametrize("full", ["", "--json"])
def test_a_full_disk_is_told(small: Path, full: str) -> None:
    done = process("> /dev/full", "inspect", small, *full.split())
    assert done.returncode == 2
    assert done.stderr == (b"error: standard output cannot be written: No space left on device\n")


def test_a_reader_that_has_gone(small: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "anydepth_deploy", "inspect", str(small), "--every"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


# --- in the process of another program --------------------------------------------------------


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["none", "closed"])
def test_no_stream(
    run: Run, small: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    stream = None if kind == "none" else io.StringIO()
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, name, stream)
    for words in ((), ("--json",)):
        assert run("inspect", small, *words).code == 0
        assert getattr(sys, name) is stream
    assert run("inspect", small / "nothing").code == 2


def test_the_console_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.print_line("a")
    console.print_json({"a": 1})
    console.print_table("t", ["a"], [[1]])
    with console.bar("label") as progress:
        progress("step", 1, 2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "replace", "backslashreplace"])
def test_streams_are_as_they_were_afterwards(
    monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors=errors)
    monkeypatch.setattr(sys, "stdout", stream)
    with streams.usable_streams():
        for text in TEXTS:
            console.print_line(text)
    assert (sys.stdout, stream.errors, stream.encoding) == (stream, errors, encoding)
    stream.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert len(lines) == len(TEXTS)
    assert lines[2] == "caf\\xe9.png"
    assert lines[-1] == "plain"
    if encoding.startswith("utf"):
        assert lines[0] == "三角"


# --- names as text ---------------------------------------------------------------------------


@examples(200)
@given(name=st.binary(max_size=12))
def test_names_of_any_bytes(name: bytes) -> None:
    """What is UTF-8 stays, and any other byte is escaped."""
    shown = readable(os.fsdecode(name))
    assert shown.encode().decode() == shown
    expected, rest = "", name
    while rest:
        for size in range(1, 5):
            try:
                letter = rest[:size].decode()
            except UnicodeDecodeError:
                continue
            expected, rest = expected + letter, rest[size:]
            break
        else:
            expected, rest = expected + f"\\x{rest[0]:02x}", rest[1:]
    assert shown == expected


@examples(100)
@given(text=st.text(st.characters(), max_size=8))
def test_any_text_can_be_written(text: str) -> None:
    assert readable(text).encode().decode() == readable(text)
    found = readable_all({text: [text, (text, 1.5, None)]})
    assert json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8")) == found


def test_documents_hold_what_they_held() -> None:
    content = {"a": [1, 2.5, None, True, {"b": "c"}], "d": ("e", "é")}
    assert readable_all(content) == {"a": [1, 2.5, None, True, {"b": "c"}], "d": ["e", "é"]}

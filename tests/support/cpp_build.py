"""The C++ library, built once, and the probe through which tests call it.

Three builds, kept in ``build/`` and brought up to date when a test first needs one: ``sanitized``
(address and undefined behaviour, assertions of the standard library), which serves every test that
compares with Python, ``threads`` (data races), and ``optimised``, as users build it. Where a
compiler, CMake or a header is missing, tests that need the library are skipped and say why, or fail
where ``ANYDEPTH_REQUIRE_CPP`` is set.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from once import locked

PATIENT = pytest.mark.timeout(1800)
"""For modules whose first test may have to wait for builds and exports, beside other tests."""

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "cpp"
BUILDS = ROOT / "build"

COMMON = (
    "-DANYDEPTH_WERROR=ON",
    "-DANYDEPTH_BUILD_TESTS=ON",
    # Headers take most of the time: several files are compiled as one.
    "-DANYDEPTH_UNITY=ON",
)
VARIANTS = {
    "sanitized": (
        "-DBUILD_SHARED_LIBS=OFF",
        "-DANYDEPTH_BUILD_TOOLS=OFF",
        "-DANYDEPTH_BUILD_EXAMPLES=OFF",
        "-DANYDEPTH_SANITIZE=address;undefined",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O0 -g1 -D_GLIBCXX_ASSERTIONS",
    ),
    "threads": (
        "-DBUILD_SHARED_LIBS=OFF",
        "-DANYDEPTH_BUILD_TOOLS=OFF",
        "-DANYDEPTH_BUILD_EXAMPLES=OFF",
        "-DANYDEPTH_OPENVINO=OFF",
        "-DANYDEPTH_SANITIZE=thread",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O0 -g1",
    ),
    "optimised": ("-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_TYPE=Release"),
}


PROBE = "anydepth-probe"
BENCH, DETECT = "anydepth-bench", "anydepth-detect"
"""The programs that users build; their variant is ``optimised``."""


class CppError(Exception):
    """An error of the library: the name of its class, and what it says."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


def build(variant: str, *programs: str) -> Path:
    """The folder of an up-to-date build of these programs, with the library that they load; skips
    or fails the test where there can be none."""
    found = _build(variant, programs)
    if isinstance(found, str):
        absent(found)
    return found


def absent(reason: str) -> NoReturn:
    """End the test: what it needs is not here."""
    if os.environ.get("ANYDEPTH_REQUIRE_CPP"):
        pytest.fail(f"the C++ library cannot be built: {reason}")
    pytest.skip(f"the C++ library cannot be built: {reason}")


@functools.cache
def _build(variant: str, programs: tuple[str, ...]) -> Path | str:
    """The folder, or what is missing."""
    dependencies = configure_arguments()
    if isinstance(dependencies, str):
        return dependencies
    folder = BUILDS / f"cpp-{variant}"
    with building(folder.name):
        configure(SOURCE, folder, [*COMMON, *VARIANTS[variant], *dependencies])
        call(["cmake", "--build", str(folder), "--parallel", "2", "--target", *programs])
    return folder


@functools.cache
def configure_arguments() -> tuple[str, ...] | str:
    """What CMake is told about this environment, or what is missing in it."""
    for tools in (("cmake",), ("c++", "g++", "clang++")):
        if not any(map(shutil.which, tools)):
            return f"there is no {' or '.join(tools)} here"
    with building("cpp-deps"):
        done = subprocess.run(
            [sys.executable, str(SOURCE / "dependencies.py"), "--separator", "\n"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode:
        return done.stderr.strip() or "cpp/dependencies.py failed"
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    return (*generator, *done.stdout.split("\n")[:-1])


def configure(source: Path, folder: Path, arguments: Sequence[str]) -> None:
    """Configure a build, unless it is as it should be."""
    command = ["cmake", "-S", str(source), "-B", str(folder), *arguments]
    note = folder / "configured-with.json"
    if note.is_file() and json.loads(note.read_text()) == command:
        return  # the build itself sees to changed files
    if folder.exists():
        shutil.rmtree(folder)
    call(command)
    note.write_text(json.dumps(command))


def call(command: Sequence[str], **options: Any) -> str:
    """Run a tool; its output is the message where it fails."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, timeout=1500, check=False, **options
    )
    assert not done.returncode, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def building(name: str) -> contextlib.AbstractContextManager[None]:
    """One process at a time, of those that run tests."""
    BUILDS.mkdir(exist_ok=True)
    return locked(BUILDS / f".{name}.lock")


class Probe:
    """The library of one build; see ``cpp/tests/probe.cpp`` and its neighbours for the calls.

    Arrays are given and taken as files: :meth:`give` writes one, :meth:`take` reads one.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._log = (folder / "stderr.txt").open("w+")
        self._process = subprocess.Popen(
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Of the process, to measure."""
        return self._process.pid

    def call(self, name: str, /, **given: Any) -> Any:
        """The answer of one call. Raises :class:`CppError`."""
        line = json.dumps({"call": name, **given})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            pytest.fail(f"the probe died of {line[:500]}\n{self.errors()[-6000:]}")
        found: Mapping[str, Any] = json.loads(answer)
        if "error" in found:
            raise CppError(found["error"], found["message"])
        return found["result"]

    def path(self) -> str:
        """Where to write an array."""
        return str(self._folder / str(next(self._numbers)))

    def give(self, array: NDArray[Any]) -> str:
        """The file that holds the elements of ``array``."""
        path = self.path()
        np.ascontiguousarray(array).tofile(path)
        return path

    def take(self, path: str, dtype: Any, shape: Sequence[int]) -> NDArray[Any]:
        """The array that the probe wrote, whose file goes."""
        array = np.fromfile(path, dtype).reshape(tuple(shape))
        Path(path).unlink()
        return array

    def errors(self) -> str:
        """What it wrote to standard error."""
        self._log.flush()
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End it; sanitizers tell of what was not given back."""
        self._process.communicate(timeout=120)
        status, errors = self._process.returncode, self.errors()
        self._log.close()
        assert status == 0, f"the probe ended with {status}\n{errors[-6000:]}"


@contextlib.contextmanager
def open_probe(variant: str) -> Iterator[Probe]:
    """The probe of a build, running."""
    program = build(variant, PROBE) / PROBE
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(program, Path(folder))
        try:
            yield probe
        finally:
            probe.close()

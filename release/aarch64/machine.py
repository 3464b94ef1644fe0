"""An aarch64 machine in a folder: its system, its Python, and a compiler for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from release.aarch64.packages import Suite
from release.environments import ROOT, run

__all__ = ["Machine", "make_machine"]

PYTHON = "3.11"
"""That of Debian 12."""

SYSTEM = (f"python{PYTHON}", "libstdc++6")
TOOLS = ("qemu-user-static", "g++-aarch64-linux-gnu")

LIMIT = 1800
"""Seconds of a command in emulation."""


@dataclass(frozen=True)
class Machine:
    """``root``: the system that programs see. ``tools``: of this machine, emulator and compiler.
    ``site``: Python's packages. ``work``: where commands run."""

    root: Path
    tools: Path
    site: Path
    work: Path

    def run(self, program: Path, *words: object, libraries: Path | None = None) -> str:
        """What a program for aarch64 prints. Raises
        :class:`~release.environments.FailedError`."""
        emulator = self.tools / "usr" / "bin" / "qemu-aarch64-static"
        seen = [] if libraries is None else ["-E", f"LD_LIBRARY_PATH={libraries}"]
        command: list[str | Path] = [emulator, "-L", self.root, *seen, program, *map(str, words)]
        settings = {"PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
        return run(command, self.work, limit=LIMIT, environment=settings)

    def python(self, *words: object) -> str:
        return self.run(self.root / "usr" / "bin" / f"python{PYTHON}", *words)

    def command(self, *words: object) -> str:
        """What ``anydepth-deploy`` prints there."""
        return self.python("-m", "anydepth_deploy", *words)

    def compile_library(self, into: Path, onnxruntime: Path) -> Path:
        """The C++ library and its example for aarch64; the path of ``anydepth-detect``.

        ``onnxruntime``: the folder of a shared library for aarch64, out of its wheel.
        """
        headers = run([sys.executable, ROOT / "cpp" / "dependencies.py", "--separator", "\n"], ROOT)
        include = [word for word in headers.split("\n") if "_INCLUDE_DIR=" in word]
        (library,) = onnxruntime.glob("libonnxruntime.so.*")
        beside = into / "runtime"
        beside.mkdir(parents=True, exist_ok=True)
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (beside / name).unlink(missing_ok=True)
            (beside / name).symlink_to(library)
        toolchain = into / "toolchain.cmake"
        programs = self.tools / "usr" / "bin"
        toolchain.write_text(
            "set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\n"
            f"set(CMAKE_C_COMPILER {programs}/aarch64-linux-gnu-gcc)\n"
            f"set(CMAKE_CXX_COMPILER {programs}/aarch64-linux-gnu-g++)\n"
            # The scripts of its linker name folders of an installed compiler.
            f'set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,--sysroot={self.tools},-rpath-link,{beside}")\n'
            f'set(CMAKE_SHARED_LINKER_FLAGS_INIT "-Wl,--sysroot={self.tools}")\n'
            f"set(CMAKE_FIND_ROOT_PATH {self.tools}/usr/aarch64-linux-gnu)\n"
            "set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)\n"
            "set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)\n"
            "set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)\n"
            "set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)\n"
        )
        options = [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DANYDEPTH_UNITY=ON",
            "-DANYDEPTH_OPENVINO=OFF",
            "-DANYDEPTH_TENSORRT=OFF",
            "-DANYDEPTH_BUILD_TOOLS=OFF",
            f"-DANYDEPTH_ONNXRUNTIME_LIBRARY={beside / 'libonnxruntime.so'}",
            *include,
        ]
        folder = into / "build"
        given = ["-S", str(ROOT / "cpp"), "-B", str(folder), f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
        libraries = str(self.tools / "usr" / "lib" / "x86_64-linux-gnu")
        environment = {"LD_LIBRARY_PATH": libraries}  # of the compiler
        run(["cmake", *given, *options], into, environment=environment)
        run(["cmake", "--build", folder, "--parallel", "2"], into, environment=environment)
        return folder / "examples" / "anydepth-detect"


def make_machine(folder: Path) -> Machine:
    """A machine in ``folder``, of what is not there yet; a minute the first time."""
    root, tools = folder / "root", folder / "tools"
    Suite(folder / "packages-arm64", "arm64").unpack(SYSTEM, root)
    Suite(folder / "packages-amd64", "amd64").unpack(TOOLS, tools)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return Machine(root, tools, folder / "site", work)

"""The environment of a local Triton server: a real server, from PyPI, in a folder of its own.

    python triton_server/environment.py

sets it up in ``.venv-triton``. The wheel ``nvidia-pytriton`` carries NVIDIA's build of tritonserver
for CPUs with its Python backend; the wheel's own Python code is not used. Beside it lies a virtual
environment with what models import (``requirements.txt``). Linux on x86-64 only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "SetupError", "ensure"]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-triton"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
STAND_INS = Path(__file__).with_name("backends")
WHEEL = "nvidia-pytriton==0.7.0"
"""Carries tritonserver 2.51, which is Triton 24.10."""

PARTS = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
"""What of the wheel is the server; it finds its libraries by this arrangement."""

NEWEST_PYTHON = (3, 12)
"""The newest for which there is numpy 1."""


class SetupError(Exception):
    """The server's environment cannot be set up; one line that says why."""


@dataclass(frozen=True)
class Environment:
    """Where the parts of a local server are."""

    folder: Path

    @property
    def server(self) -> Path:
        """The program."""
        return self.folder / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """The Python backend, and the stand-ins for the others."""
        return self.folder / "pytriton" / "tritonserver" / "backends"

    def variables(self) -> dict[str, str]:
        """The environment variables that the server is started with: they decide which Python its
        models run in. ``anydepth_deploy`` is imported from the folder that the server is started
        in, which is :data:`ROOT`."""
        binaries, libraries = self.folder / "bin", sysconfig.get_config_var("LIBDIR")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {
            **kept,
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": str(libraries or ""),
            "VIRTUAL_ENV": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def ensure(folder: Path = FOLDER) -> Environment:
    """The environment in ``folder``, set up where it is missing or older than its requirements.

    Takes a minute and 80 MB of downloads the first time. May be called by several processes at
    once. Raises :class:`SetupError`.
    """
    found = Environment(folder)
    stamp, wanted = folder / ".installed", _identity()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
                stamp.unlink(missing_ok=True)
                _install(found)
                stamp.write_text(wanted, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"the server's environment {folder} cannot be made: {error}") from None
    return found


def _identity() -> str:
    """What an environment is made from: one made from something else is made again."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return f"{WHEEL} {digest} {sys.version_info[:2]} {FOLDER}"


def _install(environment: Environment) -> None:
    version = sys.version_info[:2]
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise SetupError("the local Triton server is a program for Linux on x86-64")
    if version > NEWEST_PYTHON:
        raise SetupError(
            f"the local Triton server needs numpy 1, which Python {version[0]}.{version[1]} does "
            "not have: make PYTHON=python3.12 triton-demo, after make clean"
        )
    folder = environment.folder
    for leftover in folder.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    venv.create(folder, with_pip=True, symlinks=True)
    _pip(folder, "install", "--quiet", "--requirement", str(REQUIREMENTS))
    with tempfile.TemporaryDirectory() as downloads:
        _pip(folder, "download", "--quiet", "--no-deps", "--dest", downloads, WHEEL)
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(PARTS)]
            archive.extractall(folder, members)
    stubs = environment.server.parents[1] / "python_backend_stubs"
    stub = stubs / f"{version[0]}.{version[1]}" / "triton_python_backend_stub"
    python = environment.backends / "python"
    shutil.copy(stub, python)
    shutil.rmtree(stubs)
    for program in (environment.server, python / stub.name):
        program.chmod(0o755)
    for stand_in in sorted(path for path in STAND_INS.iterdir() if path.is_dir()):
        (environment.backends / stand_in.name).symlink_to(stand_in)


def _pip(folder: Path, *arguments: str) -> None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip exited with {done.returncode}"
        raise SetupError(f"pip {arguments[0]} for the local Triton server failed: {reason}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``; the system lets go of it when the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    try:
        print(f"Triton server: {ensure().server}")
    except SetupError as error:
        sys.exit(f"error: {error}")

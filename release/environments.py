"""Fresh virtual environments, and commands in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Environment", "FailedError", "interpreters", "make_environment", "run"]

ROOT = Path(__file__).resolve().parent.parent

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
"""Those of Python that the package is for."""

TOLD = 4000
"""How many of the last characters of a command that failed are shown."""


class FailedError(Exception):
    """A command did not do what it should; its message tells all."""


def run(
    command: Sequence[str | Path],
    folder: Path,
    *,
    limit: float = 900,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What ``command`` prints in ``folder``, with nothing of this checkout on its path.

    ``environment`` is added to what there is. Raises :class:`FailedError`.
    """
    words = " ".join(map(str, command))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [*map(str, command)],
            cwd=folder,
            env={**kept, "OMP_NUM_THREADS": "1", **(environment or {})},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FailedError(f"{words} was not done in {limit:.0f} s") from None
    if done.returncode:
        told = f"{done.stdout[-TOLD:]}{done.stderr[-TOLD:]}"
        raise FailedError(f"{words} ended with {done.returncode}:\n{told}")
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the folder that its commands run in, which holds nothing else."""

    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / "env" / "bin" / name

    def run(self, program: str, *words: str | Path) -> str:
        """What a program of the environment prints. Raises :class:`FailedError`."""
        return run([self.program(program), *words], self.folder)

    def install(self, *words: str | Path) -> None:
        pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        self.run("python", *pip, "--constraint", ROOT / "constraints.txt", *words)


def make_environment(folder: Path, python: str) -> Environment:
    """An environment of the interpreter ``python`` in ``folder``, which must not exist."""
    folder.mkdir(parents=True)
    run([python, "-m", "venv", "env"], folder)
    return Environment(folder)


def interpreters() -> dict[str, str | None]:
    """The interpreter of each version of Python, or None where there is none here.

    Looked for as ``python3.12`` on the path, and among those that pyenv has installed.
    """
    return {version: _interpreter(version) for version in VERSIONS}


def _interpreter(version: str) -> str | None:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
    candidates = [*map(str, reversed(installed)), shutil.which(f"python{version}")]
    for candidate in candidates:
        if candidate and _answers(candidate, version):
            return candidate
    return None


def _answers(python: str, version: str) -> bool:
    """Whether it is what it is called: a shim of pyenv's may be of a version that is not there."""
    told = [python, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(told, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0 and done.stdout.strip() == version

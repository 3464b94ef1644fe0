"""What several modules of tests need is made once in a run, by whichever process needs it first.

Tests run in several processes, by module; a folder that the whole run shares is all they have in
common. Nothing in it outlives the run, unless whoever starts it says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ARTIFACTS = "ANYDEPTH_TEST_ARTIFACTS"
"""Environment variable: a folder, there and for this very code, to keep what is made in."""


def shared_folder(folders: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this run share; runs of the same code one after the other
    share one that :data:`ARTIFACTS` names."""
    if named := os.environ.get(ARTIFACTS):
        return Path(named)
    base = folders.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in that of the run
        base = base.parent
    shared = base / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time, of those that run tests."""
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The shared folder ``name``, which is to be read only; ``make`` makes it where there is none.

    What ``make`` raises is raised here, in every process that asks.
    """
    folder = shared_folder(folders) / name
    with locked(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder

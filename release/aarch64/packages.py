"""Packages of Debian and PyPI for another processor, unpacked into folders of our own.

apt is given lists, a cache and a status of its own, so that it resolves dependencies for any
architecture and changes nothing of the system.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from release.environments import FailedError, run

__all__ = ["Suite", "check_system", "wheels"]

PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def check_system() -> None:
    """Raises :class:`FailedError` where packages could not be had: this needs Debian's tools, the
    Python of Debian 12, and its compiler for x86-64."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    here = f"{system.get('PRETTY_NAME', sys.platform)} on {platform.machine()}"
    if system.get("VERSION_CODENAME") != "bookworm" or platform.machine() != "x86_64":
        raise FailedError(
            f"aarch64 is tried with the packages of Debian 12 on x86-64, this is {here}: run it in "
            "a container or a machine of that kind"
        )
    for tool in ("apt-get", "dpkg", "cmake", "make"):
        if shutil.which(tool) is None:
            raise FailedError(f"there is no {tool} here: install Debian's package of that name")


@dataclass(frozen=True)
class Suite:
    """Packages of the sources that this system has, for ``architecture``, in ``folder``."""

    folder: Path
    architecture: str

    def unpack(self, names: Sequence[str], into: Path) -> None:
        """``names`` and what they depend on, unpacked ``into`` a folder; once."""
        done = into / ".unpacked"
        if done.is_file() and done.read_text() == " ".join(names):
            return
        shutil.rmtree(into, ignore_errors=True)
        self._download(names)
        into.mkdir(parents=True)
        for package in sorted((self.folder / "cache" / "archives").glob("*.deb")):
            run(["dpkg", "-x", package, into], self.folder)
        done.write_text(" ".join(names))

    def _download(self, names: Sequence[str]) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()  # nothing is there yet, so everything is fetched
        options = {
            "Dir::State": self.folder / "state",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "Debug::NoLocking": 1,
            "APT::Sandbox::User": "",
        }
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        run(["apt-get", *given, "--quiet", "update"], self.folder)
        words = ("--quiet", "--yes", "--no-install-recommends", "--download-only", "install")
        run(["apt-get", *given, *words, *names], self.folder)


def wheels(into: Path, version: str, words: Sequence[str], constraints: Path) -> None:
    """What ``pip install`` of ``words`` brings for Python ``version`` on aarch64, unpacked."""
    shutil.rmtree(into, ignore_errors=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    kind = ("--only-binary=:all:", "--implementation", "cp", "--python-version", version)
    into.parent.mkdir(parents=True, exist_ok=True)
    run(
        [*pip, *kind, *platforms, "--target", into, "--constraint", constraints, *words],
        into.parent,
    )

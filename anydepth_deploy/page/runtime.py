"""ONNX Runtime Web: the three files of it that a page needs, of one version, by their bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import UsageError, first_line

__all__ = ["FILES", "PACKAGE", "VERSION", "check_runtime", "kept_runtime"]

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
FILES = {
    "ort.wasm.min.mjs": ("219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""Names in the package's folder ``dist``, and the sha256 of each."""

SECONDS = 600
"""What fetching the package may take."""

MOST_BYTES = 64 << 20
"""Of one file in an archive, which is not read beyond that."""

Pack = Callable[[Path], Path]
"""Fetches the package into a folder; the path of its archive."""


def check_runtime(folder: Path) -> Path:
    """The folder in ``folder`` that holds :data:`FILES`: itself, or the ``dist`` of an npm package.

    Raises :class:`UsageError` where one is missing or of another version.
    """
    package = folder / "dist"
    found = package if package.is_dir() else folder
    for name, wanted in FILES.items():
        path = found / name
        if not path.is_file():
            raise UsageError(
                f"{folder} has no {name}: expected the folder 'dist' of the npm package "
                f"{PACKAGE}, version {VERSION}"
            )
        if (digest := file_sha256(path)) != wanted:
            raise UsageError(
                f"{path} is not that of {PACKAGE} {VERSION} (sha256 {digest[:12]}…, expected "
                f"{wanted[:12]}…): fetch it with 'npm pack {PACKAGE}@{VERSION}'"
            )
    return found


def kept_runtime(pack: Pack | None = None) -> Path:
    """A folder with :data:`FILES`, which is kept for the user; fetched by ``npm pack`` where it is
    not there yet. ``pack``: what fetches in its place.

    Raises :class:`UsageError` where it can neither be found nor fetched.
    """
    folder = _cache() / "anydepth-deploy" / f"{PACKAGE}-{VERSION}"
    if folder.is_dir():
        try:
            return check_runtime(folder)
        except UsageError:  # cut short, or altered: another one takes its place
            shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetched.") as temporary:
            made = Path(temporary) / "runtime"
            made.mkdir()
            _take_out((pack or _npm_pack)(Path(temporary)), made)
            try:
                made.rename(folder)
            except OSError:  # somebody else was faster
                return check_runtime(folder)
    except OSError as error:
        raise UsageError(
            f"{PACKAGE} cannot be kept in {folder}: {error.strerror or error}; name a folder that "
            "has it with --runtime, or refer to a server that has it with --cdn"
        ) from None
    return folder


def _cache() -> Path:
    """Where programs keep what they can fetch again (XDG Base Directory)."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


def _npm_pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    wanted = f"{PACKAGE}@{VERSION}"
    if npm is None:
        raise UsageError(
            f"there is no npm to fetch {wanted} with: install it, name a folder that has the "
            "package with --runtime, or refer to a server that has it with --cdn"
        )
    command = [npm, "pack", wanted, "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        said, failed = done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no answer within {SECONDS} seconds", True
    archives = [*folder.glob("*.tgz")]
    if failed or len(archives) != 1:
        lines = [line for line in said.splitlines() if line.strip()]
        raise UsageError(
            f"'npm pack {wanted}' failed: {lines[0] if lines else 'it made no archive'}; name a "
            "folder that has the package with --runtime, or refer to a server with --cdn"
        )
    return archives[0]


def _take_out(archive: Path, folder: Path) -> None:
    """Only what is wanted is read, and written only where its bytes are the right ones."""
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for name, wanted in FILES.items():
                source = opened.extractfile(f"package/dist/{name}")
                content = b"" if source is None else source.read(MOST_BYTES)
                if (digest := hashlib.sha256(content).hexdigest()) != wanted:
                    raise UsageError(
                        f"{name} of the fetched {PACKAGE} {VERSION} has other bytes than expected "
                        f"(sha256 {digest[:12]}…, expected {wanted[:12]}…): it is not used"
                    )
                (folder / name).write_bytes(content)
    except (KeyError, EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise UsageError(
            f"the fetched {PACKAGE} {VERSION} cannot be read: {first_line(error)}"
        ) from None

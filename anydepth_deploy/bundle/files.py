"""A bundle: a folder with a manifest and every artifact exported from one checkpoint.

Here is what needs no runtime: the manifest read and changed, artifacts found and checked. How
bundles are written is :mod:`anydepth_deploy.bundle.writer`'s matter.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.documents import (
    Document,
    beside,
    file_sha256,
    take_after,
    version_text,
)
from anydepth_deploy.errors import BundleError, readable_all
from anydepth_deploy.manifest import (
    MAJOR,
    MINOR,
    VERSION,
    Artifact,
    GoldenFile,
    Manifest,
    MeasuredLadder,
    Verification,
)

if TYPE_CHECKING:
    from anydepth_deploy.bundle.golden import Golden

__all__ = [
    "DOCUMENT",
    "LOCK",
    "MANIFEST",
    "BundleFiles",
    "check_not_newer",
    "disk_error",
    "flush",
    "flush_folder",
    "locked",
    "manifest_if_any",
    "read_manifest",
    "write_manifest",
]

log = logging.getLogger("anydepth_deploy")

MANIFEST = "manifest.json"

LOCK = ".export.lock"
"""What is locked in the place of a folder where folders cannot be: no part of a bundle, and gone
again afterwards, unless the process was killed."""

NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What network file systems say of a lock that they do not have: NFS locks nothing that was not
opened for writing, as a folder never is."""

NO_SYNC = (*NO_LOCKS, errno.EACCES, errno.EISDIR, errno.EPERM)
"""And of a folder that is to be flushed."""

CHECKPOINTS = (".pth", ".pt", ".safetensors")
ARTIFACTS = (".onnx", ".engine", ".plan")
"""Suffixes of files that are named where a bundle's folder is meant."""


class BundleFiles:
    """The files of a bundle and what its manifest says; :class:`~.bundle.Bundle` runs them."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.table: DepthTable = manifest.table()

    def __repr__(self) -> str:
        found = self.manifest
        return (
            f"<Bundle {self.path} {found.family} {found.config}, {len(found.artifacts)} artifacts>"
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""
        return self.manifest.preprocess.size

    @property
    def classes(self) -> list[str]:
        return self.manifest.classes

    def class_name(self, label: int) -> str:
        """The name of class ``label``. Raises :class:`BundleError` where the manifest has none."""
        if not 0 <= label < len(self.classes):
            raise BundleError(
                f"bundle {self.path}: its graphs find the label {label}, its manifest names "
                f"{len(self.classes)} classes, counted from 0: export it again"
            )
        return self.classes[label]

    def macs(self, depth: Depth | str | int) -> dict[str, int]:
        """Multiply-adds at ``depth``: ``total`` and one entry per part."""
        return self.manifest.depths[self.table.row(depth)].macs

    def artifacts(
        self,
        layout: str | None = None,
        precision: str | None = None,
        *,
        weights: str | None = None,
        depth: Depth | None = None,
        format: str | None = None,
    ) -> list[Artifact]:
        """The artifacts that match, in the order they were built."""
        return [
            artifact
            for artifact in self.manifest.artifacts
            if layout in (None, artifact.layout)
            and precision in (None, artifact.precision)
            and weights in (None, artifact.weights)
            and format in (None, artifact.format)
            and (depth is None or artifact.depth == str(depth))
        ]

    def golden(self) -> Golden:
        """Pictures and golden outputs. Raises :class:`BundleError` where there are none, and for
        what is damaged."""
        entry = self.manifest.golden
        if entry is None:
            raise BundleError(
                f"bundle {self.path} has no golden outputs to compare with: export it again as it "
                "was exported, which adds them and keeps its artifacts, or name the checkpoint to "
                "compare with"
            )
        from anydepth_deploy.bundle.golden import read_golden  # which running needs nothing of

        return read_golden(self.file(entry, check=False), entry.sha256)

    def file(self, artifact: Artifact | GoldenFile, *, check: bool = True) -> Path:
        """The path of an artifact, or of golden outputs; with ``check`` its bytes are compared with
        the manifest.

        Raises :class:`BundleError` when the file is missing or was altered.
        """
        path = self.path / artifact.file
        if not path.is_file():
            what = "artifact" if isinstance(artifact, Artifact) else "file of golden outputs"
            raise BundleError(
                f"bundle {self.path}: the {what} {artifact.file} is missing; export it again"
            )
        size = path.stat().st_size
        if size != artifact.bytes:
            raise BundleError(
                f"bundle {self.path}: {artifact.file} has {size} bytes, the manifest says "
                f"{artifact.bytes}; the file was altered or cut short: export it again"
            )
        if check and (digest := file_sha256(path)) != artifact.sha256:
            raise BundleError(
                f"bundle {self.path}: {artifact.file} was altered (sha256 {digest[:12]}…, the "
                f"manifest says {artifact.sha256[:12]}…): export it again"
            )
        return path

    def mark(self, verdicts: Mapping[tuple[str, str], Verification]) -> None:
        """Write what comparing engines has found, by their names and the sha256 of their bytes:
        chains of two precisions may have pieces of the same bytes, and only one be right.

        Bytes that the bundle no longer holds are left out. A bundle that cannot be written is
        warned about as in :meth:`record`.
        """
        self._change(
            lambda manifest: {
                "artifacts": [
                    item.model_copy(update={"verified": verdicts[item.name, item.sha256]})
                    if (item.name, item.sha256) in verdicts
                    else item
                    for item in manifest.artifacts
                ]
            },
            "verify",
        )

    def record(
        self, kind: str, result: dict[str, Any], *, keep: int = 8, by: str | None = None
    ) -> None:
        """Append a result of verify, eval or bench to the manifest; the newest ``keep`` stay.

        ``by``: an entry of the results; the newest ``keep`` of each value of it stay, for the
        ``keep`` values that are the newest.

        A bundle that cannot be written (a read-only medium) is warned about in the log of this
        package: the result itself is not lost, its caller has it.
        """

        def update(manifest: Manifest) -> dict[str, Any]:
            found = [*manifest.results.get(kind, []), readable_all(result)]
            results = _newest(found, keep, by)
            return {"results": {**manifest.results, kind: results}}

        self._change(update, kind)

    def put_ladder(self, measured: MeasuredLadder, *, use: bool) -> None:
        """Write a measured ladder into the manifest, in the place of one of the same device,
        runtime, precision, layout, batch and threads; artifacts stay as they are. ``use``: whether
        it becomes the ladder in use, on all devices.

        Raises :class:`BundleError` where the manifest cannot be written.
        """
        try:
            with locked(self.path, wait=True):
                manifest = read_manifest(self.path)
                check_not_newer(self.path, manifest)
                others = [item for item in manifest.measured if not measured.replaces(item)]
                manifest = manifest.model_copy(update={"measured": [*others, measured]})
                if use:
                    space = manifest.space()
                    manifest = manifest.with_ladder(
                        [space.parse(rung.depth) for rung in measured.rungs]
                    )
                write_manifest(self.path, manifest)
        except OSError as error:
            raise disk_error(self.path, error) from None
        self.manifest, self.table = manifest, manifest.table()

    def try_to_write(self) -> None:
        """Find out before long work whether the manifest can be written.

        Raises :class:`BundleError`.
        """
        check_not_newer(self.path, self.manifest)
        try:
            with beside(self.path / MANIFEST):
                pass
        except OSError as error:
            raise disk_error(self.path, error) from None

    def _change(self, update: Callable[[Manifest], dict[str, Any]], kind: str) -> None:
        """Change the manifest as it is on the disk now, while nobody else does."""
        try:
            with locked(self.path, wait=True):
                manifest = read_manifest(self.path)
                if manifest.is_newer:
                    log.warning(
                        "the result of %s is not recorded: %s", kind, _newer(self.path, manifest)
                    )
                    return
                self.manifest = manifest.model_copy(update=update(manifest))
                write_manifest(self.path, self.manifest)
        except OSError as error:
            reason = error.strerror or error
            log.warning("the result of %s is not recorded in %s: %s", kind, self.path, reason)


def _newest(results: list[dict[str, Any]], keep: int, by: str | None) -> list[dict[str, Any]]:
    """What stays of ``results``, in the order they came; see :meth:`BundleFiles.record`."""
    if by is None:
        return results[-keep:]
    counts: dict[str, int] = {}
    kept = []
    for result in reversed(results):
        value = repr(result.get(by))
        if value in counts or len(counts) < keep:
            counts[value] = counts.get(value, 0) + 1
            if counts[value] <= keep:
                kept.append(result)
    return kept[::-1]


_REMEDY = "delete the folder and export the bundle again"
DOCUMENT = Document(
    Manifest,
    "manifest",
    BundleError,
    missing=f"folder {{path.parent}} is not a bundle: it has no {MANIFEST}",
    remedy=_REMEDY,
    other_version="export it into another folder",
    version=MAJOR,
    minor=MINOR,
    named="{path}",
    no_json="is damaged",
    versioned="manifest version",
    invalid="is not a valid manifest",
    parser="it is not valid JSON",
)
"""How manifests are read; the C++ library says the same of a bundle's."""


def read_manifest(folder: Path, file: str = MANIFEST) -> Manifest:
    """The manifest in ``folder``. Raises :class:`BundleError`.

    Fields of a newer minor that nobody knows here are left out, which the log of this package warns
    of; see :mod:`anydepth_deploy.documents`.
    """
    if not folder.is_dir():
        raise BundleError(_no_folder(folder))
    return DOCUMENT.read(folder / file)


def _no_folder(path: Path) -> str:
    """What to say of a bundle that is no folder; the C++ library says the same."""
    if not path.exists():
        return f"bundle {path} does not exist; make one with 'anydepth-deploy export'"
    suffix = path.suffix.lower()
    if suffix in CHECKPOINTS:
        return (
            f"{path} is a checkpoint, expected the folder of a bundle; make one of it with "
            f"'anydepth-deploy export {path} --out FOLDER'"
        )
    if suffix in ARTIFACTS or path.name == MANIFEST:
        return (
            f"{path} is one file of a bundle, expected its folder; name the folder that holds its "
            f"{MANIFEST}"
        )
    return (
        f"{path} is a file, expected the folder of a bundle; make one with 'anydepth-deploy export'"
    )


def write_manifest(folder: Path, manifest: Manifest, file: str = MANIFEST) -> None:
    """Replace the manifest in ``folder``, whose mode and owner stay, in one step; it is of the
    version that has all its fields.

    Raises :class:`OSError`; nothing is left behind then.
    """
    written = manifest.model_copy(update={"version": VERSION})
    content = written.model_dump_json(indent=1) + "\n"
    with beside(folder / file) as temporary:
        temporary.write_text(content, encoding="utf-8")
        take_after(folder / file, temporary)
        flush(temporary)
        temporary.replace(folder / file)
    flush_folder(folder)


def check_not_newer(folder: Path, manifest: Manifest) -> None:
    """Raise :class:`BundleError` where a manifest has what this package would lose by writing."""
    if manifest.is_newer:
        raise BundleError(_newer(folder, manifest))


def _newer(folder: Path, manifest: Manifest) -> str:
    return (
        f"{folder / MANIFEST} is of version {manifest.version}, and this anydepth-deploy, which "
        f"knows {version_text((MAJOR, MINOR))}, would lose what is new in it: use the version that "
        "made it, or another folder"
    )


def manifest_if_any(folder: Path, file: str) -> Manifest | None:
    """A manifest that is there and readable, or None."""
    try:
        return read_manifest(folder, file)
    except BundleError:
        return None


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the folder for writing; the system lets go of it when the process ends.

    Where folders cannot be locked (network file systems), a file in it is, which is opened for
    writing. Where there are no locks at all, nothing is held, with a line in the log; on Windows
    without one.
    """
    if sys.platform == "win32":
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            _hold(folder, wait, held)
        except BlockingIOError:
            raise BundleError(
                f"another export or build is writing {folder}: wait for it, or use another folder"
            ) from None
        yield


def _hold(folder: Path, wait: bool, held: contextlib.ExitStack) -> None:
    # The folder may be renamed meanwhile; what is found through its handle is still in it.
    handle = os.open(folder, os.O_RDONLY)
    held.callback(os.close, handle)
    if _lock(handle, wait):
        return
    while True:
        # A link of this name would be followed, but is not what is removed and compared below.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(LOCK, flags, 0o666, dir_fd=handle)
        with contextlib.ExitStack() as mine:
            mine.callback(os.close, file)
            if not _lock(file, wait):
                _gone(handle)
                if folder not in _unlocked:
                    _unlocked.add(folder)
                    log.warning(
                        "%s is on a file system without locks: see to it that nothing else writes "
                        "this bundle at the same time",
                        folder,
                    )
                return
            # Who had it may have removed it between our opening and locking.
            if _is_named(file, handle):
                mine.callback(_gone, handle)
                held.push(mine.pop_all())
                return


def _lock(handle: int, wait: bool) -> bool:
    """Lock what is open; False where its file system has no such locks. Raises
    :class:`BlockingIOError` where somebody else has it and we do not ``wait``."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _is_named(file: int, folder: int) -> bool:
    """Whether the open ``file`` is the one that has the lock's name in the open ``folder``."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(LOCK, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _gone(folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(LOCK, dir_fd=folder)


_unlocked: set[Path] = set()
"""Folders whose lack of locks was told."""


def flush_folder(folder: Path) -> None:
    """Make renames in ``folder`` last through a power cut, where folders can be opened and flushed:
    not on Windows, nor on what it shares."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def disk_error(path: Path, error: OSError) -> BundleError:
    advice = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to that"
    return BundleError(
        f"{path} cannot be written: {error.strerror or error}; {advice} or use another folder "
        "(what was complete before is unchanged)"
    )

"""Writing bundles: begun, added to, replaced, taken up again after whatever went wrong.

The manifest is the only commit point. An artifact is written to a temporary name, flushed, renamed
to a name that no earlier manifest uses for other bytes, and only then named by a new manifest,
which replaces the old one in one step. Whatever happens in between, the bundle on disk is the old
one or the new one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from anydepth_deploy.bundle.files import (
    LOCK,
    MANIFEST,
    BundleFiles,
    check_not_newer,
    disk_error,
    flush,
    flush_folder,
    locked,
    manifest_if_any,
    read_manifest,
    write_manifest,
)
from anydepth_deploy.bundle.golden import SUFFIX
from anydepth_deploy.documents import beside, file_sha256, made_folders
from anydepth_deploy.errors import BundleError, shorten
from anydepth_deploy.families.shared.settling import option_of
from anydepth_deploy.manifest import Artifact, GoldenFile, Manifest

__all__ = ["BundleWriter"]

Entry = TypeVar("Entry", Artifact, GoldenFile)

NEXT_MANIFEST = ".manifest.next.json"

GOLDEN = "golden"

CLASSES = "classes"

UNSAID = "not said"


class BundleWriter:
    """Builds a bundle, or adds to one, artifact by artifact; see the module's promise.

    A new bundle grows in a folder beside its destination and is renamed when it is whole. Adding
    to a bundle commits each artifact as it is done. Replacing one (``force``), or filling a folder
    that exists and is empty, grows under a second manifest inside the folder, which becomes the
    manifest at the end. In all cases an interrupted export is taken up again where it stopped.
    Use as a context manager; a second writer of the same bundle is refused meanwhile.

    Raises :class:`BundleError` when the folder holds something else, or another export.
    """

    def __init__(self, path: str | Path, manifest: Manifest, *, force: bool = False) -> None:
        self.path = Path(path)
        existing = self._existing()
        if existing is not None and not force and not _same_export(existing, manifest):
            raise BundleError(_difference(self.path, existing, manifest))
        if existing is not None and _same_export(existing, manifest):
            check_not_newer(self.path, existing)
        if existing is not None and _same_export(existing, manifest):
            self.folder, self._file = self.path, MANIFEST
        elif self.path.exists():
            self.folder, self._file = self.path, NEXT_MANIFEST
        else:
            self.folder = self.path.parent / f".{self.path.name}.partial"
            self._file = MANIFEST
        self.manifest = manifest
        self._lock, self._folders = contextlib.ExitStack(), contextlib.ExitStack()

    def __enter__(self) -> BundleWriter:
        absent, begins = not self.folder.exists(), False
        self._folders.enter_context(made_folders(self.folder.parent))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.folder, wait=False))
            begins = absent and self.folder != self.path
            begun = manifest_if_any(self.folder, self._file)
            if begun is not None and not begun.is_newer and _same_export(begun, self.manifest):
                self.manifest = begun
            else:
                write_manifest(self.folder, self.manifest, self._file)
        except BaseException as error:
            if begins:  # nothing is in it yet to go on with
                shutil.rmtree(self.folder, ignore_errors=True)
            elif absent and isinstance(error, OSError):
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
            self._lock.close()
            self._folders.close()
            if isinstance(error, OSError):
                raise disk_error(self.folder, error) from None
            raise
        # What earlier manifests name must keep its bytes until the end, and may go then.
        earlier = (manifest_if_any(self.folder, file) for file in (MANIFEST, NEXT_MANIFEST))
        self._kept = [entry for found in earlier if found for entry in _files(found)]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._publish()
            elif self.folder != self.path and not self.manifest.artifacts:
                shutil.rmtree(self.folder, ignore_errors=True)  # begun, and nothing to go on with
        finally:
            self._lock.close()
            self._folders.close()

    def try_to_write(self) -> None:
        """Find out before long work whether anything can be added. Raises :class:`BundleError`."""
        try:
            with beside(self.folder / MANIFEST):
                pass
        except OSError as error:
            raise disk_error(self.folder, error) from None

    def find(self, name: str) -> Artifact | None:
        """The artifact of this name, if it is there and whole."""
        for artifact in self.manifest.artifacts:
            if artifact.name == name:
                with contextlib.suppress(BundleError):
                    BundleFiles(self.folder, self.manifest).file(artifact)
                    return artifact
        return None

    def add(
        self, name: str, write: Callable[[Path], Artifact], *, suffix: str = ".onnx"
    ) -> Artifact:
        """Write the artifact ``name`` and commit it.

        ``write(path)`` makes the file ``path`` and describes it; ``file`` (``name`` and
        ``suffix``), ``bytes`` and ``sha256`` are filled in here.
        """
        return self._add(name, write, suffix)

    def find_golden(self) -> GoldenFile | None:
        """The golden outputs, if they are there and whole."""
        entry = self.manifest.golden
        if entry is not None:
            with contextlib.suppress(BundleError):
                BundleFiles(self.folder, self.manifest).file(entry)
                return entry
        return None

    def add_golden(self, write: Callable[[Path], GoldenFile]) -> GoldenFile:
        """Write golden outputs and commit them, as :meth:`add` does with an artifact."""
        return self._add(GOLDEN, write, SUFFIX)

    def _add(self, name: str, write: Callable[[Path], Entry], suffix: str) -> Entry:
        temporary = self.folder / f".{name}.partial"
        try:
            described = write(temporary)
            flush(temporary)
            digest = file_sha256(temporary)
            file = self._free_name(name, suffix, digest)
            described = described.model_copy(
                update={"file": file, "bytes": temporary.stat().st_size, "sha256": digest}
            )
            temporary.replace(self.folder / file)
            self._commit(described)
        except OSError as error:
            raise disk_error(self.folder, error) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return described

    def _commit(self, entry: Artifact | GoldenFile) -> None:
        update: dict[str, Any]
        if isinstance(entry, Artifact):
            others = [item for item in self.manifest.artifacts if item.name != entry.name]
            update = {"artifacts": [*others, entry]}
        else:
            update = {"golden": entry}
        now = manifest_if_any(self.folder, self._file)
        if now is not None:  # verify, eval and ladder may have recorded results meanwhile
            update |= {"results": now.results, "measured": now.measured}
        self.manifest = self.manifest.model_copy(update=update)
        write_manifest(self.folder, self.manifest, self._file)

    def _free_name(self, name: str, suffix: str, digest: str) -> str:
        """A file name that no manifest in the folder uses for other bytes."""
        file = f"{name}{suffix}"
        taken = {item.file: item.sha256 for item in (*self._kept, *_files(self.manifest))}
        return file if taken.get(file, digest) == digest else f"{name}-{digest[:8]}{suffix}"

    def _existing(self) -> Manifest | None:
        """The manifest of the bundle to add to; None when there is nothing yet."""
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise BundleError(f"{self.path} is a file; expected a folder to write a bundle into")
        if (self.path / MANIFEST).is_file():
            return read_manifest(self.path)
        strangers = [
            item.name
            for item in self.path.iterdir()
            if not (self.path / NEXT_MANIFEST).is_file()
            and not item.name.endswith(".partial")
            and item.name != LOCK
        ]
        if strangers:
            raise BundleError(
                f"folder {self.path} is not empty and not a bundle (no {MANIFEST}; it holds "
                f"{shorten(sorted(strangers), 3)}): choose another --out"
            )
        return None

    def _publish(self) -> None:
        try:
            if self._file != MANIFEST:
                (self.folder / self._file).replace(self.folder / MANIFEST)
            named = {entry.file for entry in _files(self.manifest)}
            for entry in self._kept:
                if entry.file not in named:
                    (self.folder / entry.file).unlink(missing_ok=True)
            for leftover in self.folder.glob(".*.partial"):
                leftover.unlink(missing_ok=True)
            if (self.folder / NEXT_MANIFEST).exists():  # a mount that is read only refuses any try
                (self.folder / NEXT_MANIFEST).unlink(missing_ok=True)
            if self.folder != self.path:
                self.folder.replace(self.path)
                flush_folder(self.path.parent)
        except OSError as error:
            raise disk_error(self.path, error) from None
        self.folder, self._file = self.path, MANIFEST


def _files(manifest: Manifest) -> list[Artifact | GoldenFile]:
    """What a manifest names files for."""
    return [*manifest.artifacts, *([manifest.golden] if manifest.golden else [])]


def _same_export(one: Manifest, other: Manifest) -> bool:
    """Whether artifacts of both fit into one bundle. Class names may have been edited since."""
    first, second = _identity(one), _identity(other)
    alike = not _class_names(one).isdisjoint(_class_names(other))
    return {**first, CLASSES: ""} == {**second, CLASSES: ""} and alike


def _class_names(manifest: Manifest) -> set[tuple[str, ...]]:
    """Those of now, and those of the export."""
    return {tuple(manifest.classes), tuple(manifest.exported_classes or manifest.classes)}


def _identity(manifest: Manifest) -> dict[str, Any]:
    return {
        "checkpoint": manifest.source.sha256,
        "network": f"{manifest.family} {manifest.config}",
        "input size": "x".join(map(str, manifest.preprocess.size)),
        "resizing": manifest.preprocess.resize,
        # The one that rows begin with: that in use may be written anew, and changes no artifact.
        "ladder": ",".join(map(str, manifest.table().exported)),
        "depths by row": ",".join(row.depth for row in manifest.depths),
        CLASSES: ",".join(manifest.classes),
        "suppression": _suppression(manifest),
        **{option_of(name): word for name, word in sorted(manifest.said.items())},
    }


def _suppression(manifest: Manifest) -> str:
    rule = manifest.suppression
    if rule is None:
        return "none needed"
    if rule.where == "none":
        return "none"
    return f"{rule.where}, score {rule.score_threshold}, IoU {rule.iou_threshold}"


def _difference(path: Path, found: Manifest, wanted: Manifest) -> str:
    one, other = _identity(found), _identity(wanted)
    changed = [
        f"{key} {str(one.get(key, UNSAID))[:40]} (now {str(other.get(key, UNSAID))[:40]})"
        for key in one | other
        if one.get(key, UNSAID) != other.get(key, UNSAID)
    ]
    return (
        f"bundle {path} holds another export: {'; '.join(changed)}. Name what it was made with to "
        "add to it, choose another --out, or replace it with --force, which keeps what is not named"
    )

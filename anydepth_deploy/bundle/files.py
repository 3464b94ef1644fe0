"""A bundle: a folder with a manifest and every artifact exported from one checkpoint.

The manifest is the only commit point. An artifact is written to a temporary name, flushed, renamed
to a name that no earlier manifest uses for other bytes, and only then named by a new manifest,
which replaces the old one in one step. Whatever happens in between, the bundle on disk is the old
one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.errors import BundleError, shorten
from anydepth_deploy.manifest import Artifact, Manifest, Verification

if TYPE_CHECKING:
    from anydepth_deploy.bundle.session import Session

__all__ = ["MANIFEST", "Bundle", "BundleWriter", "file_sha256", "open_bundle"]

log = logging.getLogger("anydepth_deploy")

MANIFEST = "manifest.json"
NEXT_MANIFEST = ".manifest.next.json"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Bundle:
    """An opened bundle; see :func:`open_bundle`."""

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

    def file(self, artifact: Artifact, *, check: bool = True) -> Path:
        """The path of an artifact; with ``check`` its bytes are compared with the manifest.

        Raises :class:`BundleError` when the file is missing or was altered.
        """
        path = self.path / artifact.file
        if not path.is_file():
            raise BundleError(
                f"bundle {self.path}: the artifact {artifact.file} is missing; export it again"
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

    def session(
        self,
        runtime: str = "onnxruntime",
        artifact: str | None = None,
        precision: str = "fp32",
        *,
        weights: str | None = None,
        target: str = "onnxruntime",
        threads: int | None = None,
        raw: bool = False,
        rounded: bool = False,
        check: bool = True,
        preload: bool = False,
    ) -> Session:
        """Open artifacts for running.

        ``artifact``: ``gated`` (all depths in one graph), ``set`` (one static graph per depth) or
        ``stages`` (the pieces of the network, chained); by default the first of them that the
        bundle has. Graphs and pieces are opened when first used, or all at once with ``preload``.
        ``runtime``: for ``tensorrt`` and ``tensorrt-rtx`` the bundle holds engines, which
        ``anydepth-deploy build`` made; one that failed its verification is refused, and the log of
        this package warns of one that was never verified. ``precision``:
        that of the artifact, ``fp32``, ``fp16`` or ``int8`` (``target``: what an INT8 graph was
        made for), or ``bf16``: an FP32 artifact, computed in BF16 by a runtime that can. ``raw``
        makes :meth:`Session.run_raw` work on artifacts exported without raw outputs, at the cost of
        a copy in memory; ``rounded`` has ONNX Runtime round to FP16 wherever an FP16 graph does,
        which it leaves out by itself. ``check`` compares the files' hashes with the manifest.

        Raises :class:`BundleError`, :class:`UsageError` for an unknown runtime or precision, and
        :class:`MissingExtraError` when the runtime is not installed.
        """
        from anydepth_deploy.bundle.session import (
            choose_artifacts,
            open_artifacts,
            stored_precision,
        )
        from anydepth_deploy.bundle.trust import check_trust

        chosen = choose_artifacts(self, artifact, precision, weights, target, runtime)
        check_trust(chosen)
        session = open_artifacts(
            self,
            chosen,
            runtime=runtime,
            threads=threads,
            raw=raw,
            compute=stored_precision(precision)[1],
            rounded=rounded,
            check=check,
        )
        if preload:
            session.load()
        return session

    def mark(self, verdicts: Mapping[str, Verification]) -> None:
        """Write what comparing engines has found, by the sha256 of their bytes.

        Bytes that the bundle no longer holds are left out. A bundle that cannot be written is
        warned about as in :meth:`record`.
        """
        self._change(
            lambda manifest: {
                "artifacts": [
                    item.model_copy(update={"verified": verdicts[item.sha256]})
                    if item.sha256 in verdicts
                    else item
                    for item in manifest.artifacts
                ]
            },
            "verify",
        )

    def record(self, kind: str, result: dict[str, Any], *, keep: int = 8) -> None:
        """Append a result of verify, eval or bench to the manifest; the newest ``keep`` stay.

        A bundle that cannot be written (a read-only medium) is warned about in the log of this
        package: the result itself is not lost, its caller has it.
        """

        def update(manifest: Manifest) -> dict[str, Any]:
            results = [*manifest.results.get(kind, []), result][-keep:]
            return {"results": {**manifest.results, kind: results}}

        self._change(update, kind)

    def _change(self, update: Callable[[Manifest], dict[str, Any]], kind: str) -> None:
        """Change the manifest as it is on the disk now, while nobody else does."""
        try:
            with _locked(self.path, wait=True):
                manifest = _read_manifest(self.path)
                self.manifest = manifest.model_copy(update=update(manifest))
                _write_manifest(self.path, self.manifest)
        except OSError as error:
            reason = error.strerror or error
            log.warning("the result of %s is not recorded in %s: %s", kind, self.path, reason)


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle in folder ``path``; needs no torch.

    Raises :class:`BundleError` when there is none, or its manifest is damaged or of another
    version.
    """
    folder = Path(path)
    return Bundle(folder, _read_manifest(folder))


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
            self.folder, self._file = self.path, MANIFEST
        elif self.path.exists():
            self.folder, self._file = self.path, NEXT_MANIFEST
        else:
            self.folder = self.path.parent / f".{self.path.name}.partial"
            self._file = MANIFEST
        self.manifest = manifest
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> BundleWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(_locked(self.folder, wait=False))
            begun = _manifest_if_any(self.folder, self._file)
            if begun is not None and _same_export(begun, self.manifest):
                self.manifest = begun
            else:
                _write_manifest(self.folder, self.manifest, self._file)
        except OSError as error:
            self._lock.close()
            raise _disk_error(self.folder, error) from None
        except BaseException:
            self._lock.close()
            raise
        # What earlier manifests name must keep its bytes until the end, and may go then.
        earlier = (_manifest_if_any(self.folder, file) for file in (MANIFEST, NEXT_MANIFEST))
        self._kept = [artifact for found in earlier if found for artifact in found.artifacts]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._publish()
            elif self.folder != self.path and not self.manifest.artifacts:
                shutil.rmtree(self.folder, ignore_errors=True)  # begun, and nothing to go on with
        finally:
            self._lock.close()

    def find(self, name: str) -> Artifact | None:
        """The artifact of this name, if it is there and whole."""
        for artifact in self.manifest.artifacts:
            if artifact.name == name:
                with contextlib.suppress(BundleError):
                    Bundle(self.folder, self.manifest).file(artifact)
                    return artifact
        return None

    def add(
        self, name: str, write: Callable[[Path], Artifact], *, suffix: str = ".onnx"
    ) -> Artifact:
        """Write the artifact ``name`` and commit it.

        ``write(path)`` makes the file ``path`` and describes it; ``file`` (``name`` and
        ``suffix``), ``bytes`` and ``sha256`` are filled in here.
        """
        temporary = self.folder / f".{name}.partial"
        try:
            described = write(temporary)
            _flush(temporary)
            digest = file_sha256(temporary)
            file = self._free_name(name, suffix, digest)
            described = described.model_copy(
                update={"file": file, "bytes": temporary.stat().st_size, "sha256": digest}
            )
            temporary.replace(self.folder / file)
            self._commit(described)
        except OSError as error:
            raise _disk_error(self.folder, error) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return described

    def _commit(self, artifact: Artifact) -> None:
        others = [item for item in self.manifest.artifacts if item.name != artifact.name]
        update: dict[str, Any] = {"artifacts": [*others, artifact]}
        now = _manifest_if_any(self.folder, self._file)
        if now is not None:  # verify and eval may have recorded results meanwhile
            update["results"] = now.results
        self.manifest = self.manifest.model_copy(update=update)
        _write_manifest(self.folder, self.manifest, self._file)

    def _free_name(self, name: str, suffix: str, digest: str) -> str:
        """A file name that no manifest in the folder uses for other bytes."""
        file = f"{name}{suffix}"
        taken = {item.file: item.sha256 for item in (*self._kept, *self.manifest.artifacts)}
        return file if taken.get(file, digest) == digest else f"{name}-{digest[:8]}{suffix}"

    def _existing(self) -> Manifest | None:
        """The manifest of the bundle to add to; None when there is nothing yet."""
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise BundleError(f"{self.path} is a file; expected a folder to write a bundle into")
        if (self.path / MANIFEST).is_file():
            return _read_manifest(self.path)
        strangers = [
            item.name
            for item in self.path.iterdir()
            if not (self.path / NEXT_MANIFEST).is_file() and not item.name.endswith(".partial")
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
            named = {artifact.file for artifact in self.manifest.artifacts}
            for artifact in self._kept:
                if artifact.file not in named:
                    (self.folder / artifact.file).unlink(missing_ok=True)
            for leftover in self.folder.glob(".*.partial"):
                leftover.unlink(missing_ok=True)
            (self.folder / NEXT_MANIFEST).unlink(missing_ok=True)
            if self.folder != self.path:
                self.folder.replace(self.path)
                _flush_folder(self.path.parent)
        except OSError as error:
            raise _disk_error(self.path, error) from None
        self.folder, self._file = self.path, MANIFEST


def _same_export(one: Manifest, other: Manifest) -> bool:
    """Whether artifacts of both fit into one bundle."""
    return _identity(one) == _identity(other)


def _identity(manifest: Manifest) -> dict[str, Any]:
    return {
        "checkpoint": manifest.source.sha256,
        "network": f"{manifest.family} {manifest.config}",
        "input size": "x".join(map(str, manifest.preprocess.size)),
        "ladder": ",".join(manifest.ladder),
        "classes": ",".join(manifest.classes),
        "suppression": _suppression(manifest),
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
        f"{key} {str(one[key])[:40]} (now {str(other[key])[:40]})"
        for key in one
        if one[key] != other[key]
    ]
    return (
        f"bundle {path} holds another export: {'; '.join(changed)}. Choose another --out, or "
        "replace it with --force"
    )


def _read_manifest(folder: Path, file: str = MANIFEST) -> Manifest:
    path = folder / file
    if not folder.is_dir():
        raise BundleError(f"bundle {folder} does not exist; make one with 'anydepth-deploy export'")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleError(f"folder {folder} is not a bundle: it has no {MANIFEST}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers too long, lists nested too deep
        raise BundleError(
            f"{path} is damaged ({error}): delete the folder and export the bundle again"
        ) from None
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != 1:
        raise BundleError(
            f"{path} has manifest version {version}, this anydepth-deploy reads version 1: "
            "export it into another folder, or install the version that made it"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(
            f"{path} is not a valid manifest: {where}: {first['msg']}: delete the folder and "
            "export the bundle again"
        ) from None


def _write_manifest(folder: Path, manifest: Manifest, file: str = MANIFEST) -> None:
    temporary = folder / f".{file.lstrip('.')}.partial"
    temporary.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _flush(temporary)
    temporary.replace(folder / file)
    _flush_folder(folder)


def _manifest_if_any(folder: Path, file: str) -> Manifest | None:
    """A manifest that is there and readable, or None."""
    try:
        return _read_manifest(folder, file)
    except BundleError:
        return None


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the folder for writing; the system lets go of it when the process ends.

    Where the system has no such locks (Windows), nothing is held.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(
                f"another export or build is writing {folder}: wait for it, or use another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Make renames in ``folder`` last through a power cut, where folders can be opened."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _disk_error(path: Path, error: OSError) -> BundleError:
    advice = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to that"
    return BundleError(
        f"{path} cannot be written: {error.strerror or error}; {advice} or use another folder "
        "(what was complete before is unchanged)"
    )

"""What a bundle calls things, changed without a new export: classes, the ladder in use, its name.

Artifacts, their bytes and their verdicts stay: no graph holds any of it. The manifest is written
whole, in one step, while nobody else writes the bundle. It keeps the class names of the export, by
which an export that goes on recognises the bundle.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.files import (
    BundleFiles,
    check_not_newer,
    disk_error,
    locked,
    read_manifest,
    write_manifest,
)
from anydepth_deploy.checkpoints.class_names import MAX_NAME, is_shown, read_names
from anydepth_deploy.depth import parse_ladder
from anydepth_deploy.errors import DepthError, UsageError, shorten
from anydepth_deploy.manifest import Manifest

__all__ = ["Edited", "check_rising", "edit_bundle", "listed_classes"]


@dataclass(frozen=True)
class Edited:
    """What is different now: by field, what it was and what it is. ``notes``: what else follows,
    for a person."""

    bundle: str
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def listed_classes(text: str) -> list[str]:
    """Class names from the command line: a file of them, one a line, or joined by commas. Raises
    :class:`UsageError` for names that cannot be shown or occur twice."""
    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):  # too long for a name of a file
        is_file = False
    return read_names(text) if is_file else checked_classes([x.strip() for x in text.split(",")])


def checked_classes(names: Sequence[str]) -> list[str]:
    """``names``, each of which can be shown, and none twice. Raises :class:`UsageError`."""
    for name in names:
        _check_shown("class name", name)
    if again := sorted({name for name in names if list(names).count(name) > 1}):
        raise UsageError(
            f"class names occur twice: {shorten(again)}; expected each once, since nobody could "
            "tell such classes apart"
        )
    return list(names)


def edit_bundle(
    bundle: BundleFiles,
    *,
    classes: Sequence[str] | None = None,
    ladder: str | None = None,
    name: str | None = None,
) -> Edited:
    """Give ``bundle`` other class ``classes``, another ``ladder`` in use (rungs from base to super
    joined by commas, or a file with them), another ``name``; what is None stays.

    Average precision that was measured goes with other class names: what it was matched by is gone.

    Raises :class:`UsageError` for nothing to change, for names that cannot be shown, occur twice or
    are of another number than the classes, :class:`DepthError` for what is no ladder or does not
    rise, and :class:`BundleError` where the manifest cannot be written.
    """
    if classes is None and ladder is None and name is None:
        raise UsageError("nothing to change is named: give class names, a ladder or a name")
    if name is not None:
        _check_shown("name", name)
    names = None if classes is None else checked_classes(classes)
    try:
        with locked(bundle.path, wait=True):
            before = read_manifest(bundle.path)
            check_not_newer(bundle.path, before)
            after = _edited(bundle.path, before, names, ladder, name)
            if after != before:
                write_manifest(bundle.path, after)
    except OSError as error:
        raise disk_error(bundle.path, error) from None
    bundle.manifest, bundle.table = after, after.table()
    fields = ("classes", "ladder", "name")
    changed = {
        what: (getattr(before, what), getattr(after, what))
        for what in fields
        if getattr(before, what) != getattr(after, what)
    }
    notes = []
    if "classes" in changed and before.results.get("eval"):
        notes.append("average precision that was measured is no more: measure it again with 'eval'")
    if changed:
        notes.append(
            "Triton repositories that were written before have what it was: write them again with "
            "'triton --force'"
        )
    return Edited(str(bundle.path), changed, notes)


def _edited(
    path: Path, before: Manifest, classes: list[str] | None, ladder: str | None, name: str | None
) -> Manifest:
    update: dict[str, Any] = {}
    if classes is not None and classes != before.classes:
        if len(classes) != len(before.classes):
            raise UsageError(
                f"{len(classes)} class names are given, the network of {path} has "
                f"{len(before.classes)} classes: name each, in the order of its labels"
            )
        exported = before.exported_classes or before.classes
        update["classes"] = classes
        update["exported_classes"] = None if classes == exported else exported
        update["results"] = {kind: rows for kind, rows in before.results.items() if kind != "eval"}
    if name is not None:
        update["name"] = name
    after = before.model_copy(update=update)
    if ladder is not None:
        after = after.with_ladder(parse_ladder(before.space(), ladder))
        check_rising(after)
    return after


def check_rising(manifest: Manifest) -> None:
    """A ladder costs more with every rung; a controller counts on it. Raises
    :class:`DepthError`."""
    macs = {row.depth: row.macs["total"] for row in manifest.depths}
    for below, above in itertools.pairwise(manifest.ladder):
        if macs[above] <= macs[below]:
            raise DepthError(
                f"the ladder does not rise: {above} ({macs[above] / 1e6:.1f} M "
                f"multiply-adds) comes after {below} ({macs[below] / 1e6:.1f} M): "
                "put the rungs in rising order"
            )


def _check_shown(what: str, name: str) -> None:
    if not is_shown(name):
        raise UsageError(
            f"the {what} '{shorten([name[:40]])}' is empty, has characters that cannot be shown, "
            f"or more than {MAX_NAME}: give a short one"
        )

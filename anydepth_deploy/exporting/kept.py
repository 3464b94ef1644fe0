"""What a bundle was made with, and keeps when it is replaced, but for what is named anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.files import MANIFEST, manifest_if_any
from anydepth_deploy.checkpoints.checkpoint import Checkpoint
from anydepth_deploy.checkpoints.class_names import class_names
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.errors import DepthError, UsageError, shorten
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.pictures.images import Preprocess, Resize
from anydepth_deploy.suppression import Suppression

__all__ = [
    "Kept",
    "find_previous",
    "gone",
    "in_use",
    "keeping",
    "kept_said",
    "kept_words",
    "with_artifacts",
    "with_names",
]

APART = {
    "tool_version",
    "created",
    "source",
    "classes",
    "artifacts",
    "results",
    "ladder",
    "measured",
    "name",
    "exported_classes",
    "golden",
}
"""Fields of a manifest that no graph depends on; of ``source``, the digest is compared."""


def find_previous(out: str | Path) -> Manifest | None:
    """The manifest of the bundle in ``out``, if there is a whole one."""
    folder = Path(out)
    return manifest_if_any(folder, MANIFEST) if folder.is_dir() else None


def kept_said(previous: Manifest | None, checkpoint: Checkpoint, sha256: str, said: Said) -> Said:
    """``said``, and what the bundle that is replaced was exported with, where it is of the same
    file, which has this hash, and that would be another network."""
    if previous is None or previous.source.sha256 != sha256:
        return said
    other = set(previous.said.items()) - set(checkpoint.chosen.items())
    return Said.of({**dict(other), **said.words})


@dataclass(frozen=True)
class Kept:
    """What is not named in an export comes from here: from the bundle that it replaces, else from
    the checkpoint, else from the network.

    ``previous``: the manifest of that bundle, if it is of the same network; None where nothing is
    kept. ``same``: whether it is of the same file. What another file says of itself (its class
    names, its input size) comes before what the bundle was made with.
    """

    previous: Manifest | None = None
    same: bool = False

    def size(self, checkpoint: Checkpoint, model: AnyDepthModel) -> tuple[int, int]:
        """Height and width of the input."""
        stored = checkpoint.input_size
        if self.previous is None or (stored is not None and not self.same):
            usual: tuple[int, int] = model.config.input_size
            return stored or usual
        return self.previous.preprocess.size

    def ladder(self, model: AnyDepthModel) -> tuple[Depth, ...]:
        """The rungs that rows begin with, from base to super: of the same file, those that they
        began with before, so that graphs stay; else those that were in use."""
        if self.previous is None:
            return model.ladder
        space = model.space
        try:
            before = self.previous.table()
            rungs = before.exported if self.same else before.ladder
            return DepthTable(space, tuple(space.parse(str(rung)) for rung in rungs)).ladder
        except DepthError:  # this version knows the network with other gates
            return model.ladder

    def names(self, checkpoint: Checkpoint) -> Sequence[str] | None:
        """Class names; None where nobody gave any."""
        stored = checkpoint.class_names
        if self.previous is None or (stored is not None and not self.same):
            return stored
        return self.previous.classes

    def preprocess(
        self, model: AnyDepthModel, size: tuple[int, int], named: Resize | None = None
    ) -> Preprocess:
        """How pictures become inputs of ``size``; ``named``: how they meet it, if that was."""
        before = None if self.previous is None else self.previous.preprocess
        if before is not None and named in (None, before.resize):
            return before.model_copy(update={"size": size})
        return Preprocess.of(model.resize, size, named)

    def suppression(self, model: AnyDepthModel, named: Suppression | None) -> Suppression | None:
        """The rule of suppression, in which the fields that were given to ``named`` are named.

        Raises :class:`UsageError` for thresholds of a suppression that is left out.
        """
        before = None if self.previous is None else self.previous.suppression
        if before is None or model.suppression is None:
            return named or model.suppression
        if named is None or named.where == "none":
            return named or before
        if before.where == "none" and "where" not in named.model_fields_set:
            raise UsageError(
                "the bundle that is replaced leaves suppression out, which is kept, and there is "
                "nothing that thresholds could apply to: name --nms graph or host, too"
            )
        given = {field: getattr(named, field) for field in named.model_fields_set}
        return before.model_copy(update=given)

    def words(self, checkpoint: Checkpoint, model: AnyDepthModel) -> dict[str, str]:
        """All of that for a person, where nothing is named."""
        size, rule = self.size(checkpoint, model), self.suppression(model, None)
        names = class_names(checkpoint.config.classes, stored=self.names(checkpoint))
        return {
            "input size": "x".join(map(str, size)),
            "ladder": ",".join(map(str, self.ladder(model))),
            "class names": ",".join(names),
            "resizing": self.preprocess(model, size).resize,
            "suppression": ""
            if rule is None
            else f"{rule.where}, score {rule.score_threshold:g}, IoU {rule.iou_threshold:g}",
        }


def keeping(previous: Manifest | None, checkpoint: Checkpoint, sha256: str) -> Kept:
    """What an export of ``checkpoint``, whose file has this hash, keeps of ``previous``."""
    config: Any = checkpoint.config
    if previous is None or (previous.family, previous.config, len(previous.classes)) != (
        checkpoint.family.name,
        config.name,
        config.classes,
    ):
        return Kept()
    return Kept(previous, previous.source.sha256 == sha256)


def with_artifacts(manifest: Manifest, previous: Manifest | None) -> Manifest:
    """``manifest`` with the artifacts of ``previous`` and what is known of them, where nothing
    differs that a graph depends on. Average precision is not taken along: it goes by class."""
    if previous is None or previous.source.sha256 != manifest.source.sha256:
        return manifest
    one, other = (found.with_ladder(found.table().exported) for found in (previous, manifest))
    if one.model_dump(exclude=APART) != other.model_dump(exclude=APART):
        return manifest
    results = {kind: found for kind, found in previous.results.items() if kind != "eval"}
    kept = {
        "artifacts": previous.with_ladder(manifest.table().ladder).artifacts,
        "results": results,
        "measured": previous.measured,
        "golden": previous.golden,
    }
    return manifest.model_copy(update=kept)


def with_names(manifest: Manifest, previous: Manifest | None) -> Manifest:
    """``manifest`` with the name that ``previous`` has, and the class names of its export where
    those that it was given since stay."""
    if previous is None:
        return manifest
    same = manifest.classes == previous.classes
    exported = previous.exported_classes if same else None
    return manifest.model_copy(update={"name": previous.name, "exported_classes": exported})


def in_use(table: DepthTable, there: Manifest | None, sha256: str) -> DepthTable:
    """``table`` with the ladder that is in use in the bundle ``there``, where that is of the same
    file, which has this hash, and its graphs have the same rows."""
    if there is None or there.source.sha256 != sha256:
        return table
    if [row.depth for row in there.depths] != [str(depth) for depth in table.rows]:
        return table
    return table.with_ladder([table.space.parse(text) for text in there.ladder])


def kept_words(kept: Kept, checkpoint: Checkpoint, model: AnyDepthModel, **named: object) -> str:
    """What the bundle that is replaced decides, for a person; empty where that is nothing.

    ``named``: what was named in the call, by the keys of :meth:`Kept.words` (``input_size``).
    """
    usual = Kept().words(checkpoint, model)
    unnamed = {
        what: words
        for what, words in kept.words(checkpoint, model).items()
        if named.get(what.replace(" ", "_")) is None and words != usual[what]
    }
    told = (f"{what} {shorten(words.split(','), 6)}" for what, words in unnamed.items())
    return f"kept from the bundle that was replaced: {'; '.join(told)}" if unnamed else ""


def gone(previous: Manifest | None, manifest: Manifest) -> str:
    """Which artifacts of the bundle that was replaced are no more, for a person; empty for none."""
    left = {artifact.name for artifact in manifest.artifacts}
    lost = [item.name for item in previous.artifacts if item.name not in left] if previous else []
    return f"replaced, and to be made again where needed: {shorten(lost)}" if lost else ""

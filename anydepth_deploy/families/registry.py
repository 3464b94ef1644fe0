"""All families: those of this package, and those that other packages bring.

Another package names its :class:`~anydepth_deploy.families.family.Family` in the entry-point group
``anydepth_deploy.families``, under the family's own name::

    [project.entry-points."anydepth_deploy.families"]
    anydepth-tiny = "anydepth_tiny:FAMILY"

Families are imported when they are asked for: their names cost next to nothing, which options of
commands count on. None of this imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from anydepth_deploy.errors import BundleError, CheckpointError, UsageError, shorten

if TYPE_CHECKING:
    from anydepth_deploy.families.family import Family, Outputs, Shapes, Training
    from anydepth_deploy.families.shared.tolerances import EngineTolerances, Size, Tolerances

__all__ = [
    "BUILT_IN",
    "GROUP",
    "engine_tolerances",
    "find_family",
    "find_outputs",
    "find_training",
    "golden_tolerances",
    "is_known",
    "names",
    "recognise",
    "tolerances",
]

GROUP = "anydepth_deploy.families"
"""The entry points of families."""

BUILT_IN = {
    "anydepth-detr": "anydepth_deploy.families.detr:FAMILY",
    "anydepth-yolo": "anydepth_deploy.families.yolo:FAMILY",
    "yolov12": "anydepth_deploy.families.yolo.yolov12:FAMILY",
    "rt-detr": "anydepth_deploy.families.rtdetr:FAMILY",
    "d-fine": "anydepth_deploy.families.dfine:FAMILY",
}
"""The families of this package, and where they are."""


def names() -> tuple[str, ...]:
    """The names of all families, those of this package first; imports none of them."""
    return tuple(_known())


def find_family(name: str) -> Family:
    """The family called ``name``. Raises :class:`UsageError` for an unknown one, for one whose
    package is broken, and for a name that two packages give."""
    known = _known()
    if name not in known:
        raise UsageError(f"unknown family {name!r}: choose one of {', '.join(known)}")
    entry, *others = known[name]
    if others:
        raise UsageError(
            f"the family '{name}' is given twice, by {_package(entry)} and by "
            f"{_package(others[0])}: uninstall one of them, or rename its family"
        )
    return _load(entry)


def find_outputs(name: str) -> Outputs:
    """What the raw outputs of a bundle of the family ``name`` mean.

    Raises :class:`BundleError` for a family that is not known here.
    """
    if name not in _known():
        raise BundleError(
            f"the bundle is of the family '{name}', which is not known here ({_list()}): install "
            "the package that brings it"
        )
    return find_family(name).outputs


def find_training(name: str) -> Training:
    """How networks of the family ``name`` are trained. Raises :class:`UsageError` for an unknown
    family, and for one that cannot be trained."""
    found = find_family(name).training
    if found is None:
        able = ", ".join(other for other in names() if _trainable(other))
        raise UsageError(f"family {name!r} cannot be trained: choose one of {able}")
    return found


def tolerances(name: str, size: Size, precision: str) -> Tolerances:
    """Of an artifact of the family ``name`` against its checkpoint. Raises :class:`BundleError` for
    an unknown family and a precision that it does not offer."""
    found = find_outputs(name).tolerances(size, precision)
    if found is None:
        raise BundleError(
            f"the family '{name}' has no tolerances for {precision}: what is computed in it cannot "
            "be verified; leave it out with --precision"
        )
    return found


def engine_tolerances(name: str, size: Size, precision: str) -> EngineTolerances:
    """Of an engine against the graph that
    :func:`anydepth_deploy.verifying.reference.choose_reference` names. Raises :class:`BundleError`
    for a family, or a precision of it, without tolerances."""
    if name not in _known():
        raise BundleError(
            f"no tolerances are known for engines of the family '{name}': expected {_list()}"
        )
    found = find_outputs(name).engine_tolerances(size, precision)
    if found is None:
        raise BundleError(
            f"the family '{name}' has no tolerances for engines in {precision}, so they cannot be "
            "verified; verify its graphs instead"
        )
    return found


def golden_tolerances(
    name: str, size: Size, precision: str
) -> tuple[EngineTolerances, EngineTolerances]:
    """Of an artifact, graph or engine, against golden outputs: where both have chosen the same
    queries, or nothing is chosen, and where some were chosen otherwise, at a tie. The latter are as
    far apart as two executions of one INT8 graph may be, which choose otherwise, too, beside the
    error of the precision (of FP32: that of FP16). Raises as :func:`tolerances`."""
    from anydepth_deploy.families.shared.tolerances import golden

    own = tolerances(name, size, precision)
    same, other = golden(own, size, None), own
    if not own.approximate:
        other = dataclasses.replace(tolerances(name, size, "fp16"), selection=own.selection)
    beside = find_outputs(name).engine_tolerances(size, "int8")
    return same, golden(other, size, {} if beside is None else beside.raw)


def is_known(shapes: Shapes) -> bool:
    """Whether a state dict with these shapes is a family's network, be it one that it refuses."""
    for name in names():
        try:
            family = find_family(name)
        except UsageError:  # of a package that is broken
            continue
        if family.recognise(shapes) is not None:
            return True
    return False


def recognise(shapes: Shapes, origin: str) -> tuple[Family, Any]:
    """Family and configuration of a state dict with these shapes; ``origin`` is for messages.

    Every family is asked before anybody's refusal counts. Raises :class:`CheckpointError` where no
    family takes the network, or more than one does.
    """
    from anydepth_deploy.families.family import Refusal

    found: list[tuple[Family, Any]] = []
    refused: list[str] = []
    broken: list[str] = []
    for name in names():
        try:
            family = find_family(name)
        except UsageError as error:  # which is no reason to refuse the networks of others
            broken.append(str(error))
            continue
        config = family.recognise(shapes)
        if isinstance(config, Refusal):
            refused.append(config.reason)
        elif config is not None:
            found.append((family, config))
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{origin}: the families {' and '.join(family.name for family, _ in found)} both take "
            "this network for theirs: uninstall the package of one"
        )
    if refused:
        raise CheckpointError("; ".join(refused))
    raise CheckpointError(
        f"{origin}: not the weights of a known any-depth detector (families: "
        f"{', '.join(names())}); its {len(shapes)} keys begin with {shorten(list(shapes), 4)}"
        + "".join(f"; {problem}" for problem in broken)
    )


def _trainable(name: str) -> bool:
    try:
        return find_family(name).training is not None
    except UsageError:  # of a package that is broken
        return False


@functools.cache
def _known() -> dict[str, list[EntryPoint]]:
    """Where each family is; in several places, where packages do not know of each other."""
    known = {name: [EntryPoint(name, value, GROUP)] for name, value in BUILT_IN.items()}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        known.setdefault(entry.name, []).append(entry)
    return known


@functools.cache
def _load(entry: EntryPoint) -> Family:
    """Raises :class:`UsageError` for an entry point that gives no family of its name."""
    from anydepth_deploy.families.family import Family

    try:
        found = entry.load()
    except Exception as error:  # whatever a module of others does when it is imported
        reason = f"{type(error).__name__}: {shorten(str(error).splitlines()[:1]) or 'no message'}"
        raise UsageError(
            f"the family '{entry.name}' of {_package(entry)} cannot be loaded from "
            f"'{entry.value}' ({reason}): repair or uninstall that package"
        ) from error
    if not isinstance(found, Family) or found.name != entry.name:
        what = f"the family '{found.name}'" if isinstance(found, Family) else type(found).__name__
        raise UsageError(
            f"the family '{entry.name}' of {_package(entry)} cannot be used: '{entry.value}' is "
            f"{what}, expected a Family of that name"
        )
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "anydepth-deploy"


def _list() -> str:
    return " or ".join(names())

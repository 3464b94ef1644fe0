"""Parity before trust: engines that failed their verification are not run.

A builder may miscompile a correct graph, and an engine that does is as fast as a right one. So a
session refuses an engine whose comparison with its graph failed, and warns of one that nobody
compared. What is measured has to meet more: no artifact that failed ``verify`` is timed, and a
result says when it last passed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anydepth_deploy.bundle.verdicts import read_verdicts
from anydepth_deploy.errors import BundleError, shorten
from anydepth_deploy.manifest import Artifact

if TYPE_CHECKING:
    from anydepth_deploy.bundle.files import BundleFiles

__all__ = ["check_passed", "check_trust", "last_passed"]

log = logging.getLogger("anydepth_deploy")


def check_trust(artifacts: Sequence[Artifact]) -> None:
    """Raise :class:`BundleError` for an engine that failed ``verify``; warn, in the log of this
    package, of engines that were never verified. Graphs that were not built for a device pass."""
    engines = [item for item in artifacts if item.engine is not None]
    failed = [item for item in engines if item.verified is not None and not item.verified.passed]
    if failed:
        first = failed[0]
        reference = first.verified.reference if first.verified else ""
        samples = any(item.deformable == "gridsample" for item in failed)
        raise BundleError(
            f"the engine {first.name} failed its verification: it does not compute what "
            f"{reference} does; build it again with {'--deformable gather or ' if samples else ''}"
            "another TensorRT, and verify it"
        )
    unknown = [item.name for item in engines if item.verified is None]
    if unknown:
        log.warning(
            "never verified on this kind of device: %s; run 'anydepth-deploy verify BUNDLE "
            "--runtime %s' before trusting what it finds",
            shorten(unknown, 3),
            engines[0].format,
        )


def check_passed(
    bundle: BundleFiles, artifacts: Sequence[Artifact], precision: str, runtime: str
) -> None:
    """Raise :class:`BundleError` where the newest comparison of an artifact, in ``precision`` on
    ``runtime``, failed, or where a record is not understood that may say so; see
    :attr:`Manifest.results`."""
    for item in artifacts:
        when, passed = _newest(bundle, item, precision, runtime)
        if when is not None and not passed:
            raise BundleError(
                f"{item.name} in bundle {bundle.path} failed 'verify' ({precision}, {runtime}, "
                f"{when}): what computes something else is not worth timing; export or build it "
                "again and verify it"
            )


def last_passed(
    bundle: BundleFiles, artifacts: Sequence[Artifact], precision: str, runtime: str
) -> str | None:
    """When all ``artifacts`` had passed ``verify`` in ``precision`` on ``runtime``; None where one
    never was compared, or failed."""
    found = [_newest(bundle, item, precision, runtime) for item in artifacts]
    times = [when for when, passed in found if when is not None and passed]
    return min(times) if times and len(times) == len(found) else None


def _newest(
    bundle: BundleFiles, artifact: Artifact, precision: str, runtime: str
) -> tuple[str | None, bool]:
    """When the artifact's bytes were last compared, and whether they passed.

    Raises :class:`BundleError` for a record of another shape, unless a newer one decides.
    """
    if artifact.verified is not None:
        return artifact.verified.when, artifact.verified.passed
    for record in reversed(bundle.manifest.results.get("verify", [])):
        ran_on = record.get("runtime")
        if isinstance(ran_on, str | None) and ran_on != runtime:
            continue
        verdicts = read_verdicts(record)
        if verdicts is None:
            raise BundleError(
                f"bundle {bundle.path}: its manifest has a record of 'verify' that is not "
                "understood, and may be about this artifact: run 'anydepth-deploy verify' again"
            )
        for tried in verdicts:
            if (tried.sha256, tried.precision or artifact.precision) == (
                artifact.sha256,
                precision,
            ):
                return tried.when, tried.passed
    return None, False

"""What is measured: the artifacts that a session would run, and the depths they are good for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import Choice, choose_artifacts
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.bundle.trust import check_passed
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, UsageError
from anydepth_deploy.manifest import Artifact, rounds_to_half
from anydepth_deploy.runtimes.registry import find_runtime

__all__ = ["Subject", "open_subject"]


@dataclass(frozen=True)
class Subject:
    """Open artifacts. ``timed`` runs as a service would, ``scored`` rounds as FP16 graphs say;
    mostly they are one. ``runnable``: the depths that a ladder may offer."""

    bundle: Bundle
    choice: Choice
    artifacts: Sequence[Artifact]
    timed: Session
    scored: Session
    runnable: tuple[Depth, ...]

    def hashes(self, depths: Sequence[Depth]) -> list[str]:
        """Of the artifacts that run at ``depths``."""
        texts = {None, *map(str, depths)}
        return sorted({item.sha256 for item in self.artifacts if item.depth in texts})

    def close(self) -> None:
        """Give back what runtimes hold."""
        for session in {id(one): one for one in (self.timed, self.scored)}.values():
            session.close()


def open_subject(bundle: Bundle, choice: Choice) -> Subject:
    """Open what ``choice`` chooses.

    Raises :class:`BundleError` for artifacts that are not there, failed ``verify``, give no
    detections or do not hold base and super, and what sessions raise.
    """
    artifacts = choose_artifacts(
        bundle, choice.layout, choice.precision, choice.weights, choice.target, choice.runtime
    )
    check_passed(bundle, artifacts, choice.precision, choice.runtime)
    runnable = _runnable(bundle, artifacts)

    def opened(*, rounded: bool) -> Session:
        return bundle.session(
            choice.runtime,
            artifacts[0].layout,
            choice.precision,
            weights=choice.weights,
            target=choice.target,
            threads=choice.threads,
            kept_depths=len(runnable) if find_runtime(choice.runtime).by_depth else None,
            rounded=rounded,
        )

    timed = opened(rounded=False)
    if not timed.detects:
        timed.close()
        raise UsageError(
            f"bundle {bundle.path} gives predictions, not detections (--nms none), so that nothing "
            "can be scored: export it with --nms graph or host"
        )
    scored = timed
    if any(map(rounds_to_half, artifacts)):
        scored = opened(rounded=True)
    return Subject(bundle, choice, artifacts, timed, scored, runnable)


def _runnable(bundle: Bundle, artifacts: Sequence[Artifact]) -> tuple[Depth, ...]:
    """The depths with a graph; of INT8, those that were calibrated."""
    table = bundle.table
    held = {item.depth for item in artifacts}
    found = [depth for depth in table.rows if held == {None} or str(depth) in held]
    schemes = [item.quantisation for item in artifacts if item.quantisation is not None]
    if schemes:
        # Bundles of before do not say which: it takes those of the ladder to export one.
        exported = [str(depth) for depth in table.exported]
        listed = [set(scheme.calibration.depths or exported) for scheme in schemes]
        known = listed[0].union(*listed) if held != {None} else listed[0].intersection(*listed)
        found = [depth for depth in found if str(depth) in known]
    missing = [str(d) for d in (table.space.base, table.space.super) if d not in found]
    if missing:
        depths = ",".join(missing)
        advice = (
            f"calibrate it and export again with 'calibrate --depth all,{depths}'"
            if schemes
            else f"add it with 'export --layout set --depth {depths}'"
        )
        raise BundleError(
            f"bundle {bundle.path} has nothing to run at {' and '.join(missing)}, where a ladder "
            f"begins and ends: {advice}"
        )
    return tuple(found)

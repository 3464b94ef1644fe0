"""Which artifacts of a bundle run on this machine, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.machine.runtimes import RuntimeHere
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.runtimes.registry import RUNTIMES, runs_on, why_not_here

__all__ = ["bundle_here"]


def bundle_here(
    bundle: str | Path | Bundle, runtimes: Sequence[RuntimeHere], capability: str | None
) -> dict[str, Any]:
    """The artifacts of a bundle, the runtimes that run each here, and why others do not.

    ``capability``: of the GPU here, as ``sm89``; None: unknown, or none. Raises what
    :func:`open_bundle` raises.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    rows = [_row(opened, item, runtimes, capability) for item in opened.artifacts()]
    return {
        "path": str(opened.path),
        "family": opened.manifest.family,
        "config": opened.manifest.config,
        "artifacts": rows,
    }


def _row(
    bundle: Bundle, item: Artifact, runtimes: Sequence[RuntimeHere], capability: str | None
) -> dict[str, Any]:
    runs: list[str] = []
    reasons: dict[str, str] = {}
    for row in runtimes:
        if not runs_on(item, row.name):
            continue
        reason = row.reason if not row.works else _why_not(item, row.name, capability)
        if reason is None:
            runs.append(row.name)
        else:
            reasons[row.name] = reason
    if not runs and not reasons:
        taken = [name for name, row in RUNTIMES.items() if row.format == item.format]
        reasons[item.format] = f"no runtime runs it as it is meant ({', '.join(taken) or 'none'})"
    return {
        "file": item.file,
        "layout": item.layout,
        "precision": item.precision,
        "runs_on": runs,
        "not_on": reasons,
        "built_for": None if item.engine is None else list(item.engine.capabilities),
        "verified": None if item.verified is None else item.verified.passed,
    }


def _why_not(item: Artifact, runtime: str, capability: str | None) -> str | None:
    if reason := why_not_here(item, runtime):
        return reason
    if item.engine is None:
        return None
    if item.verified is not None and not item.verified.passed:
        return "it does not compute what its graph does ('verify' found that)"
    if capability is not None and capability not in item.engine.capabilities:
        return f"built for {', '.join(item.engine.capabilities)}, this GPU is {capability}"
    return None

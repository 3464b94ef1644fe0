"""What a router knows of costs before the first request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anydepth_deploy.bundle.measured import Measured, find_measured, first_rungs
from anydepth_deploy.control.rungs import guessed_rungs
from anydepth_deploy.errors import BundleError
from anydepth_deploy.manifest import Manifest
from anydepth_deploy.serve import names
from anydepth_deploy.serve.models.autopilot import Autopilot
from anydepth_deploy.serve.models.routes import Routes

__all__ = ["start_autopilot"]


def start_autopilot(manifest: Manifest, routes: Routes, given: Mapping[str, str]) -> Autopilot:
    """It chooses among the depths of the ladder that was measured of what is served, on this device
    or, with a warning, on another; where nobody measured one, among those of the ladder in use, by
    their multiply-adds. Depths without a model are left out; where no depth of the ladder has one,
    it chooses among those that do.

    Raises :class:`BundleError` where the configuration has something else for
    :data:`~anydepth_deploy.serve.names.MEASURED`.
    """
    table = routes.table
    macs = [row.macs["total"] for row in manifest.depths]
    measured = _measured(manifest, given)
    by_depth = {str(depth): cost for depth, cost in zip(table.rows, macs, strict=True)}
    rungs = first_rungs(measured, [str(depth) for depth in table.ladder], by_depth, batch=None)
    used = measured.here or next(iter(measured.elsewhere[-1:]), None)
    served = [rung for rung in rungs if routes.serves(table.row(rung.depth))]
    if not served:
        rows = sorted(routes.levels, key=lambda row: macs[row])
        served = list(
            guessed_rungs([str(table.rows[row]) for row in rows], [macs[row] for row in rows])
        )
    return Autopilot(
        served,
        [table.row(rung.depth) for rung in served],
        macs,
        routes.model,
        batch=1 if used is None else used.batch,
    )


def _measured(manifest: Manifest, given: Mapping[str, str]) -> Measured:
    """The ladders that hold for what is served, as the configuration tells it."""
    text = given.get(names.MEASURED)
    if not text:
        return Measured()
    try:
        found: dict[str, Any] = json.loads(text)
        wanted = set(found["artifacts"])
        artifacts = [item for item in manifest.artifacts if item.name in wanted]
        runtime, precision = str(found["runtime"]), str(found["precision"])
        threads = found.get("threads")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(
            f"parameter '{names.MEASURED}' is {text[:40]!a}: expected JSON with runtime, precision "
            "and artifacts; write the repository again with 'anydepth-deploy triton'"
        ) from None
    return find_measured(manifest, artifacts, runtime, precision, threads)

"""A session on autopilot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.measured import Measured, first_rungs, rungs_of
from anydepth_deploy.control.controller import Controller, Policy, Sensor
from anydepth_deploy.control.rungs import Rung
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.manifest import MeasuredLadder
from anydepth_deploy.pilot.power import PowerSensor

__all__ = ["Flown", "Pilot"]


class Flown(Protocol):
    """What a pilot needs of a session; :class:`~anydepth_deploy.bundle.session.Session` has it."""

    table: DepthTable
    macs: dict[str, int]
    measured_ladder: MeasuredLadder | None
    measured_elsewhere: tuple[MeasuredLadder, ...]

    @property
    def depths(self) -> tuple[Depth, ...]: ...

    @property
    def on_device(self) -> bool: ...

    def run(self, images: NDArray[np.float32], depth: str) -> Detections: ...

    def warm(self, depth: str, batch: int) -> None: ...


class Pilot(Controller):
    """Runs a session at the depth that keeps what calls take to a target::

        pilot = Pilot(session, target_ms=25)
        found = pilot.run(images)

    What it can do beside that (loops of one's own, sensors, counters, explanations) is that of a
    :class:`~anydepth_deploy.control.controller.Controller`.
    """

    def __init__(
        self,
        session: Flown,
        *,
        target_ms: float | None = None,
        fps: float | None = None,
        watts: float | None = None,
        target: float | None = None,
        sensor: Sensor | None = None,
        every: int = 25,
        policy: Policy = "mean",
        percentile: int = 95,
        floor: str | None = None,
        ceiling: str | None = None,
        strict: bool = False,
        rungs: Any = None,
        batch: int = 1,
        warm: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``watts``: what the device that computes may draw; ``sensor`` says it, by default the
        device's own. The other targets, policies and limits are those of
        :class:`~anydepth_deploy.control.controller.Controller`; ``floor`` and ``ceiling`` may be
        any names of rungs (``base``, ``level:2``).

        ``rungs``: a ladder with what its calls take: :class:`~anydepth_deploy.control.rungs.Rung`s,
        or what ``anydepth-deploy ladder`` measured. By default what was measured of this session's
        artifacts on this device; where nobody did, costs are guessed from multiply-adds and learned
        from the calls. ``batch``: images of a call; with ``warm`` each rung runs once now, so that
        no first call is a slow one.

        Raises :class:`UsageError`, and :class:`DepthError` for a rung that the model does not have.
        """
        if watts is not None:
            if target is not None:
                raise UsageError("a pilot has one of target_ms, fps, watts and target; found two")
            target = watts
            if sensor is None and target_ms is None and fps is None:
                sensor = _power(session)
        self.session = session
        found = _ladder(session, rungs, batch)
        table = session.table
        runnable = {str(depth) for depth in session.depths}
        missing = [rung.depth for rung in found if str(table.find(rung.depth)) not in runnable]
        if missing:
            raise UsageError(
                f"this session cannot run {shorten(missing)}: give rungs that it has "
                f"({shorten(sorted(runnable), 12)})"
            )
        super().__init__(
            found,
            target_ms=target_ms,
            fps=fps,
            target=target,
            sensor=sensor,
            every=every,
            policy=policy,
            percentile=percentile,
            floor=None if floor is None else str(table.find(floor)),
            ceiling=None if ceiling is None else str(table.find(ceiling)),
            strict=strict,
            clock=clock,
        )
        if warm:
            for rung in found:
                session.warm(rung.depth, batch)

    def run(self, images: NDArray[np.float32]) -> Detections:
        """Detect objects in ``images`` as :meth:`Session.run` does, at the depth that is next.

        Raises what that raises; such a call is not learned from.
        """
        with self.call() as depth:
            return self.session.run(images, depth)


def _power(session: Flown) -> PowerSensor:
    """What tells the watts of a session's device."""
    found = PowerSensor(session.on_device)
    if not found.works:
        raise UsageError(
            f"nothing here tells what the {'GPU' if session.on_device else 'processor'} draws, so "
            "that watts cannot be held: give a sensor that does, or hold target_ms or fps"
        )
    return found


def _ladder(session: Flown, rungs: Any, batch: int) -> Sequence[Rung]:
    """The rungs that were given, measured, or guessed."""
    if rungs is not None:
        return rungs_of(rungs, batch)
    measured = Measured(session.measured_ladder, tuple(session.measured_elsewhere))
    return first_rungs(
        measured, [str(depth) for depth in session.table.ladder], session.macs, batch
    )

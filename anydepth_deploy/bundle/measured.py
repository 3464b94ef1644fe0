"""Which of a bundle's measured ladders holds for a session, and what a controller starts with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anydepth_deploy.control.rungs import Rung, guessed_rungs
from anydepth_deploy.errors import UsageError
from anydepth_deploy.manifest import Artifact, Manifest, MeasuredLadder
from anydepth_deploy.runtimes.device_name import device_name

__all__ = ["Measured", "find_measured", "first_rungs", "rungs_of"]

log = logging.getLogger("anydepth_deploy")


@dataclass(frozen=True)
class Measured:
    """The ladders that were measured of a session's artifacts with its runtime and precision.

    ``here``: on this device, the newest one; of several, one with as many threads first.
    ``elsewhere``: on other devices.
    """

    here: MeasuredLadder | None = None
    elsewhere: tuple[MeasuredLadder, ...] = ()


def find_measured(
    manifest: Manifest,
    artifacts: Sequence[Artifact],
    runtime: str,
    precision: str,
    threads: int | None = None,
) -> Measured:
    """The ladders that ``manifest`` has of these very ``artifacts``, by their hashes. C++ chooses
    in the same way."""
    hashes = {item.sha256 for item in artifacts}
    fitting = [
        item
        for item in manifest.measured
        if (item.runtime, item.precision) == (runtime, precision) and set(item.artifacts) <= hashes
    ]
    if not fitting:  # asking for the device takes time
        return Measured()
    name = device_name(runtime)
    found = [item for item in fitting if item.device == name]
    alike = [item for item in found if item.threads == threads]
    return Measured(
        next(reversed(alike or found), None),
        tuple(item for item in fitting if item.device != name),
    )


def first_rungs(
    measured: Measured, ladder: Sequence[str], macs: Mapping[str, int], batch: int | None = 1
) -> Sequence[Rung]:
    """The rungs that a controller starts with: those of the ladder that was ``measured`` here, or
    of the newest of another device, or else those of ``ladder`` with costs guessed from ``macs``.
    ``batch``: images of a call; None: of any number.

    Raises :class:`UsageError` where nothing tells costs.
    """
    found = measured.here or next(iter(measured.elsewhere[-1:]), None)
    if found is not None:
        return rungs_of(found, batch)
    if not all(macs.get(depth) for depth in ladder):
        raise UsageError(
            "nothing is known of what the depths of this session cost: give rungs, or run "
            "'anydepth-deploy ladder' on the bundle"
        )
    return guessed_rungs(ladder, [macs[depth] for depth in ladder])


def rungs_of(measured: Any, batch: int | None = 1) -> list[Rung]:
    """Rungs, or those of a ladder that ``ladder`` measured; one of another device, or of calls with
    other numbers of images, is warned of. C++ says the same.

    Raises :class:`UsageError` for what is neither.
    """
    found = getattr(measured, "rungs", measured)
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise UsageError(
            f"rungs cannot be of type {type(measured).__name__}: expected Rungs from base to "
            "super, or a measured ladder"
        )
    _check_device(measured, batch)
    return [_rung(item) for item in found]


def _rung(item: Any) -> Rung:
    """One of ours, or one of a measured ladder."""
    if isinstance(item, Rung):
        return item
    depth, median = getattr(item, "depth", None), getattr(item, "milliseconds", None)
    if depth is None or median is None:
        raise UsageError(f"a rung cannot be of type {type(item).__name__}: expected a Rung")
    return Rung(
        str(depth),
        float(median),
        getattr(item, "p95", None),
        getattr(item, "p99", None),
        getattr(item, "score", None),
    )


def _check_device(measured: Any, batch: int | None) -> None:
    device, images = getattr(measured, "device", None), getattr(measured, "batch", None)
    if device is not None:
        here = device_name(getattr(measured, "runtime", "onnxruntime"))
        if device != here:
            log.warning(
                "%s",
                f"this ladder was measured on {device}, this is {here}: costs are learned from the "
                "calls. Measure here: anydepth-deploy ladder BUNDLE",
            )
    if images is not None and batch is not None and images != batch:
        log.warning(
            "%s",
            f"this ladder was measured with {images} image(s) a call, these have {batch}: costs "
            "are learned from the calls. Measure here: anydepth-deploy ladder BUNDLE",
        )

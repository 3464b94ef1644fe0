"""Which of a bundle's measured ladders holds for a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anydepth_deploy.manifest import Artifact, Manifest, MeasuredLadder
from anydepth_deploy.runtimes.device_name import device_name

__all__ = ["Measured", "find_measured"]


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

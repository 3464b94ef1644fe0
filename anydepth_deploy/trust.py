"""Parity before trust: engines that failed their verification are not run.

A builder may miscompile a correct graph, and an engine that does is as fast as a right one. So a
session refuses an engine whose comparison with its graph failed, and warns of one that nobody
compared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from anydepth_deploy.errors import BundleError, shorten
from anydepth_deploy.manifest import Artifact

__all__ = ["check_trust"]

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

"""``export``: a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.exporting.export import export_bundle

__all__ = ["export"]


def export(checkpoint: str | Path, out: str | Path, **options: Any) -> Bundle:
    """Export ``checkpoint`` into the bundle folder ``out``, making only what is missing there, as
    the command ``export`` does. ``options``: those of :func:`export_bundle`, which raises what is
    raised."""
    return export_bundle(checkpoint, out, **options)

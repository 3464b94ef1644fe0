"""``build``: engines from the graphs of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import missing_extra

if TYPE_CHECKING:  # needs onnx
    from anydepth_deploy.building.build import BuildReport

__all__ = ["build"]


def build(bundle: str | Path | Bundle, runtime: str, **options: Any) -> BuildReport:
    """Build engines for ``runtime`` (``tensorrt``, ``tensorrt-rtx``) from the graphs of ``bundle``,
    only those that are missing, as the command ``build`` does. ``options``: those of
    :func:`~anydepth_deploy.building.build.build_bundle`, which raises what is raised."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    try:
        from anydepth_deploy.building.build import build_bundle

        return build_bundle(path, runtime=runtime, **options)
    except ModuleNotFoundError as error:  # devices have no extra that brings torch
        raise missing_extra(error, "anydepth_deploy.build", extra="tensorrt") or error from None

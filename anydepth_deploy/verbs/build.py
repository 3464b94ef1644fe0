"""``build``: engines, or graphs in FP16, from the graphs of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import missing_extra
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:  # needs onnx
    from anydepth_deploy.building.build import BuildReport

__all__ = ["build"]


def build(bundle: str | Path | Bundle, runtime: str, **options: Any) -> BuildReport:
    """Build engines for ``runtime`` (``tensorrt``, ``tensorrt-rtx``) from the graphs of ``bundle``,
    or for ``onnxruntime`` graphs in FP16 from those in FP32, only those that are missing, as the
    command ``build`` does. ``options``: those of
    :func:`~anydepth_deploy.building.build.build_bundle`, for ``onnxruntime`` of
    :func:`~anydepth_deploy.building.halve.halve_bundle`, which raise what is raised."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    graphs = format_of(runtime) == "onnx"
    try:
        if graphs:
            from anydepth_deploy.building.halve import halve_bundle

            return halve_bundle(path, runtime=runtime, **options)
        from anydepth_deploy.building.build import build_bundle

        return build_bundle(path, runtime=runtime, **options)
    except ModuleNotFoundError as error:  # devices have no extra that brings torch
        extra = "graphs" if graphs else "tensorrt"
        raise missing_extra(error, "build", extra=extra) or error from None

"""``build``: engines, or graphs in FP16, from the graphs of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import missing_extra
from anydepth_deploy.runtimes.registry import format_of
from anydepth_deploy.verbs.words import batch_profile, listed, memory, renamed

if TYPE_CHECKING:  # needs onnx
    from anydepth_deploy.building.build import BuildReport

__all__ = ["build"]

FORMER = {"layout": "layouts", "target": "capabilities"}
LISTS = ("layouts", "capabilities", "precision")


def build(bundle: str | Path | Bundle, runtime: str, **options: Any) -> BuildReport:
    """Build engines for ``runtime`` (``tensorrt``, ``tensorrt-rtx``) from the graphs of ``bundle``,
    or for ``onnxruntime`` graphs in FP16 from those in FP32, only those that are missing, as the
    command ``build`` does.

    ``options``: those of the command by their names, as texts or as what they mean: ``target``
    (``"t4,l4"`` or a list), ``depth``, ``layout``, ``precision``, ``weights``, ``batch``
    (``"1,4,16"``, 4, sizes, or a :class:`BatchProfile`), ``workspace`` (``"2GiB"`` or bytes),
    ``timing_cache``, ``deformable``; and those of
    :func:`~anydepth_deploy.building.build.build_bundle`, for ``onnxruntime`` of
    :func:`~anydepth_deploy.building.halve.halve_bundle`, which raise what is raised. Raises
    :class:`TypeError` for two names of one thing, and for an option that graphs do not have."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    renamed(options, FORMER)
    for name in LISTS:
        if isinstance(options.get(name), str):
            options[name] = listed(options[name])
    graphs = format_of(runtime) == "onnx"
    batch = options.get("batch")
    if isinstance(batch, str | int):
        options["batch"] = batch_profile(str(batch))
    elif isinstance(batch, Sequence):
        options["batch"] = batch_profile(",".join(map(str, batch)))
    if isinstance(options.get("workspace"), str):
        options["workspace"] = memory(options["workspace"])
    try:
        if graphs:
            from anydepth_deploy.building.halve import halve_bundle

            return halve_bundle(path, runtime=runtime, **options)
        from anydepth_deploy.building.build import build_bundle

        return build_bundle(path, runtime=runtime, **options)
    except ModuleNotFoundError as error:  # devices have no extra that brings torch
        extra = "graphs" if graphs else "tensorrt"
        raise missing_extra(error, "build", extra=extra) or error from None

"""Any-depth object detectors in production.

One trained network, its depth chosen at run time. Opening and running bundles needs neither torch
nor onnx::

    import anydepth_deploy as ad

    detector = ad.load("engines/r50")
    for result in detector("street.jpg", depth="base"):
        print(result.names, result.scores, result.boxes)

A session runs arrays that are prepared already, see :meth:`Bundle.session`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anydepth_deploy.version import __version__

if TYPE_CHECKING:
    from anydepth_deploy.bundle.bundle import Bundle, open_bundle
    from anydepth_deploy.bundle.session import Session
    from anydepth_deploy.depth import Depth, DepthSpace, DepthTable
    from anydepth_deploy.detections import Detections
    from anydepth_deploy.detector.detector import Detector, load
    from anydepth_deploy.detector.result import Result
    from anydepth_deploy.errors import AnyDepthError, CheckFailedError
    from anydepth_deploy.exporting.export import export_bundle
    from anydepth_deploy.pictures.images import load_image, prepare, prepare_batch
    from anydepth_deploy.pilot.pilot import Pilot
    from anydepth_deploy.verbs.benchmark import benchmark
    from anydepth_deploy.verbs.build import build
    from anydepth_deploy.verbs.doctor import doctor
    from anydepth_deploy.verbs.evaluate import evaluate
    from anydepth_deploy.verbs.export import export
    from anydepth_deploy.verbs.verify import verify

_PUBLIC = {
    "AnyDepthError": "errors",
    "Bundle": "bundle.bundle",
    "CheckFailedError": "errors",
    "Depth": "depth",
    "DepthSpace": "depth",
    "DepthTable": "depth",
    "Detections": "detections",
    "Detector": "detector.detector",
    "Pilot": "pilot.pilot",
    "Result": "detector.result",
    "Session": "bundle.session",
    "benchmark": "verbs.benchmark",
    "build": "verbs.build",
    "doctor": "verbs.doctor",
    "evaluate": "verbs.evaluate",
    "export": "verbs.export",
    "export_bundle": "exporting.export",
    "load": "detector.detector",
    "load_image": "pictures.images",
    "open_bundle": "bundle.bundle",
    "prepare": "pictures.images",
    "prepare_batch": "pictures.images",
    "verify": "verbs.verify",
}

__all__ = [
    "AnyDepthError",
    "Bundle",
    "CheckFailedError",
    "Depth",
    "DepthSpace",
    "DepthTable",
    "Detections",
    "Detector",
    "Pilot",
    "Result",
    "Session",
    "__version__",
    "benchmark",
    "build",
    "doctor",
    "evaluate",
    "export",
    "export_bundle",
    "load",
    "load_image",
    "open_bundle",
    "prepare",
    "prepare_batch",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package stays fast and never imports torch.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    except ModuleNotFoundError as error:
        from anydepth_deploy.errors import missing_extra

        raise (missing_extra(error, f"anydepth_deploy.{name}") or error) from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""``verify``: a bundle against its checkpoint or its golden outputs, or engines against graphs."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.checkpoints.present import check_present
from anydepth_deploy.errors import UsageError, missing_extra
from anydepth_deploy.families.registry import find_outputs
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:
    from anydepth_deploy.verifying.parity import Report

__all__ = ["verify"]


def verify(
    bundle: str | Path | Bundle,
    checkpoint: str | Path | None = None,
    *,
    depth: str | None = None,
    images: str | Path | None = None,
    layout: str | None = None,
    precision: str | None = None,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
    record: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Compare every artifact of ``bundle`` for ``runtime`` with what it should compute, depth by
    depth, as the command ``verify`` does. Whether all agree is :attr:`Report.passed`: nothing is
    raised where they do not. :attr:`Report.compared_with` says what with:

    - graphs with ``checkpoint``, which needs torch; without one, with the golden outputs that the
      bundle was exported with, which needs the runtime alone;
    - engines with the graphs they were built from, where ONNX Runtime is there to run these, else
      with the golden outputs.

    ``depth``: ``all`` (the ladder), ``every``, or depths joined by commas; by default the ladder
    (engines: every depth), and each static graph's own; of golden outputs, those that they were
    made at. ``images``: a picture or a folder; by default generated ones; golden outputs are of
    pictures of their own. ``record``: whether the manifest keeps the outcome.

    Raises :class:`UsageError` for a checkpoint of engines and pictures beside golden outputs,
    :class:`BundleError` where there are no golden outputs, :class:`MissingExtraError`, and what
    :func:`anydepth_deploy.verifying.graphs.verify`,
    :func:`anydepth_deploy.verifying.golden.verify_golden` and
    :func:`anydepth_deploy.verifying.engines.verify_engines` raise.
    """
    engines = format_of(runtime) != "onnx"
    if engines and checkpoint is not None:
        raise UsageError(
            "engines are compared with the graphs of their bundle, or its golden outputs: leave "
            "the checkpoint out"
        )
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if checkpoint is not None:
        check_present(Path(checkpoint))
    options: dict[str, Any] = {
        "depths": None if depth is None else opened.table.select(depth),
        "layout": layout,
        "precision": precision,
        "runtime": runtime,
        "threads": threads,
        "record": record,
        "progress": progress,
    }
    lacking = _lacking(opened) if engines else None
    golden = checkpoint is None and (not engines or lacking is not None)
    if engines and opened.manifest.golden is None:
        golden = False  # what is lacking is named
    if golden and images is not None:
        raise UsageError(
            "golden outputs are of pictures of their own: leave the pictures out, or name the "
            "checkpoint to compare with"
        )
    try:
        if golden:
            from anydepth_deploy.verifying.golden import verify_golden

            report = verify_golden(opened, **options)
            notes = [] if lacking is None else [f"not with the graphs: there is no {lacking}"]
            return dataclasses.replace(report, notes=[*notes, *report.notes])
        batches = verification_batches(
            opened.manifest.preprocess, images, orientation=orientation, max_pixels=max_pixels
        )
        if checkpoint is None:
            from anydepth_deploy.verifying.engines import verify_engines

            return verify_engines(opened, batches, **options)
        from anydepth_deploy.verifying import graphs

        return graphs.verify(opened, str(checkpoint), batches, **options)
    except ModuleNotFoundError as error:
        extra = "tensorrt" if engines else None
        raise missing_extra(error, "verify", extra=extra) or error from None


def _lacking(bundle: Bundle) -> str | None:
    """The package that is not there, of those that run the graphs engines are compared with."""
    chooses = find_outputs(bundle.manifest.family).choice is not None
    for package in ("onnxruntime", *(("onnx",) if chooses else ())):
        try:
            importlib.import_module(package)
        except ImportError:
            return package
    return None

"""``verify``: a bundle against its checkpoint, or engines against their graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.errors import UsageError, missing_extra
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.pictures.samples import verification_batches
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import format_of

if TYPE_CHECKING:  # needs torch or scipy
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
    """Compare every artifact of ``bundle`` with ``checkpoint``, depth by depth, or, where
    ``runtime`` is one of engines, those with the graphs they were built from; as the command
    ``verify`` does. Whether all agree is :attr:`Report.passed`: nothing is raised where they do
    not.

    ``depth``: ``all`` (the ladder), ``every``, or depths joined by commas; by default the ladder
    (engines: every depth), and each static graph's own. ``images``: a picture or a folder; by
    default generated ones. ``record``: whether the manifest keeps the outcome.

    Raises :class:`UsageError` where there is no checkpoint to compare graphs with, or one for
    engines, :class:`MissingExtraError`, and what
    :func:`anydepth_deploy.verifying.graphs.verify` and
    :func:`anydepth_deploy.verifying.engines.verify_engines` raise.
    """
    engines = format_of(runtime) != "onnx"
    if engines and checkpoint is not None:
        raise UsageError("engines are compared with the graphs of their bundle: give no checkpoint")
    if not engines and checkpoint is None:
        raise UsageError("checkpoint is missing: name the file that the bundle was made from")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    options: dict[str, Any] = {
        "depths": None if depth is None else opened.table.select(depth),
        "layout": layout,
        "precision": precision,
        "runtime": runtime,
        "threads": threads,
        "record": record,
        "progress": progress,
    }
    batches = verification_batches(
        opened.manifest.preprocess, images, orientation=orientation, max_pixels=max_pixels
    )
    try:
        if checkpoint is None:
            from anydepth_deploy.verifying.engines import verify_engines

            return verify_engines(opened, batches, **options)
        from anydepth_deploy.verifying import graphs

        return graphs.verify(opened, str(checkpoint), batches, **options)
    except ModuleNotFoundError as error:
        extra = "tensorrt" if engines else None
        raise missing_extra(error, "anydepth_deploy.verify", extra=extra) or error from None

"""``calibrate``: a checkpoint and pictures become a range table."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.calibration.collect import collect, discard_state, read_batch
from anydepth_deploy.calibration.cover import covering_depths
from anydepth_deploy.calibration.doubts import doubts, warning
from anydepth_deploy.calibration.entries import table_entries
from anydepth_deploy.calibration.histogram import Histogram
from anydepth_deploy.calibration.observe import Observations
from anydepth_deploy.calibration.ranges import PERCENTILE, Method, choose_range
from anydepth_deploy.calibration.sensitivity import stage_errors
from anydepth_deploy.calibration.table import (
    FORMAT,
    MOST_BYTES,
    CalibrationPictures,
    CheckpointFile,
    RangeTable,
    default_table,
    write_table,
)
from anydepth_deploy.calibration.walk import import_onnxruntime
from anydepth_deploy.checkpoints.checkpoint import load_model, read_checkpoint
from anydepth_deploy.depth import Depth, DepthTable, parse_ladder
from anydepth_deploy.documents import try_to_write, utc_now
from anydepth_deploy.errors import CalibrationError, UsageError, readable
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.families.shared.stages import Stage
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.graph.pieces import Pieces, export_pieces
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.choice import Pictures, choose_pictures
from anydepth_deploy.pictures.images import Preprocess, Resize
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress
from anydepth_deploy.reading.regular import read_regular
from anydepth_deploy.version import __version__

__all__ = ["COUNT", "PROBE", "calibrate"]

log = logging.getLogger("anydepth_deploy")

COUNT = 512
"""Pictures that are observed, by default."""

PROBE = 16
"""Pictures that the errors of whole stages are measured with, by default."""

AT_ONCE = 8
"""Depths whose stages are measured together: each has some quantised sessions that none of the
others has, all of them open, with threads of their own."""

SAVE_EVERY = 5.0
"""Seconds between two savings of what is done, for each depth: their size grows with the depths."""


@usual_state()
def calibrate(
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path | None = None,
    *,
    depth: str = "all",
    ladder: str | None = None,
    input_size: tuple[int, int] | None = None,
    resize: Resize | None = None,
    count: int = COUNT,
    seed: int = 0,
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
    method: Method = "percentile",
    percentile: float = PERCENTILE,
    probe: int = PROBE,
    batch: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
    said: Said | None = None,
) -> tuple[Path, RangeTable]:
    """Observe the activations of ``checkpoint`` over pictures and depths; write their ranges.

    ``images``: a folder, of which ``count`` pictures are drawn with ``seed``, or one picture.
    ``orientation``: which way up they are read. ``max_pixels``: of each, and of what resizing it
    takes.
    ``out``: the table's file, by default ``calib/<checkpoint>.json``. ``depth``: further depths to
    observe, besides the ladder and what else is needed to see every variant of every stage.
    ``ladder``, ``input_size``, ``resize``: as for an export. ``method``, ``percentile``: how ranges are
    chosen, see :func:`~anydepth_deploy.calibration.ranges.choose_range`. ``probe``: pictures that
    the errors of whole stages are measured with; 0 leaves that out. ``batch``: pictures a run.
    ``threads``: of ONNX Runtime, by default as many as there are cores. ``said``: what no key of
    the checkpoint reveals.

    Pictures that can hardly calibrate anything (equal, of one colour, too few) are no error: the
    log of this package warns of them, and the table says so.

    Returns the path and what was written there. What is done is kept in a hidden file beside it
    until then: the same call after an interruption goes on and gives the same table.

    Raises :class:`UsageError`, :class:`CheckpointError`, :class:`DepthError`, :class:`InputError`,
    :class:`ImageError`, :class:`ExportError` and :class:`CalibrationError`; whatever can be known
    to fail does so before the long work.
    """
    _check_numbers(method, percentile, probe=probe, batch=batch, threads=threads)
    versions = _versions()
    source = read_checkpoint(checkpoint, said)
    path = default_table(checkpoint) if out is None else Path(out)
    _check_out(path)
    model = load_model(source)
    rungs = model.ladder if ladder is None else parse_ladder(model.space, ladder)
    table = DepthTable(model.space, rungs)
    size = input_size or source.usual_size()
    stages = model.stages(size)
    depths = _depths(stages, table, depth)
    steps = _Steps(
        progress,
        pieces=sum(len(stage.variants) for stage in stages),
        depths=len(depths),
        probe=probe,
    )
    pictures = choose_pictures(images, count, seed, max_pixels=max_pixels, progress=steps.reading)
    reasons = doubts(pictures.variety)
    if reasons:
        log.warning("%s", warning(path, reasons))
    recipe = Preprocess.of(model.resize, size, resize)
    checkpoint_file = CheckpointFile(
        file=readable(source.path.resolve().name), sha256=source.sha256
    )
    identity = _identity(
        versions=versions,
        checkpoint=checkpoint_file.sha256,
        network=repr(source.config),  # with what was said of it
        preprocess=recipe.model_dump(mode="json"),
        pictures=[pictures.sha256, *map(str, pictures.paths)],
        orientation=orientation,
        depths=[str(item) for item in depths],
        batch=batch,
        threads=threads,
    )
    state = path.with_name(f".{path.name}.{identity[:12]}.state")

    pieces = export_pieces(model, size, progress=steps.exporting)
    observations = Observations(pieces, table, depths)
    counted = collect(
        lambda: observations.open(threads),
        pictures.paths,
        recipe,
        state,
        identity,
        batch=batch,
        orientation=orientation,
        max_pixels=max_pixels,
        save_every=max(30.0, SAVE_EVERY * len(depths)),
        progress=steps.observing,
    )
    ranges = RangeTable(
        tool_version=__version__,
        created=utc_now(),
        checkpoint=checkpoint_file,
        family=model.family,
        config=model.config.name,
        size=size,
        preprocess=recipe,
        pictures=CalibrationPictures(
            count=len(pictures.paths),
            sha256=pictures.sha256,
            seed=pictures.seed,
            orientation=orientation,
        ),
        method=method,
        percentile=percentile if method == "percentile" else None,
        ladder=[str(rung) for rung in table.ladder],
        depths=[str(item) for item in depths],
        tensors=table_entries(observations.named(counted), method, percentile),
        said=dict(source.chosen),
        warnings=reasons,
    )
    if probe:

        def read(path: Path) -> NDArray[np.float32]:
            return read_batch([path], recipe, orientation, max_pixels)

        ranges = _measure(ranges, pieces, depths, pictures, probe, read, threads, steps)
    write_table(path, ranges)
    for leftover in path.parent.glob(f".{path.name}.*.state"):  # of other tries, too
        discard_state(leftover)
    steps.done()
    return path, ranges


class _Steps:
    """One count over all parts of the work; a step is about one picture at one depth."""

    def __init__(self, progress: Progress | None, *, pieces: int, depths: int, probe: int) -> None:
        self.progress, self.pieces, self.depths, self.probe = progress, pieces, depths, probe
        self.pictures = 0

    @property
    def total(self) -> int:
        return self._exported + self.depths * (self.pictures + self.probed)

    @property
    def probed(self) -> int:
        return min(self.probe, self.pictures)

    @property
    def _exported(self) -> int:
        return self.pictures + self.pieces

    def reading(self, name: str, done: int, total: int) -> None:
        self.pictures = total
        self._report(name, done)

    def exporting(self, name: str, done: int, _: int) -> None:
        self._report(f"exporting {name}", self.pictures + done)

    def observing(self, picture: str, done: int, _: int) -> None:
        self._report(f"observing {picture}", self._exported + self.depths * done)

    def measuring(self, picture: str, done: int) -> None:
        observed = self._exported + self.depths * self.pictures
        self._report(f"measuring stages with {picture}", observed + done)

    def done(self) -> None:
        self._report("done", self.total)

    def _report(self, name: str, done: int) -> None:
        if self.progress is not None:
            self.progress(name, done, self.total)


def _check_numbers(
    method: Method, percentile: float, *, probe: int, batch: int, threads: int | None
) -> None:
    choose_range(Histogram(), method, percentile)  # refuses what it does not know
    if probe < 0:
        raise UsageError(f"{probe} probe pictures: expected at least 0")
    if batch < 1:
        raise UsageError(f"batch is {batch}: expected at least 1 picture per run")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads: expected at least 1")


def _check_out(path: Path) -> None:
    """Refuse to replace anything but a range table, and places that cannot be written."""
    if path.is_dir():
        raise CalibrationError(f"{path} is a folder: name the file of the range table with --out")
    if path.exists() and not _is_table(path):
        raise CalibrationError(
            f"{path} exists and is not a range table: remove it, or choose another --out"
        )
    try_to_write(path, "range table", CalibrationError)


def _is_table(path: Path) -> bool:
    """Whether a file says that it is a range table, of whatever version."""
    try:
        content = json.loads(read_regular(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _depths(stages: Sequence[Stage], table: DepthTable, text: str) -> list[Depth]:
    """The ladder, what else was asked for, and what else every variant needs."""
    chosen = list(dict.fromkeys([*table.ladder, *table.select(text)]))
    return [*chosen, *covering_depths(stages, table, chosen)]


def _versions() -> dict[str, str]:
    """What decides, besides the weights, which values are seen."""
    import onnx
    import onnx_ir
    import onnxscript
    import PIL
    import torch

    modules: list[Any] = [onnx, onnx_ir, onnxscript, import_onnxruntime(), PIL, np, torch]
    return {
        "anydepth-deploy": __version__,
        **{module.__name__: str(module.__version__) for module in modules},
    }


def _identity(**parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _measure(
    ranges: RangeTable,
    pieces: Pieces,
    depths: Sequence[Depth],
    pictures: Pictures,
    probe: int,
    reading: Callable[[Path], NDArray[np.float32]],
    threads: int | None,
    steps: _Steps,
) -> RangeTable:
    """The table with the errors of whole stages, over pictures spread evenly over all."""
    chosen = [pictures.paths[index] for index in _spread(len(pictures.paths), probe)]

    found = []
    for first in range(0, len(depths), AT_ONCE):
        part = depths[first : first + AT_ONCE]

        def batches(begun: int = first, count: int = len(part)) -> Iterator[NDArray[np.float32]]:
            for done, path in enumerate(chosen):
                steps.measuring(path.name, begun * len(chosen) + count * done)
                yield reading(path)

        found += stage_errors(pieces, ranges, part, batches(), threads=threads)
    return ranges.model_copy(update={"stages": found})


def _spread(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``range(total)``, evenly spread."""
    number = min(wanted, total)
    return [index * total // number for index in range(number)]

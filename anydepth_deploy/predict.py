"""``predict``: pictures in, boxes drawn on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.rows import detection_rows
from anydepth_deploy.detector.sources import Skipped
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import ImageError, UsageError
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.draw import draw_detections, enlargement
from anydepth_deploy.pictures.drawings import DRAWING, without_drawings, write_drawing
from anydepth_deploy.pictures.folders import SUFFIXES, contents_of
from anydepth_deploy.pictures.images import load_image, prepare
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress

__all__ = ["Prediction", "Skipped", "predict"]


@dataclass(frozen=True)
class Prediction:
    """Detections of one picture, in its own pixels, and where they were drawn: empty where they
    were not."""

    image: str
    depth: str
    drawn: str
    detections: list[dict[str, Any]] = field(default_factory=list)


@usual_arithmetic()
def predict(
    bundle: Bundle,
    source: str | Path,
    depth: str = "super",
    *,
    threshold: float = 0.5,
    out: str | Path | None = None,
    layout: str | None = None,
    weights: str | None = None,
    precision: str = "fp32",
    runtime: str = "onnxruntime",
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
    skipped: list[Skipped] | None = None,
    draw: bool = True,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Detect objects of at least ``threshold`` in a picture, or in all pictures of a folder.

    ``out``: the picture to write, or a folder, which a folder of pictures needs; what has no
    suffix or ends with a slash is a folder. By default the drawing of one picture is
    ``NAME.pred.png`` in the working folder, or ``NAME-2.pred.png`` where that is there; drawings
    where ``out`` says are replaced. Earlier drawings (``*.pred.png``) in a folder of pictures are
    skipped. Without ``draw`` nothing is written. ``layout``, ``weights`` and ``precision`` choose
    the artifacts as in :meth:`Bundle.session`. ``orientation``: which way up pictures are read;
    boxes are in pixels of the picture as it is read. ``max_pixels``: of a picture, and of what
    resizing it takes; one beyond it cannot be used. ``skipped``: where given, pictures of a folder
    that cannot be used are added to it and the others go on; without it the first ends the run.

    Raises :class:`ImageError`, :class:`UsageError` when drawings cannot go where they should or
    would replace a picture that is read, or have a place without ``draw``, and what sessions raise.
    """
    if not draw and out is not None:
        raise UsageError(f"--out {out} is where drawings go: leave it out, or --no-draw")
    chosen = bundle.table.find(depth)
    contents = contents_of(source, partial=skipped is not None)
    if skipped is not None:
        skipped += [Skipped(str(folder), error) for folder, error in contents.closed]
    paths = contents.pictures
    if Path(source).is_dir():
        paths = without_drawings(Path(source), paths)
    targets: Sequence[Path | None] = [None] * len(paths)
    if draw:
        drawings = _targets(paths, Path(source), out)
        for drawing in drawings[:1]:  # all are in one folder
            try_to_write(drawing, "picture", ImageError)
        targets = drawings
    session = bundle.session(runtime=runtime, artifact=layout, precision=precision, weights=weights)
    recipe = bundle.manifest.preprocess
    found = []
    for index, (path, target) in enumerate(zip(paths, targets, strict=True)):
        if progress is not None:
            progress(path.name, index, len(paths))
        try:
            picture = load_image(
                path, upright=orientation == "upright", max_pixels=max_pixels, recipe=recipe
            )
            prepared, geometry = prepare(picture, recipe, max_pixels=max_pixels)
        except ImageError as error:
            if skipped is None or not Path(source).is_dir():
                raise
            skipped.append(Skipped(str(path), str(error)))
            continue
        inputs = session.run(session.padded(prepared[None]), chosen).image(0, threshold)
        boxes = geometry.to_picture(inputs.boxes)
        detections = Detections(inputs.labels, boxes, inputs.scores)
        # Before anything is written: labels may have no name.
        rows = detection_rows(detections, bundle.class_name)
        drawn = ""
        if target is not None:
            image = draw_detections(
                picture, detections, bundle.classes, enlarge=enlargement(picture)
            )
            drawn = str(write_drawing(image, target, replace=out is not None))
        found.append(Prediction(str(path), str(chosen), drawn, rows))
    return found


def _targets(paths: list[Path], source: Path, out: str | Path | None) -> list[Path]:
    """Where the drawing of each of ``paths`` goes; never over one of them."""
    folder = _folder(source, out)
    if folder is None:
        targets = [Path(f"{source.stem}{DRAWING}") if out is None else Path(out)]
    else:
        names = [f"{path.stem}{DRAWING}" for path in paths]
        if len(set(names)) < len(names):  # the same name in two subfolders
            names = [f"{index:06d}-{name}" for index, name in enumerate(names)]
        targets = [folder / name for name in names]
    sources = {path.resolve() for path in paths}
    for target in targets:
        if target.resolve() in sources:
            raise UsageError(
                f"the drawing {target} would replace a picture that is read: choose another --out"
            )
    return targets


def _folder(source: Path, out: str | Path | None) -> Path | None:
    """The folder that ``out`` means, or None where it is the one picture to write."""
    several = source.is_dir()
    if out is None:
        if several:
            raise UsageError(
                f"{source} is a folder of pictures: give --out FOLDER for drawings, or --no-draw"
            )
        return None
    path = Path(out)
    if path.is_dir():
        return path
    suffix = "" if str(out).endswith(("/", os.sep)) else path.suffix.lower()
    pictures = f"a picture ({', '.join(sorted(SUFFIXES))})"
    if several and (path.is_file() or suffix in SUFFIXES):
        raise UsageError(
            f"--out {out} is a file, but {source} is a folder of pictures: give a folder"
        )
    if several:
        return path
    if suffix in SUFFIXES:
        return None
    if path.is_file():
        raise UsageError(f"--out {out} is a file: expected a folder, or {pictures}")
    if suffix:
        raise UsageError(
            f"--out {out} has the suffix {path.suffix}: expected a folder, or {pictures}"
        )
    return path

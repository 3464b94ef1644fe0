"""``predict``: pictures in, boxes drawn on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle import Bundle
from anydepth_deploy.detections import Detections
from anydepth_deploy.draw import draw_detections
from anydepth_deploy.errors import ImageError, UsageError
from anydepth_deploy.images import find_images, load_image, prepare

__all__ = ["Prediction", "predict"]

SMALLEST_DRAWING = 640
"""Small pictures are enlarged to about this many pixels before captions are put on them."""


@dataclass(frozen=True)
class Prediction:
    """Detections of one picture, in its own pixels, and where they were drawn."""

    image: str
    depth: str
    drawn: str
    detections: list[dict[str, Any]] = field(default_factory=list)


def predict(
    bundle: Bundle,
    source: str | Path,
    depth: str = "super",
    *,
    threshold: float = 0.5,
    out: str | Path | None = None,
    layout: str | None = None,
    runtime: str = "onnxruntime",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Prediction]:
    """Detect objects of at least ``threshold`` in a picture, or in all pictures of a folder.

    ``out``: the picture to write, or a folder when there are several; by default
    ``NAME.pred.png`` in the working folder. Raises :class:`ImageError` and what sessions raise.
    """
    chosen = bundle.table.find(depth)
    paths = find_images(source)
    targets = _targets(paths, None if out is None else Path(out))
    session = bundle.session(runtime=runtime, artifact=layout)
    found = []
    for index, (path, target) in enumerate(zip(paths, targets, strict=True)):
        if progress is not None:
            progress(path.name, index, len(paths))
        picture = load_image(path, upright=True)
        prepared, geometry = prepare(picture, bundle.manifest.preprocess)
        inputs = session.run(prepared[None], chosen).image(0, threshold)
        boxes = geometry.to_picture(inputs.boxes)
        detections = Detections(inputs.labels, boxes, inputs.scores)
        enlarge = max(1, SMALLEST_DRAWING // max(picture.shape[:2]))
        drawing = draw_detections(picture, detections, bundle.classes, enlarge=enlarge)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            drawing.save(target)
        except (OSError, ValueError) as error:
            raise ImageError(f"picture {target} cannot be written: {error}") from None
        found.append(
            Prediction(str(path), str(chosen), str(target), _rows(detections, bundle.classes))
        )
    return found


def _targets(paths: list[Path], out: Path | None) -> list[Path]:
    if len(paths) == 1 and out is not None and not out.is_dir():
        return [out]
    if out is not None and out.is_file():
        raise UsageError(
            f"--out {out} is a file, but there are {len(paths)} pictures: give a folder"
        )
    folder = out if out is not None else Path()
    names = [f"{path.stem}.pred.png" for path in paths]
    if len(set(names)) < len(names):  # the same name in two subfolders
        names = [f"{index:06d}-{name}" for index, name in enumerate(names)]
    return [folder / name for name in names]


def _rows(found: Detections, classes: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "class": classes[int(label)],
            "label": int(label),
            "score": round(float(score), 6),
            "box": [round(float(side), 3) for side in box],
        }
        for label, box, score in zip(found.labels[0], found.boxes[0], found.scores[0], strict=True)
    ]

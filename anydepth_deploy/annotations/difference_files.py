"""The pictures on which two depths differ most, drawn, with a JSON document beside them.

``differences.json`` is read back for reports: it comes from a folder, and is checked like any other
file of others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from anydepth_deploy.annotations.differences import IOU, THRESHOLD, Difference, difference
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.documents import Document, write_or_refuse
from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.draw import draw_detections, enlargement
from anydepth_deploy.pictures.drawings import DRAWING, write_drawing

__all__ = [
    "DIFFERENCES",
    "Differences",
    "DifferentPicture",
    "DrawnBox",
    "read_differences",
    "save_differences",
]

DIFFERENCES = "differences.json"
GREY = (200, 200, 200)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class DrawnBox(_Model):
    """``box``: left, top, right, bottom in pixels of the picture. ``matched``: whether the other
    depth has it, too."""

    name: str = Field(alias="class")
    score: float
    box: tuple[float, float, float, float]
    matched: bool


class DifferentPicture(_Model):
    """``boxes`` and ``files`` (beside the document): of the two depths, in their order."""

    picture: str
    image_id: int
    difference: float
    boxes: tuple[list[DrawnBox], list[DrawnBox]]
    files: tuple[
        Annotated[str, Field(pattern=r"^[0-9]+-[A-Za-z0-9-]+\.pred\.png$")],
        Annotated[str, Field(pattern=r"^[0-9]+-[A-Za-z0-9-]+\.pred\.png$")],
    ]


class Differences(_Model):
    """What :func:`save_differences` leaves; the most different picture first."""

    format: Literal["anydepth-deploy differences"] = "anydepth-deploy differences"
    version: Literal[1] = 1
    schema_version: Literal[1] = 1
    data: str
    precision: str
    depths: tuple[str, str]
    iou: float = IOU
    threshold: float = THRESHOLD
    compared: int
    """Pictures that were looked at."""
    differing: int
    """Of them, those whose difference is not 0."""
    pictures: list[DifferentPicture]


_DOCUMENT = Document(
    Differences,
    "differences",
    ImageError,
    missing="{path} does not exist: 'anydepth-deploy eval --save-differences DIR' writes one",
    remedy="run eval --save-differences again",
    other_version="run eval --save-differences again",
    format="anydepth-deploy differences",
)


def read_differences(folder: str | Path) -> Differences:
    """Read what :func:`save_differences` left in ``folder``. Raises :class:`ImageError`."""
    return _DOCUMENT.read(Path(folder) / DIFFERENCES)


class Pictures(Protocol):
    """Annotated pictures, see :class:`anydepth_deploy.evaluation.CocoData`."""

    path: Path
    images: list[dict[str, Any]]

    def load(self, item: dict[str, Any]) -> NDArray[np.uint8]: ...


def save_differences(
    folder: Path,
    data: Pictures,
    found: Mapping[Depth, Sequence[NDArray[np.float64]]],
    depths: tuple[Depth, Depth],
    names: Mapping[int, str],
    *,
    precision: str,
    most: int,
) -> Differences:
    """Draw the ``most`` pictures on which ``depths`` differ most (see :func:`difference`) into
    ``folder``, one drawing a depth, and write :data:`DIFFERENCES`.

    ``found``: of each depth an array a picture in the order of ``data.images``, [K, 7] of image id,
    x, y, width, height, score, category id. ``names``: of categories, by id. Boxes that the other
    depth has are grey and thin. Pictures without a difference are left out. Drawings that an
    earlier document there named and this one does not are removed. Raises
    :class:`ImageError` where a picture cannot be read or a file not be written.
    """
    before = _files_of(folder)
    # Cut short, drawings of this run would lie beside what was said of those before.
    with contextlib.suppress(OSError):
        (folder / DIFFERENCES).unlink()
    pairs = zip(found[depths[0]], found[depths[1]], strict=True)
    every = [difference(first, second) for first, second in pairs]
    order = sorted(range(len(every)), key=lambda place: -every[place].weight)
    chosen = [place for place in order[:most] if every[place].weight > 0]
    digits = max(2, len(str(len(chosen))))
    classes = [*names]
    told = []
    for rank, place in enumerate(chosen, 1):
        item, one = data.images[place], every[place]
        pixels = data.load(item)
        files = []
        for depth, rows, matched in _sides(depths, one):
            path = folder / f"{rank:0{digits}}-{depth}{DRAWING}"
            write_drawing(_drawn(pixels, rows, matched, classes, names), path, replace=True)
            files.append(path.name)
        told.append(
            DifferentPicture(
                picture=str(item["file_name"]),
                image_id=int(item["id"]),
                difference=round(one.weight, 4),
                boxes=(
                    _boxes(one.first, one.matched_first, names),
                    _boxes(one.second, one.matched_second, names),
                ),
                files=(files[0], files[1]),
            )
        )
    document = Differences(
        data=data.path.name,
        precision=precision,
        depths=(str(depths[0]), str(depths[1])),
        compared=len(every),
        differing=sum(one.weight > 0 for one in every),
        pictures=told,
    )
    content = (document.model_dump_json(indent=1, by_alias=True) + "\n").encode()
    write_or_refuse(
        folder / DIFFERENCES, lambda file: file.write(content), "differences", ImageError
    )
    for name in before - _files_of(folder):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    return document


def _files_of(folder: Path) -> set[str]:
    """The drawings that the document in ``folder`` names; none where there is no sound one."""
    try:
        return {name for picture in read_differences(folder).pictures for name in picture.files}
    except ImageError:
        return set()


def _sides(
    depths: tuple[Depth, Depth], one: Difference
) -> list[tuple[Depth, NDArray[np.float64], NDArray[np.bool_]]]:
    return [
        (depths[0], one.first, one.matched_first),
        (depths[1], one.second, one.matched_second),
    ]


def _drawn(
    pixels: NDArray[np.uint8],
    rows: NDArray[np.float64],
    matched: NDArray[np.bool_],
    classes: Sequence[int],
    names: Mapping[int, str],
) -> Image.Image:
    """The picture with what only this depth finds in colours, over what both find in grey."""
    times = enlargement(pixels)
    image = Image.fromarray(pixels)
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    corners = _corners(rows) * times
    for x1, y1, x2, y2 in corners[matched].tolist():
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black")
        draw.rectangle((x1, y1, x2, y2), outline=GREY)
    alone = ~matched
    own = Detections(
        np.array([classes.index(int(key)) for key in rows[alone, 6]], np.int64)[None],
        corners[alone].astype(np.float32)[None],
        rows[alone, 5].astype(np.float32)[None],
    )
    return draw_detections(np.asarray(image), own, [names[key] for key in classes])


def _boxes(
    rows: NDArray[np.float64], matched: NDArray[np.bool_], names: Mapping[int, str]
) -> list[DrawnBox]:
    return [
        DrawnBox.model_validate(
            {
                "class": names[int(row[6])],
                "score": round(float(row[5]), 4),
                "box": [round(value, 2) for value in box],
                "matched": bool(pair),
            }
        )
        for row, box, pair in zip(rows, _corners(rows).tolist(), matched, strict=True)
    ]


def _corners(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K, 4]: left, top, right, bottom."""
    return np.column_stack(
        [rows[:, 1], rows[:, 2], rows[:, 1] + rows[:, 3], rows[:, 2] + rows[:, 4]]
    )

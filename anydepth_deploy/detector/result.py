"""What was found in one picture, in its own pixels."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.annotations.categories import match_classes
from anydepth_deploy.annotations.coco import read_coco
from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.items import Picture, Reading
from anydepth_deploy.detector.named import labels_of
from anydepth_deploy.detector.rows import coco_results, detection_rows
from anydepth_deploy.errors import ImageError, MissingExtraError, UsageError, shorten, shown
from anydepth_deploy.pictures.draw import draw_detections, enlargement
from anydepth_deploy.pictures.drawings import write_drawing
from anydepth_deploy.pictures.fonts import check_font
from anydepth_deploy.pictures.formats import SUFFIXES
from anydepth_deploy.pictures.png import save_png

__all__ = ["Found", "Result"]


class Found(NamedTuple):
    """One detection: ``box`` float32 [4] (x1, y1, x2, y2 in the picture's pixels), ``score`` 0..1,
    ``label`` and its ``name``."""

    box: NDArray[np.float32]
    score: float
    label: int
    name: str


def check_threshold(value: object) -> None:
    """Raise :class:`UsageError` for what is no score."""
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise UsageError(f"threshold is {value!r}: expected a score from 0 to 1")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The detections of one picture, best first; nothing of it changes.

    ``boxes`` float32 [K, 4] (x1, y1, x2, y2 in pixels of the picture, upright as its EXIF data say,
    clipped to it), ``scores`` float32 [K] in 0..1, ``labels`` int64 [K]: the arrays are read only.
    ``class_names``: of all classes, by label. ``depth``: that was run. ``size``: height and width
    of the picture. ``path``: of its file or its address; None of what came from memory. Frames of
    videos have a path with their number (``clip.mp4#12``), a ``frame`` and a ``time``.

    ``len(result)`` is K, iteration gives a :class:`Found` for each, ``result[3]`` one of them, and
    ``result[mask]``, with booleans [K], indices or a slice, a result of those.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    depth: str
    size: tuple[int, int]
    picture: Picture = field(repr=False)
    reading: Reading = field(repr=False)

    def __post_init__(self) -> None:
        for array in (self.boxes, self.scores, self.labels):
            array.flags.writeable = False

    def __repr__(self) -> str:
        counts = Counter(self.names)
        found = shorten(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        where = "" if self.path is None else f" {shown(self.path)}"
        height, width = self.size
        return f"<Result{where} {width}x{height} pixels at {self.depth}: {found}>"

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Found]:
        return (self[place] for place in range(len(self)))

    @overload
    def __getitem__(self, chosen: int) -> Found: ...

    @overload
    def __getitem__(self, chosen: slice | Sequence[Any] | NDArray[Any]) -> Result: ...

    def __getitem__(self, chosen: int | slice | Sequence[Any] | NDArray[Any]) -> Found | Result:
        """Raises :class:`IndexError` for places that are not there."""
        if isinstance(chosen, int | np.integer) and not isinstance(chosen, bool):
            label = int(self.labels[chosen])
            score = float(self.scores[chosen])
            return Found(self.boxes[chosen], score, label, self.class_names[label])
        places = chosen if isinstance(chosen, slice) else np.asarray(chosen)
        if not isinstance(places, slice) and not places.size and places.dtype == np.float64:
            places = places.astype(np.intp)  # an empty list
        return replace(
            self,
            boxes=self.boxes[places].copy(),
            scores=self.scores[places].copy(),
            labels=self.labels[places].copy(),
        )

    @property
    def names(self) -> list[str]:
        """The class of each detection."""
        return [self.class_names[label] for label in self.labels]

    @property
    def path(self) -> str | None:
        """As the picture was named; None where it came from memory."""
        return self.picture.path

    @property
    def frame(self) -> int | None:
        """The number of the frame in its video, from 0; None of what is no frame."""
        return self.picture.frame

    @property
    def time(self) -> float | None:
        """Seconds from the first frame of its video to this one; None of what is no frame."""
        return self.picture.time

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture, RGB uint8 [H, W, 3], an array of the caller's own.

        A file is read again each time, so that results keep no pixels, and so is the frame of a
        video once the next result was asked for; what came from elsewhere is kept. Raises
        :class:`ImageError` where the file is gone, or another one by now.
        """
        found = self.picture.pixels(self.reading)
        if found.shape[:2] != self.size:
            raise ImageError(
                f"picture {self.path} has changed since it was looked at: it was {self.size[1]} x "
                f"{self.size[0]} pixels, now it is {found.shape[1]} x {found.shape[0]}"
            )
        return np.array(found)

    def filter(
        self, threshold: float | None = None, names: str | Iterable[str] | None = None
    ) -> Result:
        """The detections of at least ``threshold``, and of the classes ``names``.

        Raises :class:`UsageError` for a class that the network does not have, and for what is no
        score.
        """
        kept = np.ones(len(self), bool)
        if threshold is not None:
            check_threshold(threshold)
            kept &= self.scores >= threshold
        if names is not None:
            wanted = [names] if isinstance(names, str) else list(names)
            kept &= np.isin(self.labels, labels_of(wanted, self.class_names))
        return self[kept]

    def of_labels(self, labels: Sequence[int]) -> Result:
        """The detections of these classes."""
        return self[np.isin(self.labels, labels)]

    def plot(self, *, font: str | Path | None = None) -> Image.Image:
        """The picture with boxes, names and scores on it, as ``predict`` draws it: small pictures
        are enlarged. ``font``: the file of a font that has the letters of the names; by default one
        is looked for. Raises as :attr:`image` does, and :class:`UsageError` for what is no font."""
        check_font(font)
        picture = self.image
        return draw_detections(
            picture,
            self._detections(),
            self.class_names,
            enlarge=enlargement(picture),
            font=None if font is None else str(font),
        )

    def save(self, path: str | Path, *, font: str | Path | None = None) -> Path:
        """Write :meth:`plot` into the picture ``path``, whole or not at all; returns its path.

        What is there is replaced, but for the picture itself. Raises :class:`UsageError` for that
        and for a name that is no picture's, and :class:`ImageError` where it cannot be written.
        """
        target = Path(path)
        if target.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"a drawing cannot be written as {target}: expected a name that ends in "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        if self.path is not None and target.resolve() == Path(self.path).resolve():
            raise UsageError(
                f"the drawing {target} would replace the picture itself: choose another name"
            )
        return write_drawing(self.plot(font=font), target, replace=True)

    def show(self) -> None:
        """Show :meth:`plot` in the viewer of this machine; in a notebook, name the result alone."""
        self.plot().show()

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        file = io.BytesIO()
        save_png(self.plot(), file)
        return file.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the fields that ``predict --json`` prints of a picture."""
        return {
            "image": self.path,
            "frame": self.frame,
            "time": None if self.time is None else round(self.time, 6),
            "depth": self.depth,
            "drawn": None,
            "detections": detection_rows(self._detections(), self.class_names.__getitem__),
        }

    def to_coco(
        self,
        image_id: int,
        categories: str | Path | Sequence[int] | Mapping[str, int] | None = None,
    ) -> list[dict[str, Any]]:
        """COCO's results of this picture: objects of ``image_id``, ``category_id``, ``bbox`` (x, y,
        width, height) and ``score``.

        ``categories``: whose ids are used: an annotation file, to whose categories classes are
        matched by name, as ``eval`` does; or the id of each class, in their order or by name. By
        default classes are counted from 1. Raises :class:`ImageError` for a file whose categories
        are not the network's, and :class:`UsageError` for a class without an id.
        """
        return coco_results(image_id, self._detections(), self._category_ids(categories))

    def to_supervision(self) -> Any:
        """``supervision.Detections``, with the names as ``data["class_name"]``.

        Raises :class:`MissingExtraError` where that package is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            raise MissingExtraError("supervision", None, "to_supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def _detections(self) -> Detections:
        return Detections(self.labels[None], self.boxes[None], self.scores[None])

    def _category_ids(
        self, categories: str | Path | Sequence[int] | Mapping[str, int] | None
    ) -> Sequence[int]:
        """The id of each class."""
        if categories is None:
            return range(1, len(self.class_names) + 1)
        if isinstance(categories, str | Path):
            path = Path(categories)
            return match_classes(path, read_coco(path), self.class_names).ids
        if isinstance(categories, Mapping):
            missing = [name for name in self.class_names if name not in categories]
            if missing:
                raise UsageError(f"categories name no id of {shorten(missing)}: give one for each")
            return [categories[name] for name in self.class_names]
        if len(categories) != len(self.class_names):
            raise UsageError(
                f"{len(categories)} category ids for {len(self.class_names)} classes: expected one "
                "for each"
            )
        return categories

"""From sources to predictions, with drawings on the way.

Pictures are read ahead of the network, and drawings written behind it, in threads; predictions come
in the order of the sources.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.depth import Depth
from anydepth_deploy.detector.ahead import mapped
from anydepth_deploy.detector.detector import Detector
from anydepth_deploy.detector.frames import AnyItem, VideoItem, is_live
from anydepth_deploy.detector.items import FilePicture, UrlPicture
from anydepth_deploy.detector.named import labels_of
from anydepth_deploy.detector.result import Result
from anydepth_deploy.detector.sources import Skipped, Skips, items_of
from anydepth_deploy.detector.urls import TIMEOUT
from anydepth_deploy.documents import try_to_write
from anydepth_deploy.errors import AnyDepthError, ImageError, UsageError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.fonts import check_font
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.predict.drawing import Drawings, source_name
from anydepth_deploy.predict.targets import places_of
from anydepth_deploy.progress import Progress

__all__ = ["Options", "Prediction", "Run", "Skipped", "predict"]

AHEAD = 4
"""Pictures that are read ahead of the network."""

BEHIND = 4
"""Results that wait for their drawings, at most."""


@dataclass(frozen=True)
class Prediction:
    """Detections of one picture at one depth, in its own pixels, and where they were drawn: empty
    where they were not. ``frame`` and ``time`` (seconds): of a frame of a video, whose ``source``
    is the video. ``size``: height and width of the picture."""

    image: str
    depth: str
    drawn: str
    detections: list[dict[str, Any]] = field(default_factory=list)
    frame: int | None = None
    time: float | None = None
    source: str = ""
    size: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """What ``predict --json`` prints of it."""
        return {
            "image": self.image,
            "frame": self.frame,
            "time": self.time,
            "depth": self.depth,
            "drawn": self.drawn or None,
            "detections": self.detections,
        }


@dataclass(frozen=True)
class Options:
    """``threshold``: lowest score. ``only``: names of classes; None for all. ``out``, ``draw``: see
    :func:`predict`. ``label``: whether label files go beside drawings. ``font``: a file, for
    captions. ``layout`` to ``threads``: as for :meth:`Bundle.session`. ``orientation``,
    ``max_pixels``, ``timeout``: as for :func:`anydepth_deploy.load`."""

    threshold: float = 0.5
    only: Sequence[str] | None = None
    batch: int = 1
    out: str | Path | None = None
    draw: bool = True
    label: bool = False
    font: str | Path | None = None
    layout: str | None = None
    weights: str | None = None
    precision: str = "fp32"
    runtime: str = "onnxruntime"
    threads: int | None = None
    orientation: Orientation = "upright"
    max_pixels: int = MAX_PIXELS
    timeout: float = TIMEOUT


class Run:
    """Everything of ``sources`` at every one of ``depths``, which are drawn side by side where they
    are several. What is wrong with words and places is refused here, before a session is opened.

    ``skipped``: takes what cannot be used of folders, patterns and several sources, and videos that
    end early; without it the first of these ends the run. ``notes``: what its reader has to know.
    """

    def __init__(
        self,
        bundle: Bundle,
        sources: Sequence[str | Path],
        depths: Sequence[str],
        options: Options,
        skipped: list[Skipped] | None = None,
    ) -> None:
        self.bundle = bundle
        self.options = options
        self.depths = [bundle.table.find(depth) for depth in depths]
        self.notes: list[str] = []
        self.count = 0
        """Pictures and frames so far."""
        self.seconds = 0.0
        """Since the first of them was read."""
        self._strict = skipped is None
        self._skipped: list[Skipped] = [] if skipped is None else skipped
        self._titles = _titles(depths, self.depths)
        if options.only is not None:
            self._labels = labels_of(options.only, bundle.classes)
        check_font(options.font)
        words = [str(source) for source in sources]
        self.items = self._found(words)
        self.places = places_of(
            self.items, words, options.out, draw=options.draw, label=options.label
        )
        for place in list(self.places.drawings.values())[:1]:  # all are in one folder
            video = isinstance(self.items[0], VideoItem)
            try_to_write(place, "video" if video else "picture", ImageError)

    def _found(self, sources: Sequence[str]) -> list[AnyItem]:
        items: dict[str, AnyItem] = {}
        again = []
        for source in sources:
            for item in items_of(source, Skips(self._skipped)):
                if len(sources) > 1 and isinstance(item, FilePicture | UrlPicture):
                    item = type(item)(item.name, found=True)
                elif len(sources) > 1 and isinstance(item, VideoItem):
                    item = VideoItem(item.source, found=True)
                if item.name in items:
                    again.append(item.name)
                items.setdefault(item.name, item)
            if self._strict and self._skipped:
                raise ImageError(f"{self._skipped[0].error}; let it be read, or move it elsewhere")
        if again:
            given = "is given" if len(again) == 1 else "are given"
            self.notes.append(f"{shorten(again, 3)} {given} more than once: looked at once")
        return list(items.values())

    @property
    def total(self) -> int | None:
        """Pictures, where their number is known."""
        videos = any(isinstance(item, VideoItem) for item in self.items)
        return None if videos else len(self.items)

    @property
    def live(self) -> bool:
        """Whether it goes on until somebody ends it."""
        return any(map(is_live, self.items))

    def predictions(
        self, progress: Progress | None = None, *, detector: Detector | None = None
    ) -> Iterator[Prediction]:
        """One for each picture or frame and depth, as soon as its drawing is written.

        ``progress``: told each picture, how many were done, and how many there are (0 where nobody
        knows). However it ends, a video that is being drawn holds what came before.

        Raises :class:`ImageError` for what was named and cannot be used, and what sessions raise.
        """
        options = self.options
        detector = detector or self._detector()
        font = None if options.font is None else str(options.font)
        drawings = Drawings(self.places, self._titles, font)
        begin = time.monotonic()
        rows = detector.compare(
            self.items,
            self.depths,
            options.threshold,
            options.batch,
            ahead=AHEAD,
            skipped=self._skipped,
        )
        behind = BEHIND if self.places.drawings else 0
        written = mapped(lambda given: self._written(drawings, *given), self._checked(rows), behind)
        kept = True
        try:
            with contextlib.closing(written):  # type: ignore[type-var]  # a generator
                for row in written:
                    if progress is not None:
                        progress(Path(row[0].image).name, self.count, self._expected)
                    self.count += 1
                    self.seconds = time.monotonic() - begin
                    yield from row
        except Exception as error:
            kept = isinstance(error, AnyDepthError)
            raise
        finally:
            if kept:
                drawings.finish()
            drawings.close()
            self.seconds = time.monotonic() - begin

    _expected = 0

    def _detector(self) -> Detector:
        options = self.options
        session = self.bundle.session(
            runtime=options.runtime,
            artifact=options.layout,
            precision=options.precision,
            weights=options.weights,
            threads=options.threads,
        )
        return Detector(
            self.bundle,
            session,
            orientation=options.orientation,
            max_pixels=options.max_pixels,
            timeout=options.timeout,
        )

    def _checked(
        self, rows: Iterator[tuple[Result, ...]]
    ) -> Iterator[tuple[tuple[Result, ...], Any]]:
        """Results, and the pixels that they are drawn on."""
        with contextlib.closing(rows):  # type: ignore[type-var]  # a generator
            for row in rows:
                if self._strict and self._skipped:
                    raise ImageError(self._skipped[0].error)
                if self.options.only is not None:
                    row = tuple(result.of_labels(self._labels) for result in row)
                # Of a video, while it is there.
                yield row, row[0].image if self.places.drawings else None
        if self._strict and self._skipped:
            raise ImageError(self._skipped[0].error)

    def _written(
        self, drawings: Drawings, row: tuple[Result, ...], pixels: Any
    ) -> list[Prediction]:
        drawn = drawings.add(row, pixels) if pixels is not None else ""
        expected = getattr(row[0].picture, "expected", None) if len(self.items) == 1 else None
        self._expected = self.total or expected or 0
        name = source_name(row[0])
        return [
            Prediction(
                image=str(content["image"]),
                depth=result.depth,
                drawn=drawn,
                detections=content["detections"],
                frame=result.frame,
                time=content["time"],
                source=name,
                size=result.size,
            )
            for result in row
            for content in [result.to_json()]
        ]


def _titles(words: Sequence[str], depths: Sequence[Depth]) -> list[str]:
    """``base (TTTT-T-3)``."""
    return [
        word if word == str(depth) else f"{word} ({depth})"
        for word, depth in zip(words, depths, strict=True)
    ]


def predict(
    bundle: Bundle,
    source: str | Path | Sequence[str | Path],
    depth: str = "super",
    *,
    skipped: list[Skipped] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Prediction]:
    """Detect objects in a picture, in all pictures of a folder, in a video, or in several of these.

    ``options``: fields of :class:`Options`. ``out``: the picture or video to write, or a folder,
    which several need; what has no suffix or ends with a slash is a folder. By default the drawing
    of one picture is ``NAME.pred.png`` in the working folder, or ``NAME-2.pred.png`` where that is
    there (of a video ``NAME.pred.mp4``); drawings where ``out`` says are replaced. Earlier drawings
    (``*.pred.png``) in a folder of pictures are skipped. Without ``draw`` nothing is written.
    ``skipped`` and ``progress``: as for :class:`Run`.

    Raises :class:`ImageError`, :class:`UsageError` when drawings cannot go where they should or
    would replace a picture that is read, or have a place without ``draw``, and what sessions raise.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    if not sources:
        raise UsageError("no source is given: expected a picture, a folder, a video or several")
    run = Run(bundle, sources, [depth], Options(**options), skipped)
    return list(run.predictions(progress))

"""Drawings of results: a picture for each picture, a video for each video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.result import Result
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.pictures.draw import draw_detections, enlargement, side_by_side
from anydepth_deploy.pictures.drawings import write_drawing
from anydepth_deploy.predict.targets import Places
from anydepth_deploy.videos.writer import VideoWriter

__all__ = ["Drawings", "source_name"]

MOST_NAMES = 10_000


def source_name(result: Result) -> str:
    """What the source of a result is called: of a frame its video."""
    video = getattr(result.picture, "video", None)
    return str(result.path) if video is None else str(video.name)


class Drawings:
    """Draws results one after the other. ``titles``: over each depth, where several are side by
    side. One video is open at a time: :meth:`add` ends it with the first picture of another source,
    :meth:`finish` in the end."""

    def __init__(self, places: Places, titles: Sequence[str], font: str | None) -> None:
        self._places = places
        self._titles = titles
        self._font = font
        self._video: tuple[str, VideoWriter] | None = None

    @usual_arithmetic()
    def add(self, row: Sequence[Result], pixels: Any) -> str:
        """Draw the results of one picture, ``pixels`` uint8 [H, W, 3], at every depth; where they
        are, or empty where nothing is drawn."""
        name = source_name(row[0])
        target = self._places.drawings.get(name)
        if target is None:
            return ""
        if row[0].frame is None:
            self.finish()
            drawing = self._drawn(row, pixels, enlargement(pixels))
            return str(write_drawing(drawing, target, replace=self._places.chosen))
        if self._video is None or self._video[0] != name:
            self.finish()
            if not self._places.chosen:
                target = _free(target)
            self._video = name, VideoWriter(target, getattr(row[0].picture, "rate", None))
        writer = self._video[1]
        writer.add(np.asarray(self._drawn(row, pixels, 1)), row[0].time or 0.0)
        return str(writer.path)

    def _drawn(self, row: Sequence[Result], pixels: Any, times: int) -> Image.Image:
        drawings = [
            draw_detections(
                pixels,
                Detections(result.labels[None], result.boxes[None], result.scores[None]),
                result.class_names,
                enlarge=times,
                font=self._font,
            )
            for result in row
        ]
        return drawings[0] if len(row) == 1 else side_by_side(drawings, self._titles)

    def finish(self) -> None:
        """End the video that is open, if one is: it holds what was drawn so far."""
        if self._video is not None:
            writer, self._video = self._video[1], None
            try:
                writer.finish(replace=self._places.chosen)
            finally:
                writer.close()

    def close(self) -> None:
        """Let go of the video that is open."""
        if self._video is not None:
            self._video[1].close()
            self._video = None


def _free(target: Path) -> Path:
    """A name that nothing has, ``NAME-2.pred.mp4`` where ``NAME.pred.mp4`` is there."""
    stem, dot, suffix = target.name.partition(".pred.")
    names = [target, *(target.with_name(f"{stem}-{n}{dot}{suffix}") for n in range(2, MOST_NAMES))]
    return next((path for path in names if not path.exists()), target)

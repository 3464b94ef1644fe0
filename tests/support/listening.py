"""A detector whose session writes down what it is given, and finds what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from handmade import manifest
from numpy.typing import NDArray
from seeing import blind_bundle

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.detections import Detections
from anydepth_deploy.detector.detector import Detector
from anydepth_deploy.manifest import BatchProfile
from anydepth_deploy.pictures.images import Preprocess

__all__ = ["Finds", "ListeningSession", "listening_detector"]

Finds = Callable[[NDArray[np.float32]], Sequence[tuple[int, float, tuple[float, ...]]]]
"""Of an input [3, H, W] the detections: label, score, and box in pixels of the input."""


def nothing(_: NDArray[np.float32]) -> Sequence[tuple[int, float, tuple[float, ...]]]:
    return ()


class ListeningSession:
    """``calls``: the inputs of each call, and the depths."""

    described = "a listening session"
    ladder = ("TT-1", "FF-1", "FF-2")

    def __init__(self, finds: Finds = nothing, batch: BatchProfile | None = None) -> None:
        self.finds, self.batch = finds, batch
        self.calls: list[tuple[NDArray[np.float32], Any]] = []
        self.closed = False

    @property
    def inputs(self) -> list[NDArray[np.float32]]:
        return [image for images, _ in self.calls for image in images]

    def padded(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        lacking = 0 if self.batch is None else self.batch.smallest - len(images)
        return images if lacking <= 0 else np.concatenate([images, *[images[-1:]] * lacking])

    def run(self, images: NDArray[np.float32], depth: Any) -> Detections:
        self.calls.append((images, depth))
        found = [self.finds(image) for image in images]
        places = max(map(len, found))
        labels = np.full((len(images), places), -1, np.int64)
        scores = np.zeros((len(images), places), np.float32)
        boxes = np.zeros((len(images), places, 4), np.float32)
        for row, items in enumerate(found):
            for place, (label, score, box) in enumerate(items):
                labels[row, place], scores[row, place], boxes[row, place] = label, score, box
        return Detections(labels, boxes, scores)

    def close(self) -> None:
        self.closed = True


def listening_detector(
    folder: Path,
    session: ListeningSession | None = None,
    *,
    recipe: Preprocess | None = None,
    **options: Any,
) -> tuple[Detector, ListeningSession]:
    """A detector of circle, square and star, by default of inputs of 64 x 64; ``options``: of
    :class:`Detector`."""
    bundle = blind_bundle(folder / "blind") if not (folder / "blind").exists() else None
    if bundle is None or recipe is not None:
        changes: dict[str, Any] = {} if recipe is None else {"preprocess": recipe.model_dump()}
        bundle = Bundle(folder / "blind", manifest(**changes))
    session = session or ListeningSession()
    return Detector(bundle, session, **options), session  # type: ignore[arg-type]

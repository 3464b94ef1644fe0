"""How good what a depth finds is: average precision on annotated pictures, or agreement with super.

Each depth is run over the pictures once, whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.annotations.believed import believed, nothing_found
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import ImageError, readable
from anydepth_deploy.evaluation import CocoData, Labelled, score_depths
from anydepth_deploy.manifest import LadderData
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.choice import choose_pictures
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress

__all__ = [
    "FoundBySuper",
    "Scores",
    "average_precision",
    "check_scores",
    "super_agreement",
]

BATCH = 8


class FoundBySuper:
    """Pictures of a folder, and what ``session`` finds in them at super.

    At most ``count`` pictures, drawn by ``seed``. Raises :class:`ImageError` where there is no
    picture, or nothing is found in any.
    """

    def __init__(
        self,
        session: Session,
        recipe: Preprocess,
        classes: int,
        source: Path,
        count: int,
        seed: int,
        *,
        upright: bool = True,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> None:
        chosen = choose_pictures(source, count, seed, max_pixels=max_pixels, progress=progress)
        self.path, self.max_pixels, self._upright = source, max_pixels, upright
        self.paths, self.sha256 = chosen.paths, chosen.sha256
        self.images: list[dict[str, Any]] = [{"id": place} for place in range(len(self.paths))]
        annotations: list[dict[str, Any]] = []
        batch = BATCH if session.batch is None else min(BATCH, session.batch.largest)
        for start in range(0, len(self.images), batch):
            if progress is not None:
                progress("what super finds", start, len(self.images))
            part = self.images[start : start + batch]
            pictures = [self.load(item, recipe) for item in part]
            prepared, geometries = prepare_batch(pictures, recipe, max_pixels=max_pixels)
            found = session.run(session.padded(prepared), "super")
            for item, geometry, place in zip(part, geometries, range(len(part)), strict=True):
                corners = geometry.to_picture(found.boxes[place])
                boxes, labels = believed(found.labels[place], found.scores[place], corners)
                annotations += [
                    {
                        "id": len(annotations) + number + 1,
                        "image_id": item["id"],
                        "category_id": int(label),
                        "bbox": box.tolist(),
                        "area": float(box[2] * box[3]),
                        "iscrowd": 0,
                    }
                    for number, (box, label) in enumerate(zip(boxes, labels, strict=True))
                ]
        if not annotations:
            raise nothing_found(source, len(self.paths))
        self.content: dict[str, Any] = {
            "images": self.images,
            "annotations": annotations,
            "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        }

    def load(self, item: dict[str, Any], recipe: Preprocess | None = None) -> NDArray[np.uint8]:
        """The picture of one of ``images``, uint8 [H, W, 3]. Raises :class:`ImageError`."""
        path = self.paths[item["id"]]
        return load_image(path, upright=self._upright, max_pixels=self.max_pixels, recipe=recipe)


class Scores:
    """Scores of depths in percent, measured when they are first asked for.

    ``kind``: ``ap`` or ``agreement``; ``ids``: the category of each class in ``data``.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        data: Labelled,
        ids: Sequence[int],
        described: LadderData,
        precision: str,
    ) -> None:
        self._bundle, self._session, self._data = bundle, session, data
        self._ids, self._precision = list(ids), precision
        self.described = described
        self.known: dict[Depth, float] = {}

    @property
    def kind(self) -> Literal["ap", "agreement"]:
        return self.described.kind

    def measure(self, depths: Sequence[Depth], progress: Progress | None = None) -> None:
        """Fill in :attr:`known` for ``depths``. Raises what :func:`evaluate` raises."""
        wanted = [depth for depth in dict.fromkeys(depths) if depth not in self.known]
        if wanted:
            rows = score_depths(
                self._bundle,
                self._session,
                self._data,
                self._ids,
                wanted,
                self._precision,
                batch=BATCH,
                progress=progress,
            )
            self.known.update((d, row.ap) for d, row in zip(wanted, rows, strict=True))


def average_precision(
    bundle: Bundle,
    session: Session,
    precision: str,
    data: Path,
    images: Path | None = None,
    *,
    orientation: Orientation | None = None,
    max_pixels: int = MAX_PIXELS,
    by_rank: bool = False,
) -> tuple[Scores, CocoData]:
    """Scores on annotated pictures, as ``eval`` has them. Raises what :class:`CocoData` raises."""
    found = CocoData(data, images, orientation, max_pixels=max_pixels)
    matching = found.mapping(bundle.classes, by_rank=by_rank)
    described = LadderData(
        kind="ap",
        name=readable(data.name),
        sha256=found.sha256,
        pictures=len(found.images),
    )
    return Scores(bundle, session, found, matching.ids, described, precision), found


def super_agreement(
    bundle: Bundle,
    session: Session,
    precision: str,
    images: Path,
    *,
    count: int,
    seed: int = 0,
    orientation: Orientation | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Scores:
    """Scores against what super finds in unlabelled pictures. Raises :class:`ImageError`."""
    classes = len(bundle.classes)
    found = FoundBySuper(
        session,
        bundle.manifest.preprocess,
        classes,
        images,
        count,
        seed,
        upright=orientation != "stored",
        max_pixels=max_pixels,
        progress=progress,
    )
    described = LadderData(
        kind="agreement",
        name=readable(images.name),
        sha256=found.sha256,
        pictures=len(found.images),
    )
    return Scores(bundle, session, found, range(classes), described, precision)


def check_scores(scores: Scores, base: Depth, top: Depth) -> None:
    """Raise :class:`ImageError` where the data has nothing to find."""
    if scores.known[base] < 0 or scores.known[top] < 0:
        raise ImageError(
            f"{scores.described.name} has no objects that a score could be of: give pictures with "
            "objects of the network's classes"
        )

"""Average precision while a network is trained: of the averaged weights, at every rung."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anydepth_deploy.annotations.scoring import coco_class, coco_rows, coco_stats
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import ImageError
from anydepth_deploy.families.shared.memory import StageMemory
from anydepth_deploy.families.shared.stages import AnyDepthModel
from anydepth_deploy.families.shared.usual_state import usual_state
from anydepth_deploy.pictures.images import Geometry, Preprocess, prepare_batch
from anydepth_deploy.train.data.detection_set import DetectionSet, check_unreadable
from anydepth_deploy.train.processes import Processes

__all__ = ["Example", "Validation", "best_score"]

BATCH = 8
EXAMPLES = 4


@dataclass(frozen=True)
class Example:
    """A picture with what was found in it at super and at base."""

    picture: NDArray[np.uint8]
    found: Mapping[str, Detections]


class Validation:
    """Measures a network at every rung of its ladder, base and super among them.

    ``model``: of which another one is run, on the device that ``model`` is on. ``data``: its labels
    are those of the network. Pictures that cannot be read are left out: :attr:`skipped`, by path,
    and why. Raises :class:`MissingExtraError` without the extra ``eval``, and :class:`ImageError`
    for more than 1 % of such pictures.
    """

    def __init__(
        self,
        model: AnyDepthModel,
        build: Callable[[Any], AnyDepthModel],
        data: DetectionSet,
        size: tuple[int, int],
        processes: Processes,
    ) -> None:
        coco_class()  # asked for now: a run must not learn at its first epoch's end
        self._device = next(model.parameters()).device
        with usual_state():
            self._model = build(model.config).to(self._device).eval().requires_grad_(False)
        self._data, self._processes = data, processes
        self.skipped: dict[str, str] = {}
        self._content = data.content(self.skipped)
        check_unreadable(data.source, len(data), self.skipped)
        self._ids = [int(item["id"]) for item in self._content["categories"]]
        self._recipe = Preprocess.of(model.resize, size)
        table = model.table
        self.depths: dict[str, Depth] = {str(depth): depth for depth in table.ladder}
        self.base, self.super = str(table.space.base), str(table.space.super)
        self.examples: list[Example] = []

    @torch.no_grad()
    def run(
        self,
        state: Mapping[str, Tensor],
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Average precision in percent by depth, from base to super; the same in all processes.

        ``state``: what a checkpoint holds. Afterwards :attr:`examples` are the first pictures.
        """
        wanted = self._model.state_dict()
        self._model.load_state_dict({**wanted, **state})
        self._model.memory = StageMemory()
        self.examples = []
        results: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self.depths}
        share = range(self._processes.rank, len(self._data), self._processes.world)
        for start in range(0, len(share), BATCH):
            if progress is not None:
                progress(start * self._processes.world, len(self._data))
            if chunk := list(self._read(share[start : start + BATCH])):
                self._measure(chunk, results)
        self._model.memory = None
        for part in self._processes.gather(self.skipped):
            self.skipped |= part
        check_unreadable(self._data.source, len(self._data), self.skipped)
        gathered = self._processes.gather(
            {name: np.concatenate([np.zeros((0, 7)), *rows]) for name, rows in results.items()}
        )
        content = self._readable()
        scores = {}
        for name in self.depths:
            rows = [part[name] for part in gathered]
            ap = coco_stats(copy.deepcopy(content), rows)[0]
            scores[name] = round(100 * ap, 2) if ap >= 0 else -1.0
        return scores

    def _read(self, places: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Ids and pictures of those that can be read."""
        for index in places:
            path = self._data.paths[index]
            if path in self.skipped:
                continue
            try:
                picture = self._data.picture(index)
            except ImageError as error:
                self.skipped[path] = str(error)
                continue
            yield int(self._data.keys[index]), picture

    def _readable(self) -> dict[str, Any]:
        """The objects to be found: those of the pictures that can be read."""
        images = [item for item in self._content["images"] if item["file_name"] not in self.skipped]
        ids = {item["id"] for item in images}
        objects = [item for item in self._content["annotations"] if item["image_id"] in ids]
        return {**self._content, "images": images, "annotations": objects}

    def _measure(
        self,
        chunk: Sequence[tuple[int, NDArray[np.uint8]]],
        results: dict[str, list[NDArray[np.float64]]],
    ) -> None:
        pictures = [picture for _, picture in chunk]
        prepared, geometries = prepare_batch(pictures, self._recipe)
        images = torch.from_numpy(prepared).to(self._device)
        found: dict[str, list[Detections]] = {}
        for name, depth in self.depths.items():
            detected = {
                key: value.cpu().numpy() for key, value in self._model.detect(images, depth).items()
            }
            found[name] = list(_each(detected, geometries))
            for (image, _), one in zip(chunk, found[name], strict=True):
                kept = one.image(0)
                results[name].append(coco_rows(image, kept, kept.boxes[0], self._ids))
        for place in range(min(len(chunk), EXAMPLES - len(self.examples))):
            ends = dict.fromkeys((self.super, self.base))
            shown = {name: found[name][place] for name in ends}
            self.examples.append(Example(pictures[place], shown))


def best_score(accuracy: Mapping[str, float], base_weight: float) -> float:
    """What the best checkpoint is kept by: base's average precision times ``base_weight``, plus
    super's times the rest. ``accuracy``: from base to super."""
    values = list(accuracy.values())
    return base_weight * values[0] + (1 - base_weight) * values[-1]


def _each(
    detected: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]
) -> Iterator[Detections]:
    """What was found in each picture, in its own pixels."""
    for place, geometry in enumerate(geometries):
        boxes = geometry.to_picture(detected["boxes"][place])
        yield Detections(
            detected["labels"][place : place + 1],
            boxes[None].astype(np.float32),
            detected["scores"][place : place + 1],
        )

"""What a family says; the interface is :mod:`anydepth_deploy.families.family`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anydepth_deploy.depth import DepthSpace, Gate
from anydepth_deploy.detections import Detections
from anydepth_deploy.families.family import Family, Outputs, Raw, Refusal, Shapes
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.families.shared.tolerances import Size, Tolerances, approximate
from anydepth_deploy.suppression import Suppression

if TYPE_CHECKING:
    from anydepth_example.model import ExampleModel

__all__ = ["CONFIGS", "FAMILY", "ExampleConfig"]


@dataclass(frozen=True)
class ExampleConfig:
    """Channels and classes of a network with two gated blocks."""

    name: str = "small"
    width: int = 16
    classes: int = 8
    max_detections: int = 50
    input_size: tuple[int, int] = (96, 160)
    ladder: tuple[str, ...] = ("TT", "FT", "FF")

    @property
    def depth_space(self) -> DepthSpace:
        """Each block runs or is skipped."""
        return DepthSpace((Gate("block1", 0), Gate("block2", 0)), (1, 1))


CONFIGS: Mapping[str, ExampleConfig] = {"small": ExampleConfig()}


def recognise(shapes: Shapes) -> ExampleConfig | Refusal | None:
    """By the keys of the blocks; the class count from the head (4 sides and the classes)."""
    head = shapes.get("head.weight", ())
    if "stem.0.weight" not in shapes or len(head) != 4:
        return None
    if "blocks.1.conv.weight" not in shapes:
        return Refusal("the example without its blocks: there is no depth to choose")
    for config in CONFIGS.values():
        if head[1] == config.width and head[0] > 4:
            return replace(config, classes=head[0] - 4)
    return Refusal(f"the example in an unknown width {head[1]}: known are {', '.join(CONFIGS)}")


class ExampleOutputs(Outputs):
    """``confidences`` [N, cells, classes] in 0..1 and ``corners`` [N, cells, 4] in input pixels."""

    coordinates = ("corners",)

    def items(self, raw: Raw) -> Items:
        return Items(raw)

    def detections(self, raw: Raw, size: Size, places: int, rule: Suppression | None) -> Detections:
        """The best pairs of cell and class."""
        scores = raw["confidences"].astype(np.float32).reshape(len(raw["confidences"]), -1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :places]
        cells, labels = np.divmod(best, raw["confidences"].shape[2])
        corners = np.take_along_axis(raw["corners"].astype(np.float32), cells[..., None], 1)
        return Detections(labels, corners, np.take_along_axis(scores, best, 1))

    def tolerances(self, size: Size, precision: str) -> Tolerances | None:
        """FP32 and FP16; the others are not offered."""
        if precision != "fp32":
            limits = {"fp16": ({"confidences": 0.01, "corners": 0.005}, 0.0)}
            return approximate(size, precision, limits)
        limit = {"confidences": 1e-5, "corners": 1e-3}
        return Tolerances(limit, selection=0.0, score=1e-5, pixels=1e-3)


def build(config: Any) -> ExampleModel:
    """The network, and with it torch."""
    from anydepth_example.model import ExampleModel

    return ExampleModel(config)


FAMILY = Family(
    name="anydepth-example",
    title="AnyDepth-Example",
    description="a small detector with two gated blocks",
    sizes=CONFIGS,
    recognise=recognise,
    outputs=ExampleOutputs(),
    build=build,
)

"""Figures that others published, each with its source, to stand beside what is measured here.

They are of other machines and mostly of multiply-adds. A ratio says which of the two it is of:
see :class:`PublishedRatio`.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

__all__ = [
    "Headline",
    "Published",
    "PublishedPoint",
    "PublishedRatio",
    "load_published",
]

Quantity = Literal["multiply-adds", "latency"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedPoint(_Model):
    """One network at one depth, as its source gives it; None: the source does not say."""

    family: str
    config: str
    depth: str | None
    """None: a static network."""
    ap: float | None = Field(default=None, gt=0, lt=100)
    """Average precision in percent, IoU 0.50:0.95."""
    dataset: str | None = None
    input_size: tuple[PositiveInt, PositiveInt]
    """Height and width in pixels."""
    macs: PositiveInt | None = None
    """Multiply-adds of one image."""
    latency_ms: PositiveFloat | None = None
    images_per_second: PositiveFloat | None = None
    batch: PositiveInt | None = None
    device: str | None = None
    runtime: str | None = None
    precision: str | None = None
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> PublishedPoint:
        if (self.ap is None) != (self.dataset is None):
            raise ValueError("AP and its data set belong together")
        timed = self.latency_ms is not None or self.images_per_second is not None
        if timed and None in (self.device, self.runtime, self.precision):
            raise ValueError("a time needs a device, a runtime and a precision")
        if not timed and self.macs is None and self.ap is None:
            raise ValueError("a point without a figure")
        return self


class Headline(_Model):
    """What is said of a network most often: base against super."""

    family: str
    config: str
    ratio: float
    ap_loss: float
    """In points of AP (percent)."""
    quantity: Quantity
    """What ``ratio`` is a ratio of."""

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x for {self.ap_loss:.1f} AP ({self.config})"


@dataclass(frozen=True)
class PublishedRatio:
    """``full`` over ``point`` in multiply-adds, or in latency on one device at one input size."""

    full: PublishedPoint
    point: PublishedPoint
    quantity: Quantity
    ratio: float

    @property
    def label(self) -> str:
        """``published, multiply-adds`` or ``published, TensorRT FP16 RTX 3090 720x1280``."""
        if self.quantity == "multiply-adds":
            return "published, multiply-adds"
        at = self.point
        height, width = at.input_size
        precision = (at.precision or "").upper()
        return f"published, {at.runtime} {precision} {at.device} {height}x{width}"


class Published(_Model):
    """All points, and what must be said with them."""

    format: Literal["anydepth-deploy published points"]
    version: Literal[1]
    note: str
    headlines: tuple[Headline, ...]
    points: tuple[PublishedPoint, ...]

    def of(self, family: str, config: str) -> list[PublishedPoint]:
        """The points of one network."""
        return [p for p in self.points if (p.family, p.config) == (family, config)]

    def accuracy(
        self, family: str, config: str, depth: str, input_size: tuple[int, int]
    ) -> PublishedPoint | None:
        """The point with the AP of this depth at this input size, or None."""
        for point in self.of(family, config):
            if point.ap is not None and (point.depth, point.input_size) == (depth, input_size):
                return point
        return None

    def ratios(self, family: str, config: str) -> list[PublishedRatio]:
        """What depths of one network save against its largest: in multiply-adds, then in latency.

        Only points that agree in everything but the depth are set in relation.
        """
        found = []
        quantities: tuple[Quantity, ...] = ("multiply-adds", "latency")
        for quantity in quantities:
            groups: dict[tuple[object, ...], list[tuple[float, PublishedPoint]]] = {}
            for point in self.of(family, config):
                value = point.macs if quantity == "multiply-adds" else point.latency_ms
                if value is not None:
                    settings = (point.input_size, point.batch, point.device, point.runtime)
                    groups.setdefault((*settings, point.precision), []).append((value, point))
            for group in groups.values():
                most, full = max(group, key=lambda pair: pair[0])
                for value, point in group:
                    if point is not full:
                        found.append(PublishedRatio(full, point, quantity, most / value))
        return found


@functools.cache
def load_published() -> Published:
    """The points that come with the package."""
    file = resources.files("anydepth_deploy.bench.report") / "published.json"
    return Published.model_validate(json.loads(file.read_text(encoding="utf-8")))

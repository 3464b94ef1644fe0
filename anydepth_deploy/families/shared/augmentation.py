"""What is done to training pictures at random: numbers that belong to a family. No torch here.

:data:`DETR` are the settings of RT-DETR's published recipe, :data:`YOLO` those that its family is
trained with; what they do to pictures is in :mod:`anydepth_deploy.train.data`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from anydepth_deploy.errors import UsageError

__all__ = ["DETR", "PLAIN", "YOLO", "Augmentation"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities and ranges; as they are here, nothing is done.

    ``colour``: how often colours change at all, ``colour_each``: how often each of brightness,
    contrast, saturation and hue then does. ``brightness``, ``contrast``, ``saturation``: factors
    are within 1 - x .. 1 + x; ``hue``: turns within -x .. x of the whole circle.

    ``zoom_out``: how often a picture lies somewhere on a larger canvas, whose sides are at most
    ``zoom_out_most`` times its own. ``crop``: how often a part is cut out that objects overlap
    enough, with sides of at least ``crop_least`` of the whole. ``flip``: how often left and right
    are exchanged.

    ``mosaic``: how often four pictures are put together. ``scale``: the result is made larger or
    smaller by a factor within 1 - x .. 1 + x about its centre, and ``translate``: moved by at most
    this share of its sides.

    ``sizes``: the sizes of steps' pictures, as shares of the size asked for, in multiples of 32.
    ``fill``: grey level where there is no picture.

    ``least_left``: objects of whose box a smaller share is left are dropped, and so are, with
    ``centre_stays``, those whose centre is gone.
    """

    colour: float = 0.0
    colour_each: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    zoom_out: float = 0.0
    zoom_out_most: float = 4.0
    crop: float = 0.0
    crop_least: float = 0.3
    flip: float = 0.0
    mosaic: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    sizes: tuple[float, float] = (1.0, 1.0)
    fill: int = 114
    least_left: float = 0.1
    centre_stays: bool = False

    def __post_init__(self) -> None:
        """Raises :class:`UsageError` for values that nothing can be done with."""
        for name in ("colour", "colour_each", "zoom_out", "crop", "flip", "mosaic", "least_left"):
            self._within(name, 0, 1)
        for name in ("brightness", "contrast", "saturation", "scale"):
            self._within(name, 0, 0.99)
        for name in ("hue", "translate"):
            self._within(name, 0, 0.5)
        self._within("zoom_out_most", 1, 100)
        self._within("crop_least", 0.01, 1)
        self._within("fill", 0, 255)
        if not 0 < self.sizes[0] <= 1 <= self.sizes[1]:
            raise UsageError(
                f"sizes of pictures are {self.sizes}: expected shares of the size asked for, from "
                "at most 1 to at least 1"
            )

    def _within(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise UsageError(f"{name} of pictures is {value}: expected {least:g} to {most:g}")

    def calm(self) -> Augmentation:
        """What is left of it in the last steps of a run: pictures in the size asked for that look
        like those to come; mirroring stays, and colours do in the family that never loses them."""
        if self.mosaic:
            return replace(self, mosaic=0.0, sizes=(1.0, 1.0))
        return replace(self, colour=0.0, zoom_out=0.0, crop=0.0, sizes=(1.0, 1.0))


PLAIN = Augmentation()
"""Pictures as the network sees them later."""

DETR = Augmentation(
    colour=0.8,
    colour_each=0.5,
    brightness=0.125,
    contrast=0.5,
    saturation=0.5,
    hue=0.05,
    zoom_out=0.5,
    crop=0.8,
    flip=0.5,
    sizes=(0.75, 1.25),
    fill=0,
    centre_stays=True,
)

YOLO = Augmentation(
    colour=1.0,
    brightness=0.4,
    saturation=0.7,
    hue=0.015,
    flip=0.5,
    mosaic=1.0,
    scale=0.5,
    translate=0.1,
)

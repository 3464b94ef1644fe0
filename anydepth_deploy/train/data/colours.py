"""Random changes of a picture's colours, by kornia."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import torch
from numpy.typing import NDArray

from anydepth_deploy.errors import MissingExtraError
from anydepth_deploy.families.shared.augmentation import Augmentation
from anydepth_deploy.families.shared.usual_state import usual_state

__all__ = ["check_able", "recolour"]


def check_able(augmentation: Augmentation) -> None:
    """Raises :class:`MissingExtraError` where colours are to be changed and kornia is not there:
    before the first picture, which another process may read."""
    if not augmentation.colour:
        return
    try:
        found = importlib.util.find_spec("kornia")
    except ValueError:  # named in sys.modules, and not there
        found = None
    if found is None:
        raise MissingExtraError("kornia", "train", "changing colours at random")


@usual_state()
@torch.no_grad()
def recolour(
    image: NDArray[np.uint8], augmentation: Augmentation, randomness: np.random.Generator
) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3] with its brightness, contrast, saturation and hue changed as
    ``augmentation`` says; the factors are drawn here and not by kornia, whose draws come from
    torch's one generator, so that they belong to the picture.

    Hue turns the colour differences of YUV: there and back through HSV takes 43 ms for a picture
    of 640 x 640, this 2.
    """
    # Drawn all, used or not: each of them is the same whatever the others are.
    changed = randomness.random(4) < augmentation.colour_each
    draws = randomness.uniform(-1, 1, 4)
    ranges = (
        augmentation.brightness,
        augmentation.contrast,
        augmentation.saturation,
        augmentation.hue,
    )
    changes = np.where(changed, draws * ranges, 0.0)
    if not changes.any() or not image.size:
        return image
    from kornia.color import rgb_to_yuv, yuv_to_rgb
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
    )

    brightness, contrast, saturation, hue = (float(value) for value in changes)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    if brightness:
        pixels = adjust_brightness_accumulative(pixels, 1 + brightness)
    if contrast:
        pixels = adjust_contrast_with_mean_subtraction(pixels, 1 + contrast)
    if saturation or hue:
        luma, u, v = rgb_to_yuv(pixels)
        cosine = (1 + saturation) * math.cos(2 * math.pi * hue)
        sine = (1 + saturation) * math.sin(2 * math.pi * hue)
        pixels = yuv_to_rgb(torch.stack([luma, cosine * u - sine * v, sine * u + cosine * v]))
    eight = pixels.clamp_(0, 1).mul_(255).round_().byte()
    found: NDArray[np.uint8] = np.ascontiguousarray(eight.numpy().transpose(1, 2, 0))
    return found

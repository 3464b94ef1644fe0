"""Pictures in memory, as other libraries have them: arrays, tensors, Pillow's.

What is an array is told by its type, never by its numbers: NumPy's are pictures [H, W, C] of 8 bits
as OpenCV, Pillow and imageio have them, tensors [C, H, W] as torch and its relatives have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.budget import MAX_PIXELS, check_picture
from anydepth_deploy.pictures.decoder import pillow_silent, reason
from anydepth_deploy.pictures.images import check_bits
from anydepth_deploy.pictures.orientation import decoded

__all__ = ["array_pixels", "is_tensor", "pillow_pixels", "tensor_pixels"]

CHANNELS = (1, 3, 4)
"""Grey; RGB or BGR; the same and how opaque it is, which is left out, as it is of files."""

EXPECTED_ARRAY = "expected uint8 [H, W, 3] in RGB (BGR with bgr=True), [H, W, 4] or, grey, [H, W]"
EXPECTED_TENSOR = (
    "expected [C, H, W] or [N, C, H, W] with 1, 3 or 4 channels, uint8, or floats in 0..1"
)


def array_pixels(array: NDArray[Any], *, bgr: bool = False) -> NDArray[np.uint8]:
    """A NumPy array uint8 [H, W, 3], [H, W, 4], [H, W, 1] or [H, W] as RGB uint8 [H, W, 3], a view
    where that is possible. ``bgr``: its colours are blue, green, red, as OpenCV's.

    Raises :class:`ImageError` for arrays of another type or shape.
    """
    shape = array.shape
    if array.dtype != np.uint8 or 0 in shape or len(shape) not in (2, 3):
        hint = "; give several pictures as a list" if len(shape) == 4 else ""
        raise ImageError(f"{_found('a picture', array)}: {EXPECTED_ARRAY}{hint}")
    if len(shape) == 3 and shape[2] not in CHANNELS:
        hint = "; this looks like [C, H, W]: transpose(1, 2, 0)" if shape[0] in CHANNELS else ""
        raise ImageError(f"{_found('a picture', array)}: {EXPECTED_ARRAY}{hint}")
    return _three(array if len(shape) == 3 else array[..., None], bgr)


def _three(array: NDArray[np.uint8], bgr: bool) -> NDArray[np.uint8]:
    """Red, green and blue of [H, W, 1], [H, W, 3] or [H, W, 4]."""
    if array.shape[2] == 1:
        return np.broadcast_to(array, (*array.shape[:2], 3))
    return array[..., 2::-1] if bgr else array[..., :3]


def is_tensor(item: object) -> bool:
    """Whether this is a tensor: of torch, JAX, TensorFlow, CuPy, or whatever else has a shape and
    can become a NumPy array."""
    return hasattr(item, "shape") and (hasattr(item, "__array__") or hasattr(item, "__dlpack__"))


def tensor_pixels(tensor: Any, index: int | None = None, *, bgr: bool = False) -> NDArray[np.uint8]:
    """A tensor [C, H, W], or picture ``index`` of a tensor [N, C, H, W], as RGB uint8 [H, W, 3].

    Floats are 0 to 1, and rounded to 255 levels; wherever it lies, it is copied to this processor.
    Raises :class:`ImageError` for tensors of another type, shape or range.
    """
    whole = tuple(int(side) for side in tensor.shape)
    array = _on_host(tensor, index)
    if array.ndim != 3 or array.shape[0] not in CHANNELS or 0 in array.shape:
        looks_last = array.ndim == 3 and array.shape[2] in CHANNELS
        hint = "; this looks like [H, W, C]: permute(2, 0, 1)" if looks_last else ""
        raise ImageError(f"{_found('a tensor', array, whole)}: {EXPECTED_TENSOR}{hint}")
    if array.dtype != np.uint8:
        array = _in_bytes(array, whole)
    return _three(array.transpose(1, 2, 0), bgr)


def _on_host(tensor: Any, index: int | None) -> NDArray[Any]:
    """All of it, or one part, as a NumPy array; torch refuses that for what is on a GPU, records
    gradients, or is of a type that NumPy lacks."""
    kind = type(tensor).__name__
    try:
        tensor = tensor if index is None else tensor[index]
        for step in ("detach", "cpu"):
            if callable(call := getattr(tensor, step, None)):
                tensor = call()
        if "bfloat16" in str(tensor.dtype) and callable(call := getattr(tensor, "float", None)):
            tensor = call()
        if hasattr(tensor, "__array__"):
            return np.asarray(tensor)
        return np.from_dlpack(tensor)
    except Exception as error:  # whatever its library raises
        raise ImageError(f"a {kind} cannot be read as an array: {reason(error)}") from None


def _in_bytes(array: NDArray[Any], whole: tuple[int, ...]) -> NDArray[np.uint8]:
    if array.dtype.kind != "f":
        raise ImageError(f"{_found('a tensor', array, whole)}: {EXPECTED_TENSOR}")
    with np.errstate(all="ignore"):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # not a number, too
            raise ImageError(
                f"a tensor of floats has values from {low:g} to {high:g}: expected 0..1, not "
                "normalised in another way, or uint8"
            )
        levels: NDArray[np.float32] = array.astype(np.float32) * np.float32(255)
        return np.rint(levels).astype(np.uint8)


def pillow_pixels(
    image: Image.Image, *, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """A picture of Pillow as RGB uint8 [H, W, 3], turned by its EXIF orientation like a file's
    (``upright``) or as its pixels are. It is left as it is, but for being loaded.

    Raises :class:`ImageError` for a picture of more than ``max_pixels`` or of more than 8 bits a
    channel, and where its file cannot be decoded.
    """
    name = f"a picture of Pillow (mode {image.mode})"
    check_picture(image.height, image.width, max_pixels, name)
    if 0 in image.size:
        raise ImageError(f"{name} has {image.width} x {image.height} pixels: expected at least one")
    check_bits(image.mode, "a picture of Pillow")
    try:
        with pillow_silent():
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                # Loading may turn it, and its tags are the caller's.
                found = ImageOps.exif_transpose(image) if upright else image
                return np.array(found.convert("RGB"))
            return decoded(image, upright=upright)
    except Exception as error:  # whatever a decoder raises
        raise ImageError(f"{name} cannot be read: {reason(error)}") from None


def _found(what: str, array: NDArray[Any], shape: tuple[int, ...] | None = None) -> str:
    return f"{what} cannot be {array.dtype} {list(shape or array.shape)}"

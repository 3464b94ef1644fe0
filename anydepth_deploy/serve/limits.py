"""What one request may bring, known before anything is made of it.

A request of few bytes may ask for much: a picture of one pixel becomes an image of the network's
size, and thousands of them fit into one request. So shapes are held against limits before a single
picture is looked at. Both halves use this: the repository's configurations carry the limits, and
the models in the server keep them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from anydepth_deploy.errors import InputError
from anydepth_deploy.pictures.budget import MAX_PIXELS  # here: of all pictures of a request

__all__ = [
    "IN_FLIGHT",
    "MAX_BATCH",
    "MAX_PIXELS",
    "MAX_QUEUE",
    "MAX_TEXT",
    "LimitError",
    "check_images",
    "check_pictures",
    "check_resizing",
    "check_text",
    "in_flight",
    "preparing_pixels",
    "request_memory",
    "waiting",
]

MAX_BATCH = 8
"""Images of one request, where nothing else was chosen."""

MAX_QUEUE = 64
"""Images that wait in the router beside those that are under way, at least; see :func:`waiting`."""

IN_FLIGHT = 32
"""Images that the router has under way at once, at least; see :func:`in_flight`."""

MAX_TEXT = 4096
"""Characters of the parameters of a request, written as JSON, and of its name."""


def in_flight(max_batch: int, instances: int = 1) -> int:
    """Images that the router has under way at once: two batches for each of the ``instances`` of a
    model, one that is computed and one that gathers, where that is more than :data:`IN_FLIGHT`."""
    return max(IN_FLIGHT, 2 * max_batch * instances)


def waiting(max_images: int) -> int:
    """Images that wait in the router where nothing else was chosen: at least two of the largest
    requests."""
    return max(MAX_QUEUE, 2 * max_images)


OWN, INPUT = 2, 12
"""What resizing one picture may take on the way: so many times its own pixels, or the pixels of the
network's input. A picture at least half as wide as the input always may, a narrower one as long as
it is no taller than twelve inputs: what is beyond are no pictures, but small requests that grow."""

RESIZING = 7
"""What resizing takes at the most beside what a picture's own pixels become, in images: in the
whole numbers that sampling computes with, or as :data:`INPUT` allows."""

PIXEL = 12
"""Bytes that a pixel of a picture becomes at the most while it is resized: four as Pillow keeps it,
and :data:`OWN` times four on the way."""


def request_memory(
    size: Sequence[int],
    max_batch: int,
    max_queue: int | None = None,
    *,
    pixels: int,
    workers: int,
    instances: int = 1,
) -> int:
    """Bytes that all requests together may become in preprocessing, before and inside the router,
    beside what clients sent and what the models behind the router compute with.

    ``size``: height and width of the network's input; ``pixels``: of the largest picture that
    clients send, at most those that a request may bring. Each of ``workers`` has the images of one
    request three times (one by one, together, and where the server takes them from), and the
    request before waits for the router's process; beside that, each resizes one picture at a time
    (:func:`check_resizing`). What the router holds is there twice, as the
    server made it and in the memory that it shares with the router, and what is under way once
    more, as a model gets it. Places are given back just before an answer is sent: so what was under
    way may be there twice once more.
    """
    image = 3 * 4 * math.prod(size)
    request = max_batch * image
    under_way = in_flight(max_batch, instances)
    held = 2 * under_way + (waiting(max_batch) if max_queue is None else max_queue)
    resizing = RESIZING * image + PIXEL * pixels
    return (4 * workers + 1) * request + workers * resizing + (2 * held + under_way) * image


class LimitError(InputError):
    """A request that brings more than one may."""


def check_pictures(shape: Sequence[int], max_batch: int, max_pixels: int) -> None:
    """Raise :class:`LimitError` where pictures of ``shape`` [N, H, W, 3] are more than
    ``max_batch``, or have more than ``max_pixels`` pixels together."""
    count, height, width = (int(side) for side in shape[:3])
    check_images(count, max_batch, "pictures")
    if math.prod((count, height, width)) > max_pixels:
        raise LimitError(
            f"{count} x {height} x {width} = {count * height * width} pixels in one request are "
            f"more than the {max_pixels} that are taken here: send smaller or fewer pictures, or "
            "write the repository with a larger --max-pixels"
        )


def check_resizing(height: int, width: int, taken: int, size: Sequence[int]) -> None:
    """Raise :class:`LimitError` where a picture takes ``taken`` pixels on its way to an input of
    ``size``, and that is out of proportion: a few bytes of a tall and narrow one become gigabytes.
    """
    most = max(OWN * height * width, INPUT * math.prod(size))
    if taken > most:
        raise LimitError(
            f"a picture of {width} x {height} pixels takes {taken} while it is resized, more than "
            f"the {most} that are taken here for one of this size: send parts of it, or a picture "
            "that is less narrow"
        )


def preparing_pixels(max_pixels: int, size: Sequence[int]) -> int:
    """The budget for preparing one picture of a request of ``max_pixels``: what resizing to
    ``size`` takes is no matter of how few pixels may come (:func:`check_resizing`)."""
    return max(max_pixels, INPUT * math.prod(size))


def check_images(count: int, max_batch: int, what: str = "images") -> None:
    """Raise :class:`LimitError` where ``count`` is more than ``max_batch``."""
    if count > max_batch:
        raise LimitError(
            f"{count} {what} in one request are more than the {max_batch} that are taken here: "
            "send several requests, or write the repository with a larger --max-batch"
        )


def check_text(what: str, text: str | bytes) -> None:
    """Raise :class:`LimitError` where ``text``, which a request brought as ``what``, is longer than
    any that means something."""
    if len(text) > MAX_TEXT:
        raise LimitError(
            f"{what}: {len(text)} characters are more than the {MAX_TEXT} that are taken here; "
            "leave out what this model does not read"
        )

"""Pictures of web servers: fetched whole, within a time and a size."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from anydepth_deploy.errors import ImageError, first_line
from anydepth_deploy.version import __version__

__all__ = ["TIMEOUT", "fetch", "most_bytes", "too_large"]

TIMEOUT = 30.0
"""Seconds that a picture may take on its way, unless told otherwise."""

BYTES_A_PIXEL = 4
BYTES_BESIDE = 1 << 20
"""What a file of a picture takes beside its pixels: more is no picture of so many pixels."""

BLOCK = 1 << 16

PLAIN = "!#$%&'()*+,/:;=?@[]~"
"""Letters of an address that stay as they are; others are written as ``%E4``."""


def most_bytes(max_pixels: int) -> int:
    """Of a file from afar: no picture of ``max_pixels`` pixels takes more."""
    return max_pixels * BYTES_A_PIXEL + BYTES_BESIDE


def fetch(url: str, max_pixels: int, timeout: float = TIMEOUT) -> bytes:
    """What ``url`` (http or https) answers. Proxies are those of the environment.

    ``max_pixels``: the answer is cut off where no picture of so many pixels would be as large.
    ``timeout``: seconds for the whole of it. Raises :class:`ImageError` where there is no answer in
    time, another one than a file, or a larger one.
    """
    most = most_bytes(max_pixels)
    deadline = time.monotonic() + timeout
    try:
        request = urllib.request.Request(
            urllib.parse.quote(url, safe=PLAIN),
            headers={"User-Agent": f"anydepth-deploy/{__version__}", "Accept": "image/*,*/*;q=0.5"},
        )
        with contextlib.closing(_opener().open(request, timeout=timeout)) as answer:
            return _content(url, answer, most, max_pixels, deadline, timeout)
    except ImageError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            words = f"{error.code} {error.reason}".splitlines()[0]
            raise ImageError(
                f"picture {url} cannot be fetched: the server answers {words}"
            ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _late(url, timeout) from None
        raise _unreachable(url, error.reason) from None
    except TimeoutError:
        raise _late(url, timeout) from None
    except (
        OSError,
        http.client.HTTPException,
        ValueError,
    ) as error:  # addresses that are none, too
        raise _unreachable(url, error) from None


def _opener() -> urllib.request.OpenerDirector:
    """Of http and https alone: no server sends us to files of this machine."""
    found = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        found.add_handler(handler())
    return found


def _content(
    url: str, answer: Any, most: int, max_pixels: int, deadline: float, timeout: float
) -> bytes:
    blocks, size, expected = [], 0, answer.length
    while block := answer.read1(BLOCK):
        blocks.append(block)
        size += len(block)
        if size > most:
            raise too_large(url, max_pixels)
        if time.monotonic() > deadline:
            raise _late(url, timeout)
    if expected is not None and size < expected:
        raise ImageError(f"picture {url} was cut short: {size} of {expected} bytes came; try again")
    return b"".join(blocks)


def too_large(name: str, max_pixels: int) -> ImageError:
    """What is said of a file from afar of more than :func:`most_bytes`."""
    return ImageError(
        f"picture {name} has more than {most_bytes(max_pixels)} bytes, which no picture within the "
        f"budget of {max_pixels} pixels has: make it smaller, or raise max_pixels"
    )


def _late(url: str, timeout: float) -> ImageError:
    return ImageError(f"picture {url} did not come in {timeout:g} s; try again, or raise timeout")


def _unreachable(url: str, reason: str | BaseException) -> ImageError:
    words = reason if isinstance(reason, str) else first_line(reason)
    return ImageError(f"picture {url} cannot be fetched: {words}")

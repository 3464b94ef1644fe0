"""Golden outputs: pictures, and what the network of the checkpoint makes of them at some depths.

They are made when a bundle is exported, from the checkpoint in torch, and prove on any device, with
neither, that what runs there computes the same. The file is one of safetensors: 8 bytes (the length
of the header, little endian), the header (JSON: by name of a tensor its ``dtype``, ``shape`` and
``data_offsets``, and texts as ``__metadata__``), and the tensors' bytes
(https://huggingface.co/docs/safetensors). Its tensors, of P pictures:

- ``pictures`` uint8 [P, H, W, 3], RGB: before preprocessing, so that this is part of the proof.
- ``DEPTH.values.QUANTITY`` float32 [P, K, numbers]: K items of the raw outputs, chosen for what
  they tell; all of small networks.
- ``cells`` int64 [P, K]: which cells these items are, at every depth; or, of networks with
  queries, ``DEPTH.tokens`` int64 [P, K]: the encoder token of each, and, where the family says
  scores, ``DEPTH.best_tokens`` int64 and ``DEPTH.best_scores`` float32 [P, B]: the tokens of the
  highest scores, best first, of which the queries are the first.

The metadata says how many ``items`` and ``tokens`` (0: there is no choice) a picture has.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.errors import BundleError
from anydepth_deploy.families.shared.items import Items
from anydepth_deploy.reading.regular import read_regular
from anydepth_deploy.reading.strict_json import NotJsonError, OddJsonError, parse_json

__all__ = ["FORMAT", "SUFFIX", "Golden", "GoldenDepth", "decode", "encode", "read_golden"]

FORMAT, VERSION = "anydepth-deploy golden outputs", "1"
SUFFIX = ".safetensors"
MOST_BYTES = 1 << 26
"""More than any has; limits what a made-up one can cost."""
MOST_PIXELS, MOST_ITEMS = 1 << 22, 1 << 20

DTYPES = {"U8": np.dtype("u1"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4")}
WORDS = {dtype: word for word, dtype in DTYPES.items()}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class GoldenDepth:
    """What the network finds at one depth: some of its ``items``, and of networks with queries the
    tokens of the highest scores, int64 and float32 [P, B], best first."""

    items: Items
    best_tokens: NDArray[np.int64] | None = None
    best_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Golden:
    """``pictures`` uint8 [P, H, W, 3]; ``depths`` by their texts; ``cells`` int64 [P, K]: which the
    items are, None where tokens name them. ``items``: that a picture has in all; ``tokens``: that
    queries are chosen from, 0 where none are."""

    pictures: NDArray[np.uint8]
    depths: Mapping[str, GoldenDepth]
    items: int
    cells: NDArray[np.int64] | None = None
    tokens: int = 0

    def choice(self, depth: str) -> NDArray[np.float32] | None:
        """The score of every token, float32 [P, tokens]; of those that are not among the best, the
        lowest of these, which they do not exceed. None where nothing is chosen."""
        found = self.depths[depth]
        if found.best_tokens is None or found.best_scores is None:
            return None
        scores = np.repeat(found.best_scores[:, -1:], self.tokens, axis=1)
        np.put_along_axis(scores, found.best_tokens, found.best_scores, 1)
        return scores


def encode(golden: Golden) -> bytes:
    """The content of a file: the same for the same numbers."""
    arrays: Arrays = {"pictures": golden.pictures}
    if golden.cells is not None:
        arrays["cells"] = golden.cells
    for depth, found in golden.depths.items():
        for name, array in found.items.values.items():
            arrays[f"{depth}.values.{name}"] = array
        for name, tokens in (
            ("tokens", found.items.tokens),
            ("best_tokens", found.best_tokens),
            ("best_scores", found.best_scores),
        ):
            if tokens is not None:
                arrays[f"{depth}.{name}"] = tokens
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSION,
            "items": str(golden.items),
            "tokens": str(golden.tokens),
        }
    }
    parts: list[bytes] = []
    end = 0
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
        part = np.ascontiguousarray(array, dtype).tobytes()
        begin, end = end, end + len(part)
        header[name] = {
            "dtype": WORDS[dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read_golden(path: Path, sha256: str) -> Golden:
    """The golden outputs in the file ``path``, whose bytes have this hash. Raises
    :class:`BundleError` for what is damaged."""
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise _damaged(path, str(error.strerror or error)) from None
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise _damaged(path, f"sha256 {digest[:12]}…, the manifest says {sha256[:12]}…")
    try:
        return decode(content)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise _damaged(path, reason) from None


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"the golden outputs {path} are damaged ({reason}): export the bundle again, which makes "
        "them anew and keeps its artifacts"
    )


def decode(content: bytes) -> Golden:
    """What :func:`encode` wrote. Raises :class:`ValueError`, :class:`KeyError` and
    :class:`TypeError` for anything else."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it is cut short")
    try:
        header = parse_json(content[8 : 8 + length].decode("utf-8"))
    except (NotJsonError, OddJsonError) as error:
        raise ValueError(f"its header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise TypeError("its header is no object")
    about = header.pop("__metadata__")
    if (about["format"], about["version"]) != (FORMAT, VERSION):
        raise ValueError("it is of another format, or of another version of it")
    data = memoryview(content)[8 + length :]
    arrays = {name: _tensor(name, entry, data) for name, entry in header.items()}
    return _golden(arrays, _count(about["items"], 1), _count(about["tokens"], 0))


def _count(text: str, least: int) -> int:
    count = int(text)
    if not least <= count <= MOST_ITEMS:
        raise ValueError(f"{count} items or tokens")
    return count


def _tensor(name: str, entry: Mapping[str, Any], data: memoryview) -> NDArray[Any]:
    dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
    begin, end = entry["data_offsets"]
    whole = all(isinstance(side, int) and side >= 0 for side in (*shape, begin, end))
    if not whole or end - begin != math.prod(shape) * dtype.itemsize or end > len(data):
        raise ValueError(f"the bytes of '{name}' are not those of its shape {shape}")
    return np.frombuffer(data[begin:end], dtype).reshape(shape)


def _golden(arrays: Arrays, items: int, tokens: int) -> Golden:
    """Tensors by name as golden outputs, all of their shapes checked."""
    pictures = _shaped(arrays, "pictures", np.uint8, (None, None, None, 3))
    count = len(pictures)
    if not count or not pictures.size or pictures.size > MOST_PIXELS:
        raise ValueError(f"the shape of 'pictures' is {list(pictures.shape)}")
    names: dict[str, list[str]] = {}
    for name in arrays:
        depth, found, quantity = name.partition(".values.")
        if found:
            names.setdefault(depth, []).append(quantity)
    if not names:
        raise ValueError("it has no depths")
    cells = None
    if not tokens:
        cells = _places(arrays, "cells", count, items)
    depths: dict[str, GoldenDepth] = {}
    for depth, quantities in names.items():
        own = _places(arrays, f"{depth}.tokens", count, tokens) if tokens else None
        places = own if own is not None else cells
        assert places is not None
        values = {
            name: _shaped(
                arrays, f"{depth}.values.{name}", np.float32, (count, places.shape[1], None)
            )
            for name in quantities
        }
        best = scores = None
        if f"{depth}.best_tokens" in arrays:
            best = _places(arrays, f"{depth}.best_tokens", count, tokens)
            scores = _shaped(arrays, f"{depth}.best_scores", np.float32, best.shape)
        if any(not np.isfinite(array).all() for array in values.values()):
            raise ValueError(f"there are values at {depth} that are no numbers")
        depths[depth] = GoldenDepth(Items(values, own), best, scores)
    return Golden(pictures, depths, items, cells, tokens)


def _shaped(arrays: Arrays, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    found = arrays[name]
    fits = len(found.shape) == len(shape) and all(
        wanted in (None, side) for side, wanted in zip(found.shape, shape, strict=True)
    )
    if found.dtype != dtype or not fits:
        raise ValueError(f"the shape of '{name}' is {list(found.shape)}, of {found.dtype}")
    return found


def _places(arrays: Arrays, name: str, count: int, most: int) -> NDArray[np.int64]:
    """Distinct places below ``most``, at least one for each picture."""
    found = _shaped(arrays, name, np.int64, (count, None))
    rows = np.sort(found, 1)
    if not found.size or (found < 0).any() or (found >= most).any() or not np.diff(rows).all():
        raise ValueError(f"'{name}' are no distinct places below {most}")
    return found

"""Run pictures through a network at all its depths and count the values of its tensors.

Hours of work on a small machine: what is done is kept in a file, and an interrupted collection
ends with the very histograms of an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.calibration.histogram import BINS, Histogram
from anydepth_deploy.documents import write_atomically
from anydepth_deploy.errors import CalibrationError, first_line, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress
from anydepth_deploy.reading.regular import open_regular

__all__ = ["Counted", "Histograms", "Observed", "collect", "discard_state", "read_batch"]

log = logging.getLogger("anydepth_deploy")

Histograms = dict[str, Histogram]
"""By the name of the tensor."""

Counted = dict[str, Histograms]
"""By the depth that the tensors are counted at."""

STATE_FORMAT = "anydepth-deploy calibration state 3"


class Observed(Protocol):
    """A network at some depths, with tensors that can be looked at."""

    @property
    def tensors(self) -> Mapping[str, Sequence[str]]:
        """Names of the tensors that :meth:`run` gives, by the depth that they are counted at."""

    def run(
        self, images: NDArray[np.float32]
    ) -> Iterable[tuple[str, Mapping[str, NDArray[np.generic]]]]:
        """Depths and values of tensors, float32 or float16, for ``images`` float32 [N, 3, H, W];
        every tensor once, in whatever portions."""


@dataclass(frozen=True)
class _Progress:
    """Histograms of the first ``pictures`` pictures.

    Replaced as a whole, so that it is consistent wherever an interruption strikes.
    """

    pictures: int
    counted: Counted


def collect(
    open_network: Callable[[], Observed],
    pictures: Sequence[Path],
    recipe: Preprocess,
    state: Path,
    identity: str,
    *,
    batch: int = 1,
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
    save_every: float = 30.0,
    progress: Progress | None = None,
) -> Counted:
    """Histograms of all tensors of the network that ``open_network`` gives, by depth and tensor.

    ``state``: a file that holds what is done; written every ``save_every`` seconds, when an
    exception (Ctrl-C included) ends the work, and at the end. A later call with the same
    ``identity`` (a hash of everything that decides the outcome: model, depths, pictures, size,
    tensors, runtime) and batch goes on from there. The file of another call, or a damaged one, is
    replaced, with a warning in the log. Remove it with :func:`discard_state` when its outcome is
    safe. ``orientation``: which way up pictures are read; ``max_pixels``: of each, and of what
    resizing it takes. ``progress``: of pictures, each of which is read once and run at all depths.

    Raises :class:`CalibrationError` when an activation is not finite, :class:`ImageError` for a
    picture that cannot be read, and whatever ``open_network`` and its network raise.
    """
    header = {
        "format": STATE_FORMAT,
        "bins": BINS,
        "identity": identity,
        "pictures": len(pictures),
        "batch": batch,
    }
    done = _read_state(state, header)
    if done is not None and done.pictures == len(pictures):
        return done.counted
    network = open_network()
    done = _begin(done, network, state)
    saved = time.monotonic()
    fresh = False  # whether there is something that the file lacks
    try:
        while (start := done.pictures) < len(pictures):
            paths = pictures[start : start + batch]
            if progress is not None:
                progress(paths[0].name, start, len(pictures))
            images = read_batch(paths, recipe, orientation, max_pixels)
            counted = _count(network, paths, images, done.counted)
            done = _Progress(start + len(paths), counted)
            fresh = True
            if time.monotonic() - saved >= save_every:
                _write_state(state, header, done)
                saved, fresh = time.monotonic(), False
    finally:
        if fresh:
            _write_state(state, header, done)
    return done.counted


def read_batch(
    paths: Sequence[Path], recipe: Preprocess, orientation: Orientation, max_pixels: int
) -> NDArray[np.float32]:
    """Pictures as the network wants them, [N, 3, H, W]; raises :class:`ImageError`."""
    upright = orientation == "upright"
    read = [
        load_image(path, upright=upright, max_pixels=max_pixels, recipe=recipe) for path in paths
    ]
    return prepare_batch(read, recipe, max_pixels=max_pixels)[0]


def discard_state(state: Path) -> None:
    """Remove the file of a collection that is not needed any more, if there is one."""
    state.unlink(missing_ok=True)


def _begin(found: _Progress | None, network: Observed, state: Path) -> _Progress:
    """Where to go on."""
    wanted = {depth: list(tensors) for depth, tensors in network.tensors.items()}
    if found is not None:
        if {depth: list(tensors) for depth, tensors in found.counted.items()} == wanted:
            return found
        log.warning("%s is of other tensors: starting anew", state)
    nothing = {depth: {name: Histogram() for name in names} for depth, names in wanted.items()}
    return _Progress(0, nothing)


def _count(
    network: Observed, paths: Sequence[Path], images: NDArray[np.float32], earlier: Counted
) -> Counted:
    """New histograms, with what these pictures add to the earlier ones, which stay as they are."""
    found: Counted = {depth: dict(histograms) for depth, histograms in earlier.items()}
    for depth, arrays in network.run(images):
        for tensor in arrays:
            histogram = found[depth][tensor].copy()
            try:
                histogram.add(arrays[tensor])
            except FloatingPointError as error:
                blamed = _blame(network, depth, tensor, images, paths)
                raise CalibrationError(
                    f"tensor '{tensor}' at depth {depth} has {error}, with {shorten(blamed)}: a "
                    "network that overflows in float32 cannot be quantised; check the checkpoint, "
                    "and leave the picture out if it alone is the cause"
                ) from None
            except TypeError as error:
                raise CalibrationError(f"tensor '{tensor}' at depth {depth}: {error}") from None
            found[depth][tensor] = histogram
        del arrays  # before the next ones are made
    return found


def _blame(
    network: Observed,
    depth: str,
    tensor: str,
    images: NDArray[np.float32],
    paths: Sequence[Path],
) -> Sequence[Path]:
    """The pictures of a batch that make ``tensor`` infinite by themselves; all if none does."""
    if len(paths) == 1:
        return paths

    def is_finite(image: NDArray[np.float32]) -> bool:
        arrays = (made[tensor] for at, made in network.run(image) if at == depth and tensor in made)
        return all(np.isfinite(array).all() for array in arrays)

    bad = [path for k, path in enumerate(paths) if not is_finite(images[k : k + 1])]
    return bad or paths


def _write_state(state: Path, header: Mapping[str, Any], done: _Progress) -> None:
    """Keep what is done; a disk that cannot is worth a warning, not the work done so far."""
    arrays: dict[str, NDArray[Any]] = {}
    parts = []
    for index, (depth, histograms) in enumerate(done.counted.items()):
        parts.append({"depth": depth, "tensors": list(histograms)})
        single = [histogram.to_arrays() for histogram in histograms.values()]
        for name in Histogram().to_arrays():
            if single:
                arrays[f"{index}/{name}"] = np.stack([item[name] for item in single])
    text = json.dumps({**header, "done": done.pictures, "parts": parts})
    arrays["header"] = np.frombuffer(text.encode(), np.uint8)
    try:
        write_atomically(state, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): an interruption would lose what was counted",
            state,
            error.strerror or error,
        )


def _read_state(state: Path, header: Mapping[str, Any]) -> _Progress | None:
    """What the file of an earlier call holds; nothing if it is not of this call."""
    try:
        with open_regular(state) as file:
            if file.read(2) != b"PK":
                raise ValueError("not an archive")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            content = json.loads(bytes(archive["header"]))
            if {key: content.get(key) for key in header} != dict(header):
                log.warning("%s is of another calibration: starting anew", state)
                return None
            counted = {
                str(part["depth"]): _read_part(archive, f"{index}/", part)
                for index, part in enumerate(content["parts"])
            }
        if content["done"] not in range(header["pictures"] + 1):
            raise ValueError("pictures that do not exist")
        return _Progress(int(content["done"]), counted)
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib, numpy and json have many ways to say "damaged"
        log.warning("%s cannot be read (%s): starting anew", state, first_line(error))
        return None


def _read_part(
    archive: Mapping[str, NDArray[Any]], prefix: str, part: Mapping[str, Any]
) -> Histograms:
    if not part["tensors"]:
        return {}
    stacked = {name: archive[prefix + name] for name in Histogram().to_arrays()}
    return {
        tensor: Histogram.from_arrays({name: array[index] for name, array in stacked.items()})
        for index, tensor in enumerate(part["tensors"])
    }

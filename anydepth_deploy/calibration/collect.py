"""Run pictures through the graph of each depth and count the values of its tensors.

Hours of work on a small machine: what is done is kept in a file, and an interrupted collection
ends with the very histograms of an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.calibration.histogram import BINS, Histogram
from anydepth_deploy.documents import write_atomically
from anydepth_deploy.errors import (
    CalibrationError,
    InputError,
    MissingExtraError,
    shorten,
)
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress
from anydepth_deploy.reading.regular import open_regular

__all__ = [
    "Histograms",
    "Observed",
    "ObservedGraph",
    "collect",
    "discard_state",
    "import_onnxruntime",
]

log = logging.getLogger("anydepth_deploy")

Histograms = dict[str, Histogram]
"""By the name of the tensor."""

PURPOSE = "observing the tensors of a graph"

STATE_FORMAT = "anydepth-deploy calibration state 2"


class Observed(Protocol):
    """The graph of one depth, with tensors that can be looked at."""

    @property
    def tensors(self) -> Sequence[str]:
        """Names of the tensors that :meth:`run` gives."""

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]:
        """Their values, float32 or float16, for ``images`` float32 [N, 3, H, W]."""


class ObservedGraph:
    """A static ONNX graph whose tensors are looked at with ONNX Runtime, on the CPU.

    ``model``: a file, or its bytes. ``tensors``: names of tensors of the main graph; branches
    cannot be looked into, and static graphs have none. ``exposed``: further tensors that are
    computed as if they were looked at, though they are not: ONNX Runtime fuses nothing across
    them. ``threads``: by default as many as there are cores. All tensors of a batch are in memory
    at once.

    Raises :class:`CalibrationError` for a graph without one of the tensors, with other inputs
    than the images, or that cannot be loaded; :class:`MissingExtraError` where onnx or
    onnxruntime is not installed.
    """

    def __init__(
        self,
        model: bytes | Path,
        tensors: Sequence[str],
        *,
        exposed: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        onnx, ort = _onnx(), import_onnxruntime()
        what = "the graph" if isinstance(model, bytes) else str(model)
        try:
            loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        except Exception as error:  # protobuf's errors have no public root either
            raise CalibrationError(f"{what} cannot be read: {_first_line(error)}") from None
        graph = loaded.graph
        constants = {value.name for value in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in constants]
        if len(inputs) != 1:
            raise CalibrationError(
                f"{what} has the inputs {shorten(inputs)}: expected a static graph, whose only "
                "input is the images"
            )
        made = {name for node in graph.node for name in node.output if name}
        known = {*made, inputs[0]}
        if strangers := [name for name in (*tensors, *exposed) if name not in known]:
            raise CalibrationError(
                f"{what} makes no tensors of these names in its main graph: {shorten(strangers)}"
            )
        outputs = {value.name for value in graph.output}
        self.tensors: Sequence[str] = tuple(dict.fromkeys(tensors))
        self._input = inputs[0]
        self._fetched = [name for name in self.tensors if name != self._input]
        shown = dict.fromkeys(name for name in (*self._fetched, *exposed) if name in made)
        graph.output.extend(  # a value without a type is legal for ONNX Runtime
            onnx.ValueInfoProto(name=name) for name in shown if name not in outputs
        )
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # errors reach the caller as exceptions
        # The arena would round up and keep the memory of all outputs: 0.7 GB more with R50.
        settings.enable_cpu_mem_arena = False
        if threads is not None:
            settings.intra_op_num_threads = threads
        try:
            self._session: Any = ort.InferenceSession(
                loaded.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no public root for its exceptions
            raise CalibrationError(
                f"ONNX Runtime {ort.__version__} cannot load {what} with its tensors as outputs: "
                f"{_first_line(error)}"
            ) from None

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """See :class:`Observed`; raises :class:`InputError` for images of another shape."""
        found: dict[str, NDArray[np.generic]] = {self._input: images}
        try:  # asked for no outputs, ONNX Runtime would give all
            arrays = (
                self._session.run(self._fetched, {self._input: images}) if self._fetched else []
            )
        except Exception as error:
            raise InputError(f"ONNX Runtime: {_first_line(error)}") from None
        found.update(zip(self._fetched, arrays, strict=True))
        return {name: found[name] for name in self.tensors}


@dataclass(frozen=True)
class _Progress:
    """What is done at one depth: histograms of the first ``pictures`` pictures.

    Replaced as a whole, so that it is consistent wherever an interruption strikes.
    """

    pictures: int
    histograms: Histograms


def collect(
    depths: Sequence[str],
    open_graph: Callable[[str], Observed],
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
) -> dict[str, Histograms]:
    """Histograms of all tensors of the graphs that ``open_graph`` gives, by depth and tensor.

    ``state``: a file that holds what is done; written every ``save_every`` seconds, when an
    exception (Ctrl-C included) ends the work, and at the end. A later call with the same
    ``identity`` (a hash of everything that decides the outcome: model, pictures, size, tensors,
    runtime), depths and batch goes on from there. The file of another call, or a damaged one, is
    replaced, with a warning in the log. Remove it with :func:`discard_state` when its outcome is
    safe. ``orientation``: which way up pictures are read; ``max_pixels``: of each, and of what
    resizing it takes.

    Raises :class:`CalibrationError` when an activation is not finite, :class:`ImageError` for a
    picture that cannot be read, and whatever ``open_graph`` and its graphs raise.
    """
    header = {
        "format": STATE_FORMAT,
        "bins": BINS,
        "identity": identity,
        "depths": list(depths),
        "pictures": len(pictures),
        "batch": batch,
    }
    done = _read_state(state, header)
    saved = time.monotonic()
    fresh = False  # whether there is something that the file lacks
    try:
        for index, depth in enumerate(depths):
            if depth in done and done[depth].pictures == len(pictures):
                continue
            graph = open_graph(depth)
            done[depth] = _begin(done.get(depth), graph, state)
            while (start := done[depth].pictures) < len(pictures):
                if progress is not None:
                    progress(depth, index * len(pictures) + start, len(depths) * len(pictures))
                paths = pictures[start : start + batch]
                upright = orientation == "upright"
                read = [
                    load_image(path, upright=upright, max_pixels=max_pixels, recipe=recipe)
                    for path in paths
                ]
                images, _ = prepare_batch(read, recipe, max_pixels=max_pixels)
                histograms = _count(graph, depth, paths, images, done[depth].histograms)
                done[depth] = _Progress(start + len(paths), histograms)
                fresh = True
                if time.monotonic() - saved >= save_every:
                    _write_state(state, header, done)
                    saved, fresh = time.monotonic(), False
    finally:
        if fresh:
            _write_state(state, header, done)
    return {depth: done[depth].histograms for depth in depths}


def discard_state(state: Path) -> None:
    """Remove the file of a collection that is not needed any more, if there is one."""
    state.unlink(missing_ok=True)


def _begin(found: _Progress | None, graph: Observed, state: Path) -> _Progress:
    """Where to go on at a depth."""
    if found is not None and list(found.histograms) == list(graph.tensors):
        return found
    if found is not None:
        log.warning("%s is of other tensors: this depth starts anew", state)
    return _Progress(0, {tensor: Histogram() for tensor in graph.tensors})


def _count(
    graph: Observed,
    depth: str,
    paths: Sequence[Path],
    images: NDArray[np.float32],
    earlier: Histograms,
) -> Histograms:
    """New histograms, with what these pictures add to the earlier ones, which stay as they are."""
    found = {}
    arrays = graph.run(images)
    for tensor, histogram in earlier.items():
        found[tensor] = histogram.copy()
        try:
            found[tensor].add(arrays[tensor])
        except FloatingPointError as error:
            blamed = _blame(graph, tensor, images, paths)
            raise CalibrationError(
                f"tensor '{tensor}' at depth {depth} has {error}, with {shorten(blamed)}: a "
                "network that overflows in float32 cannot be quantised; check the checkpoint, and "
                "leave the picture out if it alone is the cause"
            ) from None
        except TypeError as error:
            raise CalibrationError(f"tensor '{tensor}' at depth {depth}: {error}") from None
    return found


def _blame(
    graph: Observed, tensor: str, images: NDArray[np.float32], paths: Sequence[Path]
) -> Sequence[Path]:
    """The pictures of a batch that make ``tensor`` infinite by themselves; all if none does."""
    if len(paths) == 1:
        return paths
    return [
        path
        for index, path in enumerate(paths)
        if not np.isfinite(graph.run(images[index : index + 1])[tensor]).all()
    ] or paths


def _write_state(state: Path, header: Mapping[str, Any], done: Mapping[str, _Progress]) -> None:
    """Keep what is done; a disk that cannot is worth a warning, not the work done so far."""
    arrays: dict[str, NDArray[Any]] = {}
    parts = []
    for index, (depth, found) in enumerate(done.items()):
        parts.append(
            {"depth": depth, "pictures": found.pictures, "tensors": list(found.histograms)}
        )
        single = [histogram.to_arrays() for histogram in found.histograms.values()]
        for name in Histogram().to_arrays():
            if single:
                arrays[f"{index}/{name}"] = np.stack([item[name] for item in single])
    text = json.dumps({**header, "parts": parts})
    arrays["header"] = np.frombuffer(text.encode(), np.uint8)
    try:
        write_atomically(state, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): an interruption would lose what was counted",
            state,
            error.strerror or error,
        )


def _read_state(state: Path, header: Mapping[str, Any]) -> dict[str, _Progress]:
    """What the file of an earlier call holds, by depth; nothing if it is not of this call."""
    try:
        with open_regular(state) as file:
            if file.read(2) != b"PK":
                raise ValueError("not an archive")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            content = json.loads(bytes(archive["header"]))
            if {key: content.get(key) for key in header} != dict(header):
                log.warning("%s is of another calibration: starting anew", state)
                return {}
            done = {
                str(part["depth"]): _read_part(archive, f"{index}/", part)
                for index, part in enumerate(content["parts"])
            }
        counts = {found.pictures for found in done.values()}
        if not done.keys() <= set(header["depths"]) or not counts <= {
            *range(header["pictures"] + 1)
        }:
            raise ValueError("depths or pictures that do not exist")
        return done
    except FileNotFoundError:
        return {}
    except Exception as error:  # zipfile, zlib, numpy and json have many ways to say "damaged"
        reason = _first_line(error)
        log.warning("%s cannot be read (%s): starting anew", state, reason)
        return {}


def _read_part(
    archive: Mapping[str, NDArray[Any]], prefix: str, part: Mapping[str, Any]
) -> _Progress:
    stacked = (
        {name: archive[prefix + name] for name in Histogram().to_arrays()}
        if part["tensors"]
        else {}
    )
    histograms = {
        tensor: Histogram.from_arrays({name: array[index] for name, array in stacked.items()})
        for index, tensor in enumerate(part["tensors"])
    }
    return _Progress(int(part["pictures"]), histograms)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "export", PURPOSE) from None
    return onnx


def import_onnxruntime(purpose: str = PURPOSE) -> Any:
    """ONNX Runtime; raises :class:`MissingExtraError`, which names ``purpose``."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnxruntime", purpose) from None
    return onnxruntime


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

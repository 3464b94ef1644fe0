"""Sessions: run images at a depth, whatever artifact lies underneath.

A gated graph and a set of static graphs answer the same calls. What no runtime checks reliably is
checked here: the depth's row, the images' type, shape and memory layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, SupportsIndex, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.measured import Measured
from anydepth_deploy.depth import Depth, DepthTable
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, InputError, UsageError, shorten
from anydepth_deploy.manifest import PREDICTIONS, BatchProfile, MeasuredLadder
from anydepth_deploy.runtimes.chain import See
from anydepth_deploy.runtimes.engine import Engine
from anydepth_deploy.runtimes.use import Use, not_portable

if TYPE_CHECKING:
    from anydepth_deploy.runtimes.tensorrt.memory import MemoryUse

__all__ = ["Engines", "Finish", "Session"]

DETECTION_OUTPUTS = ("labels", "boxes", "scores")


AnyDepth = Depth | str | int
"""A depth, its text, a name of a rung, or a row."""

Depths = Sequence[AnyDepth] | NDArray[np.integer[Any]]
"""One for each image."""

_Kind = TypeVar("_Kind", bound=np.generic)

Finish = Callable[[dict[str, NDArray[np.generic]], int], Detections]
"""From raw outputs by name, of so many images, to detections, where the graph ends before them."""


class Engines(Protocol):
    """Finds the engine for a depth, and what to feed it beside the images."""

    def at(self, row: int) -> tuple[Engine, dict[str, NDArray[np.generic]]]: ...

    def depths(self) -> tuple[int, ...]: ...

    def opened(self) -> list[tuple[str, object]]:
        """What is open, and a name for it."""
        ...


class Session:
    """An opened bundle that runs images at any depth its artifacts hold.

    May be called from several threads at once, in the process that opened it: a process forked
    from it gets a :class:`UsageError`, as does who pickles or copies a session. Open the bundle
    in each process instead.
    """

    def __init__(
        self,
        table: DepthTable,
        size: tuple[int, int],
        raw_outputs: tuple[str, ...],
        engines: Engines,
        finish: Finish | None = None,
        *,
        detects: bool = True,
        macs: Mapping[str, int] | None = None,
        batch: BatchProfile | None = None,
        finite: bool = True,
        max_detections: int | None = None,
        measured: Measured | None = None,
        title: str = "",
    ) -> None:
        """``finite``: whether images are searched for values that are not finite.
        ``max_detections``: of an image; more are refused. ``measured``: ladders of these
        artifacts. ``title``: which network is run by what, for people."""
        self.table = table
        self.size = size
        self._finish = finish
        self.detects = detects
        """Whether :meth:`run` works: not where suppression is left to the application."""
        self.macs = dict(macs or {})
        """Multiply-adds of an image, by depth; empty where nobody counted them."""
        self.batch = batch
        """Batch sizes that can be run; None where any can."""
        self._raw_names = tuple(f"raw_{name}" for name in raw_outputs)
        self._engines = engines
        self._finite = finite
        self._max_detections = max_detections
        found = measured or Measured()
        self.measured_ladder: MeasuredLadder | None = found.here
        """What these artifacts cost and give by depth, as ``ladder`` measured it on this device
        with this runtime and precision; None where nobody did."""
        self.measured_elsewhere: tuple[MeasuredLadder, ...] = found.elsewhere
        """The same of other devices."""
        self._title = title
        self._use = Use("this session")

    def __repr__(self) -> str:
        return f"<Session {self.described}>"

    @property
    def described(self) -> str:
        """Network, runtime, precision and layout, size of the input, and the ladder in use, in one
        line."""
        rungs = self.ladder
        ladder = f"ladder {rungs[0]} to {rungs[-1]} ({len(rungs)} rungs)"
        if len(rungs) == 1:
            ladder = f"depth {rungs[0]}"
        words = [self._title, f"input {self.size[0]}x{self.size[1]}", ladder]
        if self._use.closed:
            words.append("closed")
        return ", ".join(word for word in words if word)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ladder(self) -> tuple[str, ...]:
        """The ladder in use, from base to super: its K-th depth is ``level:K``, on every device."""
        return tuple(map(str, self.table.ladder))

    @property
    def depths(self) -> tuple[Depth, ...]:
        """The depths that can be run, in the order of the table."""
        return tuple(self.table.rows[row] for row in self._engines.depths())

    @property
    def on_device(self) -> bool:
        """Whether a GPU computes."""
        return not self._finite

    def run(self, images: NDArray[np.float32], depth: AnyDepth | Depths = "super") -> Detections:
        """Detect objects at ``depth``.

        ``images``: float32 [N, 3, H, W], prepared as the manifest says (see
        :func:`anydepth_deploy.pictures.images.prepare_batch`). ``depth``: text, ``super``,
        ``base``, ``level:k``, a row of the table or a :class:`Depth`; or a list of N of them, one
        for each image. Images of one depth run together, whatever their order; the answer is in
        the order of ``images``.

        Images with NaN or infinite values are refused on CPUs. On a GPU the search would take a
        noticeable part of a call: there they are computed with, and scores may be NaN.

        Raises :class:`InputError` and :class:`DepthError`, :class:`BundleError` for a bundle
        exported with ``--nms none``, and :class:`UsageError` once it is closed and in a process
        forked from the one that opened it.
        """
        self._check_detects()
        if self._finish is not None:
            return self._finish(self.run_raw(images, depth), len(images))
        found = self._run_any(images, depth, DETECTION_OUTPUTS)
        return _detections(found, len(images), self._max_detections)

    def run_raw(
        self, images: NDArray[np.float32], depth: AnyDepth | Depths = "super"
    ) -> dict[str, NDArray[np.generic]]:
        """The heads' raw outputs by name; needs artifacts exported with ``--raw``.

        AnyDepth-DETR: ``logits`` [N, Q, classes], ``boxes`` [N, Q, 4] (cx, cy, w, h in 0..1),
        ``queries`` int64 [N, Q] (the encoder token each query came from). AnyDepth-YOLO:
        ``predictions`` [N, 4 + classes, A] (cx, cy, w, h in input pixels, then class scores).
        """
        return _raw(self._run_any(images, depth, self._raw_names))

    def run_both(
        self, images: NDArray[np.float32], depth: AnyDepth | Depths = "super"
    ) -> tuple[Detections, dict[str, NDArray[np.generic]]]:
        """Detections and raw outputs of one and the same execution."""
        self._check_detects()
        if self._finish is not None:
            raw = self.run_raw(images, depth)
            return self._finish(raw, len(images)), raw
        found = self._run_any(images, depth, DETECTION_OUTPUTS + self._raw_names)
        return _detections(found, len(images), self._max_detections), _raw(found)

    def observe(
        self, images: NDArray[np.float32], depth: AnyDepth, see: See
    ) -> dict[str, NDArray[np.generic]]:
        """Run every piece that ``depth`` runs, and call ``see(piece, tensors)`` after each: what a
        stage gives, and how long it takes, in the place where it runs. The outputs of the chain.

        Raises :class:`BundleError` where the artifact is no chain, or one that never leaves its
        device, and what :meth:`run` raises.
        """
        self._check(images)
        row = self.table.row(depth)
        with self._use:
            engine, feeds = self._engines.at(row)
            watch = getattr(engine, "observe", None)
            if watch is None:
                raise BundleError(
                    "stages can be looked at one by one only where the layout is stages and the "
                    "runtime one of graphs: add it with 'export --layout stages'"
                )
            given = {"images": np.ascontiguousarray(images), **feeds}
            found: dict[str, NDArray[np.generic]] = watch(given, engine.outputs, see)
            return found

    @property
    def memory(self) -> dict[str, MemoryUse]:
        """What the engines hold that are open, by the depth or layout they are for; empty where
        the runtime does not tell."""
        found = {name: getattr(item, "memory", None) for name, item in self._engines.opened()}
        return {name: use for name, use in found.items() if use is not None}

    def close(self) -> None:
        """Give back what runtimes hold; the session cannot be used any more. Without it, that
        happens when nothing refers to the session.

        Waits for calls that other threads have begun; those that come later raise
        :class:`UsageError`. Closing again does nothing, nor does closing in a process forked from
        the one that opened it, to which it belongs. Raises :class:`UsageError` in a handler of a
        signal that came during a call of the same thread.
        """
        if not self._use.end():
            return
        opened, self._engines = self._engines.opened(), _Closed(self._engines.depths())
        for _, item in opened:
            close = getattr(item, "close", None)
            if close is not None:
                close()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise not_portable("a session")

    def padded(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """``images``, the last one repeated where engines take no batch as small."""
        lacking = 0 if self.batch is None else self.batch.smallest - len(images)
        return images if lacking <= 0 else np.concatenate([images, *[images[-1:]] * lacking])

    @property
    def captured(self) -> bool | None:
        """Whether everything that is open launches runs as CUDA graphs; None where the runtime has
        no such thing."""
        found = [getattr(item, "captured", None) for _, item in self._engines.opened()]
        known = [bool(sizes) for sizes in found if sizes is not None]
        return all(known) if known else None

    def load(self, depths: Iterable[Depth | str | int] | None = None) -> None:
        """Open everything that ``depths`` need, or any depth of this session, instead of when it is
        needed. Where a runtime compiles each depth by itself (OpenVINO), those of ``depths`` are
        compiled, or those of the ladder."""
        rows = self._engines.depths() if depths is None else [self.table.row(d) for d in depths]
        with self._use:
            for row in rows:
                engine, feeds = self._engines.at(row)
                prepare = getattr(engine, "prepare", None)
                if prepare is not None and (
                    depths is not None or self.table.level(row) is not None
                ):
                    prepare(feeds)

    def warm(self, depth: Depth | str | int = "super", batch: int = 1) -> None:
        """Load the engine of ``depth`` and run it once on zeros."""
        run = self.run if self.detects else self.run_raw
        run(np.zeros((batch, 3, *self.size), np.float32), depth)

    def _run_any(
        self, images: NDArray[np.float32], depth: AnyDepth | Depths, outputs: tuple[str, ...]
    ) -> dict[str, NDArray[np.generic]]:
        """At one depth, or each image at its own."""
        if isinstance(depth, Depth | str) or not isinstance(depth, Sequence | np.ndarray):
            return self._run(images, depth, outputs)
        self._check(images)
        rows = np.asarray([self.table.row(item) for item in depth], np.int64)
        if len(rows) != len(images):
            raise InputError(
                f"{len(rows)} depths for {len(images)} images: expected one for each image, or a "
                "single one for all"
            )
        whole: dict[str, NDArray[np.generic]] = {}
        for row in np.unique(rows):
            places = np.flatnonzero(rows == row)
            own = images if len(places) == len(images) else images[places]
            found = self._run(self.padded(own), int(row), outputs)
            for name, array in found.items():
                if name not in whole:
                    whole[name] = np.empty((len(images), *array.shape[1:]), array.dtype)
                whole[name][places] = array[: len(places)]
        return whole

    def _run(
        self, images: NDArray[np.float32], depth: AnyDepth, outputs: tuple[str, ...]
    ) -> dict[str, NDArray[np.generic]]:
        self._check(images)
        row = self.table.row(depth)
        with self._use:
            engine, feeds = self._engines.at(row)
            missing = [name for name in outputs if name not in engine.outputs]
            if missing:
                raise BundleError(
                    f"this artifact has no outputs {shorten(missing)}: export the bundle with "
                    "--raw, or open the session with raw=True"
                )
            return engine.run({"images": np.ascontiguousarray(images), **feeds}, outputs)

    def _check_detects(self) -> None:
        if not self.detects:
            raise BundleError(
                "this bundle was exported with --nms none, so it gives predictions, not "
                "detections: use run_raw, or export with --nms graph or host"
            )

    def _check(self, images: NDArray[np.float32]) -> None:
        height, width = self.size
        shape: tuple[int, ...] = getattr(images, "shape", ())
        dtype = getattr(images, "dtype", None)
        if (
            dtype != np.float32
            or len(shape) != 4
            or shape[1:] != (3, height, width)
            or not shape[0]
        ):
            raise InputError(
                f"images must be float32 [N, 3, {height}, {width}] with N >= 1; "
                f"found {dtype if dtype is not None else type(images).__name__} {list(shape)}"
            )
        if self._finite:
            check_finite(images)


def check_finite(images: NDArray[np.float32]) -> None:
    """Raise :class:`InputError` for NaN and infinity in ``images``, float32 [N, 3, H, W], which
    would become scores that are NaN, and no detections."""
    with np.errstate(all="ignore"):
        # One pass, less than a hundredth of a call: the sum is finite where all numbers are, but
        # for huge ones, which are then looked at one by one.
        if np.isfinite(images.sum()):
            return
    wrong = np.argwhere(~np.isfinite(images))
    if len(wrong):
        place = wrong[0].tolist()
        raise InputError(
            f"images have {len(wrong)} values that are not finite, the first at {place} "
            f"({images[tuple(place)]}); expected numbers as the manifest's preprocessing gives them"
        )


class _Closed:
    """What a closed session has in place of engines, so that nothing keeps theirs in memory."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        self._depths = depths

    def at(self, row: int) -> NoReturn:
        raise UsageError("this session is closed: open the bundle again")

    def depths(self) -> tuple[int, ...]:
        return self._depths

    def opened(self) -> list[tuple[str, object]]:
        return []


def _detections(
    found: Mapping[str, NDArray[np.generic]], images: int, most: int | None
) -> Detections:
    """What is found in ``images`` images, each at most ``most`` times. Raises
    :class:`BundleError` for arrays that do not belong together."""
    detections = Detections(
        labels=_expected(_widened(found["labels"]), "labels", np.int64, 2),
        boxes=_expected(found["boxes"], "boxes", np.float32, 3),
        scores=_expected(found["scores"], "scores", np.float32, 2),
    )
    labels, boxes, scores = (
        array.shape for array in (detections.labels, detections.boxes, detections.scores)
    )
    if (
        labels[0] != images
        or (most is not None and labels[1] > most)
        or boxes != (*labels, 4)
        or scores != labels
    ):
        raise BundleError(
            f"the artifact gives labels {list(labels)}, boxes {list(boxes)} and scores "
            f"{list(scores)}, expected [{images}, K], [{images}, K, 4] and [{images}, K] with "
            f"one K{'' if most is None else f' of at most {most}'}: export it again"
        )
    return detections


def _expected(
    found: NDArray[np.generic], name: str, kind: type[_Kind], rank: int
) -> NDArray[_Kind]:
    if found.dtype != kind or found.ndim != rank:
        raise BundleError(
            f"the artifact gives {name} as {found.dtype} {list(found.shape)}, expected "
            f"{np.dtype(kind)} of {rank} dimensions: export it again"
        )
    return cast("NDArray[_Kind]", found)


def checked_predictions(
    raw: Mapping[str, NDArray[np.generic]], images: int, classes: int
) -> NDArray[np.float32]:
    """The predictions of so many images and classes, for the host to suppress. Raises
    :class:`BundleError` where they are none."""
    found = raw.get(PREDICTIONS)
    if found is None:
        raise BundleError(
            f"this bundle has no raw output '{PREDICTIONS}', which suppression on the host needs: "
            "export it again"
        )
    rows = 4 + classes
    if found.dtype != np.float32 or found.ndim != 3 or found.shape[:2] != (images, rows):
        raise BundleError(
            f"the artifact gives {PREDICTIONS} as {found.dtype} {list(found.shape)}, expected "
            f"float32 [{images}, {rows}, A]: export it again"
        )
    return cast("NDArray[np.float32]", found)


def _widened(array: NDArray[np.generic]) -> NDArray[np.generic]:
    # Engines of TensorRT 8.6 give 32 bits where the graph says 64.
    return array.astype(np.int64) if array.dtype == np.int32 else array


def _raw(found: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    raw = {name: array for name, array in found.items() if name.startswith("raw_")}
    return {name.removeprefix("raw_"): _widened(array) for name, array in raw.items()}

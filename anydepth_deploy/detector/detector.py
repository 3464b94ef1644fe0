"""A bundle, opened and ready for pictures of any kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from numbers import Integral
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import AnyDepth, Depths, Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detector.flow import Flow
from anydepth_deploy.detector.frames import AnyItem, is_live
from anydepth_deploy.detector.items import Reading
from anydepth_deploy.detector.result import Result, check_threshold
from anydepth_deploy.detector.sources import Skipped, Skips, items_of
from anydepth_deploy.detector.urls import TIMEOUT
from anydepth_deploy.errors import UsageError, shorten, shown
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.orientation import Orientation

__all__ = ["Detector", "load"]


class Detector:
    """A bundle and a session over it; see :func:`load`. May be called from several threads at once,
    like its :class:`~anydepth_deploy.bundle.session.Session`, and is closed like that."""

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        *,
        orientation: Orientation = "upright",
        max_pixels: int = MAX_PIXELS,
        timeout: float = TIMEOUT,
        latest: bool = True,
    ) -> None:
        self.bundle = bundle
        self.session = session
        self._class_names = tuple(bundle.classes)
        self._reading = Reading(
            bundle.manifest.preprocess, orientation == "upright", False, max_pixels, timeout, latest
        )

    def __repr__(self) -> str:
        return f"<Detector {shown(str(self.bundle.path))}: {self.session.described}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, by label."""
        return self._class_names

    @property
    def ladder(self) -> tuple[str, ...]:
        """The ladder in use, from base to super; any other depth of the bundle can be run, too."""
        return self.session.ladder

    def __call__(
        self,
        source: Any,
        depth: AnyDepth | Depths = "super",
        threshold: float = 0.5,
        batch: int = 1,
        *,
        ahead: int = 0,
        bgr: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> list[Result]:
        """Detect objects of at least ``threshold`` in every picture of ``source``, in order.

        ``source``: the path of a picture, a folder, a pattern (``street/**/*.jpg``), an http or
        https address, the path or address of a video, a picture of Pillow, an array uint8 [H, W, 3]
        in RGB (``bgr``: in BGR; [H, W, 4] without its last channel, [H, W] as grey), a tensor
        [C, H, W] or [N, C, H, W] of floats in 0..1 or uint8; or a list of these, or anything that
        gives them one by one. Cameras and streams have no end, and are for :meth:`stream`.
        ``depth``: text, a row or a :class:`Depth`, or one for each picture or whole video.
        ``batch``: pictures of a call, at most; engines may take fewer. ``ahead``: pictures that are
        read and prepared, in threads of their own, while others are computed.

        A picture of a folder or a pattern that cannot be used is left out: the log of this package
        says so, or it is added to the list ``skipped``. One that was named, or given, ends the run.
        A video that is cut or damaged in the middle ends there, which is said in the same way.

        Raises :class:`ImageError` for pictures, :class:`UsageError` for what is no source of them,
        :class:`MissingExtraError` for videos without PyAV, and what :meth:`Session.run` raises.
        """
        flow = self._flow(threshold, batch, ahead, bgr, skipped)
        found = self._depths(depth)  # refused before anything is looked for
        items = items_of(source, flow.skips)
        endless = [item.name for item in items if is_live(item)] if _is_known(items) else []
        if endless:
            raise UsageError(
                f"{shorten(endless)} has no end: use stream, which gives results one by one"
            )
        return [row[0] for row in flow.results(_paired(items, found))]

    predict = __call__
    """The same as calling the detector."""

    def stream(
        self,
        source: Any,
        depth: AnyDepth | Depths = "super",
        threshold: float = 0.5,
        batch: int = 1,
        *,
        ahead: int = 0,
        bgr: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> Iterator[Result]:
        """The same one by one: pictures are read, or taken from an iterator, ``batch`` at a time
        (and ``ahead`` more), so that a source may be endless.

        Cameras (their number, or ``/dev/videoN``) and streams (``rtsp://`` and the like) give their
        newest frame each time: those that come meanwhile are let go. The frame of a video keeps its
        pixels until the next result is asked for, and then reads them again. Closing the iterator,
        or dropping it, closes what it reads from.
        """
        flow = self._flow(threshold, batch, ahead, bgr, skipped)
        found = self._depths(depth)
        return _first(flow.results(self._pairs(source, found, flow)))

    def compare(
        self,
        source: Any,
        depths: Sequence[AnyDepth],
        threshold: float = 0.5,
        batch: int = 1,
        *,
        ahead: int = 0,
        bgr: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> Iterator[tuple[Result, ...]]:
        """Like :meth:`stream`, with every picture at each of ``depths``: that many results, of one
        picture that is read and prepared once."""
        flow = self._flow(threshold, batch, ahead, bgr, skipped)
        if isinstance(depths, str) or not len(depths):
            raise UsageError("compare takes a list of depths, of one or more")
        found = tuple(self.bundle.table.find(depth) for depth in depths)
        return flow.results(self._pairs(source, found, flow))

    def _flow(
        self, threshold: float, batch: int, ahead: int, bgr: bool, skipped: list[Skipped] | None
    ) -> Flow:
        check_threshold(threshold)
        if not _counts(batch, 1):
            raise UsageError(f"batch is {batch!r}: expected at least 1 picture per call")
        if not _counts(ahead, 0):
            raise UsageError(
                f"ahead is {ahead!r}: expected 0 pictures that are read ahead, or more"
            )
        if self.session.batch is not None:
            batch = min(batch, self.session.batch.largest)
        reading = replace(self._reading, bgr=bgr)
        skips, names = Skips(skipped), self._class_names
        return Flow(self.bundle, self.session, reading, threshold, batch, ahead, skips, names)

    def _depths(self, depth: AnyDepth | Depths) -> tuple[Depth, ...] | list[tuple[Depth, ...]]:
        if isinstance(depth, Depth | str) or not isinstance(depth, Sequence | np.ndarray):
            return (self.bundle.table.find(depth),)
        return [(self.bundle.table.find(item),) for item in depth]

    def _pairs(
        self, source: Any, depths: tuple[Depth, ...] | list[tuple[Depth, ...]], flow: Flow
    ) -> Iterator[tuple[AnyItem, tuple[Depth, ...]]]:
        items = items_of(source, flow.skips)
        if _is_known(items) and any(map(is_live, items)):
            flow.ahead = 0  # what is read ahead is old by the time it is its turn
        return _paired(items, depths)

    def close(self) -> None:
        """Give back what the runtime holds; the detector cannot be used any more."""
        self.session.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: str | Path | Bundle,
    *,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    layout: str | None = None,
    weights: str | None = None,
    target: str | None = None,
    threads: int | None = None,
    kept_depths: int | None = None,
    check: bool = True,
    preload: bool = False,
    orientation: Orientation = "upright",
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT,
    latest: bool = True,
) -> Detector:
    """Open the bundle in folder ``path`` as a detector of objects in pictures::

        detector = anydepth_deploy.load("engines/r50")
        for result in detector("street.jpg", depth="base"):
            print(result.names, result.scores, result.boxes)

    ``runtime`` to ``preload`` choose what runs, and how, as in :meth:`Bundle.session` (``layout``:
    its ``artifact``). ``orientation``: which way up pictures are read, ``upright`` as their EXIF
    data say, or ``stored``. ``max_pixels``: of a picture, and of what resizing it takes.
    ``timeout``: seconds for a picture that is fetched, and for a stream to answer. ``latest``:
    cameras and streams give their newest frame each time, and those that nobody asked for in time
    are let go; without it, every frame in order, as late as the network makes them.

    Raises :class:`BundleError`, :class:`UsageError` for an unknown runtime or precision, and
    :class:`MissingExtraError` where the runtime is not installed.
    """
    if orientation not in ("upright", "stored"):
        raise UsageError(f"unknown orientation '{orientation}': expected upright or stored")
    if not timeout > 0:
        raise UsageError(f"timeout is {timeout}: expected more than 0 seconds")
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    session = bundle.session(
        runtime=runtime,
        artifact=layout,
        precision=precision,
        weights=weights,
        target=target,
        threads=threads,
        kept_depths=kept_depths,
        check=check,
        preload=preload,
    )
    return Detector(
        bundle,
        session,
        orientation=orientation,
        max_pixels=max_pixels,
        timeout=timeout,
        latest=latest,
    )


def _is_known(items: Sequence[AnyItem] | Iterator[AnyItem]) -> TypeGuard[Sequence[AnyItem]]:
    return isinstance(items, Sequence)


def _first(rows: Iterator[tuple[Result, ...]]) -> Iterator[Result]:
    """Of pictures at one depth. Holds no result that the caller has let go of."""
    with contextlib.closing(rows):  # type: ignore[type-var]  # a generator
        while (row := next(rows, None)) is not None:
            (result,) = row
            del row
            yield result
            del result


def _paired(
    items: Sequence[AnyItem] | Iterator[AnyItem],
    depths: tuple[Depth, ...] | list[tuple[Depth, ...]],
) -> Iterator[tuple[AnyItem, tuple[Depth, ...]]]:
    """Each picture with its depths: the same for all, or a list of them; of an iterator, it shows
    on the way where there are more of one than of the other."""
    if isinstance(depths, tuple):
        return zip(items, repeat(depths))  # repeated without an end
    if isinstance(items, Sequence) and len(items) != len(depths):
        raise _not_as_many(len(depths), str(len(items)))
    return _one_each(items, depths)


def _one_each(
    items: Iterable[AnyItem], depths: Sequence[tuple[Depth, ...]]
) -> Iterator[tuple[AnyItem, tuple[Depth, ...]]]:
    count = 0
    for count, item in enumerate(items, 1):
        if count > len(depths):
            raise _not_as_many(len(depths), "more")
        yield item, depths[count - 1]
    if count < len(depths):
        raise _not_as_many(len(depths), str(count))


def _not_as_many(depths: int, pictures: str) -> UsageError:
    return UsageError(
        f"{depths} depths for {pictures} pictures: expected one for each, or a single one for all"
    )


def _counts(value: object, least: int) -> bool:
    """Whether it is a whole number of at least ``least``."""
    return isinstance(value, Integral) and int(value) >= least

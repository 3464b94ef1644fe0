"""A bundle, opened and ready for pictures of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import AnyDepth, Depths, Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detector.items import FilePicture, Item, Picture, Reading
from anydepth_deploy.detector.result import Result
from anydepth_deploy.detector.sources import Skipped, Skips, items_of
from anydepth_deploy.detector.urls import TIMEOUT
from anydepth_deploy.errors import ImageError, UsageError, shown
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Geometry, prepare
from anydepth_deploy.pictures.orientation import Orientation

__all__ = ["Detector", "load"]


@dataclass(frozen=True)
class _Prepared:
    picture: Picture
    reading: Reading
    depth: Depth
    inputs: NDArray[np.float32]
    geometry: Geometry


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
    ) -> None:
        self.bundle = bundle
        self.session = session
        self._class_names = tuple(bundle.classes)
        self._reading = Reading(
            bundle.manifest.preprocess, orientation == "upright", False, max_pixels, timeout
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
        bgr: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> list[Result]:
        """Detect objects of at least ``threshold`` in every picture of ``source``, in order.

        ``source``: the path of a picture, a folder, a pattern (``street/**/*.jpg``), an http or
        https address, a picture of Pillow, an array uint8 [H, W, 3] in RGB (``bgr``: in BGR;
        [H, W, 4] without its last channel, [H, W] as grey), a tensor [C, H, W] or [N, C, H, W] of
        floats in 0..1 or uint8; or a list of these, or anything that gives them one by one.
        ``depth``: text, a row or a :class:`Depth`, or one for each picture. ``batch``: pictures of
        a call, at most; engines may take fewer.

        A picture of a folder or a pattern that cannot be used is left out: the log of this package
        says so, or it is added to the list ``skipped``. One that was named, or given, ends the run.

        Raises :class:`ImageError` for pictures, :class:`UsageError` for what is no source of them,
        and what :meth:`Session.run` raises.
        """
        return list(self.stream(source, depth, threshold, batch, bgr=bgr, skipped=skipped))

    predict = __call__
    """The same as calling the detector."""

    def stream(
        self,
        source: Any,
        depth: AnyDepth | Depths = "super",
        threshold: float = 0.5,
        batch: int = 1,
        *,
        bgr: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> Iterator[Result]:
        """The same one by one: pictures are read, or taken from an iterator, ``batch`` at a time,
        so that a source may be endless."""
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is {threshold}: expected a score from 0 to 1")
        if batch < 1:
            raise UsageError(f"batch is {batch}: expected at least 1 picture per call")
        if self.session.batch is not None:
            batch = min(batch, self.session.batch.largest)
        found = self._depths(depth)  # refused before anything is looked for
        skips = Skips(skipped)
        items = items_of(source, skips)
        reading = replace(self._reading, bgr=bgr)
        return self._stream(_paired(items, found), reading, threshold, batch, skips)

    def _depths(self, depth: AnyDepth | Depths) -> Depth | list[Depth]:
        if isinstance(depth, Depth | str) or not isinstance(depth, Sequence | np.ndarray):
            return self.bundle.table.find(depth)
        return [self.bundle.table.find(item) for item in depth]

    def _stream(
        self,
        asked: Iterable[tuple[Item, Depth]],
        reading: Reading,
        threshold: float,
        batch: int,
        skips: Skips,
    ) -> Iterator[Result]:
        ready = self._prepared(asked, reading, skips)
        while chunk := list(islice(ready, batch)):
            results = self._run(chunk, threshold)
            del chunk  # or what the caller has let go of would stay until the next one is read
            results.reverse()
            while results:
                yield results.pop()

    def _prepared(
        self, asked: Iterable[tuple[Item, Depth]], reading: Reading, skips: Skips
    ) -> Iterator[_Prepared]:
        for item, depth in asked:
            try:
                yield _prepare(item, reading, depth)
            except ImageError as error:
                if not isinstance(item, FilePicture) or not item.found:
                    raise
                skips.add(item.path, str(error))

    @usual_arithmetic()
    def _run(self, chunk: Sequence[_Prepared], threshold: float) -> list[Result]:
        images = np.stack([item.inputs for item in chunk])
        depths = [item.depth for item in chunk]
        if len(set(depths)) == 1:
            found = self.session.run(self.session.padded(images), depths[0])
        else:
            found = self.session.run(images, depths)
        results = []
        for place, item in enumerate(chunk):
            one = found.image(place, threshold)
            for label in np.unique(one.labels[0]):
                self.bundle.class_name(int(label))  # raises where there is none
            results.append(
                Result(
                    item.geometry.to_picture(one.boxes[0]),
                    one.scores[0],
                    one.labels[0],
                    self._class_names,
                    str(item.depth),
                    item.geometry.size,
                    item.picture,
                    item.reading,
                )
            )
        return results

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
) -> Detector:
    """Open the bundle in folder ``path`` as a detector of objects in pictures::

        detector = anydepth_deploy.load("engines/r50")
        for result in detector("street.jpg", depth="base"):
            print(result.names, result.scores, result.boxes)

    ``runtime`` to ``preload`` choose what runs, and how, as in :meth:`Bundle.session` (``layout``:
    its ``artifact``). ``orientation``: which way up pictures are read, ``upright`` as their EXIF
    data say, or ``stored``. ``max_pixels``: of a picture, and of what resizing it takes.
    ``timeout``: seconds for a picture that is fetched.

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
        bundle, session, orientation=orientation, max_pixels=max_pixels, timeout=timeout
    )


def _prepare(item: Item, reading: Reading, depth: Depth) -> _Prepared:
    picture = item.had(reading)
    pixels = picture.pixels(reading)
    inputs, geometry = prepare(pixels, reading.recipe, max_pixels=reading.max_pixels)
    return _Prepared(picture, reading, depth, inputs, geometry)


def _paired(
    items: Sequence[Item] | Iterator[Item], depths: Depth | Sequence[Depth]
) -> Iterator[tuple[Item, Depth]]:
    """Each picture with its depth; of an iterator, it shows on the way where there are more of one
    than of the other."""
    if isinstance(depths, Depth):
        return zip(items, repeat(depths))  # repeated without an end
    if isinstance(items, Sequence) and len(items) != len(depths):
        raise _not_as_many(len(depths), str(len(items)))
    return _one_each(items, depths)


def _one_each(items: Iterable[Item], depths: Sequence[Depth]) -> Iterator[tuple[Item, Depth]]:
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

"""COCO average precision of the artifact itself, per depth."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.annotations.boxes import check_areas, check_boxes, check_pictures
from anydepth_deploy.annotations.categories import Matching, match_classes
from anydepth_deploy.annotations.coco import read_coco
from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.annotations.scoring import coco_class, coco_figures, coco_rows
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.choose import SESSION_PRECISIONS, choose_artifacts
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import file_sha256, utc_now, write_or_refuse
from anydepth_deploy.errors import ImageError, UsageError
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.manifest import made_for, rounds_to_half
from anydepth_deploy.pictures.annotated import find_annotated
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare_batch
from anydepth_deploy.pictures.orientation import Orientation
from anydepth_deploy.progress import Progress
from anydepth_deploy.runtimes.registry import graph_targets, runs_on, runtime_computes

__all__ = [
    "Accuracy",
    "ClassAccuracy",
    "CocoData",
    "Found",
    "Labelled",
    "LostClass",
    "check_precisions",
    "evaluate",
    "lost_classes",
    "pareto_ladder",
    "precisions_of",
    "score_depths",
    "write_ladder",
]


Found = Mapping[Depth, Sequence[NDArray[np.float64]]]
"""What each depth found: an array a picture, [K, 7] of image id, x, y, width and height in pixels
of the picture, score, category id."""


@dataclass(frozen=True)
class ClassAccuracy:
    """Average precision of one class in percent, IoU 0.50:0.95; -1 where the data has none of it.

    ``name``: of the class, or of a category that no class is. ``objects``: how many there are to
    find, crowds aside.
    """

    name: str
    ap: float
    objects: int


@dataclass(frozen=True)
class LostClass:
    """A class whose AP at base is below that at super; AP in percent, ``fall`` in points."""

    precision: str
    name: str
    objects: int
    super: float
    base: float
    fall: float


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics of one depth, in percent; -1 where the data has no such objects.

    ``precision``: as for :meth:`Bundle.session`. ``ap``: IoU 0.50:0.95, all sizes, at most 100
    detections an image.
    """

    precision: str
    depth: str
    level: int | None
    macs: int
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    classes: tuple[ClassAccuracy, ...] = ()
    """In the order of the categories' ids; ``ap`` is the mean of those that the data has."""

    def record(self) -> dict[str, Any]:
        """What a manifest keeps: without the classes, of which there may be many."""
        found = asdict(self)
        del found["classes"]
        return found


class Labelled(Protocol):
    """Pictures with what there is to find in them, in COCO's terms; :class:`CocoData` is one."""

    path: Path
    content: dict[str, Any]
    images: list[dict[str, Any]]
    max_pixels: int

    def load(self, item: dict[str, Any], recipe: Preprocess | None = None) -> NDArray[np.uint8]:
        """The picture of one of ``images``, uint8 [H, W, 3]."""
        ...


class CocoData:
    """Pictures with annotations in COCO's format.

    What annotations may leave out is filled in: ``area`` (width * height) and ``iscrowd`` (0).
    ``orientation``: which way up the annotations mean all pictures; None: as their sizes say, see
    :mod:`anydepth_deploy.pictures.annotated`. ``findings``: what is odd about pictures, boxes and
    areas, and changes figures. ``max_pixels``: of each picture, and of what resizing it takes.
    Raises :class:`ImageError` when the file is unreadable, has no annotated pictures, contradicts
    itself, names pictures that are not in ``images`` or cannot be read, gives them sizes that are
    not theirs, or has boxes most of which cannot be x, y, width and height in pixels.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None = None,
        orientation: Orientation | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.path = Path(annotations)
        self.max_pixels = max_pixels
        self.content = read_coco(self.path)
        self.folder = Path(images) if images is not None else self.path.parent
        self.images: list[dict[str, Any]] = sorted(
            self.content["images"], key=lambda item: int(item["id"])
        )
        self.annotated = find_annotated(
            self.path, self.folder, self.images, orientation, max_pixels=max_pixels
        )
        sizes = {key: item.size for key, item in self.annotated.pictures.items()}
        frames = {key: (float(width), float(height)) for key, (height, width) in sizes.items()}
        boxes = check_boxes(self.path, self.content, frames)
        self.content["annotations"], areas = check_areas(self.content)
        self.findings: list[Finding] = [*check_pictures(self.images), *boxes, *areas]

    def load(self, item: dict[str, Any], recipe: Preprocess | None = None) -> NDArray[np.uint8]:
        """The picture of one of ``images`` as its annotations mean it, uint8 [H, W, 3].

        ``recipe``: what it is going to be prepared by. Raises :class:`ImageError`.
        """
        picture = self.annotated.pictures[item["id"]]
        return load_image(
            picture.path, upright=picture.upright, max_pixels=self.max_pixels, recipe=recipe
        )

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of the annotations, the pictures, and which way up they are read.

        Raises :class:`ImageError`.
        """
        digest = hashlib.sha256()
        try:
            digest.update(file_sha256(self.path).encode())
            for item in self.images:
                picture = self.annotated.pictures[item["id"]]
                digest.update(f"{file_sha256(picture.path)} {picture.size}".encode())
        except OSError as error:
            raise ImageError(
                f"{error.filename} cannot be read again: {error.strerror}; leave the data set as "
                "it is while it is evaluated"
            ) from None
        return digest.hexdigest()

    def category_ids(self, classes: Sequence[str]) -> list[int]:
        """The category id of each class of a network; see :meth:`mapping`."""
        return self.mapping(classes).ids

    def mapping(self, classes: Sequence[str], *, by_rank: bool = False) -> Matching:
        """The category of each class of a network; see :func:`match_classes`."""
        return match_classes(self.path, self.content, classes, by_rank=by_rank)


@usual_arithmetic()
def evaluate(
    bundle: Bundle,
    data: CocoData,
    depths: Sequence[Depth],
    *,
    layout: str | None = None,
    weights: str | None = None,
    precision: str = "fp32",
    target: str | None = None,
    runtime: str = "onnxruntime",
    batch: int = 8,
    threads: int | None = None,
    progress: Progress | None = None,
    record: bool = True,
    match_by_rank: bool = False,
    keep: Callable[[Found], object] | None = None,
) -> list[Accuracy]:
    """COCO average precision of ``bundle`` at each of ``depths``, in their order.

    ``layout``, ``weights``, ``precision`` and ``target`` choose the artifacts as in
    :meth:`Bundle.session`. Each picture is prepared once and run at every depth; ``batch`` gives
    way to the profile of an engine. ``match_by_rank``: as in :func:`match_classes`. ``keep`` is
    called once with all that was found. The outcome is recorded in the manifest, with the artifacts
    that were measured and the hash of the data.

    Raises :class:`MissingExtraError` without the extra ``eval``, :class:`ImageError` when classes
    and categories do not fit, and what sessions raise.
    """
    coco_class()  # refused before the pictures are read
    if batch < 1:
        raise UsageError(f"batch is {batch}: expected at least 1 picture per call")
    matching = data.mapping(bundle.classes, by_rank=match_by_rank)
    digest = data.sha256 if record else ""  # now: a picture that is gone must not cost the figures
    rows_of_session = {None, *(bundle.table.row(depth) for depth in depths)}
    chosen = choose_artifacts(bundle, layout, precision, weights, target, runtime)
    measured = [item for item in chosen if item.row in rows_of_session]
    session = bundle.session(
        runtime=runtime,
        artifact=layout,
        precision=precision,
        weights=weights,
        target=target,
        threads=threads,
        rounded=any(rounds_to_half(item) for item in measured),
    )
    rows = score_depths(
        bundle,
        session,
        data,
        matching.ids,
        depths,
        precision,
        batch=batch,
        progress=progress,
        keep=keep,
    )
    if record:
        result = {
            "when": utc_now(),
            "runtime": runtime,
            "precision": precision,
            "artifacts": [{"name": item.name, "sha256": item.sha256} for item in measured],
            "data": data.path.name,
            "data_sha256": digest,
            "pictures": len(data.images),
            "orientation": data.annotated.orientation,
            "mapped_by": matching.mapped_by,
            "matched": matching.record(),
            "findings": [item.record() for item in (*data.findings, *matching.findings)],
            "rows": [row.record() for row in rows],
        }
        bundle.record("eval", result, by="data_sha256")
    return rows


def score_depths(
    bundle: Bundle,
    session: Session,
    data: Labelled,
    ids: Sequence[int],
    depths: Sequence[Depth],
    precision: str,
    *,
    batch: int = 8,
    progress: Progress | None = None,
    keep: Callable[[Found], object] | None = None,
) -> list[Accuracy]:
    """Average precision of an open session of ``bundle`` at each of ``depths``; ``ids``: of the
    category of each class in ``data``; ``keep`` is called with what was found.
    Raises as :func:`evaluate` does."""
    coco = coco_class()
    if session.batch is not None:
        batch = min(batch, session.batch.largest)
    found: dict[Depth, list[NDArray[np.float64]]] = {depth: [] for depth in depths}
    for start in range(0, len(data.images), batch):
        if progress is not None:
            progress("evaluating", start, len(data.images))
        chunk = data.images[start : start + batch]
        _run_chunk(session, bundle, data, chunk, np.asarray(ids), found)
    if progress is not None:
        progress("scoring", len(data.images), len(data.images))
    if keep is not None:
        keep(found)
    names = {int(item["id"]): str(item["name"]) for item in data.content["categories"]}
    names |= {int(key): name for key, name in zip(ids, bundle.classes, strict=True)}
    return [
        _score(coco, data.content, found[depth], depth, bundle, precision, names)
        for depth in depths
    ]


def precisions_of(
    bundle: Bundle,
    layout: str | None = None,
    runtime: str = "onnxruntime",
    target: str | None = None,
) -> list[str]:
    """The precisions that ``bundle`` has artifacts of and ``runtime`` can compute them in."""
    found: set[str] = {
        item.precision
        for item in bundle.artifacts(layout)
        if runs_on(item, runtime)
        and (item.engine is not None or made_for(item, graph_targets(runtime, target)))
    }
    if "fp32" in found:
        found |= set(runtime_computes(runtime))
    return [precision for precision in SESSION_PRECISIONS if precision in found]


def check_precisions(
    bundle: Bundle,
    precisions: Sequence[str],
    *,
    layout: str | None = None,
    weights: str | None = None,
    runtime: str = "onnxruntime",
    target: str | None = None,
) -> list[str]:
    """``precisions`` without repetitions, when all of them can be evaluated; ``all`` is what
    :func:`precisions_of` gives. Raises what :func:`evaluate` would raise, before its long work."""
    if list(precisions) == ["all"]:
        return precisions_of(bundle, layout, runtime, target)
    if not precisions:
        raise UsageError(f"no precision is given: expected {', '.join(SESSION_PRECISIONS)}, or all")
    for name in precisions:
        choose_artifacts(bundle, layout, name, weights, target, runtime)
    return list(dict.fromkeys(precisions))


def pareto_ladder(bundle: Bundle, rows: Sequence[Accuracy]) -> list[str]:
    """The ladder that measured accuracy supports: from base to super, each rung more accurate
    than every cheaper one. Rungs that cost more and give nothing are left out; super ends it.
    """
    base, top = str(bundle.table.space.base), str(bundle.table.space.super)
    by_depth = {row.depth: row for row in rows}
    if base not in by_depth or top not in by_depth:
        raise UsageError("a ladder needs the accuracy of base and super: evaluate 'every' or both")
    rungs = [by_depth[base]]
    for row in sorted(rows, key=lambda row: (row.macs, -row.ap)):
        cheaper_than_super = row.macs < by_depth[top].macs
        if cheaper_than_super and row.macs > rungs[-1].macs and row.ap > rungs[-1].ap:
            rungs.append(row)
    return list(dict.fromkeys([*(row.depth for row in rungs), top]))  # they may be one depth


def lost_classes(bundle: Bundle, rows: Sequence[Accuracy]) -> list[LostClass]:
    """The classes that lose AP between super and base, the largest fall first, by precision.

    Empty where ``rows`` lack super or base, or nothing falls.
    """
    base, top = str(bundle.table.space.base), str(bundle.table.space.super)
    found: list[LostClass] = []
    for precision in dict.fromkeys(row.precision for row in rows):
        ends = {row.depth: row.classes for row in rows if row.precision == precision}
        lost = [
            LostClass(precision, high.name, high.objects, high.ap, low.ap, round(fall, 2))
            for high, low in zip(ends.get(top, ()), ends.get(base, ()), strict=False)
            if high.ap >= 0 and (fall := high.ap - low.ap) > 0
        ]
        found += sorted(lost, key=lambda item: (-item.fall, item.name))
    return found


def write_ladder(path: str | Path, ladder: Sequence[str]) -> None:
    """Write a ladder file that ``export --ladder`` reads."""
    content = (json.dumps({"ladder": list(ladder)}, indent=2) + "\n").encode()
    write_or_refuse(Path(path), lambda file: file.write(content), "ladder file", UsageError)


def _run_chunk(
    session: Session,
    bundle: Bundle,
    data: Labelled,
    chunk: Sequence[dict[str, Any]],
    ids: NDArray[np.int64],
    found: dict[Depth, list[NDArray[np.float64]]],
) -> None:
    """Append one array a picture: [K, 7] of image id, x, y, width, height, score, category id."""
    recipe = bundle.manifest.preprocess
    pictures = [data.load(item, recipe) for item in chunk]
    images, geometries = prepare_batch(pictures, recipe, max_pixels=data.max_pixels)
    images = session.padded(images)
    for depth, results in found.items():
        detected = list(session.run(images, depth))[: len(chunk)]
        for item, geometry, one in zip(chunk, geometries, detected, strict=True):
            for label in np.unique(one.labels[0]):
                bundle.class_name(int(label))  # raises where there is none
            results.append(coco_rows(item["id"], one, geometry.to_picture(one.boxes[0]), ids))


def _score(
    coco: Any,
    content: dict[str, Any],
    results: list[NDArray[np.float64]],
    depth: Depth,
    bundle: Bundle,
    precision: str,
    names: Mapping[int, str],
) -> Accuracy:
    figures = coco_figures(content, results, coco)
    objects = Counter(
        int(item["category_id"]) for item in content["annotations"] if not item["iscrowd"]
    )
    ap, ap50, ap75, small, medium, large = map(_percent, figures.stats[:6])
    return Accuracy(
        precision,
        str(depth),
        bundle.table.level(depth),
        bundle.macs(depth)["total"],
        ap,
        ap50,
        ap75,
        small,
        medium,
        large,
        tuple(
            ClassAccuracy(names[key], _percent(value), objects[key])
            for key, value in figures.by_category.items()
        ),
    )


def _percent(value: float) -> float:
    return round(100 * float(value), 2) if value >= 0 else -1.0

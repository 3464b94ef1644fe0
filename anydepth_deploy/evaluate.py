"""COCO average precision of the artifact itself, per depth."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bundle import Bundle
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import ImageError, MissingExtraError, UsageError, shorten
from anydepth_deploy.images import load_image, prepare_batch
from anydepth_deploy.session import Session

__all__ = ["Accuracy", "CocoData", "evaluate", "pareto_ladder", "write_ladder"]


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics of one depth, in percent; -1 where the data has no such objects.

    ``ap``: IoU 0.50:0.95, all sizes, at most 100 detections an image.
    """

    depth: str
    level: int | None
    macs: int
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float


class CocoData:
    """Pictures with annotations in COCO's format.

    Raises :class:`ImageError` when the file is unreadable, has no annotated pictures, or names
    pictures that are not in ``images``.
    """

    def __init__(self, annotations: str | Path, images: str | Path | None = None) -> None:
        self.path = Path(annotations)
        self.content = _read_annotations(self.path)
        self.folder = Path(images) if images is not None else self.path.parent
        self.images: list[dict[str, Any]] = sorted(
            self.content["images"], key=lambda item: int(item["id"])
        )
        missing = [
            str(item["file_name"])
            for item in self.images
            if not (self.folder / item["file_name"]).is_file()
        ]
        if missing:
            raise ImageError(
                f"{self.path} names {len(self.images)} pictures, {len(missing)} of which are not "
                f"in {self.folder}: {shorten(missing, 3)}; give their folder with --images"
            )

    def category_ids(self, classes: Sequence[str]) -> list[int]:
        """The category id of each class of a network, by name, or by rank when names differ.

        Raises :class:`ImageError` when neither fits.
        """
        categories = sorted(self.content["categories"], key=lambda item: int(item["id"]))
        by_name = {str(item["name"]): int(item["id"]) for item in categories}
        if all(name in by_name for name in classes):
            return [by_name[name] for name in classes]
        if len(categories) == len(classes):
            return [int(item["id"]) for item in categories]
        unknown = [name for name in classes if name not in by_name]
        raise ImageError(
            f"{self.path} has {len(categories)} categories, the network {len(classes)} classes, "
            f"and it has no category named {shorten(unknown, 4)}"
        )


def evaluate(
    bundle: Bundle,
    data: CocoData,
    depths: Sequence[Depth],
    *,
    layout: str | None = None,
    runtime: str = "onnxruntime",
    batch: int = 8,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    record: bool = True,
) -> list[Accuracy]:
    """COCO average precision of ``bundle`` at each of ``depths``, in their order.

    Each picture is prepared once and run at every depth. The outcome is recorded in the manifest.
    Raises :class:`MissingExtraError` without the extra ``eval``, and what sessions raise.
    """
    coco = _coco_class()
    session = bundle.session(runtime=runtime, artifact=layout, threads=threads)
    ids = np.asarray(data.category_ids(bundle.classes))
    found: dict[Depth, list[NDArray[np.float64]]] = {depth: [] for depth in depths}
    for start in range(0, len(data.images), batch):
        if progress is not None:
            progress("evaluating", start, len(data.images))
        chunk = data.images[start : start + batch]
        _run_chunk(session, bundle, data.folder, chunk, ids, found)
    if progress is not None:
        progress("scoring", len(data.images), len(data.images))
    rows = [_score(coco, data.content, found[depth], depth, bundle) for depth in depths]
    if record:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        result = {
            "when": now,
            "runtime": runtime,
            "data": data.path.name,
            "pictures": len(data.images),
            "rows": [asdict(row) for row in rows],
        }
        bundle.record("eval", result)
    return rows


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
    return [*(row.depth for row in rungs), top]


def write_ladder(path: str | Path, ladder: Sequence[str]) -> None:
    """Write a ladder file that ``export --ladder`` reads."""
    try:
        Path(path).write_text(json.dumps({"ladder": list(ladder)}, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"ladder file {path} cannot be written: {error.strerror}") from None


def _run_chunk(
    session: Session,
    bundle: Bundle,
    folder: Path,
    chunk: Sequence[dict[str, Any]],
    ids: NDArray[np.int64],
    found: dict[Depth, list[NDArray[np.float64]]],
) -> None:
    """Append one array a picture: [K, 7] of image id, x, y, width, height, score, category id."""
    pictures = [load_image(folder / item["file_name"]) for item in chunk]
    images, geometries = prepare_batch(pictures, bundle.manifest.preprocess)
    for depth, results in found.items():
        for item, geometry, one in zip(chunk, geometries, session.run(images, depth), strict=True):
            boxes = geometry.to_picture(one.boxes[0]).astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            image_ids = np.full(len(boxes), item["id"])
            results.append(np.column_stack([image_ids, boxes, one.scores[0], ids[one.labels[0]]]))


def _score(
    coco: Any,
    content: dict[str, Any],
    results: list[NDArray[np.float64]],
    depth: Depth,
    bundle: Bundle,
) -> Accuracy:
    from faster_coco_eval import COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(content)
        detections = truth.loadRes(np.concatenate(results))
        evaluation = COCOeval_faster(truth, detections, "bbox", print_function=_silent)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    percent = [round(100 * float(value), 2) if value >= 0 else -1.0 for value in evaluation.stats]
    return Accuracy(
        str(depth), bundle.table.level(depth), bundle.macs(depth)["total"], *percent[:6]
    )


def _silent(*_: object, **__: object) -> None:
    return None


def _coco_class() -> Any:
    try:
        from faster_coco_eval import COCO
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval", "average precision") from None
    return COCO


def _read_annotations(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageError(f"annotations {path} do not exist; expected a COCO JSON file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"annotations {path} cannot be read as JSON: {error}") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in lists
    ):
        raise ImageError(
            f"annotations {path} are not in COCO's format: expected the lists {', '.join(lists)}"
        )
    if not content["images"] or not content["annotations"]:
        raise ImageError(f"annotations {path} hold no annotated picture")
    required = {
        "images": ("id", "file_name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for name, keys in required.items():
        for index, item in enumerate(content[name]):
            lacking = [key for key in keys if not isinstance(item, dict) or key not in item]
            if lacking:
                raise ImageError(f"annotations {path}: {name}[{index}] has no {', '.join(lacking)}")
            if not isinstance(item["id"], int):
                raise ImageError(
                    f"annotations {path}: {name}[{index}] has an id that is no integer"
                )
        if len({item["id"] for item in content[name]}) < len(content[name]):
            raise ImageError(f"annotations {path}: two of the {name} have the same id")
    for index, item in enumerate(content["annotations"]):
        box = item["bbox"]
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(isinstance(side, int | float) for side in box)
        ):
            raise ImageError(
                f"annotations {path}: annotations[{index}] has the bbox {str(box)[:60]}, expected "
                "the numbers x, y, width, height"
            )
    return content

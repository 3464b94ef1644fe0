"""Average precision of an artifact: against hand-made answers and a second implementation."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from command_line import Run, fails
from handmade import LADDER, MACS, manifest
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.annotations import difference_files
from anydepth_deploy.annotations.difference_files import read_differences
from anydepth_deploy.annotations.results_files import write_results
from anydepth_deploy.bench.report.html.evaluated import read_evaluation
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.files import MANIFEST
from anydepth_deploy.bundle.writer import BundleWriter
from anydepth_deploy.depth import Depth, parse_ladder
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, ImageError, MissingExtraError, UsageError
from anydepth_deploy.evaluation import (
    Accuracy,
    ClassAccuracy,
    CocoData,
    evaluate,
    lost_classes,
    pareto_ladder,
    write_ladder,
)
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.pictures.shapes import write_coco
from anydepth_deploy.verbs.evaluate import evaluate as ad_evaluate

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the picture."""
Found = tuple[int, Box, float]
"""Category id, box, score."""

WIDTH, HEIGHT, SIDE = 200, 120, 64
CATEGORIES = [{"id": 3, "name": "star"}, {"id": 7, "name": "circle"}, {"id": 9, "name": "square"}]
CLASS_OF = {7: 0, 9: 1, 3: 2}  # the bundle's classes: circle, square, star
TRUTH: dict[int, list[tuple[int, Box]]] = {
    4: [(7, (10, 10, 40, 30)), (9, (100, 20, 60, 60))],
    2: [(7, (5, 50, 81, 40)), (7, (120, 15, 30, 20)), (3, (60, 60, 50, 50))],
    11: [(9, (0, 0, 162, 100))],
}


def artifact(name: str, layout: Literal["gated", "set"], **fields: Any) -> Artifact:
    return Artifact(
        name=name,
        file=f"{name}.onnx",
        layout=layout,
        **{"weights": "folded", **fields},
        opset=18,
        bytes=0,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        built_with={},
        build_seconds=0.0,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose artifacts have no files; its sessions are made up by the tests."""
    empty = manifest()
    with BundleWriter(tmp_path / "bundle", empty):
        pass
    static = [
        artifact(f"static-{row.depth}", "set", depth=row.depth, row=row.index)
        for row in empty.depths
    ]
    gated = [artifact("gated-shared", "gated", weights="shared"), artifact("gated-folded", "gated")]
    full = empty.model_copy(update={"artifacts": [*gated, *static]})
    (tmp_path / "bundle" / MANIFEST).write_text(full.model_dump_json())
    return open_bundle(tmp_path / "bundle")


def write_data(folder: Path, **changes: Any) -> Path:
    """Three empty pictures with the annotations ``TRUTH``."""
    folder.mkdir(exist_ok=True)
    boxes = [(image, *item) for image, items in TRUTH.items() for item in items]
    content: dict[str, Any] = {
        "images": [
            {"id": image, "file_name": f"{image}.png", "width": WIDTH, "height": HEIGHT}
            for image in TRUTH
        ],
        "categories": CATEGORIES,
        "annotations": [
            {
                "id": index + 1,
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for index, (image, category, box) in enumerate(boxes)
        ],
    }
    for image in TRUTH:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{image}.png")
    path = folder / "annotations.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.fixture
def data(tmp_path: Path) -> CocoData:
    return CocoData(write_data(tmp_path / "data"))


class FakeSession:
    """Answers with given detections, in the order of the pictures' ids, at every depth alike."""

    def __init__(self, found: dict[int, list[Found]]) -> None:
        self.found = found
        self.calls: list[tuple[str, int]] = []
        self.seen: dict[str, int] = {}

    batch = None

    def padded(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return images

    def run(self, images: NDArray[np.float32], depth: Depth) -> Detections:
        assert images.shape[1:] == (3, SIDE, SIDE)
        self.calls.append((str(depth), len(images)))
        start = self.seen.get(str(depth), 0)
        self.seen[str(depth)] = start + len(images)
        chunk = [self.found.get(image, []) for image in sorted(TRUTH)[start : start + len(images)]]
        count = max(len(items) for items in self.found.values()) if self.found else 0
        labels = np.zeros((len(images), count), np.int64)
        boxes = np.zeros((len(images), count, 4), np.float32)
        scores = np.zeros((len(images), count), np.float32)
        scale = np.array([SIDE / WIDTH, SIDE / HEIGHT] * 2)
        for row, items in enumerate(chunk):
            for column, (category, (x, y, w, h), score) in enumerate(items):
                labels[row, column] = CLASS_OF[category]
                boxes[row, column] = np.array([x, y, x + w, y + h]) * scale
                scores[row, column] = score
        return Detections(labels, boxes, scores)


Evaluate = Callable[..., list[Accuracy]]


@pytest.fixture
def score(bundle: Bundle, data: CocoData, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """The accuracy of made-up detections."""

    def run(found: dict[int, list[Found]], depths: Sequence[str] = ("base",)) -> list[Accuracy]:
        session = FakeSession(found)
        monkeypatch.setattr(Bundle, "session", lambda *_, **__: session)
        chosen = [bundle.table.find(depth) for depth in depths]
        return evaluate(bundle, data, chosen, batch=2)

    return run


def shifted(share: float) -> dict[int, list[Found]]:
    """Every box moved right by a share of its width."""
    return {
        image: [
            (category, (x + share * w, y, w, h), 0.9 - 0.1 * index)
            for index, (category, (x, y, w, h)) in enumerate(items)
        ]
        for image, items in TRUTH.items()
    }


def test_perfect_detections(score: Evaluate) -> None:
    (row,) = score(shifted(0.0))
    assert (row.ap, row.ap50, row.ap75) == (100, 100, 100)
    assert (row.ap_small, row.ap_medium, row.ap_large) == (100, 100, 100)
    assert (row.depth, row.level, row.macs) == ("TT-1", 0, MACS["TT-1"])


@pytest.mark.parametrize("label", [-2, 3, 99])
def test_labels_that_no_class_has(
    score: Evaluate, monkeypatch: pytest.MonkeyPatch, label: int
) -> None:
    monkeypatch.setitem(CLASS_OF, next(iter(CLASS_OF)), label)
    with pytest.raises(BundleError, match=f"find the label {label}, its manifest names 3 classes"):
        score(shifted(0.0))


def test_shifted_detections(score: Evaluate) -> None:
    # Moved by d of the width, boxes share (1 - d) / (1 + d) of their union: here 0.62, which
    # passes at 0.50, 0.55 and 0.60 of the ten thresholds.
    (row,) = score(shifted(0.38 / 1.62))
    assert row.ap == pytest.approx(30, abs=0.01)
    assert (row.ap50, row.ap75) == (100, 0)


def test_no_detections(score: Evaluate) -> None:
    (row,) = score({})
    assert (row.ap, row.ap50, row.ap75) == (0, 0, 0)


def test_wrong_labels(score: Evaluate) -> None:
    turned = {7: 9, 9: 3, 3: 7}
    wrong = {
        image: [(turned[category], box, value) for category, box, value in items]
        for image, items in shifted(0.0).items()
    }
    (row,) = score(wrong)
    assert row.ap == 0


def test_sizes_that_the_data_does_not_have(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [0, 0, 9, 9], "area": 81}
    annotations = [{**small, "iscrowd": 0}]
    only_small = CocoData(write_data(tmp_path / "small", annotations=annotations))
    session = FakeSession({4: [(7, (0, 0, 9, 9), 0.9)]})
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: session)
    (row,) = evaluate(bundle, only_small, [bundle.table.find("super")], record=False)
    assert (row.ap, row.ap_small, row.ap_medium, row.ap_large) == (100, 100, -1, -1)


# --- a second implementation -----------------------------------------------------------------


def overlap(one: Box, other: Box) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def brute_force_ap(found: dict[int, list[Found]], threshold: float) -> float:
    """COCO's average precision in percent at one overlap, written down as plainly as possible."""
    scores = []
    for category in (item["id"] for item in CATEGORIES):
        truth = [
            (i, box) for i, items in TRUTH.items() for label, box in items if label == category
        ]
        answers = [
            (value, image, box)
            for image, items in found.items()
            for label, box, value in items
            if label == category
        ]
        taken: set[int] = set()
        hits = []
        for _, image, box in sorted(answers, key=lambda answer: -answer[0]):
            free = [
                (overlap(box, other), index)
                for index, (where, other) in enumerate(truth)
                if where == image and index not in taken
            ]
            best = max(free, default=(0.0, -1))
            hits.append(best[0] >= threshold)
            if hits[-1]:
                taken.add(best[1])
        points = [
            (sum(hits[:count]) / len(truth), sum(hits[:count]) / count)
            for count in range(1, len(hits) + 1)
        ]
        levels = [index / 100 for index in range(101)]
        best_at = [
            max((precision for recall, precision in points if recall >= level - 1e-9), default=0.0)
            for level in levels
        ]
        scores.append(sum(best_at) / len(levels))
    return 100 * sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(6))
def test_a_second_implementation_agrees(score: Evaluate, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = iter(rng.permutation(200) / 200)
    found: dict[int, list[Found]] = {}
    for image, items in TRUTH.items():
        found[image] = []
        for category, (x, y, w, h) in items:
            for _ in range(3):  # near boxes, often of the right class, some twice
                dx, dy = rng.normal(0, 0.08, 2) * (w, h)
                label = category if rng.random() < 0.8 else int(rng.choice([3, 7, 9]))
                box = (x + dx, y + dy, w * rng.uniform(0.85, 1.2), h * rng.uniform(0.85, 1.2))
                x1, y1 = max(box[0], 0.0), max(box[1], 0.0)  # predictions are cut at the edge
                x2, y2 = min(box[0] + box[2], WIDTH), min(box[1] + box[3], HEIGHT)
                found[image].append((label, (x1, y1, x2 - x1, y2 - y1), float(next(values))))
    for answers in found.values():
        for other in range(len(answers), 9):
            answers.append((3, (0.0, 0.0, 5.0 + other, 5.0), float(next(values)) / 100))
    (row,) = score(found)
    thresholds = [0.5 + 0.05 * index for index in range(10)]
    assert row.ap50 == pytest.approx(brute_force_ap(found, 0.5), abs=0.006)
    assert row.ap75 == pytest.approx(brute_force_ap(found, 0.75), abs=0.006)
    expected = sum(brute_force_ap(found, value) for value in thresholds) / 10
    assert row.ap == pytest.approx(expected, abs=0.006)
    assert 5 < row.ap < 95


# --- how a run goes --------------------------------------------------------------------------


def test_depths_progress_and_record(
    bundle: Bundle, data: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession(shifted(0.0))
    asked: list[dict[str, Any]] = []

    def opened(_: Bundle, **options: Any) -> FakeSession:
        asked.append(options)
        return session

    monkeypatch.setattr(Bundle, "session", opened)
    steps: list[tuple[str, int, int]] = []
    depths = [bundle.table.find(name) for name in ("super", "TF-2", "base")]
    rows = evaluate(
        bundle,
        data,
        depths,
        layout="set",
        target="tensorrt",
        batch=2,
        threads=1,
        progress=lambda *step: steps.append(step),
    )
    wanted = {"artifact": "set", "weights": None, "precision": "fp32", "target": "tensorrt"}
    assert asked == [{"runtime": "onnxruntime", "threads": 1, "rounded": False, **wanted}]
    assert [(row.depth, row.level, row.macs) for row in rows] == [
        ("FF-2", 2, MACS["FF-2"]),
        ("TF-2", None, MACS["TF-2"]),
        ("TT-1", 0, MACS["TT-1"]),
    ]
    assert session.calls == [(name, n) for n in (2, 1) for name in ("FF-2", "TF-2", "TT-1")]
    assert steps == [("evaluating", 0, 3), ("evaluating", 2, 3), ("scoring", 3, 3)]
    (record,) = open_bundle(bundle.path).manifest.results["eval"]
    assert record["pictures"] == 3
    assert record["precision"] == "fp32"
    assert record["data"] == "annotations.json"
    assert record["mapped_by"] == "name"
    measured = ["static-FF-2", "static-TF-2", "static-TT-1"]  # and none of the other depths
    assert sorted(item["name"] for item in record["artifacts"]) == measured
    for item in record["artifacts"]:
        assert item["sha256"] == hashlib.sha256(item["name"].encode()).hexdigest()
    assert [item["ap"] for item in record["rows"]] == [100, 100, 100]

    session.seen.clear()
    evaluate(bundle, data, depths, record=False)
    assert len(open_bundle(bundle.path).manifest.results["eval"]) == 1


@pytest.mark.parametrize(
    ("weights", "measured"), [(None, "gated-shared"), ("folded", "gated-folded")]
)
def test_what_was_measured_is_recorded(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: str | None,
    measured: str,
) -> None:
    categories = [{**item, "name": f"kind {item['id']}"} for item in CATEGORIES]
    by_rank = CocoData(write_data(tmp_path / "data", categories=categories))
    asked: list[dict[str, Any]] = []

    def opened(_: Bundle, **options: Any) -> FakeSession:
        asked.append(options)
        return FakeSession({})

    monkeypatch.setattr(Bundle, "session", opened)
    depths = [bundle.table.find("super")]
    with pytest.raises(ImageError, match=r"circle, square, star; .* kind 9; .* --match-by-rank"):
        evaluate(bundle, by_rank, depths, weights=weights)
    evaluate(bundle, by_rank, depths, weights=weights, match_by_rank=True)
    assert [options["weights"] for options in asked] == [weights]
    (record,) = open_bundle(bundle.path).manifest.results["eval"]
    assert [item["name"] for item in record["artifacts"]] == [measured]
    assert record["mapped_by"] == "rank"
    assert record["matched"][1] == {"class": "square", "category": "kind 7"}


def test_what_cannot_be_measured(bundle: Bundle, data: CocoData) -> None:
    depths = [bundle.table.find("base")]
    with pytest.raises(BundleError, match="no artifact 'set fp32 shared'"):
        evaluate(bundle, data, depths, layout="set", weights="shared")
    with pytest.raises(UsageError, match="batch is 0"):
        evaluate(bundle, data, depths, batch=0)


def test_without_the_extra(bundle: Bundle, data: CocoData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[eval\]'"):
        evaluate(bundle, data, [bundle.table.find("base")])


# --- data ------------------------------------------------------------------------------------


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": 10 + 5 * index, "name": name} for index, name in enumerate(names)]


def annotated(folder: Path, *names: str) -> CocoData:
    """Data whose categories have these names, in another order."""
    items = [{**GOOD, "category_id": 10}]
    path = write_data(folder / "d", categories=named(*names)[::-1], annotations=items)
    return CocoData(path)


def test_categories_are_found_by_name_then_by_rank(tmp_path: Path) -> None:
    classes = ["circle", "square", "star"]
    for names, expected in (
        (("star", "circle", "square"), [15, 20, 10]),
        (("moon", "star", "circle", "square"), [20, 25, 15]),
        (("one", "two", "three"), [10, 15, 20]),
    ):
        data = annotated(tmp_path, *names)
        by_rank = names == ("one", "two", "three")
        found = data.mapping(classes, by_rank=by_rank)
        assert (found.ids, found.mapped_by) == (expected, "rank" if by_rank else "name")
        if by_rank:
            with pytest.raises(ImageError, match="--match-by-rank"):
                data.category_ids(classes)
        else:
            assert data.category_ids(classes) == expected


@pytest.mark.parametrize(
    ("names", "unknown"),
    [(("circle", "two", "three"), "square, star"), (("star", "square", "disc"), "circle")],
)
def test_some_names_are_not_enough(tmp_path: Path, names: tuple[str, ...], unknown: str) -> None:
    # By rank, classes would silently be scored against other categories.
    with pytest.raises(ImageError, match=f"no category of their name: {unknown}; ") as caught:
        annotated(tmp_path, *names).mapping(["circle", "square", "star"])
    assert str(tmp_path / "d" / "annotations.json") in str(caught.value)


@pytest.mark.parametrize("names", [("circle", "square"), ("one", "two", "three", "four")])
def test_another_number_of_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = annotated(tmp_path, *names)
    with pytest.raises(ImageError, match=f"has {len(names)} categories, the network 3 classes"):
        found.category_ids(["circle", "square", "star"])


GOOD = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [0, 0, 9, 9]}


def lacking(key: str) -> list[dict[str, Any]]:
    return [GOOD, {name: value for name, value in GOOD.items() if name != key}]


def wrong(**fields: Any) -> dict[str, Any]:
    return {"annotations": [GOOD, {**GOOD, "id": 2, **fields}]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"annotations": []}, "hold no annotated picture"),
        ({"images": []}, "hold no annotated picture"),
        ({"annotations": {}}, "not in COCO's format"),
        ({"categories": None}, "not in COCO's format"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no file_name"),
        ({"images": ["1.png"]}, r"images\[0\] has no id, file_name"),
        (
            {"images": [{"id": "x", "file_name": "4.png"}]},
            r"images\[0\] has the id 'x', expected an int",
        ),
        ({"images": [{"id": True, "file_name": "4.png"}]}, r"images\[0\] has the id True"),
        ({"images": [{"id": 2**60, "file_name": "4.png"}]}, r"images\[0\] has the id 0x10+, exp"),
        ({"images": [{"id": 1, "file_name": 4}]}, r"images\[0\] has the file_name 4, expected te"),
        ({"images": [{"id": 1, "file_name": None}]}, "has the file_name None, expected text"),
        ({"categories": [{"id": 1, "name": None}]}, r"categories\[0\] has the name None"),
        (wrong(image_id="4"), r"annotations\[1\] has the image_id '4', expected an integer"),
        (wrong(image_id=4.0), r"annotations\[1\] has the image_id 4\.0, expected an integer"),
        (wrong(image_id=5), r"annotations\[1\] has the image_id 5, which none of the images"),
        (wrong(category_id=[7]), r"annotations\[1\] has the category_id \[7\], expected an int"),
        (wrong(category_id=8), r"annotations\[1\] has the category_id 8, which none of the cat"),
        (wrong(bbox=[0, 0, -1, 9]), r"annotations\[1\] has the bbox \[0, 0, -1, 9\]"),
        (wrong(bbox=[0, 0, 9, -0.5]), "width and height not negative"),
        (wrong(bbox=[0, float("nan"), 9, 9]), r"annotations\[1\] has the bbox \[0, nan"),
        (wrong(bbox=[0, 0, float("inf"), 9]), r"annotations\[1\] has the bbox \[0, 0, inf"),
        (wrong(bbox=[0, 0, 10**400, 9]), r"annotations\[1\] has the bbox"),
        (wrong(bbox=[0, 0, True, 9]), r"annotations\[1\] has the bbox"),
        (wrong(area=float("nan")), r"annotations\[1\] has the area nan, expected a number"),
        (wrong(area=-1), r"annotations\[1\] has the area -1"),
        (wrong(area=None), r"annotations\[1\] has the area None"),
        (wrong(iscrowd=2), r"annotations\[1\] has the iscrowd 2, expected 0 or 1"),
        (wrong(iscrowd="no\nway"), r"annotations\[1\] has the iscrowd 'no"),
        ({"categories": [{"id": 1}]}, r"categories\[0\] has no name"),
        ({"annotations": lacking("id")}, r"annotations\[1\] has no id"),
        ({"annotations": lacking("bbox")}, r"annotations\[1\] has no bbox"),
        ({"annotations": lacking("image_id")}, r"annotations\[1\] has no image_id"),
        ({"annotations": [GOOD, GOOD]}, "two of the annotations have the same id"),
        ({"annotations": [{**GOOD, "bbox": [1, 2, 3]}]}, r"annotations\[0\] has the bbox \[1, 2"),
        ({"annotations": [{**GOOD, "bbox": "abcd"}]}, "expected the numbers x, y, width, height"),
        ({"annotations": [{**GOOD, "bbox": [0, 0, "9", 9]}]}, "expected the numbers"),
    ],
)
def test_annotations_that_are_wrong(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write_data(tmp_path / "d", **changes)
    with pytest.raises(ImageError, match=told) as caught:
        CocoData(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_annotations_may_leave_out(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box: Box = (10, 20, 30.5, 40)
    # COCO's evaluation takes the id 0 for "no match".
    items = [{"id": 0, "image_id": 4, "category_id": 7, "bbox": list(box)}]
    path = write_data(tmp_path / "d", annotations=items)
    before = path.read_bytes()
    found = CocoData(path)
    assert found.content["annotations"] == [{**items[0], "id": 1, "area": 1220, "iscrowd": 0}]
    session = FakeSession({4: [(7, box, 0.9)]})
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: session)
    (row,) = evaluate(bundle, found, [bundle.table.find("super")])
    assert (row.ap, row.ap_medium) == (100, 100)
    assert path.read_bytes() == before
    given = [{**items[0], "id": 6, "area": 7.5, "iscrowd": 1}]
    kept = CocoData(write_data(tmp_path / "d", annotations=given))
    assert kept.content["annotations"] == [{**given[0], "id": 1}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as JSON"),
        (b"{'images': []}", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[1]", "not in COCO's format"),
        (b"[" * 200_000, "cannot be read as JSON"),
    ],
)
def test_files_that_are_no_annotations(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=told):
        CocoData(path)


def test_missing_annotations_and_pictures(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="do not exist"):
        CocoData(tmp_path / "a.json")
    with pytest.raises(ImageError, match="cannot be read"):
        CocoData(tmp_path)
    path = write_data(tmp_path / "d")
    (tmp_path / "d" / "2.png").unlink()
    with pytest.raises(ImageError, match=r"names 3 pictures, 1 of which .*: 2\.png; .*--images"):
        CocoData(path)
    other = tmp_path / "other"
    write_data(other)
    found = CocoData(path, other)
    assert [item["id"] for item in found.images] == [2, 4, 11]


# --- what is odd about data ------------------------------------------------------------------


def with_boxes(folder: Path, boxes: Sequence[tuple[int, int, Box]], **changes: Any) -> Path:
    """Pictures with these boxes: picture's id, category, box."""
    items = [
        {"id": index + 1, "image_id": image, "category_id": category, "bbox": list(box)}
        for index, (image, category, box) in enumerate(boxes)
    ]
    return write_data(folder, annotations=items, **changes)


ALL: list[tuple[int, int, Box]] = [
    (image, category, box) for image, items in TRUTH.items() for category, box in items
]
EVERYWHERE = {image: [(label, box, 0.9) for label, box in items] for image, items in TRUTH.items()}


@pytest.fixture
def seen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """The words of `eval` at base, of a network that finds `TRUTH` and nothing else."""
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: FakeSession(EVERYWHERE))
    return lambda data: ["eval", str(bundle.path), "--data", str(data), "--depth", "base"]


def share_found(found: int, of: int) -> float:
    """AP of one category of which so many are found, without an error: precision is 1 up to that
    recall, on COCO's 101 levels."""
    return 100 * sum(level / 100 <= found / of + 1e-9 for level in range(101)) / 101


def test_sound_data_is_shown_as_before(run: Run, seen: Any, tmp_path: Path) -> None:
    data = with_boxes(tmp_path / "d", ALL)
    shown = run(*seen(data))
    assert (shown.code, shown.err) == (0, "")
    assert "100.0" in shown.out.strip().splitlines()[-1]  # nothing but the table
    found = run(*seen(data), "--json").json
    assert found["rows"][0]["ap"] == 100
    assert (found["mapped_by"], found["matched"], found["findings"]) == ("name", [], [])
    assert (found["data"], found["pictures"]) == (str(data), 3)


@pytest.mark.parametrize(
    ("more", "told", "ap"),
    [
        # Of 2 + 1 squares, 2 are found, and all of the 1 star and the 3 circles.
        ([(4, 9, (5, 5, 0, 0))], {"empty": 1}, (share_found(2, 3) + 200) / 3),
        ([(4, 3, (500, 5, 9, 9))], {"outside": 1}, (share_found(1, 2) + 200) / 3),
        ([(4, 3, (190, 5, 90, 9))], {"beyond the edge": 1}, (share_found(1, 2) + 200) / 3),
        (
            [(4, 3, (5, 5, 0, 9)), (4, 3, (9, 9, 0.5, 0.5))],
            {"empty": 1, "below a pixel": 1},
            (share_found(1, 3) + 200) / 3,
        ),
        (ALL, {"twice": 6}, (share_found(3, 6) + share_found(2, 4) + share_found(1, 2)) / 3),
    ],
)
def test_odd_boxes_are_in_the_table_and_in_json(
    run: Run,
    seen: Any,
    bundle: Bundle,
    tmp_path: Path,
    more: list[tuple[int, int, Box]],
    told: dict[str, int],
    ap: float,
) -> None:
    """What the figure is, counted by hand, and why."""
    data = with_boxes(tmp_path / "d", [*ALL, *more])
    found = run(*seen(data), "--json").json
    assert {item["kind"]: item["count"] for item in found["findings"]} == told
    assert found["rows"][0]["ap"] == pytest.approx(ap, abs=0.01)
    shown = run(*seen(data)).out
    for item in found["findings"]:
        assert item["text"] in shown.splitlines()
    record = open_bundle(bundle.path).manifest.results["eval"][-1]
    total = len(ALL) + len(more)
    assert record["findings"] == [{"kind": k, "count": n, "of": total} for k, n in told.items()]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y, w, h: (x, y, x + w, y + h), "4 of 6 boxes reach beyond the picture"),
        (lambda x, y, w, h: (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT), "6 of 6 boxes are no"),
        (lambda x, y, w, h: (0, 0, 0, 0), "6 of 6 boxes are empty"),
    ],
)
def test_refused_data_makes_no_ladder(
    run: Run, seen: Any, bundle: Bundle, tmp_path: Path, change: Any, told: str
) -> None:
    data = with_boxes(tmp_path / "d", [(i, label, change(*box)) for i, label, box in ALL])
    ladder = tmp_path / "ladder.json"
    words = [*seen(data)[:-1], "all", "--ladder-out", ladder]
    fails(run(*words), 2, str(data), told, "expected x, y, width, height in pixels")
    assert not ladder.exists()
    assert not open_bundle(bundle.path).manifest.results


def test_areas_of_zero_are_those_of_the_boxes(run: Run, seen: Any, tmp_path: Path) -> None:
    data = with_boxes(tmp_path / "d", ALL)
    wanted = run(*seen(data), "--json").json["rows"]
    content = json.loads(data.read_text())
    for item in content["annotations"]:
        item["area"] = 0
    data.write_text(json.dumps(content))
    found = run(*seen(data), "--json").json
    assert found["rows"] == wanted  # with 0, every object would be small
    assert [(item["kind"], item["count"]) for item in found["findings"]] == [("no area", 6)]


def test_one_file_under_two_ids_is_named(run: Run, seen: Any, tmp_path: Path) -> None:
    images = [{"id": image, "file_name": f"{image}.png"} for image in (2, 4, 11)]
    images.append({"id": 12, "file_name": "./4.png"})
    data = with_boxes(tmp_path / "d", ALL, images=images)
    (item,) = run(*seen(data), "--json").json["findings"]
    assert (item["kind"], item["count"], item["of"]) == ("picture twice", 1, 3)
    assert item["text"] in run(*seen(data)).out


def test_a_category_that_the_network_lacks_is_named(run: Run, seen: Any, tmp_path: Path) -> None:
    categories = [*CATEGORIES, {"id": 12, "name": "moon"}, {"id": 13, "name": "nothing of it"}]
    data = with_boxes(tmp_path / "d", [*ALL, (4, 12, (5, 5, 9, 9))], categories=categories)
    found = run(*seen(data), "--json").json
    assert found["rows"][0]["ap"] == 75  # three of four categories
    (item,) = found["findings"]
    assert (item["kind"], item["count"], item["of"]) == ("category without class", 1, 5)
    shown = run(*seen(data)).out.splitlines()
    assert "1 category has no class and counts as 0 in every figure: 'moon' (1 box)" in shown


def test_how_classes_were_matched_is_said_and_recorded(
    run: Run, seen: Any, bundle: Bundle, tmp_path: Path
) -> None:
    names = {7: "Circle ", 9: "square", 3: "STAR"}
    data = with_boxes(
        tmp_path / "d", ALL, categories=[{"id": id_, "name": name} for id_, name in names.items()]
    )
    found = run(*seen(data), "--json").json
    pairs = [
        {"class": "circle", "category": "Circle "},
        {"class": "star", "category": "STAR"},
    ]
    assert (found["mapped_by"], found["matched"]) == ("folded", pairs)
    assert found["rows"][0]["ap"] == 100
    assert "without regard to case and outer spaces: 'circle' is 'Circle '" in run(*seen(data)).out
    record = open_bundle(bundle.path).manifest.results["eval"][-1]
    assert (record["mapped_by"], record["matched"]) == ("folded", pairs)


def test_ranks_are_for_who_asks_for_them(run: Run, seen: Any, tmp_path: Path) -> None:
    others = {3: "Stern", 7: "Kreis", 9: "Quadrat"}
    categories = [{"id": id_, "name": name} for id_, name in others.items()]
    data = with_boxes(tmp_path / "d", ALL, categories=categories)
    told = ("circle, square, star", "Stern, Kreis, Quadrat", "--match-by-rank")
    fails(run(*seen(data)), 2, str(data), *told)
    found = run(*seen(data), "--match-by-rank", "--json").json
    assert (found["mapped_by"], len(found["matched"])) == ("rank", 3)
    assert found["rows"][0]["ap"] < 40  # these ids are not in the order of the classes
    assert "matched by rank" in run(*seen(data), "--match-by-rank").out


@pytest.mark.parametrize("number", [0, 99])
def test_of_categories_of_one_name_the_annotated_one_counts(
    run: Run, seen: Any, tmp_path: Path, number: int
) -> None:
    twice = [*CATEGORIES, {"id": number, "name": "circle", "supercategory": "none"}]
    data = with_boxes(tmp_path / "d", ALL, categories=twice)
    assert run(*seen(data), "--json").json["rows"][0]["ap"] == 100
    both = with_boxes(tmp_path / "d", [*ALL, (4, number, (5, 5, 9, 9))], categories=twice)
    fails(run(*seen(both)), 2, str(both), "2 categories with annotations", "'circle'")


@pytest.mark.parametrize("code", ["utf-8-sig", "utf-16", "utf-32"])
def test_annotations_with_a_byte_order_mark(tmp_path: Path, code: str) -> None:
    path = write_data(tmp_path / "d")
    plain = CocoData(path).content
    path.write_bytes(path.read_text(encoding="utf-8").encode(code))
    assert CocoData(path).content == plain


def test_generated_pictures_are_sound(tmp_path: Path) -> None:
    for side in (32, 160):
        assert CocoData(write_coco(tmp_path / str(side), 4, 3, size=side)).findings == []


# --- which data ------------------------------------------------------------------------------


def test_data_is_told_apart_by_its_content(tmp_path: Path) -> None:
    one = CocoData(write_data(tmp_path / "one"))
    same = CocoData(write_data(tmp_path / "other"))
    assert one.sha256 == same.sha256
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "other" / "4.png")
    painted = CocoData(same.path)
    fewer = CocoData(with_boxes(tmp_path / "fewer", ALL[:-1]))
    assert len({one.sha256, painted.sha256, fewer.sha256}) == 3
    gone = CocoData(write_data(tmp_path / "gone"))
    (tmp_path / "gone" / "4.png").unlink()
    with pytest.raises(ImageError, match=r"4\.png cannot be read again"):
        gone.sha256  # noqa: B018


def test_evaluations_are_kept_and_shown_by_their_data(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: FakeSession(EVERYWHERE))
    old = {"precision": "fp32", "runtime": "onnxruntime", "artifacts": [], "data": "old.json",
           "pictures": 9, "rows": [{"depth": "TT-1", "ap": 12.5}]}  # fmt: skip
    bundle.record("eval", old)
    base, top = bundle.table.find("base"), bundle.table.find("super")
    one = CocoData(write_data(tmp_path / "one"))
    other = CocoData(with_boxes(tmp_path / "other", [*ALL, (4, 9, (5, 5, 0, 0))]))
    evaluate(bundle, one, [base, top])
    for _ in range(9):
        evaluate(bundle, other, [base])
    records = open_bundle(bundle.path).manifest.results["eval"]
    # The newest eight of each data set.
    assert [record.get("data_sha256") for record in records] == [
        None,
        one.sha256,
        *[other.sha256] * 8,
    ]
    # These artifacts have no files to inspect.
    bare = bundle.manifest.model_copy(update={"artifacts": []})
    (bundle.path / MANIFEST).write_text(bare.model_dump_json())
    lines = [line for line in run("inspect", bundle.path).out.splitlines() if "AP of" in line]
    assert len(lines) == 3
    assert lines[0].endswith("on old.json: TT-1 12.5")
    assert f"sha256 {one.sha256[:12]}: TT-1 100.0, FF-2 100.0" in lines[1]
    assert f"sha256 {other.sha256[:12]}: TT-1 " in lines[2]


# --- ladders from measurements ---------------------------------------------------------------


def row(depth: str, ap: float) -> Accuracy:
    return Accuracy("fp32", depth, None, MACS[depth], ap, ap, ap, ap, ap, ap)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({"TT-1": 30, "FF-2": 50}, ["TT-1", "FF-2"]),
        # 107 < 114 < 147 < 154 < 157 < 164 < 197 < 204 multiply-adds
        (
            {"TT-1": 30, "TT-2": 29, "FT-1": 35, "FT-2": 35, "TF-1": 34, "TF-2": 40, "FF-2": 50},
            ["TT-1", "FT-1", "TF-2", "FF-2"],
        ),
        ({"TT-1": 30, "FF-1": 50, "FF-2": 45}, ["TT-1", "FF-1", "FF-2"]),
        ({"TT-1": 60, "FT-1": 55, "TF-1": 40, "FF-2": 50}, ["TT-1", "FF-2"]),
    ],
)
def test_a_ladder_of_rungs_that_pay(
    bundle: Bundle, tmp_path: Path, measured: dict[str, float], expected: list[str]
) -> None:
    rows = [row(depth, ap) for depth, ap in measured.items()]
    for order in (rows, rows[::-1]):
        assert pareto_ladder(bundle, order) == expected
    path = tmp_path / "ladder.json"
    write_ladder(path, expected)
    space = bundle.table.space
    assert [str(depth) for depth in parse_ladder(space, str(path))] == expected


def test_the_ladder_of_one_depth(one_depth_bundle: Bundle) -> None:
    only = Accuracy("fp32", "full", 0, 7, 40, 60, 50, 10, 40, 70)
    assert pareto_ladder(one_depth_bundle, [only]) == ["full"]


def test_a_ladder_needs_both_ends(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accuracy of base and super"):
        pareto_ladder(bundle, [row("TT-1", 30), row("FF-1", 40)])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_ladder(tmp_path / "file" / "l.json", LADDER)


# --- what is left beside the figures ----------------------------------------------------------


class TwoDepths(FakeSession):
    """Super finds everything; base finds nothing in one picture, and less surely in another."""

    def __init__(self) -> None:
        super().__init__(shifted(0.0))

    def run(self, images: NDArray[np.float32], depth: Depth) -> Detections:
        start = self.seen.get(str(depth), 0)
        found = super().run(images, depth)
        if str(depth) == "TT-1":
            for row, image in enumerate(sorted(TRUTH)[start : start + len(images)]):
                found.scores[row] *= {2: 0.0, 4: 0.9, 11: 1.0}[image]
                found.boxes[row] *= image != 2  # what has no score would count all the same
        return found


@pytest.fixture
def two_depths(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: TwoDepths())
    return bundle


def test_classes_and_what_base_loses(two_depths: Bundle, data: CocoData) -> None:
    table = two_depths.table
    rows = evaluate(two_depths, data, [table.find("super"), table.find("base")])
    for row in rows:
        assert [item.name for item in row.classes] == ["star", "circle", "square"]  # by id
        assert [item.objects for item in row.classes] == [1, 3, 2]
        assert row.ap == pytest.approx(np.mean([item.ap for item in row.classes]), abs=0.01)
    full, less = rows
    assert [item.ap for item in full.classes] == [100, 100, 100]
    lost = lost_classes(two_depths, rows)
    # The star is gone; of three circles one is left: recall 1/3, 34 of COCO's 101 levels of it.
    assert [item.ap for item in less.classes] == [0, pytest.approx(100 * 34 / 101, abs=0.01), 100]
    assert [(item.name, item.super, item.base) for item in lost] == [
        ("star", 100, 0),
        ("circle", 100, less.classes[1].ap),
    ]
    assert lost[1].fall == pytest.approx(100 - less.classes[1].ap)
    assert lost_classes(two_depths, rows[:1]) == []
    (record,) = open_bundle(two_depths.path).manifest.results["eval"]
    assert "classes" not in record["rows"][0]


def test_lost_classes_are_in_order(bundle: Bundle) -> None:
    def row(depth: str, **by_class: float) -> Accuracy:
        classes = tuple(ClassAccuracy(name, ap, 5) for name, ap in by_class.items())
        return Accuracy("fp32", depth, 0, 1, 1, 1, 1, 1, 1, 1, classes)

    rows = [
        row("TT-1", a=10, b=50, c=30, d=-1, e=20),
        row("FF-2", a=20, b=50, c=80, d=-1, e=10),
    ]
    found = lost_classes(bundle, rows)
    assert [(item.name, item.super, item.base, item.fall) for item in found] == [
        ("c", 80, 30, 50),
        ("a", 20, 10, 10),
    ]


def test_a_category_without_a_class(two_depths: Bundle, tmp_path: Path) -> None:
    more = {"id": 20, "name": "moon"}
    boxes = json.loads(write_data(tmp_path / "d").read_text())["annotations"]
    boxes.append({**boxes[0], "id": 99, "category_id": 20, "bbox": [150, 60, 30, 30], "area": 900})
    with_moon = CocoData(
        write_data(tmp_path / "d", categories=[*CATEGORIES, more], annotations=boxes)
    )
    (row,) = evaluate(two_depths, with_moon, [two_depths.table.find("super")], record=False)
    assert row.classes[-1] == ClassAccuracy("moon", 0, 1)
    assert row.ap == 75


def test_detections_in_cocos_format(two_depths: Bundle, data: CocoData, tmp_path: Path) -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    rows = ad_evaluate(
        two_depths, data.path, depth="super,base", detections=tmp_path / "new" / "found"
    )
    for row in rows:
        truth = COCO(str(data.path))
        path = tmp_path / "new" / "found" / f"fp32-{row.depth}.json"
        evaluation = COCOeval_faster(truth, truth.loadRes(str(path)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert row.ap == round(100 * evaluation.stats[0], 2)
        assert row.ap75 == round(100 * evaluation.stats[2], 2)
        content = json.loads(path.read_text())
        assert set(content[0]) == {"image_id", "category_id", "bbox", "score"}
    assert rows[0].ap > rows[1].ap


def test_no_detections_in_cocos_format(tmp_path: Path, bundle: Bundle) -> None:
    (path,) = write_results(tmp_path, {bundle.table.find("base"): [np.zeros((0, 7))]}, "int8")
    assert path.name == "int8-TT-1.json"
    assert json.loads(path.read_text()) == []


def test_pictures_that_differ_most(two_depths: Bundle, data: CocoData, tmp_path: Path) -> None:
    folder = tmp_path / "differences"
    ad_evaluate(two_depths, data.path, depth="all", save_differences=folder)
    told = read_differences(folder)
    assert (told.depths, told.compared, told.differing) == (("FF-2", "TT-1"), 3, 2)
    first, second = told.pictures
    # Base lacks three boxes of 0.9, 0.8 and 0.7; in the other picture scores fall by a tenth.
    assert (first.picture, first.image_id, second.image_id) == ("2.png", 2, 4)
    assert first.difference == pytest.approx((0.6 + 0.5 + 0.4) / 0.7, abs=1e-3)
    assert second.difference == pytest.approx((0.09 + 0.08) / 0.7, abs=1e-3)
    assert [len(boxes) for boxes in first.boxes] == [3, 0]
    assert not any(box.matched for box in first.boxes[0])
    assert all(box.matched for box in second.boxes[0] + second.boxes[1])
    # The first to be found, within a rounding of the network's input.
    assert first.boxes[0][0].name == "circle"
    assert first.boxes[0][0].box == pytest.approx((5, 50, 86, 90), abs=0.02)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "differences.json",
        *(f"{rank}-{depth}.pred.png" for rank in ("01", "02") for depth in ("FF-2", "TT-1")),
    }
    full, none = (np.asarray(Image.open(folder / name)) for name in first.files)
    assert none.max() == 0  # the picture, which is black
    assert full.max() > 200
    grey = np.asarray(Image.open(folder / second.files[0]))
    assert {tuple(pixel) for pixel in grey.reshape(-1, 3)} == {(0, 0, 0), (200, 200, 200)}
    content = json.loads((folder / "differences.json").read_text())
    assert content["schema_version"] == 1
    assert content["pictures"][0]["boxes"][0][0]["class"] == "circle"


@pytest.mark.parametrize(
    ("depths", "message"),
    [
        ("super", "differences are between two depths, not 1"),
        ("super,base,TF-2", "between two depths, not 3"),
        ("super,TF-2", "depths that are not evaluated: TF-2"),
        ("super,nonsense", "nonsense"),
    ],
)
def test_differences_of_other_depths(
    run: Run, two_depths: Bundle, data: CocoData, tmp_path: Path, depths: str, message: str
) -> None:
    words = ("--save-differences", tmp_path / "new" / "d", "--between", depths)
    fails(run("eval", two_depths.path, "--data", data.path, *words), 2, message)
    assert not (tmp_path / "new").exists()


def test_no_picture_of_differences(
    run: Run, two_depths: Bundle, data: CocoData, tmp_path: Path
) -> None:
    words = ("--save-differences", tmp_path / "d", "--pictures", 0)
    told = "0 pictures of differences: expected 1 or more"
    fails(run("eval", two_depths.path, "--data", data.path, *words), 2, told)


def test_an_earlier_run_leaves_nothing(two_depths: Bundle, data: CocoData, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    ad_evaluate(two_depths, data.path, save_differences=folder)
    (folder / "01-mine.pred.png").write_bytes(b"of somebody else")
    ad_evaluate(two_depths, data.path, save_differences=folder, pictures=1)
    (picture,) = read_differences(folder).pictures
    names = {path.name for path in folder.iterdir()}
    assert names == {*picture.files, "differences.json", "01-mine.pred.png"}


def test_a_run_cut_short_leaves_no_words_of_the_one_before(
    two_depths: Bundle, data: CocoData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "d"
    ad_evaluate(two_depths, data.path, save_differences=folder)

    def full(*arguments: Any, **options: Any) -> None:
        raise ImageError("the disk is full")

    monkeypatch.setattr(difference_files, "write_drawing", full)
    with pytest.raises(ImageError, match="full"):
        ad_evaluate(two_depths, data.path, save_differences=folder)
    assert not (folder / "differences.json").exists()


def test_the_command_says_what_it_left(
    run: Run, two_depths: Bundle, data: CocoData, tmp_path: Path
) -> None:
    words = ("--save-differences", tmp_path / "d", "--detections", tmp_path / "f")
    found = run("eval", two_depths.path, "--data", data.path, *words)
    assert found.code == 0
    out = " ".join(found.out.split())
    assert "fp32: AP falls most from super to base in " in out
    assert "FF-2 and TT-1 differ on 2 of 3 pictures; the 2 that differ most:" in out
    document = run("eval", two_depths.path, "--data", data.path, *words, "--json").document
    assert document["differences"] == str(tmp_path / "d" / "differences.json")
    assert [Path(path).name for path in document["detections"]] == [
        f"fp32-{row['depth']}.json" for row in document["rows"]
    ]
    assert document["lost"][0]["fall"] > 0
    printed = tmp_path / "evaluation.json"
    printed.write_text(json.dumps(document))
    read = read_evaluation(printed)  # for report --html
    assert [row.ap for row in read.rows] == [row["ap"] for row in document["rows"]]
    assert [item.name for item in read.rows[0].classes] == [
        item["class"] for item in document["rows"][0]["classes"]
    ]
    assert document["rows"][0]["classes"][0].keys() == {"class", "ap", "objects"}
    plain = run("eval", two_depths.path, "--data", data.path, "--depth", "base", "--json").document
    assert (plain["lost"], plain["detections"], plain["differences"]) == ([], [], None)

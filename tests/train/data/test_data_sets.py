"""Data sets in COCO's and in the YOLO format: what is read, what is left out, what is refused."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import pictures as drawn_pictures
from data_sets import pixel_box, write_coco_set, write_yolo_set
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_pictures import save_marked
from numpy.typing import NDArray
from PIL import Image

from anydepth_deploy.annotations.scoring import coco_stats
from anydepth_deploy.errors import AnyDepthError, ImageError
from anydepth_deploy.evaluation import CocoData
from anydepth_deploy.train.data.detection_set import DetectionSet, most_unreadable
from anydepth_deploy.train.data.read import read_data_set
from anydepth_deploy.train.data.yolo_files import label_file
from anydepth_deploy.train.data.yolo_lines import read_lines

Writer = Callable[..., Path]

WRITERS = pytest.mark.parametrize("write", [write_coco_set, write_yolo_set])


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def kinds(found: DetectionSet) -> dict[str, int]:
    return {item.kind: item.count for item in found.findings}


@WRITERS
def test_a_set_is_what_was_drawn(write: Writer, tmp_path: Path) -> None:
    found = read_data_set(write(tmp_path, 6))
    assert found.classes == ("red", "green", "blue")
    assert len(found) == 6
    assert not found.findings
    for index, (expected, objects) in enumerate(drawn_pictures(6)):
        image, boxes, labels = found.annotated(index)
        np.testing.assert_array_equal(image, expected)
        assert labels.tolist() == [label for label, _ in objects]
        np.testing.assert_allclose(boxes, [box for _, box in objects], atol=1e-3)
    again: DetectionSet = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.annotated(3)[1], found.annotated(3)[1])


@WRITERS
def test_no_picture_is_opened_to_read_a_set(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    for picture in tmp_path.rglob("*.png"):
        picture.write_bytes(b"no picture")
    found = read_data_set(path)
    with pytest.raises(ImageError, match=r"0\.png is not a picture"):
        found.annotated(0)


def test_content_of_a_coco_set_gives_the_figures_of_its_file(tmp_path: Path) -> None:
    def odd(content: dict[str, Any]) -> None:
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["bbox"][0] = -5  # beyond the edge
        content["annotations"][2]["area"] = 77.0

    path = changed(write_coco_set(tmp_path, 6), odd)
    found, data = read_data_set(path), CocoData(path)
    # Categories have other ids: 5, 7, 9 there, 1, 2, 3 here; detections that are a little off.
    stats = []
    for content, ids in ((data.content, (5, 7, 9)), (found.content(), (1, 2, 3))):
        results = [
            np.array([[10 + index, left + 2, top, right - left, bottom - top, 0.9, ids[label]]])
            for index, (_, objects) in enumerate(drawn_pictures(6))
            for label, (left, top, right, bottom) in objects[:2]
        ]
        stats.append(coco_stats(content, results))
    assert stats[0] == stats[1]
    assert 0.1 < stats[0][0] < 0.95
    assert kinds(found) == {"crowd": 1, "beyond the edge": 1}
    assert sum(len(found.annotated(index)[1]) for index in range(6)) == len(found.objects.owner) - 1


def test_content_of_a_yolo_set_is_in_pixels(tmp_path: Path) -> None:
    content = read_data_set(write_yolo_set(tmp_path, 3), which="val").content()
    boxes = [item["bbox"] for item in content["annotations"]]
    expected = [
        [left, top, right - left, bottom - top]
        for _, objects in drawn_pictures(3)
        for _, (left, top, right, bottom) in objects
    ]
    np.testing.assert_allclose(boxes, expected, atol=1e-3)
    areas = [item["area"] for item in content["annotations"]]
    np.testing.assert_allclose(areas, [w * h for _, _, w, h in expected], atol=0.2)
    sizes = [(item["height"], item["width"]) for item in content["images"]]
    assert sizes == [image.shape[:2] for image, _ in drawn_pictures(3)]
    assert [item["id"] for item in content["categories"]] == [1, 2, 3]


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    found = read_data_set(write_coco_set(tmp_path, 6))
    matched, matching = found.matched(["Blue", "red", "green"])
    assert matched.classes == ("Blue", "red", "green")
    assert matching.mapped_by == "folded"
    new = {0: 1, 1: 2, 2: 0}
    for index in range(6):
        labels = found.annotated(index)[2].tolist()
        assert matched.annotated(index)[2].tolist() == [new[label] for label in labels]
    few, matching = found.matched(["green"])
    assert set(few.objects.labels.tolist()) == {0}
    assert len(few.objects.labels) == int((found.objects.labels == 1).sum())
    assert len(few) == 6
    assert kinds(few) == {"category without class": 2}
    assert few.findings[-1].text.startswith(
        "2 categories have no class and are left out of figures here, which eval counts as 0: 'red'"
    )


def test_classes_without_a_category_count_in_no_figure(tmp_path: Path) -> None:
    found = read_data_set(write_coco_set(tmp_path, 6))
    matched, _ = found.matched(["white", "red", "grey", "green", "blue"])
    assert matched.classes == ("white", "red", "grey", "green", "blue")
    new = {0: 1, 1: 3, 2: 4}
    for index in range(6):
        labels = found.annotated(index)[2].tolist()
        assert matched.annotated(index)[2].tolist() == [new[label] for label in labels]
    assert matched.findings[-1].text == (
        f"2 of 5 classes have no category in {found.source} and count in no figure: white, grey"
    )
    assert kinds(matched) == {"class without category": 2}
    # COCO's mean is over the categories that are there: all found there is all found.
    content = matched.content()
    rows = [
        [item["image_id"], *item["bbox"], 1.0, item["category_id"]]
        for item in content["annotations"]
    ]
    wrong = [[item["id"], 0, 0, 9, 9, 0.9, 1] for item in content["images"]]  # of class 0, white
    assert coco_stats(content, [np.array(rows), np.array(wrong)])[0] == pytest.approx(1.0)
    with pytest.raises(ImageError, match=r"none of its categories \(red, green, blue\) has"):
        found.matched(["white", "grey"])


def spoil(count: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """Changes the first annotations of a COCO file; a field that is None goes."""

    def change(content: dict[str, Any]) -> None:
        for item in content["annotations"][:count]:
            item.update(fields)
            for name, value in fields.items():
                if value is None:
                    del item[name]

    return change


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "no bbox": ({"bbox": None}, "no bbox"),
    "not a box": ({"bbox": [1, 2, 3]}, "odd bbox"),
    "not finite": ({"bbox": [1, math.nan, 3, 4]}, "odd bbox"),
    "infinite": ({"bbox": [1, 2, math.inf, 4]}, "odd bbox"),
    "text": ({"bbox": [1, 2, 3, "4"]}, "odd bbox"),
    "inverted": ({"bbox": [50, 50, -20, 10]}, "odd bbox"),
    "category": ({"category_id": 6}, "unknown category"),
    "picture": ({"image_id": 6}, "unknown picture"),
    "area": ({"area": -1}, "odd area"),
    "crowd": ({"iscrowd": 2}, "odd iscrowd"),
    "empty": ({"bbox": [10, 10, 0, 5]}, "empty"),
    "outside": ({"bbox": [900, 10, 20, 5]}, "outside"),
}


@pytest.mark.parametrize("name", ODD)
def test_single_odd_annotations_are_left_out_and_counted(name: str, tmp_path: Path) -> None:
    fields, kind = ODD[name]
    path = write_coco_set(tmp_path, 8)
    whole = read_data_set(path)
    found = read_data_set(changed(path, spoil(2, **fields)))
    assert kinds(found)[kind] == 2
    assert len(found.objects.owner) == len(whole.objects.owner) - 2
    assert len(found) == 8
    text = next(item.text for item in found.findings if item.kind == kind)
    assert "annotations[0]" in text
    assert "\n" not in text
    assert [index for index in range(8) if not len(found.annotated(index)[1])], "no background"


@pytest.mark.parametrize("name", ODD)
def test_a_file_of_mostly_odd_annotations_is_refused(name: str, tmp_path: Path) -> None:
    path = changed(write_coco_set(tmp_path, 8), spoil(1000, **ODD[name][0]))
    with pytest.raises(ImageError, match=r"annotations .*annotations\[0\]"):
        read_data_set(path)


def test_boxes_in_shares_are_told_from_pixels(tmp_path: Path) -> None:
    def shares(content: dict[str, Any]) -> None:
        for item in content["annotations"]:
            item["bbox"] = [side / 200 for side in item["bbox"]]

    with pytest.raises(ImageError, match="shares of the picture"):
        read_data_set(changed(write_coco_set(tmp_path, 8), shares))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"annotations": []}, "hold no annotated picture"),
        ({"images": []}, "hold no annotated picture"),
        ({"categories": {}}, "expected the lists"),
        ({"categories": [{"id": 5, "name": "red"}, {"id": 7, "name": "red"}]}, "name of its own"),
        ({"categories": [{"id": 5}]}, "no name"),
        ({"images": [{"id": 1, "file_name": "0.png"}] * 2}, "same id"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=told):
        read_data_set(write_coco_set(tmp_path, 4, **changes))


@pytest.mark.parametrize("said", ["1" + "0" * 400, "1e400", "-1", "NaN"])
def test_a_size_that_no_picture_has_says_nothing(said: str, tmp_path: Path) -> None:
    path = write_coco_set(tmp_path, 4)
    content = json.loads(path.read_text(encoding="utf-8"))
    for item in content["images"]:
        item["width"] = item["height"] = -7777
    path.write_text(json.dumps(content).replace("-7777", said), encoding="utf-8")
    found = read_data_set(path)
    assert found.sizes.tolist() == [[0, 0]] * 4
    assert len(found.annotated(0)[1]) > 0


def test_only_crowds_are_nothing_to_learn(tmp_path: Path) -> None:
    path = changed(write_coco_set(tmp_path, 4), spoil(1000, iscrowd=1))
    with pytest.raises(ImageError, match="no object in them that can be learned"):
        read_data_set(path)


def test_missing_pictures_are_counted_or_refused(tmp_path: Path) -> None:
    path = write_coco_set(tmp_path, 5)
    (tmp_path / "2.png").unlink()
    found = read_data_set(path)
    assert kinds(found) == {"picture missing": 1}
    assert [record.key for record in map(found.record, range(len(found)))] == [10, 11, 13, 14]
    np.testing.assert_array_equal(found.annotated(2)[0], drawn_pictures(5)[3][0])
    (tmp_path / "3.png").unlink()
    with pytest.raises(ImageError, match=r"2 of the 5 pictures .* 2\.png, 3\.png; give .*--images"):
        read_data_set(path)


def test_how_many_pictures_may_be_missing() -> None:
    counts = (1, 2, 99, 199, 200, 500)
    assert [most_unreadable(count) for count in counts] == [0, 1, 1, 1, 2, 5]


def test_a_picture_twice_is_told(tmp_path: Path) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["images"][1]["file_name"] = content["images"][0]["file_name"]
        for side in ("width", "height"):
            content["images"][1].pop(side)

    found = read_data_set(changed(write_coco_set(tmp_path, 4), twice))
    assert kinds(found)["picture twice"] == 1


@pytest.mark.parametrize("said", ["upright", "stored"])
def test_pictures_are_turned_as_their_boxes_mean_them(said: str, tmp_path: Path) -> None:
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:15, 20:50] = (255, 0, 0)
    save_marked(tmp_path / "a.png", stored, 6)  # lies on its side
    image = stored if said == "stored" else np.rot90(stored, -1)
    box = pixel_box(np.ascontiguousarray(image), 0)
    assert box is not None
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": image.shape[0], "width": image.shape[1]}
        ],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            }
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    picture, boxes, _ = read_data_set(path).annotated(0)
    np.testing.assert_array_equal(picture, image)
    np.testing.assert_array_equal(boxes, [box])


# The YOLO format


def test_where_the_lines_of_a_picture_are() -> None:
    cases = {
        "a/images/train/1.jpg": "a/labels/train/1.txt",
        "images/x/images/1.2.jpeg": "images/x/labels/1.2.txt",
        "a/pictures/1.jpg": "a/pictures/1.txt",
        "a/images": "a/images.txt",
    }
    for picture, lines in cases.items():
        assert label_file(Path(picture)) == Path(lines)


def test_names_as_a_mapping_and_pictures_as_a_list(tmp_path: Path) -> None:
    path = write_yolo_set(
        tmp_path, 4, names={"1": "green", "0": "red", "2": "blue"}, train="list.txt"
    )
    lines = ["./images/train/0.png", "images\\train\\2.png", "", "images/train/0.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    found = read_data_set(path)
    assert found.classes == ("red", "green", "blue")
    assert [Path(item).name for item in found.paths] == ["0.png", "2.png"]
    assert kinds(found) == {"picture twice": 1}
    np.testing.assert_array_equal(found.annotated(1)[0], drawn_pictures(4)[2][0])


def test_a_set_that_was_moved_is_found_beside_its_file(tmp_path: Path) -> None:
    path = write_yolo_set(tmp_path / "a", 3, path="/home/nobody/data", train="../images/train")
    assert len(read_data_set(path)) == 3
    shutil.move(tmp_path / "a", tmp_path / "b" / "inner")
    path = tmp_path / "data.yaml"
    path.write_text("path: b/inner\ntrain: [images/train]\nnames: [r, g, b]\n", encoding="utf-8")
    assert len(read_data_set(path)) == 3


def test_outlines_and_poses(tmp_path: Path) -> None:
    outline, pose = tmp_path / "outline.txt", tmp_path / "pose.txt"
    outline.write_text("1 0.5 0.2 0.9 0.6 0.4 0.7 0.1 0.3\n", encoding="utf-8")
    pose.write_text("1 0.5 0.4 0.2 0.6 0.1 0.1 2 0.9 0.9 2 0.5 0.5 0\n", encoding="utf-8")
    found, _ = read_lines(tmp_path, [outline], 2)
    np.testing.assert_allclose(found.boxes, [[0.1, 0.2, 0.8, 0.5]])
    found, _ = read_lines(tmp_path, [pose], 2, poses=True)
    np.testing.assert_allclose(found.boxes, [[0.4, 0.1, 0.2, 0.6]])


LINES = {
    "malformed": ["1 0.5 0.5 0.1", "x 0.5 0.5 0.1 0.1", "1 0.5 nan 0.1 0.1", "0.5 0.5 0.5 0.1 0.1"],
    "unknown class": ["3 0.5 0.5 0.1 0.1"],
    "empty": ["1 0.5 0.5 0 0.1", "1 0.5 0.5 0.1 -0.1"],
    "outside": ["1 1.5 0.5 0.1 0.1", "1 320 240 100 80"],
    "beyond the edge": ["1 0.98 0.5 0.1 0.1"],
}


@pytest.mark.parametrize("kind", LINES)
def test_single_odd_lines_are_counted_and_most_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    good = [f"1 0.{index} 0.5 0.1 0.1" for index in range(10, 20)]
    path.write_text("\n".join([*LINES[kind], *good]), encoding="utf-8")
    found, findings = read_lines(tmp_path / "data.yaml", [path], 3)
    assert {item.kind: item.count for item in findings} == {kind: len(LINES[kind])}
    assert len(found.boxes) == 10 + (kind == "beyond the edge")
    path.write_text("\n".join([*LINES[kind] * 3, good[0]]), encoding="utf-8")
    with pytest.raises(ImageError, match=r"data\.yaml: .* the first: .* in .*a\.txt; expected"):
        read_lines(tmp_path / "data.yaml", [path], 3)


def test_boxes_beyond_the_edge_are_clipped(tmp_path: Path) -> None:
    path = write_yolo_set(tmp_path, 1)
    (tmp_path / "labels" / "train" / "0.txt").write_text(
        "0 0.5 0.5 0.2 0.2\n1 0.05 0.5 0.2 0.2\n1 0.5 0.5 0.3 0.2\n", encoding="utf-8"
    )
    found = read_data_set(path)
    height, width = drawn_pictures(1)[0][0].shape[:2]
    _, boxes, _ = found.annotated(0)
    np.testing.assert_allclose(boxes[1], [0, 0.4 * height, 0.15 * width, 0.6 * height])
    assert kinds(found) == {"beyond the edge": 1}


def test_pictures_without_lines_are_background(tmp_path: Path) -> None:
    path = write_yolo_set(tmp_path, 4)
    (tmp_path / "labels" / "train" / "0.txt").unlink()
    (tmp_path / "labels" / "train" / "1.txt").write_text("", encoding="utf-8")
    found = read_data_set(path)
    assert len(found) == 4
    assert [len(found.annotated(index)[1]) for index in (0, 1)] == [0, 0]
    assert kinds(found) == {"no labels": 1}
    for lines in (tmp_path / "labels" / "train").glob("*.txt"):
        lines.unlink()
    with pytest.raises(ImageError, match=r"none of its 4 pictures .* labels is to be beside"):
        read_data_set(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nc": 4}, "nc 4 and 3 names"),
        ({"names": None}, "has no names"),
        ({"names": ["red", "red", "blue"]}, "names are the same"),
        ({"names": ["red", False, "blue"]}, "False, expected text: put names like yes, no"),
        ({"names": {"0": "red", "2": "blue"}}, "the keys '?0'?, '?2'?"),
        ({"train": None}, "has no train"),
        ({"train": [["a"]]}, "has no train"),
        ({"train": "images/nowhere"}, "there is no .*images/nowhere; correct path"),
        ({"train": "nowhere", "download": "print(1)"}, "download is never run"),
        ({"path": 3}, "its path is 3"),
    ],
)
def test_a_yaml_that_cannot_be_used_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=told):
        read_data_set(write_yolo_set(tmp_path, 2, **changes))


def test_missing_pictures_of_a_list(tmp_path: Path) -> None:
    path = write_yolo_set(tmp_path, 3, train="list.txt", download="https://example.org/a.zip")
    names = [f"images/train/{index}.png" for index in (0, 1, 2, 7, 8)]
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    with pytest.raises(ImageError, match=r"2 of the 5 pictures .* download is never run"):
        read_data_set(path)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
)


MERGES = "a: &a {k: v}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 9)}]}}\n"
    for n in range(12)
)
"""A mapping that would be merged 9 to the power of 12 times."""


@pytest.mark.parametrize(
    "text",
    [
        "names: [a, b\n",
        "- 1\n- 2\n",
        "\0",
        "names: !!python/object/apply:os.system [echo]\n",
        f"{BOMB}names: *y\ntrain: a\n",
        f"{BOMB}nc: *y\nnames: [a]\ntrain: a\n",
        "[" * 2000,
        "x" * ((1 << 18) + 1),
        f"{MERGES}names: [a]\ntrain: a\n",
        f"names: [a]\nnc: 0x{'f' * 20000}\ntrain: a\n",
        f"names: [0x{'f' * 20000}]\ntrain: a\n",
        f"names: [a]\nnc: {'1:' * 200}1.0\n",
        "names: [a]\nnc: !!int ''\n",
        "names: [a]\nnc: !!timestamp a\n",
        "names: [a]\nnc: !!bool a\n",
    ],
    ids=[
        *("cut", "list", "zero", "tag", "names bomb", "nc bomb", "deep", "large", "merges"),
        *("large nc", "large name", "overflow", "no int", "no date", "no bool"),
    ],
)
def test_yaml_that_is_none_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ImageError) as caught:
        read_data_set(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1001


def test_a_file_that_is_not_there() -> None:
    for name in ("nowhere.yaml", "nowhere.json"):
        with pytest.raises(ImageError, match=rf"{name} do(es)? not exist; expected a"):
            read_data_set(name)


@given(st.lists(st.text("0123456789.-+einfa \t", max_size=40), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_lines_give_boxes_within_reach_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        found, findings = read_lines(path, [path], 5)
    except AnyDepthError as error:
        assert_one_line(error)
        return
    assert_usable(found.boxes)
    assert set(found.labels.tolist()) <= set(range(5))
    left_out = sum(item.count for item in findings if item.kind != "beyond the edge")
    assert len(found.boxes) + left_out == sum(bool(line.split()) for line in lines)


def assert_one_line(error: AnyDepthError) -> None:
    assert "\n" not in str(error)


def assert_usable(boxes: NDArray[np.float64]) -> None:
    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] < 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] > 0).all()


def test_pictures_of_odd_modes_are_read(tmp_path: Path) -> None:
    path = write_yolo_set(tmp_path, 2)
    grey = Image.fromarray(drawn_pictures(2)[0][0]).convert("L")
    grey.save(tmp_path / "images" / "train" / "0.png")
    image, boxes, _ = read_data_set(path).annotated(0)
    assert image.shape[2] == 3
    assert len(boxes) == len(drawn_pictures(2)[0][1])

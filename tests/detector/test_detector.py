"""Detectors of exported bundles: where their boxes are in pictures, at every depth."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RUNGS
from listening import ListeningSession, listening_detector
from marked_pictures import EDGES, save_marked
from numpy.typing import NDArray
from once import once
from PIL import Image

import anydepth_deploy as ad
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import (
    BundleError,
    CheckpointError,
    MissingExtraError,
    UsageError,
)
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import BatchProfile
from anydepth_deploy.pictures.images import Preprocess, prepare
from anydepth_deploy.predict.run import predict
from anydepth_deploy.suppression import Suppression

SIZES = ((90, 120), (160, 160), (301, 77), (40, 500))
"""Of the pictures: height and width."""


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(noise(*size, seed=number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=["detr", "yolo"])
def either(request: pytest.FixtureRequest) -> ad.Detector:
    """Of each family: one stretches pictures, the other letterboxes them."""
    name = {"detr": "bundle", "yolo": "yolo_bundle"}[request.param]
    return ad.load(request.getfixturevalue(name).path)


@pytest.fixture(scope="module", params=["detr", "yolo"])
def lying(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ad.Detector:
    """The same with an input that is not square."""
    name = {"detr": "checkpoint", "yolo": "yolo_checkpoint"}[request.param]
    source = request.getfixturevalue(name)
    rule = Suppression(score_threshold=0.0) if request.param == "yolo" else None

    def make(folder: Path) -> None:
        folder.mkdir()
        export_bundle(source, folder / "tiny", input_size=(96, 160), suppression=rule)

    return ad.load(once(tmp_path_factory, f"lying-{request.param}", make) / "tiny")


def placed(recipe: Preprocess, height: int, width: int) -> tuple[float, float, float, float]:
    """Pixels of a picture for one of the input along x and y, and where the picture begins there:
    written out again."""
    rows, columns = recipe.size
    if recipe.resize == "stretch":
        return width / columns, height / rows, 0, 0
    ratio = min(columns / width, rows / height)
    wide, tall = max(1, round(width * ratio)), max(1, round(height * ratio))
    return width / wide, height / tall, (columns - wide) // 2, (rows - tall) // 2


def expected(
    detector: ad.Detector, picture: NDArray[np.uint8], depth: str, threshold: float
) -> list[tuple[float, int, list[float]]]:
    """Score, label and box of each detection, one by one."""
    recipe = detector.bundle.manifest.preprocess
    answer = detector.session.run(prepare(picture, recipe)[0][None], depth)
    height, width = picture.shape[:2]
    across, down, left, top = placed(recipe, height, width)
    found = []
    for label, score, (x1, y1, x2, y2) in zip(
        answer.labels[0], answer.scores[0], answer.boxes[0].tolist(), strict=True
    ):
        if label >= 0 and score >= threshold:
            box = [(x1 - left) * across, (y1 - top) * down, (x2 - left) * across, (y2 - top) * down]
            limits = [width, height, width, height]
            cut = [min(max(side, 0), limit) for side, limit in zip(box, limits, strict=True)]
            found.append((float(score), int(label), cut))
    return found


def check(result: ad.Result, wanted: list[tuple[float, int, list[float]]]) -> None:
    assert result.scores.tolist() == [item[0] for item in wanted]
    assert result.labels.tolist() == [item[1] for item in wanted]
    boxes = np.array([item[2] for item in wanted]).reshape(-1, 4)
    np.testing.assert_allclose(result.boxes, boxes, atol=1e-3)


def threshold_of(detector: ad.Detector) -> float:
    """Random weights of the YOLO are sure of nothing."""
    return 0.3 if detector.bundle.manifest.suppression is None else 0.0


def test_every_depth_is_what_predict_says(
    either: ad.Detector, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = threshold_of(either)
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: either.session)  # opened once
    assert either.ladder == tuple(map(str, either.bundle.table.ladder))
    for depth in either.ladder:
        results = either(pictures, depth, threshold)
        told = predict(either.bundle, pictures, depth, threshold=threshold, draw=False)
        assert [result.to_json()["detections"] for result in results] == [
            item.detections for item in told
        ]
        assert [result.path for result in results] == [item.image for item in told]
        assert {result.depth for result in results} == {depth}
        for number, (result, size) in enumerate(zip(results, SIZES, strict=True)):
            assert result.size == size
            check(result, expected(either, noise(*size, seed=number), depth, threshold))
        assert sum(map(len, results)) > 10


def test_inputs_that_are_not_square(lying: ad.Detector, pictures: Path) -> None:
    assert lying.bundle.size == (96, 160)
    threshold, count = threshold_of(lying), 0
    for depth in lying.ladder:
        results = lying.predict(pictures, depth, threshold)
        for number, result in enumerate(results):
            picture = noise(*SIZES[number], seed=number)
            check(result, expected(lying, picture, depth, threshold))
        count += sum(map(len, results))
    assert count > 10


def assert_near(one: ad.Result, other: ad.Result, threshold: float) -> None:
    """Each detection of one is one of the other, but at the very threshold."""
    for item in one:
        near = (
            (other.labels == item.label)
            & (np.abs(other.scores - item.score) < 1e-3 * item.score)
            & (np.abs(other.boxes - item.box).max(1) < 0.1)
        )
        assert near.any() or item.score < threshold * 1.002


@pytest.mark.parametrize("batch", [3, 100])
def test_pictures_of_different_sizes_in_one_call(
    either: ad.Detector, pictures: Path, batch: int
) -> None:
    """Each is what it is alone, but for the order of sums: at one depth, and at one each."""
    threshold = threshold_of(either)
    depths = ["base", "super", "level:1", "super"]
    for asked in (["base"] * 4, depths):
        one_depth = len({*asked}) == 1
        found = either(pictures, asked[0] if one_depth else asked, threshold, batch)
        assert sum(map(len, found)) > 10
        for place, (path, depth) in enumerate(zip(sorted(pictures.iterdir()), asked, strict=True)):
            (alone,) = either(path, depth, threshold)
            assert (found[place].depth, found[place].size) == (alone.depth, SIZES[place])
            assert_near(found[place], alone, threshold)
            assert_near(alone, found[place], threshold)


@pytest.mark.parametrize("orientation", EDGES)
def test_boxes_are_in_the_picture_that_viewers_show(tmp_path: Path, orientation: int) -> None:
    """An object where it is seen, whichever way up the picture is stored."""

    def bright(image: NDArray[np.float32]) -> list[tuple[int, float, tuple[float, ...]]]:
        rows, columns = np.nonzero(image.mean(0) > 0.5)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return [(0, 0.9, tuple(map(float, box)))]

    stored = np.zeros((64, 128, 3), np.uint8)
    stored[8:16, 32:96] = 255
    path = save_marked(tmp_path / "x.png", stored, orientation)
    seen = np.argwhere(ad.load_image(path)[..., 0])
    height, width = (128, 64) if orientation >= 5 else (64, 128)
    for recipe in (
        Preprocess.of("stretch", (64, 64)),
        Preprocess.of("letterbox", (64, 64)).model_copy(update={"padding": 0}),
    ):
        detector, _ = listening_detector(tmp_path, ListeningSession(bright), recipe=recipe)
        for source in (path, Image.open(path), ad.load_image(path)):
            (result,) = detector(source)
            assert result.size == (height, width)
            assert result.image.shape == (height, width, 3)
            low, high = seen.min(0)[::-1], seen.max(0)[::-1] + 1
            np.testing.assert_allclose(result.boxes[0], [*low, *high], atol=2)
        plain, _ = listening_detector(
            tmp_path, ListeningSession(bright), recipe=recipe, orientation="stored"
        )
        (result,) = plain(path)
        np.testing.assert_allclose(result.boxes[0], [32, 8, 96, 16], atol=2)
        assert np.array_equal(result.image, stored)


def test_engines_of_few_pictures(tmp_path: Path) -> None:
    """What takes 2 or 3 pictures gets as many, and answers for those that were asked for."""
    session = ListeningSession(
        lambda image: [(1, float(image.mean()), (0, 0, 8, 8))],
        BatchProfile(smallest=2, typical=2, largest=3),
    )
    detector, _ = listening_detector(tmp_path, session)
    levels = [200, 210, 220, 230, 240, 250, 255]
    pictures = [np.full((9, 9, 3), level, np.uint8) for level in levels]
    results = detector(pictures, batch=8)
    assert [len(images) for images, _ in session.calls] == [3, 3, 2]
    np.testing.assert_allclose([r.scores[0] for r in results], np.array(levels) / 255, atol=1e-6)
    session.calls.clear()
    results = detector(pictures, ["base", "super", "base"] * 2 + ["base"], batch=8)
    np.testing.assert_allclose([r.scores[0] for r in results], np.array(levels) / 255, atol=1e-6)


def test_labels_without_a_name(tmp_path: Path) -> None:
    session = ListeningSession(lambda _: [(3, 0.9, (0, 0, 8, 8))])
    detector, _ = listening_detector(tmp_path, session)
    with pytest.raises(BundleError, match="find the label 3, its manifest names 3 classes"):
        detector(noise(9, 9))


def test_the_options_choose_what_is_opened(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    opened = Bundle.session

    def session(self: Bundle, **options: Any) -> Any:
        asked.append(options)
        return opened(self, **options)

    monkeypatch.setattr(Bundle, "session", session)
    detector = ad.load(
        str(bundle.path), layout="set", weights="folded", threads=1, check=False, preload=True
    )
    assert asked == [
        {
            "runtime": "onnxruntime",
            "artifact": "set",
            "precision": "fp32",
            "weights": "folded",
            "target": None,
            "threads": 1,
            "kept_depths": None,
            "check": False,
            "preload": True,
        }
    ]
    assert len(detector(noise(20, 30), "base", 0.0)) == 1


def test_what_cannot_be_loaded(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    for error, told, options in (
        (BundleError, "does not exist", {"path": tmp_path / "none"}),
        ((BundleError, CheckpointError), "checkpoint", {"path": checkpoint}),
        (UsageError, "unknown runtime", {"runtime": "abacus"}),
        (UsageError, "unknown precision 'fp4'", {"precision": "fp4"}),
        (BundleError, "has no artifact 'stages fp32'", {"layout": "stages"}),
        (UsageError, "unknown orientation 'down': expected upright or", {"orientation": "down"}),
        (UsageError, "threads is 0", {"threads": 0}),
        (UsageError, "timeout is 0: expected more than 0 seconds", {"timeout": 0}),
    ):
        with pytest.raises(error, match=told) as caught:
            ad.load(**{"path": bundle.path, **options})  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_without_a_runtime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anydepth-deploy\[onnxruntime\]'"):
        ad.load(bundle.path)


def test_who_is_who(bundle: Bundle) -> None:
    with ad.load(bundle.path, layout="gated") as detector:
        words = (
            "anydepth-detr tiny, onnxruntime fp32 gated, input 160x160, "
            f"ladder {RUNGS[0]} to {RUNGS[-1]} ({len(RUNGS)} rungs)"
        )
        assert repr(detector) == f"<Detector {bundle.path}: {words}>"
        assert repr(detector.session) == f"<Session {words}>"
        assert detector.class_names == tuple(bundle.classes)
    assert repr(detector) == f"<Detector {bundle.path}: {words}, closed>"
    assert repr(detector.session) == f"<Session {words}, closed>"
    with pytest.raises(UsageError, match="this session is closed"):
        detector(noise(9, 9))
    detector.close()


def test_sessions_close_themselves(bundle: Bundle) -> None:
    images = np.zeros((1, 3, *bundle.size), np.float32)
    with bundle.session(artifact="set") as session:
        session.run(images, "base")
        assert " set, input 160x160" in repr(session)
    with pytest.raises(UsageError, match="this session is closed"):
        session.run(images, "base")
    with pytest.raises(ZeroDivisionError), bundle.session() as session:
        raise ZeroDivisionError
    assert repr(session).endswith("closed>")


def test_a_network_of_one_depth(one_depth_bundle: Bundle) -> None:
    detector = ad.load(one_depth_bundle.path)
    assert "depth full>" in repr(detector)
    assert detector(noise(9, 9))[0].depth == "full"


def test_several_threads_at_once(bundle: Bundle, pictures: Path) -> None:
    detector = ad.load(bundle.path)
    alone = {depth: detector(pictures, depth, 0.3) for depth in ("base", "super")}
    found: dict[int, list[ad.Result]] = {}

    def run(number: int) -> None:
        found[number] = detector(pictures, ("base", "super")[number % 2], 0.3)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        for one, other in zip(found[number], alone[("base", "super")[number % 2]], strict=True):
            assert np.array_equal(one.boxes, other.boxes)


def test_a_caller_for_whom_numpy_raises(bundle: Bundle, pictures: Path) -> None:
    detector = ad.load(bundle.path)
    expected = detector(pictures, threshold=0.0)
    with np.errstate(all="raise"):
        for one, other in zip(detector.stream(pictures, threshold=0.0), expected, strict=True):
            assert np.array_equal(one.boxes, other.boxes)


RUN = """
import json, sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnx_ir", "scipy", "matplotlib", "openvino",
                                  "faster_coco_eval", "tritonclient", "supervision"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
import anydepth_deploy as ad

with ad.load(sys.argv[1]) as detector:
    results = detector(sys.argv[2], depth="base", threshold=0.3)
for result in results:
    result.plot(), result.to_coco(1), result._repr_png_()
print(json.dumps([len(result) for result in results]))
"""


def test_numpy_pillow_and_a_runtime_are_all_it_takes(bundle: Bundle, pictures: Path) -> None:
    command = [sys.executable, "-c", RUN, str(bundle.path), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with ad.load(bundle.path) as detector:
        expected = [len(result) for result in detector(pictures, depth="base", threshold=0.3)]
    assert json.loads(done.stdout) == expected

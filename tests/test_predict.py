"""Pictures in, boxes drawn on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anydepth_deploy.bundle import Bundle
from anydepth_deploy.detections import Detections
from anydepth_deploy.draw import class_colour, draw_detections, side_by_side
from anydepth_deploy.errors import BundleError, DepthError, ImageError, UsageError
from anydepth_deploy.images import load_image, prepare
from anydepth_deploy.predict import predict


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures of different sizes."""
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (90, 120)), ("b.jpg", (160, 160)), ("sub/a.bmp", (400, 700))):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return folder


def test_one_picture(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "drawn.png"
    (found,) = predict(bundle, pictures / "a.png", "level:1", threshold=0.3, out=out)
    assert (found.image, found.depth, found.drawn) == (
        str(pictures / "a.png"),
        "FFTF-F-2",
        str(out),
    )
    picture = load_image(pictures / "a.png")
    prepared, _ = prepare(picture, bundle.manifest.preprocess)
    answer = bundle.session().run(prepared[None], "FFTF-F-2")
    shown = [
        (int(label), float(score), box)
        for label, score, box in zip(
            answer.labels[0], answer.scores[0], answer.boxes[0], strict=True
        )
        if score >= 0.3
    ]
    assert len(found.detections) == len(shown) > 3
    for item, (label, score, box) in zip(found.detections, shown, strict=True):
        assert item["label"] == label
        assert item["class"] == bundle.classes[label]
        assert item["score"] == pytest.approx(score, abs=1e-6)
        # 160 x 160 -> 120 wide, 90 high, cut at the edge
        expected = np.clip(box * [0.75, 0.5625, 0.75, 0.5625], 0, [120, 90, 120, 90])
        assert item["box"] == pytest.approx(expected.tolist(), abs=2e-3)
    with Image.open(out) as drawn:
        assert drawn.size == (5 * 120, 5 * 90)  # small pictures are enlarged
        assert drawn.mode == "RGB"


def test_threshold_and_depth_change_the_result(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "drawn.png"
    scores = {}
    for depth in ("base", "super"):
        (found,) = predict(bundle, pictures / "a.png", depth, threshold=0.0, out=out)
        scores[depth] = [item["score"] for item in found.detections]
        assert len(found.detections) == 100
    assert scores["base"] != scores["super"]
    middle = (scores["super"][29] + scores["super"][30]) / 2
    for threshold, count in ((middle, 30), (1.0, 0)):
        (found,) = predict(bundle, pictures / "a.png", threshold=threshold, out=out)
        assert [item["score"] for item in found.detections] == scores["super"][:count]


@pytest.mark.parametrize("layout", [None, "gated", "set"])
def test_a_folder_of_pictures(
    bundle: Bundle, pictures: Path, tmp_path: Path, layout: str | None
) -> None:
    steps: list[tuple[str, int, int]] = []
    found = predict(
        bundle,
        pictures,
        "base",
        out=tmp_path / "out",
        layout=layout,
        progress=lambda *step: steps.append(step),
    )
    # Two pictures have the same name: neither drawing may replace the other.
    names = ["000000-a.pred.png", "000001-b.pred.png", "000002-a.pred.png"]
    assert [Path(item.drawn).name for item in found] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert steps == [("a.png", 0, 3), ("b.jpg", 1, 3), ("a.bmp", 2, 3)]


def test_where_drawings_go_by_default(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = predict(bundle, pictures / "b.jpg", "base")
    assert found.drawn == "b.pred.png"
    assert (tmp_path / "b.pred.png").is_file()
    folder = tmp_path / "there"
    folder.mkdir()
    (found,) = predict(bundle, pictures / "b.jpg", "base", out=folder)
    assert found.drawn == str(folder / "b.pred.png")


def test_a_picture_as_viewers_show_it(bundle: Bundle, tmp_path: Path) -> None:
    image = Image.new("RGB", (700, 650))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    out = tmp_path / "drawn.png"
    predict(bundle, tmp_path / "turned.jpg", "base", out=out)
    with Image.open(out) as drawn:
        assert drawn.size == (650, 700)


def test_what_cannot_be_predicted(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    out = tmp_path / "out.png"
    with pytest.raises(ImageError, match="is not a picture"):
        predict(bundle, text, out=out)
    with pytest.raises(ImageError, match="neither a picture nor a folder"):
        predict(bundle, tmp_path / "nothing.png", out=out)
    with pytest.raises(DepthError, match="unknown depth 'deep'"):
        predict(bundle, pictures / "a.png", "deep", out=out)
    with pytest.raises(BundleError, match="no artifact 'stages fp32'"):
        predict(bundle, pictures / "a.png", layout="stages", out=out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(UsageError, match="is a file, but there are 3 pictures"):
        predict(bundle, pictures, out=out)
    assert out.read_text() == "mine"
    with pytest.raises(ImageError, match="cannot be written"):
        predict(bundle, pictures / "a.png", "base", out=tmp_path / "drawn.what")


# --- drawing ---------------------------------------------------------------------------------


def one_box(*corners: float) -> Detections:
    return Detections(
        np.array([[2]]), np.array([[corners]], np.float32), np.array([[0.875]], np.float32)
    )


def test_a_box_is_drawn_where_it_is() -> None:
    picture = np.full((100, 200, 3), 255, np.uint8)
    drawn = np.asarray(draw_detections(picture, one_box(20, 40, 120, 90), ["a", "b", "star"]))
    assert (picture == 255).all()
    outline = (drawn == class_colour(2)).all(-1)
    assert outline[40:91, 20].all()
    assert outline[40:91, 120].all()
    assert outline[90, 20:121].all()
    assert outline[40, 20:121].all()
    assert (drawn[42:89, 22:119] == 255).all()  # the inside is left alone
    assert (drawn[92:] == 255).all()
    assert (drawn[:40] != 255).any()  # the caption sits above


@pytest.mark.parametrize(
    "corners", [(0, 0, 50, 20), (190, 90, 200, 100), (0, 0, 200, 100), (10, 10, 10, 10)]
)
def test_boxes_at_the_edge(corners: tuple[float, float, float, float]) -> None:
    picture = np.full((100, 200, 3), 255, np.uint8)
    drawn = draw_detections(picture, one_box(*corners), ["a", "b", "star"], enlarge=2)
    assert drawn.size == (400, 200)
    assert (np.asarray(drawn) != 255).any()


def test_colours_of_classes_differ() -> None:
    assert len({class_colour(label) for label in range(80)}) == 80


def test_side_by_side() -> None:
    one, other = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (30, 40), "blue")
    sheet = np.asarray(side_by_side([one, other], ["base", "super"]))
    assert sheet.shape[1] == 50 + 6 + 30
    assert (sheet[-40:, :50] == (255, 0, 0)).all()
    assert (sheet[-40:, -30:] == (0, 0, 255)).all()
    assert (sheet[:-40] < 128).any()

"""Pictures in, boxes drawn on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RUNGS
from PIL import Image, ImageFont

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, DepthError, ImageError, UsageError
from anydepth_deploy.pictures import fonts
from anydepth_deploy.pictures.draw import class_colour, draw_detections, side_by_side
from anydepth_deploy.pictures.images import SUFFIXES, load_image, prepare
from anydepth_deploy.predict.run import predict


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
        RUNGS[1],
        str(out),
    )
    picture = load_image(pictures / "a.png")
    prepared, _ = prepare(picture, bundle.manifest.preprocess)
    answer = bundle.session().run(prepared[None], RUNGS[1])
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
    with pytest.raises(BundleError, match="no artifact 'fp32 heavy'"):
        predict(bundle, pictures / "a.png", weights="heavy", out=out)
    assert not out.exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ImageError, match="cannot be written"):
        predict(bundle, pictures / "a.png", "base", out=tmp_path / "file" / "drawn.png")


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the files is found before anything is opened."""
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: pytest.fail("opened a session"))


@pytest.mark.usefixtures("no_session")
def test_where_drawings_cannot_go(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file.png").write_text("mine")
    (tmp_path / "file").write_text("mine")
    one = pictures / "a.png"
    for source, out, told in (
        (pictures, None, "is a folder of pictures: give --out FOLDER"),
        (pictures, tmp_path / "file.png", "is a file, but .* is a folder of pictures"),
        (pictures, tmp_path / "file", "is a file, but .* is a folder of pictures"),
        (pictures, tmp_path / "new.png", "is a file, but .* is a folder of pictures"),
        (one, tmp_path / "file", "is a file: expected a folder, or a picture"),
        (one, tmp_path / "drawn.what", r"has the suffix \.what: expected .* or a picture"),
        (one, tmp_path / "drawn.what.gz", r"has the suffix \.gz"),
    ):
        with pytest.raises(UsageError, match=told) as caught:
            predict(bundle, source, out=out)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file.png").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("no_session")
def test_pictures_are_not_replaced(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    (tmp_path / "link.png").symlink_to(pictures / "a.png")
    before = (pictures / "a.png").read_bytes()
    for source, out in (
        (pictures / "a.png", pictures / "a.png"),
        (pictures / "a.png", "a.png"),
        (pictures / "a.png", pictures / "sub" / ".." / "a.png"),
        (pictures / "a.png", tmp_path / "link.png"),
        (tmp_path / "link.png", pictures / "a.png"),
    ):
        with pytest.raises(UsageError, match="would replace a picture that is read"):
            predict(bundle, source, out=out)
    assert (pictures / "a.png").read_bytes() == before


@pytest.mark.parametrize("name", ["new", "new/", "deep/new", ".hidden", "v1.png/"])
def test_a_new_folder_for_one_picture(
    bundle: Bundle, pictures: Path, tmp_path: Path, name: str
) -> None:
    (found,) = predict(bundle, pictures / "a.png", "base", out=f"{tmp_path}/{name}")
    assert found.drawn == str(tmp_path / name / "a.pred.png")
    assert Path(found.drawn).is_file()


def test_folders_may_have_a_dot(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    assert len(predict(bundle, pictures, "base", out=tmp_path / "run.1")) == 3
    (tmp_path / "run.2").mkdir()
    (found,) = predict(bundle, pictures / "a.png", "base", out=tmp_path / "run.2")
    assert found.drawn == str(tmp_path / "run.2" / "a.pred.png")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_can_be_drawn(
    bundle: Bundle, pictures: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"drawn{suffix.upper()}"
    predict(bundle, pictures / "a.png", "base", out=out)
    assert load_image(out).shape == (5 * 90, 5 * 120, 3)


def test_earlier_drawings_are_no_pictures(bundle: Bundle, pictures: Path) -> None:
    first = predict(bundle, pictures, "base", out=pictures)
    again = predict(bundle, pictures, "base", out=pictures)
    assert [item.image for item in again] == [item.image for item in first]
    assert [item.drawn for item in again] == [item.drawn for item in first]
    for path in (pictures / "a.png", pictures / "b.jpg", pictures / "sub" / "a.bmp"):
        path.unlink()
    with pytest.raises(ImageError, match="holds only drawings of earlier runs"):
        predict(bundle, pictures, "base", out=pictures)
    (found,) = predict(bundle, first[0].drawn, "base", out=pictures / "once.more.png")
    assert found.image == first[0].drawn


def test_the_weights_are_chosen(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    opened = Bundle.session

    def session(self: Bundle, **options: Any) -> Session:
        asked.append(options)
        return opened(self, **options)

    monkeypatch.setattr(Bundle, "session", session)
    out = tmp_path / "drawn.png"
    predict(bundle, pictures / "a.png", "base", layout="gated", weights="folded", out=out)
    wanted = {"artifact": "gated", "precision": "fp32", "weights": "folded", "threads": None}
    assert asked == [{"runtime": "onnxruntime", **wanted}]


@pytest.mark.parametrize("source", ["a.png", ""])
def test_without_drawings(
    bundle: Bundle,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: pytest.fail("wrote a picture"))
    found = predict(bundle, pictures / source, "base", threshold=0.3, draw=False)
    monkeypatch.undo()
    drawn = predict(bundle, pictures / source, "base", threshold=0.3, out=tmp_path / "out")
    assert [item.drawn for item in found] == [""] * len(drawn)
    assert [item.detections for item in found] == [item.detections for item in drawn]
    assert list((tmp_path / "cwd").iterdir()) == []
    with pytest.raises(UsageError, match=r"--out .*out is where drawings go: leave it out, or"):
        predict(bundle, pictures, "base", out=tmp_path / "out", draw=False)


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


def test_pictures_longer_than_letters_can_be() -> None:
    """Letters grow with a picture, and no font has them of 65536 pixels."""
    picture = np.full((3_300_000, 2, 3), 255, np.uint8)
    drawn = draw_detections(picture, one_box(0, 100, 2, 3_000_000), ["a", "b", "star"])
    assert (np.asarray(drawn)[100, 0] == class_colour(2)).all()


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any but Pillow's own."""
    monkeypatch.setattr(fonts, "system_font", lambda letters: None)


def caption(name: str) -> bytes:
    """A drawing of a box of the class 2, which is called `name`."""
    picture = np.full((200, 600, 3), 255, np.uint8)
    return draw_detections(picture, one_box(20, 60, 120, 90), ["a", "b", name]).tobytes()


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize(
    "name",
    [
        "三角形",
        "さんかく",
        "세모",
        "треугольник",
        "مثلث",
        "त्रिकोण",
        "สาม",
        "🔺",
        "a三",
        "\x07",
        "",
        " ",
    ],
)
def test_a_name_in_a_script_that_the_font_lacks(name: str) -> None:
    assert caption(name) == caption("class 2")


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize(
    ("name", "shown"), [("Dreieck", "Dreieck"), ("tam giác", "tam giac"), ("čtverec", "ctverec")]
)
def test_a_name_with_accents(name: str, shown: str) -> None:
    assert caption(name) == caption(shown)
    assert caption(shown) != caption("class 2")


@pytest.mark.parametrize("seed", range(20))
def test_names_in_ascii_are_drawn_as_they_are(seed: int) -> None:
    """Each letter changes the drawing: none is taken for one that the font lacks."""
    rng = np.random.default_rng(seed)
    name = "".join(chr(code) for code in rng.integers(33, 127, 6))
    others = [name[:place] + " " + name[place + 1 :] for place in range(6)]
    assert caption("class 2") not in map(caption, [name, *others])
    assert len(set(map(caption, [name, *others]))) == 7


@pytest.mark.usefixtures("no_fonts")
def test_names_with_the_font_that_is_no_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow has without FreeType: letters of Latin-1, and an error for all others."""
    small = ImageFont.load_default_imagefont()
    monkeypatch.setattr(ImageFont, "load_default", lambda size=None: small)
    assert caption("三角形") == caption("class 2")
    assert caption("naïve") != caption("naive")


def test_colours_of_classes_differ() -> None:
    assert len({class_colour(label) for label in range(80)}) == 80


def test_side_by_side() -> None:
    one, other = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (30, 40), "blue")
    sheet = np.asarray(side_by_side([one, other], ["base", "super"]))
    assert sheet.shape[1] == 50 + 6 + 30
    assert (sheet[-40:, :50] == (255, 0, 0)).all()
    assert (sheet[-40:, -30:] == (0, 0, 255)).all()
    assert (sheet[:-40] < 128).any()


@pytest.mark.parametrize("label", [-2, 8, 90])
def test_labels_that_no_class_has(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: int
) -> None:
    """The graph and the manifest are not of one export."""
    run = Session.run

    def relabelled(self: Session, *given: Any) -> Detections:
        found = run(self, *given)
        return Detections(np.full_like(found.labels, label), found.boxes, found.scores)

    monkeypatch.setattr(Session, "run", relabelled)
    count = len(bundle.classes)
    words = f"graphs find the label {label}, its manifest names {count} classes.*export it again"
    with pytest.raises(BundleError, match=words):
        predict(bundle, pictures / "a.png", threshold=0.0, out=tmp_path / "drawn.png")
    assert not (tmp_path / "drawn.png").exists()

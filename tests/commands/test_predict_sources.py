"""`predict` on several sources, videos and formats, as a user types it."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import cut, make_clip, moments, streamed, turned
from command_line import Run, fails, strict_json
from conftest import RUNGS
from PIL import Image

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.errors import MissingExtraError, UsageError
from anydepth_deploy.pictures.images import load_image
from anydepth_deploy.predict.run import Options
from anydepth_deploy.predict.run import Run as PredictRun

SUPER = RUNGS[-1]


@pytest.fixture
def street(run: Run) -> Path:
    """Three pictures and a video in the working folder."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("000007.png", "000012.jpg", "sub/000005.png")):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (90 + number, 120, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    make_clip(Path("clip.mp4"), 8)
    return Path()


def pictures(content: Any) -> list[str]:
    return [item["image"] for item in content["predictions"]]


# --- videos ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [Fraction(10), Fraction(30000, 1001)])
def test_a_video_in_a_playable_one_out(run: Run, bundle: Bundle, rate: Fraction) -> None:
    make_clip(Path("a.mp4"), 9, rate=rate)
    found = run("predict", bundle.path, "a.mp4", "--threshold", "0.6", "--json").json
    assert pictures(found) == [f"a.mp4#{n}" for n in range(9)]
    assert {item["drawn"] for item in found["predictions"]} == {"a.pred.mp4"}
    assert [item["frame"] for item in found["predictions"]] == list(range(9))
    assert found["predictions"][4]["time"] == pytest.approx(float(4 / rate), abs=1e-3)
    assert found["pictures"] == 9
    assert found["pictures_per_second"] > 0
    given, drawn = moments(Path("a.mp4")), moments(Path("a.pred.mp4"))
    assert drawn[0] == pytest.approx(given[0], abs=1e-3)
    assert drawn[1:] == (given[1], given[2], "h264")
    # And again: a name that nobody chose replaces nothing.
    assert "a-2.pred.mp4" in run("predict", bundle.path, "a.mp4", "--threshold", "1").out


def test_every_frame_is_drawn_on(run: Run, bundle: Bundle) -> None:
    """And those without a detection stay as they are."""
    make_clip(Path("a.mp4"), 4)
    plain = _frames(Path("a.mp4"))
    for threshold in ("0.3", "1"):
        words = ("--threshold", threshold, "--out", "d/", "--json")
        rows = run("predict", bundle.path, "a.mp4", *words).json["predictions"]
        assert {bool(row["detections"]) for row in rows} == {threshold == "0.3"}
        for before, after in zip(plain, _frames(Path("d/a.pred.mp4")), strict=True):
            changed = np.abs(after.astype(int) - before.astype(int)).max(-1) > 40
            assert changed.any() == (threshold == "0.3")


def _frames(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_table_of_a_video(run: Run, bundle: Bundle, street: Path) -> None:
    shown = run("predict", bundle.path, "clip.mp4", "000007.png", "--out", "d", "--depth", "base")
    assert shown.code == 0
    assert f"clip.mp4 at {RUNGS[0]}: 8 frames, 0.70 s" in shown.out
    assert f"000007.png at {RUNGS[0]}" in shown.out
    assert "d/clip.pred.mp4" in shown.out
    assert shown.out.strip().splitlines()[-1].startswith("9 pictures in ")
    assert " a second" in shown.out
    assert sorted(path.name for path in Path("d").iterdir()) == [
        "000007.pred.png",
        "clip.pred.mp4",
    ]


def test_depths_side_by_side(run: Run, bundle: Bundle, street: Path) -> None:
    words = ("--compare", "base,super", "--out", "d", "--threshold", "0.3", "--json")
    found = run("predict", bundle.path, "clip.mp4", "000007.png", *words).json["predictions"]
    assert [(item["image"], item["depth"]) for item in found] == [
        *((f"clip.mp4#{n}", depth) for n in range(8) for depth in (RUNGS[0], SUPER)),
        *(("000007.png", depth) for depth in (RUNGS[0], SUPER)),
    ]
    for depth in ("base", "super"):
        more = ("--depth", depth, "--no-draw", "--threshold", "0.3", "--json")
        alone = run("predict", bundle.path, "clip.mp4", "000007.png", *more).json["predictions"]
        name = {"base": RUNGS[0], "super": SUPER}[depth]
        assert [item["detections"] for item in alone] == [
            item["detections"] for item in found if item["depth"] == name
        ]
    times, (height, width), rate, _ = moments(Path("d/clip.pred.mp4"))
    assert len(times) == 8
    assert rate == 10
    assert width == 2 * 64 + 6
    assert height > 48
    with Image.open("d/000007.pred.png") as drawing:
        assert drawing.width == 2 * 5 * 120 + 6


def test_a_stream_is_drawn_with_the_times_of_its_frames(run: Run, bundle: Bundle) -> None:
    content = make_clip(Path("live.ts"), 60, noise=True, rate=20).read_bytes()
    with streamed(content) as place:
        url = f"tcp://user:secret@{place}"
        found = run("predict", bundle.path, url, "--out", "d.mp4", "--depth", "base", "--json")
    assert "secret" not in found.out + found.err
    times = [item["time"] for item in found.json["predictions"]]
    assert moments(Path("d.mp4"))[0] == pytest.approx([t - times[0] for t in times], abs=2e-3)


def test_a_phone_held_upright(run: Run, bundle: Bundle) -> None:
    clip = turned(make_clip(Path("a.mp4"), 3), 1)
    assert run("predict", bundle.path, clip, "--out", "up.mp4").code == 0
    assert moments(Path("up.mp4"))[1] == (64, 48)
    words = ("--out", "stored.mp4", "--orientation", "stored")
    assert run("predict", bundle.path, clip, *words).code == 0
    assert moments(Path("stored.mp4"))[1] == (48, 64)


@pytest.mark.parametrize("words", [[], ["--compare", "base,super", "--batch", "4"]])
def test_a_cut_video_is_drawn_as_far_as_it_goes(run: Run, bundle: Bundle, words: list[str]) -> None:
    path = cut(make_clip(Path("a.mp4"), 20, noise=True), 0.5)
    words = [*words, "--threshold", "0.6"]
    shown = run("predict", bundle.path, path, "--json", *words)
    assert shown.code == 2
    content = strict_json(shown.out)
    count = content["pictures"]
    assert 5 < count < 18
    assert len(content["predictions"]) == count * (2 if "--compare" in words else 1)
    assert len(moments(Path("cut-a.pred.mp4"))[0]) == count
    (line,) = shown.err.splitlines()
    assert line.startswith(f"error: video cut-a.mp4 ends at frame {count} (")
    assert content["skipped"] == [{"image": "cut-a.mp4", "error": line.removeprefix("error: ")}]
    shown = run("predict", bundle.path, path, "--no-draw", "--threshold", "0.6")
    assert f"{count} frames" in shown.out
    assert shown.err == f"{line}\n"


# --- several sources ---------------------------------------------------------------------------


def test_sources_of_every_kind_in_their_order(run: Run, bundle: Bundle, street: Path) -> None:
    found = run("predict", bundle.path, "sub", "clip.mp4", "*.png", "--no-draw", "--json").json
    frames = [f"clip.mp4#{n}" for n in range(8)]
    assert pictures(found) == ["sub/000005.png", *frames, "000007.png"]
    assert found["skipped"] == []


def test_one_bad_source_of_several_is_skipped(run: Run, bundle: Bundle, street: Path) -> None:
    Path("bad.jpg").write_text("no picture")
    Path("bad.mp4").write_text("no video")
    shown = run("predict", bundle.path, "bad.jpg", "000007.png", "bad.mp4", "--no-draw", "--json")
    fails(shown, 2, "2 of 3 pictures in", "bad.jpg is not a picture", "bad.mp4 is not a video")
    content = strict_json(shown.out)
    assert pictures(content) == ["000007.png"]
    assert [item["image"] for item in content["skipped"]] == ["bad.jpg", "bad.mp4"]
    fails(run("predict", bundle.path, "bad.mp4", "--no-draw"), 2, "bad.mp4 is not a video of")
    fails(run("predict", bundle.path, "bad.jpg", "none.png"), 2, "none.png is neither a picture")


def test_a_source_twice_is_looked_at_once(run: Run, bundle: Bundle, street: Path) -> None:
    words = ("000007.png", "sub", "*7.png", "sub/000005.png")
    shown = run("predict", bundle.path, *words, "--out", "d", "--json")
    assert shown.code == 0
    assert pictures(strict_json(shown.out)) == ["000007.png", "sub/000005.png"]
    assert shown.err == (
        "note: 000007.png, sub/000005.png are given more than once: looked at once\n"
    )


NO_PLACES = {
    "several without --out": (["000007.png", "clip.mp4"], "there are 2 sources (000007.png, clip"),
    "a file for several": (["000007.png", "clip.mp4", "--out", "d.png"], "--out d.png is a file"),
    "a video for several": (["clip.mp4", "sub", "--out", "d.mp4"], "d.mp4 is a file, but"),
    "a file that is there": (["clip.mp4", "--out", "file"], "is a file: expected a folder"),
    "a picture for a video": (["clip.mp4", "--out", "d.png"], "has the suffix .png"),
    "a video for a picture": (["000007.png", "--out", "d.mp4"], "or a picture (.bmp"),
    "over itself": (["clip.mp4", "--out", "clip.mp4"], "would replace a picture that is read"),
    "over another": (["000012.jpg", "000007.png", "--out", "000007.png"], "is a file, but there"),
    "no drawing": (["clip.mp4", "--no-draw", "--out", "d"], "--out d is where drawings go"),
    "labels without a place": (["clip.mp4", "--format", "yolo"], "give --out FOLDER"),
    "labels in a file": (["clip.mp4", "--format", "yolo", "--out", "d.mp4"], "give --out FOLDER"),
    "depths as one": (["clip.mp4", "--depth", "base,super"], "one: --compare 'base,super' takes"),
    "one depth": (["clip.mp4", "--compare", "base"], "names 1 depth: expected two or"),
    "a depth twice": (["clip.mp4", "--compare", "base,base"], "names a depth twice"),
    "an unknown depth": (["clip.mp4", "--compare", "base,deep"], "unknown depth 'deep'"),
    "depth and depths": (["clip.mp4", "--compare", "base,super", "--depth", "base"], "--depth out"),
    "depths of COCO": (["clip.mp4", "--compare", "base,super", "--format", "coco"], "csv or json"),
    "an unknown class": (["clip.mp4", "--only", "nothing"], "unknown classes: nothing"),
    "no class": (["clip.mp4", "--only", ","], "--only ',' names no class"),
    "JSON twice": (["clip.mp4", "--json", "--format", "csv"], "--json is --format json"),
    "ids of what": (["clip.mp4", "--data", "a.json"], "--data is for --format coco"),
    "no font": (["clip.mp4", "--font", "none.ttf"], "font none.ttf cannot be read: "),
    "no camera": (["987"], "camera 987 is not there (/dev/video987)"),
    "another address": (["ftp://h/a.png"], "is an address of the kind ftp"),
    "an address as a place": (["clip.mp4", "--out", "s3://b/d"], "'s3://b/d' is an address"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_PLACES)
def test_refused_before_any_work(
    run: Run, bundle: Bundle, street: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(Bundle, "session", lambda *_, **__: pytest.fail("opened a session"))
    Path("file").touch()
    words, told = NO_PLACES[case]
    before = sorted(Path().rglob("*"))
    shown = run("predict", bundle.path, *words)
    fails(shown, 2, told)
    assert shown.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_near_names_of_classes(run: Run, bundle: Bundle, street: Path) -> None:
    name = bundle.classes[1]
    shown = run("predict", bundle.path, "000007.png", "--only", f"{name}x")
    fails(shown, 2, f"unknown classes: {name}x; near ", name)


def test_nobody_answers(run: Run, bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"
        shown = run("predict", bundle.path, url, "--timeout", "0.3")
        fails(shown, 2, f"stream {url} did not answer in 0.3 s; try again, or raise timeout")
    fails(run("predict", bundle.path, url), 2, f"stream {url} cannot be opened: ")
    fails(run("predict", bundle.path, url.replace("rtsp", "http") + ".jpg"), 2, "cannot be fetched")
    assert list(Path().iterdir()) == []


def test_videos_need_their_extra(
    run: Run, bundle: Bundle, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    fails(run("predict", bundle.path, "clip.mp4"), 2, "pip install 'anydepth-deploy[video]'")
    assert run("predict", bundle.path, "000007.png").code == 0
    with pytest.raises(MissingExtraError, match="'av'"):
        PredictRun(bundle, ["clip.mp4"], ["base"], Options())


# --- formats -----------------------------------------------------------------------------------


def detections(run: Run, bundle: Bundle, *words: str) -> list[dict[str, Any]]:
    found = run("predict", bundle.path, *words, "--no-draw", "--threshold", "0.3", "--json").json
    return [
        {**one, "image": item["image"]}
        for item in found["predictions"]
        for one in item["detections"]
    ]


def test_csv_has_a_row_for_each_detection(run: Run, bundle: Bundle, street: Path) -> None:
    words = ("000007.png", "clip.mp4", "--threshold", "0.3", "--no-draw", "--format", "csv")
    shown = run("predict", bundle.path, *words)
    assert (shown.code, shown.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    expected = detections(run, bundle, "000007.png", "clip.mp4")
    assert len(rows) == len(expected) > 10
    for row, one in zip(rows, expected, strict=True):
        assert (row["image"], row["class"], int(row["label"])) == (
            *(one["image"], one["class"], one["label"]),
        )
        assert [float(row[side]) for side in ("x1", "y1", "x2", "y2")] == one["box"]
        assert float(row["score"]) == one["score"]
        assert (row["frame"] == "") == (row["image"] == "000007.png")
    shown = run("predict", bundle.path, "000007.png", "--threshold", "1", "--format", "csv")
    assert shown.out == "image,frame,time,depth,class,label,score,x1,y1,x2,y2\n"


def truth(bundle: Bundle, names: Sequence[str], ids: Sequence[int]) -> Path:
    """Annotations whose categories have odd ids, in another order."""
    content = {
        "images": [
            {"id": number, "file_name": f"elsewhere/{name}", "width": 120, "height": 90}
            for name, number in zip(names, ids, strict=True)
        ],
        "annotations": [],
        "categories": [
            {"id": 100 - 7 * label, "name": name} for label, name in enumerate(bundle.classes)
        ],
    }
    Path("truth.json").write_text(json.dumps(content))
    return Path("truth.json")


def test_coco_results_as_pycocotools_has_them(run: Run, bundle: Bundle, street: Path) -> None:
    words = ("000007.png", "sub", "--threshold", "0.3", "--no-draw", "--format", "coco")
    expected = detections(run, bundle, "000007.png", "sub")
    plain = json.loads(run("predict", bundle.path, *words).out)  # no note: names are numbers
    path = truth(bundle, ["000007.png", "000005.png"], [70, 50])
    named = json.loads(run("predict", bundle.path, *words, "--data", path).out)
    cases: list[tuple[Any, dict[str, int], Callable[[int], int]]] = [
        (plain, {"000007.png": 7, "sub/000005.png": 5}, lambda label: label + 1),
        (named, {"000007.png": 70, "sub/000005.png": 50}, lambda label: 100 - 7 * label),
    ]
    for rows, ids, category in cases:
        assert len(rows) == len(expected) > 5
        for row, one in zip(rows, expected, strict=True):
            x1, y1, x2, y2 = one["box"]
            assert row["image_id"] == ids[one["image"]]
            assert row["category_id"] == category(one["label"])
            assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=2e-3)
            assert row["score"] == one["score"]
    from faster_coco_eval import COCO

    Path("results.json").write_text(json.dumps(named))
    content: Any = COCO(str(path)).loadRes("results.json")
    assert set(content.getImgIds()) == {70, 50}
    assert len(content.getAnnIds()) == len(expected)


def test_coco_results_of_other_names(run: Run, bundle: Bundle, street: Path) -> None:
    Path("000007.png").rename("car.png")
    words = ("--threshold", "0.3", "--no-draw", "--format", "coco")
    shown = run("predict", bundle.path, "car.png", "sub", *words)
    assert shown.code == 0
    assert {row["image_id"] for row in json.loads(shown.out)} == {1, 2}
    assert shown.err.startswith("note: image_id counts the pictures from 1, since they are not")
    fails(
        run("predict", bundle.path, "car.png", *words, "--data", truth(bundle, ["b.png"], [1])),
        *(2, "truth.json has no id, or several, for 1 of 1 pictures: car.png"),
    )
    fails(run("predict", bundle.path, "clip.mp4", *words, "--data", "truth.json"), 2, "is a video")
    assert json.loads(run("predict", bundle.path, "sub", *words[2:], "--threshold", "1").out) == []


def test_yolo_labels_beside_drawings(run: Run, bundle: Bundle, street: Path) -> None:
    words = ("000007.png", "clip.mp4", "--threshold", "0.3", "--format", "yolo", "--out", "d")
    shown = run("predict", bundle.path, *words)
    assert (shown.code, shown.err, shown.out) == (0, "", "d: 9 label files\n")
    labels = ["000007.txt", *(f"clip_{n}.txt" for n in range(8))]
    assert sorted(path.name for path in Path("d").iterdir()) == sorted(
        [*labels, "000007.pred.png", "clip.pred.mp4"]
    )
    expected = detections(run, bundle, "000007.png")
    lines = Path("d/000007.txt").read_text().splitlines()
    assert len(lines) == len(expected) > 3
    height, width = load_image("000007.png").shape[:2]
    for line, one in zip(lines, expected, strict=True):
        label, cx, cy, w, h, score = map(float, line.split())
        assert label == one["label"]
        assert score == pytest.approx(one["score"], abs=1e-6)
        box = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width]
        assert [*box, (cy + h / 2) * height] == pytest.approx(one["box"], abs=2e-3)
    # Also of a picture without any.
    words = ("000012.jpg", "--threshold", "1", "--format", "yolo", "--out", "e", "--no-draw")
    assert run("predict", bundle.path, *words).code == 0
    assert Path("e/000012.txt").read_bytes() == b""
    assert [path.name for path in Path("e").iterdir()] == ["000012.txt"]


def test_only_some_classes(run: Run, bundle: Bundle, street: Path) -> None:
    every = detections(run, bundle, "sub")
    kept = {every[0]["class"], every[-1]["class"]}
    words = ("sub", "--no-draw", "--threshold", "0.3", "--json", "--only", ",".join(kept))
    found = run("predict", bundle.path, *words).json["predictions"]
    assert [one for item in found for one in item["detections"]] == [
        {key: one[key] for key in ("class", "label", "score", "box")}
        for one in every
        if one["class"] in kept
    ]


# --- from Python -------------------------------------------------------------------------------


def test_interrupted_a_video_holds_what_came_before(
    bundle: Bundle, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PredictRun(bundle, ["clip.mp4"], ["base"], Options(out="d.mp4"))
    found = whole.predictions()
    for _ in range(5):
        next(found)
    found.close()  # type: ignore[attr-defined]
    assert 5 <= len(moments(Path("d.mp4"))[0]) <= 8
    assert [path.name for path in Path().glob(".*")] == []


def test_a_bug_leaves_no_video(
    bundle: Bundle, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydepth_deploy.predict import drawing

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    whole = PredictRun(bundle, ["clip.mp4"], ["base"], Options(out="d.mp4"))
    found = whole.predictions()
    next(found)
    monkeypatch.setattr(drawing, "draw_detections", broken)
    with pytest.raises(ZeroDivisionError):
        list(found)
    assert not Path("d.mp4").exists()
    with pytest.raises(UsageError, match="unknown classes"):
        PredictRun(bundle, ["clip.mp4"], ["base"], Options(only=["nothing"]))

"""``anydepth-detect``: the detections of ``predict``, from the same files, and boxes on them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from conftest import ROOT
from cpp_build import DETECT, PATIENT, build, call
from odd_pictures import png_chunk
from PIL import Image

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.pictures.draw import class_colour
from anydepth_deploy.pictures.images import Preprocess, Resize
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.predict.run import predict

pytestmark = PATIENT

THRESHOLD = 0.02
"""The networks have random weights: nothing they find is certain."""

MODES = ("RGB", "RGBA", "L", "LA", "P", "1")


@pytest.fixture(scope="module")
def program() -> Path:
    return build("optimised", DETECT) / "examples" / DETECT


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Wider than high, and no multiple of anything."""
    return Image.fromarray(render(3, 7, "val", size=243).image[:170])


def detect(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def found_by(program: Path, bundle: Bundle, path: Path, *words: object) -> list[dict[str, Any]]:
    options = ("--threshold", THRESHOLD, "--threads", 1, "--json")
    done = detect(program, bundle.path, path, *options, *words)
    assert (done.returncode, done.stderr) == (0, "")
    (one,) = json.loads(done.stdout)["predictions"]
    assert one["image"] == str(path)
    rows: list[dict[str, Any]] = one["detections"]
    return rows


def predicted(bundle: Bundle, path: Path, depth: str) -> list[dict[str, Any]]:
    out = path.parent / "drawn.png"
    (found,) = predict(bundle, path, depth, threshold=THRESHOLD, out=out)
    return found.detections


@pytest.mark.parametrize("depth", ["base", "super", "level:1"])
def test_a_picture_as_predict_sees_it(
    program: Path, bundle: Bundle, picture: Image.Image, depth: str, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    expected = predicted(bundle, path, depth)
    assert len(expected) > 3
    assert found_by(program, bundle, path, "--depth", depth) == expected


@pytest.mark.parametrize("usual", ["stretch", "letterbox"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_pictures_that_meet_the_input_in_either_way(
    program: Path,
    bundle_copy: Path,
    picture: Image.Image,
    tmp_path: Path,
    usual: Resize,
    resize: Resize,
) -> None:
    """As families want them (``usual``), and as an export chose."""
    content = json.loads((bundle_copy / "manifest.json").read_text())
    height, width = content["preprocess"]["size"]
    recipe = Preprocess.of(usual, (height, width), resize)
    content["preprocess"] = recipe.model_dump(mode="json")
    (bundle_copy / "manifest.json").write_text(json.dumps(content))
    path = tmp_path / "picture.ppm"
    picture.save(path)
    bundle = open_bundle(bundle_copy)
    expected = predicted(bundle, path, "super")
    assert len(expected) > 3
    assert found_by(program, bundle, path) == expected


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_png(
    program: Path, bundle: Bundle, picture: Image.Image, mode: str, tmp_path: Path
) -> None:
    """Palettes, grey, transparency: what the network sees is the same."""
    path = tmp_path / "picture.png"
    picture.convert(mode).save(path)
    assert found_by(program, bundle, path) == predicted(bundle, path, "super")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(
    program: Path, bundle: Bundle, picture: Image.Image, orientation: int, tmp_path: Path
) -> None:
    """As cameras store them; decoders of JPEG may differ by a step in a pixel."""
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, quality=95, subsampling=0, exif=exif)
    found, expected = found_by(program, bundle, path), predicted(bundle, path, "super")
    assert len(expected) > 3
    assert [row["label"] for row in found[:3]] == [row["label"] for row in expected[:3]]
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert one["box"] == pytest.approx(other["box"], abs=1)
        assert one["score"] == pytest.approx(other["score"], abs=0.02)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ""])
def test_boxes_are_drawn(
    program: Path, bundle: Bundle, picture: Image.Image, suffix: str, tmp_path: Path
) -> None:
    path, out = tmp_path / "picture.png", tmp_path / f"drawn{suffix}"
    picture.save(path)
    rows = found_by(program, bundle, path, "--out", out)
    with Image.open(out if suffix else f"{out}.png") as drawing:
        drawn = np.asarray(drawing.convert("RGB"))
    times = 640 // max(picture.size)
    plain = np.asarray(picture).repeat(times, 0).repeat(times, 1)
    assert drawn.shape == plain.shape
    changed = (drawn != plain).any(2)
    assert 0 < changed.mean() < 0.6
    best = rows[0]
    assert (drawn == class_colour(best["label"])).all(2).sum() > 20
    x1, y1, x2, _ = (round(side * times) for side in best["box"])
    edge = drawn[min(y1, drawn.shape[0] - 1), (x1 + x2) // 2]
    assert tuple(edge.tolist()) == class_colour(best["label"])


def test_a_table_for_people(
    program: Path, bundle: Bundle, picture: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    done = detect(program, bundle.path, path, "--threshold", THRESHOLD)
    lines = done.stdout.splitlines()
    assert lines[0].endswith(f"at depth {bundle.table.find('super')}")
    assert lines[1].split() == ["class", "score", "x1", "y1", "x2", "y2"]
    assert len(lines) == 2 + int(lines[0].split()[0])
    nothing = detect(program, bundle.path, path, "--threshold", 1)
    assert nothing.stdout.startswith("0 detection(s)")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_several_pictures_in_batches(
    run: Run, program: Path, bundle: Bundle, picture: Image.Image, batch: int, tmp_path: Path
) -> None:
    """Of several sizes, one of them refused: the document of ``predict``, and drawings."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        picture.crop((0, 0, 200 - 30 * number, 100 + 10 * number)).save(path)
    paths.insert(2, tmp_path / "none.png")
    whole = paths[0].read_bytes()  # one that claims to be larger than the budget
    claimed = b"".join(((50000).to_bytes(4, "big"), (40000).to_bytes(4, "big"), whole[24:29]))
    paths[2].write_bytes(whole[:8] + png_chunk(b"IHDR", claimed) + whole[33:])
    options = ("--threshold", THRESHOLD, "--threads", 1, "--json", "--batch", batch)
    out = tmp_path / "drawn"
    told = run("predict", bundle.path, *paths, *options, "--out", f"{out}/")
    expected = told.document
    shutil.rmtree(out)
    done = detect(program, bundle.path, *paths, *options, "--out", out)
    found = json.loads(done.stdout)
    assert done.returncode == told.code == 2
    assert list(found) == list(expected)
    for document in (found, expected):
        assert document.pop("seconds") > 0
        assert document.pop("pictures_per_second") > 0
    assert found == expected
    assert len(found["predictions"]) == found["pictures"] == 4
    assert all(Path(one["drawn"]).is_file() for one in found["predictions"])
    assert done.stderr == told.err


def test_several_pictures_for_people(
    program: Path, bundle: Bundle, picture: Image.Image, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        picture.save(path)
    done = detect(program, bundle.path, *paths, "--threshold", THRESHOLD)
    assert (done.returncode, done.stderr) == (0, "")
    tables = done.stdout.split(f"{paths[1]}\n")
    assert tables[0].removeprefix(f"{paths[0]}\n") == tables[1]  # the same picture twice


def test_two_drawings_of_one_name_are_refused(
    program: Path, bundle: Bundle, picture: Image.Image, tmp_path: Path
) -> None:
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    for path in paths:
        path.parent.mkdir()
        picture.save(path)
    done = detect(program, bundle.path, *paths, "--out", tmp_path / "drawn")
    assert_one_line(done, f"two pictures would be drawn as {tmp_path / 'drawn' / 'x.pred.png'}")
    assert not any((tmp_path / "drawn").iterdir())
    (tmp_path / "file").write_text("")
    done = detect(program, bundle.path, *paths, "--out", tmp_path / "file")
    assert_one_line(done, "file is no folder, which drawings of several need")


def test_errors_for_programs(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    """As ``--json`` of Python's commands tells them."""
    for words, kind in (
        ((tmp_path / "nowhere", "x.png"), "BundleError"),
        ((bundle.path, "x.png"), "ImageError"),
        ((bundle.path, "x.png", "--depth", "deep"), "DepthError"),
        ((bundle.path,), "UsageError"),
    ):
        done = detect(program, *words, "--json")
        told = json.loads(done.stdout)
        assert done.returncode == told["error"]["exit_status"] == 2
        assert told["schema_version"] == 1
        assert told["error"]["kind"] == kind
        assert done.stderr == f"error: {told['error']['message']}\n"


def test_the_program_in_the_documentation(bundle: Bundle, tmp_path: Path) -> None:
    """It compiles as it stands there, and runs."""
    folder = build("optimised", DETECT)
    blocks = re.findall(r"```cpp\n(.*?)```", (ROOT / "docs" / "cpp.md").read_text(), re.DOTALL)
    source, piloted = blocks  # a program, and calls that a pilot makes in it
    place = "    // Or step by step"
    assert place in source
    source = source.replace(place, f"    {{ {piloted} }}\n{place}")
    program = tmp_path / "program"
    program.with_suffix(".cpp").write_text(source)
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ROOT}/cpp/include")
    link = (f"-L{folder}", "-lanydepth", f"-Wl,-rpath,{folder}", "-o", str(program))
    call(["c++", *flags, str(program.with_suffix(".cpp")), *link])
    said = call([str(program), str(bundle.path)])
    assert re.search(r"^2 images, [0-9]+ places each$", said, re.MULTILINE)
    assert re.search(r"of calls take up to .* 25\.00 ms", said), said
    with pytest.raises(AssertionError, match="nowhere"):
        call([str(program), "nowhere"])


def damaged(kind: str, folder: Path, picture: Image.Image) -> Path:
    path = folder / "picture.png"
    picture.save(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    if kind == "text":
        path.write_text("not a picture")
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "deep":
        Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)
    if kind == "jpeg":
        picture.save(path, format="JPEG")
        path.write_bytes(path.read_bytes()[:150])
    if kind == "ppm":
        path.write_bytes(b"P6\n99999999 3\n255\n")
    if kind == "short":
        path.write_bytes(b"P6 4 4 255\n123")
    return path


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "deep", "jpeg", "ppm", "short"])
def test_pictures_that_are_none(
    program: Path, bundle: Bundle, picture: Image.Image, kind: str, tmp_path: Path
) -> None:
    path = damaged(kind, tmp_path, picture)
    assert_one_line(detect(program, bundle.path, path), f"picture {path} ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a bundle and a picture are expected"),
        (("nowhere", "PICTURE"), "nowhere"),
        (("BUNDLE", "nowhere.png"), "picture nowhere.png does not exist"),
        (("BUNDLE", "PICTURE", "--depth", "deep"), "unknown depth 'deep'"),
        (("BUNDLE", "PICTURE", "--threshold", "high"), "--threshold is 'high'"),
        (("BUNDLE", "PICTURE", "--colour", "red"), "unknown option --colour"),
        (("BUNDLE", "PICTURE", "--batch", "0"), "--batch is '0': expected a whole number"),
        (("BUNDLE", "PICTURE", "--runtime", "torch"), "unknown runtime 'torch'"),
        (("BUNDLE", "PICTURE", "--out", "drawn.webp"), "drawn.webp cannot be written: expected"),
        (("BUNDLE", "PICTURE", "--out", "no/where.png"), "no/where.png cannot be written"),
    ],
)
def test_bad_use_is_one_line(
    program: Path,
    bundle: Bundle,
    picture: Image.Image,
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    names = {"BUNDLE": bundle.path, "PICTURE": path}
    assert_one_line(detect(program, *(names.get(word, word) for word in words)), message)


def assert_one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

"""Files of pictures in C++ and in Python: the same verdicts, the same pixels, the same budget."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import BENCH, DETECT, PATIENT, CppError, Probe, build, open_probe
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odd_pictures import odd_pictures
from PIL import Image
from process_memory import Peak

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.formats import FORMATS
from anydepth_deploy.pictures.images import Preprocess, load_image, prepare
from anydepth_deploy.pictures.shapes import render

pytestmark = PATIENT

Pixels = NDArray[np.uint8]

STRICTER = {"header-taller.png"}
"""Refused in C++ alone: whole rows are missing at the end, which Pillow leaves black."""


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd pictures, in files."""
    folder = tmp_path_factory.mktemp("odd")
    for name, content in odd_pictures().items():
        (folder / name).write_bytes(content)
    return folder


def by_python(path: Path, **options: Any) -> Pixels | str:
    try:
        return load_image(path, **options)
    except ImageError as error:
        return str(error)


def by_cpp(probe: Probe, paths: list[Path], **options: Any) -> list[Pixels | str]:
    out = probe.path()
    told = probe.call("read_pictures", paths=[str(path) for path in paths], out=out, **options)
    pixels = np.fromfile(out, np.uint8)
    Path(out).unlink()
    found: list[Pixels | str] = []
    for item in told:
        if isinstance(item, str):
            found.append(item)
        else:
            size = item[0] * item[1] * 3
            found.append(pixels[:size].reshape(*item, 3))
            pixels = pixels[size:]
    assert not len(pixels)
    return found


@pytest.mark.parametrize("upright", [True, False])
def test_odd_pictures(probe: Probe, folder: Path, upright: bool) -> None:
    """Pixels of JPEGs, too, to the last bit: both decoders are libjpeg-turbo's."""
    paths = sorted(folder.iterdir())
    assert len(paths) > 400
    expected = {path.name: by_python(path, upright=upright) for path in paths}
    read = [name for name, one in expected.items() if not isinstance(one, str)]
    assert len(paths) / 4 < len(read) < len(paths) * 0.9
    wrong = []
    for path, other in zip(paths, by_cpp(probe, paths, upright=upright), strict=True):
        one = expected[path.name]
        if isinstance(one, str) or isinstance(other, str):
            if isinstance(one, str) is not isinstance(other, str) and path.name not in STRICTER:
                wrong.append((path.name, one if isinstance(one, str) else other))
            elif isinstance(one, str) and "budget" in one and one != other:
                wrong.append((path.name, other))
        elif not np.array_equal(one, other):
            wrong.append((path.name, "other pixels"))
    assert not wrong


def test_the_set_says_what_it_should(folder: Path) -> None:
    """By Python alone: both might be wrong alike."""
    verdicts = {path.name: by_python(path) for path in folder.iterdir()}
    for name in ("cmyk-2.jpg", "comment.jpg", "kind-3-4-9x17-1.png", "stream-pieces.png"):
        assert not isinstance(verdicts[name], str), name
    for name in ("header-huge.png", "lie-huge.jpg", "header-huge.ppm", "header-tall.png"):
        assert "over the budget" in str(verdicts[name]), name
    cut = [one for name, one in verdicts.items() if name.startswith("cut-0")]
    assert sum(isinstance(one, str) for one in cut) > len(cut) * 0.9
    upright, stored = (
        verdicts["turned-late-exif-6.png"],
        by_python(folder / "turned-late-exif-6.png", upright=False),
    )
    assert not isinstance(upright, str)
    assert np.array_equal(upright, np.rot90(np.asarray(stored), -1))


def test_formats_that_cpp_does_not_read_are_named(probe: Probe, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), 80, np.uint8))
    for form in sorted(set(FORMATS) - {"JPEG", "PNG", "PPM"}):
        path = tmp_path / "a.png"
        image.save(path, form)
        assert load_image(path).shape == (8, 8, 3)
        assert by_cpp(probe, [path]) == [
            f"picture {path} is not a picture that this program can read; expected one of PNG, "
            "JPEG, PPM (P6)"
        ]


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm"])
def test_the_budget_of_a_file(probe: Probe, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((6, 9, 3), 80, np.uint8)).save(path)
    for most in (53, 54):
        (found,) = by_cpp(probe, [path], max_pixels=most)
        expected = by_python(path, max_pixels=most)
        assert np.array_equal(found, expected)
        assert isinstance(found, str) is (most == 53)


@examples(150)
@given(
    sides=st.tuples(*[st.integers(1, 90)] * 4),
    resize=st.sampled_from(["stretch", "letterbox"]),
    antialias=st.booleans(),
    most=st.integers(1, 9000),
)
def test_the_budget_of_resizing(
    probe: Probe, sides: tuple[int, int, int, int], resize: Any, antialias: bool, most: int
) -> None:
    recipe = Preprocess(size=sides[2:], resize=resize, antialias=antialias)
    image = np.zeros((*sides[:2], 3), np.uint8)
    expected, found = "", ""
    try:
        prepare(image, recipe, max_pixels=most)
    except ImageError as error:
        expected = str(error)
    given = {"pixels": probe.give(image), "out": probe.path(), "max_pixels": most}
    try:
        shapes, dumped = [[*sides[:2], 0]], recipe.model_dump(mode="json")
        probe.call("prepare", shapes=shapes, recipe=dumped, **given)
    except CppError as error:
        found = error.message
    assert found == expected


def test_a_tall_picture_takes_the_short_way(probe: Probe) -> None:
    rng = np.random.default_rng(0)
    for antialias in (True, False):
        recipe = Preprocess(size=(40, 50), antialias=antialias)
        image = rng.integers(0, 256, (30_000, 1, 3), np.uint8)
        expected, _ = prepare(image, recipe)
        out, dumped = probe.path(), recipe.model_dump(mode="json")
        given = {"pixels": probe.give(image), "shapes": [[30_000, 1, 0]], "out": out}
        probe.call("prepare", recipe=dumped, **given)
        assert np.array_equal(probe.take(out, np.float32, (1, 3, 40, 50))[0], expected)


HUGE = 3_000_000_000
"""Bytes of files that are mostly a hole."""


def with_a_hole(path: Path, beginning: bytes) -> Path:
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(HUGE)
    return path


def test_a_huge_file_that_is_no_picture_is_not_read(probe: Probe, tmp_path: Path) -> None:
    path = with_a_hole(tmp_path / "big.jpg", b"\0" * 16)
    with Peak(probe.pid) as peak:
        (said,) = probe.call("read_pictures", paths=[str(path)], out=probe.path())
    assert said.startswith(f"picture {path} is not a picture that this program can read; ")
    assert peak.grown < 20_000_000


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm"])
def test_what_lies_far_behind_a_picture_is_not_read(
    probe: Probe, tmp_path: Path, suffix: str
) -> None:
    small, out = tmp_path / f"small.{suffix}", probe.path()
    Image.fromarray(render(1, 3, "val", size=64).image).save(small)
    path = with_a_hole(tmp_path / f"big.{suffix}", small.read_bytes())
    with Peak(probe.pid) as peak:
        found = probe.call("read_pictures", paths=[str(path)], max_pixels=10_000, out=out)
    expected = load_image(path, max_pixels=10_000)
    assert found == [list(expected.shape[:2])]
    assert np.array_equal(probe.take(out, np.uint8, expected.shape), expected)
    assert peak.grown < 300_000_000


def test_very_many_packed_texts_take_no_time(probe: Probe, tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    path = tmp_path / "texts.png"
    Image.new("RGB", (1, 1)).save(path)
    whole, end = path.read_bytes(), chunk(b"IEND", b"")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x"))
    path.write_bytes(whole.removesuffix(end) + 200_000 * text + end)
    began = cpu_seconds(probe.pid)
    assert probe.call("read_pictures", paths=[str(path)], out=probe.path()) == [[1, 1]]
    assert cpu_seconds(probe.pid) - began < 4  # clearing a MB for each took longer


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_picture_that_is_taller_than_most_is_written(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "tall.png"
    probe.call("write_picture", path=str(path), height=1_000_001, width=1)
    assert load_image(path).shape == (1_000_001, 1, 3)


def test_a_picture_that_cannot_be_a_png_is_named(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "nothing.png"
    with pytest.raises(CppError) as refused:
        probe.call("write_picture", path=str(path), height=0, width=0)
    assert refused.value.kind == "ImageError"
    assert refused.value.message.startswith(f"picture {path} cannot be written: it cannot be made")
    assert refused.value.message.endswith("choose a name that ends with .ppm")


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.stderr.buffer.write(done.stderr)
"""


def test_a_claim_of_many_pixels_takes_no_memory(folder: Path, bundle_copy: Path) -> None:
    program = build("optimised", DETECT) / "examples" / DETECT

    def run(path: Path, *words: str) -> tuple[list[int], str]:
        command = [sys.executable, "-c", MEASURE, str(program), str(bundle_copy), str(path), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return [int(word) for word in done.stdout.split()[-2:]], done.stderr

    small = folder / "kind-2-8-6x5-0.png"
    (status, usual), _ = run(small)
    assert status == 0
    for name in ("header-huge.png", "lie-huge.jpg", "header-huge.ppm"):
        (status, taken), said = run(folder / name)
        assert status == 2
        assert said.startswith(f"error: picture {folder / name} of 6")
        assert f"over the budget of {MAX_PIXELS} pixels" in said
        assert taken < usual + 20_000
    (status, _), said = run(small, "--max-pixels", "29")
    assert (status, said.count("\n")) == (2, 1)
    assert "of 5 x 6 pixels is over the budget of 29 pixels" in said
    (status, _), said = run(small, "--max-pixels", "many")
    assert status == 2
    assert "--max-pixels is 'many'" in said


@pytest.mark.parametrize("program", [DETECT, BENCH])
def test_too_little_memory_is_said_in_one_line(tmp_path: Path, program: str) -> None:
    """As by a manifest of many values, where a system grants little."""
    (tmp_path / "manifest.json").write_text('{"results": [' + "[]," * 900_000 + "[]]}")
    limited = "import os, resource, sys; most = 45_000_000; "
    limited += "resource.setrlimit(resource.RLIMIT_DATA, (most, most)); "
    limited += "os.execv(sys.argv[1], sys.argv[1:])"
    where = {DETECT: f"examples/{DETECT}", BENCH: BENCH}[program]
    words = [str(build("optimised", program) / where), str(tmp_path)]
    words += ["x.png"] * (program == DETECT)
    done = subprocess.run(
        [sys.executable, "-c", limited, *words], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.startswith("error: there is not enough memory for this: free some, or give ")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)

"""Pillow's decoders: what they raise, what they warn of, and the one tag that matters."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.decoder import pillow_silent
from anydepth_deploy.pictures.formats import FORMATS
from anydepth_deploy.pictures.images import load_image

Pixels = NDArray[np.uint8]

SIZES = (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)
"""Bytes of a value by type of EXIF's (and TIFF's) types, 1 to 12."""

GROUPS = (0x8769, 0x8825, 0xA005)
"""Tags that point at further tags."""


def pixels(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def turned(image: Pixels, orientation: int) -> Pixels:
    """By EXIF's definition: which side of the scene row 0 and column 0 of what is stored are.

    1: top, left; 2: top, right; 3: bottom, right; 4: bottom, left; 5: left, top; 6: right, top;
    7: right, bottom; 8: left, bottom.
    """
    rows, columns = {
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }.get(orientation, ("top", "left"))
    if rows in ("left", "right"):
        image, rows, columns = image.transpose(1, 0, 2), columns, rows
    if rows == "bottom":
        image = image[::-1]
    return image[:, ::-1] if columns == "right" else image


Entry = tuple[int, int, int, bytes]
"""Tag, type, count, and the four bytes of the value or of where it is."""


def directory(entries: list[Entry]) -> bytes:
    """A TIFF header and one directory; the last entry of a tag is the one that stays."""
    chosen = sorted({entry[0]: entry for entry in entries}.values())
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in chosen)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(chosen)) + body + bytes(4)


def short(tag: int, value: int) -> Entry:
    return tag, 3, 1, struct.pack("<HH", value, 0)


def tiff(image: Pixels, extra: list[Entry]) -> bytes:
    """An uncompressed picture: its strip follows the directory."""
    height, width = image.shape[:2]
    fixed = [
        short(0x0100, width),
        short(0x0101, height),
        short(0x0102, 8),
        short(0x0103, 1),
        short(0x0106, 2),
        short(0x0115, 3),
        short(0x0116, height),
        (0x0117, 4, 1, struct.pack("<I", image.size)),
    ]
    lead = len(directory([*extra, *fixed, short(0x0111, 0)]))
    return directory([*extra, *fixed, (0x0111, 4, 1, struct.pack("<I", lead))]) + image.tobytes()


odd_entries = st.lists(
    st.tuples(
        st.sampled_from([*GROUPS, 0x010E, 0x010F, 0x0131, 0x0132, 0x013B, 0x9286, 0x9C9B, 0xEA1C]),
        st.integers(0, 20),
        st.sampled_from([0, 1, 2, 3, 5, 1000, 2**31]),
        st.binary(min_size=4, max_size=4),
    ),
    max_size=6,
)


@examples(60)
@given(
    orientation=st.integers(0, 9),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kind=st.sampled_from(["png", "webp", "tiff"]),
    odd=odd_entries,
)
def test_orientation_among_odd_tags(
    tmp_path: Path, orientation: int, height: int, width: int, kind: str, odd: list[Entry]
) -> None:
    image = pixels(height, width, seed=orientation)
    path = tmp_path / f"picture.{kind}"
    tags = [*odd, short(0x0112, orientation)]
    if kind == "tiff":  # of which Pillow takes no more where a value is beyond its end
        within = [(tag, code, min(count, 5), bytes([8, 0, 0, 0])) for tag, code, count, _ in odd]
        path.write_bytes(tiff(image, [*within, tags[-1]]))
    else:
        Image.fromarray(image).save(path, exif=b"Exif\0\0" + directory(tags), lossless=True)
    assert np.array_equal(load_image(path, upright=True), turned(image, orientation))
    assert np.array_equal(load_image(path, upright=False), image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg(tmp_path: Path, orientation: int) -> None:
    image = np.repeat(np.repeat(pixels(2, 3), 16, 0), 16, 1)
    odd: list[Entry] = [(0x8769, 2, 1, b"\xff\xff\xff\xff"), (0x010F, 12, 2**31, b"abcd")]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100, subsampling=0)
    data = b"Exif\0\0" + directory([*odd, short(0x0112, orientation)])
    whole = file.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    (tmp_path / "a.jpg").write_bytes(whole[:2] + segment + whole[2:])
    found = load_image(tmp_path / "a.jpg", upright=True).astype(int)
    assert found.shape == turned(image, orientation).shape
    assert np.abs(found - turned(image, orientation)).max() < 12


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize(
    "entry",
    [
        (0x0112, 2, 2, b"6\0\0\0"),
        (0x0112, 1, 4, b"\6\6\6\6"),
        (0x0112, 3, 0, b"\6\0\0\0"),
        (0x0112, 7, 1, b"\6\0\0\0"),
        (0x0112, 11, 1, struct.pack("<f", 6.5)),
        (0x0112, 3, 1000, b"\6\0\6\0"),
        (0x0112, 9, 1, b"\xfa\xff\xff\xff"),
        (0x0112, 0, 1, b"\6\0\0\0"),
        (0x0112, 99, 1, b"\6\0\0\0"),
    ],
)
def test_an_orientation_that_is_none(tmp_path: Path, entry: Entry, kind: str) -> None:
    image, path = pixels(4, 6), tmp_path / f"a.{kind}"
    if kind == "tiff":
        path.write_bytes(tiff(image, [entry]))
    else:
        Image.fromarray(image).save(path, exif=b"Exif\0\0" + directory([entry]))
    assert np.array_equal(load_image(path, upright=True), image)


@pytest.mark.parametrize(
    "entry",
    [
        (0x0112, 4, 1, b"\6\0\0\0"),
        (0x0112, 3, 2, b"\6\0\6\0"),
        (0x0112, 8, 1, b"\6\0\0\0"),
    ],
)
def test_an_orientation_of_another_type(tmp_path: Path, entry: Entry) -> None:
    image, path = pixels(4, 6), tmp_path / "a.png"
    Image.fromarray(image).save(path, exif=b"Exif\0\0" + directory([entry]))
    assert np.array_equal(load_image(path, upright=True), turned(image, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_where_else_an_orientation_may_be(tmp_path: Path, orientation: int) -> None:
    """Most significant bytes first; as digits, which other programs write; in XMP data."""
    image = pixels(4, 6)
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    data = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + bytes(4)
    digits = f"\nexif\n{len(data):8}\n" + data.hex("\n", 36)
    for name, kind, content in (
        ("first", "exif", data),
        ("digits", "Raw profile type exif", digits),
        ("attribute", "XML:com.adobe.xmp", f'<rdf:Description tiff:Orientation="{orientation}"/>'),
        ("element", "XML:com.adobe.xmp", f"<tiff:Orientation>{orientation}</tiff:Orientation>"),
    ):
        path, texts = tmp_path / f"{name}.png", PngInfo()
        if isinstance(content, str):
            texts.add_text(kind, content)
        exif = content if isinstance(content, bytes) else None
        Image.fromarray(image).save(path, pnginfo=texts, exif=exif)
        assert np.array_equal(load_image(path, upright=True), turned(image, orientation)), name


@examples(200)
@given(data=st.binary(max_size=60), head=st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*"]))
def test_exif_of_any_bytes(tmp_path: Path, data: bytes, head: bytes) -> None:
    image, path = pixels(2, 3), tmp_path / "a.png"
    Image.fromarray(image).save(path, exif=head + data)
    found = load_image(path, upright=True)
    assert any(np.array_equal(found, turned(image, number)) for number in range(1, 9))


# --- what decoders raise ---------------------------------------------------------------------

RAISED: tuple[Callable[[], Exception], ...] = (
    lambda: struct.error("unpack requires a buffer of 4 bytes"),
    lambda: KeyError(274),
    lambda: IndexError("list index out of range"),
    lambda: TypeError("a bytes-like object\nis required"),
    lambda: AttributeError("'NoneType' object has no attribute 'read'"),
    lambda: NotImplementedError("Unimplemented pixel format 77"),
    lambda: RuntimeError("Failed to decode frame 0: Bitstream not supported"),
    lambda: ZeroDivisionError("division by zero"),
    lambda: AssertionError(),
    lambda: MemoryError(),
    lambda: RecursionError("maximum recursion depth exceeded"),
    lambda: EOFError("not enough data"),
    lambda: OverflowError("Python int too large to convert to C long"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: SystemError("tile cannot extend outside image"),
    lambda: BufferError("memoryview: underlying buffer is not C-contiguous"),
    lambda: StopIteration(),
    lambda: ValueError(),
    lambda: Image.DecompressionBombError("Image size exceeds limit"),
)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Exception], None]]:
    """A format of pictures of which `open` or `load` raises what it is told."""
    told: dict[str, Exception] = {}

    class Broken(ImageFile.ImageFile):
        format = "BROKEN"

        def _open(self) -> None:
            if "open" in told:
                raise told["open"]
            self._size, self._mode = (4, 4), "RGB"

        def load(self) -> Any:
            raise told["load"]

    def tell(where: str, error: Exception) -> None:
        told.clear()
        told[where] = error

    monkeypatch.setitem(FORMATS, "BROKEN", (".broken",))
    Image.register_open("BROKEN", Broken, lambda prefix: prefix.startswith(b"BROKEN"))
    yield tell
    Image.ID.remove("BROKEN")
    del Image.OPEN["BROKEN"]


@pytest.mark.parametrize("where", ["open", "load"])
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("raised", RAISED)
def test_whatever_a_decoder_raises_is_about_the_picture(
    tmp_path: Path,
    decoder: Callable[[str, Exception], None],
    where: str,
    upright: bool,
    raised: Callable[[], Exception],
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"BROKEN and more")
    decoder(where, raised())
    with pytest.raises(ImageError, match="a\\.png") as caught:
        load_image(path, upright=upright)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith((": ", ":"))


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_but_not_an_interruption(
    tmp_path: Path,
    decoder: Callable[[str, Any], None],
    raised: type[BaseException],
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"BROKEN and more")
    decoder("load", raised())
    with pytest.raises(raised):
        load_image(path)


@examples(100)
@given(kind=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_mutated_files(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """A picture, or an error about it."""
    content = bytearray(_sound(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    path = tmp_path / "mutated.png"
    path.write_bytes(bytes(content))
    told = ""
    try:
        found = load_image(path, upright=True)
    except ImageError as error:
        told = str(error)
    else:
        assert (str(found.dtype), found.shape[2:]) == ("uint8", (3,))
    assert not told or ("mutated.png" in told and "\n" not in told)


def _sound(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(12, 10)).save(file, kind)
    return file.getvalue()


# --- what Pillow warns of --------------------------------------------------------------------


def warns_of_transparency(path: Path) -> Path:
    """A palette picture with an alpha of each colour, which Pillow would rather have as RGBA."""
    image = Image.fromarray(pixels(6, 8)).quantize(16)
    image.save(path, transparency=bytes(range(0, 160, 10)))
    return path


def warns_of_tags(path: Path) -> Path:
    """A TIFF with a tag that reaches beyond the file."""
    entry: Entry = (0x010E, 2, 5000, struct.pack("<I", 4_000_000))
    path.write_bytes(tiff(pixels(6, 8), [entry]))
    return path


WARNS = (warns_of_transparency, warns_of_tags)


@pytest.mark.parametrize("make", WARNS)
def test_warnings_of_pillow_are_not_heard(
    tmp_path: Path, make: Callable[[Path], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / ("a.png" if make is warns_of_transparency else "a.tif"))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with Image.open(path) as image:
            image.convert("RGB")
        assert heard, "Pillow alone says nothing: another picture is needed"
        heard.clear()
        before = list(warnings.filters)
        assert load_image(path).shape == (6, 8, 3)
        assert load_image(path, upright=True).shape == (6, 8, 3)
        assert heard == []
        assert list(warnings.filters) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(path).shape == (6, 8, 3)
    assert capfd.readouterr() == ("", "")


def test_others_are(tmp_path: Path) -> None:
    with pillow_silent(), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_what_pillow_logs_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("PIL.TiffImagePlugin")
    handlers = list(logging.getLogger("PIL").handlers)
    with pillow_silent():
        log.error("More samples per pixel than can be decoded")
    assert "More samples" not in capfd.readouterr().err
    assert logging.getLogger("PIL").handlers == handlers


def test_filters_that_others_change_meanwhile_stay() -> None:
    """Silence that begins before, and ends within or after, what another part of a program sets."""
    with warnings.catch_warnings():
        before = list(warnings.filters)
        silence = pillow_silent()
        silence.__enter__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="of another")
            within = [item for item in warnings.filters if item not in before]
            silence.__exit__(None, None, None)
            assert [item for item in warnings.filters if item not in before] == [
                item for item in within if item[1] is not None
            ]
        assert list(warnings.filters) == before


def test_threads_leave_no_filter_behind(tmp_path: Path) -> None:
    path = warns_of_transparency(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        workers = [
            threading.Thread(target=lambda: [load_image(path) for _ in range(30)]) for _ in range(6)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert list(warnings.filters) == before
        assert heard == []

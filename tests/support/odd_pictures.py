"""Some 460 files that are pictures, or nearly: what two readers are held against each other with.

Of the formats that the C++ programs read, byte by byte where no encoder would write it: every kind
of pixels, orientations wherever they may stand, headers that lie, chunks that are odd, files that
are cut. The same ones each time.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["odd_pictures", "png_bytes", "png_chunk"]

Item = tuple[str, bytes]

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a PNG by its colour type: grey, RGB, palette, grey and alpha, RGB and alpha."""
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}

ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
"""First row and column, and steps of both, of each pass of an interlaced PNG."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP = "XML:com.adobe.xmp"


def odd_pictures() -> dict[str, bytes]:
    """Content by name: a suffix, and what is odd."""
    made: dict[str, bytes] = {}
    for kind in (_pngs, _png_chunks, _png_orientations, _png_headers, _png_streams, _jpegs):
        made.update(kind())
    for kind in (_jpeg_orientations, _jpeg_segments, _ppms, _cuts, _others):
        made.update(kind())
    return made


# --- PNG -------------------------------------------------------------------------------------


def png_chunk(name: bytes, data: bytes = b"", *, checksum: int | None = None) -> bytes:
    """A chunk; ``checksum``: another than is right."""
    right = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", right)


def _header(height: int, width: int, depth: int, colour: int, *rest: int) -> bytes:
    """``rest``: compression, filter, interlace."""
    return struct.pack(">IIBBBBB", width, height, depth, colour, *(rest or (0, 0, 0)))


def _rows(samples: NDArray[np.integer[Any]], depth: int, filters: int = 0) -> bytes:
    """Samples [H, W, C] as a PNG stores them; ``filters``: 1 to 4 of the format's, or none."""
    height, width, channels = samples.shape
    if not height or not width:
        return b""
    if depth == 16:
        lines = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        lines = samples.astype(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(samples.astype(np.uint8).reshape(height, -1, 1), axis=2)[..., -depth:]
        lines = np.packbits(bits.reshape(height, -1), axis=1)
    if not filters:
        return b"".join(b"\0" + line.tobytes() for line in lines)
    step = max(1, channels * depth // 8)
    above, found = np.zeros(lines.shape[1], int), b""
    for number, line in enumerate(lines.astype(int)):
        kind = 1 + (filters + number) % 4
        left = np.concatenate([np.zeros(step, int), line[:-step]]) if step < len(line) else 0 * line
        corner = np.concatenate([np.zeros(step, int), above[:-step]])[: len(line)]
        if kind == 4:
            guess = left + above - corner
            near = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
            base = np.choose(near.argmin(0), [left, above, corner])
        else:
            base = {1: left, 2: above, 3: (left + above) // 2}[kind]
        found += bytes([kind]) + ((line - base) % 256).astype(np.uint8).tobytes()
        above = line
    return found


def _samples(height: int, width: int, depth: int, colour: int, seed: int = 0) -> Any:
    rng = np.random.default_rng([seed, depth, colour])
    return rng.integers(0, 1 << depth, (height, width, CHANNELS[colour]))


def png_bytes(
    height: int = 6,
    width: int = 5,
    depth: int = 8,
    colour: int = 2,
    *,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
    filters: int = 0,
    header: bytes | None = None,
    packed: bytes | None = None,
) -> bytes:
    """Noise of a kind; ``before`` and ``after``: chunks around the pixels; ``packed``: instead of
    them."""
    samples = _samples(height, width, depth, colour)
    if interlaced:
        passes = (samples[row::down, column::along] for row, column, down, along in ADAM7)
        rows = b"".join(_rows(part, depth) for part in passes)
    else:
        rows = _rows(samples, depth, filters)
    chosen = header or _header(height, width, depth, colour, 0, 0, int(interlaced))
    palette = png_chunk(b"PLTE", _palette(1 << depth)) if colour == 3 and not before else b""
    pixels = png_chunk(b"IDAT", zlib.compress(rows)) if packed is None else packed
    whole = png_chunk(b"IHDR", chosen) + palette + before + pixels + after + png_chunk(b"IEND")
    return SIGNATURE + whole


def _palette(count: int) -> bytes:
    return np.random.default_rng(count).bytes(3 * count)


def _pngs() -> Iterator[Item]:
    for colour, depths in DEPTHS.items():
        for depth in depths:
            for height, width in ((1, 1), (6, 5), (9, 17)):
                for interlaced in (False, True):
                    name = f"kind-{colour}-{depth}-{height}x{width}-{int(interlaced)}.png"
                    yield name, png_bytes(height, width, depth, colour, interlaced=interlaced)
    for filters in range(1, 5):
        for colour, depth in ((0, 2), (2, 8), (6, 16)):
            yield f"filters-{filters}-{colour}.png", png_bytes(5, 7, depth, colour, filters=filters)


def _png_chunks() -> Iterator[Item]:
    palettes = {
        "short": _palette(2),
        "odd": _palette(2) + b"\7",
        "none": None,
        "empty": b"",
        "long": _palette(200),
        "too-long": _palette(257),
    }
    for name, palette in palettes.items():
        before = png_chunk(b"tIME", bytes(7)) if palette is None else png_chunk(b"PLTE", palette)
        yield f"palette-{name}.png", png_bytes(depth=8, colour=3, before=before)
        yield f"palette-{name}-4.png", png_bytes(depth=4, colour=3, before=before)
    palette = png_chunk(b"PLTE", _palette(256))
    alpha = png_chunk(b"tRNS", bytes(range(0, 250, 10)))
    yield "palette-alpha.png", png_bytes(colour=3, before=palette + alpha)
    yield "palette-twice.png", png_bytes(colour=3, before=palette + png_chunk(b"PLTE", bytes(9)))
    yield "palette-of-rgb.png", png_bytes(before=palette)
    yield "clear-grey.png", png_bytes(colour=0, before=png_chunk(b"tRNS", b"\0\7"))
    yield "clear-rgb.png", png_bytes(before=png_chunk(b"tRNS", bytes(6)))
    extra = {
        "gamma": png_chunk(b"gAMA", struct.pack(">I", 45455)),
        "gamma-0": png_chunk(b"gAMA", bytes(4)),
        "gamma-short": png_chunk(b"gAMA", bytes(3)),
        "white": png_chunk(b"cHRM", struct.pack(">8I", *range(1, 9))),
        "white-short": png_chunk(b"cHRM", bytes(31)),
        "srgb": png_chunk(b"sRGB", b"\0"),
        "srgb-odd": png_chunk(b"sRGB", b"\xff"),
        "profile": png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
        "profile-damaged": png_chunk(b"iCCP", b"x\0\0nothing"),
        "background": png_chunk(b"bKGD", bytes(6)),
        "density": png_chunk(b"pHYs", struct.pack(">IIB", 2**31, 0, 1)),
        "density-short": png_chunk(b"pHYs", bytes(8)),
        "own": png_chunk(b"heLo", b"there"),
        "own-critical": png_chunk(b"HELO", b"there"),
        "named-badly": png_chunk(b"h-lo", b""),
        "damaged": png_chunk(b"heLo", b"there", checksum=1),
        "text-damaged": png_chunk(b"tEXt", b"a\0b", checksum=1),
        "text-empty": png_chunk(b"tEXt", b""),
        "text-long": png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 + 1))),
        "text-1-mib": png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20))),
        "text-packed-oddly": png_chunk(b"zTXt", b"a\0\1" + zlib.compress(b"b")),
        "frames": png_chunk(b"acTL", struct.pack(">II", 2, 0)),
        "header-twice": png_chunk(b"IHDR", _header(6, 5, 8, 2)),
    }
    for name, chunk in extra.items():
        yield f"before-{name}.png", png_bytes(before=chunk)
        yield f"after-{name}.png", png_bytes(after=chunk)


def _exif(orientation: int, order: str = "<", code: int = 3, count: int = 1) -> bytes:
    """EXIF data of one tag, behind another."""
    mark = b"II" if order == "<" else b"MM"
    form = {3: "HH", 4: "I", 8: "hh", 9: "i", 1: "4B"}.get(code, "HH")
    values = [orientation, 0, 0, 0][: {"I": 1, "i": 1, "4B": 4}.get(form, 2)]
    maker = struct.pack(f"{order}HHI", 0x010F, 2, 2**31) + b"abcd"
    tag = struct.pack(f"{order}HHI{form}", 0x0112, code, count, *values)
    head = mark + struct.pack(f"{order}HIH", 42, 8, 2)
    return head + maker + tag + bytes(4)


def _profile(orientation: int) -> bytes:
    data = b"Exif\0\0" + _exif(orientation)
    return f"\nexif\n{len(data):8}\n{data.hex(chr(10), 36)}\n".encode()


def _international(text: bytes, *, packed: bool = False, language: bytes = b"") -> bytes:
    flags = b"\1\0" if packed else b"\0\0"
    return (
        XMP.encode()
        + b"\0"
        + flags
        + language
        + b"\0\0"
        + (zlib.compress(text) if packed else text)
    )


def _descriptions() -> dict[str, bytes]:
    """Chunks that say, or do not say, which way up a picture is."""
    attribute = b'<rdf:Description tiff:Orientation="6"/>'
    found = {
        f"exif-{number}": png_chunk(b"eXIf", _exif(number, "<>"[number % 2]))
        for number in range(10)
    }
    found |= {
        "marked-twice": png_chunk(b"eXIf", b"Exif\0\0Exif\0\0" + _exif(6)),
        "no-order": png_chunk(b"eXIf", b"XX" + _exif(6)[2:]),
        "empty": png_chunk(b"eXIf"),
        "exif-then-exif": png_chunk(b"eXIf", _exif(6)) + png_chunk(b"eXIf", _exif(3)),
        "exif-then-none": png_chunk(b"eXIf", _exif(6)) + png_chunk(b"eXIf", b""),
        "digits": png_chunk(b"tEXt", b"Raw profile type exif\0" + _profile(6)),
        "digits-packed": png_chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_profile(8))
        ),
        "digits-odd": png_chunk(b"tEXt", b"Raw profile type exif\0" + _profile(6)[:-3] + b"x\n"),
        "digits-none": png_chunk(b"tEXt", b"Raw profile type exif\0\n\n"),
        "xmp": png_chunk(b"iTXt", _international(attribute)),
        "xmp-packed": png_chunk(b"iTXt", _international(attribute, packed=True)),
        "xmp-latin": png_chunk(b"iTXt", _international(attribute + b"\xe9")),
        "xmp-language": png_chunk(b"iTXt", _international(attribute, language=b"\xff")),
        "xmp-as-text": png_chunk(b"tEXt", XMP.encode() + b"\0" + attribute),
        "xmp-element": png_chunk(
            b"iTXt", _international(b"<tiff:Orientation> 8</tiff:Orientation>")
        ),
        "xmp-spaces": png_chunk(b"iTXt", _international(b"tiff:Orientation =\n ' 3'")),
        "xmp-number": png_chunk(b"iTXt", _international(b"tiff:Orientation='66'")),
        "xmp-second": png_chunk(
            b"iTXt", _international(b"tiff:Orientation=x tiff:Orientation='5'")
        ),
        "xmp-damaged": png_chunk(b"iTXt", XMP.encode() + b"\0\1\0\0\0nothing"),
        "xmp-short": png_chunk(b"iTXt", XMP.encode() + b"\0\0"),
        "both": png_chunk(b"eXIf", _exif(6)) + png_chunk(b"iTXt", _international(attribute)),
        "exif-of-9-and-xmp": png_chunk(b"eXIf", _exif(9))
        + png_chunk(b"iTXt", _international(attribute)),
        "exif-without-and-xmp": png_chunk(b"eXIf", _exif(6)[:16])
        + png_chunk(b"iTXt", _international(attribute)),
    }
    for code, count in ((4, 1), (8, 1), (9, 1), (1, 4), (3, 0), (3, 2), (3, 3), (4, 2), (7, 1)):
        found[f"type-{code}-{count}"] = png_chunk(b"eXIf", _exif(6, code=code, count=count))
    for length in (1, 4, 8, 10, 20, 30, 32):
        found[f"ends-{length}"] = png_chunk(b"eXIf", _exif(6)[:length])
    return found


def _png_orientations() -> Iterator[Item]:
    for name, chunks in _descriptions().items():
        yield f"turned-{name}.png", png_bytes(before=chunks)
        yield f"turned-late-{name}.png", png_bytes(after=chunks)


def _png_headers() -> Iterator[Item]:
    headers = {
        "no-width": _header(6, 0, 8, 2),
        "no-height": _header(0, 5, 8, 2),
        "depth-3": _header(6, 5, 3, 0),
        "depth-16-of-palette": _header(6, 5, 16, 3),
        "colour-5": _header(6, 5, 8, 5),
        "compression-1": _header(6, 5, 8, 2, 1, 0, 0),
        "filter-1": _header(6, 5, 8, 2, 0, 1, 0),
        "interlace-2": _header(6, 5, 8, 2, 0, 0, 2),
        "short": _header(6, 5, 8, 2)[:12],
        "long": _header(6, 5, 8, 2) + b"\0",
        "taller": _header(7, 5, 8, 2),
        "lower": _header(5, 5, 8, 2),
        "wider": _header(6, 6, 8, 2),
        "huge": _header(65535, 65535, 8, 2),
        "tall": _header(2**31 - 1, 1, 8, 2),
        "wide": _header(1, 2**32 - 1, 8, 2),
        "over-the-budget": _header(9460, 9459, 8, 0),
    }
    for name, header in headers.items():
        yield f"header-{name}.png", png_bytes(header=header)
    yield "header-missing.png", SIGNATURE + png_bytes()[33:]
    damaged = png_chunk(b"IHDR", _header(6, 5, 8, 2), checksum=5)
    yield "header-damaged.png", SIGNATURE + damaged + png_bytes()[33:]
    yield "no-pixels.png", png_bytes(packed=b"")
    yield "signature.png", SIGNATURE
    yield "length.png", png_bytes(before=struct.pack(">I", 2**31) + b"heLo" + bytes(4))


def _png_streams() -> Iterator[Item]:
    rows = _rows(_samples(6, 5, 8, 2), 8)
    packed = zlib.compress(rows)
    pieces = [packed[at : at + 7] for at in range(0, len(packed), 7)]
    other = png_chunk(b"tIME", bytes(7))
    streams = {
        "pieces": b"".join(png_chunk(b"IDAT", piece) for piece in pieces),
        "empty-pieces": b"".join(png_chunk(b"IDAT") + png_chunk(b"IDAT", item) for item in pieces),
        "interrupted": other.join(png_chunk(b"IDAT", piece) for piece in pieces),
        "checksum": png_chunk(b"IDAT", packed, checksum=1),
        "adler": png_chunk(b"IDAT", packed[:-4] + bytes(4)),
        "no-adler": png_chunk(b"IDAT", packed[:-4]),
        "more": png_chunk(b"IDAT", zlib.compress(rows + bytes(100))),
        "behind": png_chunk(b"IDAT", packed + bytes(50)),
        "less": png_chunk(b"IDAT", zlib.compress(rows[:-1])),
        "rows-missing": png_chunk(b"IDAT", zlib.compress(rows[:40])),
        "noise": png_chunk(b"IDAT", np.random.default_rng(1).bytes(90)),
        "filter-9": png_chunk(b"IDAT", zlib.compress(b"\x09" + rows[1:])),
        "empty": png_chunk(b"IDAT"),
        "stored": png_chunk(b"IDAT", zlib.compress(rows, 0)),
    }
    for name, stream in streams.items():
        yield f"stream-{name}.png", png_bytes(packed=stream)
    whole = png_bytes()
    yield "no-end.png", whole[:-12]
    yield "behind-the-end.png", whole + b"more" * 9
    late = png_bytes(after=png_chunk(b"tEXt", b"a\0" + bytes(40)))
    yield "cut-behind-the-pixels.png", late[:-30]


# --- JPEG ------------------------------------------------------------------------------------


def _photograph(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Smooth, with some noise: as a camera sees."""
    rng = np.random.default_rng([height, width])
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin((x * a + y * b) / 9) for a, b in ((1, 2), (3, 1), (2, 2), (1, 0))]
    noisy = np.stack(waves, 2) + rng.normal(0, 12, (height, width, 4))
    pixels = noisy.clip(0, 255).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels, "CMYK") if mode == "CMYK" else Image.fromarray(pixels[..., :3])


def _jpeg(height: int = 19, width: int = 23, mode: str = "RGB", **how: Any) -> bytes:
    file = io.BytesIO()
    _photograph(height, width, mode).save(file, "JPEG", **{"quality": 90, **how})
    return file.getvalue()


def _segment(number: int, data: bytes) -> bytes:
    return b"\xff" + bytes([number]) + struct.pack(">H", len(data) + 2) + data


def _with(whole: bytes, *segments: bytes) -> bytes:
    """Segments behind the beginning of a JPEG."""
    return whole[:2] + b"".join(segments) + whole[2:]


def _adobe(whole: bytes, transform: int | None) -> bytes:
    """Of CMYK, the mark of Adobe with another number, or without it."""
    at = whole.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        return whole[:at] + whole[at + 16 :]
    return whole[: at + 15] + bytes([transform]) + whole[at + 16 :]


def _frame(whole: bytes) -> int:
    """Where the header of the frame begins."""
    return min(at for number in (b"\xff\xc0", b"\xff\xc2") if (at := whole.find(number)) > 0)


def _lie(whole: bytes, at: int, data: bytes) -> bytes:
    """Other bytes in the header of the frame, counted from its mark."""
    place = _frame(whole) + at
    return whole[:place] + data + whole[place + len(data) :]


def _jpegs() -> Iterator[Item]:
    for mode in ("RGB", "L", "CMYK"):
        for height, width in ((1, 1), (8, 8), (19, 23), (40, 17)):
            for progressive in (False, True):
                name = f"photo-{mode}-{height}x{width}-{int(progressive)}.jpg"
                yield name, _jpeg(height, width, mode, progressive=progressive)
    for subsampling in (0, 1, 2):
        for quality in (5, 60, 100):
            made = _jpeg(33, 29, subsampling=subsampling, quality=quality)
            yield f"sampled-{subsampling}-{quality}.jpg", made
    yield "restarts.jpg", _jpeg(40, 40, restart_marker_blocks=2)
    yield "optimised.jpg", _jpeg(40, 40, optimize=True)
    yield "cmyk-plain.jpg", _adobe(_jpeg(mode="CMYK"), None)
    for transform in (0, 1, 2):
        yield f"cmyk-{transform}.jpg", _adobe(_jpeg(mode="CMYK"), transform)
        mark = _segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
        yield f"rgb-{transform}.jpg", _with(_jpeg(), mark)


def _jpeg_orientations() -> Iterator[Item]:
    whole = _jpeg(12, 20)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>"
    for number in range(10):
        data = b"Exif\0\0" + _exif(number, "<>"[number % 2])
        yield f"turned-{number}.jpg", _with(whole, _segment(0xE1, data))
    first, other = (b"Exif\0\0" + _exif(number) for number in (6, 3))
    marks: dict[str, Sequence[bytes]] = {
        "xmp": [xmp],
        "both": [first, xmp],
        "two": [other, first],
        "in-two": [first[:20], b"Exif\0\0" + first[20:]],
        "empty": [b"Exif\0\0"],
        "empty-and-xmp": [b"Exif\0\0", xmp],
        "marked-twice": [b"Exif\0\0" + first],
        "no-mark": [first[6:]],
        "long": [first + bytes(65000)],
    }
    for name, datas in marks.items():
        yield f"turned-{name}.jpg", _with(whole, *(_segment(0xE1, data) for data in datas))
    end = whole.rindex(b"\xff\xd9")
    yield "turned-late.jpg", whole[:end] + _segment(0xE1, first) + whole[end:]


def _jpeg_segments() -> Iterator[Item]:
    whole, slow = _jpeg(), _jpeg(progressive=True)
    yield "comment.jpg", _with(whole, _segment(0xFE, b"hello"))
    yield "filled.jpg", _with(whole, b"\xff" * 5 + _segment(0xFE, b"hello"))
    yield "own.jpg", _with(whole, _segment(0xEC, bytes(60)))
    yield "profile.jpg", _with(whole, _segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(50)))
    lies = {
        "no-height": (5, b"\0\0"),
        "no-width": (7, b"\0\0"),
        "taller": (5, b"\0\x40"),
        "lower": (5, b"\0\x08"),
        "huge": (5, b"\xea\x60\xea\x60"),
        "bits-12": (4, b"\x0c"),
        "two-components": (9, b"\2"),
        "five-components": (9, b"\5"),
        "lossless": (0, b"\xff\xc3"),
    }
    for name, (at, data) in lies.items():
        yield f"lie-{name}.jpg", _lie(whole, at, data)
        yield f"lie-{name}-progressive.jpg", _lie(slow, at, data)
    yield "no-end.jpg", whole[:-2]
    yield "half-an-end.jpg", whole[:-1]
    yield "no-end-progressive.jpg", slow[:-2]
    yield "behind-the-end.jpg", whole + b"more" * 9
    yield "end-in-between.jpg", whole[:-200] + b"\xff\xd9" + whole[-200:]
    yield "no-tables.jpg", whole.replace(b"\xff\xc4", b"\xff\xfe")
    yield "no-frame.jpg", whole[: _frame(whole)] + whole[_frame(whole) + 19 :]
    yield "begin.jpg", b"\xff\xd8\xff"


# --- the rest --------------------------------------------------------------------------------


def _ppms() -> Iterator[Item]:
    pixels = np.random.default_rng(2).bytes(6 * 5 * 3)
    headers = {
        "plain": b"P6\n5 6\n255\n",
        "spaces": b"P6 5\t6\r\n255 ",
        "comments": b"P6\n# a\n5 # b\n6\n#c\r255\n",
        "comment-within": b"P6\n5 6\n2#x\n55\n",
        "comment-at-once": b"P6#x\n5 6\n255\n",
        "no-space": b"P65 6 255\n",
        "no-width": b"P6 0 6 255\n",
        "no-height": b"P6 5 0 255\n",
        "no-largest": b"P6 5 6 0\n",
        "zeros": b"P6 0005 06 000255\n",
        "long": b"P6 00000000005 6 255\n",
        "letters": b"P6 5 x 255\n",
        "minus": b"P6 5 -6 255\n",
        "huge": b"P6 65535 65535 255\n",
        "tall": b"P6 1 9999999999 255\n",
        "ends": b"P6 5 6",
        "ends-there": b"P6 5 6 255",
    }
    for name, header in headers.items():
        yield f"header-{name}.ppm", header + pixels
    for largest in (1, 2, 100, 254):
        yield (
            f"largest-{largest}.ppm",
            b"P6 5 6 %d\n" % largest + bytes(value % (largest + 3) for value in pixels),
        )
    for largest in (256, 1000, 65535, 65536):
        yield f"largest-{largest}.ppm", b"P6 5 6 %d\n" % largest + pixels * 2
    yield "short.ppm", headers["plain"] + pixels[:-1]
    yield "more.ppm", headers["plain"] + pixels + b"more"
    yield "short-wide.ppm", b"P6 5 6 1000\n" + pixels


def _cuts() -> Iterator[Item]:
    """Files that end anywhere."""
    rng = np.random.default_rng(3)
    wholes = {
        "rgb.png": png_bytes(20, 30, after=png_chunk(b"eXIf", _exif(6))),
        "interlaced.png": png_bytes(20, 30, interlaced=True),
        "baseline.jpg": _jpeg(40, 40),
        "progressive.jpg": _jpeg(40, 40, progressive=True),
        "cmyk.jpg": _jpeg(40, 40, "CMYK"),
    }
    for name, whole in wholes.items():
        for place in sorted(rng.choice(len(whole), 8, replace=False)):
            yield f"cut-{place:05}-{name}", whole[: int(place)]


def _others() -> Iterator[Item]:
    yield "empty.png", b""
    yield "text.png", b"not a picture"
    yield "letters.jpg", b"\xff\xd8"
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"

"""What an ONNX file says of itself, read without its weights and before any runtime has it.

The file is a message of Protocol Buffers: fields with a number and, for what matters here, a
length. So weights are passed over, and a file of hundreds of megabytes takes milliseconds. What is
no such message, or not whole, is refused here, in the same words by every runtime and by the C++
library, and so is a graph whose weights lie in files that nobody hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from anydepth_deploy.errors import BundleError, shown
from anydepth_deploy.manifest import RAW_METADATA
from anydepth_deploy.runtimes.engine import Port

__all__ = ["OnnxFile", "load_model", "read_onnx_file"]


@dataclass(frozen=True)
class OnnxFile:
    """``metadata``: the entries of this project by their keys. ``tensors``: those that hold the raw
    outputs, by name, where the file describes them."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    tensors: Mapping[str, Port] = field(default_factory=dict)


DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
"""ONNX's element types that an array may have."""

OURS = "anydepth."
"""How the keys of this project begin."""

BLOCK = 1 << 16
"""What is read at once where fields are near each other."""
SEARCHED = 1 << 12
"""Parts up to this size are searched in one go, which is quicker than field by field."""
NEAR = 32
"""Enough for the beginning of any field."""
MOST_FIELDS = 1_000_000
MOST_TEXT = 1 << 24
MOST_NAMES = 64
DEEPEST = 32
"""More than any graph of this project has; they limit the time that a made-up one can cost."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""How the bytes of a field are to be read."""

# Fields of ModelProto and its parts that lead to tensors, by their numbers in onnx.proto.
INSIDE: dict[str, dict[int, str]] = {
    "model": {20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
GRAPH, METADATA = 7, 14
INPUT, OUTPUT, VALUE_INFO = 11, 12, 13
TENSOR_NAME, EXTERNAL = 8, 13
LOCATION = b"location"


def read_onnx_file(path: Path) -> OnnxFile:
    """Read what the ONNX file ``path`` says of itself.

    Raises :class:`BundleError` for a file that is no whole ONNX graph, and for one with weights in
    other files.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None


def load_model(path: Path) -> Any:
    """The whole of the ONNX file ``path`` as an ``onnx.ModelProto``; the package ``onnx`` has to be
    installed. Files beside it are left alone.

    Raises :class:`BundleError` for a file that is no ONNX graph.
    """
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # of protobuf, which has no public root for its exceptions
        reason = (str(error).strip().splitlines() or ["no reason is given"])[0]
        raise BundleError(
            f"{path} is not a whole ONNX graph ({shown(reason)}): export it again"
        ) from None


class _Reader:
    """One file, of which a block is in memory."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._block, self._start = b"", 0
        self._size = file.seek(0, 2)
        self._fields_seen = 0

    def read(self) -> OnnxFile:
        size = self._size
        metadata: dict[str, str] = {}
        graphs: list[tuple[int, int]] = []
        for number, kind, start, stop in self._fields(0, size):
            if kind != BYTES:
                continue
            if number == GRAPH:
                graphs.append((start, stop))
            elif number == METADATA:
                self._entry(metadata, start, stop)
            elif number in INSIDE["model"]:
                self._look(INSIDE["model"][number], start, stop, 1)
        if len(graphs) != 1:
            raise self._wrong(
                size, "it holds no graph" if not graphs else "it holds several graphs"
            )
        found = self._graph(*graphs[0], metadata)
        if not found.outputs:
            raise self._wrong(size, "its graph has no outputs")
        return found

    def _graph(self, start: int, end: int, metadata: dict[str, str]) -> OnnxFile:
        # Quoted, as JSON has them; what is quoted and names no tensor does no harm.
        raw = {name.encode() for name in metadata.get(RAW_METADATA, "").split('"')[1::2] if name}
        if len(raw) > MOST_NAMES:
            raise self._wrong(end, f"its entry {RAW_METADATA} has more than {MOST_NAMES} names")
        inputs: list[Port] = []
        outputs: list[Port] = []
        described: list[Port] = []
        for number, kind, first, stop in self._fields(start, end):
            if kind != BYTES:
                continue
            if number == INPUT:
                inputs.append(self._port(first, stop))
            elif number == OUTPUT:
                outputs.append(self._port(first, stop))
            elif number == VALUE_INFO:
                if stop - first <= SEARCHED and any(self._says(name, first, stop) for name in raw):
                    described.append(self._port(first, stop))
            elif number in INSIDE["graph"]:
                self._look(INSIDE["graph"][number], first, stop, 1)
        tensors = {port.name: port for port in described if port.name.encode() in raw}
        return OnnxFile(metadata, tuple(inputs), tuple(outputs), tensors)

    def _look(self, what: str, start: int, end: int, depth: int) -> None:
        """Refuse tensors in a part of the model whose numbers lie in other files."""
        if depth > DEEPEST:
            raise self._wrong(start, "its parts are nested too deep")
        # Almost every part is small and says nothing of the kind, which one search shows.
        if end - start <= SEARCHED and not self._says(LOCATION, start, end):
            return
        inside = INSIDE[what]
        for number, kind, first, stop in self._fields(start, end):
            if kind != BYTES:
                continue
            if number in inside:
                self._look(inside[number], first, stop, depth + 1)
            elif what != "tensor" or number != EXTERNAL:
                continue
            elif self._bytes_of(1, first, stop) == LOCATION:
                raise self._outside(start, end, self._bytes_of(2, first, stop))

    def _outside(self, start: int, end: int, file: bytes) -> BundleError:
        name = self._bytes_of(TENSOR_NAME, start, end)
        words = [shown(self._text(text, start)) for text in (name, file)]
        return BundleError(
            f"{self._path} has the numbers of '{words[0]}' in another file, '{words[1]}', which no "
            "manifest vouches for; expected all of them in the graph: export it again"
        )

    def _entry(self, metadata: dict[str, str], start: int, end: int) -> None:
        key = self._bytes_of(1, start, end)
        if not key.startswith(OURS.encode()):
            return
        name = self._text(key, start)
        value = self._bytes_of(2, start, end)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise self._wrong(start, f"its entry {shown(name)} is no text") from None
        if name in metadata:
            raise self._wrong(start, f"it has two entries {shown(name)}")
        metadata[name] = text

    def _text(self, name: bytes, start: int) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise self._wrong(start, "a name is no text") from None

    def _port(self, start: int, end: int) -> Port:
        """A ValueInfoProto: name (1), type (2) with tensor_type (1) with elem_type (1) and
        shape (2) with dim (1) with dim_value (1)."""
        name = self._text(self._bytes_of(1, start, end), start)
        dtype, shape = "", None
        for where in self._inside(2, start, end):
            for tensor in self._inside(1, *where):
                for number, kind, first, stop in self._fields(*tensor):
                    if number == 1 and kind == VARINT:
                        code = self._number(first, stop)[0]
                        dtype = DTYPES.get(code, f"type {code}")
                    elif number == 2 and kind == BYTES:
                        shape = tuple(self._dimension(*dim) for dim in self._inside(1, first, stop))
        return Port(name, dtype, shape)

    def _dimension(self, start: int, end: int) -> int | None:
        value = None
        for number, kind, first, stop in self._fields(start, end):
            if number == 1 and kind == VARINT:
                value = self._number(first, stop)[0]
        return value if value is not None and value < 1 << 63 else None

    def _inside(self, wanted: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        for number, kind, first, stop in self._fields(start, end):
            if number == wanted and kind == BYTES:
                yield first, stop

    def _bytes_of(self, wanted: int, start: int, end: int) -> bytes:
        """The last field ``wanted``, which is the one that counts; empty where there is none."""
        found = [(start, start), *self._inside(wanted, start, end)][-1]
        if found[1] - found[0] > MOST_TEXT:
            raise self._wrong(found[0], "a text is longer than any graph has")
        return self._take(*found)

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number and kind of every field, and where its content begins and ends."""
        while start < end:
            self._fields_seen += 1
            if self._fields_seen > MOST_FIELDS:
                raise self._wrong(start, "it has more fields than any graph has")
            at, block = start - self._start, self._block
            if at < 0 or at + NEAR > len(block):
                self._load(start)
                at, block = 0, self._block
            # Written out for what almost every field is: bytes, and few of them.
            if len(block) < NEAR or block[at] & 0x87 != BYTES or block[at + 2] >= 0x80:
                number, kind, first, stop = self._field(start, end)
            else:
                number, kind, size = block[at] >> 3, BYTES, block[at + 1]
                first = start + 2
                if size >= 0x80:
                    first += 1
                    size += (block[at + 2] - 1) << 7
                stop = first + size
                if first > end:  # read beyond the message: to be told what of it is cut off
                    number, kind, first, stop = self._field(start, end)
            if number == 0 or stop > end:
                raise self._wrong(
                    start, "a field is cut off" if number else "a field has no number"
                )
            yield number, kind, first, stop
            start = stop

    def _field(self, start: int, end: int) -> tuple[int, int, int, int]:
        tag, first = self._number(start, end)
        kind = tag & 7
        if kind == BYTES:
            size, first = self._number(first, end)
            stop = first + size
        elif kind == VARINT:
            stop = self._number(first, end)[1]
        elif kind in (FIXED32, FIXED64):
            stop = first + (4 if kind == FIXED32 else 8)
        else:
            raise self._wrong(start, "a field is of an unknown kind")
        return tag >> 3, kind, first, stop

    def _number(self, place: int, end: int) -> tuple[int, int]:
        """A number of 7 bits a byte, the lowest first, and where it ends."""
        at = place - self._start
        if at < 0 or (at + 10 > len(self._block) and self._start + len(self._block) < self._size):
            self._load(place)
            at = 0
        block, value = self._block, 0
        if at < len(block) and block[at] < 0x80 and place < end:  # as most are
            return block[at], place + 1
        for count, byte in enumerate(block[at : at + min(10, end - place)]):
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80 and value < 1 << 64:
                return value, place + count + 1
        raise self._wrong(place, "a number is cut off, or longer than 64 bits")

    def _says(self, word: bytes, start: int, end: int) -> bool:
        """Whether ``word`` is in a part of at most a block."""
        at = start - self._start
        if at < 0 or at + end - start > len(self._block):
            self._load(start)
            at = 0
        return self._block.find(word, at, at + end - start) >= 0

    def _take(self, start: int, end: int) -> bytes:
        at = start - self._start
        if at < 0 or at + end - start > len(self._block):
            if end - start > BLOCK:
                return self._read(start, end - start)
            self._load(start)
            at = 0
        return self._block[at : at + end - start]

    def _load(self, place: int) -> None:
        self._block, self._start = self._read(place, BLOCK), place

    def _read(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        return self._file.read(size)

    def _wrong(self, place: int, problem: str) -> BundleError:
        return BundleError(
            f"{self._path} is not a whole ONNX graph (byte {place}: {problem}): export it again"
        )

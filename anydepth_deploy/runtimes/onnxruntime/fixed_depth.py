"""A gated graph whose depth is a constant, its weights left in the file.

ONNX Runtime puts the branch of an If in its place when the predicate is a constant. What is made
here is the graph of the file with one constant instead of the input ``depth``, and with references
into that file (ONNX's external data) instead of large weights: less than a megabyte, so that the
weights of other depths are never in memory, nor are a second time those of this one.

The file is a message of Protocol Buffers, as in :mod:`anydepth_deploy.runtimes.onnx_file`, which
has found it whole. ``cpp/src/runtimes/fixed_depth.cpp`` does the same.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from anydepth_deploy.runtimes.onnxruntime.wire import (
    BYTES,
    FIXED64,
    VARINT,
    field,
    number_field,
)

__all__ = ["fix_depth"]

DEPTH = b"depth"
LEAST = 1024
"""Bytes of a constant from which on it stays in the file: ONNX Runtime wants shapes and the like
inside the graph."""

# Fields of ModelProto and its parts, by their numbers in onnx.proto.
GRAPH, INITIALIZER, INPUT, PORT_NAME = 7, 5, 11, 1
INSIDE: dict[str, dict[int, str]] = {
    "graph": {1: "node", INITIALIZER: "tensor"},
    "node": {5: "attribute"},
    "attribute": {6: "graph"},
}
DATA_TYPE, NAME, RAW_DATA, EXTERNAL, LOCATION_KIND = 2, 8, 9, 13, 14
INT64, IN_A_FILE = 7, 1


def fix_depth(path: Path, row: int, location: str) -> bytes:
    """The graph of the gated graph's file ``path`` at ``row`` of its depth table, as a serialised
    model; ``location`` is the name of that file where the runtime will look for its weights. Empty,
    weights are in the model: ONNX Runtime reads none of a file that has several names, since any of
    them may lead out of its folder.

    Raises :class:`OSError` where the file cannot be read.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return _Rewriting(content, location.encode()).model(row)


Field = tuple[int, int, int, int, int]
"""Number and wire type, where the field begins, where its value does, and where both end."""


class _Rewriting:
    def __init__(self, content: mmap.mmap, location: bytes) -> None:
        self._content, self._location = content, location

    def model(self, row: int) -> bytes:
        parts = []
        for number, _, begin, value, end in self._fields(0, len(self._content)):
            if number == GRAPH:
                graph = self._graph(value, end, row)
                parts.append(field(GRAPH, graph))
            else:
                parts.append(self._content[begin:end])
        return b"".join(parts)

    def _graph(self, start: int, stop: int, row: int) -> bytes:
        """The outer graph, with a constant in place of its input ``depth``."""
        constant = (
            number_field(DATA_TYPE, INT64)
            + field(NAME, DEPTH)
            + field(RAW_DATA, row.to_bytes(8, "little"))
        )
        kept = [
            field
            for field in self._fields(start, stop)
            if field[0] != INPUT or self._bytes(PORT_NAME, *field[3:]) != DEPTH
        ]
        return self._rewritten(kept, "graph") + field(INITIALIZER, constant)

    def _rewritten(self, fields: list[Field], kind: str) -> bytes:
        parts = []
        for number, wire, begin, value, end in fields:
            inner = INSIDE[kind].get(number) if wire == BYTES else None
            if inner is None:
                parts.append(self._content[begin:end])
            elif inner == "tensor":
                parts.append(field(number, self._tensor(value, end)))
            else:
                content = self._rewritten(list(self._fields(value, end)), inner)
                parts.append(field(number, content))
        return b"".join(parts)

    def _tensor(self, start: int, stop: int) -> bytes:
        """A constant, which stays in the file where it is large."""
        fields = list(self._fields(start, stop))
        data = [(value, end) for number, _, _, value, end in fields if number == RAW_DATA]
        if not self._location or len(data) != 1 or data[0][1] - data[0][0] < LEAST:
            return self._content[start:stop]
        offset, end = data[0]
        entries = {
            b"location": self._location,
            b"offset": str(offset).encode(),
            b"length": str(end - offset).encode(),
        }
        parts = [
            self._content[begin:after]
            for number, _, begin, _, after in fields
            if number != RAW_DATA
        ]
        parts += [
            field(EXTERNAL, field(1, key) + field(2, value)) for key, value in entries.items()
        ]
        return b"".join([*parts, number_field(LOCATION_KIND, IN_A_FILE)])

    def _bytes(self, wanted: int, start: int, stop: int) -> bytes | None:
        """The value of a field of bytes."""
        for number, wire, _, value, end in self._fields(start, stop):
            if number == wanted and wire == BYTES:
                return self._content[value:end]
        return None

    def _fields(self, start: int, stop: int) -> Iterator[Field]:
        place = start
        while place < stop:
            begin = place
            key, place = self._varint(place)
            value = place
            if key & 7 == VARINT:
                _, place = self._varint(place)
            elif key & 7 == BYTES:
                size, value = self._varint(place)
                place = value + size
            else:
                place += 8 if key & 7 == FIXED64 else 4
            yield key >> 3, key & 7, begin, value, place

    def _varint(self, place: int) -> tuple[int, int]:
        number = shift = 0
        while True:
            byte = self._content[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number, place

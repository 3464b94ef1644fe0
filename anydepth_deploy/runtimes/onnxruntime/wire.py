"""Protocol Buffers, written: fields of a message as bytes, which is all that graphs here need
(https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

__all__ = ["BYTES", "FIXED64", "VARINT", "field", "number_field"]

VARINT, FIXED64, BYTES = 0, 1, 2
"""Types on the wire: a number, eight bytes, and bytes, texts or messages behind their length."""


def field(number: int, content: bytes) -> bytes:
    """Field ``number`` with bytes, a text or a message."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """Field ``number`` with a number from 0 on."""
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)

"""The zip archive that ``torch.save`` writes, read strictly, and the tensors in it.

torch stores every entry as it is, without compression, one behind the other with at most a data
descriptor (its checksum and sizes again) between them. Nothing else is accepted: then no entry can
be larger than the file, none can be read twice, and there is no second way to read the file. Every
entry is checked against its CRC when it is read, and a storage is read only when one of its
tensors is wanted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from anydepth_deploy.checkpoints.inert import LazyTensor
from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.reading.regular import open_regular

__all__ = ["Archive", "read_tensors", "refuse_unreadable"]

END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
ENCRYPTED = 1 | 1 << 6 | 1 << 13
MAX_NAME = 256
MAX_RECORD = 1024
"""Bytes of one entry in the directory, its name included."""
MAX_DESCRIPTOR = 24

WIDENED = {
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
}
"""What becomes float32."""

WHOLE = {
    torch.bool,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
}


@dataclass(slots=True)
class _Entry:
    name: str
    size: int
    crc: int
    header: int
    compressed: bool
    start: int = 0


class Archive:
    """A torch file, open for reading; a context manager.

    ``sizes`` gives the bytes of each storage by its key. Raises :class:`CheckpointError` when the
    file is not such an archive, or not exactly as torch writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = 0  # where the entries end and the directory begins
        self.used = 0  # where the entries checked so far end
        self.file = open_regular(path)
        try:
            self._entries = self._read_directory()
            self.root = self._find_root()
            if f"{self.root}constants.pkl" in self._entries:
                raise CheckpointError(
                    f"checkpoint {path} is a TorchScript archive, which is a program; expected "
                    "weights: save the state dict alone, torch.save(model.state_dict(), ...)"
                )
            ordered = sorted(self._entries.values(), key=lambda entry: entry.header)
            for entry in ordered:
                self._check_header(entry)
            self._check_gaps(ordered)
            order = f"{self.root}byteorder"
            if order in self._entries and (found := bytes(self.read("byteorder", 16))) != b"little":
                raise self._odd(f"its numbers are in the byte order {found!a}")
        except BaseException:
            self.file.close()
            raise
        prefix = f"{self.root}data/"
        self.sizes = {
            name.removeprefix(prefix): entry.size
            for name, entry in self._entries.items()
            if name.startswith(prefix)
        }

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def read(self, name: str, limit: int | None = None) -> bytearray:
        """The content of one entry, named without the archive's root folder.

        Raises :class:`CheckpointError` when it is longer than ``limit`` bytes or damaged.
        """
        entry = self._entries[self.root + name]
        if limit is not None and entry.size > limit:
            raise self._odd(f"its entry '{name}' has {entry.size} bytes, more than {limit}")
        content = bytearray(entry.size)
        self.file.seek(entry.start)
        if self.file.readinto(content) != entry.size:
            raise self._cut()
        if zlib.crc32(content) != entry.crc:
            raise self._odd(f"the checksum of its entry '{name}' is wrong")
        return content

    def _read_directory(self) -> dict[str, _Entry]:
        size = self.file.seek(0, 2)
        if size < END.size:
            raise self._cut()
        end = size - END.size
        magic, disk, first, here, count, length, start, comment = END.unpack(self._at(end, END))
        if magic != b"PK\x05\x06":
            raise self._cut()
        if count == 0xFFFF or start == 0xFFFFFFFF:  # the marks of zip64
            raise self._odd("it has more than 4 GiB or 65534 entries")
        close = start + length
        if close == end - END64.size - LOCATOR.size:  # torch adds the records of zip64 always
            record = END64.unpack(self._at(close, END64))
            locator = LOCATOR.unpack(self._at(close + END64.size, LOCATOR))
            same = record[0] == b"PK\x06\x06" and record[4:] == (0, 0, count, count, length, start)
            if not same or locator != (b"PK\x06\x07", 0, close, 1):
                raise self._odd("the two ends of its directory contradict each other")
        elif close != end:
            raise self._odd("its directory does not end where the file does")
        if disk or first or here != count or comment:
            raise self._odd("it is a part of several files, or has a comment")
        if length > count * MAX_RECORD:
            raise self._odd("its directory holds more than entries")
        self.directory = start
        self.file.seek(start)
        content = self.file.read(length)
        entries: dict[str, _Entry] = {}
        at = 0
        for _ in range(count):
            if at + CENTRAL.size > length:
                raise self._odd("its directory is cut off")
            fields = CENTRAL.unpack_from(content, at)
            magic, _, _, flags, method, _, _, crc, packed, unpacked, *lengths = fields[:13]
            disk, header = fields[13], fields[16]
            at += CENTRAL.size
            name = self._name(content[at : at + lengths[0]])
            at += sum(lengths)
            if magic != b"PK\x01\x02" or at > length or flags & ENCRYPTED or disk:
                raise self._odd("its directory is damaged")
            if name in entries:
                raise self._odd(f"its entry '{name}' is there twice")
            entries[name] = _Entry(name, unpacked, crc, header, method != 0 or packed != unpacked)
        if at != length:
            raise self._odd("its directory holds more than entries")
        return entries

    def _check_header(self, entry: _Entry) -> None:
        """Find where the content starts; entries are visited in the order of the file."""
        if entry.compressed:
            raise self._odd(f"its entry '{entry.name}' is compressed, which torch never does")
        if entry.header + LOCAL.size > self.directory:
            raise self._odd(f"its entry '{entry.name}' lies outside the file")
        fields = LOCAL.unpack(self._at(entry.header, LOCAL))
        name = self.file.read(fields[9])
        if fields[0] != b"PK\x03\x04" or fields[3] or name != entry.name.encode("utf-8"):
            raise self._odd(f"the header of its entry '{entry.name}' contradicts the directory")
        entry.start = entry.header + LOCAL.size + fields[9] + fields[10]
        if entry.header < self.used:
            raise self._odd(f"its entry '{entry.name}' overlaps another")
        self.used = entry.start + entry.size
        if self.used > self.directory:
            raise self._odd(f"its entry '{entry.name}' reaches beyond the file")

    def _check_gaps(self, ordered: Sequence[_Entry]) -> None:
        """Nothing lies before, between and behind the entries, data descriptors excepted."""
        if ordered[0].header:
            raise self._odd(f"it does not begin with an entry, but {ordered[0].header} bytes later")
        following = [*(entry.header for entry in ordered[1:]), self.directory]
        for entry, until in zip(ordered, following, strict=True):
            end = entry.start + entry.size
            self.file.seek(end)
            # One byte more than the longest descriptor tells that something is not one.
            between = self.file.read(min(until - end, MAX_DESCRIPTOR + 1))
            if between and between not in _descriptors(entry):
                raise self._odd(
                    f"{until - end} bytes behind its entry '{entry.name}' belong to none"
                )

    def _find_root(self) -> str:
        roots = {name.split("/", 1)[0] for name in self._entries}
        root = roots.pop() if len(roots) == 1 else ""
        if f"{root}/data.pkl" not in self._entries:
            raise self._odd("it is a zip archive without one 'data.pkl'")
        return f"{root}/"

    def _name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = ""
        parts = name.split("/")
        if not name.isprintable() or len(raw) > MAX_NAME or not name:
            raise self._odd("an entry has an unreadable name")
        if "\\" in name or parts[0] == "" or ".." in parts or "." in parts:
            raise self._odd(f"an entry has the strange name '{name}'")
        return name

    def _at(self, offset: int, layout: struct.Struct) -> bytes:
        self.file.seek(offset)
        content = self.file.read(layout.size)
        if len(content) != layout.size:
            raise self._cut()
        return content

    def _cut(self) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {self.path} ({self.path.stat().st_size} bytes) cannot be read: it does "
            "not end as a zip archive; expected a PyTorch file (.pth, .pt) or safetensors. If it "
            "was downloaded, it may be truncated: fetch it again"
        )

    def _odd(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {self.path} cannot be read: {what}; expected a zip archive as torch.save "
            "writes it. It may be truncated or damaged: fetch it again from its source"
        )


def read_tensors(archive: Archive, wanted: Mapping[str, LazyTensor]) -> dict[str, Tensor]:
    """Read the wanted tensors, floating point numbers as float32.

    One storage is read and widened at a time, so no more than the result and one storage are in
    memory. Tensors that share a storage in the file share memory here, however many they are.
    Raises :class:`CheckpointError` for a type of number that cannot be widened, and for damage.
    """
    refuse_unreadable(archive.path, (lazy.dtype for lazy in wanted.values()))
    storages: dict[str, Tensor] = {}
    found = {}
    for name, lazy in wanted.items():
        key = lazy.storage.key
        if key not in storages:
            storages[key] = _read_storage(archive, key, lazy.dtype)
        found[name] = torch.as_strided(storages[key], lazy.shape, lazy.stride, lazy.offset)
    return found


def _read_storage(archive: Archive, key: str, dtype: torch.dtype) -> Tensor:
    content = archive.read(f"data/{key}")
    if not content:
        flat = torch.empty(0, dtype=dtype)
    elif dtype is torch.bool:
        flat = torch.frombuffer(content, dtype=torch.uint8) != 0
    else:
        flat = torch.frombuffer(content, dtype=dtype)
    return flat.float() if dtype in WIDENED else flat


def refuse_unreadable(path: Path, dtypes: Iterable[torch.dtype]) -> None:
    """Raises :class:`CheckpointError` for types of numbers that cannot be widened."""
    readable = {torch.float32} | WIDENED | WHOLE
    if strange := {str(dtype) for dtype in dtypes if dtype not in readable}:
        raise CheckpointError(
            f"checkpoint {path} holds numbers of type {shorten(sorted(strange))}; expected "
            "floating point or integer weights: save it in float16 or float32"
        )


def _descriptors(entry: _Entry) -> set[bytes]:
    """The forms of a data descriptor: sizes of 4 or 8 bytes, with or without its signature."""
    size = entry.size
    bare = struct.pack("<3I", entry.crc, size, size), struct.pack("<I2Q", entry.crc, size, size)
    return {signature + form for signature in (b"", b"PK\x07\x08") for form in bare}

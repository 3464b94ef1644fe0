"""Where pictures, tables and results are: folders of this machine and object stores, by Arrow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.detector.items import EncodedPicture, FetchedPicture, Reading
from anydepth_deploy.detector.urls import most_bytes, too_large
from anydepth_deploy.documents import write_or_refuse
from anydepth_deploy.errors import ImageError, UsageError, first_line
from anydepth_deploy.ray.needed import needed

__all__ = ["Place", "StoredPicture", "place_of"]

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


@dataclass(frozen=True)
class Place:
    """A file or a folder of a file system of Arrow. ``prefix``: what stands before its path where
    people read it, ``s3://``. ``local``: whether it is of this machine, or mounted on it."""

    filesystem: Any
    path: str
    prefix: str = ""
    local: bool = False

    def __str__(self) -> str:
        return self.prefix + self.path

    def at(self, path: str) -> Place:
        """Another of the same file system."""
        return Place(self.filesystem, path, self.prefix, self.local)

    def below(self, name: str) -> Place:
        return self.at(f"{self.path.rstrip('/')}/{name}")

    def files(self) -> list[tuple[str, int]]:
        """The files here and in folders below, or this file alone, and their bytes; sorted. None
        where there is nothing. Raises :class:`ImageError` where it cannot be looked into."""
        fs = needed("pyarrow.fs")
        with self._reading():
            here = self.filesystem.get_file_info(self.path)
            if here.type == fs.FileType.File:
                return [(self.path, here.size or 0)]
            if here.type == fs.FileType.NotFound:
                return []
            selector = fs.FileSelector(self.path, recursive=True)
            infos = self.filesystem.get_file_info(selector)
        return sorted((info.path, info.size or 0) for info in infos if info.is_file)

    def open(self) -> Any:
        """The file, to be read at any place of it. Raises :class:`ImageError`."""
        with self._reading():
            return self.filesystem.open_input_file(self.path)

    def content(self, most: int) -> bytes | None:
        """The bytes of the file; None where they are more than ``most``. Raises
        :class:`ImageError`."""
        with self._reading(), self.filesystem.open_input_stream(self.path) as stream:
            found: bytes = stream.read(most + 1)
        return None if len(found) > most else found

    def write(self, content: Any) -> None:
        """Write the file, whole or not at all as far as the file system can do that: of this
        machine; and stores, where a file is there when all of it is. Raises :class:`ImageError`."""
        if self.local:
            write_or_refuse(Path(self.path), lambda file: file.write(content), "file", ImageError)
            return
        try:
            self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(content)
        except Exception as error:  # whatever the library of a store raises
            raise ImageError(f"file {self} cannot be written: {first_line(error)}") from None

    def delete(self) -> None:
        """Remove the file. Raises :class:`ImageError`."""
        try:
            self.filesystem.delete_file(self.path)
        except Exception as error:  # whatever the library of a store raises
            raise ImageError(f"file {self} cannot be removed: {first_line(error)}") from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the library of a store raises
            raise ImageError(f"{self} cannot be read: {first_line(error)}") from None


def place_of(path: str | Path, filesystem: Any = None) -> Place:
    """The place ``path``: of ``filesystem``, which is one of Arrow or of fsspec; else where its
    address says (``s3://``, ``gs://`` and what else Arrow knows), or on this machine.

    Raises :class:`UsageError` for addresses of no known kind.
    """
    fs = needed("pyarrow.fs")
    text = str(path)
    if filesystem is not None:
        if not isinstance(filesystem, fs.FileSystem):
            if not hasattr(filesystem, "open"):
                raise UsageError(
                    f"{type(filesystem).__name__} is no file system: expected one of pyarrow.fs "
                    "or fsspec"
                )
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
        local = isinstance(filesystem, fs.LocalFileSystem)
        return Place(filesystem, str(Path(text).absolute()) if local else text, local=local)
    address = ADDRESS.match(text)
    if address is None or address[1].lower() == "file":
        plain = text if address is None else text[len(address[0]) :]
        return Place(fs.LocalFileSystem(), str(Path(plain).absolute()), local=True)
    try:
        found, inside = fs.FileSystem.from_uri(text)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(
            f"{text} is no place that Arrow knows ({first_line(error)}): give filesystem=, one of "
            "pyarrow.fs or fsspec"
        ) from None
    return Place(found, inside, address[0])


@dataclass(frozen=True)
class StoredPicture:
    """A picture of an object store: its bytes are fetched when it is its turn."""

    place: Place
    found: bool = True

    @property
    def name(self) -> str:
        return str(self.place)

    def had(self, how: Reading) -> FetchedPicture:
        content = self.place.content(most_bytes(how.max_pixels))
        if content is None:
            raise too_large(self.name, how.max_pixels)
        return EncodedPicture(self.name, content).had(how)

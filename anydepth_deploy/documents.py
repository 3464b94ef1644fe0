"""Files of this package: written whole or not at all, hashed, dated, and read back with care.

Manifests, range tables and results of ``bench`` are JSON documents with a version. They are read by
one function, which says in one line what is wrong with a file and what to do.

A version is ``major.minor``. A minor adds fields, each with a default: documents of older minors
are read as they are, and of newer ones what is not known is left out, with one warning. Anything
else raises the major, which older versions of this package refuse. Version 1.0 is written as the
number 1, 1.1 as the text "1.1".
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from anydepth_deploy.errors import AnyDepthError, readable, shorten
from anydepth_deploy.reading.regular import TooLargeError, open_regular, read_regular
from anydepth_deploy.reading.strict_json import MOST_VALUES, NotJsonError, OddJsonError, parse_json

__all__ = [
    "Document",
    "beside",
    "file_sha256",
    "made_folders",
    "name_anew",
    "problem_of",
    "refusing",
    "take_after",
    "try_to_write",
    "utc_now",
    "utf8_path",
    "version_of",
    "version_text",
    "write_atomically",
    "write_new",
    "write_or_refuse",
    "written_version",
]

log = logging.getLogger("anydepth_deploy")
MOST_NAMES = 100_000
"""Of files that would all be called the same."""

ATTEMPTS = 20
"""To make a folder that others, who only try whether they could, remove again."""

Model = TypeVar("Model", bound=BaseModel)

VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")
TOOL = re.compile(r"[0-9][0-9A-Za-z.+-]{0,31}")
"""Versions of this package that are repeated in messages."""


def version_of(value: object) -> tuple[int, int] | None:
    """Major and minor of a document whose version is written as ``value``: a whole number, or text
    like "1.2" where the minor is not 0. None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, 0
    match = VERSION.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else (int(match[1]), int(match[2]))


def written_version(major: int, minor: int) -> int | str:
    """How a version is written; see :func:`version_of`."""
    return f"{major}.{minor}" if minor else major


def version_text(version: tuple[int, int]) -> str:
    """A version for people: ``1.0``."""
    return "{}.{}".format(*version)


@dataclass(frozen=True)
class Document(Generic[Model]):
    """A kind of JSON document, and how it is read.

    ``model``: validates it, its ``version`` included. ``what``: it is called in messages.
    ``error``: raised for anything else. ``missing``: what to say where there is no file, ``{path}``
    (or ``{path.parent}``) stands for it. ``remedy``: what to do about a damaged one, and
    ``other_version``: about one that another version of this package wrote. ``format``: what its
    ``format`` has to be; None for documents of before that had none. ``version`` and ``minor``: the
    newest that is known; ``minor`` None for documents whose version is one number. ``most`` and
    ``most_values``: bytes and values of the largest that is read. ``title``: what to call it in
    full where a file is something else.

    The C++ library reads manifests, too, and says the same: ``named``, ``no_json``, ``versioned``
    and ``invalid`` are how messages begin and what they say of a file. ``parser``: what to say in
    the place of the words of Python's parser, which another one does not have.
    """

    model: type[Model]
    what: str
    error: type[AnyDepthError]
    missing: str
    remedy: str
    other_version: str
    format: str | None = None
    version: int = 1
    minor: int | None = None
    most: int = 1 << 24
    most_values: int = MOST_VALUES
    title: str = ""
    named: str = "{what} {path}"
    no_json: str = "is not valid JSON"
    versioned: str = "version"
    invalid: str = "is damaged"
    parser: str | None = None

    def read(self, path: Path) -> Model:
        """Read and check the file ``path``; raises :attr:`error` for anything else.

        Fields that a newer minor has and this one does not know are left out, which the log of this
        package warns of.
        """
        named = self.named.format(what=self.what, path=path)
        return self.check(self._parsed(path, named), path)

    def check(self, content: Any, path: Path) -> Model:
        """Check what was parsed of the file ``path``; the rest is as :meth:`read` does it."""
        named = self.named.format(what=self.what, path=path)
        found = content if isinstance(content, dict) else {}
        if self.format is not None and found.get("format") != self.format:
            raise self.error(
                f"{path} is not a {self.title or self.what} (its format is not '{self.format}'): "
                f"{self.remedy}"
            )
        if self.format is not None and "version" not in found:
            raise self.error(f"{named} {self.invalid}: version: Field required: {self.remedy}")
        version = version_of(found.get("version", self.version))
        if version is not None and version[0] != self.version:
            raise self.error(
                f"{named} has {self.versioned} {written_version(*version)}, this anydepth-deploy "
                f"reads version {written_version(self.version, self.minor or 0)}: "
                f"{self.other_version}, or {_made_it(found)}"
            )
        if self.minor is not None and version is not None and version[1] > self.minor:
            return self._newer(named, found, version)
        try:
            return self.model.model_validate(content)
        except ValidationError as error:
            raise self._invalid(named, error.errors()[0], self.remedy) from None

    def _parsed(self, path: Path, named: str) -> Any:
        try:
            content = read_regular(path, self.most)
        except FileNotFoundError:
            raise self.error(self.missing.format(path=path)) from None
        except TooLargeError:
            raise self.error(
                f"{named} has more than {self.most} bytes, which no {self._noun} has: {self.remedy}"
            ) from None
        except OSError as error:
            raise self.error(f"{named} cannot be read: {error}") from None
        try:
            return parse_json(content.decode("utf-8-sig"), most_values=self.most_values)
        except UnicodeDecodeError:
            words = "it is not text in UTF-8"
        except NotJsonError as error:
            words = self.parser or str(error)
        except OddJsonError as error:
            words = str(error)
        raise self.error(f"{named} {self.no_json} ({words}): {self.remedy}")

    def _newer(self, named: str, content: dict[str, Any], version: tuple[int, int]) -> Model:
        """A document of a newer minor, without what is not known of it."""
        remedy = f"it is of a newer version ({version_text(version)}): {_made_it(content)}"
        unknown: list[str] = []
        try:
            return self.model.model_validate(content)
        except ValidationError as error:
            problems = error.errors()
            for problem in problems:
                if problem["type"] != EXTRA:
                    raise self._invalid(named, problem, remedy) from None
            for problem in problems:
                *way, key = problem["loc"]
                holder: Any = content
                for step in way:
                    holder = holder[step]
                del holder[key]
                unknown.append(".".join(map(str, problem["loc"])))
        try:
            found = self.model.model_validate(content)
        except ValidationError as error:
            raise self._invalid(named, error.errors()[0], remedy) from None
        known = version_text((self.version, self.minor or 0))
        _warn_once(
            f"{named} is of version {version_text(version)}, newer than {known}, which this "
            f"anydepth-deploy knows; left out what it does not know: {shorten(unknown, 4)}"
        )
        return found

    def _invalid(self, named: str, problem: ErrorDetails, remedy: str) -> AnyDepthError:
        return self.error(f"{named} {self.invalid}: {_problem(problem, self._noun)}: {remedy}")

    @property
    def _noun(self) -> str:
        return self.what.split()[-1]


EXTRA = "extra_forbidden"

WORDS = {
    "model_type": "Input should be a valid dictionary",
    "tuple_type": "Input should be a valid list",
}
"""Where pydantic's own words are about Python rather than about a document."""


def problem_of(error: ValidationError, whole: str) -> str:
    """The first problem that ``error`` names, in one line: where it is (``whole`` where no field is
    to blame), and what."""
    return _problem(error.errors()[0], whole)


def _problem(first: ErrorDetails, whole: str) -> str:
    where = ".".join(str(part) for part in first["loc"]) or whole
    # pydantic's own words before ours say nothing to who reads the message.
    words = WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{shorten([where])}: {words.replace('Tuple should', 'List should')}"


def _made_it(content: dict[str, Any]) -> str:
    """The advice to use the version that wrote a document, by its number where it says one."""
    tool = content.get("tool_version")
    known = isinstance(tool, str) and TOOL.fullmatch(tool)
    return f"install the version that made it{f' ({tool})' if known else ''}"


@functools.lru_cache(256)
def _warn_once(message: str) -> None:
    """A command may read one document several times."""
    log.warning("%s", message)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make the file ``path`` with ``write(file)``, folders included, and only then replace it. What
    is replaced keeps its mode and, where this process may give files away, its owner. A link stays,
    and what it leads to is replaced; a pipe or a device is written into.

    Raises :class:`OSError`; nothing is left behind then.
    """
    path = _led_to(path)
    if _takes_bytes(path):
        with path.open("wb") as file:
            write(file)
        return
    with _written(path, write) as temporary:
        take_after(path, temporary)
        temporary.replace(path)


def write_new(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """The same under a name that nobody chose: a file that is there stays, and the new one is
    called ``NAME-2``, ``NAME-3`` and so on (before its suffix), also where several processes write
    at the same moment. Returns its path.

    Raises :class:`OSError`; nothing is left behind then.
    """
    with _written(path, write) as temporary:
        return name_anew(temporary, path)


def name_anew(temporary: Path, path: Path) -> Path:
    """Give the file ``temporary``, which :func:`beside` made, the name ``path``, or one with a
    number where that is there; returns which. Raises :class:`OSError`."""
    for chosen in _names(path):
        with contextlib.suppress(FileExistsError):
            _name_it(temporary, chosen)
            return chosen
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _name_it(temporary: Path, chosen: Path) -> None:
    """Give a file a name that nothing has. Raises :class:`FileExistsError` where something has."""
    try:
        os.link(temporary, chosen)
    except FileExistsError:
        raise
    except OSError:  # no second names on this file system: the name is taken first, then filled
        os.close(os.open(chosen, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            temporary.replace(chosen)
        except BaseException:
            chosen.unlink(missing_ok=True)
            raise


def _names(path: Path) -> Iterator[Path]:
    stem, dot, suffix = path.name.partition(".pred.")  # drawings are known by that
    if not dot:
        stem, suffix = path.stem, path.suffix
    yield path
    for number in range(2, MOST_NAMES):
        yield path.with_name(f"{stem}-{number}{dot}{suffix}")


@contextlib.contextmanager
def _written(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[Path]:
    """A file beside ``path`` that holds what ``write`` writes, and is gone afterwards."""
    with beside(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new and empty file in the folder of ``path``, which is made where it is missing: hidden, of
    a name that no other call takes, and gone afterwards. Raises :class:`OSError`."""
    end = os.fsdecode(os.fsencode(path.name)[-100:])  # names are limited in bytes
    temporary = path.with_name(f".{end}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    for attempt in range(ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
            break
        # Who tried whether it can write has just removed the folder; in the middle of a mkdir,
        # which finds it there and then no folder, that is "File exists".
        except (FileNotFoundError, FileExistsError):
            if attempt == ATTEMPTS - 1:
                raise
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _led_to(path: Path) -> Path:
    """What ``path`` leads to, where it is a link."""
    return path.resolve() if path.is_symlink() else path


def _takes_bytes(path: Path) -> bool:
    """Whether ``path`` is a pipe or a device: nothing that could be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def take_after(path: Path, new: Path) -> None:
    """Give the file ``new`` the mode and, where this process may give files away, the owner of
    ``path``, if that is there."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # only root gives files away, and not on every mount
        found, made = path.stat(), new.stat()
        if (found.st_uid, found.st_gid) != (made.st_uid, made.st_gid):
            with contextlib.suppress(OSError):
                os.chown(new, found.st_uid, found.st_gid)
        new.chmod(stat.S_IMODE(found.st_mode))


def write_or_refuse(
    path: Path, write: Callable[[BinaryIO], object], what: str, refusal: type[AnyDepthError]
) -> None:
    """:func:`write_atomically`, where a person waits for ``what``: raises ``refusal``, in one line,
    when it cannot be written."""
    with refusing(path, what, refusal):
        write_atomically(path, write)


def try_to_write(path: Path, what: str, refusal: type[AnyDepthError]) -> None:
    """Find out before long work whether the file ``path`` can be written, by writing beside it.

    Whoever is root, or on a mount that is read only, learns it in no other way. Nothing is left,
    neither a file nor a folder. Raises ``refusal``, in one line, as :func:`write_or_refuse` does.
    """
    with refusing(path, what, refusal):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path = _led_to(path)
        if not _takes_bytes(path):
            with made_folders(path.parent), beside(path):
                pass


@contextlib.contextmanager
def made_folders(folder: Path) -> Iterator[None]:
    """Remove what of ``folder`` and the folders above it is made meanwhile, unless something is in
    it afterwards."""
    missing = [item for item in (folder, *folder.absolute().parents) if not item.exists()]
    try:
        yield
    finally:
        for item in missing:
            with contextlib.suppress(OSError):  # somebody else has filled it
                item.rmdir()


@contextlib.contextmanager
def refusing(path: Path, what: str, refusal: type[AnyDepthError]) -> Iterator[None]:
    """Raise ``refusal``, in one line, where ``what`` cannot be written to ``path``."""
    try:
        yield
    except OSError as error:
        raise refusal(
            f"{what} {path} cannot be written: {error.strerror or error}; choose another place"
        ) from None


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes. Raises :class:`OSError`, also for what is no file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """``path``, or a link to it where it is not UTF-8, for libraries that take nothing else; the
    link is gone afterwards. Raises :class:`OSError` where there is no place for one."""
    if readable(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "file"
        link.symlink_to(path.absolute())
        yield link


def utc_now() -> str:
    """The time now in UTC, ISO 8601 to the second (``2025-01-31T12:00:00+00:00``)."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

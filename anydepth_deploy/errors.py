"""Every error this package raises on purpose.

A message is one line for the person at the keyboard: it names the file, says what was found and
what was expected, and ends with what to do. What it quotes of files and arguments was written by
others: the root of the hierarchy escapes what would move a cursor, end the line or turn its
direction, and cuts what is too long, and so does the log of this package.

    AnyDepthError                   exit status 2: bad use or bad input
    ├── MissingExtraError           an optional dependency is not installed
    ├── UsageError                  options that do not go together
    ├── DepthError                  an unknown depth, level, row or ladder
    ├── CheckpointError             a checkpoint that cannot be read or does not fit
    ├── ImageError                  a picture or a data set that cannot be used
    ├── InputError                  an array of the wrong type, shape or range
    ├── CalibrationError            ranges of activations that are missing or do not fit
    ├── DivergedError               training whose numbers are no longer finite
    ├── ExportError                 a model that cannot be turned into the wanted graph
    ├── BuildError                  a graph that cannot be built into an engine
    │   └── PrecisionError          nor in this precision, by this TensorRT for this device
    ├── DeviceError                 no GPU, not enough of its memory, or a call that failed on it
    ├── ResultError                 a result of bench that cannot be read, written or compared
    └── BundleError                 a bundle that is missing, damaged or of another version
    CheckFailedError                exit status 1: the input was fine, the result was not

Anything else is a bug: the command line names it in one line and exits with 3.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "AnyDepthError",
    "BuildError",
    "BundleError",
    "CalibrationError",
    "CheckFailedError",
    "CheckpointError",
    "DepthError",
    "DeviceError",
    "DivergedError",
    "ExportError",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "PrecisionError",
    "ResultError",
    "UsageError",
    "first_line",
    "in_one_line",
    "missing_extra",
    "readable",
    "readable_all",
    "shorten",
    "shown",
]

LINE = 1000
"""Characters that a message has at most."""

PIECE = 300
"""Characters of a text of others in a list or in a table."""

LEFT_OUT = "\u2026 ({} characters left out) \u2026"

FOR_THE_COUNT = 40
"""Characters that :data:`LEFT_OUT` takes of a text that is cut."""


class AnyDepthError(Exception):
    """Root of the hierarchy; the command line prints it as one line and exits with 2."""

    def __init__(self, message: object = "") -> None:
        super().__init__(in_one_line(str(message)))


class MissingExtraError(AnyDepthError):
    """An optional dependency is not installed. ``extra``: that brings it; None where none does."""

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        self._given = package, extra, purpose
        wanted = package if extra is None else f"'anydepth-deploy[{extra}]'"
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: pip install {wanted}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._given  # it comes from other processes, too


EXTRAS = {
    "av": "video",
    "cuda": "tensorrt",
    "faster_coco_eval": "eval",
    "google": "triton",
    "grpc": "triton",
    "jinja2": "report",
    "kornia": "train",
    "matplotlib": "plot",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxruntime": "onnxruntime",
    "onnxscript": "export",
    "openvino": "openvino",
    "polygraphy": "tensorrt",
    "pyarrow": "ray",
    "pynvml": "nvidia",
    "ray": "ray",
    "safetensors": "export",
    "scipy": "train",
    "tensorboard": "train",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "torch": "export",
    "transformers": "teacher",
    "tritonclient": "triton",
    "yaml": "train",
}
"""The extra that installs a package which is imported only when it is needed."""


def missing_extra(
    error: ModuleNotFoundError, purpose: str, *, extra: str | None = None
) -> MissingExtraError | None:
    """The friendly form of a failed import, or None when it is not about an extra's package.

    ``extra``: to name instead of the one in :data:`EXTRAS`, where several bring the package."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return None
    return MissingExtraError(package, extra or EXTRAS[package], purpose)


class UsageError(AnyDepthError):
    """Options that do not go together, or a value that no option takes."""


class DepthError(AnyDepthError):
    """A depth, level, row or ladder that the model does not have."""


class CheckpointError(AnyDepthError):
    """A checkpoint that cannot be read safely or does not fit a known network."""


class ImageError(AnyDepthError):
    """A picture, or a set of annotated pictures, that cannot be used."""


class DivergedError(AnyDepthError):
    """A network that no longer learns: its loss is not a number."""


class InputError(AnyDepthError):
    """An array given to a session has the wrong type, shape or range."""


class CalibrationError(AnyDepthError):
    """A range table that is missing, damaged or of another network, or ranges that none gives."""


class ExportError(AnyDepthError):
    """A model cannot be turned into the wanted graph."""


class BuildError(AnyDepthError):
    """A graph cannot be built into an engine: unreadable, not supported, or the builder died."""


class PrecisionError(BuildError):
    """An engine that would not compute in the precision of its graph."""


class BundleError(AnyDepthError):
    """A bundle is missing, damaged, altered or of another version."""


class ResultError(AnyDepthError):
    """A result of ``bench`` cannot be read, written or compared, or has too few samples."""


class DeviceError(AnyDepthError):
    """No GPU, not enough of its memory, or a call that failed on it."""


class CheckFailedError(Exception):
    """A check ran to its end and failed: parity, accuracy. The command line exits with 1."""

    def __init__(self, message: object = "") -> None:
        super().__init__(in_one_line(str(message)))


def readable(name: str) -> str:
    """A file's name as text that any program can read: bytes that are not UTF-8 as ``\\xe9``.

    Python has them as halves of surrogate pairs, which neither JSON nor a terminal can hold.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        pass
    else:
        return name
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves that stand for no byte: names of Windows
        return name.encode("utf-8", "backslashreplace").decode()


def readable_all(content: Any) -> Any:
    """The same of all texts in lists and mappings within each other."""
    if isinstance(content, str):
        return readable(content)
    if isinstance(content, Mapping):
        return {readable_all(key): readable_all(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [readable_all(item) for item in content]
    return content


def shorten(items: Iterable[object], limit: int = 6) -> str:
    """Join ``items`` for a one-line message, naming at most ``limit`` and counting the rest: as
    :func:`shown`, in quotes where something had to be escaped."""
    texts = [str(item) for item in items]
    named = ", ".join(
        shown(text) if _is_plain(text) else f"'{shown(text)}'" for text in texts[:limit]
    )
    return named if len(texts) <= limit else f"{named} and {len(texts) - limit} more"


def shown(text: str, most: int = PIECE) -> str:
    """``text`` as a terminal may show it: what cannot be printed is escaped (``\\n``, ``\\x1b``,
    ``\\u202e``), and of more than ``most`` characters the middle is left out and counted."""
    text = readable(text)
    if len(text) <= most:
        if _is_plain(text):
            return text
        whole = "".join(map(_escaped, text))
        if len(whole) <= most:
            return whole
    room = most - FOR_THE_COUNT
    head = _fitting(text[:room], room - room // 3)
    tail = _fitting(text[: -room - 1 : -1], room // 3)[::-1]
    count = LEFT_OUT.format(len(text) - len(head) - len(tail))
    return "".join((*head, count, *tail))


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says first; the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_one_line(message: str) -> str:
    """A whole message as :func:`shown`: its begin, which names a file, and its end, which says what
    to do, stay."""
    return shown(message, LINE)


def _fitting(letters: str, room: int) -> list[str]:
    """The first of ``letters``, escaped, as far as there is room."""
    found: list[str] = []
    for letter in letters:
        text = _escaped(letter)
        room -= len(text)
        if room < 0:
            break
        found.append(text)
    return found


def _escaped(letter: str) -> str:
    return letter if _is_plain(letter) else letter.encode("unicode_escape").decode()


UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\uf8ff\ufdd0-\ufdef\ufeff"
    r"\ufff0-\ufffb\ufffe-\uffff\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff"
    r"\U000f0000-\U0010ffff]"
)
"""Controls, separators of lines, formatting, private use, halves of pairs and what is no character:
the same in every Python and in the C++ library, while ``str.isprintable`` knows more every year.
Spaces of any width do no harm: names of files have them (a Mac's screenshots), and stay usable."""


def _is_plain(text: str) -> bool:
    """Whether a terminal shows ``text`` in one line and as it is."""
    return UNPRINTABLE.search(text) is None


class _OneLine(logging.Filter):
    """Makes every record of this package's log one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = in_one_line(record.getMessage()), None
        return True


logging.getLogger("anydepth_deploy").addFilter(_OneLine())

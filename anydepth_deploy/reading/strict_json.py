"""JSON that means the same to every reader, and costs little: what the C++ library takes, too.

Python's own parser takes more: keys twice, numbers that are none, halves of surrogate pairs.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

__all__ = ["MOST_LEVELS", "MOST_VALUES", "NotJsonError", "OddJsonError", "parse_json"]

MOST_LEVELS = 64
MOST_VALUES = 1_000_000
"""More than any manifest has; limits the time and memory that a made-up one can cost."""

LARGEST = 2**63

# A text that does not end takes the rest: or each of its quotes would be tried as a beginning.
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
HALF = re.compile(r"\\u[dD][89a-fA-F]")


class NotJsonError(ValueError):
    """A text that is not JSON, in the parser's words, which differ from parser to parser."""


class OddJsonError(ValueError):
    """JSON that no document has: something twice, too deep, too many or too large."""


def parse_json(text: str, *, most_values: int = MOST_VALUES) -> Any:
    """The content of a text: dictionaries, lists, texts, booleans, None, float, and int of 64 bits;
    whole numbers beyond that are floats.

    Raises :class:`NotJsonError`, also for NaN, infinity and halves of surrogate pairs, and
    :class:`OddJsonError` for a key that an object has twice, for numbers beyond float, for more
    than :data:`MOST_LEVELS` levels or ``most_values`` values.
    """
    try:
        content = _DECODER.decode(text)
    except RecursionError:
        raise OddJsonError(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        # Whichever comes first in the text, as a parser finds it that reads once.
        if _is_deep(text[: error.pos]):
            raise OddJsonError(TOO_DEEP) from None
        raise NotJsonError(str(error)) from None
    _measure(content, most_values)
    if HALF.search(text) and not _is_text(content):
        raise NotJsonError("it has half of a surrogate pair")
    return content


TOO_DEEP = f"nested deeper than {MOST_LEVELS} levels"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise OddJsonError(f"an object has the key '{key}' twice")
            seen.add(key)
    return found


def _whole(text: str) -> int | float:
    # Long ones first: Python takes its time for them, or refuses them in words of its own.
    value = int(text) if len(text) <= 20 else LARGEST
    return value if -LARGEST <= value < LARGEST else _number(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise OddJsonError("a number is too large")
    return value


def _no_number(word: str) -> NoReturn:
    raise NotJsonError(f"{word} is no number of JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole, parse_float=_number, parse_constant=_no_number
)


def _is_deep(text: str) -> bool:
    """Whether brackets outside of texts are open in each other on too many levels."""
    level = 0
    for found in BRACKETS.finditer(text):
        if found[0] in "[{":
            level += 1
            if level > MOST_LEVELS:
                return True
        elif found[0] in "]}":
            level -= 1
    return False


def _measure(content: Any, most_values: int) -> None:
    holders = [content] if isinstance(content, dict | list) else []
    levels, values = 0, 1
    while holders:
        levels += 1
        values += sum(map(len, holders))
        if levels > MOST_LEVELS:
            raise OddJsonError(TOO_DEEP)
        if values > most_values:
            raise OddJsonError(f"more than {most_values} values")
        holders = [
            item
            for holder in holders
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list)
        ]


def _is_text(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True

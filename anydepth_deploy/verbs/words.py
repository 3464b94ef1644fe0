"""What the text of a value means: lists, sizes, amounts of memory, as commands and verbs take them.

Judged by the text alone; nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anydepth_deploy.calibration.rules import KeepingRules
from anydepth_deploy.errors import UsageError
from anydepth_deploy.families.shared.settling import Said
from anydepth_deploy.manifest import MOST_BATCH, BatchProfile
from anydepth_deploy.suppression import Suppression, Where

__all__ = [
    "batch_profile",
    "listed",
    "memory",
    "renamed",
    "rules_of",
    "said_of",
    "size_of",
    "suppression_of",
    "words_of",
]


def words_of(text: str) -> list[str]:
    """The words of a list that is joined by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def size_of(text: str | None) -> tuple[int, int] | None:
    """Height and width from ``384x640``, or from one number for both."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(re.fullmatch("[0-9]{1,5}", side) for side in sides):
        raise UsageError(f"input size '{text}' is not HEIGHTxWIDTH, e.g. 640x640 or 384x640")
    return int(sides[0]), int(sides[-1])


def batch_profile(text: str) -> BatchProfile:
    """A batch profile from one, two or three sizes."""
    words = words_of(text)
    if not 1 <= len(words) <= 3 or not all(re.fullmatch("[1-9][0-9]{0,4}", word) for word in words):
        raise UsageError(
            f"batch '{text}' is not one to three sizes: expected e.g. 1, 1,8 or 1,4,16"
        )
    smallest, *middle, largest = [int(word) for word in (words if len(words) > 1 else words * 2)]
    typical = middle[0] if middle else smallest
    if not smallest <= typical <= largest:
        raise UsageError(f"batch '{text}' does not rise: expected smallest,fastest,largest")
    if largest > MOST_BATCH:
        raise UsageError(f"batch '{text}' is too large: expected at most {MOST_BATCH}")
    return BatchProfile(smallest=smallest, typical=typical, largest=largest)


def memory(text: str | None) -> int | None:
    """A size such as 2GiB or 512MiB in bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kmg]?)i?b?", text.strip().lower())
    size = int(float(found[1]) * 1024 ** " kmg".index(found[2] or " ")) if found else 0
    if size <= 0:
        raise UsageError(f"'{text}' is not an amount of memory: expected e.g. 2GiB or 512MiB")
    return size


def suppression_of(nms: Where | None, score: float | None, iou: float | None) -> Suppression | None:
    """How detections are suppressed, from the options that were given; None where none was."""
    options = {"where": nms, "score_threshold": score, "iou_threshold": iou}
    given = {name: value for name, value in options.items() if value is not None}
    if nms == "none" and len(given) > 1:
        raise UsageError(
            "with --nms none there is nothing that thresholds could apply to: leave --nms-score "
            "and --nms-iou out, or choose --nms graph or host"
        )
    return Suppression.model_validate(given) if given else None


def rules_of(
    keep: str | None, quantise: str | None, max_ratio: float | None, max_error: float | None
) -> KeepingRules | None:
    """What of an INT8 graph stays in float; None where nothing was said."""
    thresholds = {"max_ratio": max_ratio, "max_error": max_error}
    given: dict[str, Any] = {name: value for name, value in thresholds.items() if value is not None}
    patterns = {"keep": keep, "quantise": quantise}
    given |= {name: tuple(words_of(text)) for name, text in patterns.items() if text is not None}
    return KeepingRules(**given) if given else None


def listed(value: str | Sequence[str]) -> list[str]:
    """The words of a text that is joined by commas, or of a list of them."""
    return words_of(value) if isinstance(value, str) else [*value]


def said_of(options: dict[str, Any]) -> Said | None:
    """What ``options`` say of a network, taken out of them; None where they say nothing."""
    given = {name: options.pop(name) for name in Said.__annotations__ if name in options}
    return Said(**given) if given else None


def renamed(options: dict[str, Any], former: Mapping[str, str]) -> None:
    """Put what goes by the name of the command's option under the name that functions had before
    (``former``: from the one to the other). Raises :class:`TypeError` where both are given."""
    for name, before in former.items():
        if name not in options:
            continue
        if before in options:
            raise TypeError(f"{name} and {before} are two names of one thing: give one of them")
        options[before] = options.pop(name)

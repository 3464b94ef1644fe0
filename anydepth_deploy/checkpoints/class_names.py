"""Class names: from a file, from the checkpoint, COCO's, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anydepth_deploy.errors import UsageError, shorten
from anydepth_deploy.texts import read_text

__all__ = ["COCO_CLASSES", "class_names", "is_shown", "listed_names", "read_names"]

MAX_NAME = 100
"""Characters in the name of a class."""

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(","))
"""The 80 detection classes of COCO, in the order of their category ids."""


def is_shown(name: str) -> bool:
    """Whether a class may be called so: names reach terminals, pictures and manifests as they
    are."""
    return 0 < len(name) <= MAX_NAME and name.isprintable()


def listed_names(names: object) -> list[str] | None:
    """Names by label from what a checkpoint says of its classes, None where that is no such list:
    a list or tuple, a dictionary by label (a number, also as text), or one of labels by name."""
    if isinstance(names, dict):
        if all(type(name) is str and type(label) is int for name, label in names.items()):
            by_label = {label: name for name, label in names.items()}
            names = by_label if len(by_label) == len(names) else {}
        keys = {str(key): name for key, name in names.items() if type(key) in (int, str)}
        wanted = [str(index) for index in range(len(names))]
        if len(keys) != len(names) or not keys.keys() >= set(wanted):
            return None
        names = [keys[key] for key in wanted]
    if not isinstance(names, list | tuple) or not names:
        return None
    # A nested list could turn into a text of any length.
    texts = [str(name) for name in names if isinstance(name, str | int)]
    return texts if len(texts) == len(names) and all(map(is_shown, texts)) else None


def read_names(file: str | Path) -> list[str]:
    """The lines of ``file`` that are not blank, each the name of a class.

    Raises :class:`UsageError` for a file that cannot be read, and for names that cannot be shown or
    occur twice.
    """
    try:
        text = read_text(Path(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"class names {file} cannot be read: {error}") from None
    lines: dict[str, list[int]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if name := line.strip():
            lines.setdefault(name, []).append(number)
    for name, (first, *_) in lines.items():
        if not is_shown(name):
            raise UsageError(
                f"class names {file}: line {first} ({shorten([name[:40]])}) has characters that "
                f"cannot be shown, or more than {MAX_NAME}: write one short name a line, in UTF-8"
            )
    if again := {name: where for name, where in lines.items() if len(where) > 1}:
        words = (f"'{name}' (lines {shorten(where)})" for name, where in again.items())
        raise UsageError(
            f"class names {file} has names that occur twice: {shorten(words)}; expected each once, "
            "since nobody could tell such classes apart"
        )
    return list(lines)


def class_names(
    count: int, *, file: str | Path | None = None, stored: Sequence[str] | None = None
) -> list[str]:
    """``count`` class names: from ``file`` (one a line), else ``stored`` in the checkpoint, else
    COCO's when there are 80, else ``class 0`` and so on.

    Raises :class:`UsageError` when the file has another number of names, and as
    :func:`read_names` does.
    """
    if file is not None:
        names = read_names(file)
        if len(names) != count:
            raise UsageError(
                f"class names {file} has {len(names)} names, the network has {count} classes: "
                "write one name a line"
            )
        return names
    if stored is not None and len(stored) == count:
        return list(stored)
    if count == len(COCO_CLASSES):
        return list(COCO_CLASSES)
    return [f"class {index}" for index in range(count)]

"""Class names: from a file, from the checkpoint, COCO's, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anydepth_deploy.errors import UsageError

__all__ = ["COCO_CLASSES", "class_names", "read_names"]

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


def read_names(file: str | Path) -> list[str]:
    """The lines of ``file`` that are not blank. Raises :class:`UsageError`."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"class names {file} cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def class_names(
    count: int, *, file: str | Path | None = None, stored: Sequence[str] | None = None
) -> list[str]:
    """``count`` class names: from ``file`` (one a line), else ``stored`` in the checkpoint, else
    COCO's when there are 80, else ``class 0`` and so on.

    Raises :class:`UsageError` when the file cannot be read or has another number of names.
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

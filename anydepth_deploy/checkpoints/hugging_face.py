"""Folders as transformers saves them ("Hugging Face"): weights, and what is said beside them.

``config.json`` says what network it is, ``model.safetensors`` holds its weights, or several files
that ``model.safetensors.index.json`` lists; ``preprocessor_config.json`` says how pictures become
inputs. All of it is JSON and safetensors: nothing in it can be executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydepth_deploy.checkpoints.present import CONFIG, INDEX, PREPROCESSOR, WEIGHTS
from anydepth_deploy.errors import CheckpointError, shorten
from anydepth_deploy.reading.regular import read_regular
from anydepth_deploy.reading.strict_json import NotJsonError, OddJsonError, parse_json

__all__ = ["Saved", "find_saved", "read_document", "weight_files"]

MOST_BYTES = 1 << 24
"""Of a document; those of Objects365 take 20 kB, lists of weights 200 kB."""

SHARD = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
PLACEHOLDER = re.compile(r"LABEL_\d+")

RECIPE: Mapping[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": False,
    "do_pad": False,
    "do_convert_annotations": True,
    "resample": 2,
}
"""What is done to pictures here, by the words of such a document; what it leaves out is this.
Pillow's number 2 is its bilinear filter."""

SCALE = 1 / 255


@dataclass(frozen=True)
class Saved:
    """One network as transformers saves it.

    ``files``: its weights, in order. ``document``: what ``config.json`` says. ``extra``: class
    names and input size, as other files have them beside their weights.
    """

    files: tuple[Path, ...]
    document: Mapping[str, Any]
    extra: dict[str, Any]


def find_saved(path: Path) -> Saved | None:
    """What ``path`` is part of: a folder of transformers, or a file of weights in one. None for any
    other file.

    Raises :class:`CheckpointError` for a folder without weights or with some missing, for documents
    that cannot be read, and for pictures that are prepared otherwise than here.
    """
    folder = path if path.is_dir() else path.parent
    if not path.is_dir():
        if SHARD.fullmatch(path.name) is None or not (folder / CONFIG).is_file():
            return None
    elif not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"checkpoint {path} is a folder without {CONFIG}: expected one as transformers saves "
            "it, or a file of weights"
        )
    document = read_document(folder / CONFIG)
    if not isinstance(document.get("model_type"), str):
        if not path.is_dir():
            return None  # of some other program
        raise CheckpointError(
            f"checkpoint {path}: its {CONFIG} names no model_type: expected one of transformers"
        )
    # A file that was named is read; a folder may hold the same weights in one file and in several.
    named_whole = path == folder / WEIGHTS
    files = weight_files(folder) if path.is_dir() or named_whole else _shards(folder)
    return Saved(files, document, _extra(folder, document))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files of weights in a folder, in order: all in one, else those that its index lists.

    Raises :class:`CheckpointError` where there are none, or some are missing.
    """
    whole = folder / WEIGHTS
    return (whole,) if whole.is_file() else _shards(folder)


def _shards(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX
    if not index.is_file():
        raise CheckpointError(
            f"checkpoint {folder} has neither {WEIGHTS} nor {INDEX}: fetch its weights, too"
        )
    names = _listed(read_document(index).get("weight_map"))
    if not names:
        raise CheckpointError(
            f"checkpoint {folder}: its {INDEX} lists no weights: expected a 'weight_map' from "
            "names of tensors to files like model-00001-of-00002.safetensors beside it"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"checkpoint {folder} lacks {len(missing)} of {len(names)} files of weights that its "
            f"{INDEX} lists: fetch {shorten(missing)}"
        )
    return tuple(folder / name for name in names)


def _listed(places: object) -> list[str]:
    """The files in a list of weights, none where it is something else: names, no paths."""
    names = [*places.values()] if isinstance(places, dict) else []
    if not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
        return []
    return sorted(set(names))


def read_document(path: Path) -> dict[str, Any]:
    """A document of such a folder. Raises :class:`CheckpointError` for what is no JSON object."""
    try:
        content = parse_json(read_regular(path, MOST_BYTES).decode("utf-8"))
    except (OSError, UnicodeDecodeError, NotJsonError, OddJsonError) as error:
        raise CheckpointError(
            f"checkpoint {path.parent}: its {path.name} cannot be read ({error}); fetch it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"checkpoint {path.parent}: its {path.name} is no JSON object; fetch it again"
        )
    return content


def _extra(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    labels = document.get("id2label")
    if isinstance(labels, dict) and not all(
        isinstance(name, str) and PLACEHOLDER.fullmatch(name) for name in labels.values()
    ):
        extra["class_names"] = labels
    if (folder / PREPROCESSOR).is_file():
        extra["input_size"] = _input_size(folder, read_document(folder / PREPROCESSOR))
    return extra


def _input_size(folder: Path, recipe: Mapping[str, Any]) -> list[int]:
    """Height and width. Raises :class:`CheckpointError` for another recipe than is used here."""
    for key, usual in RECIPE.items():
        found = recipe.get(key)
        if found is not None and (type(found), found) != (type(usual), usual):
            raise _otherwise(folder, key, found, usual)
    scale = recipe.get("rescale_factor", SCALE)
    if not (isinstance(scale, float) and abs(scale - SCALE) < 1e-6):
        raise _otherwise(folder, "rescale_factor", scale, "1 / 255")
    size = recipe.get("size", {"height": 640, "width": 640})
    sides = size if isinstance(size, dict) else {}
    if sides.keys() != {"height", "width"} or {*map(type, sides.values())} != {int}:
        raise _otherwise(folder, "size", size, "a height and a width")
    return [sides["height"], sides["width"]]


def _otherwise(folder: Path, key: str, found: object, usual: object) -> CheckpointError:
    shown = "".join(letter if letter.isprintable() else "?" for letter in repr(found)[:80])
    return CheckpointError(
        f"checkpoint {folder}: its {PREPROCESSOR} has {key} = {shown}, expected {usual}: pictures "
        "are stretched to the input and divided by 255 here, and prepared in no other way"
    )

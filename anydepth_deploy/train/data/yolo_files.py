"""A data set in the YOLO format: ``data.yaml`` names folders or lists of pictures, and each picture
has a text file with a line for each object.

A picture ``.../images/NAME.jpg`` has its lines in ``.../labels/NAME.txt``; without a folder
``images`` in its path they are beside it. A line is ``class cx cy width height`` in shares of the
picture's sides, or ``class x1 y1 x2 y2 x3 y3 ...``, an outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, MissingExtraError, shorten
from anydepth_deploy.pictures.budget import MAX_PIXELS
from anydepth_deploy.pictures.folders import is_file, is_folder, look_into
from anydepth_deploy.pictures.names import Names
from anydepth_deploy.reading.regular import read_regular
from anydepth_deploy.train.data.detection_set import DetectionSet, missing_pictures
from anydepth_deploy.train.data.yolo_lines import read_lines

__all__ = ["read_yolo_set"]

MOST_YAML = 1 << 18
"""Bytes of a data.yaml: some hundred names are a few thousand, and YAML takes its time."""
MOST_LIST = 1 << 26
"""Bytes of a list of pictures."""

IMAGES, LABELS = "images", "labels"


def read_yolo_set(
    path: Path, which: Literal["train", "val"], *, max_pixels: int = MAX_PIXELS
) -> DetectionSet:
    """The part ``which`` of the data set that a ``data.yaml`` describes: ``path`` (a folder, by
    default that of the file), ``train`` and ``val`` (a folder, a .txt that lists pictures, or
    several of these), ``names`` (a list, or a mapping from 0 on) and ``nc``. What it says under
    ``download`` is never run.

    Pictures without a file of lines, and such with an empty one, have no objects. Raises
    :class:`ImageError` for files that cannot be read or contradict each other, where most lines are
    wrong or more than 1 % of the pictures are missing, and where nothing is left to learn.
    """
    content = _read_yaml(path)
    classes = _classes(path, content)
    places = _places(path, content, which)
    found, names = _pictures(path, content, which, places)
    findings = missing_pictures(path, names, found, _advice(content))
    present = [item for item in found if item is not None]
    pictures = list(dict.fromkeys(present))
    if twice := len(present) - len(pictures):
        told = f"{twice} of {len(present)} pictures are named again: they count once"
        findings.append(Finding("picture twice", twice, len(present), told))
    objects, odd = read_lines(
        path, [label_file(item) for item in pictures], len(classes), poses="kpt_shape" in content
    )
    return DetectionSet.of(
        path,
        classes,
        [(item, index + 1, (0, 0)) for index, item in enumerate(pictures)],
        objects,
        relative=True,
        findings=[*findings, *odd],
        max_pixels=max_pixels,
    )


def has_part(path: Path, which: Literal["train", "val"]) -> bool:
    """Whether a ``data.yaml`` names the part ``which``. Raises as :func:`read_yolo_set` does for a
    file that cannot be read."""
    return bool(_read_yaml(path).get(which))


def label_file(picture: Path) -> Path:
    """Where the lines of a picture are."""
    parts = list(picture.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == IMAGES:
            parts[index] = LABELS
            break
    return Path(*parts).with_suffix(".txt")


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtraError("pyyaml", "train", "reading a data.yaml") from None
    try:
        content = yaml.load(read_regular(path, MOST_YAML), _careful_loader())
    except FileNotFoundError:
        raise ImageError(f"data set {path} does not exist; expected a data.yaml") from None
    except (
        # Of the file; of numbers and dates; of tags on values that are none of theirs.
        *(OSError, ValueError, ArithmeticError, LookupError, AttributeError),
        *(RecursionError, yaml.YAMLError),
    ) as error:
        told = " ".join(str(error).split())
        raise ImageError(f"data set {path} cannot be read as YAML: {told}") from None
    if not isinstance(content, dict):
        raise ImageError(
            f"data set {path} is not in the YOLO format: expected a mapping with train, val, names"
        )
    return content


def _careful_loader() -> Any:
    """YAML's safe loader, without what lets a short file grow: merged mappings, which multiply
    where they are nested, and integers that take long to write in decimal."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                told = "merged mappings (<<) are not read: write out what they merge"
                raise yaml.constructor.ConstructorError(None, None, told, node.start_mark)

        def integer(self, node: Any) -> int:
            value = int(self.construct_yaml_int(node))
            if value.bit_length() > 64:
                told = "an integer has more than 64 bits"
                raise yaml.constructor.ConstructorError(None, None, told, node.start_mark)
            return value

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.integer)
    return Loader


def _classes(path: Path, content: Mapping[Any, Any]) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise ImageError(
                f"data set {path}: names has the keys {shorten(map(_scalar, names))}, expected "
                f"each number from 0 to {len(names) - 1}"
            )
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise ImageError(
            f"data set {path} has no names: expected a list of the classes, or a mapping from 0 on"
        )
    odd = [name for name in names if not isinstance(name, str | int) or isinstance(name, bool)]
    if odd:
        raise ImageError(
            f"data set {path}: among its names is {_scalar(odd[0])}, expected text: put names like "
            "yes, no and 1.5 in quotes"
        )
    classes = [str(name) for name in names]
    if len(set(classes)) < len(classes):
        raise ImageError(f"data set {path}: two of its names are the same: give each its own")
    count = content.get("nc", len(classes))
    if count != len(classes):
        raise ImageError(
            f"data set {path} has nc {_scalar(count)} and {len(classes)} names: expected as many "
            "of one as of the other"
        )
    return classes


def _scalar(value: object) -> str:
    """A short word for a value; nothing within it is looked at, since YAML can hold a list many
    times in itself."""
    if isinstance(value, str | int | float | None):
        return shorten([repr(value)[:60]])
    return f"a {type(value).__name__}"


def _places(path: Path, content: Mapping[Any, Any], which: str) -> list[str]:
    said = content.get(which)
    places = [item for item in (said if isinstance(said, list) else [said]) if item]
    texts = [item for item in places if isinstance(item, str)]
    if not texts or len(texts) < len(places):
        raise ImageError(
            f"data set {path} has no {which}: expected a folder of pictures, a .txt that lists "
            "them, or several of these"
        )
    return texts


def _root(path: Path, content: Mapping[Any, Any]) -> Path:
    """The folder that ``path`` in the file means: beside the file, where it is not absolute."""
    said = content.get("path")
    if said is None:
        return path.parent
    if not isinstance(said, str):
        raise ImageError(f"data set {path}: its path is {_scalar(said)}, expected a folder")
    root = path.parent / said
    # Published files name a folder of their maker's machine; what is beside the file is meant.
    return root if is_folder(root) else path.parent


def _pictures(
    path: Path, content: Mapping[Any, Any], which: str, places: Iterable[str]
) -> tuple[list[Path | None], list[str]]:
    """The pictures that a part consists of, None for those that are not there, and their names."""
    root = _root(path, content)
    found: list[Path | None] = []
    names: list[str] = []
    for said in places:
        spelling = said.replace("\\", "/")
        candidates = [root / spelling, path.parent / spelling]
        if spelling.startswith("../"):
            # Some tools count from a folder below the file's.
            candidates.append(path.parent / spelling.removeprefix("../"))
        place = next((item for item in candidates if is_folder(item) or is_file(item)), None)
        if place is None:
            raise ImageError(
                f"data set {path}: {which} is {shorten([said])}, and there is no "
                f"{shorten([root / spelling])}; {_advice(content)}"
            )
        if is_folder(place):
            looked = look_into(place)
            if looked.closed:
                raise ImageError(f"data set {path}: {looked.closed[0][1]}; let it be read")
            found += looked.pictures
            names += map(str, looked.pictures)
        else:
            # Names count from the list's folder or from the data set's.
            beside, below = Names(place.parent), Names(root)
            listed = _listed(place)
            found += [beside.find(name) or below.find(name) for name in listed]
            names += listed
    if not found:
        raise ImageError(f"data set {path}: {which} holds no picture; {_advice(content)}")
    return found, names


def _listed(path: Path) -> list[str]:
    """The lines of a list of pictures."""
    try:
        text = read_regular(path, MOST_LIST).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ImageError(f"list of pictures {path} cannot be read: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _advice(content: Mapping[Any, Any]) -> str:
    told = "correct path, train and val"
    if content.get("download") is not None:
        told = f"what it says under download is never run: get the pictures yourself, or {told}"
    return told

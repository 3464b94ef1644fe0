"""Which category of a COCO file each class of a network is."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anydepth_deploy.annotations.findings import Finding
from anydepth_deploy.errors import ImageError, shorten

__all__ = ["Matching", "classes_with_category", "match_classes"]

Means = Literal["name", "folded", "rank"]

Category = Mapping[str, Any]


@dataclass(frozen=True)
class Matching:
    """How the classes of a network were matched to categories.

    ``ids``: of the category of each class. ``mapped_by``: ``name`` where every class has a category
    of its very name, ``folded`` where some have only without regard to case and outer spaces, or
    ``rank``. ``pairs``: classes and categories of other names. ``findings``: categories with
    objects that no class can find.
    """

    ids: list[int]
    mapped_by: Means
    pairs: list[tuple[str, str]]
    findings: list[Finding]

    def lines(self) -> list[str]:
        """What a person has to know of it; none where all names are the same."""
        how = {
            "name": "",
            "folded": "by name, without regard to case and outer spaces",
            "rank": "by rank, the k-th class to the k-th lowest id",
        }[self.mapped_by]
        if not how:
            return []
        told = [f"{_quoted(one)} is {_quoted(other)}" for one, other in self.pairs]
        return [f"classes were matched {how}: {shorten(told, 10)}"]

    def record(self) -> list[dict[str, str]]:
        """The pairs for JSON and manifests."""
        return [
            {"class": shorten([one]), "category": shorten([other])} for one, other in self.pairs
        ]


def classes_with_category(
    path: Path, content: Mapping[str, Any], classes: Sequence[str]
) -> list[int]:
    """The places of those classes that have a category as :func:`match_classes` finds it by name.

    Raises :class:`ImageError` where a class may be one of several categories.
    """
    found = _by_name(path, _sorted(content), _boxes(content), classes)
    return [place for place, name in enumerate(classes) if name in found]


def match_classes(
    path: Path,
    content: Mapping[str, Any],
    classes: Sequence[str],
    *,
    by_rank: bool = False,
    left_out: bool = False,
) -> Matching:
    """The category of each class: that of its name, or else of its name without regard to case and
    outer spaces. Of several with the name of a class, the one that has annotations.

    ``by_rank``: where names are not enough, and there are as many of one as of the other, the k-th
    class is the category with the k-th lowest id. ``left_out``: categories without a class are not
    measured, rather than counted as 0.

    Raises :class:`ImageError` where a class has no category or may be one of several, and where
    ranks contradict names.
    """
    categories, boxes = _sorted(content), _boxes(content)
    found = _by_name(path, categories, boxes, classes)
    missing = [name for name in classes if name not in found]
    means: Means = "name"
    if missing and by_rank:
        chosen = _by_rank(path, categories, classes, found)
        means = "rank"
    elif missing:
        raise ImageError(_no_partner(path, categories, boxes, classes, found, missing))
    else:
        chosen = [found[name] for name in classes]
        if any(item["name"] != name for name, item in zip(classes, chosen, strict=True)):
            means = "folded"
    pairs = [
        (name, str(item["name"]))
        for name, item in zip(classes, chosen, strict=True)
        if item["name"] != name
    ]
    ids = [int(item["id"]) for item in chosen]
    return Matching(ids, means, pairs, _without_class(content, categories, ids, left_out))


def _sorted(content: Mapping[str, Any]) -> list[Category]:
    return sorted(content["categories"], key=lambda item: int(item["id"]))


def _boxes(content: Mapping[str, Any]) -> Counter[int]:
    """How many boxes the category of each id has."""
    return Counter(int(item["category_id"]) for item in content["annotations"])


def _folded(name: str) -> str:
    """A name without what people do not see: case, outer spaces, how accents are stored."""
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff").strip().casefold()


def _by_name(
    path: Path, categories: Sequence[Category], boxes: Counter[int], classes: Sequence[str]
) -> dict[str, Category]:
    """The category of each class that has one of its name."""
    exact = {str(item["name"]) for item in categories} & set(classes)
    groups: dict[str, list[Category]] = {}
    for item in categories:
        groups.setdefault(_folded(item["name"]), []).append(item)
    found: dict[str, Category] = {}
    owner: dict[int, str] = {}
    for name in dict.fromkeys(classes):
        # A category with the very name of another class is that class's.
        group = [
            item
            for item in groups.get(_folded(name), [])
            if item["name"] == name or item["name"] not in exact
        ]
        if not group:
            continue
        item = found[name] = _of_several(path, name, group, boxes)
        if (other := owner.setdefault(int(item["id"]), name)) != name:
            raise ImageError(
                f"annotations {path}: the category {_quoted(item['name'])} may be the class "
                f"{_quoted(other)} or {_quoted(name)}: give the categories the names of the classes"
            )
    return found


def _of_several(path: Path, name: str, group: Sequence[Category], boxes: Counter[int]) -> Category:
    """The one of ``group`` that has annotations, before all of the very name."""
    own = [item for item in group if item["name"] == name]
    for items in (own, [item for item in group if item["name"] != name]):
        used = [item for item in items if boxes[item["id"]]]
        if len(used) > 1:
            ids = " and ".join(str(item["id"]) for item in used)
            raise ImageError(
                f"annotations {path}: {len(used)} categories with annotations have the name of the "
                f"class {_quoted(name)} (ids {ids}), expected one: give the annotations of all to "
                "one of them, or each a name of its own"
            )
        if used:
            return used[0]
    return (own or group)[0]


def _by_rank(
    path: Path,
    categories: Sequence[Category],
    classes: Sequence[str],
    found: Mapping[str, Category],
) -> list[Category]:
    if len(categories) != len(classes):
        raise ImageError(
            f"{path} has {len(categories)} categories, the network {len(classes)} classes: they "
            "can be matched by rank only where there are as many of one as of the other"
        )
    for name, item in zip(classes, categories, strict=True):
        if name in found and found[name]["id"] != item["id"]:
            raise ImageError(
                f"{path}: by rank the class {_quoted(name)} would be the category "
                f"{_quoted(item['name'])}, though there is one of its name: give the categories "
                "the names of the classes"
            )
    return list(categories)


def _no_partner(
    path: Path,
    categories: Sequence[Category],
    boxes: Counter[int],
    classes: Sequence[str],
    found: Mapping[str, Category],
    missing: Sequence[str],
) -> str:
    taken = {item["id"] for item in found.values()}
    left = [item["name"] for item in categories if item["id"] not in taken]
    text = (
        f"{path} has {len(categories)} categories, the network {len(classes)} classes, "
        f"{len(missing)} of which have no category of their name: {shorten(missing, 10)}; "
    )
    if left:
        text += f"categories without a class: {shorten(left, 10)}; "
    text += "give the categories the names of the classes (export --classes names the classes)"
    if len(categories) == len(classes):
        text += ", or match them in the order of their ids with --match-by-rank"
    return text


def _without_class(
    content: Mapping[str, Any],
    categories: Sequence[Category],
    ids: Sequence[int],
    left_out: bool,
) -> list[Finding]:
    """Categories that count in the mean and that the network cannot find. A category of nothing
    but crowds does not count."""
    objects = Counter(
        int(item["category_id"]) for item in content["annotations"] if not item.get("iscrowd")
    )
    lacking = [item for item in categories if objects[item["id"]] and item["id"] not in {*ids}]
    if not lacking:
        return []
    named = [
        f"{_quoted(item['name'])} ({objects[item['id']]} box{'es' * (objects[item['id']] != 1)})"
        for item in lacking
    ]
    count = len(lacking)
    one = count == 1
    told = "1 category has no class and " if one else f"{count} categories have no class and "
    if left_out:
        told += f"{'is' if one else 'are'} left out of figures here, which eval counts as 0"
    else:
        told += f"count{'s' * one} as 0 in every figure"
    text = f"{told}: {shorten(named, 10)}"
    return [Finding("category without class", count, len(categories), text)]


def _quoted(name: str) -> str:
    return f"'{shorten([name])}'"

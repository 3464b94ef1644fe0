"""Classes and categories: by name, whatever its case; by rank only where somebody says so."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from plain import is_plain

from anydepth_deploy.annotations.categories import Matching, match_classes
from anydepth_deploy.errors import ImageError

CLASSES = ["circle", "square", "star"]


def match(
    categories: Sequence[tuple[int, str]],
    boxes: Sequence[int] = (),
    classes: Sequence[str] = CLASSES,
    crowds: Sequence[int] = (),
    by_rank: bool = False,
) -> Matching:
    """``boxes`` and ``crowds``: the category id of each annotation."""
    content: dict[str, Any] = {
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [
            {"category_id": number, "iscrowd": crowd}
            for crowd, numbers in enumerate((boxes, crowds))
            for number in numbers
        ],
    }
    return match_classes(Path("val.json"), content, classes, by_rank=by_rank)


def test_names_come_before_everything() -> None:
    found = match([(9, "star"), (2, "square"), (5, "circle")], [9, 5])
    assert (found.ids, found.mapped_by, found.pairs, found.findings) == ([5, 2, 9], "name", [], [])
    assert found.lines() == []


def test_case_and_outer_spaces_do_not_matter_and_are_said() -> None:
    found = match([(1, "Circle "), (2, "square"), (3, " STAR")])
    assert (found.ids, found.mapped_by) == ([1, 2, 3], "folded")
    assert found.pairs == [("circle", "Circle "), ("star", " STAR")]
    (line,) = found.lines()
    assert line == (
        "classes were matched by name, without regard to case and outer spaces: 'circle' is "
        "'Circle ', 'star' is ' STAR'"
    )
    assert found.record()[0] == {"class": "circle", "category": "Circle "}
    # How an accent is stored is not to be seen, nor is a byte-order mark before a name.
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    assert match([(4, apart)], classes=["\ufeff" + composed]).ids == [4]


def test_a_very_name_is_never_another_class() -> None:
    assert match([(1, "Cat"), (2, "cat")], classes=["cat", "Cat"]).ids == [2, 1]
    with pytest.raises(ImageError, match="no category of their name: Cat; "):
        match([(2, "cat")], classes=["cat", "Cat"])
    with pytest.raises(ImageError, match="'CAT' may be the class 'Cat' or 'cat'"):
        match([(2, "CAT")], classes=["Cat", "cat"])


@pytest.mark.parametrize(
    ("categories", "boxes", "circle"),
    [
        # Tools write a category for the whole data set, of the same name, before or after.
        ([(0, "circle"), (6, "circle")], [6, 6], 6),
        ([(6, "circle"), (99, "circle")], [6, 6], 6),
        ([(6, "circle"), (99, "circle")], [99], 99),
        ([(6, "circle"), (99, "circle")], [], 6),
        ([(6, "circle"), (99, "Circle")], [99], 99),
        ([(6, "CIRCLE"), (99, "circle")], [], 99),
    ],
)
def test_of_several_the_one_with_annotations(
    categories: list[tuple[int, str]], boxes: list[int], circle: int
) -> None:
    for order in (categories, categories[::-1]):
        found = match([*order, (2, "square"), (3, "star")], boxes)
        assert found.ids == [circle, 2, 3]
        assert found.findings == []


@pytest.mark.parametrize("names", [("circle", "circle"), ("Circle", "CIRCLE ")])
def test_several_with_annotations_are_refused(names: tuple[str, str]) -> None:
    categories = [(6, names[0]), (99, names[1]), (2, "square"), (3, "star")]
    told = r"val\.json: 2 categories with annotations .* 'circle' \(ids 6 and 99\), expected one"
    with pytest.raises(ImageError, match=told):
        match(categories, [6, 99])


def test_another_spelling_beside_the_very_name_has_no_class() -> None:
    found = match([(6, "circle"), (99, "Circle"), (2, "square"), (3, "star")], [6, 99])
    assert found.ids == [6, 2, 3]
    assert found.findings[0].text.endswith("'Circle' (1 box)")


# --- without a partner -----------------------------------------------------------------------


def test_ranks_are_taken_only_where_somebody_says_so() -> None:
    categories = [(30, "three"), (10, "one"), (20, "two")]
    with pytest.raises(ImageError) as caught:
        match(categories)
    assert str(caught.value) == (
        "val.json has 3 categories, the network 3 classes, 3 of which have no category of their "
        "name: circle, square, star; categories without a class: one, two, three; give the "
        "categories the names of the classes (export --classes names the classes), or match them "
        "in the order of their ids with --match-by-rank"
    )
    found = match(categories, by_rank=True)
    assert (found.ids, found.mapped_by) == ([10, 20, 30], "rank")
    assert found.lines() == [
        "classes were matched by rank, the k-th class to the k-th lowest id: 'circle' is 'one', "
        "'square' is 'two', 'star' is 'three'"
    ]


def test_ranks_do_not_contradict_names() -> None:
    agreeing = [(1, "circle"), (2, "quad"), (3, "star")]
    with pytest.raises(ImageError, match=r"no category of their name: square; .*class: quad; "):
        match(agreeing)
    found = match(agreeing, by_rank=True)
    assert (found.ids, found.pairs) == ([1, 2, 3], [("square", "quad")])
    turned = [(1, "quad"), (2, "circle"), (3, "star")]
    with pytest.raises(ImageError, match="'circle' would be the category 'quad', though there is"):
        match(turned, by_rank=True)
    # Where names say it all, ranks are not asked.
    assert match([(1, "star"), (2, "circle"), (3, "square")], by_rank=True).mapped_by == "name"


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_need_as_many_of_one_as_of_the_other(count: int) -> None:
    categories = [(number, f"kind {number}") for number in range(count)]
    with pytest.raises(ImageError, match=rf"has {count} categories, the network 3 classes: .*many"):
        match(categories, by_rank=True)
    with pytest.raises(ImageError) as caught:
        match(categories)
    assert "--match-by-rank" not in str(caught.value)


def test_names_that_could_steer_a_terminal_are_escaped() -> None:
    with pytest.raises(ImageError, match=r"\\x1b\[31m") as caught:
        match([(1, "\x1b[31m"), (2, "\ud800")], classes=["a", "b"])
    assert is_plain(str(caught.value))
    found = match([(1, "\x1b[31m"), (2, "\ud800")], [1], classes=["a", "b"], by_rank=True)
    assert is_plain(str(found.record()))
    assert "\\ud800" in found.record()[1]["category"]
    assert is_plain(found.lines()[0])


# --- categories that the network lacks -------------------------------------------------------


def test_a_category_without_a_class_is_named_where_it_counts() -> None:
    categories = [(1, "circle"), (2, "square"), (3, "star"), (4, "moon"), (5, "sun")]
    (one,) = match(categories, [1, 4]).findings
    assert (one.kind, one.count, one.of) == ("category without class", 1, 5)
    assert one.text == "1 category has no class and counts as 0 in every figure: 'moon' (1 box)"
    (two,) = match(categories, [4, 5, 5]).findings
    assert two.text.startswith("2 categories have no class and count as 0 in every figure: 'moon' ")
    assert two.text.endswith("'sun' (2 boxes)")
    # What has no objects, or crowds alone, is not part of the mean.
    assert match(categories, [1], crowds=[4]).findings == []


# --- at random -------------------------------------------------------------------------------

LETTERS = st.text(st.characters(categories=["Ll", "Lu", "Nd"], max_codepoint=0x24F), max_size=6)


def spaced(text: str) -> str:
    return f" {text}\t"


@given(
    names=st.lists(LETTERS, min_size=1, max_size=6, unique_by=lambda text: text.strip().casefold()),
    seed=st.integers(0, 2**32),
)
@examples(200)
def test_renamed_categories_find_their_classes(names: list[str], seed: int) -> None:
    """Whatever case and spaces a file gives them, in whatever order and beside whatever else."""
    rng = np.random.default_rng(seed)
    # Some letters have a case that does not come back (a dotted capital I).
    styles: list[Callable[[str], str]] = [str, str.upper, str.lower, str.swapcase, spaced]
    numbers = rng.permutation(100)[: len(names) + 1].tolist()
    categories = []
    for number, name in zip(numbers, names, strict=False):
        new = styles[rng.integers(len(styles))](name)
        categories.append((number, new if new.strip().casefold() == name.casefold() else name))
    more = (numbers[-1], "something else entirely")
    found = match([*rng.permutation(np.array([*categories, more], object)).tolist()], classes=names)
    assert found.ids == numbers[:-1]
    assert (found.mapped_by == "name") == ([name for _, name in categories] == names)
    changed = [(old, new) for old, (_, new) in zip(names, categories, strict=True) if old != new]
    assert found.pairs == changed

"""Parity: what counts as equal, and that each kind of difference is found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RUNGS, random_detr, random_images
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.engines import open_artifacts
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.depth import Depth
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import BundleError, CheckpointError, ImageError
from anydepth_deploy.families.detr.model import AnyDepthDETR
from anydepth_deploy.families.registry import tolerances
from anydepth_deploy.families.shared.tolerances import Tolerances
from anydepth_deploy.torch_runtime.session import TorchSession
from anydepth_deploy.verifying import graphs as module
from anydepth_deploy.verifying.graphs import Parity, Report, verify
from anydepth_deploy.verifying.parity import unmatched_detections

SCORE, PIXELS = 0.01, 1.0
Item = tuple[int, float, float]
"""Label, score and left side of a box."""


def detections(items: list[Item]) -> Detections:
    boxes = [[left, 0, left + 10, 10] for _, _, left in items]
    return Detections(
        np.array([[label for label, _, _ in items]], np.int64),
        np.array(boxes, np.float32).reshape(1, -1, 4),
        np.array([[score for _, score, _ in items]], np.float32),
    )


def unmatched(one: list[Item], other: list[Item]) -> int:
    return unmatched_detections(detections(one), detections(other), score=SCORE, pixels=PIXELS)


# --- sets of detections ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([], [], 0),
        ([(1, 0.9, 5)], [(1, 0.9, 5)], 0),
        ([(1, 0.9, 5)], [(1, 0.895, 5.9)], 0),  # within both tolerances
        ([(1, 0.9, 5)], [(2, 0.9, 5)], 0),  # alone, it is at the edge of the other set
        ([(1, 0.9, 5), (0, 0.1, 0)], [(2, 0.9, 5), (0, 0.1, 0)], 2),  # another label
        ([(1, 0.9, 5), (0, 0.1, 0)], [(1, 0.88, 5), (0, 0.1, 0)], 2),  # another score
        ([(1, 0.9, 5), (0, 0.1, 0)], [(1, 0.9, 6.5), (0, 0.1, 0)], 2),  # another place
        ([(1, 0.9, 5), (0, 0.1, 0)], [(0, 0.1, 0), (1, 0.9, 5)], 0),  # another order
        # Two equal ones need two partners.
        ([(1, 0.9, 5), (1, 0.9, 5), (0, 0.1, 0)], [(1, 0.9, 5), (3, 0.5, 0), (0, 0.1, 0)], 2),
        # The first could take either partner, the second only one: nobody is stranded.
        ([(1, 0.9, 5.5), (1, 0.9, 4.6), (0, 0.1, 0)], [(1, 0.9, 5), (1, 0.9, 6), (0, 0.1, 0)], 0),
        # What the last place went to is nobody's promise; what came before it is.
        ([(1, 0.9, 5), (2, 0.501, 0)], [(1, 0.9, 5), (3, 0.5, 40)], 0),
        ([(1, 0.9, 5), (2, 0.52, 0)], [(1, 0.9, 5), (3, 0.5, 40)], 1),
        # A list that is too short has no last place to miss.
        ([(1, 0.9, 5)], [], 1),
        ([(1, 0.9, 5), (2, 0.1, 0)], [(1, 0.9, 5)], 1),
    ],
)
def test_counting_what_has_no_partner(one: list[Item], other: list[Item], expected: int) -> None:
    assert unmatched(one, other) == expected
    assert unmatched(other, one) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["boxes", "scores"])
def test_numbers_that_are_none_match_nothing(value: float, field: str) -> None:
    good = detections([(1, 0.9, 5), (2, 0.8, 5)])
    bad = detections([(1, 0.9, 5), (2, 0.8, 5)])
    getattr(bad, field)[0, 1] = value
    for one, other in ((good, bad), (bad, good), (bad, bad)):
        assert unmatched_detections(one, other, score=SCORE, pixels=PIXELS) == 2


def brute_force(one: list[Item], other: list[Item]) -> set[int]:
    """The counts that some largest pairing leaves, by trying every pairing."""

    def partners(a: Item, b: Item) -> bool:
        return a[0] == b[0] and abs(a[1] - b[1]) <= SCORE and abs(a[2] - b[2]) <= PIXELS

    def counted(lonely: list[Item], theirs: list[Item]) -> int:
        if len(one) != len(other):
            return len(lonely)
        lowest = min((item[1] for item in theirs), default=math.inf)
        return sum(item[1] > lowest + SCORE for item in lonely)

    counts: dict[int, set[int]] = {}
    slots = [*range(len(other)), *([None] * len(one))]
    for choice in set(itertools.permutations(slots, len(one))):
        pairs = [(i, j) for i, j in enumerate(choice) if j is not None]
        if not all(partners(one[i], other[j]) for i, j in pairs):
            continue
        mine = [item for i, item in enumerate(one) if i not in {i for i, _ in pairs}]
        yours = [item for j, item in enumerate(other) if j not in {j for _, j in pairs}]
        counts.setdefault(len(pairs), set()).add(counted(mine, other) + counted(yours, one))
    return counts[max(counts)]


# Eighths and quarters are exact in float32, and no difference is at a tolerance by accident.
ITEMS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([0.25, 0.2578125, 0.265625, 0.5, 0.5078125]),
        st.sampled_from([0.0, 0.75, 1.5, 2.25, 9.0]),
    ),
    max_size=4,
)


@examples(200)
@given(ITEMS, ITEMS)
def test_pairing_by_brute_force(one: list[Item], other: list[Item]) -> None:
    assert unmatched(one, other) in brute_force(one, other)
    assert unmatched(one, one[::-1]) == 0


# --- parity of artifacts ---------------------------------------------------------------------

Raw = dict[str, NDArray[Any]]
Change = Callable[[Detections, Raw], tuple[Detections, Raw]]


@pytest.fixture(scope="module")
def batches() -> list[NDArray[np.float32]]:
    return [random_images(1, 160, 160), random_images(2, 160, 160, 1)]


class Altered:
    """A session whose answers are changed on their way."""

    detects = True

    def __init__(self, session: Session, change: Change) -> None:
        self.session, self.change = session, change

    def run_both(self, images: NDArray[np.float32], depth: Depth) -> tuple[Detections, Raw]:
        found, raw = self.session.run_both(images, depth)
        copy = Detections(found.labels.copy(), found.boxes.copy(), found.scores.copy())
        return self.change(copy, {name: array.copy() for name, array in raw.items()})


Verify = Callable[[Change], Parity]


@pytest.fixture
def verdict(
    bundle: Bundle,
    checkpoint: Path,
    batches: list[NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
) -> Verify:
    """The verdict on the base static graph when its answers are changed."""
    opened = open_artifacts

    def run(change: Change) -> Parity:
        def altered(*arguments: Any, **options: Any) -> Altered:
            return Altered(opened(*arguments, **options), change)

        monkeypatch.setattr(module, "open_artifacts", altered)
        depths = [bundle.table.find("base")]
        report = verify(bundle, str(checkpoint), batches, depths=depths, layout="set", record=False)
        (row,) = report.rows
        assert report.passed == row.passed
        return row

    return run


def test_every_artifact_equals_its_checkpoint(
    bundle: Bundle, checkpoint: Path, batches: list[NDArray[np.float32]]
) -> None:
    steps: list[tuple[str, int, int]] = []
    report = verify(
        bundle,
        str(checkpoint),
        batches,
        record=False,
        progress=lambda *step: steps.append(step),
    )
    assert report.passed
    assert report.batches == [[1, 3, 160, 160], [2, 3, 160, 160]]
    found = [(row.artifact, row.level) for row in report.rows]
    gated = [(f"gated-fp32-{kind}", level) for kind in ("shared", "folded") for level in range(4)]
    static = [(f"static-fp32-{depth}", level) for level, depth in enumerate(bundle.table.ladder)]
    assert found == gated + static
    assert [(done, total) for _, done, total in steps] == [(index, 12) for index in range(12)]
    for row in report.rows:
        assert (
            0 < row.differences["logits"] <= 1e-4
        )  # exactly 0 would mean that nothing was compared
        assert 0 < row.differences["boxes"] <= 1e-5
        assert (row.detections, row.unmatched) == (300, 0)


def test_a_depth_beside_the_ladder(
    bundle: Bundle, checkpoint: Path, batches: list[NDArray[np.float32]]
) -> None:
    depths = [bundle.table.find("TFTF-T-1")]
    report = verify(bundle, str(checkpoint), batches, depths=depths, record=False)
    assert [(row.artifact, row.level) for row in report.rows] == [
        ("gated-fp32-shared", None),
        ("gated-fp32-folded", None),
    ]
    assert report.passed
    with pytest.raises(BundleError, match="no artifact for the depths asked for"):
        verify(bundle, str(checkpoint), batches, depths=depths, layout="set", record=False)


def test_nothing_changed(verdict: Verify) -> None:
    assert verdict(lambda found, raw: (found, raw)).passed


def reorder(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    order = np.random.default_rng(0).permutation(60)
    assert not np.array_equal(raw["queries"], raw["queries"][:, order])
    return found, {name: array[:, order] for name, array in raw.items()}


def reorder_detections(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    return Detections(found.labels[:, ::-1], found.boxes[:, ::-1], found.scores[:, ::-1]), raw


def test_the_order_of_queries_is_nobodys_promise(verdict: Verify) -> None:
    row = verdict(reorder)
    assert row.passed
    assert row.differences["logits"] <= 1e-4


def first_only(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    return Detections(found.labels[:, :1], found.boxes[:, :1], found.scores[:, :1]), raw


@pytest.mark.parametrize("change", [reorder_detections, first_only])
def test_detections_come_best_first_and_all_of_them(verdict: Verify, change: Change) -> None:
    row = verdict(change)
    assert not row.passed
    assert row.unmatched > 0


@pytest.mark.parametrize("value", [-1, 525, 10**6])
def test_queries_that_are_no_tokens_fail_the_check(verdict: Verify, value: int) -> None:
    def change(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
        raw["queries"][0, 0] = value
        return found, raw

    row = verdict(change)
    assert not row.passed
    assert row.selection == math.inf


def add(name: str, amount: float) -> Change:
    def change(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
        raw[name][0, 7, 1] += np.float32(amount)
        return found, raw

    return change


def test_one_logit(verdict: Verify) -> None:
    row = verdict(add("logits", 1e-3))
    assert not row.passed
    assert row.differences["logits"] == pytest.approx(1e-3, rel=0.05)
    assert row.differences["boxes"] <= 1e-5
    assert row.unmatched == 0


def test_one_box(verdict: Verify) -> None:
    row = verdict(add("boxes", 1e-4))
    assert not row.passed
    assert row.differences["boxes"] == pytest.approx(1e-4, rel=0.05)
    assert row.differences["logits"] <= 1e-4


@pytest.mark.parametrize("name", ["logits", "boxes"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_that_is_none(verdict: Verify, name: str, value: float) -> None:
    row = verdict(add(name, value))
    assert not row.passed
    assert row.differences[name] == math.inf


def swap_two_queries(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    raw["logits"][0, [0, 1]] = raw["logits"][0, [1, 0]]
    return found, raw


def lose_a_query(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    return found, {**raw, "logits": raw["logits"][:, 1:]}


def other_label(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    found.labels[0, 0] = (found.labels[0, 0] + 1) % 8
    return found, raw


def other_score(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    found.scores[0, 0] -= 1e-3
    return found, raw


def other_place(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    found.boxes[0, 0, 2] += 0.05
    return found, raw


def no_detections(found: Detections, raw: Raw) -> tuple[Detections, Raw]:
    return Detections(found.labels[:, :0], found.boxes[:, :0], found.scores[:, :0]), raw


@pytest.mark.parametrize(
    "change",
    [swap_two_queries, lose_a_query, other_label, other_score, other_place, no_detections],
)
def test_other_differences(verdict: Verify, change: Change) -> None:
    assert not verdict(change).passed


class PicksWorse:
    """A session right in everything but one query: a token that was not among the best."""

    detects = True

    def __init__(self, model: AnyDepthDETR, *, twice: bool) -> None:
        self.model, self.twice = model, twice

    def run_both(self, images: NDArray[np.float32], depth: Depth) -> tuple[Detections, Raw]:
        pixels = torch.from_numpy(images)
        with torch.inference_mode():
            queries = self.model(pixels, depth)["queries"].clone()
            taken = set(queries[0].tolist())
            worse = next(token for token in range(60) if token not in taken)
            queries[0, 0] = worse
            found = self.model.compare(pixels, depth, {"queries": queries})
        raw = {name: array.numpy() for name, array in found.raw.items()}
        if self.twice:
            raw["queries"][0, 0] = raw["queries"][0, 1]
        boxes = {name: array.numpy() for name, array in found.detections.items()}
        return Detections(boxes["labels"], boxes["boxes"], boxes["scores"]), raw


@pytest.mark.parametrize("twice", [False, True])
def test_a_worse_choice_of_queries(
    bundle: Bundle,
    checkpoint: Path,
    model: AnyDepthDETR,
    batches: list[NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
    twice: bool,
) -> None:
    session = PicksWorse(model, twice=twice)
    monkeypatch.setattr(module, "open_artifacts", lambda *_, **__: session)
    depths = [bundle.table.find("base")]
    report = verify(bundle, str(checkpoint), batches, depths=depths, layout="set", record=False)
    (row,) = report.rows
    assert not report.passed
    if twice:
        assert row.selection == math.inf
    else:
        assert (*row.differences.values(), row.unmatched) == (0, 0, 0, 0)
        assert row.selection > 1e-3


# --- reports and errors ----------------------------------------------------------------------


def test_tolerances_follow_from_those_of_the_heads(model: AnyDepthDETR) -> None:
    found = tolerances(model.family, (320, 640), "fp32")
    assert set(found.raw) == set(model.raw_outputs)
    assert (found.raw["logits"], found.raw["boxes"], found.selection) == (1e-4, 1e-5, 1e-4)
    values = np.linspace(-8, 8, 1001)
    sigmoid = 1 / (1 + np.exp(-values))
    shifted = 1 / (1 + np.exp(-(values + found.raw["logits"])))
    assert np.abs(sigmoid - shifted).max() <= found.score
    assert found.pixels == pytest.approx(640 * 1.5 * found.raw["boxes"])


def test_a_report_passes_only_if_every_row_does() -> None:
    good = Parity("a", "fp32", "FF-2", 0, {"logits": 0.0}, 0.0, 3, 0, True)
    bad = Parity("a", "fp32", "FF-1", 1, {"logits": 1.0}, 0.0, 3, 0, False)
    limits = {"fp32": Tolerances({}, 0.0, 0.0, 0.0)}
    for rows, passed in (([], False), ([good], True), ([good, bad], False)):
        report = Report("b", "c", "onnxruntime", [], limits, rows)
        assert report.passed is passed
        assert report.to_json()["passed"] is passed


def test_the_result_is_recorded(
    bundle_copy: Path, checkpoint: Path, batches: list[NDArray[np.float32]]
) -> None:
    found = open_bundle(bundle_copy)
    depths = [found.table.find("base")]
    verify(found, str(checkpoint), batches[:1], depths=depths, layout="set")
    (record,) = open_bundle(bundle_copy).manifest.results["verify"]
    assert record["passed"] is True
    assert [row["depth"] for row in record["rows"]] == [RUNGS[0]]
    assert record["when"]


def test_what_cannot_be_verified(
    bundle: Bundle, checkpoint: Path, tmp_path: Path, batches: list[NDArray[np.float32]]
) -> None:
    with pytest.raises(ImageError, match="at least one batch"):
        verify(bundle, str(checkpoint), [], record=False)
    with pytest.raises(CheckpointError, match="does not exist"):
        verify(bundle, str(tmp_path / "nothing.pth"), batches, record=False)
    other = tmp_path / "other.pth"
    torch.save(random_detr(seed=7).state_dict(), other)
    with pytest.raises(BundleError, match=r"was made from tiny\.pth .*, not from .*other\.pth"):
        verify(bundle, str(other), batches, record=False)


def test_torch_answers_like_a_session(checkpoint: Path, model: AnyDepthDETR) -> None:
    session = TorchSession.open(checkpoint)
    images = random_images(2, 160, 160)
    with torch.inference_mode():
        expected = model.detect(torch.from_numpy(images), "level:1")
        raw = model(torch.from_numpy(images), "level:1")
    found = session.run(images, "level:1")
    assert np.array_equal(found.scores, expected["scores"].numpy())
    for name, array in session.run_raw(images, "level:1").items():
        assert np.array_equal(array, raw[name].numpy())

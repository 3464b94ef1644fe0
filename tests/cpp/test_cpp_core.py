"""The core of the C++ library against the Python package: depths, pictures, suppression, chains.

Everything is compared to the last bit and, of errors, word for word, on the sanitized build.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import PATIENT, CppError, Probe, open_probe
from cpp_oracle import compare_plans, outcome, piece_for_probe, plans
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anydepth_deploy.depth import DepthSpace, DepthTable, Gate
from anydepth_deploy.detections import Detections
from anydepth_deploy.errors import DepthError, shorten
from anydepth_deploy.families.detr.config import CONFIGS
from anydepth_deploy.families.yolo.config import CONFIGS as YOLO_CONFIGS
from anydepth_deploy.manifest import Condition, StagePiece
from anydepth_deploy.pictures.images import Geometry, Preprocess, prepare_batch
from anydepth_deploy.runtimes.chain import check_piece
from anydepth_deploy.suppression import Suppression, suppress

pytestmark = PATIENT

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


# Examples share the probe, which keeps nothing between calls.
small = examples(60)


# --- depths ----------------------------------------------------------------------------------

SPACES = {
    "r50": (CONFIGS["r50"].depth_space, CONFIGS["r50"].ladder),
    "yolo": (YOLO_CONFIGS["s"].depth_space, YOLO_CONFIGS["s"].ladder),
    "counts": (
        DepthSpace((Gate("a", 0, 12), Gate("b", 1), Gate("c", 1), Gate("d", 2, 3)), (5, 1, 1, 1)),
        ("5-TT-1", "12-FT-3", "12-FF-3"),
    ),
    "layers": (DepthSpace((Gate("decoder", 0, 12),), (5,)), ("L5", "L12")),
    "no gates": (DepthSpace((), ()), ("full",)),
    "one layer": (DepthSpace((Gate("decoder", 0, 1),), (1,)), ("L1",)),
    "one rung": (DepthSpace((Gate("decoder", 0, 3),), (3,)), ("L3",)),
    "two counts": (DepthSpace((Gate("a", 0, 2), Gate("b", 1, 3)), (1, 1)), ("L1-L1", "L2-L3")),
}


def describe(space: DepthSpace, ladder: Any) -> dict[str, Any]:
    gates = [[gate.name, gate.group, gate.layers] for gate in space.gates]
    return {"gates": gates, "base": list(space.base_settings), "ladder": [str(x) for x in ladder]}


def table_of(space: DepthSpace, ladder: Any) -> DepthTable:
    return DepthTable(space, tuple(space.parse(str(text)) for text in ladder))


def row_or_message(table: DepthTable, name: str | int) -> int | str:
    try:
        return table.row(name)
    except DepthError as error:
        return str(error)


@pytest.mark.parametrize("name", SPACES)
def test_tables_and_every_depth(probe: Probe, name: str) -> None:
    space, ladder = SPACES[name]
    table = table_of(space, ladder)
    texts = [str(depth) for depth in table.rows]
    names: list[str | int] = [*texts, *map(str.lower, texts), *range(-3, len(texts) + 3)]
    names += [f"  level:{level}\n" for level in range(-2, table.levels + 2)]
    names += ["super", " Base ", "LEVEL:0", "level:", "level:--1", "level:1234567890", "level:0x1"]
    names += ["", "-", "--", "F", "FFTT-F-0", "FFTT-F-7", "FFTT-F-06", "FFTT-F-1000", "FFTT_F_6"]
    names += ["13-FF-3", "0-FF-3", "12-FF-٣", "FFFFFFFG", "FFFFFFF", "'\"\\", "\u3000base\u2003"]
    names += ["0", " 1 ", "-1", "03", "\u20032", "-", "--1", "1234567890", "L3", "l6", "L1-l2", "L"]
    names += ["full", " FULL\n", "full-", "fully", "L1", "level:1"]
    names += [2**62, -(2**62)]
    found = probe.call("table", **describe(space, ladder), names=names)
    assert found["rows"] == texts
    assert found["settings"] == [list(depth.settings) for depth in table.rows]
    assert found["levels"] == table.levels
    assert (found["super"], found["base"]) == (str(space.super), str(space.base))
    assert found["found"] == [row_or_message(table, name) for name in names]


LIKELY = st.text(alphabet="FTftL0123456789-:levlsuprba \t\n\x1f\u2003'\"", max_size=14)


# A message of C++ ends at a NUL.
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@small
@given(st.lists(st.one_of(LIKELY, ANY), min_size=20, max_size=60))
def test_any_text_as_a_depth(probe: Probe, texts: list[str]) -> None:
    for space, ladder in SPACES.values():
        table = table_of(space, ladder)
        found = probe.call("table", **describe(space, ladder), names=texts)["found"]
        assert found == [row_or_message(table, text) for text in texts]


gates = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([0, 0, 1, 2, 3])),
    max_size=4,
)


@small
@given(gates, st.lists(st.integers(-1, 3), max_size=4), st.data())
def test_any_gates_and_ladder(
    probe: Probe, gates: list[tuple[str, int, int]], base: list[int], data: st.DataObject
) -> None:
    space = DepthSpace(tuple(Gate(*gate) for gate in gates), tuple(base))
    rungs = ["base", "super", "full", *(str(depth) for depth in space.every[:6]), "FF", "F-2", "L2"]
    ladder = data.draw(st.lists(st.sampled_from(rungs), max_size=4), "ladder")
    ladder = data.draw(st.sampled_from([ladder, ["base", *ladder, "super"]]), "whole")
    expected = outcome(lambda: [str(depth) for depth in table_of(space, ladder).rows])
    assert outcome(lambda: probe.call("table", **describe(space, ladder))["rows"]) == expected


def test_gates_of_too_many_depths_are_refused(probe: Probe) -> None:
    many = [[f"gate{index}", 0, 0] for index in range(200)]
    with pytest.raises(CppError, match=r"DepthError: these 200 gates make more than 1000000"):
        probe.call("table", gates=many, base=[1] * 200, ladder=["T" * 200, "F" * 200])


# --- texts and digests -----------------------------------------------------------------------


def test_what_cannot_be_printed_is_escaped(probe: Probe) -> None:
    kinds = {point: unicodedata.category(chr(point)) for point in range(0x110000)}
    assigned = [point for point, kind in kinds.items() if kind not in ("Cn", "Cs")]
    odd = [point for point in assigned if kinds[point][0] in "CZ" and kinds[point] != "Co"]
    others = np.random.default_rng(0).choice(assigned, 3000, replace=False).tolist()
    items = [f"a{chr(point)}'" for point in [*odd, *others]] + ["", "a\"b'\n", "it's", 'a"\t']
    found = probe.call("shorten", items=items, limit=len(items))
    assert found == shorten(items, len(items))
    assert probe.call("shorten", items=list("abcdefgh")) == shorten("abcdefgh")


def test_what_is_long_is_cut(probe: Probe) -> None:
    rng = np.random.default_rng(0)
    letters = [*"ab é三🙂\n\x1b\u202e\U000e0041", chr(0x10FFFD)]
    items = [
        "".join(rng.choice(letters, int(size)).tolist())
        for size in (*rng.integers(0, 400, 200), *range(290, 310), 5000, 100_000)
    ]
    found = probe.call("shorten", items=items, limit=len(items))
    assert found == shorten(items, len(items))
    assert max(map(len, found.split(", "))) <= 302


@pytest.mark.parametrize("size", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000, 3_000_001])
def test_digests(probe: Probe, tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "content"
    path.write_bytes(content)
    cuts = [size // 3, 0, min(64, size - size // 3)]
    expected = hashlib.sha256(content).hexdigest()
    assert probe.call("sha256", file=str(path), cuts=cuts) == [expected, expected]


# --- pictures --------------------------------------------------------------------------------

RECIPES: dict[str, dict[str, Any]] = {
    "stretch": {"resize": "stretch", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "letterbox": {"resize": "letterbox", "antialias": False},
    "stretch-sampled": {"resize": "stretch", "antialias": False, "scale": 1.0, "std": (1, 2, 1)},
    "letterbox-averaged": {"resize": "letterbox", "padding": 0, "mean": (0.1, 0.0, 0.0)},
}


def picture(height: int, width: int, rng: np.random.Generator) -> Image:
    """Noise, or black and white, whose sums round in other places."""
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    return noise if rng.integers(3) else np.where(noise > 127, np.uint8(255), np.uint8(0))


def compare(probe: Probe, images: list[Image], recipe: Preprocess, stride: int = 0) -> None:
    """`stride`: bytes to spare behind each row."""
    expected, geometries = prepare_batch(images, recipe)
    rows = [image.reshape(len(image), -1) for image in images]
    if stride:
        rows = [np.pad(row, ((0, 0), (0, stride)), constant_values=77) for row in rows]
    shapes = [
        [*image.shape[:2], row.shape[1] if stride else 0]
        for image, row in zip(images, rows, strict=True)
    ]
    pixels = probe.give(np.concatenate([row.ravel() for row in rows]))
    out = probe.path()
    dumped = recipe.model_dump(mode="json")
    found = probe.call("prepare", pixels=pixels, shapes=shapes, recipe=dumped, out=out)
    array = probe.take(out, np.float32, expected.shape)
    Path(pixels).unlink()
    for index, image in enumerate(images):
        assert array[index].tobytes() == expected[index].tobytes(), (image.shape, recipe)
    for item, geometry in zip(found["geometries"], geometries, strict=True):
        assert item["scale"] == list(geometry.scale)
        assert item["offset"] == list(geometry.offset)
        assert item["size"] == list(geometry.size)


@pytest.mark.parametrize("name", RECIPES)
def test_pictures_of_any_size_are_prepared_alike(probe: Probe, name: str) -> None:
    rng = np.random.default_rng(sorted(RECIPES).index(name))

    def side() -> int:
        return int(rng.integers(1, (2, 8, 60, 400)[rng.integers(4)]))

    for _ in range(40):
        recipe = Preprocess.model_validate({**RECIPES[name], "size": (side(), side())})
        sizes = [(side(), side()) for _ in range(4)]
        images = [picture(*size, rng) for size in sizes if math.prod(size) < 50_000]
        compare(probe, images or [picture(1, 1, rng)], recipe, int(rng.integers(0, 9)))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("height", "width"),
    [(64, 96), (64, 95), (63, 96), (1, 1), (1, 700), (700, 1), (640, 20), (20, 640), (65, 97)],
)
def test_pictures_of_odd_sizes(probe: Probe, name: str, height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    recipe = Preprocess.model_validate({**RECIPES[name], "size": (64, 96)})
    compare(probe, [picture(height, width, rng)], recipe)


@pytest.mark.parametrize("height", range(1, 30))
def test_passes_come_in_the_same_order(probe: Probe, height: int) -> None:
    """At the border between the two orders in which rows and columns can be averaged."""
    rng = np.random.default_rng(height)
    images = [picture(24 + change + 2 * height, 24 + height, rng) for change in (-1, 0, 1)]
    compare(probe, images, Preprocess(size=(24, 24)))


def test_halves_round_to_even_as_in_python(probe: Probe) -> None:
    rng = np.random.default_rng(3)
    for height in range(1, 40):  # heights of 32 * height / 64: every other one is a half
        compare(probe, [picture(height, 64, rng)], Preprocess.of("letterbox", (32, 32)))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "a batch of no pictures cannot be prepared: give at least one"),
        ([[0, 5, 0]], "a picture must be uint8 [H, W, 3] in RGB; found uint8 [0, 5, 3]"),
        (
            [[2, 2, 5]],
            "a picture must be uint8 [H, W, 3] in RGB; found uint8 [2, 2, 3] with rows of 5 bytes",
        ),
    ],
)
def test_pictures_that_are_none(probe: Probe, shapes: list[list[int]], message: str) -> None:
    recipe = Preprocess(size=(8, 8)).model_dump(mode="json")
    pixels = probe.give(np.zeros(20, np.uint8))
    with pytest.raises(CppError) as caught:
        probe.call("prepare", pixels=pixels, shapes=shapes, recipe=recipe, out=probe.path())
    assert (caught.value.kind, caught.value.message) == ("ImageError", message)


def test_boxes_go_back_to_the_picture(probe: Probe) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = rng.normal(300, 300, (40, 4)).astype(np.float32)
        boxes[0] = -0.0, np.inf, -np.inf, np.nan
        boxes[1] = 1e38, 1e-45, -1e38, 640
        scale, offset = rng.uniform(0.01, 9, 2).tolist(), (rng.integers(0, 200, 2) / 1.0).tolist()
        size = rng.integers(1, 4000, 2).tolist()
        with np.errstate(all="ignore"):
            way = Geometry((scale[0], scale[1]), (offset[0], offset[1]), (size[0], size[1]))
            expected = way.to_picture(boxes)
        out = probe.path()
        given = {"boxes": probe.give(boxes), "out": out, "size": size}
        probe.call("to_picture", **given, scale=scale, offset=offset)
        found = probe.take(out, np.float32, boxes.shape)
        np.testing.assert_array_equal(found, expected)
        assert (np.signbit(found) == np.signbit(expected))[~np.isnan(expected)].all()


# --- suppression -----------------------------------------------------------------------------


def suppressed(
    probe: Probe, predictions: NDArray[np.float32], rule: Suppression, limit: int
) -> tuple[Detections, list[int]]:
    out = probe.path()
    found = probe.call(
        "suppress",
        predictions=probe.give(predictions),
        shape=predictions.shape,
        score=rule.score_threshold,
        iou=rule.iou_threshold,
        max_detections=limit,
        out=out,
        threshold=0.3,
    )
    shape = (found["batch"], found["places"])
    detections = Detections(
        probe.take(f"{out}.labels", np.int64, shape),
        probe.take(f"{out}.boxes", np.float32, (*shape, 4)),
        probe.take(f"{out}.scores", np.float32, shape),
    )
    return detections, found["images"]


@pytest.mark.parametrize("seed", range(60))
def test_suppression(probe: Probe, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, classes, anchors = (
        int(rng.integers(low, high)) for low, high in ((1, 4), (1, 5), (1, 90))
    )
    predictions = rng.random((batch, 4 + classes, anchors), np.float32)
    predictions[:, :4] = (predictions[:, :4] * (20, 40, 4)[seed % 3]).round(seed % 2)
    if seed % 4:  # ties of scores, and boxes that are the same
        predictions[:, 4:] = predictions[:, 4:].round(1)
    if seed % 5 == 0:
        odd = rng.choice(np.array([np.nan, np.inf, -1, 0, 1e30], np.float32), predictions.shape)
        predictions = np.where(rng.random(predictions.shape) < 0.1, odd, predictions)
    rule = Suppression(
        where="host",
        score_threshold=float(rng.choice([0, 0.001, 0.3, 0.9])),
        iou_threshold=float(rng.choice([0.1, 0.45, 0.7, 1])),
    )
    limit = int(rng.choice([1, 5, 30, 1000]))
    found, counts = suppressed(probe, predictions, rule, limit)
    with np.errstate(all="ignore"):
        expected = suppress(predictions, rule, limit)
    assert found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert counts == [
        len(item.labels[0]) for item in (expected.image(k, 0.3) for k in range(batch))
    ]


@pytest.mark.parametrize("shape", [(1, 3, 5), (1, 4), (1, 4, 5, 1)])
def test_predictions_of_another_shape(probe: Probe, shape: tuple[int, ...]) -> None:
    rule = Suppression()
    with pytest.raises(CppError, match=r"InputError: predictions must be float32 \[N, 4 \+ class"):
        suppressed(probe, np.zeros(shape, np.float32), rule, 5)


def test_an_image_that_the_batch_does_not_have(probe: Probe) -> None:
    with pytest.raises(CppError, match="InputError: there is no image 0 in a batch of 0"):
        probe.call("outside")


# --- chains ----------------------------------------------------------------------------------

TABLE = table_of(
    DepthSpace((Gate("a", 0), Gate("b", 0), Gate("c", 1, 2)), (1, 1, 1)), ("TT-1", "FF-2")
)


def piece(order: int, when: list[tuple[int, int, bool]], reads: str, writes: str) -> StagePiece:
    """`reads`, `writes`: `name=tensor`, separated by spaces."""
    return StagePiece(
        order=order,
        total=7,
        stage="stage",
        variant="variant",
        when=[Condition(gate=gate, layer=layer, runs=runs) for gate, layer, runs in when],
        reads=dict(word.split("=") for word in reads.split()),
        writes=dict(word.split("=") for word in writes.split()),
    )


PIECES = {
    "stem": piece(0, [], "images=images", "out=x side=side"),
    "one.full": piece(1, [(0, 0, True)], "in=x", "out=x"),
    "one.skipped": piece(1, [(0, 0, False)], "in=x", "out=x"),
    "two.full": piece(2, [(1, 0, True)], "in=x also=side", "out=x"),
    "layer1": piece(3, [], "in=x", "out=x scores=scores"),
    "layer2": piece(4, [(2, 2, True)], "in=x", "out=x scores=scores"),
    "head": piece(5, [], "z=x images=images", "boxes=boxes labels=labels"),
}
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one is missing": {"two.full": None},
    "another total": {"head": {"total": 6}, "stem": {"total": 8}},
    "two of an order": {"one.skipped": {"when": []}},
    "no condition holds": {"stem": {"when": [Condition(gate=0, runs=True)]}},
    "an output is unset": {"head": {"when": [Condition(gate=1, runs=False)]}},
    "nothing runs": {
        name: {"when": [Condition(gate=0, runs=True), Condition(gate=0, runs=False)]}
        for name in PIECES
    },
    "reads what nobody sets": {"head": {"reads": {"b": "q", "a": "p", "c": "x"}}},
    "sets twice": {"stem": {"writes": {"out": "x", "side": "x"}}},
    "written but not read": {"two.full": {"writes": {"b": "zz", "a": "aa", "out": "x"}}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_plans_of_chains(probe: Probe, change: str) -> None:
    pieces = {
        name: spec.model_copy(update=CHANGES[change].get(name, {}))
        for name, spec in PIECES.items()
        if CHANGES[change].get(name, {}) is not None
    }
    if change == "as it is":
        broken = [
            plan for plan in plans(pieces, TABLE.rows, None)["plans"] if isinstance(plan, str)
        ]
        assert not broken
    compare_plans(probe, pieces, TABLE.rows)
    compare_plans(probe, dict(reversed(pieces.items())), TABLE.rows)


@pytest.mark.parametrize("outputs", [[], ["x"], ["scores", "side"], ["what", "boxes", "nothing"]])
def test_plans_for_other_outputs(probe: Probe, outputs: list[str]) -> None:
    compare_plans(probe, PIECES, TABLE.rows, outputs)


def test_no_pieces_are_no_chain(probe: Probe) -> None:
    compare_plans(probe, {}, [])


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["in"], ["out"]),
        (["in", "mask", "also"], ["out"]),
        (["other"], ["out"]),
        ([], []),
        (["in"], ["more"]),
    ],
)
def test_pieces_that_are_not_as_described(
    probe: Probe, inputs: list[str], outputs: list[str]
) -> None:
    spec = PIECES["one.full"]
    expected = outcome(lambda: check_piece("one.full", spec, inputs, outputs))
    given = {
        "name": "one.full",
        "piece": piece_for_probe(spec),
        "inputs": inputs,
        "outputs": outputs,
    }
    assert outcome(lambda: probe.call("check_piece", **given)) == expected

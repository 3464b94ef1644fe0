"""Chains of pieces: which run, what flows between them, what is kept and for how long."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from handmade import manifest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, InputError
from anydepth_deploy.manifest import Condition, StagePiece
from anydepth_deploy.runtimes.chain import Chain, HostStages, Link
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.registry import open_stages

TABLE = manifest().table()
DEPTHS = TABLE.rows
"""Two skip gates and a count of one or two layers."""

TOTAL = 7
SIDE = 4


def at(text: str) -> Depth:
    return DEPTHS[TABLE.row(text)]


def piece(order: int, name: str, when: list[tuple[int, int, bool]], **io: Any) -> StagePiece:
    """`when`: gate, layer, whether it runs."""
    stage, _, variant = name.partition(".")
    return StagePiece(
        order=order,
        total=io.pop("total", TOTAL),
        stage=stage,
        variant=variant or "full",
        when=[Condition(gate=gate, layer=layer, runs=runs) for gate, layer, runs in when],
        reads=io["reads"],
        writes=io["writes"],
    )


PIECES: dict[str, StagePiece] = {
    "stem": piece(0, "stem", [], reads={"images": "images"}, writes={"out": "x", "side": "side"}),
    "one.full": piece(1, "one.full", [(0, 0, True)], reads={"in": "x"}, writes={"out": "x"}),
    "one.skipped": piece(1, "one.skipped", [(0, 0, False)], reads={"in": "x"}, writes={"out": "x"}),
    # Nothing runs where the second gate skips: the flow passes by.
    "two.full": piece(
        2, "two.full", [(1, 0, True)], reads={"in": "x", "also": "side"}, writes={"out": "x"}
    ),
    "layer1": piece(3, "layer1", [], reads={"in": "x"}, writes={"out": "x", "scores": "scores"}),
    "layer2": piece(
        4, "layer2", [(2, 2, True)], reads={"in": "x"}, writes={"out": "x", "scores": "scores"}
    ),
    "head": piece(5, "head", [], reads={"in": "x", "images": "images"}, writes={"boxes": "boxes"}),
}
"""`x` is set up to five times, `scores` once or twice; `images` is read at both ends."""

Function = Callable[..., dict[str, NDArray[np.generic]]]

COMPUTES: dict[str, Function] = {
    "stem": lambda images: {"out": images * 2, "side": images.mean((2, 3))},
    "one.full": lambda **given: {"out": given["in"] + 10},
    "one.skipped": lambda **given: {"out": given["in"] - 3},
    "two.full": lambda **given: {"out": given["in"] * given["also"][:, :, None, None]},
    "layer1": lambda **given: {"out": given["in"] + 1, "scores": given["in"].sum((2, 3))},
    "layer2": lambda **given: {"out": given["in"] * 0.5, "scores": given["in"].max((2, 3))},
    "head": lambda **given: {"boxes": given["in"] - given["images"]},
}


def by_hand(images: NDArray[np.float32], depth: Depth) -> dict[str, NDArray[np.generic]]:
    """What the chain computes, written down without pieces."""
    first, second, layers = depth.settings
    x = images * 2
    x = x + 10 if first == 0 else x - 3
    if second == 0:
        x = x * images.mean((2, 3))[:, :, None, None]
    scores, x = x.sum((2, 3)), x + 1
    if layers == 2:
        scores, x = x.max((2, 3)), x * 0.5
    return {"scores": scores, "boxes": x - images}


def pictures(batch: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((batch, 3, SIDE, SIDE), np.float32)


def _graphs() -> dict[str, onnx.ModelProto]:
    """The same computations as ONNX graphs."""
    node, made = helper.make_node, {}
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])

    def scalar(name: str, value: float) -> TensorProto:
        return helper.make_tensor(name, TensorProto.FLOAT, [], [value])

    bodies: dict[str, tuple[list[Any], list[Any]]] = {
        "stem": (
            [
                node("Mul", ["images", "two"], ["out"]),
                node("ReduceMean", ["images", "axes"], ["side"], keepdims=0),
            ],
            [scalar("two", 2), axes],
        ),
        "one.full": ([node("Add", ["in", "c"], ["out"])], [scalar("c", 10)]),
        "one.skipped": ([node("Sub", ["in", "c"], ["out"])], [scalar("c", 3)]),
        "two.full": (
            [
                node("Unsqueeze", ["also", "axes"], ["wide"]),
                node("Mul", ["in", "wide"], ["out"]),
            ],
            [axes],
        ),
        "layer1": (
            [
                node("Add", ["in", "c"], ["out"]),
                node("ReduceSum", ["in", "axes"], ["scores"], keepdims=0),
            ],
            [scalar("c", 1), axes],
        ),
        "layer2": (
            [
                node("Mul", ["in", "c"], ["out"]),
                node("ReduceMax", ["in", "axes"], ["scores"], keepdims=0),
            ],
            [scalar("c", 0.5), axes],
        ),
        "head": ([node("Sub", ["in", "images"], ["boxes"])], []),
    }
    flat = {"side", "also", "scores"}
    for name, (nodes, constants) in bodies.items():
        spec = PIECES[name]
        values = [
            [
                helper.make_tensor_value_info(
                    value,
                    TensorProto.FLOAT,
                    ["batch", 3] if value in flat else ["batch", 3, SIDE, SIDE],
                )
                for value in names
            ]
            for names in (spec.reads, spec.writes)
        ]
        graph = helper.make_graph(nodes, name, values[0], values[1], constants)
        made[name] = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
        )
    return made


GRAPHS = _graphs()


class Counted:
    """An engine in Python; ``asked`` lists what was wanted of it."""

    def __init__(self, name: str, asked: list[tuple[str, tuple[str, ...]]]) -> None:
        self._name, self._asked = name, asked
        self.inputs: Sequence[str] = list(PIECES[name].reads)
        self.outputs: Sequence[str] = list(PIECES[name].writes)

    def run(self, feeds: Any, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        self._asked.append((self._name, tuple(outputs)))
        found = COMPUTES[self._name](**feeds)
        return {name: found[name] for name in outputs}


class Chained:
    """Stages over engines in Python, with what was opened and run."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.stages = HostStages(
            [Link(name, spec, lambda name=name: self._open(name)) for name, spec in PIECES.items()]  # type: ignore[misc]
        )

    def _open(self, name: str) -> Counted:
        self.opened.append(name)
        return Counted(name, self.asked)


def assert_arrays(
    found: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.generic]]
) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(np.float64(found[name]), np.float64(array), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("depth", DEPTHS, ids=str)
def test_a_chain_computes_what_its_depth_says(depth: Depth, batch: int) -> None:
    images = pictures(batch, seed=batch)
    engine = Chained().stages.at(depth)
    assert list(engine.inputs) == ["images"]
    assert {"scores", "boxes"} <= set(engine.outputs)
    found = engine.run({"images": images}, ["scores", "boxes"])
    assert_arrays(found, by_hand(images, depth))


def test_onnx_runtime_chains_graphs(tmp_path: Path) -> None:
    pieces = []
    for name, model in GRAPHS.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, str(path))
        pieces.append((path, PIECES[name], EngineOptions(threads=1)))
    stages = open_stages("onnxruntime", pieces)
    for depth in DEPTHS:
        for batch in (3, 1):
            images = pictures(batch)
            found = stages.at(depth).run({"images": images}, ["boxes", "scores"])
            assert_arrays(found, by_hand(images, depth))


def test_only_what_the_outputs_need_runs() -> None:
    chained = Chained()
    engine = chained.stages.at(at("super"))
    engine.run({"images": pictures(1)}, ["side"])
    assert chained.asked == [("stem", ("side",))]
    chained.asked.clear()
    engine.run({"images": pictures(1)}, ["scores"])
    # The first layer's scores are replaced by the second's, so they are not asked for.
    assert chained.asked == [
        ("stem", ("out", "side")),
        ("one.full", ("out",)),
        ("two.full", ("out",)),
        ("layer1", ("out",)),
        ("layer2", ("scores",)),
    ]


def test_pieces_are_opened_when_a_depth_needs_them_and_once() -> None:
    chained = Chained()
    assert chained.opened == []
    base = chained.stages.at(at("base"))
    assert chained.opened == ["stem", "one.skipped", "layer1", "head"]
    assert chained.stages.at(at("base")) is base
    chained.stages.at(at("super"))
    assert sorted(chained.opened) == sorted(PIECES)


def test_a_piece_that_fails_to_open_is_tried_again() -> None:
    fail = [True]

    def open_stem() -> Counted:
        if fail.pop():
            raise BundleError("not now")
        return Counted("stem", [])

    links = [
        Link(name, spec, open_stem if name == "stem" else lambda name=name: Counted(name, []))  # type: ignore[misc]
        for name, spec in PIECES.items()
    ]
    stages = HostStages(links)
    with pytest.raises(BundleError, match="not now"):
        stages.at(DEPTHS[0])
    fail.append(False)
    images = pictures(1)
    found = stages.at(DEPTHS[0]).run({"images": images}, ["boxes"])
    assert_arrays(found, {"boxes": by_hand(images, DEPTHS[0])["boxes"]})


def test_arrays_are_released_when_nobody_reads_them_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[tuple[str, Any]] = []
    seen: dict[str, set[str]] = {}

    def watched(name: str, compute: Function) -> Function:
        def run(**given: Any) -> dict[str, NDArray[np.generic]]:
            seen[name] = {where for where, reference in alive if reference() is not None}
            found = {key: array.copy() for key, array in compute(**given).items()}
            alive.extend((f"{name}:{key}", weakref.ref(array)) for key, array in found.items())
            return found

        return run

    for name, compute in list(COMPUTES.items()):
        monkeypatch.setitem(COMPUTES, name, watched(name, compute))
    Chained().stages.at(at("super")).run({"images": pictures(1)}, ["scores", "boxes"])
    assert seen["one.full"] == {"stem:out", "stem:side"}
    assert seen["two.full"] == {"one.full:out", "stem:side"}
    assert seen["layer1"] == {"two.full:out"}
    assert seen["head"] == {"layer2:out", "layer2:scores"}


def test_two_threads_open_a_piece_once() -> None:
    opened: list[str] = []

    def slow(name: str) -> Counted:
        opened.append(name)
        time.sleep(0.02)
        return Counted(name, [])

    stages = HostStages(
        [Link(name, spec, lambda name=name: slow(name)) for name, spec in PIECES.items()]  # type: ignore[misc]
    )
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(stages.at(DEPTHS[0]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(engine) for engine in found}) == 1
    assert len(opened) == len(set(opened)) == 4


def _chain(**changes: StagePiece | None) -> Chain:
    specs: dict[str, StagePiece | None] = {**PIECES, **changes}
    kept = {name: spec for name, spec in specs.items() if spec is not None}
    return Chain(
        [(name, spec.model_copy(update={"total": len(kept)})) for name, spec in kept.items()]
    )


@pytest.mark.parametrize("count", [0, 1, 6])
def test_a_chain_that_lacks_pieces_is_refused(count: int) -> None:
    with pytest.raises(BundleError, match=rf"the chain has {count} pieces, expected"):
        Chain(list(PIECES.items())[:count])


def test_pieces_of_two_chains_are_refused() -> None:
    other = PIECES["head"].model_copy(update={"total": 9})
    with pytest.raises(BundleError, match="has 7 pieces, expected 7 or 9"):
        Chain(list({**PIECES, "head": other}.items()))


def test_a_tensor_that_is_left_unset_is_refused() -> None:
    """Only at the depths that leave it so."""
    chain = _chain(
        **{
            "one.skipped": None,
            "stem": piece(
                0, "stem", [], reads={"images": "images"}, writes={"out": "y", "side": "side"}
            ),
            "one.full": piece(
                1, "one.full", [(0, 0, True)], reads={"in": "y"}, writes={"out": "x"}
            ),
        }
    )
    assert chain.at(at("FF-2"))
    with pytest.raises(BundleError, match=r"two.full reads x, which no piece before it sets at"):
        chain.at(at("TF-2"))


def test_an_output_that_is_left_unset_is_refused() -> None:
    only = piece(5, "head", [(0, 0, True)], reads=PIECES["head"].reads, writes={"boxes": "boxes"})
    chain = _chain(head=only)
    assert chain.at(at("FF-2"))
    with pytest.raises(BundleError, match="no piece sets boxes at depth TF-2"):
        chain.at(at("TF-2"))


def test_two_pieces_of_an_order_are_refused() -> None:
    chain = _chain(**{"one.skipped": PIECES["one.skipped"].model_copy(update={"when": []})})
    assert chain.at(at("TF-2"))
    with pytest.raises(BundleError, match=r"one.full and one.skipped both run at depth FF-2"):
        chain.at(at("FF-2"))


def test_a_piece_that_sets_a_tensor_twice_is_refused() -> None:
    twice = piece(5, "head", [], reads={"in": "x"}, writes={"boxes": "boxes", "more": "boxes"})
    with pytest.raises(BundleError, match="head sets a tensor twice"):
        _chain(head=twice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["images", "depth"]}, "stem also takes depth"),
        ({"inputs": []}, "stem has no images"),
        ({"outputs": ["side"]}, "stem has no out"),
    ],
)
def test_a_piece_that_is_not_what_the_manifest_says_is_refused(
    change: dict[str, list[str]], message: str
) -> None:
    def open_piece(name: str) -> Counted:
        engine = Counted(name, [])
        for key, value in change.items() if name == "stem" else ():
            setattr(engine, key, value)
        return engine

    stages = HostStages(
        [Link(name, spec, lambda name=name: open_piece(name)) for name, spec in PIECES.items()]  # type: ignore[misc]
    )
    with pytest.raises(BundleError, match=message):
        stages.at(DEPTHS[0])


@pytest.mark.parametrize(
    ("feeds", "outputs", "message"),
    [
        ({"images": pictures(1)}, ["labels"], "no outputs labels; it has"),
        ({"images": pictures(1)}, [], "none were asked for"),
        ({"images": pictures(1), "depth": np.int64(0)}, ["boxes"], "takes the input images"),
        ({}, ["boxes"], "takes the input images"),
    ],
)
def test_wrong_calls_are_refused(feeds: Any, outputs: list[str], message: str) -> None:
    engine = Chained().stages.at(DEPTHS[0])
    with pytest.raises(InputError, match=message):
        engine.run(feeds, outputs)

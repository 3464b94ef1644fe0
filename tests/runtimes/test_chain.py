"""Chains of pieces: which run, what flows between them, what is kept and for how long."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_chain import (
    COMPUTES,
    DEPTHS,
    GRAPHS,
    PIECES,
    Function,
    assert_arrays,
    at,
    by_hand,
    pictures,
    piece,
)

from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import BundleError, InputError
from anydepth_deploy.manifest import StagePiece
from anydepth_deploy.runtimes.chain import Chain, HostStages, Link
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.registry import open_stages


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

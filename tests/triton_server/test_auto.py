"""Depth ``auto`` in a real Triton server: graphs that take time by their depth, budgets that are
tight and loose, and many clients at once."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
import triton_graphs
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from scaling_rules import queries
from triton_graphs import SIDE
from triton_serving import (
    PROTOCOLS,
    Caller,
    Refused,
    environment,
    infer,
    serve,
    text,
    until,
    write,
)

from anydepth_deploy.serve.check.repository import check_repository
from anydepth_deploy.serve.health import check_health
from anydepth_deploy.serve.protocol import parse, to_text
from triton_server import client
from triton_server.prometheus import total
from triton_server.server import LocalServer

WORK = (3, 12, 30, 25, 25, 25, 25, 25)
"""Matrices that each row multiplies: base takes a tenth of super."""
LOOSE, TIGHT = 60_000, 0.001
STATUS = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}


def without_auto(repository: Path, name: str) -> None:
    """Take out of the models of ``name`` all that was not there before there was ``auto``."""
    for end in ("", "_router", "_preprocess"):
        path = repository / f"{name}{end}" / "config.pbtxt"
        config = parse(path)
        for key in ("budget_ms", "measured"):
            config.parameters.pop(key, None)
        for field in (config.input, config.output):
            for place, item in reversed(list(enumerate(field))):
                if item.name == "arrived":
                    del field[place]
        for step in config.ensemble_scheduling.step:
            step.input_map.pop("arrived", None)
            step.output_map.pop("arrived", None)
        path.write_text(to_text(config), encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """``best`` has a budget of its own and is asked at auto where nothing is said; ``plain`` has
    none; ``old`` was written before."""
    environment()
    folder = tmp_path_factory.mktemp("auto")
    out = folder / "repository"
    bundle = triton_graphs.bundle(folder / "bundle", work=WORK)
    write(bundle, out, "best", default_depth="auto", budget_ms=LOOSE)
    write(bundle, out, "plain", layouts=("gated",))
    write(bundle, out, "old", layouts=("gated",))
    without_auto(out, "old")
    assert not check_repository(out)
    with serve(out, folder / "log") as server:
        yield server


def pixels(seed: int, count: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 3, SIDE, SIDE), np.float32)


def auto(budget: Any = None) -> dict[str, Any]:
    """Parameters of a request."""
    return {"depth": "auto"} if budget is None else {"depth": "auto", "budget_ms": budget}


def counted(server: LocalServer, name: str, what: str, **labels: str) -> float:
    return total(server.metrics(), f"anydepth_{what}", model=name, **labels)


def taught(server: LocalServer, name: str) -> None:
    """What depths take is guessed before the first calls: let each be called."""
    for row in (*range(len(handmade.LADDER)),) * 3:
        infer(server, "http", f"{name}_router", {"images": pixels(0)}, {"row": row})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["best", "plain", "old"])
def test_loose_budgets_get_super_and_tight_ones_base(
    server: LocalServer, name: str, protocol: str
) -> None:
    def missed() -> tuple[float, ...]:
        return tuple(
            counted(server, name, "auto_missed_total", when=when) for when in ("chosen", "answered")
        )

    taught(server, name)
    for budget, row in ((LOOSE, 2), (str(LOOSE), 2), (str(TIGHT), 0), (1, 0)):
        before = missed()
        images = pixels(row)
        found = infer(server, protocol, f"{name}_router", {"images": images}, auto(budget))
        assert found["depth_row"].tolist() == [row]
        label = int(found["labels"][0, 0])
        assert label == row + (0 if name == "best" else triton_graphs.GATED)
        for key, array in triton_graphs.answer(images, label).items():
            assert np.array_equal(found[key], array)
        expected = tuple(count + (row == 0) for count in before)
        assert until(lambda expected=expected: missed() == expected)  # type: ignore[misc]
    depth = handmade.LADDER[2]
    assert counted(server, name, "auto_total", depth=depth) >= 2
    predicted = [
        counted(server, name, "auto_predicted_seconds", depth=depth, images="1")
        for depth in handmade.LADDER
    ]
    assert 0 < predicted[0] < predicted[1] < predicted[2] < 5


def test_the_repository_says_what_requests_do_not(server: LocalServer) -> None:
    taught(server, "best")
    for parameters in (None, {"depth": "auto"}, {"depth": " Auto "}, {"something": "else"}):
        found = infer(server, "http", "best_router", {"images": pixels(1)}, parameters)
        assert found["depth_row"].tolist() == [2]
    found = infer(server, "grpc", "best_router", {"images": pixels(1)}, {"budget_ms": str(TIGHT)})
    assert found["depth_row"].tolist() == [0]
    inputs = {"images": pixels(1), "depth": text("auto")}
    assert infer(server, "grpc", "best_router", inputs)["depth_row"].tolist() == [2]
    found = infer(server, "http", "best_router", {"images": pixels(1)}, {"depth": "base"})
    assert found["depth_row"].tolist() == [0]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("plain", auto(), "depth 'auto' needs a budget: give the request parameter 'budget_ms'"),
    ("plain", auto("soon"), "parameter 'budget_ms' is 'soon' (str): expected a positive number"),
    ("plain", auto(0), "parameter 'budget_ms' is '0' (int)"),
    ("best", auto("-3"), "parameter 'budget_ms' is '-3' (str)"),
    ("best", auto("inf"), "parameter 'budget_ms' is 'inf' (str)"),
    ("best", auto(True), "parameter 'budget_ms' is 'True' (bool)"),
    ("best", auto("9" * 400), "parameter 'budget_ms' is '9999"),
    ("best", {"row": "auto"}, "parameter 'row' is 'auto': expected an integer"),
    ("best", {"depth": "auto", "row": 0}, "names different depths: parameter 'depth' is 'auto', "),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "parameters", "message"), REFUSED)
def test_what_is_no_budget_is_refused(
    server: LocalServer, name: str, parameters: dict[str, Any], message: str, protocol: str
) -> None:
    before = counted(server, name, "errors_total", reason="depth")
    with pytest.raises(Refused) as refused:
        infer(server, protocol, f"{name}_router", {"images": pixels(1)}, parameters)
    assert refused.value.status == STATUS[protocol]
    assert message in refused.value.line
    assert "\n" not in refused.value.line
    assert until(lambda: counted(server, name, "errors_total", reason="depth") == before + 1)


def test_several_images_share_a_depth(server: LocalServer) -> None:
    taught(server, "best")
    for count in (1, 3, 8):
        found = infer(server, "grpc", "best_router", {"images": pixels(2, count)}, auto())
        assert found["scores"].shape[0] == count
        assert found["depth_row"].tolist() == [2]
    labels = {"depth": handmade.LADDER[0], "images": "8"}
    assert until(lambda: counted(server, "best", "auto_predicted_seconds", **labels) > 0)


def test_what_preprocessing_takes_is_gone_from_the_budget(server: LocalServer) -> None:
    """Base alone would meet what is asked for, and does where the picture is prepared at once."""
    taught(server, "best")
    small = np.zeros((1, 8, 8, 3), np.uint8)
    large = np.zeros((1, 6000, 6000, 3), np.uint8)

    def missed() -> float:
        return counted(server, "best", "auto_missed_total", when="chosen")

    def answered() -> float:
        return counted(server, "best", "auto_total")

    def ask(picture: NDArray[np.uint8], budget: int) -> tuple[int, float, float]:
        done, before, began = answered(), missed(), time.perf_counter()
        found = infer(server, "grpc", "best", {"image": picture}, auto(budget))
        took = 1000 * (time.perf_counter() - began)
        assert until(lambda: answered() == done + 1)
        return int(found["depth_row"][0]), missed() - before, took

    assert ask(small, LOOSE)[:2] == (2, 0)
    assert ask(large, LOOSE)[:2] == (2, 0)
    assert ask(large, 40)[:2] == (0, 1)


def test_old_repositories_serve_pictures(server: LocalServer) -> None:
    taught(server, "old")
    picture = {"image": np.zeros((1, 8, 8, 3), np.uint8)}
    assert infer(server, "http", "old", picture)["depth_row"].tolist() == [2]
    assert infer(server, "http", "old", picture, auto(LOOSE))["depth_row"].tolist() == [2]
    with pytest.raises(Refused, match="needs a budget"):
        infer(server, "http", "old", picture, auto())


def test_a_server_at_auto_is_well(server: LocalServer) -> None:
    assert check_health(f"http://{server.http}", timeout=30) == ["best", "old", "plain"]


def test_what_autoscalers_ask_for_is_there(server: LocalServer) -> None:
    """Every series of the queries in deploy/kubernetes, by name and labels: a query for one that
    does not exist answers with nothing, and adds no pods."""
    taught(server, "plain")
    picture = {"image": np.zeros((1, 8, 8, 3), np.uint8)}
    infer(server, "http", "plain", picture, auto(LOOSE))
    series = r"(\w+)\{([^{}]*)\}"
    assert until(lambda: counted(server, "plain", "auto_predicted_seconds", images="1") > 0)
    metrics = list(text_string_to_metric_families(server.metrics()))
    samples = [sample for family in metrics for sample in family.samples]
    asked = [found for query in queries() for found in re.findall(series, query)]
    assert len(asked) > 10
    for name, selectors in asked:
        labels = re.findall(r'(\w+)(=~?)"([^"]*)"', selectors)
        assert any(
            sample.name in (name, f"{name}_total")  # as the parser calls Triton's own counters
            and all(
                re.fullmatch(value, sample.labels[label])
                if how == "=~"
                else sample.labels[label] == value
                for label, how, value in labels
            )
            for sample in samples
        ), (name, selectors)


def test_the_client_names_a_budget(server: LocalServer) -> None:
    taught(server, "plain")
    picture = np.zeros((8, 8, 3), np.uint8)
    for protocol in PROTOCOLS:
        url = getattr(server, protocol)
        with client.Detector(url, protocol=protocol, model="plain") as detector:
            assert detector.detect(picture, "auto", budget_ms=60_000.5).row == 2
            assert detector.detect(picture, "auto", budget_ms=TIGHT).row == 0
            with pytest.raises(client.CallError, match="needs a budget"):
                detector.detect(picture, "auto")


@pytest.mark.parametrize("name", ["plain", "best"])
def test_many_clients_shed_depth(server: LocalServer, name: str) -> None:
    """One alone gets super; eight shed depth for a budget that they would miss at super. Another
    one asks for base by name meanwhile. Levels make batches, which cost no more than one image
    here: so they need to shed nothing, and have to be in time all the same."""
    taught(server, name)
    clients, calls = 8, 25

    def ask(number: int, parameters: dict[str, Any]) -> list[tuple[int, float]]:
        found = []
        with Caller(server, PROTOCOLS[number % 2]) as call:
            for turn in range(calls):
                images = pixels(number * calls + turn)
                began = time.perf_counter()
                answer = call(f"{name}_router", {"images": images}, parameters)
                took = 1000 * (time.perf_counter() - began)
                row, label = int(answer["depth_row"][0]), int(answer["labels"][0, 0])
                assert label % triton_graphs.GATED == row
                for key, array in triton_graphs.answer(images, label).items():
                    assert np.array_equal(answer[key], array)
                found.append((row, took))
        return found

    alone = ask(0, {"depth": "super"})
    usual = float(np.median([took for _, took in alone]))
    before = counted(server, name, "auto_total")
    alone = ask(0, auto(str(8 * usual)))  # whatever else this machine does
    assert Counter(row for row, _ in alone)[2] > calls / 2
    budget = 3 * usual
    with ThreadPoolExecutor(clients + 1) as pool:
        fixed = pool.submit(ask, clients, {"depth": "base"})
        done = list(pool.map(lambda number: ask(number, auto(str(budget))), range(clients)))
    assert {row for row, _ in fixed.result()} == {0}
    rows = Counter(row for found in done for row, _ in found)
    late = sum(took > budget for found in done for _, took in found) / (clients * calls)
    if name == "plain":
        assert rows[2] < clients * calls / 2, rows
    assert late < 0.5, (rows, late)
    assert until(lambda: counted(server, name, "auto_total") == before + calls * (clients + 1))

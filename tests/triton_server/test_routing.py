"""Routing, refusals, batching and loading in a real Triton server, with graphs that say in their
answers who computed them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
import triton_graphs
from numpy.typing import NDArray
from triton_graphs import GATED, SIDE
from triton_serving import (
    PROTOCOLS,
    Arrays,
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
from triton_server.prometheus import total
from triton_server.server import LocalServer

DEPTHS = (*handmade.LADDER, *handmade.REST)
STATUS = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}
LOADED = {
    "both": (0, 1, 2),
    "set": (0, 1, 2),
    "gated": (),
    "engines": (0, 1, 2),
    "smaller": (0, 1, 2),
}
"""The bundles and their levels."""

MAX_BATCH = 4


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles with a gated graph, static graphs or both, and engines (which are graphs), all for
    GPUs, as production has them."""
    environment()
    folder = tmp_path_factory.mktemp("routing")
    out = folder / "repository"
    options = {"max_batch": MAX_BATCH, "queue_delay_us": 2000, "device": "gpu", "threads": None}
    write(triton_graphs.bundle(folder / "both"), out, "both", **options)
    for layout in ("set", "gated"):
        write(triton_graphs.bundle(folder / layout, [layout]), out, layout, **options)
    write(triton_graphs.engines(folder / "engines"), out, "engines", runtime="tensorrt")
    write(triton_graphs.bundle(folder / "smaller"), out, "smaller", **options)
    router = out / "smaller_router" / "config.pbtxt"
    edited = re.sub(
        '(key: "max_batch"\n *value {\n *string_value: )"4"', r'\1"3"', router.read_text()
    )
    router.write_text(edited)
    assert not check_repository(out)
    for level in LOADED["engines"]:  # engines run on no CPU, what stands in for TensorRT does
        model = out / f"engines_level_{level}"
        config = (model / "config.pbtxt").read_text("utf-8")
        (model / "configs").mkdir()
        (model / "configs" / "cpu.pbtxt").write_text(config.replace("KIND_GPU", "KIND_CPU"))
    return out


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("server")
    models = [f"{name}_level_{level}" for name, levels in LOADED.items() for level in levels]
    models += [f"{name}_router" for name in LOADED] + [
        *("both_gated", "gated_gated", "smaller_gated", "both")
    ]
    options = ["--model-config-name=cpu", *(f"--load-model={model}" for model in models)]
    # A router that passes traces on brings Triton 24.10 down.
    settings = ("level=TIMESTAMPS", "rate=20", "mode=triton", f"triton,file={folder / 'trace'}")
    options += [f"--trace-config={setting}" for setting in settings]
    with serve(repository, folder / "log", explicit=True, options=options) as server:
        yield server


def pixels(count: int, seed: int) -> NDArray[np.float32]:
    """Images whose largest values differ."""
    return np.random.default_rng(seed).random((count, 3, SIDE, SIDE), np.float32)


def assert_from(found: Arrays, images: NDArray[np.float32], row: int, label: int) -> None:
    """The answer of the graph with this label, for these images."""
    for name, array in triton_graphs.answer(images, label).items():
        assert np.array_equal(found[name], array), name
    assert found["depth_row"].tolist() == [row]
    assert found["depth_row"].dtype == np.int32


IMAGES = pixels(2, 0)


# --- which model runs ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("row", range(len(DEPTHS)))
def test_rungs_run_in_their_own_model_and_the_rest_in_the_gated_one(
    server: LocalServer, row: int, protocol: str
) -> None:
    inputs = {"images": IMAGES, "depth": text(DEPTHS[row])}
    own = row if row < len(handmade.LADDER) else row + GATED
    assert_from(infer(server, protocol, "both_router", inputs), IMAGES, row, own)
    assert_from(infer(server, protocol, "gated_router", inputs), IMAGES, row, row + GATED)


def asks(
    depth: str | None = None, row: int | None = None, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The inputs and parameters of a request."""
    inputs: dict[str, NDArray[Any]] = {}
    if depth is not None:
        inputs["depth"] = text(depth)
    if row is not None:
        inputs["row"] = np.array([row], np.int32)
    return {"inputs": inputs, "parameters": parameters}


ASKED = [
    (asks("base"), 0),
    (asks("SUPER"), 2),
    (asks("level:1"), 1),
    (asks("FF-1"), 1),
    (asks("ft-2"), 3),
    (asks("4"), 4),
    (asks(row=5), 5),
    (asks(parameters={"depth": "base"}), 0),
    (asks(parameters={"depth": 1}), 1),
    (asks(parameters={"row": 6}), 6),
    (asks(parameters={"row": "7"}), 7),
    (asks("base", 0, {"depth": "level:0", "row": 0}), 0),
    (asks(parameters={"something": "else"}), 2),
    (asks(), 2),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("request_", "row"), ASKED)
def test_depth_is_said_in_inputs_or_parameters(
    server: LocalServer, request_: dict[str, Any], row: int, protocol: str
) -> None:
    inputs = {"images": IMAGES, **request_["inputs"]}
    found = infer(server, protocol, "gated_router", inputs, request_["parameters"])
    assert_from(found, IMAGES, row, row + GATED)


def test_only_outputs_that_are_asked_for_come_back(server: LocalServer) -> None:
    for protocol in PROTOCOLS:
        found = infer(server, protocol, "both_router", {"images": IMAGES}, outputs=("scores",))
        assert list(found) == ["scores"]


def test_no_model_takes_more_images_than_a_request_may_bring(server: LocalServer) -> None:
    images = pixels(MAX_BATCH + 1, 1)
    for name, row in (("both", 0), ("both", 7), ("set", 0), ("gated", 0)):
        found = infer(server, "http", f"{name}_router", {"images": images[1:]}, {"depth": row})
        assert len(found["scores"]) == MAX_BATCH
        with pytest.raises(Refused, match="5 images in one request are more than the 4"):
            infer(server, "http", f"{name}_router", {"images": images}, {"depth": row})


def test_batches_that_a_level_does_not_take_go_to_the_gated_graph(server: LocalServer) -> None:
    """As where levels are engines for smaller batches."""
    images = pixels(MAX_BATCH, 1)
    found = infer(server, "http", "smaller_router", {"images": images}, {"depth": "base"})
    assert_from(found, images, 0, GATED)
    found = infer(server, "http", "smaller_router", {"images": images[:3]}, {"depth": "base"})
    assert_from(found, images[:3], 0, 0)


def test_engines_are_served_by_their_levels(server: LocalServer) -> None:
    for row, depth in enumerate(handmade.LADDER):
        inputs = {"images": IMAGES, "depth": text(depth)}
        assert_from(infer(server, "grpc", "engines_router", inputs), IMAGES, row, row)
    with pytest.raises(Refused, match="depth 'FT-2' is not served here, only TT-1, FF-1, FF-2"):
        infer(server, "grpc", "engines_router", {"images": IMAGES, "depth": text("FT-2")})


# --- refusals --------------------------------------------------------------------------------

REFUSED = [
    ("both", asks("bose"), IMAGES, "depth", "unknown depth 'bose': this model's depths are"),
    ("both", asks("level:3"), IMAGES, "depth", "the ladder has levels 0 to 2"),
    ("both", asks("-1"), IMAGES, "depth", "unknown depth row -1: rows go from 0 to 7"),
    ("both", asks(row=8), IMAGES, "depth", "unknown depth row 8: rows go from 0 to 7"),
    ("both", asks(""), IMAGES, "depth", "unknown depth ''"),
    ("both", asks("x" * 5000), IMAGES, "limit", "5000 characters are more than the 4096"),
    (
        "both",
        asks(row=0, parameters={"depth": "super"}),
        IMAGES,
        "depth",
        "input 'row' is '0' (TT-1, row 0)",
    ),
    ("both", asks("base", 1), IMAGES, "depth", "the request names different depths"),
    ("both", asks(parameters={"depth": True}), IMAGES, "depth", "parameter 'depth' is True (bool)"),
    ("both", asks(parameters={"row": "base"}), IMAGES, "depth", "'base': expected an integer"),
    ("set", asks("TT-2"), IMAGES, "depth", "depth 'TT-2' is not served here, only TT-1, FF-1, FF"),
    ("both", asks(), IMAGES[..., 1:], "input", "found [2, 3, 64, 63]"),
    ("both", asks(), IMAGES[:0], "input", "with N >= 1; found [0, 3, 64, 64]"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "request_", "images", "reason", "message"), REFUSED)
def test_what_is_wrong_is_refused_in_one_line_and_counted(
    server: LocalServer,
    name: str,
    request_: dict[str, Any],
    images: NDArray[np.float32],
    reason: str,
    message: str,
    protocol: str,
) -> None:
    def counted() -> float:
        return total(server.metrics(), "anydepth_errors_total", model=name, reason=reason)

    before = counted()
    inputs = {"images": np.ascontiguousarray(images), **request_["inputs"]}
    with pytest.raises(Refused) as refused:
        infer(server, protocol, f"{name}_router", inputs, request_["parameters"])
    assert refused.value.status == STATUS[protocol]
    assert message in refused.value.line
    assert "\n" not in refused.value.line
    assert len(refused.value.line) < 400
    assert until(lambda: counted() == before + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_contradicts_the_configuration_never_reaches_the_router(
    server: LocalServer, protocol: str
) -> None:
    before = total(server.metrics(), "anydepth_errors_total", model="both")
    for images, message in (
        (IMAGES.astype(np.float64), "data-type is 'FP64', but model 'both_router' expects 'FP32'"),
        (IMAGES[:, :2].copy(), "unexpected shape for input 'images'"),
        (IMAGES[0].copy(), "unexpected shape for input 'images'"),
    ):
        with pytest.raises(Refused) as refused:
            infer(server, protocol, "both_router", {"images": images})
        assert refused.value.status == STATUS[protocol]
        assert message in refused.value.line
    for picture in (np.zeros((1, 8, 8, 4), np.uint8), np.zeros((1, 8, 8, 3), np.float32)):
        with pytest.raises(Refused) as refused:
            infer(server, protocol, "both", {"image": picture})
        assert refused.value.status == STATUS[protocol]
    assert total(server.metrics(), "anydepth_errors_total", model="both") == before


def test_no_pictures_are_refused_by_the_ensemble(server: LocalServer) -> None:
    with pytest.raises(Refused, match="a batch of no pictures cannot be prepared") as refused:
        infer(server, "http", "both", {"image": np.zeros((0, 8, 8, 3), np.uint8)})
    assert refused.value.status == "400"


# --- many at once ----------------------------------------------------------------------------


def test_no_answer_is_mixed_up_among_many_clients(server: LocalServer) -> None:
    """2,000 requests of eight clients at mixed depths, a few of which do not exist."""
    clients, calls = 8, 100

    def client(number: int) -> tuple[int, int]:
        draw = random.Random(number)
        answered = refused = 0
        with Caller(server, PROTOCOLS[number % 2]) as call:
            for turn in range(calls):
                images = pixels(1, number * calls + turn)
                row = draw.randrange(len(DEPTHS))
                own = row if row < len(handmade.LADDER) else row + GATED
                if draw.random() < 0.05:
                    with pytest.raises(Refused):
                        call("both_router", {"images": images, "depth": text("TT-9")})
                    refused += 1
                    continue
                if draw.random() < 0.5:
                    found = call("both_router", {"images": images, "depth": text(DEPTHS[row])})
                else:
                    found = call("both_router", {"images": images}, {"row": row})
                assert_from(found, images, row, own)
                answered += 1
        return answered, refused

    def counted() -> tuple[float, float]:
        metrics = server.metrics()
        return (
            total(metrics, "anydepth_requests_total", model="both"),
            total(metrics, "anydepth_errors_total", model="both", reason="depth"),
        )

    before = counted()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(client, range(clients)))
    answered, refused = (sum(column) for column in zip(*done, strict=True))
    assert answered + refused == clients * calls
    assert refused > 20
    assert until(lambda: counted() == (before[0] + answered, before[1] + refused))


def test_requests_at_one_depth_are_batched(server: LocalServer) -> None:
    """Through the router, which must not wait for one answer before it passes on the next."""
    clients, calls = 8, 10

    def statistics() -> tuple[int, int]:
        with Caller(server, "http") as call:
            (row,) = call.client.get_inference_statistics("set_level_1")["model_stats"]
        return int(row["inference_count"]), int(row["execution_count"])

    def client(number: int) -> None:
        with Caller(server, "grpc") as call:
            for turn in range(calls):
                images = pixels(1, number * calls + turn)
                found = call("set_router", {"images": images, "depth": text("level:1")})
                assert_from(found, images, 1, 1)

    before = statistics()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    images, executions = (now - then for now, then in zip(statistics(), before, strict=True))
    assert images == clients * calls
    assert executions <= images / 1.5, "requests were executed one by one"


# --- loading ---------------------------------------------------------------------------------


def test_models_are_unloaded_and_loaded_while_others_serve(server: LocalServer) -> None:
    with Caller(server, "http") as call:
        call.client.unload_model("set_level_2")
        assert until(lambda: not call.client.is_model_ready("set_level_2"))
        with pytest.raises(Refused, match="set_level_2"):
            call("set_router", {"images": IMAGES}, {"depth": "super"})
        assert_from(call("set_router", {"images": IMAGES}, {"depth": "base"}), IMAGES, 0, 0)
        failed = {"model": "set", "reason": "model"}
        assert until(lambda: total(server.metrics(), "anydepth_errors_total", **failed) == 1)
        call.client.load_model("set_level_2")
        assert_from(call("set_router", {"images": IMAGES}, {"depth": "super"}), IMAGES, 2, 2)


def test_metrics_of_other_routers_stay_when_one_is_unloaded(server: LocalServer) -> None:
    with Caller(server, "http") as call:
        call("engines_router", {"images": IMAGES}, {"depth": "base"})
        call.client.unload_model("engines_router")
        assert until(lambda: not call.client.is_model_ready("engines_router"))
        found = infer(server, "http", "both_router", {"images": IMAGES}, {"depth": "base"})
        assert_from(found, IMAGES, 0, 0)
        labels = {"model": "both", "depth": "TT-1"}
        assert until(lambda: total(server.metrics(), "anydepth_requests_total", **labels) > 0)
        call.client.load_model("engines_router")
        call("engines_router", {"images": IMAGES}, {"depth": "base"})


def test_a_router_that_cannot_start_says_why(
    server: LocalServer, repository: Path, tmp_path: Path
) -> None:
    write(triton_graphs.bundle(tmp_path / "broken", ["gated"]), repository, "broken")
    (repository / "broken_router" / "1" / "manifest.json").write_text("{", encoding="utf-8")
    assert any("broken_router" in str(problem) for problem in check_repository(repository))
    with Caller(server, "http") as call:
        call.client.load_model("broken_gated")
        tritonclient = pytest.importorskip("tritonclient.utils")
        with pytest.raises(tritonclient.InferenceServerException, match=r"write the repository ag"):
            call.client.load_model("broken_router")
        assert call("both_router", {"images": IMAGES})

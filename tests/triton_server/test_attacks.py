"""Requests that ask a real server for more than it has: refused, counted, and survived within the
memory that docs/triton.md states."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import triton_graphs
from numpy.typing import NDArray
from process_memory import Peak
from triton_graphs import SIDE
from triton_serving import PROTOCOLS, Refused, environment, infer, serve, text, until, write

from anydepth_deploy.serve.limits import MAX_PIXELS as MAX_PIXELS_DEFAULT
from anydepth_deploy.serve.limits import request_memory
from triton_server.prometheus import total
from triton_server.server import LocalServer

MAX_BATCH, MAX_QUEUE, MAX_PIXELS = 8, 16, 250_000
MB = 1 << 20
ANCHORS = 2000
SLACK = 64 * MB
"""What Python and the C library keep for the next time, in eight processes."""

BUDGET = request_memory((SIDE, SIDE), MAX_BATCH, MAX_QUEUE, pixels=MAX_PIXELS, workers=1) + SLACK
"""Far below what the first of the attacks takes where nothing is bounded: 3.4 GB."""

STATUS = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Serves a gated graph as ``telling``, and with all pixels of the default as ``wide``, and one
    whose predictions the router suppresses as ``host``."""
    environment()
    folder = tmp_path_factory.mktemp("attacks")
    options = {"max_batch": MAX_BATCH, "max_queue": MAX_QUEUE, "max_pixels": MAX_PIXELS}
    bundle = triton_graphs.bundle(folder / "telling", ["gated"])
    write(bundle, folder / "repository", "telling", **options)
    write(bundle, folder / "repository", "wide", max_batch=MAX_BATCH)
    raw = triton_graphs.raw_bundle(folder / "host", ANCHORS)
    write(raw, folder / "repository", "host", **options)
    auto = ["--disable-auto-complete-config"]
    with serve(folder / "repository", folder / "log", options=auto) as server:
        for _ in range(3):
            answers(server)
        yield server


def pictures(*shape: int) -> NDArray[np.uint8]:
    return np.zeros((*shape, 3), np.uint8)


def images(count: int) -> NDArray[np.float32]:
    return np.zeros((count, 3, SIDE, SIDE), np.float32)


def answers(server: LocalServer) -> None:
    found = infer(server, "http", "telling", {"image": pictures(1, 9, 7)}, {"depth": "base"})
    assert found["depth_row"].tolist() == [0]
    found = infer(server, "http", "host", {"image": pictures(1, 9, 7)})
    assert found["scores"].max() == 1


def counted(server: LocalServer, reason: str = "limit", model: str = "telling") -> float:
    return total(server.metrics(), "anydepth_errors_total", model=model, reason=reason)


LONG = "x" * 2_000_000
ATTACKS: list[tuple[str, str, dict[str, NDArray[Any]], dict[str, Any] | None, str]] = [
    (
        "36 kB that become 600 MB",
        "telling",
        {"image": pictures(12000, 1, 1)},
        None,
        "12000 pictures in one request are more than the 8 that are taken here",
    ),
    (
        "ten million pictures without a byte",
        "telling",
        {"image": pictures(10_000_000, 0, 1)},
        None,
        "10000000 pictures in one request are more than the 8",
    ),
    (
        "one more than is taken",
        "telling",
        {"image": pictures(MAX_BATCH + 1, 1, 1)},
        None,
        "9 pictures in one request are more than the 8",
    ),
    (
        "a tall picture",
        "telling",
        {"image": pictures(1, MAX_PIXELS + 1, 1)},
        None,
        "1 x 250001 x 1 = 250001 pixels in one request are more than the 250000",
    ),
    (
        "pictures that are too large together",
        "telling",
        {"image": pictures(2, 500, 251)},
        None,
        "2 x 500 x 251 = 251000 pixels in one request are more than the 250000",
    ),
    (
        "prepared images for the gated graph",
        "telling_router",
        {"images": images(MAX_BATCH + 1)},
        None,
        "9 images in one request are more than the 8 that are taken here",
    ),
    (
        "a long depth",
        "telling_router",
        {"images": images(1), "depth": text(LONG)},
        None,
        "input 'depth': 2000000 characters are more than the 4096",
    ),
    (
        "a long parameter",
        "telling",
        {"image": pictures(1, 1, 1)},
        {"depth": LONG},
        "characters are more than the 4096",
    ),
    (
        "many parameters",
        "telling",
        {"image": pictures(1, 1, 1)},
        {f"parameter {number}": number for number in range(20_000)},
        "characters are more than the 4096",
    ),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[0])
def test_a_request_that_asks_for_more_is_refused_and_counted(
    server: LocalServer, attack: tuple[Any, ...], protocol: str
) -> None:
    _, model, inputs, parameters, message = attack
    assert server.pid is not None
    before = counted(server)
    with Peak(server.pid) as peak, pytest.raises(Refused) as refused:
        infer(server, protocol, model, inputs, parameters)
    assert refused.value.status == STATUS[protocol]
    assert message in refused.value.line
    assert "\n" not in refused.value.line
    assert len(refused.value.line) < 300
    assert until(lambda: counted(server) == before + 1)
    assert peak.grown < BUDGET
    answers(server)


def test_as_much_as_is_taken_is_answered(server: LocalServer) -> None:
    found = infer(server, "http", "telling", {"image": pictures(MAX_BATCH, 1, 1)})
    assert len(found["scores"]) == MAX_BATCH
    found = infer(server, "http", "telling", {"image": pictures(1, 500, MAX_PIXELS // 500)})
    assert len(found["scores"]) == 1


def test_narrow_pictures_do_not_grow(server: LocalServer) -> None:
    """With as many pixels as are taken unless told otherwise: a file of 3.4 MB, which resizing
    along rows would make 350 MB of."""
    assert server.pid is not None
    tall = MAX_PIXELS_DEFAULT // SIDE
    before = counted(server, "limit", "wide")
    with Peak(server.pid) as peak:
        for _ in range(4):
            with pytest.raises(Refused, match=f"a picture of 2 x {tall} pixels takes ") as refused:
                infer(server, "http", "wide", {"image": pictures(1, tall, 2)})
            assert refused.value.status == "400"
            assert "\n" not in refused.value.line
    assert until(lambda: counted(server, "limit", "wide") == before + 4)
    clients = 2 * 4 * 6 * tall  # as they arrived, and where preprocessing takes them from
    assert peak.grown < BUDGET + clients
    assert BUDGET + clients < 4 * SIDE * tall
    found = infer(server, "http", "wide", {"image": pictures(1, 1000, SIDE // 2)})
    assert len(found["scores"]) == 1


def test_no_pictures_are_counted_too(server: LocalServer) -> None:
    before = counted(server, "input")
    with pytest.raises(Refused, match="a batch of no pictures"):
        infer(server, "http", "telling", {"image": pictures(0, 8, 8)})
    assert until(lambda: counted(server, "input") == before + 1)


def test_postprocessing_refuses_what_preprocessing_did_not_give(server: LocalServer) -> None:
    ways = np.ones((1, 6), np.float32)
    for boxes, geometry, message in (
        (np.zeros((1_000_000, 0, 4), np.float32), ways, "boxes are of 1000000 pictures, geometry"),
        (np.zeros((0, 1, 4), np.float32), ways[:0], "expected the same, at least 1"),
        (np.zeros((1, 1, 4), np.float32), ways * np.float32(np.nan), "what is no number"),
    ):
        with pytest.raises(Refused, match=message) as refused:
            infer(server, "http", "telling_postprocess", {"boxes": boxes, "geometry": geometry})
        assert refused.value.status == "400"


def flood(
    server: LocalServer, model: str, name: str, array: NDArray[Any], count: int
) -> Counter[str]:
    """So many requests at once over one connection; how they ended."""
    grpc = pytest.importorskip("tritonclient.grpc")
    given = [grpc.InferInput(name, array.shape, "UINT8" if array.dtype == np.uint8 else "FP32")]
    given[0].set_data_from_numpy(array)
    ends: Counter[str] = Counter()
    done = threading.Semaphore(0)

    def end(result: Any, error: Any) -> None:
        ends[str(error.status()) if error else "answered"] += 1
        done.release()

    with grpc.InferenceServerClient(server.grpc) as client:
        for _ in range(count):
            client.async_infer(model, given, end)
        for _ in range(count):
            assert done.acquire(timeout=60)
    return ends


def test_many_small_requests_at_once(server: LocalServer) -> None:
    """24 bytes each, that become 0.4 MB."""
    assert server.pid is not None
    before = counted(server, "busy")
    with Peak(server.pid) as peak:
        ends: Counter[str] = Counter()
        for _ in range(20):  # where the client gets little of a busy machine, the models keep up
            ends += flood(server, "telling", "image", pictures(MAX_BATCH, 1, 1), 400)
            if ends["StatusCode.UNAVAILABLE"]:
                break
    busy = ends["StatusCode.UNAVAILABLE"]
    assert busy > 0, "more images wait than --max-queue says"
    assert until(lambda: counted(server, "busy") == before + busy)
    assert ends["answered"] > 0
    assert ends.total() == ends["answered"] + ends["StatusCode.UNAVAILABLE"]
    assert peak.grown < BUDGET
    answers(server)


def test_many_predictions_to_suppress_at_once(server: LocalServer) -> None:
    """All boxes of all images survive: the most work and memory that there is in the router."""
    assert server.pid is not None
    raw = 4 * (4 + 3) * ANCHORS
    with Peak(server.pid) as peak:
        ends = flood(server, "host_router", "images", images(MAX_BATCH), 40)
    assert ends["answered"] > 0
    assert ends.total() == ends["answered"] + ends["StatusCode.UNAVAILABLE"]
    # What suppression makes of the predictions of one image, with indices of 64 bits.
    assert peak.grown < BUDGET + 32 * 16 * raw
    answers(server)

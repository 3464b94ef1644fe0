"""Depth auto through the whole router, with a stand-in for the module that only a server has, and
a clock that only its models move."""

from __future__ import annotations

import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import handmade
import numpy as np
import pytest
from manifests import measured
from numpy.typing import NDArray

from anydepth_deploy.bundle import measured as measured_module

MODELS = "anydepth_deploy.serve.models"
SHA = "e" * 64
COSTS = {"TT-1": 3.5, "TF-2": 5.25, "FF-2": 6.0}
"""The ladder of the manifest; 95 % of calls take 4, 6 and 6.6 ms."""
ROWS = {depth: (*handmade.LADDER, *handmade.REST).index(depth) for depth in COSTS}
NOW = 1000.0
"""Seconds: when requests are taken."""


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class Error(Exception):
    INVALID_ARG, UNAVAILABLE = 3, 14

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)

    def message(self) -> str:
        return str(self)


class Server:
    """The clock, the models, the metrics, and the module that stands for them."""

    def __init__(self) -> None:
        self.now = NOW
        self.slow = 1.0
        self.fails = False
        self.ran: list[int] = []
        self.metrics: dict[tuple[str, ...], float] = defaultdict(float)
        self.time = SimpleNamespace(
            perf_counter=lambda: self.now, monotonic_ns=lambda: int(1e9 * (self.now + 77))
        )
        server = self

        class Family:
            COUNTER, GAUGE, HISTOGRAM = range(3)

            def __init__(self, name: str, description: str, kind: int) -> None:
                self.name = name

            def Metric(self, labels: dict[str, str], buckets: Any = None) -> Any:  # noqa: N802
                key = (self.name, *(text for label, text in labels.items() if label != "model"))

                def add(value: float) -> None:
                    server.metrics[key] += value

                def put(value: float) -> None:
                    server.metrics[key] = value

                return SimpleNamespace(increment=add, observe=add, set=put)

        class Response:
            def __init__(self, output_tensors: Any = (), error: Any = None) -> None:
                self._tensors, self._error = output_tensors, error

            def has_error(self) -> bool:
                return self._error is not None

            def error(self) -> Any:
                return self._error

            def output_tensors(self) -> Any:
                return self._tensors

        class Request:
            def __init__(self, inputs: Any, **_: Any) -> None:
                self._inputs = inputs

            def exec(self) -> Any:
                images, depth = self._inputs
                row = int(depth.as_numpy()[0])
                server.ran.append(row)
                text = (*handmade.LADDER, *handmade.REST)[row]
                server.now += COSTS[text] * server.slow * images.shape()[0] / 1000
                if server.fails:
                    return Response(error=Error("no"))
                outputs = ("labels", "boxes", "scores")
                return Response([Tensor(name, np.zeros((1, 1), np.int64)) for name in outputs])

        self.module = SimpleNamespace(
            MetricFamily=Family,
            Tensor=Tensor,
            TritonError=Error,
            InferenceResponse=Response,
            InferenceRequest=Request,
            PreferredMemory=lambda *_: None,
            TRITONSERVER_MEMORY_CPU=0,
            TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
        )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", found.module)
    for name in ("router", "metrics"):
        monkeypatch.delitem(sys.modules, f"{MODELS}.{name}", raising=False)
    monkeypatch.setattr(measured_module, "device_name", lambda _: "Orin")
    return found


@pytest.fixture
def router(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With a gated graph whose ladder was measured here, and a budget of 50 ms."""
    module = importlib.import_module(f"{MODELS}.router")
    gated = {
        "name": "gated-fp32",
        "file": "gated-fp32.onnx",
        "layout": "gated",
        "weights": "shared",
        "opset": 18,
        "bytes": 1,
        "sha256": SHA,
        "built_with": {},
        "build_seconds": 0.0,
    }
    manifest = handmade.manifest(artifacts=[gated], measured=[measured(artifacts=[SHA])])
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_text(manifest.model_dump_json())
    wanted = {"runtime": "onnxruntime", "precision": "fp32", "artifacts": ["gated-fp32"]}
    given = {"gated": "b_gated", "budget_ms": "50", "measured": json.dumps(wanted)}
    config = {"parameters": {key: {"string_value": text} for key, text in given.items()}}
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_name": "b_router",
            "model_config": json.dumps(config),
            "model_repository": str(tmp_path),
            "model_version": "1",
        }
    )
    monkeypatch.setattr(module, "time", server.time)
    model._autopilot._clock = server.time.perf_counter
    yield model
    model.finalize()


def ask(
    router: Any,
    server: Server,
    parameters: dict[str, Any],
    *,
    taken: float = 0.0,
    images: int = 1,
    **inputs: NDArray[Any],
) -> int | str:
    """The row of the answer, or what is wrong. ``taken``: so many milliseconds ago."""
    tensors = {"images": np.zeros((images, 3, 64, 64), np.float32), **inputs}
    sent: list[Any] = []
    request = SimpleNamespace(
        parameters=lambda: json.dumps(parameters),
        request_id=lambda: "",
        timeout=lambda: 0,
        inputs=lambda: [Tensor(name, array) for name, array in tensors.items()],
        requested_output_names=lambda: ["depth_row"],
        get_response_sender=lambda: SimpleNamespace(send=lambda found, flags: sent.append(found)),
    )
    held, under_way = router._held.take(images), router._under_way.take(images)
    router._serve(request, server.now - taken / 1000, held, under_way)
    (found,) = sent
    if found.has_error():
        return str(found.error())
    (tensor,) = found.output_tensors()
    return int(tensor.as_numpy()[0])


def auto(budget: float) -> dict[str, Any]:
    return {"depth": "auto", "budget_ms": budget}


def test_what_is_left_of_the_budget_decides(router: Any, server: Server) -> None:
    for budget, taken, depth in (
        (7.0, 0.0, "FF-2"),
        (7.0, 0.5, "TF-2"),
        (7.0, 2.0, "TT-1"),
        (6.5, 0.0, "TF-2"),
        (4.5, 0.0, "TT-1"),
        (46.7, 40.0, "FF-2"),
    ):
        assert ask(router, server, auto(budget), taken=taken) == ROWS[depth]
        assert server.ran[-1] == ROWS[depth]
    assert ask(router, server, {"depth": "auto"}) == ROWS["FF-2"]  # the repository's
    assert ask(router, server, {"depth": "auto"}, taken=45.8) == ROWS["TT-1"]


def test_preprocessing_tells_when_a_request_came(router: Any, server: Server) -> None:
    def arrived(milliseconds: float) -> NDArray[Any]:
        return np.array([server.time.monotonic_ns() - int(1e6 * milliseconds)], np.int64)

    assert ask(router, server, auto(20.0), arrived=arrived(12.0)) == ROWS["FF-2"]
    assert ask(router, server, auto(20.0), arrived=arrived(14.0)) == ROWS["TF-2"]
    assert ask(router, server, auto(20.0), arrived=arrived(15.5), taken=3.0) == ROWS["TT-1"]
    # The router knows by itself when it took a request, whatever it is told.
    assert ask(router, server, auto(20.0), arrived=arrived(-1e6), taken=14.0) == ROWS["TF-2"]
    huge = np.array([np.iinfo(np.int64).min], np.int64)
    assert ask(router, server, auto(20.0), arrived=huge) == ROWS["TT-1"]


def test_who_is_late_is_counted_and_how(router: Any, server: Server) -> None:
    chosen, answered = (("anydepth_auto_missed_total", when) for when in ("chosen", "answered"))
    assert {server.metrics[chosen], server.metrics[answered]} == {0}
    ask(router, server, auto(7.0))
    assert (server.metrics[chosen], server.metrics[answered]) == (0, 0)
    ask(router, server, auto(3.9))  # base takes 3.5 ms, but more than 3.9 too often
    assert (server.metrics[chosen], server.metrics[answered]) == (1, 0)
    ask(router, server, auto(7.0), taken=10.0)
    assert (server.metrics[chosen], server.metrics[answered]) == (2, 1)
    server.slow = 1.3
    ask(router, server, auto(7.0))
    assert (server.metrics[chosen], server.metrics[answered]) == (2, 2)
    ask(router, server, {"depth": "base"}, taken=1e6)
    counts = {depth: server.metrics["anydepth_auto_total", depth] for depth in COSTS}
    assert counts == {"TT-1": 2, "TF-2": 0, "FF-2": 2}
    assert server.metrics["anydepth_requests_total", "TT-1"] == 3


def test_what_depths_take_now_is_learned_and_told(router: Any, server: Server) -> None:
    gauge = "anydepth_auto_predicted_seconds"
    ask(router, server, auto(100.0))
    assert server.metrics[gauge, "TT-1", "1"] == pytest.approx(0.004, rel=0.05)
    server.slow = 3.0
    for _ in range(3):  # also by requests at depths of their own
        ask(router, server, {"depth": "super"})
    assert ask(router, server, auto(17.0)) == ROWS["TT-1"]
    assert server.metrics[gauge, "TT-1", "1"] == pytest.approx(0.012, rel=0.1)
    assert ask(router, server, auto(13.0), images=2) == ROWS["TT-1"]
    assert server.metrics[gauge, "TT-1", "2"] == pytest.approx(0.024, rel=0.1)


def test_what_fails_teaches_nothing_and_leaves_its_place(router: Any, server: Server) -> None:
    server.fails, server.slow = True, 100.0
    assert ask(router, server, auto(30.0)) == "no"
    server.fails, server.slow = False, 1.0
    assert server.metrics["anydepth_errors_total", "model"] == 1
    assert ask(router, server, auto(7.0)) == ROWS["FF-2"]
    assert "expected a positive number" in str(ask(router, server, auto(0.0)))
    assert server.metrics["anydepth_errors_total", "depth"] == 1
    assert (
        sum(value for key, value in server.metrics.items() if key[0] == "anydepth_auto_total") == 1
    )
    assert not any(map(len, router._autopilot._backlogs.values()))

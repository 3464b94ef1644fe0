"""The router: one Triton model for all depths, which hands each request to the model of its depth.

Images pass through by reference, and so do the answers. Several requests are under way at once
inside one instance, so that dynamic batching of the models behind it finds something to batch:
each is given to a thread, which waits for the chosen model and answers through the request's
response sender. So many images may be under way, and so many more may wait
(:mod:`anydepth_deploy.serve.limits`); a request that finds no place is refused at once. The images
of all of them are in memory, which is bounded so however many a request brings: Triton's queue
holds any number of requests, and its own limit for it makes a model in Triton 24.10 idle for half a
second now and then.

A request at depth ``auto`` gets the deepest rung that its budget allows
(:mod:`anydepth_deploy.serve.models.autopilot`). That is chosen when a thread begins with it: what
it has waited since preprocessing took it, or the router where it came straight here, is gone from
its budget by then.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - Triton asks for it after the first request, which others wait for
import json
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from anydepth_deploy.errors import AnyDepthError, DepthError, InputError
from anydepth_deploy.serve import limits, names
from anydepth_deploy.serve.budgets import AUTO
from anydepth_deploy.serve.models.asked import Asked, asked_budget, asked_depth
from anydepth_deploy.serve.models.autopilot import Call
from anydepth_deploy.serve.models.first_costs import start_autopilot
from anydepth_deploy.serve.models.metrics import RouterMetrics
from anydepth_deploy.serve.models.places import Places
from anydepth_deploy.serve.models.routes import Routes
from anydepth_deploy.serve.models.settings import (
    budget,
    max_images,
    number,
    parameters,
    read_manifest,
)
from anydepth_deploy.suppression import suppress

__all__ = ["TritonPythonModel"]

DETECTIONS = ("labels", "boxes", "scores")


class _ModelError(Exception):
    """The chosen model failed; holds Triton's own error, to be passed on as it is."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.error = error


class _BusyError(Exception):
    """So many images wait that the next ones have no place."""


@dataclass(frozen=True)
class _Wish:
    """What a request brings: ``depth`` as it is asked for; of ``auto``, when its budget is over, by
    :func:`time.perf_counter`."""

    images: Any
    count: int
    depth: Asked
    deadline: float


class TritonPythonModel:
    """Hands requests to the model of their depth; see the module.

    Inputs ``images`` FP32 [N, 3, H, W], and optionally ``depth`` STRING [1], ``row`` INT32 [1] and
    ``arrived`` INT64 [1], when preprocessing took the request; request parameters ``depth`` and
    ``row`` mean the same as the inputs, ``budget_ms`` is what a request at depth ``auto`` may take.
    Outputs ``labels`` INT64 [N, K], ``boxes`` FP32 [N, K, 4] in input pixels, ``scores`` FP32
    [N, K] and ``depth_row`` INT32 [1], the row that was run. Errors of the caller are INVALID_ARG.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the configuration and the manifest, and do once what takes longer the first time.
        Raises :class:`AnyDepthError`, which Triton reports as the reason why the model is not
        loaded."""
        given, manifest = parameters(args), read_manifest(args)
        self._routes = Routes(manifest, given)
        self._table = self._routes.table
        self._size = tuple(manifest.preprocess.size)
        self._raw = given.get(names.RAW_OUTPUT, "")
        self._rule = manifest.suppression
        self._most = manifest.max_detections
        self._budget = budget(given)
        self._autopilot = start_autopilot(manifest, self._routes, given)
        self._metrics = RouterMetrics(
            given.get(names.NAME) or args["model_name"],
            map(str, self._table.ladder),
            [str(self._table.rows[row]) for row in self._autopilot.rows],
        )
        self._max_images = max_images(args, given)
        in_flight = number(given, names.IN_FLIGHT, limits.in_flight(self._max_images))
        waiting = number(given, names.MAX_QUEUE, limits.waiting(self._max_images))
        self._held, self._under_way = Places(in_flight + waiting), Places(in_flight)
        self._waiting: queue.SimpleQueue[tuple[Any, float, int] | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(in_flight, thread_name_prefix="router")
        self._starter = threading.Thread(target=self._start, name="router-start", daemon=True)
        self._starter.start()
        asked_depth(self._table, {"depth": "super"}, {}, self._routes.default)
        if self._rule is not None:
            classes = len(manifest.classes)
            suppress(np.zeros((1, 4 + classes, 2), np.float32), self._rule, self._most)

    def execute(self, requests: Sequence[Any]) -> None:
        """Start answering ``requests``; answers go through their response senders."""
        for request in requests:
            began = time.perf_counter()
            count = int(pb_utils.get_input_tensor_by_name(request, "images").shape()[0])
            # What will be refused for its size does not need as many.
            held = self._held.try_take(count if count <= self._max_images else 1)
            if held:
                self._waiting.put((request, began, held))
            else:
                self._refuse(request, _BusyError())

    def finalize(self) -> None:
        """Wait for the requests that are under way, and for those that wait."""
        self._waiting.put(None)
        self._starter.join()
        self._threads.shutdown(wait=True)

    def _start(self) -> None:
        """Give requests to threads in the order in which they came, as places become free."""
        while (item := self._waiting.get()) is not None:
            request, began, held = item
            self._threads.submit(self._serve, request, began, held, self._under_way.take(held))

    def _refuse(self, request: Any, error: Exception) -> None:
        reason, response = _failure(error)
        sender = request.get_response_sender()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self._metrics.failed(reason)

    def _serve(self, request: Any, began: float, held: int, taken: int) -> None:
        """Answer one request, whatever happens, then count it: counting takes a message to the
        server, which nobody should wait for.

        Places are given back before the answer is sent: a client that sends its next request as
        soon as it has the answer must not find its own last one in the way.
        """
        sender = request.get_response_sender()
        done = reason = None
        try:
            try:
                wish = self._read(request, began)
                response, call = self._answer(request, wish)
                done = wish, call, time.perf_counter()
            except Exception as error:  # also a bug of ours must not leave a client waiting
                reason, response = _failure(error)
        finally:
            self._held.give(held)
            self._under_way.give(taken)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        if reason is not None:
            self._metrics.failed(reason)
        elif done is not None:
            self._count(began, *done)

    def _read(self, request: Any, began: float) -> _Wish:
        """What a request wants."""
        told = request.parameters() or "{}"
        limits.check_text("parameters", told)
        limits.check_text("request id", request.request_id())
        images, asked = None, {}
        for tensor in request.inputs():
            name = tensor.name()
            if name == "images":
                images = tensor
            else:
                asked[name] = _only_value(tensor)
        count, given = self._check(images), json.loads(told)
        depth = asked_depth(self._table, asked, given, self._routes.default)
        if depth != AUTO:
            return _Wish(images, count, depth, math.inf)
        allowed = asked_budget(given, self._budget) / 1e3
        return _Wish(images, count, depth, _arrival(began, asked) + allowed)

    def _answer(self, request: Any, wish: _Wish) -> tuple[Any, Call]:
        """The response to a request, and what was run for it."""
        autopilot = self._autopilot
        if isinstance(wish.depth, int):
            call = autopilot.start(wish.count, wish.depth)
        else:
            call = autopilot.choose(wish.count, 1e3 * (wish.deadline - time.perf_counter()))
        answered = False
        try:
            outputs = self._run(request, wish.images, call)
            answered = True
        finally:
            autopilot.end(call, answered=answered)
        outputs.append(pb_utils.Tensor("depth_row", np.array([call.row], np.int32)))
        wanted = request.requested_output_names()
        chosen = [tensor for tensor in outputs if tensor.name() in wanted]
        return pb_utils.InferenceResponse(output_tensors=chosen), call

    def _run(self, request: Any, images: Any, call: Call) -> list[Any]:
        """What the model of a call finds."""
        inputs = [images]
        if call.model == self._routes.gated:
            inputs.append(pb_utils.Tensor("depth", np.array([call.row], np.int64)))
        # Without the request's trace, which Triton 24.10 may have let go of by now, and then dies.
        response = pb_utils.InferenceRequest(
            model_name=call.model,
            inputs=inputs,
            requested_output_names=[self._raw] if self._raw else list(DETECTIONS),
            request_id=request.request_id(),
            timeout=request.timeout(),
            # A client gets them over the network, or out of the host's memory.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise _ModelError(response.error())
        found = response.output_tensors()
        return self._suppressed(found[0]) if self._raw else [_wide(tensor) for tensor in found]

    def _count(self, began: float, wish: _Wish, call: Call, ended: float) -> None:
        """Count a request that was answered."""
        rows = self._table.rows
        depth = str(rows[call.row])
        self._metrics.answered(depth, ended - began)
        if wish.depth != AUTO:
            return
        missed = {"chosen": not call.fits, "answered": ended > wish.deadline}
        predicted = self._autopilot.predicted(wish.count)
        self._metrics.chose(
            depth,
            [when for when, was in missed.items() if was],
            wish.count,
            {str(rows[row]): milliseconds / 1e3 for row, milliseconds in predicted.items()},
        )

    def _check(self, images: Any) -> int:
        """The number of images. Raises :class:`InputError` for images of another shape, and
        :class:`LimitError` for more than a request may bring."""
        shape = list(images.shape())
        if len(shape) != 4 or shape[1:] != [3, *self._size] or not shape[0]:
            height, width = self._size
            raise InputError(
                f"images must be float32 [N, 3, {height}, {width}] with N >= 1; found {shape}"
            )
        limits.check_images(shape[0], self._max_images)
        return int(shape[0])

    def _suppressed(self, raw: Any) -> list[Any]:
        """Detections from predictions, where suppression is not in the graph."""
        assert self._rule is not None  # or there would be no raw output in the configuration
        found = suppress(raw.as_numpy(), self._rule, self._most)
        return [
            pb_utils.Tensor("labels", found.labels),
            pb_utils.Tensor("boxes", found.boxes),
            pb_utils.Tensor("scores", found.scores),
        ]


def _failure(error: Exception) -> tuple[str, Any]:
    """The reason to count, and the response: what we refuse is the caller's mistake."""
    if isinstance(error, AnyDepthError):
        reason = "depth" if isinstance(error, DepthError) else "input"
        reason = "limit" if isinstance(error, limits.LimitError) else reason
        found = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    elif isinstance(error, _ModelError):
        reason, found = "model", error.error
    elif isinstance(error, _BusyError):
        text = "too many images are waiting for the models: send the request again later"
        reason, found = "busy", pb_utils.TritonError(text, pb_utils.TritonError.UNAVAILABLE)
    else:
        reason, found = "model", pb_utils.TritonError(f"{type(error).__name__}: {error}")
    return reason, pb_utils.InferenceResponse(error=found)


def _only_value(tensor: Any) -> object:
    """The element of an input that says which depth is meant, as text or a Python number."""
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise DepthError(f"input '{tensor.name()}' must hold one value; found {len(values)}")
    value = values[0]
    if isinstance(value, bytes):
        limits.check_text(f"input '{tensor.name()}'", value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value.item()


def _arrival(began: float, asked: Mapping[str, object]) -> float:
    """When a request came, by :func:`time.perf_counter`: to preprocessing, where that tells, or
    else when the router ``began`` with it."""
    arrived = asked.get(names.ARRIVED)
    if not isinstance(arrived, int):
        return began
    earlier = (time.monotonic_ns() - arrived) / 1e9
    return min(began, time.perf_counter() - earlier)


def _wide(tensor: Any) -> Any:
    """The tensor; labels as INT64, which engines of TensorRT before 10 give in 32 bits."""
    if tensor.name() == "labels" and (labels := tensor.as_numpy()).dtype != np.int64:
        return pb_utils.Tensor("labels", labels.astype(np.int64))
    return tensor

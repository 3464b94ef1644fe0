"""A real Triton server for tests, and calls to it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.serve.plan import ServeOptions
from anydepth_deploy.serve.repository import write_repository
from triton_server.environment import Environment, SetupError, ensure
from triton_server.server import LocalServer

REQUIRED = "ANYDEPTH_REQUIRE_TRITON"
"""Environment variable: with 1, a server that cannot be set up fails tests instead of skipping."""

PROTOCOLS = ("http", "grpc")
DATATYPES = {
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}

Arrays = dict[str, NDArray[Any]]


@functools.cache
def _environment() -> Environment | str:
    try:
        return ensure()
    except SetupError as error:
        return str(error)


def environment() -> Environment:
    """The server's environment; skips, or fails with :data:`REQUIRED`, where there is none."""
    found = _environment()
    if isinstance(found, Environment):
        return found
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but there is no local Triton server: {found}")
    pytest.skip(f"no local Triton server: {found}")


def write(bundle: Bundle, repository: Path, name: str, **options: Any) -> None:
    """Serve ``bundle`` under ``name``, with one process for each Python model."""
    chosen = {"workers": 1, "threads": 1, **options}
    if options.get("runtime") == "tensorrt":
        del chosen["threads"]
    write_repository(bundle, repository, name=name, options=ServeOptions(**chosen))


def serve(repository: Path, log: Path, **options: Any) -> LocalServer:
    """A server over ``repository``; use as a context manager."""
    return LocalServer(environment(), repository, log=log, **options)


def text(value: str) -> NDArray[Any]:
    return np.array([value.encode()], object)


class Refused(Exception):  # noqa: N818 - what the server did, not what went wrong in a test
    """The server's answer was an error: its status and its one line."""

    def __init__(self, status: str, line: str) -> None:
        super().__init__(f"{status}: {line}")
        self.status, self.line = status, line


class Caller:
    """A client with one call for both protocols; from one thread, as a context manager."""

    def __init__(self, server: LocalServer, protocol: str) -> None:
        self.module = pytest.importorskip(f"tritonclient.{protocol}")
        self.client: Any = self.module.InferenceServerClient(getattr(server, protocol))

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()

    def __call__(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        parameters: Mapping[str, Any] | None = None,
        outputs: tuple[str, ...] | None = None,
    ) -> Arrays:
        """All outputs by name, or ``outputs`` only. Raises :class:`Refused`."""
        from tritonclient.utils import InferenceServerException

        sent = []
        for name, array in inputs.items():
            sent.append(self.module.InferInput(name, array.shape, DATATYPES[str(array.dtype)]))
            sent[-1].set_data_from_numpy(array)
        wanted = outputs and [self.module.InferRequestedOutput(name) for name in outputs]
        given = None if parameters is None else dict(parameters)
        try:
            found = self.client.infer(model, sent, outputs=wanted, parameters=given)
        except InferenceServerException as error:
            raise Refused(str(error.status()), error.message()) from None
        answer = found.get_response()
        named = answer["outputs"] if isinstance(answer, dict) else answer.outputs
        names = [item["name"] if isinstance(item, dict) else item.name for item in named]
        return {name: found.as_numpy(name) for name in names}


def infer(
    server: LocalServer,
    protocol: str,
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] | None = None,
) -> Arrays:
    """One call with a client of its own."""
    with Caller(server, protocol) as call:
        return call(model, inputs, parameters, outputs)


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether ``condition`` holds before so many seconds are over: the router counts a request
    after it has answered it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True

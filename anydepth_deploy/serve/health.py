"""Whether a Triton server answers: a small picture through every ensemble of ours.

    python -m anydepth_deploy.serve.health http://localhost:8000

Triton's own ``v2/health/ready`` says that models were loaded. It stays so when the process of a
Python model dies, after which every request to that model fails until the server is started again
(Triton 24.10 starts no new process). So this sends a picture through every ensemble, and to pre-
and postprocessing alone, which cost little, twice as many requests as they have processes. Nothing
but Python's own library is imported: it runs wherever the server does, every few seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

__all__ = ["DeadError", "UnhealthyError", "check_health", "main"]

URL = "http://localhost:8000"
BODY_LIMIT = 1 << 24
"""Bytes of an answer that are read: configurations with thousands of class names fit."""

BUSY = 503
"""What Triton answers when a queue is full: it is alive."""

LOADING = ("is not ready", "unknown model", "no available versions")
"""What it says, as a 500 at times, of a model that is being loaded or unloaded; of one whose
process died it says that it "is not healthy"."""

AGAIN = 1.0
"""Seconds after which a failure has to be the same to count: loading may fail a request or two."""

IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3}
"""One pixel: within the limits of every repository."""

PARTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "_preprocess": ([IMAGE], "geometry"),
    "_postprocess": (
        [
            {"name": "boxes", "datatype": "FP32", "shape": [1, 1, 4], "data": [0] * 4},
            {"name": "geometry", "datatype": "FP32", "shape": [1, 6], "data": [1] * 6},
        ],
        "picture_boxes",
    ),
}
"""Inputs and an output of the models around the router, by the end of their names."""


class UnhealthyError(Exception):
    """The server does not answer as it should; one line."""


class DeadError(UnhealthyError):
    """It is up and ready and fails all the same: only starting it again helps. ``ensemble``: whose
    request failed."""

    def __init__(self, line: str, ensemble: str) -> None:
        super().__init__(line)
        self.ensemble = ensemble


def check_health(url: str = URL, *, model: str | None = None, timeout: float = 5) -> list[str]:
    """The ensembles that answer at ``url``: all that ``anydepth-deploy triton`` wrote and the
    server has loaded, or ``model`` alone.

    ``timeout``: seconds for everything. Raises :class:`UnhealthyError` where the server cannot be
    reached, is not ready, has no such ensemble or does not answer in time, and :class:`DeadError`
    where it is ready and a request fails, and one to the same ensemble :data:`AGAIN` seconds later.
    """
    deadline = time.monotonic() + timeout
    try:
        return _check(url, model, deadline)
    except DeadError as error:
        first = error
    line = f"{first}; not yet repeated"
    if time.monotonic() + AGAIN >= deadline:
        raise UnhealthyError(line)
    time.sleep(AGAIN)
    try:
        _check(url, model, deadline)
    except DeadError as second:
        # The whole of it again: which of several processes gets a request changes.
        if second.ensemble == first.ensemble:
            raise
        line = str(second)
    except UnhealthyError as second:
        line = str(second)
    else:
        line = f"{first}; {AGAIN:g} s later it answered"
    raise UnhealthyError(line)


def _check(url: str, model: str | None, deadline: float) -> list[str]:
    calls = _Calls(url.rstrip("/"), deadline)
    calls("/v2/health/ready")
    index = calls("/v2/repository/index", {})
    if not isinstance(index, list):
        raise UnhealthyError(f"{url} is no Triton server: it gives no list of models")
    loaded = {str(row.get("name")) for row in index if row.get("state") == "READY"}
    if model is not None and model not in loaded:
        raise UnhealthyError(f"the Triton server at {url} has not loaded the model '{model}'")
    # Other people's models are none of our business: an ensemble of ours has a router.
    asked = [
        name for name in sorted(loaded) if model in (None, name) and f"{name}_router" in loaded
    ]
    configs = {name: calls.config(name) for name in asked}
    found = [
        name
        for name, config in configs.items()
        if config.get("platform") == "ensemble" and "classes" in config.get("parameters", {})
    ]
    if not found:
        raise UnhealthyError(
            f"the Triton server at {url} has no ensemble of 'anydepth-deploy triton'"
            f"{'' if model is None else f' called {model}'}"
        )
    for name in found:
        calls.infer(name, name, [IMAGE], "boxes")
        for end, (inputs, output) in PARTS.items():
            part = f"{name}{end}"
            for _ in range(2 * _processes(calls.config(part))):
                calls.infer(name, part, inputs, output)
    return found


def _processes(config: dict[str, Any]) -> int:
    """How many processes a Python model has."""
    return sum(int(group.get("count", 1)) for group in config.get("instance_group", ())) or 1


class _Calls:
    """Requests to one server until a deadline (of :func:`time.monotonic`)."""

    def __init__(self, url: str, deadline: float) -> None:
        self._url, self._deadline = url, deadline
        # Never through a proxy of the environment, which has other ideas of what "localhost" is.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def __call__(self, path: str, body: object = None) -> Any:
        """The answer to a request, with a ``body`` in JSON or without; None where it is empty.

        Raises :class:`UnhealthyError`.
        """
        try:
            return self._answer(path, body)
        except urllib.error.HTTPError as error:
            raise UnhealthyError(self._line(path, f"{error.code}, {_reason(error)}")) from None

    def config(self, model: str) -> dict[str, Any]:
        """The configuration of a model."""
        path = _path(model, "config")
        found = self(path)
        if not isinstance(found, dict):
            raise UnhealthyError(self._line(path, "no configuration"))
        return found

    def infer(self, ensemble: str, model: str, inputs: list[dict[str, Any]], output: str) -> None:
        """Send a small request to an ensemble, or to a model of it."""
        path = _path(model, "infer")
        try:
            self._answer(path, {"inputs": inputs, "outputs": [{"name": output}]})
        except urllib.error.HTTPError as error:
            reason = _reason(error)
            line = self._line(path, f"{error.code}, {reason}")
            loading = any(text in reason.lower() for text in LOADING)
            if error.code >= 500 and error.code != BUSY and not loading:
                raise DeadError(line, ensemble) from None
            raise UnhealthyError(line) from None

    def _answer(self, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise UnhealthyError(self._line(path, "no time is left for an answer"))
        try:
            with self._open(request, timeout=left) as answer:
                text = answer.read(BODY_LIMIT)
                return json.loads(text) if text.strip() else None
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            raise UnhealthyError(self._line(path, str(cause) or type(cause).__name__)) from None

    def _line(self, path: str, what: str) -> str:
        return f"the Triton server at {self._url} ({path}): {' '.join(what.split())[:300]}"


def _path(model: str, what: str) -> str:
    return f"/v2/models/{urllib.parse.quote(model, safe='')}/{what}"


def _reason(error: urllib.error.HTTPError) -> str:
    """What the server says in an answer that is an error."""
    text = ""
    with contextlib.suppress(OSError, http.client.HTTPException):
        text = error.read(4096).decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("error", text))
    return text.strip() or str(error.reason)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 for a server that answers, else 1 with one line
    on standard error; with ``--only-dead`` 1 for :class:`DeadError` alone."""
    parser = argparse.ArgumentParser(
        prog="python -m anydepth_deploy.serve.health",
        description="Send small pictures through the ensembles of a Triton server.",
    )
    parser.add_argument("url", nargs="?", default=URL, help=f"default: {URL}")
    parser.add_argument("--model", help="one ensemble; default: all that are loaded")
    parser.add_argument("--timeout", type=float, default=5, help="seconds in all; default: 5")
    parser.add_argument(
        "--only-dead",
        action="store_true",
        help="exit status 1 only where the server is ready and fails, not where it is loading, "
        "slow or busy",
    )
    parser.add_argument(
        "--end",
        type=int,
        metavar="PID",
        help="end this process where the server is ready and fails, so that it is started again",
    )
    options = parser.parse_args(arguments)
    url = options.url if "://" in options.url else f"http://{options.url}"
    try:
        found = check_health(url, model=options.model, timeout=options.timeout)
    except UnhealthyError as error:
        print(f"unhealthy: {error}", file=sys.stderr)
        if isinstance(error, DeadError) and options.end is not None:
            return _end(options.end)
        return int(isinstance(error, DeadError) or not options.only_dead)
    print(f"healthy: {', '.join(found)}")
    return 0


def _end(pid: int) -> int:
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        print(f"process {pid} cannot be ended: {error.strerror}", file=sys.stderr)
    else:
        print(f"process {pid} was told to end", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Whether a Triton server answers: a small picture through every ensemble of ours.

    python -m anydepth_deploy.serve.health http://localhost:8000

Triton's own ``v2/health/ready`` says that models were loaded. It stays so when the process of a
Python model dies, after which every request to that model fails until the server is started again
(Triton 24.10 starts no new process). So this sends pictures, one after another, at least twice as
many as a model has processes. Nothing but Python's own library is imported: it runs wherever the
server does, every few seconds.
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
import urllib.request
from collections.abc import Sequence
from typing import Any

__all__ = ["DeadError", "UnhealthyError", "check_health", "main"]

URL = "http://localhost:8000"
SIDE = 8
BODY_LIMIT = 1 << 24
"""Bytes of an answer that are read: configurations with thousands of class names fit."""

BUSY = 503
"""What Triton answers when a queue is full, or a model is not loaded: it is alive."""


class UnhealthyError(Exception):
    """The server does not answer as it should; one line."""


class DeadError(UnhealthyError):
    """It is up and ready and fails all the same: only starting it again helps."""


def check_health(url: str = URL, *, model: str | None = None, timeout: float = 5) -> list[str]:
    """The ensembles that answer at ``url``: all that ``anydepth-deploy triton`` wrote and the
    server has loaded, or ``model`` alone.

    ``timeout``: seconds for everything. Raises :class:`UnhealthyError` where the server cannot be
    reached, is not ready, has no such ensemble or does not answer in time, and :class:`DeadError`
    where it is ready and a picture fails.
    """
    calls = _Calls(url.rstrip("/"), time.monotonic() + timeout)
    calls("/v2/health/ready")
    index = calls("/v2/repository/index", {})
    if not isinstance(index, list):
        raise UnhealthyError(f"{url} is no Triton server: it gives no list of models")
    loaded = {str(row.get("name")) for row in index if row.get("state") == "READY"}
    if model is not None and model not in loaded:
        raise UnhealthyError(f"the Triton server at {url} has not loaded the model '{model}'")
    configs = {name: calls(f"/v2/models/{name}/config") for name in sorted(loaded)}
    found = [
        name
        for name, config in configs.items()
        if model in (None, name)
        and config.get("platform") == "ensemble"
        and "classes" in config.get("parameters", {})
    ]
    if not found:
        raise UnhealthyError(
            f"the Triton server at {url} has no ensemble of 'anydepth-deploy triton'"
            f"{'' if model is None else f' called {model}'}"
        )
    for name in found:
        for _ in range(2 * _processes(configs[name], configs)):
            calls.picture(name)
    return found


def _processes(ensemble: dict[str, Any], configs: dict[str, Any]) -> int:
    """The most processes that one step of an ensemble has."""
    steps = [step["model_name"] for step in ensemble["ensemble_scheduling"]["step"]]
    groups = [group for step in steps for group in configs.get(step, {}).get("instance_group", ())]
    return max([int(group.get("count", 1)) for group in groups], default=1)


class _Calls:
    """Requests to one server until a deadline (of :func:`time.monotonic`)."""

    def __init__(self, url: str, deadline: float) -> None:
        self._url, self._deadline = url, deadline

    def __call__(self, path: str, body: object = None) -> Any:
        """The answer to a request, with a ``body`` in JSON or without; None where it is empty.

        Raises :class:`UnhealthyError`.
        """
        try:
            return self._answer(path, body)
        except urllib.error.HTTPError as error:
            raise UnhealthyError(self._line(path, f"{error.code}, {_reason(error)}")) from None

    def picture(self, model: str) -> None:
        """Send a small picture to an ensemble."""
        image = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, SIDE, SIDE, 3],
            "data": [0] * (SIDE * SIDE * 3),
        }
        path = f"/v2/models/{model}/infer"
        try:
            self._answer(path, {"inputs": [image], "outputs": [{"name": "boxes"}]})
        except urllib.error.HTTPError as error:
            dead = error.code >= 500 and error.code != BUSY
            kind = DeadError if dead else UnhealthyError
            raise kind(self._line(path, f"{error.code}, {_reason(error)}")) from None

    def _answer(self, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise UnhealthyError(self._line(path, "no time is left for an answer"))
        try:
            with urllib.request.urlopen(request, timeout=left) as answer:
                text = answer.read(BODY_LIMIT)
                return json.loads(text) if text.strip() else None
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            raise UnhealthyError(self._line(path, str(cause) or type(cause).__name__)) from None

    def _line(self, path: str, what: str) -> str:
        return f"the Triton server at {self._url} ({path}): {' '.join(what.split())[:300]}"


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
    on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m anydepth_deploy.serve.health",
        description="Send small pictures through the ensembles of a Triton server.",
    )
    parser.add_argument("url", nargs="?", default=URL, help=f"default: {URL}")
    parser.add_argument("--model", help="one ensemble; default: all that are loaded")
    parser.add_argument("--timeout", type=float, default=5, help="seconds in all; default: 5")
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
        return 1
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

"""A Triton server on this machine's loopback, for as long as a ``with`` block lasts."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from triton_server.environment import ROOT, Environment
from triton_server.leftovers import clean, record, remove, server_name

__all__ = ["LocalServer", "ServerError"]

LAUNCH = Path(__file__).with_name("launch.py")
HOST = "127.0.0.1"
BACKENDS = ("python", "onnxruntime", "tensorrt")
REGION = "shm-region-prefix-name"
"""Of backends in Python: what the names of their shared memory begin with."""

GRACE = 10
"""Seconds for what is under way, and for unloading, when the server is told to end."""

ATTEMPTS = 3
"""Free ports are found before the server takes them; somebody else may be faster."""


class ServerError(Exception):
    """The server did not start; the message ends with the errors of its log."""


class LocalServer:
    """A running ``tritonserver`` over ``repository``, reachable from this machine only.

    ``options``: further options of tritonserver; paths in them are absolute. ``explicit``: models
    are loaded when asked for, starting with none. ``log``: the file that takes the server's output.
    ``wait``: seconds until it must be ready. Ends with the ``with`` block, and with this process,
    however that ends; what servers left behind that were killed is removed when the next one
    starts.

    Raises :class:`ServerError` when it ends instead of becoming ready: by default Triton does when
    a model of the repository cannot be loaded.
    """

    def __init__(
        self,
        environment: Environment,
        repository: str | Path,
        *,
        log: str | Path,
        options: Sequence[str] = (),
        explicit: bool = False,
        wait: float = 120,
    ) -> None:
        self.environment = environment
        # Wherever this process goes while the server runs.
        self.repository = Path(repository).resolve()
        self.log = Path(log).resolve()
        self.options = [*options, *(["--model-control-mode=explicit"] if explicit else [])]
        self.wait = wait
        self._process: subprocess.Popen[bytes] | None = None
        self._name = server_name(f"{os.getpid()}-{time.time_ns():x}")

    def __enter__(self) -> LocalServer:
        clean()
        for attempt in range(ATTEMPTS):
            self.http_port, self.grpc_port, self.metrics_port = _free_ports(3)
            try:
                self._start()
            except ServerError as error:
                if attempt + 1 < ATTEMPTS and "already in use" in str(error):
                    continue
                raise
            break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def http(self) -> str:
        """Address of the HTTP port, as tritonclient takes it."""
        return f"{HOST}:{self.http_port}"

    @property
    def grpc(self) -> str:
        """Address of the gRPC port."""
        return f"{HOST}:{self.grpc_port}"

    @property
    def pid(self) -> int | None:
        """Of the server's process; None where it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def name(self) -> str:
        """What the names of the server's shared memory begin with."""
        return self._name

    def ended(self, seconds: float) -> bool:
        """Whether the server's process ends, by itself or told by others, within so many
        seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(seconds)
        return self._process is None or self._process.poll() is not None

    def metrics(self) -> str:
        """All metrics, in the text format of Prometheus."""
        address = f"http://{HOST}:{self.metrics_port}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return str(answer.read().decode())

    def stop(self) -> None:
        """End the server; what is under way is answered first."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(GRACE + 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        remove(self._name)

    def _start(self) -> None:
        command = [
            *(sys.executable, str(LAUNCH), str(os.getpid())),
            str(self.environment.server),
            f"--model-repository={self.repository}",
            f"--backend-directory={self.environment.backends}",
            *(f"--{service}-address={HOST}" for service in ("http", "grpc", "metrics")),
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            # Connections that clients keep open, but do not use, would hold the end up for longer.
            f"--exit-timeout-secs={GRACE}",
            # So that what a server leaves behind when it is killed is known to be its own.
            *(f"--backend-config={name},{REGION}={self._name}" for name in BACKENDS),
            *self.options,
        ]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment.variables(),
                # Processes of Python models import from here; PYTHONPATH does not reach them.
                cwd=ROOT,
                # Ctrl-C reaches this process only, which then ends the server in order.
                start_new_session=True,
            )
        try:
            record(self._name, self._process.pid)
            self._await_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.wait
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"tritonserver ended with {process.returncode}: {self.errors()}")
            address = f"http://{self.http}/v2/health/ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                return
            time.sleep(0.1)
        raise ServerError(f"tritonserver is not ready after {self.wait:.0f} s: {self.errors()}")

    def errors(self) -> str:
        """The errors in the server's log, in one line."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        texts = [re.sub(r"^E\d+ .*?\] ", "", line).strip(' "') for line in lines if line[:1] == "E"]
        # What a server without a GPU says of CUDA is no reason.
        found = [text for text in texts if "Cuda" not in text and "CUDA" not in text]
        found += [line.strip() for line in lines if line.startswith("error:")]
        return "; ".join(found[:4])[:1000] or f"see {self.log}"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind((HOST, 0))
        return [int(item.getsockname()[1]) for item in sockets]

"""Servers that lost a process or were killed: noticed, and cleaned up after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import triton_graphs
from conftest import ROOT
from process_memory import children
from triton_serving import environment, infer, serve, until, write

from anydepth_deploy.serve.health import DeadError, check_health, main
from triton_server.leftovers import SHARED
from triton_server.server import LocalServer

PICTURE = {"image": np.zeros((1, 8, 8, 3), np.uint8)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, with two processes for preprocessing each."""
    environment()
    folder = tmp_path_factory.mktemp("broken")
    for name in ("one", "two"):
        bundle = triton_graphs.bundle(folder / name, ["gated"])
        write(bundle, folder / "repository", name, workers=2)
    return folder / "repository"


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[LocalServer]:
    # Processes that are gone are waited for when it ends.
    with serve(repository, tmp_path / "log", options=["--exit-timeout-secs=1"]) as server:
        yield server


def processes(pid: int | None, model: str) -> list[int]:
    """Those of one Python model."""
    assert pid is not None
    return [item for item, words in children(pid).items() if f"/{model}/1/model" in words]


def test_a_dead_process_is_noticed(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://{server.http}"
    assert check_health(url) == ["one", "two"]
    assert main([url]) == 0

    lost, kept = processes(server.pid, "two_preprocess")
    os.kill(lost, signal.SIGKILL)
    assert until(lambda: main([url, "--model", "two"]) == 1, 10)  # though the other one answers
    assert kept in processes(server.pid, "two_preprocess")
    assert check_health(url, model="one") == ["one"]

    (router,) = processes(server.pid, "one_router")
    os.kill(router, signal.SIGKILL)
    assert until(lambda: main([url, "--model", "one"]) == 1, 10)
    with pytest.raises(DeadError, match="'one_router_0_0' is not healthy"):
        check_health(url, model="one")
    # Why nobody else notices; a Triton that says so itself needs none of this.
    for path in ("health/ready", "models/one/ready", "models/one_router/ready"):
        with urllib.request.urlopen(f"{url}/v2/{path}", timeout=5) as answer:
            assert answer.status == 200

    capsys.readouterr()
    ended = server.pid
    assert main([url, "--end", str(ended)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("unhealthy: the Triton server at ")
    assert lines[1:] == [f"process {ended} was told to end"]
    assert server.ended(30)


PARENT = """
import os, sys, time
from triton_server.environment import ensure
from triton_server.server import LocalServer

server = LocalServer(ensure(), sys.argv[1], log="log")
with server:
    os.chdir("/")
    print(server.pid, server.http_port, flush=True)
    time.sleep(60)
"""


def owned(name: str) -> list[Path]:
    return list(SHARED.glob(f"{name}*"))


def test_a_killed_server_is_cleaned_up_after(repository: Path, tmp_path: Path) -> None:
    """It was started with relative paths in a folder of its own, and with its parent it is killed
    before either can do anything about what they have."""
    (tmp_path / "models").symlink_to(repository)
    (tmp_path / "empty").mkdir()
    with (
        serve(tmp_path / "empty", tmp_path / "other.log", explicit=True) as other,
        subprocess.Popen(
            [sys.executable, "-c", PARENT, "models"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as parent,
    ):
        assert parent.stdout is not None
        pid, port = map(int, parent.stdout.readline().split())
        other_http, other.http_port = other.http_port, port
        assert infer(other, "http", "one", PICTURE)["depth_row"].tolist() == [2]
        other.http_port = other_http
        stubs = children(pid)
        name = f"anydepth-server-{parent.pid}-"
        assert len(owned(name)) > 8
        os.kill(min(stubs), signal.SIGSTOP)  # one that will not notice that its server is gone
        parent.kill()
        os.kill(pid, signal.SIGKILL)
        parent.wait(10)
        assert until(lambda: not running(pid))
        assert owned(name), "nothing is left that could be cleaned up"
        assert running(min(stubs))

        mine = owned(other.name)
        assert mine
        with serve(tmp_path / "empty", tmp_path / "next.log", explicit=True):
            assert not owned(name)
            assert until(lambda: not any(running(stub) for stub in stubs))
            assert set(mine) <= set(owned(other.name))


def running(pid: int) -> bool:
    """Whether the process is there; one that ended, and that nobody asked how, is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_the_demo_starts_in_any_folder(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "triton_server" / "demo.py"), "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--family" in done.stdout

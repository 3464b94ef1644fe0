"""The local server's own behaviour, and the client example: what people run at a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import handmade
import numpy as np
import pytest
import triton_graphs
from PIL import Image
from triton_serving import environment, serve, until, write

from anydepth_deploy.serve.check.repository import check_repository
from triton_server import client, prometheus
from triton_server import environment as environment_module
from triton_server.environment import Environment, SetupError, ensure
from triton_server.leftovers import SHARED
from triton_server.server import LocalServer, ServerError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Serves one gated graph."""
    environment()
    folder = tmp_path_factory.mktemp("local")
    write(triton_graphs.bundle(folder / "bundle", ["gated"]), folder / "repository", "telling")
    options = ["--disable-auto-complete-config"]
    with serve(folder / "repository", folder / "log", options=options) as server:
        yield server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    array = np.full((40, 100, 3), 51, np.uint8)
    array[10:20] = 255
    Image.fromarray(array).save(path)
    return path


# --- the client ------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_gets_what_the_server_computes(
    server: LocalServer, picture: Path, protocol: str, shared: bool
) -> None:
    array = np.asarray(Image.open(picture))
    with client.Detector(
        getattr(server, protocol), protocol=protocol, shared_memory=shared
    ) as detector:
        assert detector.model == "telling"
        assert detector.classes == ["circle", "square", "star"]
        for depth, row in (("base", 0), (None, 2), ("FT-2", 3), ("7", 7)):
            for pixels in (array, array[:, ::2], np.tile(array, (3, 3, 1))):
                answer = detector.detect(pixels, depth)
                assert answer.row == row
                assert (answer.found.labels == row + triton_graphs.GATED).all()
                assert np.array_equal(answer.found.scores[0], triton_graphs.SHARES)
                assert answer.milliseconds > 0
    assert not list(SHARED.glob("anydepth-client-*"))


def name_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names for the graphs' labels, which say who computed them and are not those of classes."""
    names = [f"class {index}" for index in range(triton_graphs.GATED + len(handmade.MACS))]
    monkeypatch.setattr(client, "_names", lambda given: names if "classes" in given else [])


def run(server: LocalServer, picture: Path, *options: str) -> int:
    return client.main([str(picture), "--url", server.http, *options])


def test_the_client_prints_json_and_draws(
    server: LocalServer,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_labels(monkeypatch)
    drawing = tmp_path / "new" / "boxes.png"
    assert run(server, picture, "--depth", "base,super", "--json", "--out", str(drawing)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "telling"
    assert [answer["depth"] for answer in found["answers"]] == ["base", "super"]
    assert [answer["row"] for answer in found["answers"]] == [0, 2]
    first = found["answers"][0]["detections"][0]
    assert first["class"] == "class 100"
    assert first["score"] == 1
    assert len(found["answers"][0]["detections"]) == (triton_graphs.SHARES >= 0.5).sum()
    with Image.open(drawing) as image:
        assert image.width > 2 * 600
    assert run(server, picture, "--threshold", "0.9") == 0
    printed = capsys.readouterr().out
    assert "street.png at default (row 2)" in printed
    assert printed.count("class 102") == 1


def test_the_client_says_in_one_line_what_is_wrong(
    server: LocalServer,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_labels(monkeypatch)
    text = tmp_path / "text.png"
    text.write_text("no picture", encoding="utf-8")
    for path, options, message in (
        (tmp_path / "missing.png", (), "missing.png does not exist"),
        (text, (), "is not a picture of a kind that is read"),
        (picture, ("--depth", "bose"), "unknown depth 'bose'"),
        (picture, ("--model", "nobody"), "nobody"),
        (picture, ("--model", "telling_router"), "is no ensemble of 'anydepth-deploy triton'"),
        (picture, ("--url", "127.0.0.1:1"), "the Triton server at 127.0.0.1:1: "),
        (picture, ("--url", "127.0.0.1:1", "--protocol", "grpc", "--timeout", "5"), "127.0.0.1:1"),
        (picture, ("--url", "nonsense"), "the Triton server at nonsense: "),
        (picture, ("--out", str(text / "x.png")), "cannot be written"),
        # Before anybody is asked.
        (picture, ("--url", "nonsense", "--out", str(text / "x.png")), "cannot be written"),
    ):
        assert client.main([str(path), "--url", server.http, *options]) == 2, message
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert message in printed.err
        assert printed.err.count("\n") == 1


# --- the server ------------------------------------------------------------------------------

PARENT = """
import signal, sys, time
from pathlib import Path
from triton_server.environment import ensure
from triton_server.server import LocalServer

# A shell that runs this in the background has Python ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
(folder / "repository").mkdir()
with LocalServer(ensure(), folder / "repository", log=folder / "log", explicit=True) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_with_its_parent(tmp_path: Path, way: signal.Signals) -> None:
    environment()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(way)
        parent.wait(30)
        assert until(lambda: not alive(pid), 30)


def test_the_server_listens_on_this_machine_only(server: LocalServer) -> None:
    ports = {server.http_port, server.grpc_port, server.metrics_port}
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(port, 16) in ports:  # listens
                found.add((int(port, 16), address))
    assert {port for port, _ in found} == ports
    # 127.0.0.1, as IPv6 writes it, too.
    assert {address for _, address in found} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_two_servers_run_beside_each_other(server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty", tmp_path / "log", explicit=True) as other:
        assert other.http != server.http
        assert "nv_" in server.metrics()


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("telling/config.pbtxt", "telling_router", "telling_rooter", "telling_rooter"),
        ("telling_gated/config.pbtxt", '"scores"', '"store"', "telling_gated"),
        ("telling_gated/config.pbtxt", "TYPE_FP32", "TYPE_FP23", "telling_gated"),
        ("telling_router/1/manifest.json", '"gates"', '"gaits"', "telling_router"),
    ],
)
def test_a_broken_repository_is_refused_and_found(
    tmp_path: Path, file: str, old: str, new: str, reason: str
) -> None:
    environment()
    repository = tmp_path / "repository"
    write(triton_graphs.bundle(tmp_path / "bundle", ["gated"]), repository, "telling")
    path = repository / file
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")
    problems = [str(problem) for problem in check_repository(repository)]
    assert any(file in problem for problem in problems)
    options = ["--disable-auto-complete-config"]
    with (
        pytest.raises(ServerError, match=reason) as refused,
        serve(repository, tmp_path / "log", options=options),
    ):
        pass
    assert "\n" not in str(refused.value)


# --- the environment -------------------------------------------------------------------------


def test_setting_up_again_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()

    def install(_: Environment) -> None:
        raise AssertionError

    monkeypatch.setattr(environment_module, "_install", install)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: ensure(), range(8))) == {found}


def test_what_is_half_set_up_is_set_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def install(found: Environment) -> None:
        calls.append(found)
        if len(calls) == 1:
            raise SetupError("pip install for the local Triton server failed: no network")

    monkeypatch.setattr(environment_module, "_install", install)
    with pytest.raises(SetupError, match="no network"):
        ensure(tmp_path / "new")
    ensure(tmp_path / "new")
    ensure(tmp_path / "new")
    assert len(calls) == 2
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(SetupError, match="cannot be made"):
        ensure(tmp_path / "file")


def test_an_environment_that_cannot_be_had_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_module, "NEWEST_PYTHON", (3, 9))
    with pytest.raises(SetupError, match=r"needs numpy 1, which Python 3\.\d+ does not have"):
        ensure(tmp_path / "new")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SetupError, match="Linux on x86-64"):
        ensure(tmp_path / "new")


def test_versions_agree_with_those_of_the_project() -> None:
    """Or results would not be comparable bit by bit."""
    pinned = environment_module.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in pinned:
        if line and not line.startswith(("#", "numpy")):
            assert line in constraints
    assert "PYTHONHOME" not in Environment(ROOT).variables()
    assert os.environ["PATH"] in Environment(ROOT).variables()["PATH"]


def test_metrics_are_read() -> None:
    text = '# HELP a what\na{x="1",y="b c"} 2\na{x="2"} 3.5\nb 1e3\nd{x="\\"},y"} 4\n'
    assert prometheus.total(text, "a") == 5.5
    assert prometheus.total(text, "a", x="1") == 2
    assert prometheus.total(text, "b") == 1000
    assert prometheus.total(text, "c") == 0
    assert prometheus.total(text, "d", x='"},y') == 4

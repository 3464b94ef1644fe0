"""The health check against a server that says what a test wants; a real one is elsewhere."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from anydepth_deploy.serve import health
from anydepth_deploy.serve.health import DeadError, UnhealthyError, check_health, main

DEAD = "in ensemble 'best', Stub process 'best_router_0_0' is not healthy."


def _configs() -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {
            "platform": "ensemble",
            "parameters": {"classes": {"string_value": "[]"}},
        }
        for name in ("best", "other")
    }
    found["somebody_elses"] = {"platform": "ensemble", "parameters": {}}
    found["their model"] = found["somebody_elses_router"] = {}
    for name in ("best", "other"):
        for part, count in (("preprocess", 3), ("router", 1), ("postprocess", 2)):
            found[f"{name}_{part}"] = {"instance_group": [{"count": count}]}
    return found


@dataclass
class Fake:
    """What the server answers; ``asked``: the ensembles that pictures were sent to."""

    ready: int = 200
    configs: dict[str, Any] = field(default_factory=_configs)
    fails: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    slow: float = 0
    asked: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    once: bool = False
    url: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        word = [unquote(part) for part in path.split("/")]
        if path == "/v2/health/ready":
            return self.ready, b""
        if path == "/v2/repository/index":
            rows = [{"name": name, "state": "READY"} for name in self.configs]
            return 200, json.dumps([*rows, {"name": "gone", "state": "UNAVAILABLE"}]).encode()
        if word[-1] == "config":
            self.told.append(word[3])
            return 200, json.dumps(self.configs[word[3]]).encode()
        time.sleep(self.slow)
        for item in json.loads(body)["inputs"]:
            assert len(item["data"]) == math.prod(item["shape"])
        self.asked.append(word[3])
        if self.once:
            return self.fails.pop(word[3], (200, b"{}"))
        return self.fails.get(word[3], (200, b"{}"))


@pytest.fixture
def fake() -> Iterator[Fake]:
    found = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, text = found.answer(self.path, body)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        server.shutdown()


def failed(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": message}).encode()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "AGAIN", 0.1)


def sent(name: str) -> list[str]:
    return [name] + [f"{name}_preprocess"] * 6 + [f"{name}_postprocess"] * 4


def test_every_ensemble_of_ours_is_asked_and_every_process_around_it_twice(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_health(fake.url + "/") == ["best", "other"]
    assert fake.asked == sent("best") + sent("other")
    assert main([fake.url.removeprefix("http://"), "--model", "other"]) == 0
    assert capsys.readouterr().out == "healthy: other\n"
    assert fake.asked[22:] == sent("other")
    assert "their model" not in fake.told
    assert set(fake.told[-3:]) == {"other", "other_preprocess", "other_postprocess"}


def test_no_proxy_of_the_environment_is_asked(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert check_health(fake.url) == ["best", "other"]


def test_names_of_models_are_quoted(fake: Fake) -> None:
    fake.configs["a model/?"] = fake.configs["best"]
    for part in ("preprocess", "router", "postprocess"):
        fake.configs[f"a model/?_{part}"] = fake.configs[f"best_{part}"]
    assert check_health(fake.url, model="a model/?") == ["a model/?"]
    assert fake.asked == sent("a model/?")


def test_a_failure_that_does_not_come_again_ends_nobody(fake: Fake) -> None:
    fake.once = True
    fake.fails["best"] = failed(500, DEAD)
    with pytest.raises(UnhealthyError, match=r"healthy\.; 0\.1 s later it answered") as told:
        check_health(fake.url)
    assert not isinstance(told.value, DeadError)
    fake.fails = {"best": failed(500, DEAD), "other": failed(500, DEAD)}
    with pytest.raises(UnhealthyError, match="models/other/infer") as told:
        check_health(fake.url)
    assert not isinstance(told.value, DeadError)


def test_a_dead_process_that_another_request_meets_counts(fake: Fake) -> None:
    """Of two processes one is dead: the first time a picture meets it, the second time it does
    not."""
    fake.once = True
    fake.fails = {"best": failed(500, DEAD), "best_preprocess": failed(500, DEAD)}
    with pytest.raises(DeadError, match="models/best_preprocess/infer"):
        check_health(fake.url)


def test_only_a_dead_one_may_count(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([fake.url, "--only-dead"]) == 0
    fake.fails["best"] = failed(503, "too many images are waiting")
    assert main([fake.url, "--only-dead"]) == 0
    assert main([fake.url]) == 1
    fake.fails["best"] = failed(500, DEAD)
    assert main([fake.url, "--only-dead"]) == 1
    assert capsys.readouterr().err.count("unhealthy: ") == 3


def test_a_server_that_is_ready_and_fails_is_dead(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fails["other"] = failed(500, DEAD)
    with pytest.raises(DeadError, match=r"/v2/models/other/infer\): 500, in ensemble"):
        check_health(fake.url)
    assert check_health(fake.url, model="best") == ["best"]
    assert main([fake.url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("unhealthy: ")
    assert printed.err.count("\n") == 1


def _not_ready(fake: Fake) -> None:
    fake.ready = 400


def _without_ours(fake: Fake) -> None:
    fake.configs = {name: item for name, item in fake.configs.items() if name.startswith("some")}


def _full(fake: Fake) -> None:
    fake.fails["best"] = failed(503, "Exceeds maximum\nqueue size")


def _reloading(fake: Fake) -> None:
    text = "in ensemble 'best', Failed to process the request(s) for model instance, message: "
    fake.fails["best"] = failed(500, f"{text}Model best_gated is not ready.")


def _refusing(fake: Fake) -> None:
    fake.fails["best"] = (400, b"\xff no JSON")


def _slow(fake: Fake) -> None:
    fake.slow = 0.4


def _silent(fake: Fake) -> None:
    fake.url = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_not_ready, "/v2/health/ready): 400"),
        (_without_ours, "has no ensemble of 'anydepth-deploy triton'"),
        (_full, "503, Exceeds maximum queue size"),
        (_reloading, "500, in ensemble 'best', Failed to process"),
        (_refusing, "400, "),
        (_slow, "/v2/models/best/infer"),
        (_silent, "Connection refused"),
    ],
)
def test_a_server_that_may_recover_is_not_ended(
    fake: Fake, change: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(fake)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert main([fake.url, "--timeout", "0.3", "--end", str(other.pid)]) == 1
        assert other.poll() is None
        other.kill()
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.err.count("\n") == 1


def test_a_dead_server_is_ended(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.fails["best"] = failed(500, DEAD)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert main([fake.url, "--end", str(other.pid)]) == 1
        assert other.wait(10) != 0
        assert f"process {other.pid} was told to end" in capsys.readouterr().err
    assert main([fake.url, "--end", str(other.pid)]) == 1
    assert "cannot be ended: No such process" in capsys.readouterr().err


def test_a_model_that_is_not_loaded(fake: Fake) -> None:
    with pytest.raises(UnhealthyError, match="has not loaded the model 'gone'"):
        check_health(fake.url, model="gone")
    with pytest.raises(UnhealthyError, match=r"has no ensemble .* called best_router"):
        check_health(fake.url, model="best_router")


def test_it_starts_quickly_anywhere() -> None:
    """Every few seconds, in a container with nothing but the deployment half."""
    code = (
        "import sys; before = set(sys.modules); import anydepth_deploy.serve.health\n"
        "print({name.split('.')[0] for name in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'anydepth_deploy'}"

"""The repository as an archive over HTTP: what the component's init container does, done."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from kubernetes_files import FOLDER, compose
from kustomize import build, one


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/models.tar.gz"
        server.shutdown()
        thread.join()


def archive(path: Path, name: str) -> str:
    """Its sha256."""
    with tarfile.open(path, "w:gz") as file:
        content = b"name: 'best'"
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(tmp_path: Path, url: str, expected: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "kustomization").mkdir(exist_ok=True)
    found = build(compose(tmp_path / "kustomization", "overlays/cpu", ["models-http"]))
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    assert "persistentVolumeClaim" not in spec["volumes"][0]
    (container,) = spec["initContainers"]
    assert container["command"][0] == "python3"
    assert container["command"][-1] == "/models"
    assert {item["name"] for item in container["env"]} == {"MODELS_URL", "MODELS_SHA256"}
    (tmp_path / "models").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *container["command"][1:-1], str(tmp_path / "models")],
        env={**os.environ, "MODELS_URL": url, "MODELS_SHA256": expected, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_fetched_and_unpacked(tmp_path: Path, url: str) -> None:
    expected = archive(tmp_path / "web" / "models.tar.gz", "./best/config.pbtxt")
    done = fetch(tmp_path, url, expected)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "models/best/config.pbtxt").read_text("utf-8") == "name: 'best'"


def test_another_is_not_unpacked(tmp_path: Path, url: str) -> None:
    found = archive(tmp_path / "web" / "models.tar.gz", "best/config.pbtxt")
    done = fetch(tmp_path, url, "0" * 64)
    assert done.returncode == 1
    assert done.stderr == f"{url} has sha256 {found}, not {'0' * 64}\n"
    assert not list((tmp_path / "models").iterdir())


def test_nothing_is_written_elsewhere(tmp_path: Path, url: str) -> None:
    expected = archive(tmp_path / "web" / "models.tar.gz", "../outside")
    assert fetch(tmp_path, url, expected).returncode == 1
    assert not (tmp_path / "outside").exists()


def test_nothing_is_preset() -> None:
    """Neither address nor sha256 is one that could be taken by mistake."""
    text = (FOLDER / "components/models-http/deployment.yaml").read_text("utf-8")
    assert "example.com" in text
    assert '"' + "0" * 64 + '"' in text

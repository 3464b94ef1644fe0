"""Pictures of a web server: one that answers, and all the ways in which one does not."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from listening import listening_detector
from PIL import Image

from anydepth_deploy.detector.urls import fetch
from anydepth_deploy.errors import ImageError
from anydepth_deploy.pictures.images import load_image
from anydepth_deploy.version import __version__

PIXELS = 10_000
"""The budget of these tests: at most 4 bytes for each, and 1 MiB."""


def content(kind: str = "png") -> bytes:
    file = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(file, format=kind, exif=exif)
    return file.getvalue()


class Answers(BaseHTTPRequestHandler):
    asked: list[tuple[str, str]] = []  # noqa: RUF012  # of the whole server
    stop = threading.Event()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        type(self).asked.append((self.path, self.headers["User-Agent"]))
        answer: Callable[[], None] = getattr(self, f"get_{path[1:].split('.')[0]}", self.nothing)
        answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def head(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def get_picture(self) -> None:
        self.head(Content_Length=str(len(content())))
        self.wfile.write(content())

    def get_unsized(self) -> None:
        self.head()
        self.wfile.write(content())

    def get_moved(self) -> None:
        self.head(302, Location="/picture.png")

    def get_circle(self) -> None:
        self.head(302, Location="/circle")

    def get_away(self) -> None:
        self.head(302, Location="file:///etc/passwd")

    def get_ftp(self) -> None:
        self.head(302, Location="ftp://127.0.0.1/picture.png")

    def get_page(self) -> None:
        self.head()
        self.wfile.write(b"<html>not a picture</html>")

    def get_cut(self) -> None:
        self.head(Content_Length=str(len(content())))
        self.wfile.write(content()[:1000])

    def get_huge(self) -> None:
        self.head()
        for _ in range(200):
            self.wfile.write(bytes(1 << 16))

    def get_silent(self) -> None:
        self.stop.wait(20)

    def get_slow(self) -> None:
        self.head(Content_Length="100000")
        while not self.stop.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()

    def get_rude(self) -> None:
        self.wfile.write(b"what do you want?\r\n\r\n")

    def nothing(self) -> None:
        self.send_error(404)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Answers.asked.clear()
    Answers.stop.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        found.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        Answers.stop.set()
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "name", ["picture.png", "picture.png?size=1&of=%C3%A4#here", "unsized", "moved"]
)
def test_what_a_server_gives(server: str, name: str) -> None:
    assert fetch(f"{server}/{name}", PIXELS) == content()
    assert Answers.asked[0][1] == f"anydepth-deploy/{__version__}"


def test_letters_that_no_address_has_are_written_otherwise(server: str) -> None:
    assert fetch(f"{server}/picture.png?of=ä ö", PIXELS) == content()
    assert Answers.asked[0][0] == "/picture.png?of=%C3%A4%20%C3%B6"


REFUSED = {
    "nowhere.png": "cannot be fetched: the server answers 404 Not Found",
    "circle": "cannot be fetched: the server answers 302",
    "away": "cannot be fetched: the server answers 302",
    "ftp": "cannot be fetched: unknown url type: ftp",
    "cut": r"was cut short: 1000 of \d+ bytes came; try again",
    "huge": "has more than 1088576 bytes, which no picture within the budget of 10000 pixels has",
    "rude": "cannot be fetched",
}


@pytest.mark.parametrize("name", REFUSED)
def test_answers_that_are_none(server: str, name: str) -> None:
    with pytest.raises(ImageError, match=f"^picture {server}/{name} .*{REFUSED[name]}") as caught:
        fetch(f"{server}/{name}", PIXELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["silent", "slow"])
def test_a_server_that_takes_its_time(server: str, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"did not come in 0\.3 s; try again, or raise timeout"):
        fetch(f"{server}/{name}", PIXELS, timeout=0.3)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://127.0.0.1:port/x.png",
        "http://127.0.0.1:99999/x.png",
        "http://[::1/x.png",
        "http://no such host/x.png",
        "http://127.0.0.1\r\nX-Odd: 1/x.png",
        "https://127.0.0.1:1/x.png",
    ],
)
def test_addresses_of_nothing(url: str, server: str) -> None:
    with pytest.raises(ImageError, match="cannot be fetched") as caught:
        fetch(url, PIXELS, timeout=5)
    assert "\n" not in str(caught.value)
    assert Answers.asked == []


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x.png"
        with pytest.raises(ImageError, match=r"cannot be fetched: .*refused"):
            fetch(url, PIXELS)


def test_a_proxy_of_the_environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ImageError, match="404"):  # a server is no proxy, and has been asked
        fetch("http://elsewhere.invalid/x.png", PIXELS)
    assert Answers.asked[0][0] == "http://elsewhere.invalid/x.png"


def test_a_detector_of_addresses(server: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content())
    detector, session = listening_detector(tmp_path)
    one, other = detector([f"{server}/picture.png", tmp_path / "x.png"])
    assert np.array_equal(session.inputs[0], session.inputs[1])
    assert (one.path, one.size) == (f"{server}/picture.png", (80, 50))
    # It was fetched once, and is there when it is drawn.
    assert np.array_equal(one.image, load_image(tmp_path / "x.png"))
    assert np.array_equal(one.image, other.image)
    assert len(Answers.asked) == 1
    with pytest.raises(ImageError, match=f"picture {server}/page is not a picture of a kind"):
        detector(f"{server}/page")
    small, _ = listening_detector(tmp_path, max_pixels=3999)
    with pytest.raises(ImageError, match=r"picture.png of 80 x 50 pixels is over the budget"):
        small(f"{server}/picture.png")
    late, _ = listening_detector(tmp_path, timeout=0.2)
    with pytest.raises(ImageError, match=r"silent did not come in 0\.2 s"):
        late(f"{server}/silent")

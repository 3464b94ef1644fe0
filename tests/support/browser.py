"""A real browser without a screen, what it opens, and ONNX Runtime Web: found, or a visible reason.

Chromium comes from the distribution's packages, Playwright drives it, npm brings the runtime. Where
one of them is missing, tests are skipped and say why; with ``ANYDEPTH_REQUIRE_BROWSER=1`` they
fail.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

import pytest
from once import locked

from anydepth_deploy.errors import UsageError
from anydepth_deploy.page.runtime import check_runtime, kept_runtime

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = [
    "REQUIRED",
    "absent",
    "browser",
    "served",
    "web_runtime",
]

REQUIRED = "ANYDEPTH_REQUIRE_BROWSER"
"""Environment variable: a missing browser is a failure."""

BROWSER = "ANYDEPTH_BROWSER"
"""Environment variable: the browser's program, where it is not on the path."""

RUNTIME = "ANYDEPTH_WEB_RUNTIME"
"""Environment variable: a folder with the runtime's files, where npm is not to be asked."""

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

KEPT = Path(__file__).resolve().parent.parent.parent / "build" / "onnxruntime-web"
"""Where the runtime stays between runs."""


def absent(reason: str) -> NoReturn:
    """Skip the test for ``reason``, or fail where a browser is required."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)


def program() -> str:
    """The browser's program; see :func:`absent`."""
    named = os.environ.get(BROWSER)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        absent(f"there is no {named or ', '.join(PROGRAMS)}: install Chromium, or set {BROWSER}")
    return found


@contextlib.contextmanager
def browser(*flags: str) -> Iterator[Browser]:
    """Chromium, without a screen and with ``flags`` more, for as long as this is open; see
    :func:`absent`. One for a module of tests: it takes a second to start."""
    if importlib.util.find_spec("playwright") is None:
        absent("Playwright, which drives the browser, is not installed: pip install playwright")
    path = program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield opened
        finally:
            opened.close()


def web_runtime() -> Path:
    """The folder of ONNX Runtime Web's files, read only, as ``page`` keeps it; see
    :func:`absent`."""
    try:
        if named := os.environ.get(RUNTIME):
            return check_runtime(Path(named))
        KEPT.mkdir(parents=True, exist_ok=True)
        with locked(KEPT / "lock"), patch.dict(os.environ, XDG_CACHE_HOME=str(KEPT)):
            return kept_runtime()
    except UsageError as error:
        absent(str(error))


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with headers that give the page threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of ``folder`` on this machine, cross-origin isolated."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()

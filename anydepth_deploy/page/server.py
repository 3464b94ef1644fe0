"""A server of one folder on this machine only, with the headers that give a page threads."""

from __future__ import annotations

import functools
import http.server
from http import HTTPStatus
from pathlib import Path
from typing import Any

from anydepth_deploy.errors import UsageError

__all__ = ["HOST", "page_server"]

HOST = "127.0.0.1"

HEADERS = {
    # Memory that threads share is to be had only on a page that no other site can look into.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A page that was written anew is the one that is shown.
    "Cache-Control": "no-cache",
}

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
"""Given here: what the system says of suffixes differs, and modules of another type are refused."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = TYPES

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self) -> Any:
        # A site of somebody else whose name leads here must not read the page (DNS rebinding).
        # Browsers leave out the port where it is the usual one, 80.
        named = self.headers.get("Host", "").partition(":")[0]
        if named not in (HOST, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        path = Path(self.translate_path(self.path))
        if path.suffix not in TYPES and self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        # Links may lead anywhere.
        if not path.resolve().is_relative_to(Path(self.directory).resolve()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers end connections that they need no more: nobody is to be told."""

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


def page_server(folder: Path, port: int = 0) -> _Server:
    """A server of ``folder``, whose ``address`` is for browsers of this machine; its
    ``serve_forever`` serves. ``port``: 0 for a free one.

    Raises :class:`UsageError` where the port is not to be had.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        return _Server((HOST, port), handler)
    except OSError as error:
        raise UsageError(
            f"port {port} of this machine cannot be served at: {error.strerror or error}; choose "
            "another --port"
        ) from None

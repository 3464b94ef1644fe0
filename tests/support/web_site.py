"""The modules of the page served to a real browser, without the page around them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from browser import browser, served
from conftest import ROOT
from numpy.typing import NDArray

from anydepth_deploy.bundle.bundle import Bundle

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["ASSETS", "PIXELS", "add_bundle", "opened", "read_pixels"]

ASSETS = ROOT / "anydepth_deploy" / "page" / "assets"

PIXELS = """async (name) => {
  const { pixelsOf } = await import("/assets/picture.mjs");
  try {
    const { width, height, data } = await pixelsOf(name);
    let text = "";
    for (let at = 0; at < data.length; at += 8192) {
      text += String.fromCharCode(...data.subarray(at, at + 8192));
    }
    return [height, width, btoa(text)];
  } catch (error) {
    return error.message;
  }
}"""
"""The pixels of a picture of the site, as :func:`read_pixels` takes them, or what went wrong."""


@contextlib.contextmanager
def opened(folder: Path, runtime: Path | None = None) -> Iterator[Page]:
    """A page of a browser at the address of ``folder``, which gets links to the modules
    (``assets``) and to ONNX Runtime Web (``runtime``)."""
    (folder / "assets").symlink_to(ASSETS)
    if runtime is not None:
        (folder / "runtime").symlink_to(runtime)
    (folder / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    with served(folder) as address, browser() as program:
        page = program.new_page()
        page.goto(address)
        yield page


def add_bundle(site: Path, name: str, bundle: Bundle, **changes: Any) -> Path:
    """The folder ``name`` of the site with a page's description of the bundle and its first
    artifact; ``changes``: of its manifest. The path of the description."""
    folder = site / name
    folder.mkdir()
    (folder / "model.onnx").symlink_to(bundle.path / bundle.manifest.artifacts[0].file)
    manifest = {**bundle.manifest.model_dump(mode="json"), **changes}
    described = {"schema_version": 1, "model": "model.onnx", "manifest": manifest}
    (folder / "page.json").write_text(json.dumps(described))
    return folder / "page.json"


def read_pixels(found: Any) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] of what :data:`PIXELS` gives."""
    assert not isinstance(found, str), found
    height, width, data = found
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]

"""``page``: the folder that it writes, what it refuses, the runtime that it takes, its server."""

from __future__ import annotations

import functools
import http.client
import io
import json
import random
import re
import shutil
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from PIL import Image
from web_site import ASSETS

from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.documents import file_sha256
from anydepth_deploy.errors import BundleError, ImageError, UsageError
from anydepth_deploy.page import runtime
from anydepth_deploy.page.samples import MOST_PIXELS
from anydepth_deploy.page.server import page_server
from anydepth_deploy.page.site import PageOptions, describe, write_page
from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.suppression import Suppression

CDN = PageOptions(cdn="https://cdn.example/ort/")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small files in the place of ONNX Runtime Web, whose bytes are the wanted ones."""
    folder = tmp_path / "ort"
    folder.mkdir()
    wanted = {}
    for name in runtime.FILES:
        (folder / name).write_text(name)
        wanted[name] = file_sha256(folder / name)
    monkeypatch.setattr(runtime, "FILES", wanted)
    return folder


def test_the_folder_has_all_that_a_page_needs(
    run: Run, bundle: Bundle, names: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "page"
    found = run("page", bundle.path, bundle.path, "--out", out, "--runtime", names, "--json").json
    assert [item["folder"] for item in found["models"]] == ["models/tiny", "models/tiny-2"]
    assert found["runtime"] == "runtime/"
    assert found["bytes"] == sum(item.stat().st_size for item in out.rglob("*") if item.is_file())
    site = json.loads((out / "site.json").read_text())
    assert [item["folder"] for item in site["models"]] == ["models/tiny/", "models/tiny-2/"]
    graph = next(item for item in bundle.manifest.artifacts if item.layout == "gated")
    for model in site["models"]:
        folder = out / model["folder"]
        assert (folder / "model.onnx").read_bytes() == (bundle.path / graph.file).read_bytes()
        assert json.loads((folder / "page.json").read_text()) == describe(bundle)
    assert {item.name for item in (out / "runtime").iterdir()} == {*runtime.FILES}
    # Others may read what a server is to give out.
    assert stat.S_IMODE(out.stat().st_mode) & 0o055 == 0o055 & ~_umask()
    assert [item.name for item in out.parent.iterdir()] == ["page"]


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_everything_that_the_page_names_is_there(bundle: Bundle, tmp_path: Path) -> None:
    """What the document and the modules refer to, by a look at their text."""
    out = write_page([bundle], tmp_path / "page", CDN).path
    page = (out / "index.html").read_text()
    for name in re.findall(r'(?:href|src)="([a-z][^":]*)"', page):
        assert (out / name).is_file(), name
    ids = set(re.findall(r' id="([^"]+)"', page))
    for module in (out / "assets").iterdir():
        text = module.read_text()
        for name in re.findall(r'(?:from|import\() ?"\./([^"]+)"', text):
            assert (out / "assets" / name).is_file() or module.suffix != ".mjs", (module, name)
        # An element that is not there would end the page with an error.
        for name in re.findall(r'byId\("([^"]+)"\)', text):
            assert name in ids, (module.name, name)
    for name in re.findall(r'(?:for|aria-labelledby|list)="([^"]+)"', page):
        assert name in ids, name


def test_the_policy_lets_no_script_of_data_run(bundle: Bundle, tmp_path: Path) -> None:
    page = (write_page([bundle], tmp_path / "page", CDN).path / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["style-src"] == "'self'"
    assert not re.findall(r"<script(?![^>]* src=)| on[a-z]+=|<style| style=|javascript:", page)
    sources = "".join(item.read_text() for item in (tmp_path / "page" / "assets").iterdir())
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", sources
    )


def test_what_the_page_says_of_depths(bundle: Bundle) -> None:
    found = describe(bundle)
    table = bundle.table
    assert [row["depth"] for row in found["depths"]] == [str(depth) for depth in table.rows]
    assert [row["row"] for row in found["depths"]] == [*range(len(table.rows))]
    for row, depth in zip(found["depths"], table.rows, strict=True):
        assert row["macs"] == bundle.macs(depth)["total"]
        assert table.space.depth(row["settings"]) == depth
    assert [found["depths"][row]["depth"] for row in found["ladder"]] == bundle.manifest.ladder
    assert found["gates"][-1] == {"name": "decoder", "layers": 3, "choices": [3, 2, 1]}
    combinations = 1
    for gate in found["gates"]:
        combinations *= len(gate["choices"])
    assert combinations == len(found["depths"])  # as the page says


def test_what_was_recorded_of_machines_is_not_published(bundle_copy: Path, run: Run) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["results"] = {"bench": [{"host": "secret-machine"}]}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    assert run("page", bundle_copy, f"--cdn={CDN.cdn}", "--out", "out").code == 0
    text = Path("out/models/bundle/page.json").read_text()
    assert "secret-machine" not in text
    assert json.loads(text)["manifest"]["classes"] == manifest["classes"]


def test_pictures_of_ones_own(bundle: Bundle, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    hostile = '"><img src=x onerror=alert(1)>.png'
    image = Image.fromarray(render(0, 0, "val").image)
    image.save(pictures / hostile)
    image.save(pictures / "photo.jpg")
    image.save(pictures / "old.tiff")
    image.save(pictures / "lies.png", format="TIFF")
    for number in range(20):
        image.resize((32, 32)).save(pictures / f"z{number:02d}.png")
    out = write_page([bundle], tmp_path / "page", PageOptions(cdn=CDN.cdn, samples=pictures)).path
    samples = json.loads((out / "site.json").read_text())["samples"]
    assert len(samples) == 12
    assert samples[0] == {"file": "samples/1.png", "name": hostile}
    assert samples[-1]["name"] == "z19.png"
    only = PageOptions(cdn=CDN.cdn, samples=pictures / "lies.png")
    out = write_page([bundle], tmp_path / "page", only).path
    with Image.open(out / "samples" / "1.png") as opened:  # what no browser shows becomes PNG
        assert opened.format == "PNG"
    assert len([*(out / "samples").iterdir()]) == 1  # the page before is gone


def test_drawn_pictures_are_for_those_who_know_shapes(bundle_copy: Path, run: Run) -> None:
    run("bundle", "edit", bundle_copy, "--classes", ",".join(f"c{n}" for n in range(8)))
    found = run("page", bundle_copy, "--cdn", CDN.cdn, "--out", "o", "--json").json
    assert found["samples"] == 0
    assert not Path("o/samples").exists()


def test_a_bundle_without_a_gated_graph(bundle: Bundle, tmp_path: Path) -> None:
    gated = [item for item in bundle.manifest.artifacts if item.layout != "gated"]
    static = Bundle(bundle.path, bundle.manifest.model_copy(update={"artifacts": gated}))
    with pytest.raises(BundleError, match=r"no gated graph.*export CHECKPOINT --layout gated"):
        write_page([static], tmp_path / "page", CDN)
    with pytest.raises(BundleError, match="no artifact 'gated int8"):
        write_page([bundle], tmp_path / "page", PageOptions(cdn=CDN.cdn, precision="int8"))
    assert not any(tmp_path.iterdir())


def test_what_is_no_page_is_not_replaced(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "page"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="has other files than a page's"):
        write_page([bundle], out, CDN)
    # Other programs, too, write a site.json: what it says decides.
    for foreign in ('{"title": "years of work"}', '{"format": "hugo"}', "[]", "{", "\xff" * 9):
        (out / "site.json").write_text(foreign, encoding="latin-1")
        with pytest.raises(BundleError, match="has other files than a page's"):
            write_page([bundle], out, CDN)
        assert sorted(item.name for item in out.iterdir()) == ["site.json", "thesis.txt"]
    (out / "site.json").unlink()
    (out / "thesis.txt").rename(tmp_path / "file")
    write_page([bundle], out, CDN)
    with pytest.raises(BundleError, match="it is no folder"):
        write_page([bundle], tmp_path / "file", CDN)


def test_a_page_that_cannot_be_made_leaves_the_one_before(
    bundle_copy: Path, tmp_path: Path
) -> None:
    from anydepth_deploy.bundle.bundle import open_bundle

    out = tmp_path / "page"
    write_page([open_bundle(bundle_copy)], out, CDN)
    before = {item: item.stat().st_mtime_ns for item in out.rglob("*")}
    graph = next(bundle_copy.glob("gated*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match="was altered"):
        write_page([open_bundle(bundle_copy)], out, CDN)
    with pytest.raises(ImageError, match="neither a picture nor a folder"):
        write_page(
            [open_bundle(bundle_copy)], out, PageOptions(cdn=CDN.cdn, samples=tmp_path / "none")
        )
    assert {item: item.stat().st_mtime_ns for item in out.rglob("*")} == before
    assert sorted(item.name for item in tmp_path.iterdir() if item.name.startswith(".")) == []


@pytest.mark.parametrize("when", [0, 1], ids=["before the page", "after it was moved away"])
def test_who_ends_it_while_it_is_renamed_keeps_the_page_before(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    out = write_page([bundle], tmp_path / "page", CDN).path
    (out / "mark").write_text("of the page before")
    rename, calls = Path.rename, []

    def ended(self: Path, target: Path) -> Path:
        if self == out or self.name == "new":
            calls.append(self)
            if len(calls) == when + 1:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", ended)
    with pytest.raises(KeyboardInterrupt):
        write_page([bundle], out, CDN)
    assert (out / "mark").is_file()
    assert [item.name for item in tmp_path.iterdir()] == ["page"]


def test_boxes_that_nobody_suppresses_are_not_shown(bundle: Bundle, tmp_path: Path) -> None:
    bare = bundle.manifest.model_copy(update={"suppression": Suppression(where="none")})
    with pytest.raises(BundleError, match=r"\(--nms none\).*--nms graph or host"):
        write_page([Bundle(bundle.path, bare)], tmp_path / "page", CDN)
    assert not any(tmp_path.iterdir())


def test_pictures_that_the_page_would_refuse_are_not_written(
    bundle: Bundle, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.new("1", (8000, 6251)).save(large)
    with pytest.raises(ImageError, match=r"large\.png has more than 50000000 pixels.*smaller"):
        write_page([bundle], tmp_path / "page", PageOptions(cdn=CDN.cdn, samples=large))
    assert [item.name for item in tmp_path.iterdir()] == ["large.png"]
    module = (ASSETS / "picture.mjs").read_text().replace("_", "")
    assert f"MOSTPIXELS = {MOST_PIXELS};" in module


# --- ONNX Runtime Web


def archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "onnxruntime-web.tgz"
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            opened.addfile(item, io.BytesIO(content))
    return path


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_the_runtime_is_fetched_once(names: Path, cache: Path) -> None:
    files = {f"package/dist/{name}": (names / name).read_bytes() for name in runtime.FILES}
    files["package/dist/../../../escaped"] = b"no"
    calls = []

    def pack(folder: Path) -> Path:
        calls.append(folder)
        return archive(folder, files)

    found = runtime.kept_runtime(pack)
    assert found.parent.parent == cache
    assert runtime.kept_runtime(pack) == found
    assert len(calls) == 1
    assert {item.name for item in found.iterdir()} == {*runtime.FILES}
    (found / "ort.wasm.min.mjs").write_text("cut short")
    runtime.kept_runtime(pack)
    assert len(calls) == 2
    assert (found / "ort.wasm.min.mjs").read_text() == "ort.wasm.min.mjs"
    assert [item.name for item in found.parent.iterdir()] == [found.name]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "cannot be read"),
        (dict.fromkeys((f"package/dist/{name}" for name in runtime.FILES), b"evil"), "other bytes"),
    ],
)
def test_other_bytes_are_not_used(
    names: Path, cache: Path, files: dict[str, bytes], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        runtime.kept_runtime(lambda folder: archive(folder, files))
    assert not [*cache.rglob("*.mjs")]


def test_a_damaged_archive_is_told(names: Path, cache: Path) -> None:
    """Wherever it is: in the header of gzip, in its blocks, and in the check sum."""
    noise = random.Random(3).randbytes(4000)
    files = {f"package/dist/{name}": noise for name in runtime.FILES}

    def pack(folder: Path, place: int) -> Path:
        path = archive(folder, files)
        content = bytearray(path.read_bytes())
        content[place] ^= 0xFF
        path.write_bytes(content)
        return path

    for place in (0, 2, 15, 40, 90, 200, 500, 900, 4000, -6):
        with pytest.raises(UsageError, match=r"cannot be read|other bytes"):
            runtime.kept_runtime(functools.partial(pack, place=place))
    assert not [*cache.rglob("*.mjs")]


def test_without_npm_and_with_one_that_fails(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(UsageError, match="there is no npm to fetch onnxruntime-web@"):
        runtime.kept_runtime()
    (programs / "npm").write_text("#!/bin/sh\necho 'npm error network is down' >&2\nexit 1\n")
    (programs / "npm").chmod(0o755)
    with pytest.raises(UsageError, match="failed: npm error network is down"):
        runtime.kept_runtime()


def test_a_folder_with_another_version(names: Path) -> None:
    assert runtime.check_runtime(names) == names
    shutil.copytree(names, names / "dist")
    assert runtime.check_runtime(names) == names / "dist"  # the package's folder will do, too
    (names / "dist" / "ort-wasm-simd-threaded.wasm").write_text("other")
    with pytest.raises(UsageError, match="is not that of onnxruntime-web"):
        runtime.check_runtime(names)


# --- the server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    """Asks a server of a folder, with a file beside it that is not to be had."""
    root = tmp_path / "root"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<!doctype html>")
    (root / "assets" / "a.mjs").write_text("export {}")
    (root / "r.wasm").write_bytes(b"\0asm")
    (root / ".secret").write_text("secret")
    (tmp_path / "outside.json").write_text("secret")
    (root / "link.json").symlink_to(tmp_path / "outside.json")
    with page_server(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]

        def ask(path: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, dict(answer.getheaders()), content

        yield ask
        server.shutdown()


def test_headers_and_types(served: Any) -> None:
    wanted = {
        "/": "text/html; charset=utf-8",
        "/?threads=2": "text/html; charset=utf-8",
        "/assets/a.mjs": "text/javascript; charset=utf-8",
        "/r.wasm": "application/wasm",
    }
    for path, kind in wanted.items():
        status, headers, _ = served(path)
        assert (status, headers["Content-type"]) == (200, kind)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.json",
        "/%2e%2e/outside.json",
        "/..%2foutside.json",
        "//../outside.json",
        "/assets/../../outside.json",
        "/link.json",
        "/.secret",
        "/assets/",
        "/assets",
        "/none.json",
    ],
)
def test_nothing_else_is_served(served: Any, path: str) -> None:
    status, _, content = served(path)
    assert status == 404
    assert b"secret" not in content
    assert b"a.mjs" not in content


def test_names_of_others_that_lead_here_are_refused(served: Any) -> None:
    assert served("/", "localhost:1")[0] == 200
    for usual in ("127.0.0.1", "localhost"):  # of port 80, browsers say no more
        assert served("/", usual)[0] == 200
    assert served("/", "evil.example:80")[0] == 421
    assert served("/", "evil.example")[0] == 421


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with page_server(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"  # nobody else's machine
        with pytest.raises(UsageError, match="choose another --port"):
            page_server(tmp_path, server.server_address[1])

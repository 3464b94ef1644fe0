"""Writes the folder of a page: its own files, models with what the page must know of them, pictures
and ONNX Runtime Web.

::

    index.html  style.css  assets/*.mjs    the page, as in the package
    site.json                              models, pictures, where the runtime is
    models/NAME/page.json, model.onnx      a bundle: its manifest, its gates and depths, its graph
    samples/                               pictures to begin with
    runtime/                               ONNX Runtime Web, unless it is referred to elsewhere
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from anydepth_deploy.bundle.choose import choose_artifacts
from anydepth_deploy.bundle.files import BundleFiles
from anydepth_deploy.errors import BundleError, UsageError, readable
from anydepth_deploy.manifest import Artifact
from anydepth_deploy.page import runtime as web
from anydepth_deploy.page.samples import knows_shapes, write_samples
from anydepth_deploy.pictures.folders import find_images

__all__ = ["PageModel", "PageOptions", "WrittenPage", "describe", "write_page"]

FORMAT = "anydepth-deploy page"
SCHEMA_VERSION = 1
SITE = "site.json"
MODEL = "model.onnx"


@dataclass(frozen=True)
class PageOptions:
    """``runtime``: a folder with ONNX Runtime Web; None: the one that is kept for the user.
    ``cdn``: the address of a folder with it, which the page then refers to. ``samples``: a picture
    or a folder of some; None: drawn ones where a network knows shapes. ``precision`` and
    ``weights``: of the gated graphs."""

    runtime: Path | None = None
    cdn: str | None = None
    samples: Path | None = None
    precision: str = "fp32"
    weights: str | None = None


@dataclass(frozen=True)
class PageModel:
    """A model of a page. ``folder``: in the page's; ``artifact``: of the bundle; ``bytes``: of the
    graph."""

    name: str
    folder: str
    family: str
    artifact: str
    depths: int
    bytes: int


@dataclass(frozen=True)
class WrittenPage:
    """What :func:`write_page` wrote. ``runtime``: where ONNX Runtime Web is, as the page names it;
    ``bytes``: of all files."""

    path: Path
    models: list[PageModel]
    samples: int
    runtime: str
    runtime_version: str
    bytes: int


def write_page(
    bundles: Sequence[BundleFiles],
    out: str | Path,
    options: PageOptions | None = None,
    *,
    runtime: Callable[[], Path] = web.kept_runtime,
) -> WrittenPage:
    """Write a page that runs the gated graphs of ``bundles`` into the folder ``out``, which is new,
    empty, or a page: then another one takes its place. ``runtime``: gives a folder with ONNX
    Runtime Web where the options name none.

    Raises :class:`BundleError` for a bundle without a gated graph and for a folder that is in the
    way or cannot be written, :class:`UsageError` where there is no ONNX Runtime Web, and
    :class:`ImageError` for samples that are no pictures; what was there before is unchanged then.
    """
    chosen = options or PageOptions()
    path = Path(out)
    _check_out(path)
    if chosen.cdn is not None:
        _check_cdn(chosen)
    if chosen.samples is not None:
        find_images(chosen.samples)
    graphs = [_gated(bundle, chosen) for bundle in bundles]
    source = None
    if chosen.cdn is None:
        source = runtime() if chosen.runtime is None else web.check_runtime(chosen.runtime)
    try:
        parent = path.resolve().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{path.name}.") as staging:
            made = Path(staging) / "new"
            written = _write(made, bundles, graphs, chosen, source)
            _publish(made, path.resolve(), Path(staging) / "old")
    except OSError as error:
        raise BundleError(
            f"page {path} cannot be written: {error.strerror or error}; choose another --out (what "
            "was there before is unchanged)"
        ) from None
    return WrittenPage(path, *written)


def describe(bundle: BundleFiles) -> dict[str, Any]:
    """What a page must know of a bundle, the content of its ``page.json``: the manifest as it is,
    but for what was recorded of machines, and its gates and depths in the words of the page."""
    manifest = bundle.manifest
    table = bundle.table
    whole = manifest.model_dump(mode="json")
    # Where a bundle was measured is nobody's business who looks at a page.
    whole.update(results={}, measured=[])
    rows = [
        {
            "row": row.index,
            "depth": str(depth),
            "settings": list(depth.settings),
            "macs": row.macs["total"],
        }
        for row, depth in zip(manifest.depths, table.rows, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "name": _name(bundle),
        "family": manifest.family,
        "model": MODEL,
        "classes": manifest.classes,
        "gates": [
            {"name": gate.name, "layers": gate.layers, "choices": list(gate.choices)}
            for gate in table.space.gates
        ],
        "ladder": [table.row(depth) for depth in table.ladder],
        "depths": rows,
        "manifest": whole,
    }


def _write(
    folder: Path,
    bundles: Sequence[BundleFiles],
    graphs: Sequence[Artifact],
    options: PageOptions,
    runtime: Path | None,
) -> tuple[list[PageModel], int, str, str, int]:
    """All files of the page; what :class:`WrittenPage` says of them."""
    # A folder like others, not one that only its owner reads as temporary ones are.
    folder.mkdir()
    with resources.as_file(resources.files("anydepth_deploy.page") / "assets") as assets:
        shutil.copytree(assets, folder / "assets", ignore=_no_module)
    for name in ("index.html", "style.css"):
        (folder / "assets" / name).replace(folder / name)
    models: list[PageModel] = []
    for bundle, graph in zip(bundles, graphs, strict=True):
        models.append(_write_model(folder, bundle, graph, [item.folder for item in models]))
    wanted = options.samples is not None or any(knows_shapes(item.classes) for item in bundles)
    samples = write_samples(folder / "samples", options.samples) if wanted else []
    address = options.cdn or "runtime/"
    if runtime is not None:
        (folder / "runtime").mkdir()
        for name in web.FILES:
            shutil.copyfile(runtime / name, folder / "runtime" / name)
    site = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "runtime": address,
        "models": [{"name": item.name, "folder": f"{item.folder}/"} for item in models],
        "samples": [asdict(sample) for sample in samples],
    }
    _write_json(folder / SITE, site)
    size = sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
    return models, len(samples), address, web.VERSION, size


def _no_module(folder: str, names: list[str]) -> list[str]:
    """What of the package's folder is no part of the page."""
    return [name for name in names if not name.endswith((".mjs", ".css", ".html"))]


def _write_model(
    folder: Path, bundle: BundleFiles, graph: Artifact, taken: Sequence[str]
) -> PageModel:
    name = _name(bundle)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "model"
    place, number = f"models/{plain}", 2
    while place in taken:
        place, number = f"models/{plain}-{number}", number + 1
    (folder / place).mkdir(parents=True)
    shutil.copyfile(bundle.file(graph), folder / place / MODEL)
    _write_json(folder / place / "page.json", describe(bundle))
    family = bundle.manifest.family
    return PageModel(name, place, family, graph.name, len(bundle.table.rows), graph.bytes)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _name(bundle: BundleFiles) -> str:
    return bundle.manifest.name or readable(bundle.path.resolve().name) or bundle.manifest.family


def _gated(bundle: BundleFiles, options: PageOptions) -> Artifact:
    """The graph that the page runs."""
    if not bundle.artifacts("gated", format="onnx"):
        raise BundleError(
            f"bundle {bundle.path} has no gated graph, which a page needs to change the depth: "
            "'anydepth-deploy export CHECKPOINT --layout gated' with the same --out adds it"
        )
    suppression = bundle.manifest.suppression
    if suppression is not None and suppression.where == "none":
        raise BundleError(
            f"bundle {bundle.path} leaves the suppression of boxes to others (--nms none), and a "
            "page shows boxes: export the checkpoint with --nms graph or host to another --out"
        )
    found = choose_artifacts(bundle, "gated", options.precision, options.weights)
    return found[0]


def _check_cdn(options: PageOptions) -> None:
    if options.runtime is not None:
        raise UsageError("--cdn takes no --runtime: the page refers to the files of that address")
    if not re.fullmatch(r"https://[A-Za-z0-9.:-]+/[^\s?#]*", options.cdn or ""):
        raise UsageError(
            f"--cdn {options.cdn} is no address of a folder: expected one like "
            f"https://SERVER/npm/onnxruntime-web@{web.VERSION}/dist/"
        )


def _check_out(path: Path) -> None:
    """Refuse to take the place of what is no page."""
    if path.is_dir():
        if _is_page(path) or not any(path.iterdir()):
            return
        raise BundleError(
            f"{path} has other files than a page's: choose another --out, or an empty folder"
        )
    if path.exists() or path.is_symlink():
        raise BundleError(f"{path} is in the way, it is no folder: choose another --out")


def _is_page(folder: Path) -> bool:
    """Others, too, call a file ``site.json``: what it says of itself decides."""
    try:
        said = json.loads((folder / SITE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("format") == FORMAT


def _publish(made: Path, path: Path, old: Path) -> None:
    """Rename what is made to where it is wanted; what was there is put back where that fails, or
    where somebody ends it just then: it would be removed with the folder it was moved to."""
    try:
        if path.exists():
            path.rename(old)
        made.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise

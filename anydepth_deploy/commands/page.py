"""``page``: a page that runs bundles in the browser."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anydepth_deploy.commands.options import (
    ARTIFACTS,
    Json,
    Panel,
    WeightsOption,
)
from anydepth_deploy.errors import UsageError

__all__ = ["page"]

RUNTIME = Panel("ONNX Runtime Web")
SERVER = Panel("Server")


def page(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Folders of bundles.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the page: new, empty, or of a page to replace.")
    ] = Path("page"),
    samples: Annotated[
        Path | None,
        typer.Option(
            help="A picture, or a folder of which twelve are copied, to begin with; default: drawn "
            "shapes for networks that know them."
        ),
    ] = None,
    precision: Annotated[
        str,
        ARTIFACTS.one_of(("fp32", "fp16", "int8"), "Of the gated graphs."),
    ] = "fp32",
    weights: WeightsOption = None,
    runtime: Annotated[
        Path | None,
        RUNTIME.option("Folder of the npm package; default: fetched once by npm, and kept."),
    ] = None,
    cdn: Annotated[
        str | None,
        RUNTIME.option("Address of a folder with it, which the page refers to; nothing is copied."),
    ] = None,
    serve: Annotated[
        bool, SERVER.option("Serve the page to browsers of this machine, until Ctrl-C.", "--serve")
    ] = False,
    port: Annotated[
        int | None, SERVER.option("With --serve; default: a free one.", min=1, max=65535)
    ] = None,
    json: Json = False,
) -> None:
    """Write a page that runs bundles in the browser, at any depth."""
    if port is not None and not serve:
        raise UsageError("--port is for --serve: nothing is served without it")
    if serve and json:
        raise UsageError("--serve takes no --json: it goes on until it is ended")

    from anydepth_deploy import console
    from anydepth_deploy.bundle.bundle import open_bundle
    from anydepth_deploy.page.server import page_server
    from anydepth_deploy.page.site import PageOptions, write_page

    options = PageOptions(runtime, cdn, samples, precision, weights)
    written = write_page([open_bundle(path) for path in bundles], out, options)
    if json:
        console.print_json({**asdict(written), "path": str(written.path)})
        return
    for model in written.models:
        console.print_line(
            f"{model.name}: {model.artifact}, {model.depths} depths, "
            f"{console.megabytes(model.bytes)}"
        )
    console.print_line(
        f"page {written.path}: {console.megabytes(written.bytes)}, {written.samples} pictures, "
        f"ONNX Runtime Web {written.runtime_version}"
    )
    if not serve:
        console.print_line(
            "to look at it: the same with --serve, or any server of files; opened as a file, "
            "browsers run nothing of it"
        )
        return
    with page_server(written.path, port or 0) as server:
        console.print_line(f"serving {server.address} until Ctrl-C")
        server.serve_forever()

"""The Triton demo: from the trained tiny checkpoint to detections from a real server.

    python triton_server/demo.py

Exports the checkpoint, writes the model repository, starts a server on this machine's loopback,
sends it a picture at base and at super, prints what it found and what its metrics port says, draws
the boxes and stops the server. Networks run in a stand-in for Triton's backend (``stand_in.py``).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for triton_server, which is not installed

from anydepth_deploy import console  # noqa: E402
from anydepth_deploy.bundle.bundle import Bundle  # noqa: E402
from anydepth_deploy.errors import AnyDepthError, CheckFailedError, in_one_line  # noqa: E402
from anydepth_deploy.exporting.export import export_bundle  # noqa: E402
from anydepth_deploy.families.registry import names  # noqa: E402
from anydepth_deploy.pictures.images import load_image  # noqa: E402
from anydepth_deploy.pictures.shapes import write_coco  # noqa: E402
from anydepth_deploy.serve.plan import ServeOptions  # noqa: E402
from anydepth_deploy.serve.repository import write_repository  # noqa: E402
from triton_server import client  # noqa: E402
from triton_server.environment import SetupError, ensure  # noqa: E402
from triton_server.prometheus import total  # noqa: E402
from triton_server.server import LocalServer, ServerError  # noqa: E402

CHECKPOINTS = ROOT / "anydepth_deploy" / "trained"
DEPTHS = ("base", "super")
NAME = "shapes"
"""Of the models."""

SEED = 1000
"""No training run uses this seed for its pictures."""

CALLS = 10
"""At each depth, beside the one whose answer is shown."""


def run_demo(family: str, out: Path) -> None:
    """Everything, with ``out`` for what is written."""
    console.print_line("1/4 the server's environment (about a minute the first time)")
    environment = ensure()
    with console.bar("2/4 export") as progress:
        bundle = export_bundle(
            CHECKPOINTS / f"{family}-tiny-shapes.pth",
            out.with_name(f"demo-{family}"),
            layouts=["gated", "set"],
            progress=progress,
        )
    console.print_line(f"2/4 bundle: {bundle.path}")
    repository = out / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    options = ServeOptions(device="cpu", threads=1)
    models = write_repository(bundle, repository, name=NAME, options=options).models
    console.print_line(f"3/4 repository: {repository}, {len(models)} models")
    with tempfile.TemporaryDirectory() as folder:
        write_coco(folder, 1, SEED, size=bundle.size[0])
        picture = out / "picture.png"
        shutil.copy(Path(folder) / "000000.png", picture)
    with LocalServer(environment, repository, log=out / "server.log") as server:
        console.print_line(f"4/4 server: http://{server.http}, log in {server.log}")
        _call(server, picture)
        drawing = out / "detections.png"
        status = client.main(
            [
                *(str(picture), "--url", server.http, "--model", NAME),
                *("--depth", ",".join(DEPTHS), "--out", str(drawing)),
            ]
        )
        if status:
            raise CheckFailedError("the server did not answer the client")
        _show(bundle, server.metrics())
    console.print_line("server stopped")


def _call(server: LocalServer, picture: Path) -> None:
    """Give the metrics something to count; the first calls take longer than the others."""
    image = load_image(picture)
    with client.Detector(server.grpc, protocol="grpc", model=NAME) as detector:
        for depth in DEPTHS * CALLS:
            detector.detect(image, depth)


def _show(bundle: Bundle, metrics: str) -> None:
    rows = []
    for level, depth in enumerate(bundle.table.ladder):
        labels = {"model": NAME, "depth": str(depth)}
        count = total(metrics, "anydepth_requests_total", **labels)
        seconds = total(metrics, "anydepth_request_duration_seconds_sum", **labels)
        mean = f"{1e3 * seconds / count:.2f}" if count else "-"
        rows.append([f"level:{level}", str(depth), int(count), mean])
    console.print_table(
        "metrics of the router, by depth",
        ["level", "depth", "requests", "mean ms in the router"],
        rows,
        keys=2,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    families = names()
    parser.add_argument("--family", choices=families, default=families[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "engines" / "demo-triton", help="folder to write into"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        run_demo(options.family, options.out)
    except (AnyDepthError, CheckFailedError, SetupError, ServerError, OSError) as error:
        print(f"error: {in_one_line(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, CheckFailedError) else 2
    except KeyboardInterrupt:
        print("interrupted; the server was stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

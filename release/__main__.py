"""Build the source distribution and the wheel, and try them where nothing else is.

    python -m release            # build into dist/, try everything
    python -m release --build    # build only
    python -m release --repository https://forge/owner/name    # with absolute links, for an index

1. Both are built, the wheel from the source distribution; what is in them is what should be.
2. The wheel with its extras for exporting goes into a new environment, whose ``anydepth-deploy
   demo`` ends with a picture outside this checkout.
3. The deployment half, without torch and onnx, goes into a new environment of each version of
   Python that is here: bundles of both families prove themselves, and tests run that need no more.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from anydepth_deploy.version import __version__
from release.environments import (
    ROOT,
    Environment,
    FailedError,
    interpreters,
    make_environment,
    run,
)
from release.source import staged

FAMILIES = ("anydepth-detr", "anydepth-yolo")

IN_WHEEL = (
    "anydepth_deploy/py.typed",
    "anydepth_deploy/bench/report/published.json",
    "anydepth_deploy/bench/report/html/report.css",
    "anydepth_deploy/bench/report/html/report.html.jinja",
    "anydepth_deploy/page/assets/index.html",
    "anydepth_deploy/page/assets/worker.mjs",
    *(f"anydepth_deploy/trained/{family}-tiny-shapes.pth" for family in FAMILIES),
)
IN_SOURCE = (
    *IN_WHEEL,
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "constraints.txt",
    "cpp/CMakeLists.txt",
    "docs/architecture.md",
    "examples/family/README.md",
    "tests/conftest.py",
    "triton_server/client.py",
)

TESTS = (
    "control",
    "pictures/test_folders.py",
    "pictures/test_names.py",
    "pictures/test_shapes.py",
    "pilot/test_pilot.py",
    "runtimes/test_device_name.py",
    "serve/models/test_places.py",
    "test_console.py",
    "test_documents.py",
)
"""Of the deployment half, those that need neither an exported network nor torch."""


EXPORTED = "tests/pilot/test_pilot.py::test_detections_are_those_of_the_session"
"""The one among them that asks for an exported network."""


def build(out: Path, tree: Path = ROOT) -> tuple[Path, Path]:
    """The source distribution and the wheel of ``tree``, in ``out``, which is emptied of earlier
    ones."""
    for old in (*out.glob("*.whl"), *out.glob("*.tar.gz")):
        old.unlink()
    run([sys.executable, "-m", "build", "--outdir", out, tree], tree)
    (source,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return source, wheel


def check_contents(source: Path, wheel: Path) -> None:
    """Raises :class:`FailedError` where something is missing, or there that should not be."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    strangers = {name.split("/")[0] for name in names} - {"anydepth_deploy"}
    if any(not name.endswith(".dist-info") for name in strangers):
        raise FailedError(f"{wheel.name} installs more than the package: {sorted(strangers)}")
    _has(wheel, names, IN_WHEEL)
    with tarfile.open(source) as archive:
        inside = [member.name.partition("/")[2] for member in archive.getmembers()]
    _has(source, inside, IN_SOURCE)


def _has(path: Path, names: list[str], expected: tuple[str, ...]) -> None:
    missing = sorted({*expected} - {*names})
    if missing:
        raise FailedError(f"{path.name} lacks {', '.join(missing)}")


def check_demo(environment: Environment, wheel: Path) -> None:
    """The main job, and what it leaves."""
    environment.install("torch")
    environment.install(f"{wheel}[export,eval]")
    environment.run("anydepth-deploy", "demo", "--pictures", "40")
    for left in ("manifest.json", "demo.png"):
        if not (environment.folder / "engines" / "demo-anydepth-detr" / left).is_file():
            raise FailedError(f"the demo of {wheel.name} left no {left}")
    environment.run("anydepth-deploy", "demo", "--family", "anydepth-yolo", "--pictures", "10")


def check_deployment(environment: Environment, wheel: Path, bundles: Path) -> None:
    """Bundles prove themselves, and tests pass, where neither torch nor onnx is."""
    environment.install(f"{wheel}[onnxruntime]", "pytest", "pytest-timeout")
    for name in ("torch", "onnx", "scipy"):
        asked = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        if environment.run("python", "-c", asked).strip() != "None":
            raise FailedError(f"{wheel.name}[onnxruntime] brings {name}")
    environment.run("python", Path(__file__).with_name("deployment.py"), bundles)
    tests = environment.folder / "tests"
    for name in TESTS:
        found = ROOT / "tests" / name
        target = tests / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if found.is_dir() else shutil.copy)(found, target)
    shutil.copytree(ROOT / "tests" / "support", environment.folder / "support")
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-o", "pythonpath=support")
    told = environment.run("python", "-m", "pytest", *options, "--deselect", EXPORTED, "tests")
    if " passed" not in told or " skipped" in told:
        raise FailedError(f"the tests did not all run:\n{told[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--build", action="store_true", help="build only")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--repository", help="its address on a forge: links become absolute")
    parser.add_argument("--ref", default=f"v{__version__}", help="the tag or branch of links")
    options = parser.parse_args()
    options.out = options.out.resolve()  # commands run in folders of their own
    options.out.mkdir(parents=True, exist_ok=True)

    def step(what: str, work: Callable[[], object]) -> None:
        begun = time.monotonic()
        work()
        print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)

    try:
        begun = time.monotonic()
        if options.repository is None:
            source, wheel = build(options.out)
            print("links of the README are relative: --repository makes them absolute", flush=True)
        else:
            with tempfile.TemporaryDirectory(prefix="anydepth-source-") as folder:
                tree = staged(ROOT, Path(folder), options.repository, options.ref)
                source, wheel = build(options.out, tree)
        check_contents(source, wheel)
        for path in (source, wheel):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
        print(f"built: {time.monotonic() - begun:.0f} s", flush=True)
        if options.build:
            return 0
        with tempfile.TemporaryDirectory(prefix="anydepth-release-") as folder:
            whole = make_environment(Path(folder) / "whole", sys.executable)
            step("the demo of the wheel alone", lambda: check_demo(whole, wheel))
            bundles = whole.folder / "engines"
            for version, python in interpreters().items():
                if python is None:
                    print(f"Python {version}: not here, not tried", flush=True)
                    continue
                part = make_environment(Path(folder) / version, python)
                step(
                    f"Python {version}: the deployment half",
                    lambda part=part: check_deployment(part, wheel, bundles),  # type: ignore[misc]
                )
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

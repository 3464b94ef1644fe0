"""``python -m release.aarch64``: everything, and a table of what was compared.

1. Debian's packages for aarch64, an emulator and a cross compiler are unpacked into ``--folder``.
2. Both trained tiny networks are exported here, FP32 and INT8, and run on a picture.
3. The wheel and its packages for aarch64 run there: ``inspect``, ``verify`` against the golden
   outputs, ``predict``.
4. The C++ library is compiled for aarch64, and run on the same picture.

Fails where a number differs from here by more than :data:`LIMITS`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from anydepth_deploy.pictures.shapes import render
from anydepth_deploy.version import __version__
from release.aarch64.compare import Difference, differences
from release.aarch64.machine import PYTHON, Machine, make_machine
from release.aarch64.packages import check_system, wheels
from release.environments import ROOT, FailedError, run

FAMILIES = ("anydepth-detr", "anydepth-yolo")
PRECISIONS = ("fp32", "int8")
DEPTHS = ("super", "base")

ONNXRUNTIME = "1.23.2"
"""The newest that Python 3.10 has, as JetPack 6 does. Later ones end in QEMU 7.2 as they start,
with a segmentation fault."""

THRESHOLD = 0.3

LIMITS = {"fp32": Difference(boxes=0.05, scores=1e-4), "int8": Difference(boxes=2.0, scores=0.1)}
"""Pixels of the picture, and scores. In INT8 another processor's kernels round sums elsewhere: 0.7
pixels and 0.04 were measured against AVX2 without VNNI."""


def here(*words: object) -> str:
    """What the package prints on this machine."""
    return run([sys.executable, "-m", "anydepth_deploy", *map(str, words)], ROOT)


def make_bundles(folder: Path) -> Iterator[tuple[str, Path]]:
    """Both trained networks in every precision, with the range table that INT8 needs."""
    shapes = folder / "shapes"
    if not (shapes / "annotations.json").is_file():
        here("shapes", "--out", shapes, "--count", 64, "--seed", 5)
    for family in FAMILIES:
        bundle, table = folder / family, folder / f"{family}.ranges.json"
        checkpoint = ROOT / "anydepth_deploy" / "trained" / f"{family}-tiny-shapes.pth"
        if not table.is_file():
            here("calibrate", checkpoint, "--images", shapes, "--out", table)
        words = ("--precision", ",".join(PRECISIONS), "--ranges", table)
        here("export", checkpoint, "--out", bundle, *words)
        yield family, bundle


def predictions(told: str) -> list[dict[str, Any]]:
    (one,) = json.loads(told)["predictions"]
    found: list[dict[str, Any]] = one["detections"]
    return found


class Trial:
    """What was tried and found; rows are printed as they come."""

    def __init__(self, machine: Machine, quiet: bool) -> None:
        self.machine, self.quiet = machine, quiet
        self.rows: list[dict[str, Any]] = []

    def step(self, what: str, work: Callable[[], str]) -> None:
        began = time.monotonic()
        told = work()
        seconds = time.monotonic() - began
        self.rows.append({"what": what, "found": told, "seconds": round(seconds, 1)})
        if not self.quiet:
            print(f"{what:58} {told:58} {seconds:6.1f} s", flush=True)

    def bundle(self, family: str, bundle: Path, picture: Path, program: Path) -> None:
        """Everything that is tried with the bundle of a network."""
        self.step(f"{family}: inspect", partial(self._inspect, bundle))
        for precision in PRECISIONS:
            self.step(f"{family} {precision}: verify", partial(self._verify, bundle, precision))
            for depth in DEPTHS:
                words: list[object] = ["--depth", depth, "--precision", precision, "--threads", 1]
                words += ["--threshold", THRESHOLD, "--json"]
                expected = predictions(here("predict", bundle, picture, "--no-draw", *words))
                limit, what = LIMITS[precision], f"{family} {precision} {depth}"
                python = partial(
                    self.machine.command, "predict", bundle, picture, "--no-draw", *words
                )
                self.step(f"{what}: predict", partial(compare, python, expected, limit))
                beside = program.parents[1]
                compiled = partial(
                    self.machine.run, program, bundle, picture, *words, libraries=beside
                )
                self.step(f"{what}: C++", partial(compare, compiled, expected, limit))

    def _inspect(self, bundle: Path) -> str:
        told = json.loads(self.machine.command("inspect", bundle, "--json"))
        return f"{len(told['depths'])} depths, {len(told['artifacts'])} artifacts"

    def _verify(self, bundle: Path, precision: str) -> str:
        words = ("--precision", precision, "--threads", 1, "--json")
        told = json.loads(self.machine.command("verify", bundle, *words))
        return f"{len(told['rows'])} rows agree with the {told['compared_with']}"


def compare(call: Callable[[], str], expected: list[dict[str, Any]], limit: Difference) -> str:
    return differences(predictions(call()), expected, limit, THRESHOLD)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m release.aarch64",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "aarch64")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = options.folder.resolve()
    began = time.monotonic()
    try:
        check_system()
        folder.mkdir(parents=True, exist_ok=True)
        machine = make_machine(folder)
        trial = Trial(machine, options.json)
        built = folder / "dist"
        shutil.rmtree(built, ignore_errors=True)
        run([sys.executable, "-m", "build", "--wheel", "--outdir", built, ROOT], ROOT)
        (wheel,) = built.glob("*.whl")
        constraints = folder / "constraints.txt"
        kept = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        constraints.write_text("\n".join(line for line in kept if "onnxruntime" not in line))
        wheels(machine.site, PYTHON, [str(wheel), f"onnxruntime=={ONNXRUNTIME}"], constraints)
        program = machine.compile_library(folder / "cpp", machine.site / "onnxruntime" / "capi")
        told = machine.python("-c", "import platform as p; print(p.machine(), p.python_version())")
        trial.step("the machine, the wheel and the C++ library", told.strip)
        picture = folder / "picture.ppm"
        Image.fromarray(render(3, 7, "val", size=243).image[:170]).save(picture)
        for family, bundle in make_bundles(folder / "bundles"):
            trial.bundle(family, bundle, picture, program)
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    if options.json:
        about = {
            "anydepth-deploy": __version__,
            "onnxruntime": ONNXRUNTIME,
            "here": platform.machine(),
        }
        print(json.dumps({"schema_version": 1, "rows": trial.rows, "seconds": seconds, **about}))
    else:
        print(f"everything agrees on aarch64, emulated; {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

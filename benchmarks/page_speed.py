"""What a network costs in a browser: milliseconds by depth and threads beside ONNX Runtime itself
in the same rounds, the way to the first detection, the size of the download.

    python benchmarks/page_speed.py [BUNDLE ...]

Bundles with gated graphs, by default the trained tiny networks in every precision, and those with
deformable sampling in both of its forms. Chromium without a screen runs the page's own modules, on
one thread and on more (other precisions than FP32 on one, and at both ends alone); each depth is
warmed up first. A round calls every depth once in the browser and once here, in an order drawn
anew; ratios are of the same round. ``--operators`` asks ONNX
Runtime Web's profiler where the time goes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from machine import machine, write
from trained import TRAINED, checkpoint_of

import anydepth_deploy
from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.bundle.bundle import Bundle, open_bundle
from anydepth_deploy.bundle.session import Session
from anydepth_deploy.calibration.calibrate import calibrate
from anydepth_deploy.console import bar, print_line, print_table
from anydepth_deploy.exporting.export import export_bundle
from anydepth_deploy.manifest import Artifact, made_for
from anydepth_deploy.page.runtime import VERSION
from anydepth_deploy.pictures.shapes import write_coco

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
# The tests' own: where the browser is, and what it opens.
from browser import browser, served, web_runtime

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ASSETS = Path(anydepth_deploy.__file__).parent / "page" / "assets"
PRECISIONS = ("fp32", "fp16", "int8")
FORMS = ("gridsample", "gather")
SAMPLED = "anydepth-detr"
"""The family with deformable attention."""

OPEN = """async ([name, threads]) => {
  const begun = performance.now();
  const { Detector } = await import("/assets/detector.mjs");
  globalThis.detector = await Detector.open(`/${name}`, { runtime: "/runtime", threads });
  return [performance.now() - begun, globalThis.detector.threads];
}"""

CALLS = "([row, calls]) => globalThis.detector.warmUp(row, { calls })"

DETECT = """async ([row]) => {
  const begun = performance.now();
  const { pixelsOf } = await import("/assets/picture.mjs");
  await globalThis.detector.detect(await pixelsOf("/picture.png"), { row, threshold: 0.3 });
  return performance.now() - begun;
}"""

PROFILE = """async ([name, height, width, rows, calls]) => {
  // The profiler prints an event a line, tens of thousands: they must not all come over here.
  const lines = [];
  console.log = (line) => lines.push(line);
  const ort = await import("/runtime/ort.wasm.min.mjs");
  Object.assign(ort.env.wasm, { wasmPaths: "/runtime/", numThreads: 1 });
  const options = { executionProviders: ["wasm"], enableProfiling: true };
  const session = await ort.InferenceSession.create(`/${name}/model.onnx`, options);
  const shape = [1, 3, height, width];
  const images = new ort.Tensor("float32", new Float32Array(3 * height * width), shape);
  for (const row of rows) {
    const depth = new ort.Tensor("int64", BigInt64Array.of(BigInt(row)), []);
    for (let call = 0; call < calls; call++) await session.run({ images, depth });
  }
  session.endProfiling();
  const taken = {};
  for (const line of lines.join("\\n").split("\\n")) {
    try {
      const { name, dur, args } = JSON.parse(line.trim().replace(/^[[,]+|[\\],]+$/g, ""));
      // A branch takes what the operators in it take.
      if (name.endsWith("_kernel_time") && args.op_name !== "If") {
        taken[args.op_name] = (taken[args.op_name] ?? 0) + dur;
      }
    } catch { /* no event */ }
  }
  return taken;
}"""


@dataclass(frozen=True)
class Case:
    """A gated graph that is measured; ``name``: of its folder on the site."""

    name: str
    bundle: Bundle
    artifact: Artifact

    @property
    def about(self) -> dict[str, Any]:
        manifest = self.bundle.manifest
        return {
            "network": f"{manifest.family} {manifest.config}",
            "input": "x".join(map(str, self.bundle.size)),
            "precision": self.artifact.precision,
            "deformable": self.artifact.deformable,
        }

    @property
    def rows(self) -> list[int]:
        """The whole ladder in FP32, its ends in other precisions."""
        last = len(self.bundle.manifest.ladder) - 1
        return list(range(last + 1)) if self.artifact.precision == "fp32" else [0, last]

    def session(self, threads: int) -> Session:
        return self.bundle.session(
            artifact=self.artifact.layout,
            precision=self.artifact.precision,
            threads=threads,
        )


def export(folder: Path, precisions: Sequence[str]) -> Iterator[Bundle]:
    """The trained networks, each as often as its deformable attention has forms."""
    if "int8" in precisions:
        write_coco(folder / "pictures", 64, 7, "train")
    for family in TRAINED:
        table = folder / f"{family}.json"
        if "int8" in precisions:
            calibrate(checkpoint_of(family), folder / "pictures", table, probe=0, batch=8)
        for form in FORMS[: 2 if family == SAMPLED else 1]:
            with bar(f"export {family}") as progress:
                yield export_bundle(
                    checkpoint_of(family),
                    folder / f"{family}-{form}",
                    precision=precisions,
                    deformable="gather" if form == "gather" else "gridsample",
                    ranges=table if "int8" in precisions else None,
                    progress=progress,
                )


def publish(site: Path, bundles: Sequence[Bundle]) -> list[Case]:
    """Everything that the browser loads, in the folder ``site``."""
    (site / "runtime").symlink_to(web_runtime())
    (site / "assets").symlink_to(ASSETS)
    (site / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    write_coco(site / "shapes", 1, 0)
    (site / "picture.png").symlink_to(site / "shapes" / "000000.png")
    cases: list[Case] = []
    for bundle in bundles:
        for artifact in bundle.manifest.artifacts:
            gated = artifact.layout == "gated" and artifact.format == "onnx"
            if gated and made_for(artifact, ("onnxruntime",)):
                case = Case(f"network{len(cases)}", bundle, artifact)
                (site / case.name).mkdir()
                (site / case.name / "model.onnx").symlink_to(
                    (bundle.path / artifact.file).resolve()
                )
                described = {
                    "schema_version": 1,
                    "model": "model.onnx",
                    "manifest": bundle.manifest.model_dump(mode="json"),
                }
                (site / case.name / "page.json").write_text(json.dumps(described))
                cases.append(case)
    return cases


@contextlib.contextmanager
def fresh(program: Browser, address: str) -> Iterator[Page]:
    """A page of a profile of its own: nothing is cached."""
    context = program.new_context()
    context.set_default_timeout(0)
    page = context.new_page()
    page.goto(address)
    try:
        yield page
    finally:
        context.close()


def milliseconds(session: Session, row: int) -> float:
    images = np.zeros((1, 3, *session.size), np.float32)
    began = time.perf_counter_ns()
    session.run(images, row)
    return (time.perf_counter_ns() - began) / 1e6


def by_depth(
    page: Page, case: Case, threads: int, warm: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Every depth in the browser and here, in the same rounds."""
    _, used = page.evaluate(OPEN, [case.name, threads])
    draw = random.Random(0)
    with case.session(threads) as session:
        first = {row: page.evaluate(CALLS, [row, warm]) for row in reversed(case.rows)}
        for row in case.rows:
            milliseconds(session, row)
        places = [(row, where) for row in case.rows for where in ("browser", "native")]
        found: dict[tuple[int, str], list[float]] = {place: [] for place in places}
        for _ in range(rounds):
            for row, where in draw.sample(places, len(places)):
                if where == "browser":
                    found[row, where] += page.evaluate(CALLS, [row, 1])
                else:
                    found[row, where].append(milliseconds(session, row))
    top = np.array(found[case.rows[-1], "browser"])
    for row in case.rows:
        browser_, native = (np.array(found[row, where]) for where in ("browser", "native"))
        yield {
            **case.about,
            "depth": case.bundle.manifest.depths[row].depth,
            "row": row,
            "threads": used,
            "first_ms": round(first[row][0], 1),
            "browser_ms": round(float(np.median(browser_)), 2),
            "browser_fastest_ms": round(float(browser_.min()), 2),
            "native_ms": round(float(np.median(native)), 2),
            "native_fastest_ms": round(float(native.min()), 2),
            "over_native": ratio_of_medians(browser_, native, paired=True).model_dump(),
            "over_super": ratio_of_medians(browser_, top, paired=True).model_dump(),
            "rounds": rounds,
        }
    page.evaluate("globalThis.detector.close()")


def opening(program: Browser, address: str, case: Case, times: int) -> dict[str, int]:
    """From an empty cache to boxes at base, from a server on this machine: the fastest of some."""
    found = []
    for _ in range(times):
        with fresh(program, address) as page:
            opened, _ = page.evaluate(OPEN, [case.name, 1])
            found.append((opened, page.evaluate(DETECT, [0])))
    best = min(found, key=sum)
    return {"open_ms": round(best[0]), "first_detection_ms": round(best[1])}


def sizes(site: Path, case: Case) -> dict[str, int]:
    """Bytes of what a page of the case loads, as they are and as gzip sends them."""
    files = [
        *(site / "runtime").resolve().iterdir(),
        *(path for path in ASSETS.iterdir() if path.suffix == ".mjs"),
        *(site / case.name).iterdir(),
    ]
    contents = [path.read_bytes() for path in files]
    return {
        "bytes": sum(map(len, contents)),
        "gzip_bytes": sum(len(gzip.compress(content, 6)) for content in contents),
        "model_bytes": case.artifact.bytes,
    }


def operators(page: Page, case: Case, calls: int) -> dict[str, float]:
    """Percent of the time in operators by kind, the largest first, at base and super together."""
    ends = [case.rows[0], case.rows[-1]]
    taken = Counter(page.evaluate(PROFILE, [case.name, *case.bundle.size, ends, calls]))
    whole = sum(taken.values()) or 1
    return {name: round(100 * part / whole, 1) for name, part in taken.most_common(12)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--warm", type=int, default=100, help="calls of each depth before")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    starts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        site.mkdir()
        bundles = [open_bundle(path) for path in options.bundles]
        cases = publish(site, bundles or list(export(Path(folder), options.precisions)))
        with served(site) as address, browser() as program:
            version = program.version
            for case in cases:
                if case.artifact.precision not in options.precisions:
                    continue
                plain = case.artifact.precision == "fp32"
                start = {**case.about, **sizes(site, case)}
                if plain:
                    start |= opening(program, address, case, 2)
                if plain and options.operators:
                    with fresh(program, address) as page:
                        start["operators"] = operators(page, case, options.warm)
                starts.append(start)
                for threads in options.threads if plain else options.threads[:1]:
                    print_line(f"{case.artifact.name}, {threads} threads")
                    with fresh(program, address) as page:
                        rows += by_depth(page, case, threads, options.warm, options.rounds)
    show(rows, starts)
    if options.record:
        found = {**machine("onnxruntime", "numpy"), "chromium": version}
        found["packages"]["onnxruntime-web"] = VERSION
        print(write("page-speed", {"machine": found, "rows": rows, "starts": starts}))


def show(rows: Sequence[dict[str, Any]], starts: Sequence[dict[str, Any]]) -> None:
    """Print what was found."""
    keys = ["network", "precision", "deformable"]
    print_table(
        "milliseconds of the network in the browser and here, in the same rounds",
        [
            *(*keys, "threads", "depth", "first", "browser", "fastest", "here", "fastest here"),
            *("over here", "over super"),
        ],
        [
            [
                *(row[key] or "-" for key in (*keys, "threads", "depth", "first_ms")),
                *(
                    row[f"{where}{kind}_ms"]
                    for where in ("browser", "native")
                    for kind in ("", "_fastest")
                ),
                *(f"{row[key]['value']:.2f}" for key in ("over_native", "over_super")),
            ]
            for row in rows
        ],
        keys=5,
    )
    print_table(
        "from an empty cache to boxes at base, and what is loaded",
        [*keys, "open ms", "first detection ms", "MB", "MB with gzip"],
        [
            [
                *(start.get(key) or "-" for key in (*keys, "open_ms", "first_detection_ms")),
                *(f"{start[key] / 1e6:.1f}" for key in ("bytes", "gzip_bytes")),
            ]
            for start in starts
        ],
        keys=3,
    )
    for start in starts:
        if found := start.get("operators"):
            parts = ", ".join(f"{name} {value}" for name, value in found.items())
            form = f" ({start['deformable']})" if start["deformable"] else ""
            print_line(f"{start['network']} {start['precision']}{form}, % of operators: {parts}")


if __name__ == "__main__":
    main()

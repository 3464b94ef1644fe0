"""What steps have in common: networks, bundles, and which figures stay of what commands print."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .device import ROOT
from .step import Run, StoppedError

__all__ = [
    "CHECKPOINTS",
    "NETWORKS",
    "bench",
    "build",
    "copy_of",
    "evaluate",
    "families",
    "predict",
    "published_bundle",
    "random_network",
    "required",
    "tiny_bundle",
    "verify",
]

CHECKPOINTS = ROOT / "anydepth_deploy" / "trained"

TINY = "-tiny-shapes"

NETWORKS = ("r50", "r101", "yolo-s", "yolo-l")
"""Of the published speed-up curve: benchmarks/curve.py."""

CALIBRATION = ("--count", 64, "--seed", 7)
"""Generated pictures that ranges are gathered over: as benchmarks/accuracy_by_precision.py has it,
but fewer."""

HELD_OUT = ("--count", 200, "--seed", 1000)


def families(folder: Path = CHECKPOINTS) -> dict[str, Path]:
    """The trained tiny checkpoint by the short name of its family, ``detr``."""
    found = sorted(folder.glob(f"*{TINY}.pth"))
    return {path.stem.removesuffix(TINY).removeprefix("anydepth-"): path for path in found}


def tiny_bundle(run: Run, family: str) -> Path:
    """The tiny network of ``family`` in every layout and precision, INT8 for both targets; made
    once for all steps. Raises :class:`StoppedError`."""
    checkpoint = families()[family]
    ranges, bundle = run.shared / f"{family}-ranges.json", run.shared / family

    def make() -> None:
        pictures = _pictures(run, "calibration", CALIBRATION)
        done = run.tool(
            *("calibrate", checkpoint, "--images", pictures, "--out", ranges),
            *("--count", 64, "--probe", 0),
        )
        required(done.passed, "it was not calibrated")
        done = run.tool(
            *("export", checkpoint, "--layout", "gated,set,stages"),
            *("--precision", "fp32,fp16,int8", "--target", "onnxruntime,tensorrt"),
            *("--ranges", ranges, "--out", bundle),
        )
        required(done.passed, "it was not exported")

    return _once(run, bundle, make)


def random_network(run: Run, network: str) -> Path:
    """A checkpoint with random weights at a published size. Raises :class:`StoppedError`."""
    path = run.shared / f"{network}-random.pth"

    def make() -> None:
        done = run.script("benchmarks/random_checkpoint.py", network, path)
        required(done.passed, "its weights were not made")

    return _once(run, path, make)


def published_bundle(run: Run, network: str) -> Path:
    """The gated graphs, in FP32 and FP16, of a network of a published size with random weights:
    engines of every layout are built from them. Raises :class:`StoppedError`."""
    bundle = run.shared / network

    def make() -> None:
        checkpoint = random_network(run, network)
        done = run.tool("export", checkpoint, "--precision", "fp32,fp16", "--out", bundle)
        required(done.passed, "it was not exported")

    return _once(run, bundle, make)


def copy_of(run: Run, bundle: Path) -> Path:
    """A copy of ``bundle`` that is the step's own: engines and verdicts are written into it."""
    target, partial = run.folder / bundle.name, run.folder / f"{bundle.name}.partial"
    if not target.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(bundle, partial)
        partial.rename(target)
    return target


def build(run: Run, bundle: Path, runtime: str, precision: str, layout: str) -> bool:
    """Build engines for the device at hand; whether they are there."""
    cache = run.shared / f"{runtime}.cache"
    words = ("--runtime", runtime, "--precision", precision, "--layout", layout)
    done = run.tool("build", bundle, *words, "--timing-cache", cache)
    if isinstance(done.content, dict):
        kept = ("runtime", "version", "capabilities", "built", "present", "refused", "notes")
        run.figure("build", {name: done.content.get(name) for name in kept})
    return done.passed


def verify(run: Run, bundle: Path, runtime: str, *words: object) -> bool:
    """Compare with the graphs (engines), or with the checkpoint: ``--checkpoint`` in ``words``."""
    words = ("--runtime", runtime, *words)
    done = run.tool("verify", bundle, *words, libraries=_wheels(runtime))
    if isinstance(done.content, dict):
        run.figure("verify", parity_figures(done.content))
    return done.passed


def bench(run: Run, path: Path, runtime: str, *words: object) -> bool:
    """Measure; result files with every sample stay in the step's folder."""
    words = ("--runtime", runtime, *words, "--out", run.runs)
    done = run.tool("bench", path, *words, libraries=_wheels(runtime))
    for result in done.content if isinstance(done.content, list) else []:
        run.figure("bench", bench_figures(result))
    return done.passed


def evaluate(run: Run, bundle: Path, runtime: str, precision: str, layout: str) -> None:
    """Accuracy of every rung on held-out pictures, where what computes it is installed."""
    if (reason := run.needs.lacks("evaluation")) is not None:
        run.notes.append(f"accuracy was not measured: {reason}")
        return
    pictures = _pictures(run, "held-out", HELD_OUT)
    words = ("--runtime", runtime, "--precision", precision, "--layout", layout)
    data = ("--data", pictures / "annotations.json")
    done = run.tool("eval", bundle, *words, *data, libraries=_wheels(runtime))
    if isinstance(done.content, dict):
        rows = [
            {name: row[name] for name in ("depth", "ap", "ap50")} for row in done.content["rows"]
        ]
        run.figure("eval", {"layout": layout, "precision": precision, "depths": rows})


def predict(run: Run, bundle: Path, runtime: str, precision: str) -> None:
    """Boxes on a held-out picture at base, as a user asks for them."""
    pictures = _pictures(run, "held-out", HELD_OUT)
    picture = next(path for path in sorted(pictures.rglob("*.png")))
    words = ("--runtime", runtime, "--precision", precision, "--depth", "base")
    out = ("--out", run.folder / "predicted.png")
    done = run.tool("predict", bundle, picture, *words, *out, libraries=_wheels(runtime))
    if done.content:
        run.figure("predict", {"found": len(done.content["predictions"][0]["detections"])})


def required(there: object, message: str) -> None:
    """Raises :class:`StoppedError` with ``message`` unless ``there``."""
    if not there:
        raise StoppedError(message)


def bench_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth reading of a result of ``bench``."""
    subject, settings = result["subject"], result["settings"]
    return {
        **{name: subject[name] for name in ("name", "runtime", "precision", "layout")},
        "cuda_graph": subject["cuda_graph"],
        "verified": subject["verified"],
        **{name: settings[name] for name in ("mode", "batch", "transfers")},
        "load_ms": result["load_ms"],
        "device_memory": result["memory"]["device"],
        "devices": [{key: one[key] for key in ("name", "unknown")} for one in result["devices"]],
        "verdict": result["verdict"],
        "depths": [
            {
                "depth": row["depth"],
                "median_ms": row["latency"]["median_ms"],
                "speedup": row["speedup"],
                "switch_ms": row["switch_ms"],
                "first_ms": row["first_ms"],
            }
            for row in result["depths"]
        ],
    }


def parity_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of a report of ``verify``: the largest differences by artifact, and each row that failed."""
    largest: dict[str, dict[str, float]] = {}
    for row in report["rows"]:
        mine = largest.setdefault(row["artifact"], {})
        for name, value in row["differences"].items():
            mine[name] = max(mine.get(name, 0.0), value)
    return {
        "runtime": report["runtime"],
        "passed": report["passed"],
        "compared": len(report["rows"]),
        "largest": largest,
        "failed": [row for row in report["rows"] if not row["passed"]],
        "gates": [gate for gate in report.get("gates", []) if not gate["passed"]],
        "notes": report.get("notes", []),
        "left_out": report["left_out"],
    }


def _wheels(runtime: str) -> bool:
    """Whether ``runtime`` has to be told where the libraries of wheels are."""
    return runtime.startswith("onnxruntime")


def _pictures(run: Run, name: str, words: tuple[object, ...]) -> Path:
    """Generated pictures with their annotations. Raises :class:`StoppedError`."""
    folder = run.shared / name

    def make() -> None:
        done = run.tool("shapes", "--out", folder, *words)
        required(done.passed, f"the pictures for {name} were not made")

    return _once(run, folder, make)


def _once(run: Run, path: Path, make: Callable[[], None]) -> Path:
    """``path``, made where it has not been made to the end. What an interrupted step has left may
    be gone on with, or written over."""
    done = run.shared / f"{path.name}.made"
    if not done.exists():
        run.shared.mkdir(parents=True, exist_ok=True)
        make()
        done.touch()
    return path

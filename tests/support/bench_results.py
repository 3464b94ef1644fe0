"""Results of bench made from known latencies, without measuring anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anydepth_deploy.bench.results import (
    Accuracy,
    BenchResult,
    DepthResult,
    Host,
    Inputs,
    Memory,
    Overall,
    Samples,
    Settings,
    Subject,
    Verdict,
)
from anydepth_deploy.bench.sensors.state import Device
from anydepth_deploy.bench.statistics import ratio_of_medians, summarise

NETWORKS: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("anydepth-detr", "r50"): {
        "TTTT-T-4": (39.505, 92),
        "FFTT-F-4": (55.1, 116),
        "FFTF-F-4": (60.7, 122),
        "FFFF-F-4": (65.22, 134),
        "FFFF-F-6": (67.028, 139),
    },
    ("anydepth-detr", "r101"): {
        "TTTT-T-4": (70.271, 158),
        "FFTT-F-4": (92.9, 194),
        "FFTF-F-4": (118.7, 238),
        "FFFF-F-4": (126.3, 252),
        "FFFF-F-6": (128.0, 258),
    },
    ("anydepth-yolo", "s"): {
        "TTTTTTTT": (7.9, 27),
        "FFTTTFTT": (9.3, 30.5),
        "FFFTTFTT": (9.9, 32),
        "FFFFFFTT": (10.8, 36),
        "FFFFFFFF": (11.4, 39),
    },
    ("anydepth-yolo", "l"): {
        "TTTTTTTT": (31.013, 88),
        "FFTTTFTT": (35.6, 97),
        "FFFTTFTT": (38.2, 103),
        "FFFFFFTT": (42.0, 114),
        "FFFFFFFF": (44.473, 121),
    },
}
"""By network and depth: billions of multiply-adds and a plausible median in milliseconds."""


def noisy(median_ms: float, count: int = 300, seed: int = 0, stalls: float = 0.02) -> list[float]:
    """Latencies around a median, skewed, some of them stalled."""
    rng = np.random.default_rng(seed)
    values = median_ms * (0.97 + rng.gamma(2.0, 0.018, count))
    late = rng.random(count) < stalls
    values[late] *= 1.15 + rng.exponential(0.2, int(late.sum()))
    return [float(value) for value in values]


def fake_result(
    latencies_ms: Mapping[str, Sequence[float]],
    *,
    macs: Mapping[str, int | None] | None = None,
    ap: Mapping[str, float] | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    subject: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    percentiles: Sequence[float] = (50, 90, 99),
    depth_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> BenchResult:
    """A result with these samples, one after the other; by depth, from base to super.

    Without `macs` the k-th depth has (k + 1) billion. `subject`, `settings`, `host`, `inputs`:
    fields that differ from the usual; `depth_changes`: of every depth; `changes`: of the result.
    """
    depths = list(latencies_ms)
    work = macs or {depth: (k + 1) * 10**9 for k, depth in enumerate(depths)}
    largest = max(depths, key=lambda depth: work[depth] or 0)
    good = Verdict(word="valid")
    rows, everything = [], []
    for level, depth in enumerate(depths):
        took = [round(1e6 * value) for value in latencies_ms[depth]]
        ends = np.cumsum(took)
        everything += took
        rows.append(
            DepthResult(
                depth=depth,
                level=level,
                macs=work[depth],
                samples=Samples(
                    started_ns=[int(end) - t for end, t in zip(ends, took, strict=True)],
                    ended_ns=[int(end) for end in ends],
                ),
                latency=summarise(took, percentiles),
                images_per_second=len(took) / (float(ends[-1]) / 1e9),
                speedup=ratio_of_medians(
                    np.asarray(latencies_ms[largest], np.float64),
                    np.asarray(latencies_ms[depth], np.float64),
                    paired=False,
                ),
                accuracy=Accuracy(ap=ap[depth], data="val.json", pictures=100)
                if ap and depth in ap
                else None,
                verdict=(verdicts or {}).get(depth, good),
            ).model_copy(update=dict(depth_changes or {}))
        )
    order = ("throttled", "unstable", "unknown", "valid")
    worst = min((row.verdict.word for row in rows), key=order.index)
    content: dict[str, Any] = {
        "tool_version": "0.1.0",
        "when": "2026-05-20T12:00:00+00:00",
        "host": {
            "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "cores": 8,
            "memory_bytes": 32 * 10**9,
            "system": "Linux 6.8",
            "python": "3.12.3",
            "packages": {"onnxruntime": "1.23.0", "numpy": "2.1.0"},
            **(host or {}),
        },
        "subject": {
            "kind": "bundle",
            "name": "r50",
            "source_sha256": "a" * 64,
            "family": "anydepth-detr",
            "config": "r50",
            "input_size": (640, 640),
            "runtime": "onnxruntime",
            "device": "cpu",
            "precision": "fp32",
            "layout": "stages",
            "artifacts": {"stages": "b" * 64},
            "verified": "2026-05-19T08:00:00+00:00",
            **(subject or {}),
        },
        "settings": {
            "scenario": "single",
            "mode": "interleaved",
            "depths": depths,
            "batch": 1,
            "streams": 1,
            "threads": None,
            "rate": None,
            "duration_s": 10.0,
            "count": 100,
            "repeats": 3,
            "warmup_s": 1.0,
            "warmup_count": 5,
            "seed": 0,
            "percentiles": list(percentiles),
            "scope": "detections",
            "transfers": None,
            **(settings or {}),
        },
        "boundaries": {"network": "timed", "suppression": "timed", "decoding": "not timed"},
        "inputs": {
            "source": "pictures",
            "count": 16,
            "sha256": "c" * 64,
            "seed": 0,
            **(inputs or {}),
        },
        "devices": [Device(kind="cpu", name="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz")],
        "memory": Memory(before=1, loaded=2, peak=3),
        "load_ms": 800.0,
        "depths": rows,
        "overall": Overall(
            requests=len(everything),
            images=len(everything),
            wall_s=sum(everything) / 1e9,
            images_per_second=len(everything) / (sum(everything) / 1e9),
            latency=summarise(everything, percentiles),
        ),
        "verdict": Verdict(
            word=worst, reasons=[reason for row in rows for reason in row.verdict.reasons]
        ),
    }
    content.update(changes)
    for name, model in (("host", Host), ("subject", Subject), ("settings", Settings)):
        content[name] = model.model_validate(content[name])
    content["inputs"] = Inputs.model_validate(content["inputs"])
    return BenchResult(**content)


def network_result(family: str, config: str, **changes: Any) -> BenchResult:
    """A plausible result of one of :data:`NETWORKS` over its five depths."""
    table = NETWORKS[family, config]
    seed = sorted(NETWORKS).index((family, config))
    scale = changes.pop("scale", 1.0)
    count = changes.pop("count", 300)
    subject = {"family": family, "config": config, "name": config, **changes.pop("subject", {})}
    return fake_result(
        {
            depth: noisy(scale * median, count, seed=10 * seed + k)
            for k, (depth, (_, median)) in enumerate(table.items())
        },
        macs={depth: round(giga * 1e9) for depth, (giga, _) in table.items()},
        subject=subject,
        **changes,
    )


def four_networks(**changes: Any) -> list[BenchResult]:
    """R50, R101, YOLO s and YOLO l, five depths each."""
    return [network_result(family, config, **changes) for family, config in NETWORKS]

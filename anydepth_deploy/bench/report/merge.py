"""Results of several networks, devices and runtimes as rows: one for each result and depth.

Figures say little without what was timed, on what, and whether they can be relied on:
:func:`notes` says that of each result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anydepth_deploy.annotations.evaluations import labels
from anydepth_deploy.bench.report.accuracies import average_precision, data_sets
from anydepth_deploy.bench.report.facts import (
    ABSENT,
    device_name,
    facts,
    macs_ratio,
    network_name,
    phrase,
    printable,
    when,
)
from anydepth_deploy.bench.results import BenchResult, DepthResult, Estimate
from anydepth_deploy.console import Table, giga
from anydepth_deploy.errors import ResultError, shorten

__all__ = [
    "ALWAYS",
    "arrange",
    "interval",
    "milliseconds",
    "notes",
    "raw_rows",
    "report_table",
]

ALWAYS = ("network", "device", "runtime", "precision", "layout")
"""Facts that are columns whenever any result has them; others only where results differ."""


def arrange(results: Sequence[BenchResult]) -> list[BenchResult]:
    """The order of a report: as given, but results of the same subject, settings and machine stand
    together, the newest last. Raises :class:`ResultError` where there are none."""
    if not results:
        raise ResultError("no results to report: name at least one file that bench wrote")
    groups: dict[str, list[BenchResult]] = {}
    for result in results:
        groups.setdefault(_identity(result), []).append(result)
    return [result for group in groups.values() for result in sorted(group, key=when)]


def report_table(results: Sequence[BenchResult]) -> Table:
    """Columns and rows for people. Columns that would be empty in every row are left out.

    Intervals are of 95 %. ``multiply-adds ratio`` is how many times fewer multiply-adds a depth has
    than the largest one measured: what ``speed-up`` would be if time followed them. AP that was
    measured on different data has a column for each.
    """
    found = arrange(results)
    every = [facts(result) for result in found]
    columns = [name for name in every[0] if name in ALWAYS or len({row[name] for row in every}) > 1]
    repeated = len({result.when for result in found}) > 1 and _has_duplicates(found)
    data = labels(data_sets(found))
    table: list[dict[str, str]] = []
    for number, (result, words) in enumerate(zip(found, every, strict=True), 1):
        for depth in result.depths:
            ratio = macs_ratio(result, depth)
            percentiles = depth.latency.percentiles_ms
            row = {
                "#": str(number),
                **{name: words[name] for name in columns},
                "measured": printable(result.when) if repeated else ABSENT,
                "depth": printable(depth.depth),
                "multiply-adds": ABSENT if depth.macs is None else giga(depth.macs),
                "median ms": interval(depth.latency.median_ms),
                "p90 ms": milliseconds(percentiles.get("90")),
                "p99 ms": milliseconds(percentiles.get("99")),
                "speed-up": interval(depth.speedup, "{:.2f}", "x"),
                "multiply-adds ratio": ABSENT if ratio is None else f"{ratio:.2f}x",
                "images/s": _number(depth.images_per_second),
                **{
                    "AP" if len(data) == 1 else f"AP on {name}": _number(
                        average_precision(depth, one), "{:.1f}"
                    )
                    for one, name in data.items()
                },
                "J/image": _number(depth.energy_per_image_j),
                "verdict": depth.verdict.word,
            }
            table.append(row)
    names = [name for name in table[0] if any(row[name] != ABSENT for row in table)]
    if "J/image" in names:
        for row in table:
            row["J/image"] = row["J/image"].replace(ABSENT, "unknown")
    return names, [[row[name] for name in names] for row in table]


def notes(result: BenchResult) -> dict[str, str]:
    """What the figures of one result are of, in words, by what it is about."""
    subject, host = result.subject, result.host
    memory = "unknown" if host.memory_bytes is None else f"{host.memory_bytes / 1e9:.1f} GB"
    packages = ", ".join(f"{name} {version}" for name, version in host.packages.items())
    settings = result.settings
    words = [
        phrase(name, value)
        for name, value in facts(result).items()
        if name not in (*ALWAYS, "input size") and phrase(name, value)
    ]
    words.append(f"at least {settings.duration_s:g} s and {settings.count} requests a depth")
    words.append(f"warm-up {settings.warmup_s:g} s and {settings.warmup_count} calls")
    if settings.locked_clocks is not None:
        words.append(f"clocks held at {settings.locked_clocks}")
    energy = [d.energy_per_image_j for d in result.depths] + [result.overall.energy_per_image_j]
    found = {
        "measured": f"{result.when}, by anydepth-deploy {result.tool_version}",
        "subject": f"{subject.kind} {subject.name}, {network_name(result)} at "
        f"{subject.input_size[0]}x{subject.input_size[1]}, {subject.runtime} in "
        f"{subject.precision} on {device_name(result)} ({subject.device}); checkpoint sha256 "
        f"{subject.source_sha256[:12]}",
        "timed": "; ".join(f"{step}: {words}" for step, words in result.boundaries.items()),
        "settings": ", ".join(words),
        "host": f"{host.processor}, {host.cores or 'unknown'} cores, memory {memory}; "
        f"{host.system}, Python {host.python}, {packages}",
        "inputs": f"{result.inputs.count} pictures ({result.inputs.source}), sha256 "
        f"{result.inputs.sha256[:12]}",
        "verified": f"artifacts passed verify on {subject.verified}"
        if subject.verified
        else "never: nothing says that the artifacts compute what their checkpoint does",
        "accuracy": _accuracy(result),
        "energy": "unknown" if set(energy) == {None} else "see the table",
        "verdict": _verdict(result),
    }
    if found["energy"] != "unknown":
        del found["energy"]
    if not found["accuracy"]:
        del found["accuracy"]
    if not result.boundaries:
        found["timed"] = "not said"
    return {name: printable(text) for name, text in found.items()}


def raw_rows(results: Sequence[BenchResult]) -> list[dict[str, Any]]:
    """Every figure of the table and more, not rounded, with the unit in its name."""
    found = arrange(results)
    asked = {name for r in found for d in r.depths for name in d.latency.percentiles_ms}
    percentiles = sorted(asked, key=float)
    return [
        _raw_row(number, result, depth, percentiles)
        for number, result in enumerate(found, 1)
        for depth in result.depths
    ]


def interval(found: Estimate | None, style: str | None = None, unit: str = "") -> str:
    """``12.34 [12.31, 12.40]``; without the interval where there is none, a dash without value."""
    if found is None:
        return ABSENT
    style = style or _style(found.value)
    value = style.format(found.value) + unit
    if found.low is None or found.high is None:
        return value
    return f"{value} [{style.format(found.low)}, {style.format(found.high)}]"


def milliseconds(value: float | None) -> str:
    """A latency for people; a dash where it is None."""
    return _number(value)


def _number(value: float | None, style: str | None = None) -> str:
    return ABSENT if value is None else (style or _style(value)).format(value)


def _style(value: float) -> str:
    """Four significant digits, or all before the point."""
    decimals = 1 if value >= 100 else 2 if value >= 10 else 3
    return f"{{:.{decimals}f}}"


def _accuracy(result: BenchResult) -> str:
    """What AP was measured on, in words."""
    return "; ".join(
        f"AP on {name}, {pictures} pictures, sha256 {sha256[:12] if sha256 else 'unknown'}"
        for name, pictures, sha256 in data_sets([result])
    )


def _identity(result: BenchResult) -> str:
    """The same for results of the same subject, settings and machine."""
    parts = (result.subject, result.settings, result.host)
    found = [part.model_dump(mode="json") for part in parts]
    return json.dumps([*found, device_name(result)], sort_keys=True)


def _has_duplicates(results: Sequence[BenchResult]) -> bool:
    return len({_identity(result) for result in results}) < len(results)


def _verdict(result: BenchResult) -> str:
    """The word and its reasons, then what only some depths are blamed for."""
    parts = [": ".join(filter(None, [result.verdict.word, "; ".join(result.verdict.reasons)]))]
    for depth in result.depths:
        # The result's reasons name the depth where not all have them.
        said = result.verdict.reasons
        own = [
            reason
            for reason in depth.verdict.reasons
            if reason not in said and f"{depth.depth}: {reason}" not in said
        ]
        if own:
            parts.append(f"{depth.depth} {depth.verdict.word}: {'; '.join(own)}")
    blamed = [depth.depth for depth in result.depths if depth.verdict.word != "valid"]
    if blamed and len(blamed) < len(result.depths):
        parts.append(f"not valid: {shorten(blamed, 12)}")
    return ". ".join(parts)


def _raw_row(
    number: int, result: BenchResult, depth: DepthResult, percentiles: Sequence[str]
) -> dict[str, Any]:
    subject, settings, latency = result.subject, result.settings, depth.latency
    row: dict[str, Any] = {
        "result": number,
        "measured": result.when,
        "tool_version": result.tool_version,
        "kind": subject.kind,
        "name": subject.name,
        "family": subject.family,
        "config": subject.config,
        "height": subject.input_size[0],
        "width": subject.input_size[1],
        "device": device_name(result),
        "device_kind": subject.device,
        "processor": result.host.processor,
        "runtime": subject.runtime,
        "precision": subject.precision,
        "layout": subject.layout,
        "weights": subject.weights,
        "source_sha256": subject.source_sha256,
        "verified": subject.verified,
        "cuda_graph": subject.cuda_graph,
        "scenario": settings.scenario,
        "mode": settings.mode,
        "scope": settings.scope,
        "transfers": settings.transfers,
        "batch": settings.batch,
        "streams": settings.streams,
        "threads": settings.threads,
        "rate": settings.rate,
        "locked_clocks": settings.locked_clocks,
        "inputs_sha256": result.inputs.sha256,
        "depth": depth.depth,
        "level": depth.level,
        "macs": depth.macs,
        "macs_ratio": macs_ratio(result, depth),
        "count": latency.count,
        **_raw_estimate("median", latency.median_ms, "_ms"),
        "minimum_ms": latency.minimum_ms,
        "mean_ms": latency.mean_ms,
        "deviation_ms": latency.deviation_ms,
        "maximum_ms": latency.maximum_ms,
        **{f"p{name}_ms": latency.percentiles_ms.get(name) for name in percentiles},
        **_raw_estimate("speedup", depth.speedup),
        **_raw_estimate("switch", depth.switch_ms, "_ms"),
        "images_per_second": depth.images_per_second,
        "first_ms": depth.first_ms,
        "ap": average_precision(depth),
        "ap_data": depth.accuracy.data if depth.accuracy else None,
        "ap_pictures": depth.accuracy.pictures if depth.accuracy else None,
        "ap_data_sha256": depth.accuracy.data_sha256 if depth.accuracy else None,
        "energy_per_image_j": depth.energy_per_image_j,
        "verdict": depth.verdict.word,
        "reasons": "; ".join(depth.verdict.reasons),
        "result_verdict": result.verdict.word,
    }
    return row


def _raw_estimate(name: str, found: Estimate | None, unit: str = "") -> Mapping[str, float | None]:
    value, low, high = (found.value, found.low, found.high) if found else (None, None, None)
    return {f"{name}{unit}": value, f"{name}_low{unit}": low, f"{name}_high{unit}": high}

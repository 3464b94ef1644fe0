"""A result on the terminal, and as JSON for machines."""

from __future__ import annotations

from typing import Any

from anydepth_deploy.bench.report.merge import interval, milliseconds
from anydepth_deploy.bench.results import BenchResult, DepthResult
from anydepth_deploy.bench.statistics import samples_needed
from anydepth_deploy.console import Table, giga, print_line, print_table

__all__ = ["content", "depth_table", "show"]

ABSENT = "-"


def content(result: BenchResult) -> dict[str, Any]:
    """``result`` as plain data without its samples, which are in its file."""
    found = result.model_dump(mode="json")
    for row in found["depths"]:
        del row["samples"]
    return found


def show(result: BenchResult) -> None:
    """Print a table with a row for each depth, and what has to be said with it."""
    subject, settings, overall = result.subject, result.settings, result.overall
    threads = f"{settings.threads} thread(s)" if settings.threads else "default threads"
    streams = f", {settings.streams} streams" if settings.streams > 1 else ""
    rate = f" at {settings.rate:g} requests/s" if settings.rate is not None else ""
    print_table(
        f"{subject.name} ({subject.family} {subject.config}), {subject.runtime} {subject.precision}"
        f"{' ' + subject.layout if subject.layout else ''}: {settings.scenario}{rate}, depths "
        f"{settings.mode}, batch {settings.batch}, {threads}{streams}",
        *depth_table(result),
    )
    timed = [name for name, words in result.boundaries.items() if words.startswith("timed")]
    left = [name for name, words in result.boundaries.items() if words.startswith("not")]
    print_line(f"timed: {', '.join(timed)}; not timed: {', '.join(left)}")
    if settings.scenario != "single" or settings.mode == "mixed":
        latency = overall.latency
        queue = overall.queue_ms
        waited = f", of which waiting {interval(queue.median_ms)}" if queue else ""
        print_line(
            f"all requests: {overall.requests} in {overall.wall_s:.1f} s, "
            f"{overall.images_per_second:.2f} images/s, median {interval(latency.median_ms)} ms"
            f"{waited}"
        )
    for line in _remarks(result):
        print_line(line)


def depth_table(result: BenchResult) -> Table:
    """Columns and rows; columns without any entry are left out."""
    named = [f"{value:g}" for value in result.settings.percentiles if value != 50]
    columns: dict[str, list[str]] = {
        "depth": [row.depth for row in result.depths],
        "level": [_plain(row.level) for row in result.depths],
        "multiply-adds": [giga(row.macs) if row.macs else ABSENT for row in result.depths],
        "n": [str(row.latency.count) for row in result.depths],
        "median ms": [interval(row.latency.median_ms) for row in result.depths],
        **{
            f"p{name}": [milliseconds(row.latency.percentiles_ms[name]) for row in result.depths]
            for name in named
        },
        "CV": [_percent(row.latency.variation) for row in result.depths],
        "speed-up": [interval(row.speedup, "{:.3f}") for row in result.depths],
        "images/s": [milliseconds(row.images_per_second) for row in result.depths],
        "switch ms": [_switch(row) for row in result.depths],
        "J/image": [milliseconds(row.energy_per_image_j) for row in result.depths],
        "AP": [f"{row.accuracy.ap:.1f}" if row.accuracy else ABSENT for row in result.depths],
        "verdict": [row.verdict.word for row in result.depths],
    }
    kept = [name for name, cells in columns.items() if set(cells) != {ABSENT}]
    return kept, [[columns[name][place] for name in kept] for place in range(len(result.depths))]


def _remarks(result: BenchResult) -> list[str]:
    """What a reader of the table has to know."""
    lines = [f"load {result.load_ms:.0f} ms, {_memory(result)}"]
    fewest = min(row.latency.count for row in result.depths)
    lacking = [value for value in result.settings.percentiles if samples_needed(value) > fewest]
    if lacking:
        words = ", ".join(f"p{value:g} needs {samples_needed(value)}" for value in lacking)
        lines.append(f"{fewest} samples a depth: {words} (--count, --duration)")
    if result.subject.kind == "bundle" and result.subject.verified is None:
        lines.append("never verified on this runtime: 'anydepth-deploy verify' proves what is fast")
    lines.append(f"verdict: {result.verdict.word}")
    return lines + [f"  {reason}" for reason in result.verdict.reasons]


def _memory(result: BenchResult) -> str:
    memory = result.memory
    if memory.before is None or memory.loaded is None:
        return "memory unknown"
    held = "".join(f", {name} {size / 1e6:.0f} MB" for name, size in memory.device.items())
    return f"memory {(memory.loaded - memory.before) / 1e6:+.0f} MB{held}"


def _switch(row: DepthResult) -> str:
    return ABSENT if row.switch_ms is None else interval(row.switch_ms, "{:+.3f}")


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.1f} %"


def _plain(value: object) -> str:
    return ABSENT if value is None else str(value)

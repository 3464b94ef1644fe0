"""What was done, skipped and found, for people: at the end of a call, and as ``summary.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .device import Machine
from .process import TIMED_OUT

__all__ = ["Outcome", "State", "lines", "markdown"]

State = Literal["passed", "failed", "out of time", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What became of a step. ``why``: of what was skipped or failed, in a line. ``kept``: it had
    been run before and stands."""

    step: str
    state: State
    why: str = ""
    seconds: float | None = None
    kept: bool = False


def outcome(content: Mapping[str, Any], *, kept: bool = False) -> Outcome:
    """Of a step that has a result."""
    rc, seconds = content["rc"], content["seconds"]
    state: State = "passed" if rc == 0 else "out of time" if rc == TIMED_OUT else "failed"
    failed = [check for check in content["checks"] if check["rc"]]
    first = f"{failed[0]['what']}: {failed[0]['message']}" if failed else ""
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return Outcome(content["step"], state, content["error"] or first + more, seconds, kept)


def lines(machine: Machine, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The end of a call, on the terminal."""
    yield _device(machine)
    width = max((len(one.step) for one in outcomes), default=0)
    for one in outcomes:
        yield f"  {one.step:{width}}  {_told(one)}"
    counted = [
        f"{sum(one.state == state for one in outcomes)} {state}"
        for state in ("passed", "failed", "out of time", "skipped")
        if any(one.state == state for one in outcomes)
    ]
    yield f"steps: {', '.join(counted) or 'none'}"


def markdown(
    machine: Machine, outcomes: Sequence[Outcome], results: Mapping[str, Mapping[str, Any]]
) -> str:
    """``summary.md``: the state of every step, and the medians of every ``bench``."""
    text = [
        "# make gpu",
        "",
        _device(machine),
        "",
        f"Python {machine.python}, "
        + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "",
        f"Commit {machine.commit or 'unknown (no git)'}, key {machine.key}.",
        "",
        "| step | state | seconds | |",
        "| --- | --- | --- | --- |",
    ]
    for one in outcomes:
        seconds = "" if one.seconds is None else f"{one.seconds:.0f}"
        text.append(f"| {one.step} | {one.state} | {seconds} | {_cell(one.why)} |")
    rows = [row for name, content in results.items() for row in _bench_rows(name, content)]
    if rows:
        text += ["", "| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|", *rows]
    return "\n".join(text) + "\n"


COLUMNS = (
    "step",
    "network",
    "runtime",
    "precision",
    "layout",
    "mode",
    "batch",
    "depth",
    "median, ms",
    "speed-up",
    "switch, ms",
    "verdict",
)


def _bench_rows(step: str, content: Mapping[str, Any]) -> Iterator[str]:
    for result in content["figures"].get("bench", []):
        copies = ", no copies" if result["transfers"] is False else ""
        head = [step, result["name"], result["runtime"] + copies, result["precision"]]
        head += [result["layout"] or "", result["mode"], str(result["batch"])]
        for row in result["depths"]:
            cells = [row["depth"], *(_figure(row[name]) for name in FIGURES)]
            yield "| " + " | ".join([*head, *cells, result["verdict"]["word"]]) + " |"


FIGURES = ("median_ms", "speedup", "switch_ms")


def _figure(estimate: Mapping[str, Any] | None) -> str:
    """A figure with its interval, where there is one."""
    if estimate is None:
        return ""
    text = f"{estimate['value']:.3f}"
    if estimate.get("low") is None or estimate.get("high") is None:
        return text
    return f"{text} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _device(machine: Machine) -> str:
    gpu = machine.gpu
    if gpu is None:
        return f"no NVIDIA GPU: {machine.without}"
    return f"{gpu.name} ({gpu.capability}, {gpu.memory_mib} MiB), driver {gpu.driver}"


def _told(one: Outcome) -> str:
    seconds = "" if one.seconds is None else f", {one.seconds:.0f} s"
    before = ", from an earlier call (FORCE=1 repeats it)" if one.kept else ""
    return f"{one.state}{seconds}{before}" + (f": {one.why}" if one.why else "")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())

"""Two results side by side: what differs, and whether one is faster.

Latencies of different settings answer different questions, so such results are refused; what is
left to differ is what the comparison is about: the runtime, the machine, the artifact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anydepth_deploy.bench.report.facts import device_name, printable
from anydepth_deploy.bench.report.merge import interval
from anydepth_deploy.bench.results import BenchResult, DepthResult, Estimate, Verdict
from anydepth_deploy.bench.statistics import ratio_of_medians
from anydepth_deploy.console import Table
from anydepth_deploy.errors import ResultError, UsageError, shorten

__all__ = [
    "SETTINGS",
    "Comparison",
    "DepthComparison",
    "Difference",
    "compare",
    "comparison_notes",
    "comparison_table",
]

SETTINGS = (
    "family",
    "config",
    "input-size",
    "scenario",
    "mode",
    "depths",
    "mix",
    "batch",
    "streams",
    "threads",
    "rate",
    "scope",
    "transfers",
    "boundaries",
    "inputs",
)
"""What has to agree, by the names that ``allow`` takes."""

TOGETHER = ("mixed", "switching")
"""Modes in which the other depths that ran are part of what is measured."""


@dataclass(frozen=True)
class Difference:
    """Something that two results do not share, with what each has."""

    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} against {self.b}"


@dataclass(frozen=True)
class DepthComparison:
    """One depth in both results. ``ratio``: median of A over median of B, above 1 where B is
    faster; its 95 % interval is None where there are too few samples for one."""

    depth: str
    a_ms: Estimate
    b_ms: Estimate
    ratio: Estimate
    a_verdict: Verdict
    b_verdict: Verdict

    @property
    def words(self) -> str:
        """Which is faster, as far as the interval can say."""
        ratio = self.ratio
        if ratio.low is None or ratio.high is None:
            return "too few samples to say"
        if ratio.low <= 1 <= ratio.high:
            return "no difference seen"
        if ratio.value > 1:
            return f"B is {ratio.value:.2f}x faster"
        return f"A is {1 / ratio.value:.2f}x faster"


@dataclass(frozen=True)
class Comparison:
    """A and B at every depth that both have.

    ``compared``: what differs and is what the comparison is about; ``allowed``: settings that
    differ because the caller let them; ``only_a``, ``only_b``: depths of one result alone.
    """

    a: BenchResult
    b: BenchResult
    compared: list[Difference]
    allowed: list[Difference]
    depths: list[DepthComparison]
    only_a: list[str]
    only_b: list[str]

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data for JSON; latencies in milliseconds."""
        return {
            "compared": [asdict(item) for item in self.compared],
            "allowed": [asdict(item) for item in self.allowed],
            "only_a": self.only_a,
            "only_b": self.only_b,
            "depths": [
                {
                    "depth": row.depth,
                    "a_ms": row.a_ms.model_dump(),
                    "b_ms": row.b_ms.model_dump(),
                    "ratio": row.ratio.model_dump(),
                    "words": row.words,
                    "a_verdict": row.a_verdict.model_dump(),
                    "b_verdict": row.b_verdict.model_dump(),
                }
                for row in self.depths
            ],
            "a_verdict": self.a.verdict.model_dump(),
            "b_verdict": self.b.verdict.model_dump(),
        }


def compare(a: BenchResult, b: BenchResult, *, allow: Collection[str] = ()) -> Comparison:
    """Compare two results depth by depth.

    ``allow`` names :data:`SETTINGS` that may differ. Durations, counts, warm-up, seeds and
    percentiles may always. A step of ``boundaries`` that one result has no need of, such as copies
    on a CPU, equals one that the other times, but not one that it leaves out; ``boundaries`` are
    looked at where ``scope`` and ``transfers`` agree, which say the same.

    Raises :class:`ResultError`, naming every mismatch, for results that cannot be compared, and
    :class:`UsageError` for an unknown name in ``allow``.
    """
    unknown = [name for name in allow if name not in SETTINGS]
    if unknown:
        raise UsageError(
            f"unknown setting {shorten(unknown)}: settings that may be allowed to differ are "
            f"{', '.join(SETTINGS)}"
        )
    mismatches = _mismatches(a, b)
    refused = [item for item in mismatches if item.name not in allow]
    if refused:
        names = ",".join(item.name for item in refused)
        raise ResultError(
            f"the results cannot be compared: {'; '.join(map(str, refused))}: measure again with "
            f"the same settings, or compare them all the same with --allow {names}"
        )
    of_b = {depth.depth: depth for depth in b.depths}
    both = [depth for depth in a.depths if depth.depth in of_b]
    names_a = [depth.depth for depth in a.depths]
    if not both:
        raise ResultError(
            f"the results have no depth in common: {shorten(names_a, 12)} against "
            f"{shorten(of_b, 12)}: measure the same depths"
        )
    return Comparison(
        a=a,
        b=b,
        compared=_compared(a, b),
        allowed=mismatches,
        depths=[_compare_depth(depth, of_b[depth.depth]) for depth in both],
        only_a=[name for name in names_a if name not in of_b],
        only_b=[name for name in of_b if name not in names_a],
    )


def comparison_table(found: Comparison) -> Table:
    """One row for each common depth."""
    columns = ["depth", "A median ms", "B median ms", "A / B", "difference", "verdicts"]
    return columns, [
        [
            printable(row.depth),
            interval(row.a_ms),
            interval(row.b_ms),
            interval(row.ratio, "{:.3f}"),
            row.words,
            "valid"
            if row.a_verdict.word == row.b_verdict.word == "valid"
            else f"A {row.a_verdict.word}, B {row.b_verdict.word}",
        ]
        for row in found.depths
    ]


def comparison_notes(found: Comparison) -> list[str]:
    """What the table does not say, a line each: what is compared, and what weakens it."""
    lines = [f"compared: {item}" for item in found.compared]
    if not found.compared:
        lines.append("compared: nothing differs but the moment of the run")
    lines += [f"allowed to differ: {item}" for item in found.allowed]
    for name, depths in (("A", found.only_a), ("B", found.only_b)):
        if depths:
            lines.append(f"only in {name}: {shorten(depths, 12)}")
    for name, result in (("A", found.a), ("B", found.b)):
        if result.verdict.word != "valid":
            reasons = "; ".join(result.verdict.reasons) or "no reason given"
            lines.append(printable(f"{name} is {result.verdict.word}: {reasons}"))
        if result.subject.verified is None:
            lines.append(f"{name} was never verified: nothing says that it computes the same")
    return lines


def _mismatches(a: BenchResult, b: BenchResult) -> list[Difference]:
    ours, theirs = _settings(a), _settings(b)
    differ = [name for name in SETTINGS if ours[name] != theirs[name]]
    if any(side.settings.mode not in TOGETHER for side in (a, b)):
        differ = [name for name in differ if name != "depths"]
    if {"scope", "transfers"} & set(differ):
        differ = [name for name in differ if name != "boundaries"]
    shown = (_shown(a), _shown(b))
    found = []
    for name in differ:
        if name == "boundaries":
            steps = [step for step in _steps(a, b) if _timed(a, step) != _timed(b, step)]
            found.append(Difference(name, *(_wording(side, steps) for side in (a, b))))
        else:
            found.append(Difference(name, *(side[name] for side in shown)))
    return found


def _steps(a: BenchResult, b: BenchResult) -> list[str]:
    return list({**a.boundaries, **b.boundaries})


def _timed(result: BenchResult, step: str) -> bool:
    """Whether a step is part of the time, or would be if there were one."""
    return result.boundaries.get(step, "none").startswith(("timed", "none"))


def _wording(result: BenchResult, steps: Sequence[str]) -> str:
    words = (f"'{step}: {result.boundaries.get(step, 'none')}'" for step in steps)
    return printable(", ".join(words))


def _settings(result: BenchResult) -> dict[str, Any]:
    subject, settings = result.subject, result.settings
    return {
        "family": subject.family,
        "config": subject.config,
        "input-size": tuple(subject.input_size),
        "scenario": settings.scenario,
        "mode": settings.mode,
        "depths": sorted(settings.depths),
        "mix": settings.mix,
        "batch": settings.batch,
        "streams": settings.streams,
        "threads": settings.threads,
        "rate": settings.rate,
        "scope": settings.scope,
        "transfers": settings.transfers is not False,
        "boundaries": {step for step in result.boundaries if not _timed(result, step)},
        "inputs": result.inputs.sha256,
    }


def _shown(result: BenchResult) -> dict[str, str]:
    """The settings as a message shows them."""
    found = _settings(result)
    found["input-size"] = "{}x{}".format(*result.subject.input_size)
    found["depths"] = shorten(result.settings.depths, 12)
    found["inputs"] = f"{result.inputs.source} ({result.inputs.sha256[:12]})"
    if result.settings.threads is None:
        found["threads"] = "default"
    if result.settings.mix is not None:
        found["mix"] = "/".join(f"{d} {share:g}" for d, share in result.settings.mix.items())
    words = {None: "none", True: "timed", False: "not timed"}
    found["transfers"] = words[result.settings.transfers]
    return {name: "none" if value is None else printable(value) for name, value in found.items()}


def _compared(a: BenchResult, b: BenchResult) -> list[Difference]:
    """What differs and may: the artifact and what runs it, then how long was measured."""
    ours, theirs = _free(a), _free(b)
    return [
        Difference(name, ours.get(name, "none"), theirs.get(name, "none"))
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]


def _free(result: BenchResult) -> dict[str, str]:
    subject, host, settings = result.subject, result.host, result.settings
    found: dict[str, object] = {
        "kind": subject.kind,
        "name": subject.name,
        "checkpoint sha256": subject.source_sha256[:12],
        "runtime": subject.runtime,
        "device": device_name(result),
        "precision": subject.precision,
        "layout": subject.layout,
        "weights": subject.weights,
        **{f"sha256 of {name}": sha[:12] for name, sha in subject.artifacts.items()},
        "verified": subject.verified,
        "CUDA graph": subject.cuda_graph,
        "processor": host.processor,
        "cores": host.cores,
        "system": host.system,
        "python": host.python,
        **host.packages,
        "anydepth-deploy": result.tool_version,
        **{f"step '{step}'": words for step, words in result.boundaries.items()},
        **{f"device {k}": v for device in result.devices for k, v in device.settings.items()},
        "locked clocks": settings.locked_clocks,
        "duration": f"{settings.duration_s:g} s",
        "count": settings.count,
        "repeats": settings.repeats,
        "warm-up": f"{settings.warmup_s:g} s and {settings.warmup_count} calls",
        "seed": settings.seed,
    }
    return {
        printable(name): "none" if value is None else printable(value)
        for name, value in found.items()
    }


def _compare_depth(a: DepthResult, b: DepthResult) -> DepthComparison:
    ours, theirs = (np.asarray(depth.samples.latency_ns, np.float64) for depth in (a, b))
    return DepthComparison(
        depth=a.depth,
        a_ms=a.latency.median_ms,
        b_ms=b.latency.median_ms,
        ratio=ratio_of_medians(ours, theirs, paired=False),
        a_verdict=a.verdict,
        b_verdict=b.verdict,
    )

"""What a result is of, as short texts by name: what tables, pictures and comparisons tell apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone

from anydepth_deploy.bench.results import BenchResult, DepthResult
from anydepth_deploy.errors import shorten

__all__ = [
    "common",
    "device_name",
    "facts",
    "labels",
    "largest_macs",
    "macs_ratio",
    "network_name",
    "phrase",
    "printable",
    "when",
]

ABSENT = "-"


def printable(text: object) -> str:
    """``text`` without characters that move a terminal's cursor or end a line: escaped instead."""
    return shorten([text], 1)


def network_name(result: BenchResult) -> str:
    """Family and configuration: ``anydepth-detr r50``."""
    return printable(f"{result.subject.family} {result.subject.config}")


def device_name(result: BenchResult) -> str:
    """The GPU that a result was measured on, or the processor."""
    if result.subject.device == "cuda":
        names = [device.name for device in result.devices if device.kind != "cpu"]
        name = names[0] if names else "unknown GPU"
    else:
        name = result.host.processor or "unknown processor"
    # "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz" is "Intel Xeon Platinum 8481C" to people.
    name = re.sub(r"\((R|TM|tm)\)|( CPU)? @ .*| \d+-Core Processor| w/ .*", "", name)
    return printable(re.sub(" +", " ", name).strip())


def largest_macs(result: BenchResult) -> int | None:
    """The multiply-adds of the largest depth measured; None when any is unknown."""
    found = [depth.macs for depth in result.depths]
    known = [macs for macs in found if macs]
    return max(known) if len(known) == len(found) else None


def macs_ratio(result: BenchResult, depth: DepthResult) -> float | None:
    """How many times fewer multiply-adds ``depth`` has than the largest depth measured."""
    most = largest_macs(result)
    return most / depth.macs if most and depth.macs else None


def when(result: BenchResult) -> datetime:
    """The moment of a result, for sorting; the earliest where it cannot be read."""
    try:
        moment = datetime.fromisoformat(result.when.replace("Z", "+00:00"))
    except ValueError:
        return datetime.min.replace(tzinfo=timezone.utc)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def facts(result: BenchResult) -> dict[str, str]:
    """What one result is of and how it was measured, by name; a dash for what does not apply."""
    subject, settings = result.subject, result.settings
    mix = settings.mix
    found: dict[str, object] = {
        "network": network_name(result),
        "device": device_name(result),
        "runtime": subject.runtime,
        "precision": subject.precision,
        "layout": subject.layout,
        "weights": subject.weights,
        "input size": "{}x{}".format(*subject.input_size),
        "batch": settings.batch,
        "streams": settings.streams,
        "threads": settings.threads,
        "rate": None if settings.rate is None else f"{settings.rate:g}/s",
        "scenario": settings.scenario,
        "mode": settings.mode,
        "mix": mix and ", ".join(f"{depth} {share:g}" for depth, share in mix.items()),
        "scope": settings.scope,
        "transfers": {None: None, True: "timed", False: "not timed"}[settings.transfers],
        "CUDA graph": {None: None, True: "yes", False: "no"}[subject.cuda_graph],
    }
    return {
        name: ABSENT if value in (None, "") else printable(value) for name, value in found.items()
    }


def phrase(name: str, value: str) -> str:
    """One fact in words: ``fp16``, ``batch 4``; empty for what does not apply."""
    if value == ABSENT:
        return f"default {name}" if name == "threads" else ""
    plain = ("network", "precision", "runtime", "device", "input size")
    return value if name in plain else f"{name} {value}"


def labels(results: Sequence[BenchResult]) -> list[str]:
    """A label for each result: its network, and all that tells it apart from the others.

    Results that agree in everything are told apart by when they were measured.
    """
    found = [facts(result) for result in results]
    differ = ["network"] + [
        name for name in found[0] if name != "network" and len({row[name] for row in found}) > 1
    ]
    texts = [", ".join(filter(None, (phrase(name, row[name]) for name in differ))) for row in found]
    for extra in (
        [result.subject.name for result in results],
        [result.when for result in results],
        [f"#{number}" for number in range(1, len(results) + 1)],
    ):
        if len(set(texts)) == len(texts):
            break
        if len(set(extra)) > 1:
            twice = {text for text in texts if texts.count(text) > 1}
            texts = [
                f"{text}, {printable(more)}" if text in twice else text
                for text, more in zip(texts, extra, strict=True)
            ]
    return texts


def common(results: Sequence[BenchResult]) -> list[str]:
    """The facts in which all results agree, in words, but for those that do not apply."""
    found = [facts(result) for result in results]
    return [
        phrase(name, value)
        for name, value in found[0].items()
        if value != ABSENT and all(row[name] == value for row in found)
    ]

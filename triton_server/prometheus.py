"""Read what a server's metrics port says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Sample", "read_metrics", "total"]


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


def read_metrics(text: str) -> Iterator[Sample]:
    """The samples in Prometheus' text format; labels that hold quotation marks are not needed here
    and not read."""
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found is not None:
            name, labels, value = found.groups()
            pairs = re.findall(r'(\w+)="([^"]*)"', labels or "")
            yield Sample(name, dict(pairs), float(value))


def total(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's values over all samples that have these labels; 0 without any."""
    return sum(
        sample.value
        for sample in read_metrics(text)
        if sample.name == name and labels.items() <= sample.labels.items()
    )

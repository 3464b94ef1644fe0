"""Read what a server's metrics port says."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["total"]


def total(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's values over all samples that have these labels; 0 without any.

    ``text``: in Prometheus' text format; anything else raises :class:`ValueError`.
    """
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )

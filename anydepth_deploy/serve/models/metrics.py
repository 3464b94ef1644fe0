"""Metrics of the router on Triton's metrics port: requests, errors and duration by depth.

Triton counts by model. All depths of a gated graph are one model there, and requests that a Python
model refuses are no failures; so the router counts for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

__all__ = ["ErrorMetrics", "RouterMetrics"]

BUCKETS = [
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
]
"""Upper limits in seconds: from a tiny network on a GPU to a large one on a busy CPU."""


class ErrorMetrics:
    """Requests refused or failed by one model, by reason; may be used from several threads at once.

    ``anydepth_errors_total`` {model, reason}; ``model`` is the bundle's name. Processes that count
    under the same name and reason add up.
    """

    def __init__(self, name: str, reasons: Iterable[str]) -> None:
        self._errors = pb_utils.MetricFamily(
            name="anydepth_errors_total",
            description="Requests refused or failed, by reason",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        # There from the start, so that a rate over them is zero and not absent.
        self._of_reason = {
            reason: self._errors.Metric(labels={"model": name, "reason": reason})
            for reason in reasons
        }
        # Triton 24.10 dies when two threads change metrics at once.
        self._lock = threading.Lock()

    def failed(self, reason: str) -> None:
        """Count a request that was not answered; ``reason`` is one of those given."""
        with self._lock:
            self._of_reason[reason].increment(1)


class RouterMetrics(ErrorMetrics):
    """Counters of one router, by its name and rungs; may be used from several threads at once.

    ``anydepth_requests_total`` {model, depth}: requests answered. ``anydepth_errors_total`` {model,
    reason}: requests refused or failed; reasons are ``depth`` (unknown, not served, or named twice
    and differently), ``input`` (images of a wrong shape), ``limit`` (more than a request may
    bring), ``busy`` (as many images wait as may) and ``model`` (the chosen model failed).
    ``anydepth_request_duration_seconds`` {model, depth}: a histogram of the time in the router,
    waiting for the chosen model and its queue included. ``model`` is the bundle's name, ``depth``
    its text.

    Of requests at depth ``auto``: ``anydepth_auto_total`` {model, depth}: those answered, by the
    depth that was chosen. ``anydepth_auto_missed_total`` {model, when}: those for which no depth
    was thought to meet the budget when it was ``chosen``, and those ``answered`` after it.
    ``anydepth_auto_predicted_seconds`` {model, depth, images}: what 95 % of calls with so many
    images are thought to take by themselves, as of the last request of that many.
    """

    REASONS = ("depth", "input", "limit", "busy", "model")
    MISSES = ("chosen", "answered")

    def __init__(self, name: str, rungs: Iterable[str], chosen: Iterable[str]) -> None:
        """``rungs``: of the ladder in use; ``chosen``: depths that ``auto`` chooses among."""
        super().__init__(name, self.REASONS)
        self._name = name
        kinds = pb_utils.MetricFamily
        self._requests = kinds(
            name="anydepth_requests_total",
            description="Requests answered, by depth",
            kind=kinds.COUNTER,
        )
        self._durations = kinds(
            name="anydepth_request_duration_seconds",
            description="Time from the router's receiving a request to its answer, by depth",
            kind=kinds.HISTOGRAM,
        )
        self._chosen = kinds(
            name="anydepth_auto_total",
            description="Requests at depth auto that were answered, by the depth chosen",
            kind=kinds.COUNTER,
        )
        self._missed = kinds(
            name="anydepth_auto_missed_total",
            description="Requests at depth auto that no depth was thought to meet the budget of, "
            "and those answered after it",
            kind=kinds.COUNTER,
        )
        self._predicted = kinds(
            name="anydepth_auto_predicted_seconds",
            description="What 95 % of calls are thought to take by themselves, by depth",
            kind=kinds.GAUGE,
        )
        self._of_depth: dict[str, tuple[Any, Any]] = {}
        for depth in rungs:
            self._made(depth)
        self._of_chosen = {
            depth: self._chosen.Metric(labels={"model": name, "depth": depth}) for depth in chosen
        }
        self._of_missed = {
            when: self._missed.Metric(labels={"model": name, "when": when}) for when in self.MISSES
        }
        self._of_predicted: dict[tuple[str, int], Any] = {}

    def answered(self, depth: str, seconds: float) -> None:
        """Count a request that was answered at ``depth``."""
        with self._lock:
            requests, durations = self._made(depth)
            requests.increment(1)
            durations.observe(seconds)

    def chose(
        self, depth: str, missed: Iterable[str], images: int, predicted: Mapping[str, float]
    ) -> None:
        """Count a request at ``auto`` that was answered at ``depth``, one of those it chooses
        among. ``missed``: when its budget was, of :data:`MISSES`. ``predicted``: seconds by depth,
        of calls with so many ``images``."""
        with self._lock:
            self._of_chosen[depth].increment(1)
            for when in missed:
                self._of_missed[when].increment(1)
            for other, seconds in predicted.items():
                key = (other, images)
                if key not in self._of_predicted:
                    labels = {"model": self._name, "depth": other, "images": str(images)}
                    self._of_predicted[key] = self._predicted.Metric(labels=labels)
                self._of_predicted[key].set(seconds)

    def _made(self, depth: str) -> tuple[Any, Any]:
        """The metrics of ``depth``: of rungs there from the start, of the other depths, of which
        there may be hundreds, made when they are first asked for."""
        if depth not in self._of_depth:
            labels = {"model": self._name, "depth": depth}
            self._of_depth[depth] = (
                self._requests.Metric(labels=labels),
                self._durations.Metric(labels=labels, buckets=BUCKETS),
            )
        return self._of_depth[depth]

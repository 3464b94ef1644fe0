"""Whether measured figures can be relied on.

``throttled``: clocks were held down. ``unstable``: latency moved, or something else took part of
the machine. ``unknown``: nothing of that was seen, but no sensor could have told of throttling.
``valid``: looked for, and not found. Samples are judged, never removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.results import Latency, Verdict, Word
from anydepth_deploy.bench.sensors.state import Device, State
from anydepth_deploy.bench.statistics import FEWEST, ratio_of_medians
from anydepth_deploy.errors import shorten

__all__ = ["device_verdict", "judge_latency", "saturation", "worst"]

Floats = NDArray[np.float64]

DRIFT = 0.05
"""Medians of the three thirds of a run may differ by this share, or by what chance explains."""
LEAST_FOR_DRIFT = 3 * FEWEST

PRECISION = 0.05
"""Half of a median's interval, as a share of the median, at most."""

STALL = 3.0
STALL_SHARE = 0.025
"""Samples over three medians may take this share of the time."""

FAR = 1.25
SPREAD = 0.05
"""Calls this many times slower or faster than the median may differ from it by this share of the
time: what they add to or take from the mean, and with it the throughput, the median does not show.

Noise of a coefficient of variation of 0.025, where trtexec warns, has no such calls, and the
records of this project hold 1.2 % at most, though of a virtual machine with 0.04 to 0.09. Of normal
noise 0.17 is too much; of two kinds of calls, one of which takes twice as long, 6 % are.
"""

OTHERS = 0.1
STOLEN = 0.02
"""Shares of all cores that other processes, and other virtual machines, may take."""

TELLING = ("clocks", "throttle", "everything")
"""How entries of :attr:`Device.unknown` begin that are to the point."""

CLOCK_DROP = 0.05
"""Clocks may fall by this share below the highest third of a run."""

ORDER: tuple[Word, ...] = ("throttled", "unstable", "unknown", "valid")
"""From the worst: what is seen outweighs what cannot be."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst word of ``verdicts``, with all reasons, each once."""
    found = list(verdicts)
    words = {verdict.word for verdict in found}
    word: Word = next((word for word in ORDER if word in words), "valid")
    reasons = dict.fromkeys(reason for verdict in found for reason in verdict.reasons)
    return Verdict(word=word, reasons=list(reasons))


def judge_latency(took: Floats, latency: Latency, alike: Sequence[Floats] | None = None) -> Verdict:
    """Whether a latency stayed what it was; ``took``: of each call, in the order they were made, in
    any unit. ``alike``: calls that nothing but chance tells apart, a series each; by default all
    are one."""
    reasons = _drift(took)
    middle = float(np.median(took))
    stalls = took[took > STALL * middle]
    share = float((stalls - middle).sum() / took.sum()) if len(stalls) else 0.0
    if share > STALL_SHARE:
        reasons.append(
            f"stalls: {len(stalls)} of {len(took)} calls took over {STALL:g} times the median and "
            f"{100 * share:.0f} % of the time"
        )
    else:
        reasons += [
            text for part in ((took,) if alike is None else alike) for text in _spread(part)
        ]
    interval = latency.median_ms
    if interval.low is None or interval.high is None:
        reasons.append(f"{latency.count} samples are too few for a confidence interval")
    elif interval.high - interval.low > 2 * PRECISION * interval.value:
        half = (interval.high - interval.low) / 2 / interval.value
        reasons.append(f"the median is known to within {100 * half:.0f} % only: measure for longer")
    return Verdict(word="unstable" if reasons else "valid", reasons=reasons)


def _drift(took: Floats) -> list[str]:
    """Whether the slowest third of a run is slower than the fastest, by more than chance."""
    if len(took) < LEAST_FOR_DRIFT:
        return [
            f"{len(took)} samples are too few to tell whether latency drifted, which takes "
            f"{LEAST_FOR_DRIFT}"
        ]
    thirds = np.array_split(took, 3)
    medians = [float(np.median(third)) for third in thirds]
    if max(medians) <= (1 + DRIFT) * min(medians):
        return []
    slowest, fastest = (thirds[medians.index(pick(medians))] for pick in (max, min))
    apart = ratio_of_medians(slowest, fastest, paired=False)
    if apart.low is not None and apart.low <= 1:
        return []
    words = ", ".join(f"{value / medians[0]:.2f}" for value in medians)
    return [f"latency drifted: medians of the thirds of the run are as {words}"]


def _spread(took: Floats) -> list[str]:
    """Whether calls that are alike took times that are not."""
    if len(took) < LEAST_FOR_DRIFT:
        return []
    middle = float(np.median(took))
    far = took[(took > FAR * middle) | (FAR * took < middle)]
    share = float(np.abs(far - middle).sum() / took.sum()) if len(far) else 0.0
    if share <= SPREAD:
        return []
    return [
        f"spread: {len(far)} of {len(took)} calls were over {FAR:g} times slower or faster than "
        f"the median, by {100 * share:.0f} % of the time (at most {100 * SPREAD:.0f} %)"
    ]


def saturation(due: Floats, ended: Floats, took: Floats, streams: int) -> Verdict:
    """Whether requests came faster than they were served, all in seconds: if so, their lateness
    says how long the run was and nothing else."""
    behind = float(ended.max() - due.max())
    allowed = max(10 * float(np.median(took)) / streams, 0.05 * float(np.ptp(due)))
    if behind <= allowed:
        return Verdict(word="valid")
    return Verdict(
        word="unstable",
        reasons=[
            f"saturated: the last request was done {behind:.1f} s after it was due, and the longer "
            "the run, the later: lower the rate or add streams"
        ],
    )


def device_verdict(devices: Sequence[Device], cores: int | None) -> Verdict:
    """What the sensors say of a run; the first device is the one that was measured."""
    if not devices:
        return Verdict(word="unknown", reasons=["no sensor was read"])
    verdicts = [_throttling(device) for device in devices]
    verdicts += [_company(device, cores or 1) for device in devices]
    if not _tells_of_throttling(devices[0]):
        about = [text for text in devices[0].unknown if text.startswith(TELLING)]
        missing = f" ({shorten(about)})" if about else ""
        reason = f"{devices[0].name}: no sensor tells whether clocks were held down{missing}"
        verdicts.append(Verdict(word="unknown", reasons=[reason]))
    return worst(verdicts)


def _during(device: Device) -> list[State]:
    """Readings under load: the one before measuring begins shows an idle device."""
    return [state for state in device.states if state.seconds >= 0]


def _tells_of_throttling(device: Device) -> bool:
    """Whether any reading during the run could have shown it."""
    states = _during(device)
    return (
        any(state.throttle is not None for state in states)
        or sum(state.throttle_events is not None for state in states) > 1
        or _watched_clock(device, states) is not None
    )


def _throttling(device: Device) -> Verdict:
    states = _during(device)
    reasons = []
    active = dict.fromkeys(word for state in states for word in state.throttle or ())
    if active:
        count = sum(bool(state.throttle) for state in states)
        reasons.append(f"{device.name}: {', '.join(active)} in {count} of {len(states)} readings")
    events = [state.throttle_events for state in states if state.throttle_events is not None]
    if events and events[-1] > events[0]:
        reasons.append(f"{device.name}: throttled {events[-1] - events[0]} times during the run")
    clock = _watched_clock(device, states)
    if clock is not None:
        name, values = clock
        parts = [median(part) for part in np.array_split(values, 3) if len(part)]
        if parts[-1] < (1 - CLOCK_DROP) * max(parts):
            reasons.append(
                f"{device.name}: {name} clock fell from {max(parts):.0f} to {parts[-1]:.0f} MHz"
            )
    return Verdict(word="throttled" if reasons else "valid", reasons=reasons)


def _watched_clock(device: Device, states: Sequence[State]) -> tuple[str, list[float]] | None:
    """The clock whose fall means throttling: of a GPU its own; of a CPU the fastest core's, since
    idle cores slow down."""
    pick: Callable[[State], float | None]
    if device.kind == "cpu":
        name = "core"
        pick = lambda state: max(state.clocks_mhz.values(), default=None)  # noqa: E731
    else:
        name = "sm" if device.kind == "nvidia" else "gpu"
        pick = lambda state: state.clocks_mhz.get(name)  # noqa: E731
    values = [value for state in states if (value := pick(state)) is not None]
    return (name, values) if len(values) >= 3 else None


def _company(device: Device, cores: int) -> Verdict:
    """Whether others used the processor."""
    reasons = []
    for values, limit, what in (
        ([s.other_cpu for s in _during(device)], OTHERS, "other processes"),
        ([s.stolen_cpu for s in _during(device)], STOLEN, "other virtual machines"),
    ):
        known = [value for value in values if value is not None]
        if known and (mean := sum(known) / len(known)) > limit * cores:
            reasons.append(f"{what} took {mean:.2f} of {cores} cores")
    return Verdict(word="unstable" if reasons else "valid", reasons=reasons)

"""Which threads, streams and batch give most pictures a second, at the depths that are asked for.

Every setting is tried for a short while; the best ones and the usual one (one request at a time, of
a picture or the fewest that an engine takes, the runtime's own threads) then take turns in longer
rounds, so that what the machine does meanwhile falls on all of them. What is recommended is the
setting with the smallest latency among those that are as good as the best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from anydepth_deploy.errors import AnyDepthError, UsageError, shorten
from anydepth_deploy.progress import Progress

__all__ = ["Measure", "Rate", "Setting", "Sweep", "Tried", "candidates", "sweep"]

FINALISTS = 4
ROUNDS = 3

AS_GOOD = 0.98
"""Of the best figure: closer ones are not told apart by a few seconds."""


@dataclass(frozen=True)
class Setting:
    """``threads``: inside one operator, None for the runtime's own choice; ``streams``: requests at
    the same time, on one session; ``batch``: pictures in each."""

    threads: int | None
    streams: int
    batch: int

    def __str__(self) -> str:
        threads = "default threads" if self.threads is None else f"{self.threads} thread(s)"
        return f"{threads}, {self.streams} stream(s), batch {self.batch}"


@dataclass(frozen=True)
class Rate:
    """At one depth. ``median_ms``, ``tail_ms``: of a request's latency, the tail being the 95th
    percentile, and the slowest request where there are too few to say."""

    images_per_second: float
    median_ms: float
    tail_ms: float


Measure = Callable[[Setting, float], Mapping[str, Rate]]
"""Measures a setting for so many seconds a depth; rates by depth."""


@dataclass(eq=False)
class Tried:
    """A setting and what it gave; ``rounds``: each a rate for every depth, the first one short.
    ``problem``: why it cannot be run."""

    setting: Setting
    rounds: list[Mapping[str, Rate]] = field(default_factory=list)
    problem: str | None = None

    @property
    def finalist(self) -> bool:
        return len(self.rounds) > 1

    @property
    def rates(self) -> dict[str, Rate]:
        """Medians over the long rounds, where there are any."""
        counted = self.rounds[1:] or self.rounds
        depths = counted[0] if counted else {}
        return {depth: _median([found[depth] for found in counted]) for depth in depths}

    def gain(self, over: Tried) -> float:
        """How many times as many pictures a second: geometric mean over the depths, of the median
        of ratios within long rounds where both took part in them."""
        both = self.finalist and over.finalist
        pairs = list(zip(self.rounds, over.rounds, strict=False))[1 if both else 0 :]
        ratios = [
            statistics.median(
                mine[depth].images_per_second / theirs[depth].images_per_second
                for mine, theirs in pairs
            )
            for depth in self.rates
        ]
        return math.exp(statistics.fmean(map(math.log, ratios)))

    @property
    def slowest_ms(self) -> float:
        """The tail of latency at the depth where it is longest."""
        return max(rate.tail_ms for rate in self.rates.values())


@dataclass(frozen=True)
class Sweep:
    """``tried``: all settings in the order they were tried; ``best``: the one to deploy."""

    tried: list[Tried]
    best: Tried
    usual: Tried

    @property
    def gain(self) -> float:
        """Of the best over the usual setting."""
        return self.best.gain(self.usual)


def candidates(
    cores: int, most_batch: int, *, least_batch: int = 1, host: bool = True
) -> list[Setting]:
    """The settings worth trying, the usual one first: one request at a time, of ``least_batch``
    pictures, the runtime's own threads.

    ``cores``: that this process may use. ``host``: whether they compute; on a GPU threads mean
    nothing, and streams only hide the way to it. Threads are powers of two up to the cores, and all
    of them; streams fill the cores that threads leave, once and twice; batches are powers of two
    from ``least_batch`` (an engine may take no fewer pictures) times one. Pictures under way at
    once are at most two for each core, or ``most_batch`` where that is more: each takes memory.
    """
    most_batch = max(least_batch, most_batch)
    batches = [
        least_batch * 2**k
        for k in range(most_batch.bit_length())
        if least_batch * 2**k <= most_batch
    ]
    pairs: list[tuple[int | None, int]]
    if host:
        numbers = sorted({*(2**k for k in range(cores.bit_length()) if 2**k < cores), cores})
        pairs = [
            (threads, streams)
            for threads in numbers
            for streams in sorted({1, cores // threads, 2 * (cores // threads)})
            # All cores at work in one request, twice: the second only waits.
            if threads * streams <= cores or threads < cores
        ]
    else:
        pairs = [(None, streams) for streams in (1, 2, 4)]
    most = max(2 * cores, most_batch)
    found = [
        Setting(threads, streams, batch)
        for batch in batches
        for threads, streams in pairs
        if streams * batch <= most
    ]
    return list(dict.fromkeys([Setting(None, 1, least_batch), *found]))


def sweep(
    measure: Measure,
    settings: Sequence[Setting],
    *,
    seconds: float,
    within_ms: float | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Try ``settings``, of which the first is the usual one, and choose.

    ``seconds``: of a long round at each depth; a short one takes a quarter. ``within_ms``: what the
    95th percentile of latency may be at every depth. Settings that cannot be run are noted and left
    out; the usual one has to run.

    Raises :class:`UsageError` where no setting answers in time, and what measuring the usual
    setting raises.
    """
    tried = [Tried(setting) for setting in settings]
    usual = tried[0]
    finalists = min(FINALISTS, len(tried)) + 1
    total, done = len(tried) + ROUNDS * finalists, 0

    def take(item: Tried, length: float) -> None:
        nonlocal done
        if progress is not None:
            progress(str(item.setting), done, total)
        done = min(done + 1, total)
        try:
            item.rounds.append(measure(item.setting, length))
        except (AnyDepthError, MemoryError) as error:
            if item is usual:
                raise
            item.problem = shorten([str(error) or type(error).__name__])

    for item in tried:
        take(item, seconds / 4)
    ranked = sorted(
        (item for item in tried if _in_time(item, within_ms)),
        key=lambda item: item.gain(usual),
        reverse=True,
    )
    final = [usual]
    left: list[Tried] = []
    # What was quick enough for a moment may not stay so.
    while ranked and not any(item is not usual for item in left):
        leaders, ranked = ranked[:FINALISTS], ranked[FINALISTS:]
        rivals = [item for item in leaders if item is not usual]
        final += rivals
        taking = rivals if usual.finalist else [*rivals, usual]
        for number in range(ROUNDS):
            for item in (taking, taking[::-1])[number % 2]:
                if _runs(item):
                    take(item, seconds)
        left = [item for item in final if _in_time(item, within_ms)]
    if not left:
        fastest = min((item for item in tried if _runs(item)), key=lambda item: item.slowest_ms)
        raise UsageError(
            f"no setting answers within {within_ms:g} ms at every depth: the quickest "
            f"({fastest.setting}) takes {fastest.slowest_ms:.3g} ms; allow more, or name shallower "
            "depths"
        )
    most = max(item.gain(usual) for item in left)
    equals = [item for item in left if item.gain(usual) >= AS_GOOD * most]
    if progress is not None:
        progress("done", total, total)
    return Sweep(tried, min(equals, key=lambda item: item.slowest_ms), usual)


def _runs(item: Tried) -> bool:
    return item.problem is None and bool(item.rounds)


def _in_time(item: Tried, within_ms: float | None) -> bool:
    return _runs(item) and (within_ms is None or item.slowest_ms <= within_ms)


def _median(rates: Sequence[Rate]) -> Rate:
    columns = zip(
        *((rate.images_per_second, rate.median_ms, rate.tail_ms) for rate in rates), strict=True
    )
    return Rate(*map(statistics.median, columns))

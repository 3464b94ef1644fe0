"""One run of ``bench``: load, warm up, measure, judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anydepth_deploy.bench.host import (
    describe_host,
    give_back_memory,
    peak_memory,
    resident_memory,
)
from anydepth_deploy.bench.options import Options
from anydepth_deploy.bench.results import (
    BenchResult,
    DepthResult,
    Estimate,
    Memory,
    Overall,
    Samples,
    Settings,
    Verdict,
)
from anydepth_deploy.bench.sensors.state import Device, Sensor
from anydepth_deploy.bench.statistics import (
    difference_of_medians,
    ratio_of_medians,
    summarise,
)
from anydepth_deploy.bench.timing.clock import Clock, MonotonicClock
from anydepth_deploy.bench.timing.monitor import Monitor, energy_between
from anydepth_deploy.bench.timing.timer import BEGAN, CALL, DUE, ENDED, NUMBER, Measured, Timer
from anydepth_deploy.bench.verdict import device_verdict, judge_latency, saturation, worst
from anydepth_deploy.bench.workloads.workload import Workload
from anydepth_deploy.depth import Depth
from anydepth_deploy.documents import utc_now
from anydepth_deploy.errors import shorten
from anydepth_deploy.families.shared.usual_state import usual_arithmetic
from anydepth_deploy.progress import Progress
from anydepth_deploy.version import __version__

__all__ = ["run_bench"]

Rows = NDArray[np.int64]
"""[n, 5]: see :mod:`anydepth_deploy.bench.timing.timer`."""


@usual_arithmetic()
def run_bench(
    workload: Workload,
    depths: Sequence[Depth],
    options: Options,
    *,
    sensors: Sequence[Sensor] = (),
    threads: int | None = None,
    transfers: bool | None = None,
    locked_clocks: str | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure ``workload`` at ``depths``.

    ``sensors``: those of the device that computes come first. ``threads``, ``transfers`` and
    ``locked_clocks`` are for the record: what the workload was opened with, and what the device is
    held at. The workload is closed at the end.

    Raises :class:`UsageError` for options that do not go together or a rate that cannot be served,
    :class:`CheckFailedError` where the workload computes something else than it should, and what
    opening and running it raise.
    """
    options = options.checked()
    shares = options.shares(workload.table, depths)
    clock = clock or MonotonicClock()
    give_back_memory()
    before = resident_memory()
    began = clock.now()
    try:
        workload.load(depths)
        load_ns = clock.now() - began
        monitor = Monitor(sensors, clock)
        timer = Timer(
            [workload.call(depth) for depth in depths],
            [str(depth) for depth in depths],
            len(workload.batches),
            options,
            shares,
            monitor,
            clock,
            progress,
        )
        first = timer.first_calls()
        workload.check(depths)
        monitor.read()
        warm = timer.warm_up()
        loaded = resident_memory()
        zero = monitor.begin()
        measured = timer.measure(
            [float(np.median([once, *more])) / 1e9 for once, more in zip(first, warm, strict=True)]
        )
        host = describe_host()
        found = _Results(workload, depths, options, measured, zero, monitor.devices, host.cores)
        rows = [found.depth(index, first[index]) for index in found.measured]
        return BenchResult(
            tool_version=__version__,
            when=utc_now(),
            host=host,
            subject=workload.subject(),
            settings=_settings(options, depths, shares).model_copy(
                update={
                    "threads": threads,
                    "transfers": transfers,
                    "locked_clocks": locked_clocks,
                }
            ),
            boundaries=workload.boundaries(),
            inputs=workload.batches.inputs,
            devices=monitor.devices,
            memory=Memory(
                before=before, loaded=loaded, peak=peak_memory(), device=workload.device_memory()
            ),
            load_ms=load_ns / 1e6,
            depths=rows,
            overall=found.overall(),
            verdict=found.verdict(rows),
        )
    finally:
        workload.close()


def _settings(options: Options, depths: Sequence[Depth], shares: Sequence[float]) -> Settings:
    assert options.mode is not None
    names = [str(depth) for depth in depths]
    return Settings(
        scenario=options.scenario,
        mode=options.mode,
        depths=names,
        mix=dict(zip(names, shares, strict=True)) if options.mode == "mixed" else None,
        batch=options.batch,
        streams=options.streams,
        threads=None,
        rate=options.rate,
        duration_s=options.duration,
        count=options.count,
        repeats=options.repeats,
        warmup_s=options.warmup,
        warmup_count=options.warmup_count,
        seed=options.seed,
        percentiles=list(options.percentiles),
        scope=options.scope,
        transfers=None,
    )


class _Results:
    """From what was noted to what is reported."""

    def __init__(
        self,
        workload: Workload,
        depths: Sequence[Depth],
        options: Options,
        measured: Measured,
        zero: int,
        devices: Sequence[Device],
        cores: int | None,
    ) -> None:
        self._workload, self._depths, self._options = workload, list(depths), options
        self._rows, self._stretches = measured.rows, measured.stretches
        self._zero, self._devices = zero, devices
        macs = [workload.macs(depth) for depth in depths]
        self._reference = macs.index(max(macs))
        self._surroundings = device_verdict(devices, cores)
        self.measured: list[int] = np.unique(self._rows[:, CALL]).tolist()
        """Which of the depths ran at all: in a mix, rare ones may not have."""

    def verdict(self, rows: Sequence[DepthResult]) -> Verdict:
        """The worst of any depth; what is the matter at some depths only names them."""
        common = self._surroundings.reasons
        found = [self._surroundings]
        for row in rows:
            own = [reason for reason in row.verdict.reasons if reason not in common]
            reasons = [f"{row.depth}: {reason}" for reason in own]
            found.append(Verdict(word=row.verdict.word, reasons=reasons))
        names = [str(d) for place, d in enumerate(self._depths) if place not in self.measured]
        if names:
            found.append(Verdict(word="unstable", reasons=[f"no request at {shorten(names)}"]))
        return worst(found)

    def depth(self, index: int, first: int) -> DepthResult:
        depth, rows = self._depths[index], self._of(index)
        latency = summarise(_latency(rows), self._options.percentiles)
        return DepthResult(
            depth=str(depth),
            level=self._workload.table.level(depth),
            macs=self._workload.macs(depth),
            samples=self._samples(index),
            latency=latency,
            images_per_second=self._throughput(index),
            speedup=self._speedup(index),
            switch_ms=self._switch(index),
            first_ms=first / 1e6,
            accuracy=self._workload.accuracy(depth),
            energy_per_image_j=self._energy(index),
            verdict=self._verdict(index),
        )

    def overall(self) -> Overall:
        rows, options = self._rows, self._options
        images = len(rows) * options.batch
        wall = sum(stretch.wall for stretch in self._stretches)
        return Overall(
            requests=len(rows),
            images=images,
            wall_s=wall,
            images_per_second=images / wall if wall else 0.0,
            latency=summarise(_latency(rows), options.percentiles),
            queue_ms=summarise(rows[:, BEGAN] - rows[:, DUE], options.percentiles)
            if options.arriving
            else None,
            energy_per_image_j=self._energy(None),
        )

    def _of(self, index: int) -> Rows:
        found: Rows = self._rows[self._rows[:, CALL] == index]
        return found

    def _samples(self, index: int) -> Samples:
        mine = self._rows[:, CALL] == index
        rows, options = self._rows[mine], self._options
        after = None
        if options.mode == "switching":
            after = np.concatenate([[-1], self._rows[:-1, CALL]])[mine].tolist()
        return Samples(
            started_ns=(rows[:, BEGAN] - self._zero).tolist(),
            ended_ns=(rows[:, ENDED] - self._zero).tolist(),
            scheduled_ns=(rows[:, DUE] - self._zero).tolist() if options.arriving else None,
            rounds=rows[:, NUMBER].tolist() if options.mode == "interleaved" else None,
            after=after,
        )

    def _throughput(self, index: int) -> float | None:
        if self._options.mode == "fixed":
            wall = sum(stretch.wall for stretch in self._stretches if stretch.call == index)
        elif self._options.scenario == "single":
            wall = float(_took(self._of(index)).sum()) / 1e9
        else:
            return None
        return len(self._of(index)) * self._options.batch / wall if wall else None

    def _speedup(self, index: int) -> Estimate | None:
        if index == self._reference:
            return Estimate(value=1.0)
        if self._reference not in self.measured:
            return None
        mine, reference = (
            _latency(self._of(place)).astype(np.float64) for place in (index, self._reference)
        )
        paired = self._options.mode == "interleaved"
        return ratio_of_medians(reference, mine, paired=paired)

    def _switch(self, index: int) -> Estimate | None:
        if self._options.mode != "switching":
            return None
        calls = self._rows[:, CALL]
        here = np.flatnonzero(calls == index)
        here = here[here > 0]
        same = calls[here - 1] == index
        took = _took(self._rows) / 1e6
        if same.all() or not same.any():
            return None
        return difference_of_medians(took[here[~same]], took[here[same]])

    def _energy(self, index: int | None) -> float | None:
        """Joules of the measured device per image."""
        if not self._devices:
            return None
        chosen = [part for part in self._stretches if index is None or part.call == index]
        total = [energy_between(self._devices[0], part.begin, part.end) for part in chosen]
        known = [value for value in total if value is not None]
        rows = self._rows if index is None else self._of(index)
        if not known or len(known) < len(total) or not len(rows):
            return None
        return sum(known) / (len(rows) * self._options.batch)

    def _alike(self, index: int) -> list[Rows]:
        """Durations of calls that should take the same time: requests that overlap share the
        device, and a call after another depth is there to cost more than one after the same."""
        if self._options.streams > 1:
            return []
        took = _took(self._of(index))
        if self._options.mode != "switching":
            return [took]
        calls = self._rows[:, CALL]
        same = np.concatenate([[False], calls[1:] == calls[:-1]])[calls == index]
        return [took[same], took[~same]]

    def _verdict(self, index: int) -> Verdict:
        rows = self._of(index)
        took = _took(rows)
        alike = [part.astype(np.float64) for part in self._alike(index)]
        verdicts = [
            judge_latency(took.astype(np.float64), summarise(took, (50,)), alike),
            self._surroundings,
        ]
        if self._options.arriving:
            due, ended = rows[:, DUE] / 1e9, rows[:, ENDED] / 1e9
            verdicts.append(saturation(due, ended, took / 1e9, self._options.streams))
        return worst(verdicts)


def _took(rows: Rows) -> Rows:
    """Nanoseconds from when a call began."""
    found: Rows = rows[:, ENDED] - rows[:, BEGAN]
    return found


def _latency(rows: Rows) -> Rows:
    """Nanoseconds from when a request was due, which without arrivals is when it began."""
    found: Rows = rows[:, ENDED] - rows[:, DUE]
    return found

"""A clock that only moves when it is told to, and workloads whose latencies are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from handmade import LADDER, MACS, manifest

from anydepth_deploy.bench.results import Accuracy, Inputs, Subject
from anydepth_deploy.bench.sensors.state import Device, State
from anydepth_deploy.bench.timing.loops import Call
from anydepth_deploy.bench.workloads.pictures import Batches
from anydepth_deploy.depth import Depth
from anydepth_deploy.errors import CheckFailedError
from anydepth_deploy.pictures.images import Preprocess

MS = 1_000_000


class FakeClock:
    """Nanoseconds that pass when somebody sleeps or works."""

    def __init__(self, moment: int = 5_000_000_000) -> None:
        self.moment = moment

    def now(self) -> int:
        return self.moment

    def sleep_until(self, moment: int) -> None:
        self.moment = max(self.moment, moment)

    def work(self, nanoseconds: float) -> None:
        self.moment += round(nanoseconds)


class FakeSensor:
    """Says what `say(seconds)` makes of a moment; readings take no time."""

    def __init__(self, say: Callable[[float], dict[str, object]] | None = None) -> None:
        self.say = say or (lambda seconds: {"throttle": []})

    def describe(self) -> Device:
        return Device(kind="nvidia", name="Imaginary T4", settings={"driver": "1"})

    def read(self, seconds: float) -> State:
        return State.model_validate({"seconds": seconds, **self.say(seconds)})


Latency = Callable[[str, int, float], float]
"""From a depth, how many calls were made before, and the seconds since the first one, to ms."""


class FakeWorkload:
    """Takes as long as `latency` says, on a fake clock; remembers what was asked of it."""

    def __init__(self, clock: FakeClock, latency: Latency, *, items: int = 3) -> None:
        self.clock, self.latency = clock, latency
        self.table = manifest().table()
        pictures = [[np.zeros((8, 8, 3), np.uint8)]] * items
        prepared = [np.zeros((1, 3, 64, 64), np.float32)] * items
        recipe = Preprocess(size=(64, 64))
        inputs = Inputs(source="generated", count=items, sha256="0" * 64, seed=0)
        self.batches = Batches(pictures, prepared, recipe, inputs)
        self.calls: list[tuple[str, int]] = []
        self.loaded: list[str] = []
        self.closed = False
        self.wrong = False
        self._count = itertools.count()
        self._began: int | None = None

    def load(self, depths: Sequence[Depth]) -> None:
        self.loaded = [str(depth) for depth in depths]
        self.clock.work(250 * MS)

    def call(self, depth: Depth) -> Call:
        name = str(depth)

        def run(item: int) -> None:
            if self._began is None:
                self._began = self.clock.now()
            seconds = (self.clock.now() - self._began) / 1e9
            self.calls.append((name, item))
            self.clock.work(MS * self.latency(name, next(self._count), seconds))

        return run

    def check(self, depths: Sequence[Depth]) -> None:
        if self.wrong:
            raise CheckFailedError("it computes something else")

    def subject(self) -> Subject:
        return Subject(
            kind="bundle",
            name="imaginary",
            source_sha256="a" * 64,
            family="imaginary",
            config="small",
            input_size=(64, 64),
            runtime="onnxruntime",
            device="cpu",
            precision="fp32",
        )

    def boundaries(self) -> dict[str, str]:
        return {"network": "timed"}

    def macs(self, depth: Depth) -> int:
        return MACS[str(depth)]

    def accuracy(self, depth: Depth) -> Accuracy | None:
        return None

    def device_memory(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed = True


BASE, MIDDLE, SUPER = LADDER
STEADY = {BASE: 4.0, MIDDLE: 6.0, SUPER: 10.0}


def steady(depth: str, number: int, seconds: float) -> float:
    """Each depth has its own latency, to which three values of noise are added in turn."""
    return STEADY[depth] * (1 + 0.01 * (number * 7919 % 3 - 1))

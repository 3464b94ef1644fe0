"""Which depth a request at auto gets: on a fake clock, against a device that is played through."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from anydepth_deploy.control.rungs import Rung, guessed_rungs
from anydepth_deploy.errors import DepthError
from anydepth_deploy.serve.models.autopilot import Autopilot, Call

ROWS = (0, 5, 2)
"""Of the table, from base to super."""
MILLISECONDS = {0: 10.0, 5: 16.0, 2: 24.0, 1: 18.0}
"""Row 1 is no rung."""
MACS = [100, 180, 240, 90, 90, 160]
TAIL = 1.1
"""What 95 % take, as a multiple of the median."""


class Clock:
    """Milliseconds to set, seconds to read."""

    now = 0.0

    def __call__(self) -> float:
        return self.now / 1000


def measured(clock: Clock, batch: int = 1) -> Autopilot:
    rungs = [Rung(str(row), MILLISECONDS[row], p95=TAIL * MILLISECONDS[row]) for row in ROWS]
    return Autopilot(rungs, ROWS, MACS, batch=batch, clock=clock)


@dataclass
class Asked:
    """A request that comes ``at`` so many milliseconds: with a budget, or at a row of its own."""

    at: float
    budget: float | None = None
    row: int | None = None
    images: int = 1


@dataclass
class Answered:
    asked: Asked
    call: Call
    took: float

    @property
    def late(self) -> bool:
        return self.asked.budget is not None and self.took > self.asked.budget


def play(
    pilot: Autopilot,
    clock: Clock,
    requests: Sequence[Asked],
    cost: Callable[[Call], float] = lambda call: MILLISECONDS[call.row] * call.images,
    again: Callable[[Answered], Asked | None] = lambda done: None,
) -> list[Answered]:
    """One worker takes the calls in their order; ``cost``: milliseconds of one. ``again``: what who
    has an answer asks next."""
    order = itertools.count()
    events: list[tuple[float, int, Asked | None, tuple[Asked, Call] | None]] = [
        (asked.at, next(order), asked, None) for asked in requests
    ]
    heapq.heapify(events)
    free, done = 0.0, []
    while events:
        clock.now, _, asked, ended = heapq.heappop(events)
        if ended is not None:
            mine, call = ended
            pilot.end(call, answered=True)
            done.append(Answered(mine, call, clock.now - mine.at))
            following = again(done[-1])
            if following is not None:
                heapq.heappush(events, (following.at, next(order), following, None))
        if asked is not None:
            if asked.row is None:
                assert asked.budget is not None
                call = pilot.choose(asked.images, asked.budget)
            else:
                call = pilot.start(asked.images, asked.row)
            free = max(free, clock.now) + cost(call)
            heapq.heappush(events, (free, next(order), None, (asked, call)))
    return done


@pytest.mark.parametrize(
    ("left", "row", "fits"),
    [
        (1000.0, 2, True),
        (26.41, 2, True),
        (26.3, 5, True),
        (17.61, 5, True),
        (17.5, 0, True),
        (11.01, 0, True),
        (10.9, 0, False),
        (-5.0, 0, False),
    ],
)
def test_the_deepest_rung_whose_percentile_fits(left: float, row: int, fits: bool) -> None:
    call = measured(Clock()).choose(1, left)
    assert (call.row, call.fits) == (row, fits)


def test_a_burst_is_planned_as_it_is_worked_off() -> None:
    """All at once, with one budget: each is given what those before it leave."""
    clock = Clock()
    pilot = measured(clock)
    done = play(pilot, clock, [Asked(0.0, 100.0) for _ in range(12)])
    expected, ahead = [], 0.0
    for _ in range(12):
        fitting = [row for row in ROWS if TAIL * (ahead + MILLISECONDS[row]) <= 100]
        row = fitting[-1] if fitting else ROWS[0]
        expected.append((row, bool(fitting)))
        ahead += MILLISECONDS[row]
    assert [(item.call.row, item.call.fits) for item in done] == expected
    assert {row for row, _ in expected} == set(ROWS)
    for item in done:  # what was predicted is what it took
        assert item.took == pytest.approx(item.call.wait + MILLISECONDS[item.call.row])


def test_who_is_in_the_way_counts_at_whatever_depth() -> None:
    clock = Clock()
    pilot = measured(clock)
    pilot.start(1, 2)
    assert pilot.choose(1, 30.0).fits is False
    assert pilot.start(1, 1).wait == 24 + 10
    # Beside the rungs in proportion to multiply-adds: 180 of super's 240, which take 24 ms.
    assert pilot.start(1, 1).wait == 24 + 10 + 18
    clock.now = 20.0
    assert pilot.choose(1, 1000.0).wait == pytest.approx(4 + 10 + 18 + 18)


def test_more_images_take_so_much_more() -> None:
    clock = Clock()
    assert measured(clock).choose(2, 40.0).row == 5
    assert measured(clock).choose(2, 30.0).row == 0
    assert measured(clock, batch=2).choose(1, 13.3).row == 2
    # What is known of one number is where another one begins.
    pilot = measured(clock)
    play(pilot, clock, [Asked(100.0 * i, 1e6) for i in range(50)], lambda call: 48.0)
    assert pilot.predicted(1)[2] == pytest.approx(48, rel=0.15)
    assert pilot.predicted(3)[2] == pytest.approx(3 * pilot.predicted(1)[2])


def test_a_device_that_gets_slower_is_noticed_by_two_calls() -> None:
    clock = Clock()
    pilot = measured(clock)
    requests = [Asked(100.0 * index, 28.0) for index in range(60)]
    done = play(
        pilot,
        clock,
        requests,
        lambda call: MILLISECONDS[call.row] * (2 if call.began >= 2000 else 1),
    )
    rows = [item.call.row for item in done]
    assert set(rows[:20]) == {2}
    assert set(rows[23:]) == {0}
    assert sum(item.late for item in done) == 2
    assert all(item.call.fits for item in done)


def test_nothing_is_known_before_the_first_call() -> None:
    clock = Clock()
    rungs = guessed_rungs([str(row) for row in ROWS], [MACS[row] for row in ROWS])
    pilot = Autopilot(rungs, ROWS, MACS, clock=clock)
    assert pilot.predicted(1) == {}
    done = play(pilot, clock, [Asked(100.0 * index, 30.0) for index in range(30)])
    rows = [item.call.row for item in done]
    assert rows[0] == 0
    assert set(rows[10:]) == {2}
    assert all(item.call.fits and not item.late for item in done)
    # Several at once before anything is known: what one takes is not what all take.
    pilot = Autopilot(rungs, ROWS, MACS, clock=clock)
    play(pilot, clock, [Asked(clock.now + 1, 1.0) for _ in range(4)])
    assert pilot.predicted(1)[0] == pytest.approx(10 * 1.1, rel=0.3)


@pytest.mark.parametrize("clients", [1, 2, 4, 6])
def test_clients_that_share_a_device_shed_depth_and_stay_in_time(clients: int) -> None:
    """Each asks anew when it has its answer. Calls differ by 3 %."""
    clock, budget = Clock(), 64.0
    pilot, draw = measured(clock), random.Random(clients)

    def again(done: Answered) -> Asked | None:
        return Asked(clock.now, budget) if clock.now < 20_000 else None

    done = play(
        pilot,
        clock,
        [Asked(0.1 * client, budget) for client in range(clients)],
        lambda call: MILLISECONDS[call.row] * draw.gauss(1, 0.03),
        again,
    )
    later = done[20:]
    share = sum(item.late for item in later) / len(later)
    mean = sum(MILLISECONDS[item.call.row] for item in later) / len(later)
    if clients * MILLISECONDS[0] * TAIL <= budget:  # 60 ms of work is the most that fits
        assert share < 0.05
    # One after the other they may take the budget between them, less what the percentile keeps.
    assert mean <= max(budget / clients, MILLISECONDS[0]) * 1.02
    assert mean >= min(24.0, 0.8 * budget / clients)


def test_batches_and_workers_beside_each_other_are_learned() -> None:
    """Two workers: what is before a call takes half of what was thought."""
    clock = Clock()
    pilot = measured(clock)
    free = [0.0, 0.0]
    running: list[tuple[float, Call]] = []
    for index in range(2000):
        clock.now = 12.0 * index  # as many as two workers can take at super
        while running and running[0][0] <= clock.now:
            ended, call = heapq.heappop(running)
            now, clock.now = clock.now, ended
            pilot.end(call, answered=True)
            clock.now = now
        call = pilot.choose(1, 60.0)
        worker = free.index(min(free))
        free[worker] = max(free[worker], clock.now) + MILLISECONDS[call.row]
        heapq.heappush(running, (free[worker], call))
        if index >= 200:
            assert call.row == 2
            assert free[worker] - clock.now <= 60


def strangers(way: int | None, rate: float, budget: float = 72.0) -> tuple[float, float]:
    """Of requests at random moments, so many in the time that one takes at super: the part that is
    late, and the mean of what they take. ``way``: a row, or None for auto."""
    clock, draw = Clock(), random.Random(1)
    moments, now = [], 0.0
    for _ in range(4000):
        now += draw.expovariate(rate / MILLISECONDS[2])
        moments.append(now)
    asked = [Asked(at, None if way is not None else budget, way) for at in moments]
    noise = random.Random(2)
    done = play(
        measured(clock), clock, asked, lambda call: MILLISECONDS[call.row] * noise.gauss(1, 0.05)
    )
    late = sum(item.took > budget for item in done) / len(done)
    return late, sum(MILLISECONDS[item.call.row] for item in done) / len(done)


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9, 1.2])
def test_requests_of_strangers_leave_time_for_each_other(rate: float) -> None:
    """Where each took all that its own budget allows, one in six would be late at a rate of 1.2."""
    base, _ = strangers(0, rate)
    late, mean = strangers(None, rate)
    above, _ = strangers(2, rate)
    assert base < 0.02
    assert late < 0.05
    assert mean > {0.3: 23.5, 0.6: 22.0, 0.9: 19.0, 1.2: 16.0}[rate]
    assert above > {0.3: -1.0, 0.6: 0.05, 0.9: 0.5, 1.2: 0.95}[rate]


def test_budgets_that_nothing_meets_take_nothing_from_others() -> None:
    clock = Clock()
    pilot = measured(clock)
    asked = [Asked(60.0 * index, 1.0 if index % 2 else 60.0) for index in range(400)]
    done = play(pilot, clock, asked)
    assert {item.call.row for item in done if item.asked.budget == 60.0} == {2}
    assert not any(item.call.fits for item in done if item.asked.budget == 1.0)


def test_each_model_has_a_queue_of_its_own() -> None:
    clock = Clock()
    rungs = [Rung(str(row), MILLISECONDS[row], p95=TAIL * MILLISECONDS[row]) for row in ROWS]
    names = {0: "base", 5: "gated", 2: "gated", 1: "gated"}
    pilot = Autopilot(rungs, ROWS, MACS, lambda row, images: names[row], clock=clock)
    assert pilot.choose(1, 30.0).row == 2
    call = pilot.choose(1, 40.0)  # 24 ms are before all of the gated graph
    assert (call.row, call.model, call.wait, call.fits) == (0, "base", 0, True)
    call = pilot.choose(1, 45.0)
    assert (call.row, call.model, call.wait) == (5, "gated", 24)
    assert pilot.start(1, 0).wait == 10
    assert pilot.start(1, 1).wait == 24 + 16

    def nowhere(row: int, images: int) -> str:
        raise DepthError("no model")

    pilot = Autopilot(rungs, ROWS, MACS, nowhere, clock=clock)
    with pytest.raises(DepthError, match="no model"):
        pilot.choose(1, 9.0)
    with pytest.raises(DepthError, match="no model"):
        pilot.start(1, 0)


def test_calls_that_hang_are_in_the_way_of_none_but_the_next() -> None:
    clock = Clock()
    pilot = measured(clock)
    for _ in range(5):
        pilot.start(1, 2)  # they never end
    done = play(pilot, clock, [Asked(100.0 + 100.0 * index, 28.0) for index in range(400)])
    assert {item.call.row for item in done[5:]} == {2}
    assert pilot.predicted(1)[2] == pytest.approx(24 * TAIL, rel=0.1)


def test_a_call_without_an_answer_teaches_nothing_and_is_not_in_the_way() -> None:
    clock = Clock()
    pilot = measured(clock)
    before = pilot.predicted(1)
    call = pilot.choose(1, 1000.0)
    clock.now = 5000.0
    pilot.end(call, answered=False)
    assert pilot.predicted(1) == before
    assert pilot.choose(1, 1000.0).wait == 0


def test_several_threads_at_once() -> None:
    pilot = Autopilot([Rung(str(row), MILLISECONDS[row]) for row in ROWS], ROWS, MACS)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(300):
                images = draw.randrange(1, 5)
                if draw.random() < 0.7:
                    call = pilot.choose(images, draw.uniform(-5, 200))
                else:
                    call = pilot.start(images, draw.randrange(len(MACS)))
                pilot.predicted(images)
                pilot.end(call, answered=draw.random() < 0.9)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pilot.choose(1, 0.0).wait == 0  # all have ended

"""How long calls wait for those before them, against a worker that is played through."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from anydepth_deploy.control.backlog import Backlog


@dataclass
class Job:
    began: float
    cost: float
    ends: float
    ticket: int = 0


@pytest.mark.parametrize("seed", range(20))
def test_it_is_exact_for_one_worker_that_takes_what_was_thought(seed: int) -> None:
    draw = random.Random(seed)
    backlog, free, now = Backlog(), 0.0, 0.0
    under_way: list[Job] = []
    for _ in range(300):
        now += draw.expovariate(0.2)
        while under_way and under_way[0].ends <= now:
            done = under_way.pop(0)
            backlog.end(done.ends, done.ticket)
        assert len(backlog) == len(under_way)
        expected = max(0.0, free - now)
        assert backlog.wait(now) == pytest.approx(expected, abs=1e-6)
        cost = draw.uniform(0.5, 9)
        free = now + expected + cost
        under_way.append(Job(now, cost, free, backlog.begin(now, cost)))


def test_who_takes_longer_than_thought_is_at_its_end_until_it_ends() -> None:
    backlog = Backlog()
    first, second = backlog.begin(0, 10), backlog.begin(1, 5)
    assert backlog.wait(4) == 6 + 5
    assert backlog.wait(10) == backlog.wait(30) == 5
    backlog.end(30, first)
    assert backlog.wait(32) == 3
    backlog.end(40, second)
    assert (backlog.wait(41), len(backlog)) == (0, 0)


def test_who_is_overtaken_is_in_nobodys_way() -> None:
    backlog = Backlog()
    tickets = [backlog.begin(0, cost) for cost in (10, 20, 40, 80)]
    backlog.end(4, tickets[2])
    assert backlog.wait(4) == 80
    assert backlog.wait(14) == 70
    backlog.end(15, tickets[0])
    assert backlog.wait(15) == 69
    backlog.end(20, tickets[3])
    backlog.end(30, tickets[1])
    assert (len(backlog), backlog.wait(31)) == (0, 0)
    backlog.begin(100, 7)
    assert backlog.wait(101) == 6

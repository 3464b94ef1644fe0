"""Calls of ``make gpu`` without a GPU: made-up machines, fake steps, a clock that is set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu.device import Gpu, Machine
from gpu.needs import NEEDS, Needs
from gpu.runner import Call, run_steps
from gpu.step import Check, Run, Step

GPU = Gpu("NVIDIA Tesla T4", "580.1", "sm75", 15360, "13.0")
MACHINE = Machine(GPU, "", "3.11.7", {"torch": "2.13"}, "code", "c0ffee", {"cores": 2})
BARE = replace(MACHINE, gpu=None, without="NVIDIA's driver is not installed")
FOLDER = "nvidia-tesla-t4"

Do = Callable[[Run], None]


class Clock:
    """Seconds, which go on when a step says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Session:
    """Calls of ``make gpu`` with steps, things that are there, and a clock of their own."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.steps: list[Step] = []
        self.ran: list[str] = []
        self.asked: list[str] = []
        self.lacking: dict[str, str] = {}
        self.said: list[str] = []
        self.results, self.work = folder / "results", folder / "work"

    def step(self, name: str, do: Do | None = None, **fields: Any) -> None:
        def run(found: Run) -> None:
            self.ran.append(name)
            if do is not None:
                do(found)

        self.steps.append(Step(name, f"what {name} does", fields.pop("needs", ()), run, **fields))

    def call(self, *names: str, machine: Machine = MACHINE, **fields: Any) -> int:
        """The exit status; ``ran`` and ``said`` are those of this call."""
        self.ran.clear()
        self.said.clear()
        call = Call(names, results=self.results, work=self.work, **fields)
        there = {**dict.fromkeys(NEEDS, self._there), "gpu": NEEDS["gpu"]}
        there |= {name: self._without(name) for name in NEEDS if name != "gpu"}
        found = Needs(machine, there)
        return run_steps(self.steps, machine, found, call, clock=self.clock, say=self.said.append)

    def result(self, step: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file(step).read_text(encoding="utf-8"))
        return found

    def file(self, step: str) -> Path:
        return self.results / FOLDER / f"{step}.json"

    def told(self, step: str) -> str:
        (line,) = (line for line in self.said if line.split()[:1] == [step])
        return line

    def _there(self, machine: Machine) -> None:
        return None

    def _without(self, name: str) -> Callable[[Machine], str | None]:
        def need(machine: Machine) -> str | None:
            self.asked.append(name)
            return self.lacking.get(name)

        return need


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """One whose results and work are in a folder of the test."""
    return Session(tmp_path)


def passes(run: Run) -> None:
    """A step with a check and a figure."""
    run.checks.append(Check("bench x", 0, 1.5))
    run.figures["answer"] = 42


def fails(run: Run) -> None:
    """A step with two checks that failed."""
    run.checks += [Check("verify x", 1, 2.0, "error: boxes differ"), Check("bench x", 2, 1.0, "no")]

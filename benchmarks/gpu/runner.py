"""Run steps, one after the other, each once for the same code, device and versions."""

from __future__ import annotations

import fnmatch
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from .device import Machine
from .needs import Needs
from .results import RESULTS, WORK, document, kept, pack, read_all, write
from .step import OutOfTimeError, Run, Step, StoppedError
from .summary import Outcome, lines, markdown, outcome

__all__ = ["LEAST", "Call", "UnknownStepError", "run_steps", "select"]

LEAST = 60.0
"""Seconds that have to be left of the whole time for another step to begin."""


class UnknownStepError(Exception):
    """No step has this name; the message lists those that there are."""


@dataclass(frozen=True)
class Call:
    """What was asked for. ``names``: of steps, or patterns; empty for all. ``force``: repeat what
    has a result. ``seconds``: for everything together, None for no limit. ``out``: folder for a
    copy of what was found. ``results``, ``work``: where files lie."""

    names: Sequence[str] = ()
    force: bool = False
    seconds: float | None = None
    out: Path | None = None
    results: Path = RESULTS
    work: Path = WORK


def select(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """The steps of these names or patterns (``tensorrt-*``), in the order of the table; all of them
    for none. Raises :class:`UnknownStepError`."""
    chosen: set[str] = set()
    for name in names:
        found = [step.name for step in steps if fnmatch.fnmatchcase(step.name, name)]
        if not found:
            known = ", ".join(step.name for step in steps)
            raise UnknownStepError(f"there is no step '{name}': expected some of {known}")
        chosen.update(found)
    return [step for step in steps if not names or step.name in chosen]


def run_steps(
    steps: Sequence[Step],
    machine: Machine,
    needs: Needs,
    call: Call,
    *,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = print,
) -> int:
    """Run what ``call`` asks for, write results and summary, and say what became of each step.

    0 where nothing failed, 1 where a check failed or a step took longer than it may. Steps that are
    skipped, for want of something or of time, are no failure. Raises :class:`UnknownStepError`.
    """
    session = _Session(machine, needs, call, clock, say)
    chosen = select(steps, call.names)
    try:
        for step in chosen:
            session.run(step)
    finally:  # interrupted as well: what was found stays
        session.finish()
    return session.status


class _Session:
    """One call: when it began, and what became of the steps so far."""

    def __init__(
        self,
        machine: Machine,
        needs: Needs,
        call: Call,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._machine, self._needs, self._call = machine, needs, call
        self._clock, self._say = clock, say
        self._end = None if call.seconds is None else clock() + call.seconds
        self._outcomes: list[Outcome] = []
        self._work = call.work / machine.key
        name = "none" if machine.gpu is None else machine.gpu.folder
        self._results = call.results / name
        self.status = 0

    def run(self, step: Step) -> None:
        """Run ``step``, unless it is skipped or its result stands."""
        if (reason := self._needs.first_lacking(step.needs)) is not None:
            self._outcomes.append(Outcome(step.name, "skipped", reason))
            return
        before = read_all(self._results).get(step.name)
        if before is not None and kept(before, self._machine) and not self._again(step):
            self._add(outcome(before, kept=True))
            return
        left = float("inf") if self._end is None else self._end - self._clock()
        if left < min(LEAST, step.limit):
            self._outcomes.append(Outcome(step.name, "skipped", "not enough time is left"))
            return
        self._add(self._do(step, left))
        self._pack()

    def finish(self) -> None:
        """Write the summary and say what happened."""
        self._pack()
        for line in lines(self._machine, self._outcomes):
            self._say(line)

    def _again(self, step: Step) -> bool:
        return self._call.force or step.always

    def _add(self, found: Outcome) -> None:
        self._outcomes.append(found)
        if found.state in ("failed", "out of time"):
            self.status = 1

    def _do(self, step: Step, left: float) -> Outcome:
        folder = self._work / step.name
        if self._again(step):
            shutil.rmtree(folder, ignore_errors=True)
        self._say(f"{step.name}: {step.what}")
        began = self._clock()
        deadline = began + min(step.limit, left)
        run = Run(folder, self._work / "shared", deadline, self._needs, self._clock, self._say)
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        error, timed_out = "", False
        try:
            step.do(run)
        except OutOfTimeError:
            timed_out = True
            error = f"not done in {min(step.limit, left):.0f} s; the next call goes on with it"
        except StoppedError as problem:
            error = str(problem)
        except Exception as problem:  # of the step itself: the others are run all the same
            error = f"the step is wrong: {type(problem).__name__}: {problem}"
        content = document(
            step,
            self._machine,
            run,
            when=when,
            seconds=self._clock() - began,
            error=run.readable(error),
            timed_out=timed_out,
        )
        write(self._results, content, run.pictures)
        if timed_out and left < step.limit:
            return Outcome(step.name, "skipped", "not enough time was left to end it")
        return outcome(content)

    def _pack(self) -> None:
        gpu = self._machine.gpu
        there = {} if gpu is None else read_all(self._results)
        results = {name: one for name, one in there.items() if one["key"] == self._machine.key}
        text = markdown(self._machine, self._every(results), results)
        if self._results.is_dir():
            (self._results / "summary.md").write_text(text, encoding="utf-8")
        if self._call.out is not None:
            pack(self._call.out, text, self._results, self._work)

    def _every(self, results: dict[str, dict[str, object]]) -> list[Outcome]:
        """This call's outcomes, and those of earlier calls."""
        mine = {one.step for one in self._outcomes}
        earlier = [content for name, content in results.items() if name not in mine]
        return [*self._outcomes, *(outcome(content, kept=True) for content in earlier)]

"""What a step is, and what it can do while it runs."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .device import ROOT, environment
from .needs import Needs
from .process import TIMED_OUT, Finished, run_command

__all__ = ["LIMIT", "LONGEST", "Check", "Done", "OutOfTimeError", "Run", "Step", "StoppedError"]

LIMIT = 450.0
"""Seconds a step may take unless it says otherwise."""

ENDED = "ended.jsonl"
"""In a step's folder: commands that have ended, a line each."""

LONGEST = 480.0
"""No step may take longer: machines that are lent for minutes run it, too."""


CACHE = "ORT_TENSORRT_CACHE_PATH"
"""Where ONNX Runtime keeps what TensorRT has built, which takes minutes: the commands of a step do
not build the same again."""


@dataclass(frozen=True)
class Step:
    """A row of the table. ``needs``: names in :data:`.needs.NEEDS`, beside a GPU and the package.
    ``do``: called with a :class:`Run`. ``limit``: seconds. ``always``: is repeated by every call,
    for steps that gather what others have left."""

    name: str
    what: str
    needs: tuple[str, ...]
    do: Callable[[Run], None]
    limit: float = LIMIT
    always: bool = False


@dataclass(frozen=True)
class Check:
    """One command of a step. ``message``: what it said where it failed."""

    what: str
    rc: int
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class Done:
    """A command's end. ``content``: the JSON it printed, also where a check failed; else None."""

    passed: bool
    content: Any = None


class OutOfTimeError(Exception):
    """The step's time is over."""


class StoppedError(Exception):
    """The step cannot go on; the message says why."""


@dataclass
class Run:
    """A step under way. ``folder``: its own; a step that ran out of time goes on in it, and what
    had ended is not run again. ``shared``: networks and bundles that several steps use.
    ``deadline``: by ``clock``. ``say`` prints a line."""

    folder: Path
    shared: Path
    deadline: float
    needs: Needs
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = print
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        """For result files of ``bench``."""
        return self.folder / "runs"

    @property
    def pictures(self) -> Path:
        """For pictures that belong to the results."""
        return self.folder / "pictures"

    def tool(self, *arguments: object, libraries: bool = False) -> Done:
        """``anydepth-deploy ARGUMENTS --json``; a failure is a failed check of the step, which goes
        on. ``libraries``: see :func:`.device.wheel_libraries`. Raises :class:`OutOfTimeError`."""
        words = [str(word) for word in arguments]
        command = ["-m", "anydepth_deploy", *words, "--json"]
        return self._python(command, " ".join(words), libraries)

    def script(self, *arguments: object) -> Done:
        """``python ARGUMENTS``: a script of benchmarks/, or ``-m module``. As :meth:`tool`."""
        words = [str(word) for word in arguments]
        return self._python(words, " ".join(words), False)

    def figure(self, kind: str, value: Any) -> None:
        """Add to the figures of one ``kind``, in the order they come."""
        self.figures.setdefault(kind, []).append(value)

    def _python(self, words: list[str], what: str, libraries: bool) -> Done:
        if (before := self._ended.get(what)) is not None:
            check, done = before
            self.checks.append(check)
            self.say(f"  rc {check.rc}, before: {check.what}")
            return done
        left = self.deadline - self.clock()
        if left <= 0:
            raise OutOfTimeError
        log = self.folder / "logs" / f"{len(self.checks):02d}"
        ended = run_command(
            [sys.executable, *words],
            seconds=left,
            cwd=ROOT,
            log=log,
            environment={**environment(libraries), CACHE: str(self.folder / "cache")},
        )
        check = Check(self.readable(what), ended.rc, ended.seconds, self.readable(ended.message))
        self.checks.append(check)
        word = "ok" if ended.rc == 0 else f"rc {ended.rc}"
        self.say(f"  {word}, {ended.seconds:.1f} s: {check.what}")
        if check.message:
            self.say(f"    {check.message}")
        if ended.rc == TIMED_OUT:
            raise OutOfTimeError
        done = Done(ended.rc == 0, _content(ended))
        self._remember(what, check, done)
        return done

    @functools.cached_property
    def _ended(self) -> dict[str, tuple[Check, Done]]:
        """What had ended when time ran out, by command."""
        try:
            text = (self.folder / ENDED).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        entries = [json.loads(line) for line in text.splitlines()]
        return {what: (Check(**check), Done(**done)) for what, check, done in entries}

    def _remember(self, what: str, check: Check, done: Done) -> None:
        with (self.folder / ENDED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([what, asdict(check), asdict(done)]) + "\n")

    def readable(self, text: str) -> str:
        """``text`` without the folders of this machine."""
        for folder, name in ((self.folder, "STEP"), (self.shared, "SHARED"), (ROOT, ".")):
            text = text.replace(str(folder), name)
        return text


def _content(done: Finished) -> Any:
    """JSON on standard output, as a whole or in its last line."""
    text = done.out.strip()
    for part in (text, text.splitlines()[-1] if text else ""):
        try:
            return json.loads(part)
        except ValueError:
            continue
    return None

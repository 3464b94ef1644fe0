"""Threads where nobody says: a container's quota and the processors that are allowed count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cpp_build import Probe, open_probe

from anydepth_deploy.bundle import engines
from anydepth_deploy.bundle.bundle import Bundle
from anydepth_deploy.runtimes.engine import EngineOptions
from anydepth_deploy.runtimes.registry import open_engine
from anydepth_deploy.runtimes.threads import limited_threads, usable_cores

V1, V2 = "4:cpu,cpuacct:/box/inner\n", "0::/box/inner\n"


def machine(root: Path, cores: int, *, threads: int = 1) -> None:
    """``cores`` cores, each of so many processors, numbered as Linux does: cores first."""
    for number in range(cores * threads):
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        siblings = range(number % cores, cores * threads, cores)
        (topology / "thread_siblings_list").write_text(",".join(map(str, siblings)) + "\n")
    (root / "sys/devices/system/cpu/cpufreq").mkdir()
    (root / "proc/self").mkdir(parents=True)


def quota(root: Path, groups: str, folder: str, text: str) -> None:
    (root / "proc/self/cgroup").write_text(f"9:memory:/elsewhere\n{groups}")
    group = root / "sys/fs/cgroup" / folder
    group.mkdir(parents=True, exist_ok=True)
    if groups == V2:
        (group / "cpu.max").write_text(text + "\n")
    else:
        for name, number in zip(("quota", "period"), text.split(), strict=True):
            (group / f"cpu.cfs_{name}_us").write_text(number + "\n")


CASES = {
    # name: cores, threads of a core, control groups, folder, quota, allowed, expected
    "no limit": (4, 1, V2, "box/inner", "max 100000", range(4), None),
    "no limit, version 1": (4, 1, V1, "cpu,cpuacct/box/inner", "-1 100000", range(4), None),
    "no control group": (4, 1, "", "", "", range(4), None),
    "one core": (4, 1, V2, "box/inner", "100000 100000", range(4), 1),
    "one core, version 1": (4, 1, V1, "cpu,cpuacct/box/inner", "100000 100000", range(4), 1),
    "one core, version 1 by its short name": (4, 1, V1, "cpu/box", "50000 50000", range(4), 1),
    "of a group above": (4, 1, V2, "box", "200000 100000", range(4), 2),
    "of the container's own root": (4, 1, V2, "", "300000 100000", range(4), 3),
    "rounded up": (4, 1, V2, "box/inner", "150000 100000", range(4), 2),
    "less than a core": (4, 1, V2, "box/inner", "20000 100000", range(4), 1),
    "more than there is": (4, 1, V2, "box/inner", "900000 100000", range(4), None),
    "all there is": (4, 1, V2, "box/inner", "400000 100000", range(4), None),
    "between cores and processors": (4, 2, V2, "box/inner", "600000 100000", range(8), None),
    "two of four allowed": (4, 1, V2, "box/inner", "max 100000", (1, 3), 2),
    "two of a core allowed": (4, 2, V2, "box/inner", "max 100000", (1, 5), 1),
    "allowed and quota": (8, 1, V2, "box/inner", "300000 100000", range(6), 3),
    "quota and allowed": (8, 1, V2, "box/inner", "700000 100000", range(6), 6),
    "nonsense": (4, 1, V2, "box/inner", "many 100000", range(4), None),
    "nothing allowed that is known": (4, 1, V2, "box/inner", "100000 100000", (), None),
}


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    with open_probe("sanitized") as found:
        yield found


def made(root: Path, name: str) -> tuple[list[int], int | None]:
    cores, threads, groups, folder, text, allowed, expected = CASES[name]
    machine(root, cores, threads=threads)
    if groups:
        quota(root, groups, folder, text)
    return list(allowed), expected


@pytest.mark.parametrize("name", CASES)
def test_threads(name: str, tmp_path: Path) -> None:
    allowed, expected = made(tmp_path, name)
    assert limited_threads(tmp_path, allowed) == expected
    # Where there is no limit, all cores may be kept busy; where nothing is known, those counted.
    every = CASES[name][0] if allowed else os.cpu_count()
    assert usable_cores(tmp_path, allowed) == (every if expected is None else expected)


@pytest.mark.parametrize("name", CASES)
def test_threads_in_cpp(name: str, tmp_path: Path, probe: Probe) -> None:
    allowed, expected = made(tmp_path, name)
    found = probe.call("limited_threads", root=str(tmp_path), allowed=allowed)
    assert found == expected


def test_this_machine(probe: Probe) -> None:
    """What is told of the machine itself is the same in both languages."""
    assert probe.call("limited_threads") == limited_threads()
    assert limited_threads() in (None, *range(1, (os.cpu_count() or 1) + 1))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen here")
def test_one_allowed_processor() -> None:
    """In a process of its own: threads that are there keep what they were allowed."""
    code = (
        "import json, os; from anydepth_deploy.runtimes.threads import limited_threads;"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]);"
        "print(json.dumps([limited_threads(), os.cpu_count()]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    threads, processors = json.loads(run.stdout)
    assert threads == (1 if processors > 1 else None)


@pytest.mark.parametrize(("given", "expected"), [(None, 3), (1, 1), (5, 5)])
def test_sessions_ask(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, given: int | None, expected: int
) -> None:
    """Where no number is given; a number that is given counts."""
    seen: list[int | None] = []

    def spy(runtime: str, path: Path, options: EngineOptions) -> object:
        seen.append(options.threads)
        return open_engine(runtime, path, options)

    monkeypatch.setattr(engines, "limited_threads", lambda: 3)
    monkeypatch.setattr(engines, "open_engine", spy)
    bundle.session(artifact="gated", threads=given)
    assert seen == [expected]

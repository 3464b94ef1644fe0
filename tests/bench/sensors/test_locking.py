"""Clocks are restored whatever happens, or else it is said how to restore them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from fake_nvml import NO_PERMISSION, NOT_SUPPORTED, FakeGpu, FakeNvml

from anydepth_deploy.bench.sensors import locking
from anydepth_deploy.bench.sensors.locking import lock_clocks
from anydepth_deploy.bench.sensors.sysfs import Tree, UnreadableError
from anydepth_deploy.errors import DeviceError, MissingExtraError, UsageError

DEVFREQ = "sys/class/devfreq/17000000.gpu"
ENDS: list[type[BaseException] | None] = [None, ValueError, KeyboardInterrupt, SystemExit]


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> type[BaseException] | None:
    """How the ``with`` block ends."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(locking, "POLL", 0.001)
    monkeypatch.setattr(locking, "SETTLING", 0.003)


def use(
    manager: AbstractContextManager[str],
    end: type[BaseException] | None,
    inside: Callable[[], None] = lambda: None,
) -> str:
    """Enter, call ``inside`` and leave by ``end``; the line about it."""
    lines = []

    def body() -> None:
        with manager as line:
            lines.append(line)
            inside()
            if end is not None:
                raise end("the end")

    if end is None:
        body()
    else:
        with pytest.raises(end, match=r"^the end$"):
            body()
    return lines[0]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.ERROR and record.name == "anydepth_deploy"
    ]


def test_processors_are_not_locked() -> None:
    with pytest.raises(UsageError, match="cpupower frequency-set -g performance"):
        lock_clocks("cpu", 2000)


def test_a_gpu_is_unlocked(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    end: type[BaseException] | None,
) -> None:
    nvml = FakeNvml(FakeGpu(), FakeGpu(uuid="GPU-2")).install(monkeypatch)
    line = use(lock_clocks("cuda", 1005, 1, root=tmp_path), end)
    assert nvml.called("nvmlDeviceSetGpuLockedClocks") == [(1005, 1005)]
    assert nvml.called("nvmlDeviceResetGpuLockedClocks") == [()]
    names = [call[0] for call in nvml.calls if "LockedClocks" in call[0]]
    assert names == ["nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks"]
    assert nvml.gpus[1].sm == 1005  # the second was, the first was not
    assert nvml.gpus[0].sm == 1590
    assert line.startswith("sm clock locked at 1005 MHz, reads 1005 MHz; unlocked afterwards")
    assert errors(caplog) == []


def test_locked_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml = FakeNvml().install(monkeypatch)
    with lock_clocks("cuda", 990, root=tmp_path):
        assert nvml.gpus[0].locked == (990, 990)
    assert nvml.gpus[0].locked is None


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import pytest
from fake_nvml import FakeNvml
from anydepth_deploy.bench.sensors.locking import lock_clocks

patch = pytest.MonkeyPatch()
nvml = FakeNvml().install(patch)
lock = sys.modules["pynvml"].nvmlDeviceSetGpuLockedClocks

def interrupted(*arguments):
    lock(*arguments)
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass

patch.setattr(sys.modules["pynvml"], "nvmlDeviceSetGpuLockedClocks", interrupted)
# A shell that runs this in the background has Python ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with lock_clocks("cuda", 990, root=Path(sys.argv[1])):
        print("not interrupted")
except KeyboardInterrupt:
    print(nvml.called("nvmlDeviceSetGpuLockedClocks"), nvml.gpus[0].locked)
"""


def test_an_interrupt_right_after_locking(tmp_path: Path) -> None:
    """The signal comes before the call of NVML returns; in a process of its own, since what other
    tests have loaded into this one may take signals its own way."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[(990, 990)] None\n"), done.stderr


def test_a_gpu_that_stays_locked_is_told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    end: type[BaseException] | None,
) -> None:
    FakeNvml(failing={"nvmlDeviceResetGpuLockedClocks": 999}).install(monkeypatch)
    use(lock_clocks("cuda", 1005, root=tmp_path), end)
    (text,) = errors(caplog)
    assert "sudo nvidia-smi -i 0 -rgc" in text
    assert "status 999" in text


def test_a_second_interrupt_while_unlocking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nvml = FakeNvml().install(monkeypatch)
    unlock: Callable[..., None] = sys.modules["pynvml"].nvmlDeviceResetGpuLockedClocks
    interrupts = iter([True, False])

    def interrupted(*arguments: Any) -> None:
        if next(interrupts):
            raise KeyboardInterrupt("again")
        unlock(*arguments)

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceResetGpuLockedClocks", interrupted)
    with pytest.raises(KeyboardInterrupt, match="again"), lock_clocks("cuda", 990, root=tmp_path):
        raise KeyboardInterrupt
    assert nvml.gpus[0].locked is None
    assert "sudo nvidia-smi -i 0 -rgc" in errors(caplog)[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (NO_PERMISSION, "needs root: run sudo nvidia-smi -i 0 -lgc 1005,1005"),
        (NOT_SUPPORTED, "before Volta"),
        (999, "does not lock its clocks at 1005 MHz: status 999"),
    ],
)
def test_a_gpu_that_refuses(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    code: int,
    words: str,
) -> None:
    nvml = FakeNvml(failing={"nvmlDeviceSetGpuLockedClocks": code}).install(monkeypatch)
    with pytest.raises(DeviceError, match=words) as caught:
        use(lock_clocks("cuda", 1005, root=tmp_path), None)
    assert "\n" not in str(caught.value)
    assert nvml.called("nvmlDeviceResetGpuLockedClocks") == []  # somebody else's lock stays
    assert errors(caplog) == []


@pytest.mark.parametrize(
    ("mhz", "words"),
    [
        (1000, "no clock of 1000 MHz: the nearest are 990 MHz and 1005 MHz"),
        (2000, "the nearest is 1590 MHz$"),
        (100, "the nearest is 300 MHz$"),
        (0, "positive"),
        (None, "has to be said"),
    ],
)
def test_clocks_that_a_gpu_does_not_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mhz: int | None, words: str
) -> None:
    nvml = FakeNvml().install(monkeypatch)
    with pytest.raises(UsageError, match=words):
        use(lock_clocks("cuda", mhz, root=tmp_path), None)
    assert nvml.called("nvmlDeviceSetGpuLockedClocks") == []


def test_a_gpu_without_a_list_of_clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = {"nvmlDeviceGetSupportedMemoryClocks": NOT_SUPPORTED}
    nvml = FakeNvml(failing=failing).install(monkeypatch)
    use(lock_clocks("cuda", 1234, root=tmp_path), None)
    assert nvml.called("nvmlDeviceSetGpuLockedClocks") == [(1234, 1234)]


def test_what_the_clock_reads_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml = FakeNvml(FakeGpu(sm=300, follows=False)).install(monkeypatch)
    assert ", but reads 300 MHz (idle" in use(lock_clocks("cuda", 1005, root=tmp_path), None)
    nvml.gpus[0].sm = 991  # within a step
    assert ", reads 991 MHz;" in use(lock_clocks("cuda", 1005, root=tmp_path), None)
    nvml.failing["nvmlDeviceGetClockInfo"] = NOT_SUPPORTED
    assert "not read back (status 3)" in use(lock_clocks("cuda", 1005, root=tmp_path), None)


def test_no_driver_and_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeNvml(failing={"nvmlInit": 12}).install(monkeypatch)
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        use(lock_clocks("cuda", 1005, root=tmp_path), None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"anydepth-deploy\[nvidia\]"):
        use(lock_clocks("cuda", 1005, root=tmp_path), None)


class Jetson:
    """A module with ``jetson_clocks`` that sets the GPU's bounds, and a kernel that refuses bounds
    the wrong way round."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.commands = root, list[list[str]]()
        self.uid = 0
        self.failing: set[str] = set()
        self.writes: list[tuple[str, int]] = []
        self.cap = 1 << 40
        (root / DEVFREQ).mkdir(parents=True)
        (root / "proc/device-tree").mkdir(parents=True)
        (root / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
        (root / DEVFREQ / "available_frequencies").write_text(
            "306000000 408000000 510000000 624750000 816000000\n"
        )
        (root / DEVFREQ / "cur_freq").write_text("306000000\n")
        self.put(306000000, 624750000)
        patch.setattr(os, "geteuid", lambda: self.uid)
        write = Tree.write

        def checked(tree: Tree, path: str, text: str) -> None:
            if self.uid != 0:
                raise PermissionError(13, "Permission denied")
            name, value = path.rsplit("/", 1)[1], min(int(text), self.cap)
            self.writes.append((name, value))
            low, high = self.range()
            if (value > high) if name == "min_freq" else (value < low):
                raise OSError(22, "Invalid argument")
            write(tree, path, f"{value}\n")

        patch.setattr(Tree, "write", checked)

    def lock(self, mhz: int | None = None) -> AbstractContextManager[str]:
        return lock_clocks("cuda", mhz, root=self.root, run=self.run)

    def put(self, low: int, high: int) -> None:
        (self.root / DEVFREQ / "min_freq").write_text(f"{low}\n")
        (self.root / DEVFREQ / "max_freq").write_text(f"{high}\n")

    def range(self) -> tuple[int, int]:
        low, high = (
            int((self.root / DEVFREQ / f"{end}_freq").read_text()) for end in ("min", "max")
        )
        return low, high

    def run(self, command: Sequence[str], seconds: float) -> str:
        self.commands.append(list(command))
        what = command[1] if len(command) > 1 else "lock"
        if what in self.failing:
            raise UnreadableError(f"{what} failed")
        if what == "--store":
            assert not Path(command[2]).exists()  # or else it asks
            Path(command[2]).write_text("{} {}".format(*self.range()))
        elif what == "--restore":
            low, high = Path(command[2]).read_text().split()
            self.put(int(low), int(high))
        else:
            self.put(self.range()[1], self.range()[1])
        return ""


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    return Jetson(tmp_path, monkeypatch)


def test_jetson_clocks_are_restored(
    jetson: Jetson, caplog: pytest.LogCaptureFixture, end: type[BaseException] | None
) -> None:
    line = use(jetson.lock(), end)
    assert [command[1:2] for command in jetson.commands] == [["--store"], [], ["--restore"]]
    assert jetson.commands[0][2] == jetson.commands[2][2]
    assert not Path(jetson.commands[0][2]).parent.exists()
    assert line == (
        "all clocks locked by jetson_clocks, the GPU's at 624.75 MHz; restored afterwards"
    )
    assert jetson.range() == (306000000, 624750000)
    assert errors(caplog) == []


def test_jetson_clocks_that_stay_are_told(
    jetson: Jetson, caplog: pytest.LogCaptureFixture, end: type[BaseException] | None
) -> None:
    jetson.failing = {"--restore"}
    use(jetson.lock(), end)
    stored = jetson.commands[0][2]
    assert f"sudo jetson_clocks --restore {stored}" in errors(caplog)[0]
    assert Path(stored).exists()  # or else that would be of no use


def test_jetson_clocks_that_do_not_work(jetson: Jetson) -> None:
    jetson.failing = {"--store"}
    with pytest.raises(DeviceError, match="stay as they are"):
        use(jetson.lock(), None)
    assert len(jetson.commands) == 1
    assert not Path(jetson.commands[0][2]).parent.exists()
    jetson.failing = {"lock"}  # halfway, perhaps
    with pytest.raises(DeviceError, match="cannot be locked: lock failed"):
        use(jetson.lock(), None)
    assert jetson.commands[-1][1] == "--restore"


def test_jetson_clocks_need_root(jetson: Jetson) -> None:
    jetson.uid = 1000
    with pytest.raises(DeviceError, match="needs root"):
        use(jetson.lock(), None)
    assert jetson.commands == []


@pytest.mark.parametrize(
    ("before", "mhz", "writes"),
    [
        (  # inside of the bounds
            (306, 816),
            510,
            [("min_freq", 510), ("max_freq", 510), ("min_freq", 306), ("max_freq", 816)],
        ),
        (  # above: the upper bound has to go first, and the lower one back first
            (306, 408),
            816,
            [("max_freq", 816), ("min_freq", 816), ("min_freq", 306), ("max_freq", 408)],
        ),
        (  # below: the other way round
            (510, 816),
            306,
            [("min_freq", 306), ("max_freq", 306), ("max_freq", 816), ("min_freq", 510)],
        ),
    ],
)
def test_the_clock_of_a_jetsons_gpu_is_put_back(
    jetson: Jetson,
    caplog: pytest.LogCaptureFixture,
    before: tuple[int, int],
    mhz: int,
    writes: list[tuple[str, int]],
    end: type[BaseException] | None,
) -> None:
    low, high = (value * 10**6 for value in before)
    jetson.put(low, high)
    line = use(jetson.lock(mhz), end)
    assert jetson.writes == [(name, value * 10**6) for name, value in writes]
    assert jetson.range() == (low, high)
    assert line == f"gpu clock locked at {mhz} MHz; restored afterwards"
    assert jetson.commands == []
    assert errors(caplog) == []


def test_a_clock_between_two_megahertz(jetson: Jetson) -> None:
    for mhz in (624, 625):
        with jetson.lock(mhz) as line:
            assert jetson.range() == (624750000, 624750000)
        assert "624.75 MHz" in line


def test_clocks_that_a_jetson_does_not_have(jetson: Jetson) -> None:
    words = "no clock of 600 MHz: the nearest are 510 MHz and 624.75 MHz"
    with pytest.raises(UsageError, match=words):
        use(jetson.lock(600), None)
    assert jetson.writes == []


def test_a_power_mode_that_does_not_allow_it(
    jetson: Jetson, caplog: pytest.LogCaptureFixture
) -> None:
    jetson.cap = 700_000_000
    with pytest.raises(DeviceError, match="nvpmodel"):
        use(jetson.lock(816), None)
    assert jetson.range() == (306000000, 624750000)
    assert errors(caplog) == []


def test_setting_the_clock_needs_root(jetson: Jetson, caplog: pytest.LogCaptureFixture) -> None:
    jetson.uid = 1000
    with pytest.raises(DeviceError, match="needs root"):
        use(jetson.lock(510), None)
    assert errors(caplog) == []


def test_a_clock_that_stays_is_told(
    jetson: Jetson,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: type[BaseException] | None,
) -> None:
    manager = jetson.lock(510)

    def broken(tree: Tree, path: str, text: str) -> None:
        raise OSError(5, "Input/output error")

    use(manager, end, lambda: monkeypatch.setattr(Tree, "write", broken))
    (text,) = errors(caplog)
    assert "Input/output error" in text
    assert (
        f"echo 306000000 | sudo tee /{DEVFREQ}/min_freq && "
        f"echo 624750000 | sudo tee /{DEVFREQ}/max_freq"
    ) in text


def test_a_jetson_without_a_gpu_clock(jetson: Jetson, tmp_path: Path) -> None:
    (tmp_path / DEVFREQ / "available_frequencies").unlink()
    with pytest.raises(DeviceError, match="available_frequencies"):
        use(jetson.lock(510), None)
